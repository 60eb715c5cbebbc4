package audit

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/appliance/audit/proof"
	"casemate/appliance/audit/syslog"
	"casemate/cluster/clustertest"
)

// receiver is a syslog receiver that may die and come back at its address.
type receiver struct {
	t    *testing.T
	addr string

	mu    sync.Mutex
	l     net.Listener
	conns []net.Conn
	got   map[uint64]int // events by number, and how often
	bad   []string
	wg    sync.WaitGroup
}

func newReceiver(t *testing.T) *receiver {
	// At an address of its own: at 127.0.0.1 somebody's connection may take the port while nobody listens.
	r := &receiver{t: t, addr: "127.54.0.1:0", got: map[uint64]int{}}
	r.start()
	t.Cleanup(r.die)
	return r
}

func (r *receiver) start() {
	r.t.Helper()
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.l, r.addr = l, l.Addr().String()
	r.mu.Unlock()
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.conns = append(r.conns, c)
			r.mu.Unlock()
			r.wg.Go(func() { r.read(c) })
		}
	})
}

func (r *receiver) die() {
	r.mu.Lock()
	r.l.Close()
	for _, c := range r.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

// read reads messages framed by octet counting (RFC 6587, section 3.4.1).
func (r *receiver) read(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		text, err := in.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(text, " "))
		msg := make([]byte, n)
		if err == nil {
			if _, err := io.ReadFull(in, msg); err != nil {
				return
			}
		}
		r.message(string(msg), err)
	}
}

func (r *receiver) message(msg string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := strings.SplitN(msg, " ", 8)
	if err != nil || len(f) < 8 || f[0] != "<110>1" && f[0] != "<108>1" || f[3] != "casemate" {
		r.bad = append(r.bad, fmt.Sprintf("%q: %v", msg, err))
		return
	}
	e, err := proof.Parse([]byte(f[7]))
	if at, terr := time.Parse(time.RFC3339, f[1]); err != nil || terr != nil ||
		!at.Equal(e.Time.Truncate(time.Microsecond)) || f[2] != word(e.Node) || f[5] != e.Verb {
		r.bad = append(r.bad, fmt.Sprintf("%q: %v, %v", msg, err, terr))
	}
	r.got[e.N]++
}

func word(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// missing counts the events below n that did not arrive.
func (r *receiver) missing(n uint64) (list []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		if r.got[i] == 0 {
			list = append(list, i)
		}
	}
	return list
}

// TestForwardingLosesNothing: a receiver that dies while events are sent gets all of them when it is back, those from
// files too; its loss is one event.
func TestForwardingLosesNothing(t *testing.T) {
	n := open(t)
	n.record(t, 2500)
	if err := n.log.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := newReceiver(t)
	target, err := syslog.ParseTarget("tcp://" + r.addr)
	if err != nil {
		t.Fatal(err)
	}
	n.log.cfg.Now = time.Now
	var f *Forwarder
	var run sync.WaitGroup
	forward := func(settle time.Duration) (stop func()) {
		f = &Forwarder{Log: n.log, Target: func() (syslog.Target, bool) { return target, true },
			Roots: func() *x509.CertPool { return nil }, look: 5 * time.Millisecond, retry: 5 * time.Millisecond,
			settle: settle, save: time.Nanosecond}
		ctx, cancel := context.WithCancel(t.Context())
		run.Go(func() { f.Run(ctx) })
		return func() { cancel(); run.Wait() }
	}
	// Nothing that was sent to a receiver which dies within the hour counts as received: what it had not read is lost.
	stop := forward(time.Hour)
	arrives := func() {
		t.Helper()
		size := n.EventLog().Tree().Size()
		clustertest.Wait(t, func() error {
			if left := r.missing(size); len(left) > 0 {
				return fmt.Errorf("%d events have not arrived, the first is %d; %+v", len(left), left[0], f.Status())
			}
			return nil
		})
	}
	arrives()
	for range 3 {
		n.record(t, 100)
		r.die()
		n.record(t, 100)
		clustertest.Wait(t, func() error {
			p, _, err := f.read()
			if err != nil || !p.Lost || f.Status().Error == "" {
				return fmt.Errorf("the loss is not known: %+v, %v", p, err)
			}
			return nil
		})
		n.record(t, 100)
		r.start()
		arrives()
	}
	stop()
	stop = forward(time.Nanosecond) // from now on it lives
	defer func() { stop() }()
	clustertest.Wait(t, func() error {
		if s := f.Status(); s.Behind != 0 || s.Error != "" || !s.Sends || s.Target != r.addr {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	p, err := n.log.List(t.Context(), Filter{Verb: "audit.forward", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, e := range p.Events {
		if e.Outcome != "" {
			lost++
		}
	}
	if lost != 3 || len(p.Events) != 7 {
		t.Errorf("the receiver was lost %d times, in %d events", lost, len(p.Events))
	}
	if r.bad != nil {
		t.Errorf("wrong messages: %s", r.bad[0])
	}
}
