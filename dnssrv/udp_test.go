package dnssrv

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

// scriptConn returns batches of questions of the given sizes, as far as there is room; after the last, end. A read that
// must not block gets EAGAIN there.
type scriptConn struct {
	question []byte
	batches  []int
	end      error
	reads    int
	sent     int
	every    time.Duration // duration of a read
}

func (c *scriptConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	c.reads++
	time.Sleep(c.every)
	if len(c.batches) == 0 {
		if flags&dontWait != 0 && c.end == nil {
			return 0, syscall.EAGAIN
		}
		return 0, c.end
	}
	n := min(c.batches[0], len(ms))
	if c.batches[0] -= n; c.batches[0] == 0 {
		c.batches = c.batches[1:]
	}
	for i := range n {
		ms[i].N = copy(ms[i].Buffers[0], c.question)
		ms[i].Addr = &net.UDPAddr{IP: net.IPv4(10, 0, 0, 50), Port: 5000}
	}
	return n, nil
}

func (c *scriptConn) WriteBatch(ms []ipv4.Message, _ int) (int, error) {
	c.sent += len(ms)
	return len(ms), nil
}

func scripted(t *testing.T, c *scriptConn, edit ...func(*Spec)) *worker {
	spec := threeNodes()
	for _, e := range edit {
		e(&spec)
	}
	spec.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	s := New(Config{})
	s.SetTable(table(t, spec))
	if c.question == nil {
		c.question = packet(t, question("registry.k8s.io", dns.TypeA))
	}
	sock, ln := sockets(t, "127.0.0.1:0")
	t.Cleanup(func() { sock.Close(); ln.Close() })
	o := newSender(s, sock, c, newGuard(s.forward.now, lookAround))
	return newWorker(s, c, o, netip.Addr{}, new(sync.WaitGroup))
}

// fullRun is a run of full batches.
func fullRun(n int) (out []int) {
	for range n {
		out = append(out, batch)
	}
	return out
}

// The first worker asks for help when it does not keep up, and continues if no helper listens.
func TestWorkerAsksForHelp(t *testing.T) {
	for _, tt := range []struct {
		name    string
		batches []int
		want    int
	}{
		{"quiet", []int{1, 3, 1}, 0},
		{"full now and then", append(append(fullRun(fullBatches-1), 1), fullRun(fullBatches-1)...), 0},
		{"full all the time", fullRun(fullBatches + 3), 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &scriptConn{batches: slices.Clone(tt.batches), end: net.ErrClosed}
			w := scripted(t, c)
			// A buffer counts the requests that a waiting helper would receive.
			more := make(chan struct{}, 100)
			if err := w.serve(t.Context(), func() error { return nil }, more); !errors.Is(err, net.ErrClosed) {
				t.Errorf("want a closed socket to be an error, got %v", err)
			}
			if len(more) != tt.want {
				t.Errorf("want %d calls for help, got %d", tt.want, len(more))
			}
			sum := 0
			for _, n := range tt.batches {
				sum += n
			}
			if c.sent != sum {
				t.Errorf("want %d answers, got %d", sum, c.sent)
			}
		})
	}
}

// The worker pauses between batches while many questions come, and never after few of them.
func TestWorkerPausesWhenBusy(t *testing.T) {
	row := func(n, size int) (out []int) {
		for range n {
			out = append(out, size)
		}
		return out
	}
	const ms = time.Millisecond
	for _, tt := range []struct {
		name    string
		every   time.Duration // between the reads
		batches []int
		rests   int
	}{
		{"one at a time, 10 000 a second", ms / 10, row(100, 1), 0},
		{"two at once, 200 a second", 10 * ms, row(100, 2), 0},
		{"a hundred hosts after silence", ms / 10, []int{0, 64, 36}, 0},
		{"one at a time, 50 000 a second", ms / 50, row(100, 1), 51},
		{"fifty thousand a second", ms / 5, row(100, 10), 97},
		{"full batches", ms / 5, row(100, batch), 0},
		{"many, none, many again", ms, []int{50, 50, 50, 0, 0, 0, 50}, 4},
		{"many, then few", ms, []int{50, 50, 50, 5, 5, 5}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &scriptConn{batches: slices.Clone(tt.batches), end: net.ErrClosed, every: tt.every}
			w := scripted(t, c)
			synctest.Test(t, func(t *testing.T) {
				rests := 0
				w.rest = func(time.Duration) { rests++ }
				w.serve(t.Context(), func() error { return nil }, nil)
				if rests != tt.rests {
					t.Errorf("want %d pauses, got %d", tt.rests, rests)
				}
			})
		})
	}
}

