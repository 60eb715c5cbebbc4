package dnssrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// batch is how many packets one system call takes or gives.
const batch = 64

// dontWait makes a call return at once if the kernel has no room (complete_dontwait.go of x/net heeds it).
const dontWait = unix.MSG_DONTWAIT

// full says whether the kernel had no room for what was to be sent.
func full(err error) bool { return isAny(err, unix.EAGAIN, unix.ENOBUFS) }

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

// batchConn is what ipv4.PacketConn and ipv6.PacketConn have in common: their Message is the same type.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// ServeUDP answers on conn until ctx is done, then waits for what is in flight, closes conn and returns nil. conn must be bound to one
// explicit address, because answers must leave from the address that was asked. Several may run, on several sockets.
func (s *Server) ServeUDP(ctx context.Context, conn *net.UDPConn) error {
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr)
	if local.IP.IsUnspecified() {
		return fmt.Errorf("dns socket %s must be bound to one address: answers would leave from another than was asked", local)
	}
	if err := raiseBuffers(conn); err != nil {
		s.log.Debug("dns buffers stay as they are", "addr", local.String(), "err", err)
	}
	var bc batchConn = ipv4.NewPacketConn(conn)
	if local.IP.To4() == nil {
		bc = ipv6.NewPacketConn(conn)
	}

	out := newSender(s, conn, bc, newGuard(time.Now, lookAround))

	// Workers read while ctx lives; forwards and the reporting of misses may outlast them, but not this call.
	runCtx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(runCtx, func() { conn.SetReadDeadline(past) })
	defer stop()
	var forwards, workers, others sync.WaitGroup
	if s.missFn != nil {
		others.Go(func() { s.reportMisses(runCtx) })
	}
	others.Go(func() { out.run(runCtx) })
	errs := make(chan error, 1)
	// More than one, so that one packs answers while another is in the system call.
	for range min(runtime.GOMAXPROCS(0), 4) {
		workers.Go(func() {
			if err := s.serveUDP(runCtx, bc, out, clientOf(local), &forwards); err != nil {
				select {
				case errs <- fmt.Errorf("dns socket %s: %w", local, err):
				default:
				}
				cancel()
			}
		})
	}
	workers.Wait()
	cancel()
	forwards.Wait()
	others.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// serveUDP is one worker: it owns its buffers, the socket is shared.
func (s *Server) serveUDP(
	ctx context.Context, conn batchConn, o *sender, local netip.Addr, forwards *sync.WaitGroup,
) error {
	in, out := make([]ipv4.Message, batch), make([]ipv4.Message, 0, batch)
	ins, outs := make([]byte, batch*maxQuery), make([]byte, batch*maxUDP)
	for i := range in {
		in[i].Buffers = [][]byte{ins[i*maxQuery : (i+1)*maxQuery]}
	}
	bufs := make([][1][]byte, batch)
	failed, sent := 0, 0
	for {
		n, err := conn.ReadBatch(in, 0)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// The kernel reports another packet's trouble, or is out of memory; a socket that only fails is broken.
			if failed++; failed > 100 {
				return err
			}
			continue
		}
		failed = 0
		t := s.table.Load()
		now := s.limit.now()
		guarded := o.guard.on()
		out = out[:0]
		for i := range in[:n] {
			m := &in[i]
			addr, ok := m.Addr.(*net.UDPAddr)
			if !ok || m.Flags&unix.MSG_TRUNC != 0 || addr.Port == 0 {
				s.stats.dropped.Add(1)
				continue
			}
			client := clientOf(addr)
			buf, query := outs[len(out)*maxUDP:(len(out)+1)*maxUDP], m.Buffers[0][:m.N]
			resp, j := s.handle(t, buf, query, client, true)
			resp, j = s.limited(t, buf, query, resp, j, client, local, now)
			if j != nil {
				resp = s.start(ctx, j, forwards, func(b []byte) { o.late(b, addr, client) }, func() {})
			}
			if resp == nil || guarded && o.hold(resp, addr, client) {
				continue
			}
			k := len(out)
			bufs[k][0] = resp
			out = append(out, ipv4.Message{Buffers: bufs[k][:], Addr: m.Addr})
		}
		o.batch(out)
		if sent += len(out); sent >= sampleEvery {
			sent = 0
			o.sample()
		}
	}
}

// limited applies the rates to an answer, or to a question that must be asked elsewhere.
func (s *Server) limited(
	t *Table, buf, query, resp []byte, j *job, client, local netip.Addr, now ticks,
) ([]byte, *job) {
	if t == nil || t.cost == 0 {
		return resp, j
	}
	v := sendIt
	switch {
	case j != nil:
		v = s.limit.judgeForward(client, local, t.cost, now)
	case resp != nil:
		v = s.limit.judge(resp, client, local, t.cost, now)
	}
	switch v {
	case cutIt:
		return shrink(buf, query), nil
	case dropIt:
		return nil, nil
	}
	return resp, j
}

// start asks elsewhere in a goroutine and sends what comes, or gives SERVFAIL at once if too much is in flight. Either
// way it calls done at the end.
func (s *Server) start(ctx context.Context, j *job, wg *sync.WaitGroup, send func([]byte), done func()) []byte {
	ctx, cancel := context.WithCancelCause(ctx)
	fl := s.forward.begin(j.client, cancel)
	if fl == nil {
		defer done()
		cancel(nil)
		s.stats.forwardShed.Add(1)
		return s.fail(j, errShed.Error())
	}
	s.stats.forwarded.Add(1)
	wg.Go(func() {
		defer done()
		defer cancel(nil)
		b, answered := s.run(ctx, j)
		// Before the answer is sent: a client that does not read must not keep the place.
		s.forward.end(fl, answered)
		if b != nil {
			send(b)
		}
	})
	return nil
}

func clientOf(a *net.UDPAddr) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.IP)
	return ip.Unmap()
}
