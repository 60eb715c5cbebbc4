package dnssrv

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"casemate/cluster/share"
)

// Bounds on TCP (RFC 7766 §6).
const (
	// maxConns bounds the connections at once, of which one client may have its share. Pods' resolvers behind one
	// node's address share that node's, and nodes of one IPv6 network (/64) are one client.
	maxConns = 1024
	// idleTimeout is the time for a whole message, from the previous answer: a client that sends byte by byte gains
	// nothing.
	idleTimeout = 10 * time.Second
	// crowdedTimeout replaces it when half the connections are in use.
	crowdedTimeout = 2 * time.Second
	// writeTimeout bounds the wait for a client that does not read.
	writeTimeout = 5 * time.Second
	// tcpReadBuffer and tcpWriteBuffer bound the kernel's buffers of a connection. Otherwise the kernel holds megabytes
	// for a client that reads quickly at first and then stops.
	tcpReadBuffer, tcpWriteBuffer = 16 << 10, 128 << 10
	// pipelined bounds the questions of one connection at resolvers; at the bound, reading pauses.
	pipelined = 16
	// maxTogether is how many bytes of answers wait to be written together.
	maxTogether = 4 << 10
)

// ServeTCP answers on ln until ctx is done, then closes ln and all connections, waits for them and returns nil. Several
// calls may run.
func (s *Server) ServeTCP(ctx context.Context, ln net.Listener) error {
	runCtx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(runCtx, func() { ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer ln.Close()
	if s.reports() {
		wg.Go(func() { s.reportMisses(runCtx) })
	}
	if s.seen != nil {
		wg.Go(func() { s.seen.run(runCtx) })
	}
	wait, failed := time.Millisecond, 0
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, or a client that closed before the accept. Logged at the first, second, fourth,
			// eighth … failure.
			if failed++; failed&(failed-1) == 0 {
				s.log.Warn("dns connection not accepted", "addr", ln.Addr().String(), "err", err, "failed", failed)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = time.Millisecond
		client := share.AddrOf(c.RemoteAddr())
		if t := s.table.Load(); t != nil && !t.allowed(client) {
			// Closed rather than refused in DNS: strangers get no slots.
			s.stats.refused.Add(1)
			c.Close()
			continue
		}
		if t, ok := c.(*net.TCPConn); ok {
			t.SetReadBuffer(tcpReadBuffer)
			t.SetWriteBuffer(tcpWriteBuffer)
		}
		connCtx, closeConn := context.WithCancel(runCtx)
		p := s.tcp.accept(client, closeConn)
		if p == nil {
			closeConn()
			c.Close()
			continue
		}
		s.stats.openTCP.Add(1)
		wg.Go(func() {
			defer s.stats.openTCP.Add(-1)
			defer p.Free()
			defer closeConn()
			s.serveConn(connCtx, c, p)
		})
	}
}

// serveConn answers one connection's questions: those from the table in order, forwarded ones as their answers arrive
// (RFC 7766 §6.2.1.1).
func (s *Server) serveConn(ctx context.Context, c net.Conn, p *conn) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var forwards sync.WaitGroup
	defer forwards.Wait()

	var writing sync.Mutex
	write := func(b []byte) {
		writing.Lock()
		defer writing.Unlock()
		s.limit.prove(p.client, s.limit.now()) // first: its next question over UDP may come at once
		c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.Write(b); err != nil {
			if t, ok := c.(*net.TCPConn); ok {
				t.SetLinger(0) // the kernel need not retain data that the client does not read
			}
			c.Close()
			return
		}
		p.Served()
	}
	// Length and message in one write: some clients read them as one segment (RFC 7766 §8).
	framed := func(to, b []byte) []byte {
		return append(binary.BigEndian.AppendUint16(to, uint16(len(b))), b...)
	}
	send := func(b []byte) { write(framed(make([]byte, 0, 2+len(b)), b)) }
	// Answers to questions that arrived together are sent together.
	var together []byte
	answers := 0
	flush := func() {
		if answers == 0 {
			return
		}
		write(together)
		if together, answers = together[:0], 0; cap(together) > 2*maxTogether {
			together = nil // one answer may have 64 KiB, which an idle connection need not retain
		}
	}
	slots := make(chan struct{}, pipelined)
	r := bufio.NewReaderSize(c, 512)
	in, out := make([]byte, 0, 512), make([]byte, maxUDP)
	// ready makes sure that no answer is delayed while n bytes are awaited; a whole message has one deadline.
	waits := false
	ready := func(n int) {
		if r.Buffered() >= n {
			return
		}
		flush()
		if waits {
			return
		}
		waits = true
		c.SetReadDeadline(time.Now().Add(s.tcp.patience()))
	}
	for {
		waits = false
		var length [2]byte
		ready(len(length))
		if _, err := io.ReadFull(r, length[:]); err != nil {
			break
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n < headerLen || n > maxQuery {
			// No question is that short or long: this is not DNS.
			s.stats.dropped.Add(1)
			break
		}
		if cap(in) < n {
			in = make([]byte, 0, n)
		}
		ready(n)
		if _, err := io.ReadFull(r, in[:n]); err != nil {
			break
		}
		resp, j := s.handle(s.table.Load(), out, in[:n], p.client, false)
		if j != nil {
			flush() // the slow path may take its time
			p.Begin()
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if resp = s.start(ctx, j, &forwards, send, func() { <-slots; p.End(true) }); resp != nil {
				send(resp)
			}
			continue
		}
		if resp == nil {
			continue
		}
		together = framed(together, resp)
		if answers++; len(together) >= maxTogether {
			flush()
		}
	}
	flush()
	// A client may close its side after its last question and still read: forwards end first.
	forwards.Wait()
}