// A helper answers what waits, and does not wait itself.
func TestWorkerHelps(t *testing.T) {
	for _, tt := range []struct {
		name        string
		batches     []int
		end         error
		reads, sent int
		broken      bool
	}{
		{"nothing is left", nil, nil, 1, 0, false},
		{"a full batch and nothing", fullRun(1), nil, 2, batch, false},
		{"until one is not full", append(fullRun(3), 5, batch), nil, 4, 3*batch + 5, false},
		{"the socket is closed", fullRun(1), net.ErrClosed, 2, batch, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := &scriptConn{batches: slices.Clone(tt.batches), end: tt.end}
			w := scripted(t, c)
			more := make(chan struct{})
			done := make(chan error, 1)
			go func() { done <- w.help(ctx, more) }()
			more <- struct{}{}
			if !tt.broken {
				select {
				case more <- struct{}{}: // it is back
				case err := <-done:
					t.Fatalf("want it to wait, got %v", err)
				}
				cancel()
			}
			if err := <-done; (err != nil) != tt.broken {
				t.Errorf("want an error %v, got %v", tt.broken, err)
			}
			// The second call found nothing, or the rest.
			if c.reads < tt.reads || c.sent < tt.sent {
				t.Errorf("want %d reads and %d answers, got %d and %d", tt.reads, tt.sent, c.reads, c.sent)
			}
		})
	}
}

// While the guard is on, neither an answer nor a question that others must be asked leaves for a client that may not be
// there, before the kernel was asked again.
func TestWorkerHoldsWhatIsForNobody(t *testing.T) {
	client := netip.MustParseAddr("10.0.0.50")
	for _, tt := range []struct {
		name      string
		question  string
		state     presence
		pressed   bool
		held      int
		sent      int
		forwarded uint64
	}{
		{"a neighbour's answer", "registry.k8s.io", present, true, 0, 1, 0},
		{"a neighbour's question for others", "www.slow.example", present, true, 0, 0, 1},
		{"nobody's answer", "registry.k8s.io", gone, true, 1, 0, 0},
		{"nobody's question for others", "www.slow.example", gone, true, 1, 0, 0},
		{"nobody's answer in quiet times", "registry.k8s.io", gone, false, 0, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := &scriptConn{batches: []int{1}, question: packet(t, question(tt.question, dns.TypeA))}
			w := scripted(t, c, func(s *Spec) { *s = forwardTo(*s, "slow.example", newResolver(t, silent)) })
			defer w.forwards.Wait()
			defer cancel()
			w.out.guard.view.Store(&neighbours{state: map[netip.Addr]presence{client: tt.state}})
			if tt.pressed {
				w.out.press()
			}
			if n, err := w.once(ctx, batch); n != 1 || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
			held := len(w.out.guard.queue)
			if st := w.s.Stats(); held != tt.held || c.sent != tt.sent || st.Forwarded != tt.forwarded {
				t.Errorf("held %d, sent %d, forwarded %d", held, c.sent, st.Forwarded)
			}
			if held == 0 {
				return
			}
			// He shows up.
			(<-w.out.guard.queue).send()
			if st := w.s.Stats(); c.sent+int(st.Forwarded) != 1 {
				t.Errorf("sent %d, forwarded %d", c.sent, st.Forwarded)
			}
		})
	}
}
