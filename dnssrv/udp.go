package dnssrv

import (
	"bytes"
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

const (
	// batch is the largest number of packets in one system call. After silence it is few, because preparing the call
	// costs for each packet that may arrive.
	batch, few = 64, 4
	// maxWorkers bounds the workers of one socket. All but the first help after fullBatches full batches in a row.
	maxWorkers, fullBatches = 4, 32
	// From busyAt questions a second on, measured over busyFor, the worker pauses between batches. Otherwise it would
	// be woken for each question, and a wake-up costs more than an answer.
	busyAt, busyFor, pause = 20_000, time.Millisecond, 100 * time.Microsecond
	// yieldEvery is less than the ten milliseconds after which Go's scheduler takes the processor from a goroutine that
	// has not yielded, even from one that waits in the kernel, and then every 20 µs.
	yieldEvery = 8 * time.Millisecond
)

// dontWait makes a call return at once if the kernel has no room (complete_dontwait.go of x/net honours it).
const dontWait = unix.MSG_DONTWAIT

// full reports whether the kernel had no room for a packet.
func full(err error) bool { return isAny(err, unix.EAGAIN, unix.ENOBUFS) }

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

// batchConn is what ipv4.PacketConn and ipv6.PacketConn have in common: their Message is the same type.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// ServeUDP answers on conn until ctx is done, then waits for what is in flight and returns nil. It detaches the socket
// from conn, which is closed afterwards. conn must be bound to one explicit address, because answers must leave from
// the address that was asked. Several calls may run, on several sockets.
func (s *Server) ServeUDP(ctx context.Context, conn *net.UDPConn) error {
	local := conn.LocalAddr().(*net.UDPAddr)
	if local.IP.IsUnspecified() {
		conn.Close()
		return fmt.Errorf("dns socket %s must be bound to one address: answers would leave from another than was asked",
			local)
	}
	if err := raiseBuffers(conn); err != nil {
		s.log.Debug("dns buffers stay as they are", "addr", local.String(), "err", err)
	}
	sock, err := takeSocket(conn)
	if err != nil {
		conn.Close()
		return fmt.Errorf("dns socket %s: %w", local, err)
	}
	defer sock.close()
	var bc batchConn = ipv4.NewPacketConn(sock)
	if local.IP.To4() == nil {
		bc = ipv6.NewPacketConn(sock)
	}

	out := newSender(s, sock, bc, newGuard(time.Now, lookAround))

	// Workers read until ctx is done; forwards and the reporting of misses may outlast them, but not this call.
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(runCtx, sock.wake)
	defer stop()
	var forwards, workers, others sync.WaitGroup
	if s.reports() {
		others.Go(func() { s.reportMisses(runCtx) })
	}
	if s.seen != nil {
		others.Go(func() { s.seen.run(runCtx) })
	}
	others.Go(func() { out.run(runCtx) })
	errs := make(chan error, 1)
	serve := func(loop func(w *worker) error) {
		w := newWorker(s, bc, out, clientOf(local), &forwards)
		workers.Go(func() {
			if err := loop(w); err != nil {
				select {
				case errs <- fmt.Errorf("dns socket %s: %w", local, err):
				default:
				}
				cancel()
			}
		})
	}
	// One worker reads: each further waiting worker costs a thread's wake-up per batch, a fifth of all CPU. Others help
	// when the first does not keep up.
	more := make(chan struct{})
	serve(func(w *worker) error { return w.serve(runCtx, sock.wait, more) })
	for range min(runtime.GOMAXPROCS(0), maxWorkers) - 1 {
		serve(func(w *worker) error { return w.help(runCtx, more) })
	}
	workers.Wait()
	cancel()
	others.Wait() // first: the guard may have held a question that it forwards now
	forwards.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// worker reads questions and sends answers. It owns its buffers; the socket is shared.
type worker struct {
	s        *Server
	conn     batchConn
	out      *sender
	local    netip.Addr
	forwards *sync.WaitGroup

	rest func(time.Duration) // tests replace it

	in, ready []ipv4.Message
	answers   []byte           // for the answers of a batch
	bufs      [batch][1][]byte // for the messages of ready
	failed    int              // failed reads in a row
	sent      int              // since the last sample
}

func newWorker(s *Server, conn batchConn, out *sender, local netip.Addr, forwards *sync.WaitGroup) *worker {
	w := &worker{
		s: s, conn: conn, out: out, local: local, forwards: forwards, rest: rest,
		in: make([]ipv4.Message, batch), ready: make([]ipv4.Message, 0, batch), answers: make([]byte, batch*maxUDP),
	}
	questions := make([]byte, batch*maxQuery)
	for i := range w.in {
		w.in[i].Buffers = [][]byte{questions[i*maxQuery : (i+1)*maxQuery]}
	}
	return w
}

// serve answers until ctx is done, waiting for questions with wait. When it does not keep up, it signals more, if a
// worker listens there.
func (w *worker) serve(ctx context.Context, wait func() error, more chan<- struct{}) error {
	yielded := time.Now()
	load := pace{since: yielded}
	for row, n := 0, 0; ; {
		now := time.Now()
		if now.Sub(yielded) >= yieldEvery {
			runtime.Gosched()
			yielded = now
		}
		busy := load.busy(now, n)
		// After a full batch another is likely, after a single packet it is not.
		room := batch
		switch {
		case busy && n > 0 && n < batch:
			w.rest(pause)
		case n <= 1:
			room = few
			if err := wait(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		var err error
		n, err = w.once(ctx, room)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if row++; n < batch {
			row = 0
		}
		if row >= fullBatches {
			select {
			case more <- struct{}{}:
			default:
			}
		}
	}
}

// pace measures the rate of questions.
type pace struct {
	since time.Time
	n     int  // questions since then
	is    bool // result of the last measurement
}

// busy adds n questions, read by now, and reports whether the last measurement reached busyAt. A few questions at once
// after silence do not count.
func (p *pace) busy(now time.Time, n int) bool {
	p.n += n
	if took := now.Sub(p.since); took >= busyFor {
		p.is = int64(p.n)*int64(time.Second) >= busyAt*int64(took)
		p.since, p.n = now, 0
	}
	return p.is
}

// help answers waiting questions whenever more signals.
func (w *worker) help(ctx context.Context, more <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		}
		for n := batch; n == batch && ctx.Err() == nil; {
			var err error
			if n, err = w.once(ctx, batch); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// once answers one batch of questions, at most room of those waiting. An error means that the socket is broken.
func (w *worker) once(ctx context.Context, room int) (n int, err error) {
	n, err = w.conn.ReadBatch(w.in[:room], dontWait)
	switch {
	case err == nil:
		w.failed = 0
	case ctx.Err() != nil, full(err):
		return 0, nil
	case errors.Is(err, net.ErrClosed):
		return 0, err
	default:
		// The kernel reports an error of another packet, or is out of memory; a socket whose every read fails is
		// broken.
		if w.failed++; w.failed > 100 {
			return 0, err
		}
		return 0, nil
	}
	s, o := w.s, w.out
	t := s.table.Load()
	now := s.limit.now()
	guarded := o.guard.on()
	w.ready = w.ready[:0]
	for i := range w.in[:n] {
		m := &w.in[i]
		addr, ok := m.Addr.(*net.UDPAddr)
		if !ok || m.Flags&unix.MSG_TRUNC != 0 || addr.Port == 0 {
			s.stats.dropped.Add(1)
			continue
		}
		client, k := clientOf(addr), len(w.ready)
		buf, query := w.answers[k*maxUDP:(k+1)*maxUDP], m.Buffers[0][:m.N]
		resp, j := s.handle(t, buf, query, client, true)
		resp, j = s.limited(t, buf, query, resp, j, client, w.local, now)
		if guarded && (resp != nil || j != nil) && o.guard.doubts(client) {
			o.hold(deferred{client, w.later(ctx, bytes.Clone(resp), j, addr, client)})
			continue
		}
		if j != nil {
			resp = s.start(ctx, j, w.forwards, func(b []byte) { o.late(b, addr, client) }, func() {})
		}
		if resp == nil {
			continue
		}
		w.bufs[k][0] = resp
		w.ready = append(w.ready, ipv4.Message{Buffers: w.bufs[k][:], Addr: addr})
	}
	o.batch(w.ready)
	if w.sent += len(w.ready); w.sent >= sampleEvery {
		w.sent = 0
		o.sample()
	}
	return n, nil
}

// later handles an answer, or a question to be forwarded, that the guard held.
func (w *worker) later(ctx context.Context, resp []byte, j *job, addr net.Addr, client netip.Addr) func() {
	return func() {
		if j != nil {
			resp = w.s.start(ctx, j, w.forwards, func(b []byte) { w.out.late(b, addr, client) }, func() {})
		}
		if resp != nil {
			w.out.one(resp, addr)
		}
	}
}

// limited applies the rates to an answer, or to a question to be forwarded.
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

// start forwards a question in a goroutine and sends the answer, or sends SERVFAIL at once if too many are in flight.
// In both cases it calls done at the end.
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
		// Before the answer is sent: a client that does not read must not retain the slot.
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
