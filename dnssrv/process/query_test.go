package process

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"casemate/dnssrv"
)

// linked returns a link that is connected to a process.
func linked(t *testing.T, wg *sync.WaitGroup) (l *Link, process net.Conn) {
	s := newTestServer(t, &seen{})
	p, needs := &pipes{make(chan net.Conn)}, make(chan struct{}, 8)
	l = NewLink(LinkConfig{Dial: p.dial, Log: testLog(t), Need: func() { needs <- struct{}{} }})
	wg.Go(func() { l.Run(t.Context()) })
	daemons, process := net.Pipe()
	wg.Go(func() { s.session(t.Context(), process) })
	p.conns <- daemons
	<-needs
	return l, process
}

func TestQueriesCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		l, conn := linked(t, &wg)
		e, err := l.Explain(t.Context(), dnssrv.Inquiry{Name: "a.example", Type: "TXT"})
		if err != nil || e.Rcode != "NOERROR" || !slices.Equal(e.Records, []string{`a.example 1 IN TXT "?[1m"`}) ||
			e.Steps[0].Text != "an odd?text" {
			t.Errorf("got %+v, %v", e, err)
		}
		var mistake *Mistake
		if _, err := l.Explain(t.Context(), dnssrv.Inquiry{Name: "wrong"}); !errors.As(err, &mistake) {
			t.Errorf("a wrong name: %v", err)
		}
		if _, err := l.Explain(t.Context(), dnssrv.Inquiry{Name: "long.example"}); err == nil ||
			!strings.Contains(err.Error(), "too long") {
			t.Errorf("a long explanation: %v", err)
		}
		if list, err := l.Resolvers(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("resolvers: %v, %v", list, err)
		}
		// One that is given up, one that is late, and more than there is room for.
		given, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Explain(given, dnssrv.Inquiry{Name: "slow.example"}); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		var all sync.WaitGroup
		for range maxQueries - 1 {
			all.Go(func() {
				if _, err := l.Explain(t.Context(), dnssrv.Inquiry{Name: "slow.example"}); err == nil {
					t.Error("want an error of a query that takes too long")
				}
			})
		}
		synctest.Wait()
		for range 2 { // refused by the process, which still works on the one that was given up
			if _, err := l.Resolvers(t.Context()); err == nil || !strings.Contains(err.Error(), "try again") {
				t.Errorf("one too many: %v", err)
			}
		}
		all.Wait()
		// The connection ends with queries in flight.
		all.Go(func() {
			_, err := l.Resolvers(t.Context())
			for err == nil {
				_, err = l.Resolvers(t.Context())
			}
		})
		conn.Close()
		all.Wait()
		if _, err := l.Resolvers(t.Context()); err == nil {
			t.Error("want an error without a process")
		}
	})
}

// A process of a version without queries is not asked.
func TestQueriesOfAnOlderProcess(t *testing.T) {
	daemons, process := net.Pipe()
	defer process.Close()
	p, needs := &pipes{make(chan net.Conn, 1)}, make(chan struct{}, 8)
	l := NewLink(LinkConfig{Dial: p.dial, Log: testLog(t), Need: func() { needs <- struct{}{} }})
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wg.Go(func() { l.Run(ctx) })
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			if _, err := process.Read(buf); err != nil {
				return
			}
		}
	})
	p.conns <- daemons
	b, err := encode(kindHello, hello{Protocol: protocol, Version: "old"})
	if err != nil {
		t.Fatal(err)
	}
	process.Write(b)
	<-needs
	if _, err := l.Resolvers(t.Context()); !errors.Is(err, ErrNoQueries) {
		t.Errorf("got %v", err)
	}
}
