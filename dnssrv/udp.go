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
	if err := raiseBuffer(conn); err != nil {
		s.log.Debug("dns receive buffer stays as it is", "addr", local.String(), "err", err)
	}
	var bc batchConn = ipv4.NewPacketConn(conn)
	if local.IP.To4() == nil {
		bc = ipv6.NewPacketConn(conn)
	}

	// Workers read while ctx lives; forwards and the reporting of misses may outlast them, but not this call.
	runCtx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(runCtx, func() { conn.SetReadDeadline(past) })
	defer stop()
	var forwards, workers, reporter sync.WaitGroup
	if s.missFn != nil {
		reporter.Go(func() { s.reportMisses(runCtx) })
	}
	errs := make(chan error, 1)
	// More than one, so that one packs answers while another is in the system call.
	for range min(runtime.GOMAXPROCS(0), 4) {
		workers.Go(func() {
			if err := s.serveUDP(runCtx, conn, bc, &forwards); err != nil {
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
	reporter.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// serveUDP is one worker: it owns its buffers, the socket is shared.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn, bc batchConn, forwards *sync.WaitGroup) error {
	in, out := make([]ipv4.Message, batch), make([]ipv4.Message, 0, batch)
	ins, outs := make([]byte, batch*maxQuery), make([]byte, batch*maxUDP)
	for i := range in {
		in[i].Buffers = [][]byte{ins[i*maxQuery : (i+1)*maxQuery]}
	}
	bufs := make([][1][]byte, batch)
	failed := 0
	for {
		n, err := bc.ReadBatch(in, 0)
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
		out = out[:0]
		for i := range in[:n] {
			m := &in[i]
			addr, ok := m.Addr.(*net.UDPAddr)
			if !ok || m.Flags&unix.MSG_TRUNC != 0 || addr.Port == 0 {
				s.stats.dropped.Add(1)
				continue
			}
			client := clientOf(addr)
			buf := outs[len(out)*maxUDP : (len(out)+1)*maxUDP]
			resp, j := s.handle(t, buf, m.Buffers[0][:m.N], client, true)
			if j != nil {
				resp = s.start(ctx, j, forwards, func(b []byte) {
					if _, err := conn.WriteToUDP(b, addr); err != nil {
						s.stats.dropped.Add(1)
					}
				}, func() {})
			}
			if resp == nil {
				continue
			}
			k := len(out)
			bufs[k][0] = resp
			out = append(out, ipv4.Message{Buffers: bufs[k][:], Addr: m.Addr})
		}
		for rest := out; len(rest) > 0; {
			n, err := bc.WriteBatch(rest, 0)
			if err != nil || n <= 0 {
				if ctx.Err() != nil {
					return nil
				}
				// The first of rest cannot be sent (no route, filtered); the others can.
				s.stats.dropped.Add(1)
				n = 1
			}
			rest = rest[n:]
		}
	}
}

// start asks elsewhere in a goroutine and sends what comes, or gives SERVFAIL at once if too much is in flight. Either way it calls done at the end.
func (s *Server) start(ctx context.Context, j *job, wg *sync.WaitGroup, send func([]byte), done func()) []byte {
	if !s.forward.acquire(j.client) {
		defer done()
		s.stats.forwardShed.Add(1)
		return s.fail(j, "too many questions are being forwarded")
	}
	s.stats.forwarded.Add(1)
	wg.Go(func() {
		defer done()
		defer s.forward.release(j.client)
		if b := s.run(ctx, j); b != nil {
			send(b)
		}
	})
	return nil
}

func clientOf(a *net.UDPAddr) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.IP)
	return ip.Unmap()
}
