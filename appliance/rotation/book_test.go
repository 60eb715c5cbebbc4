package rotation

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

// world is two nodes on one tree, in an overlap.
type world struct {
	t       *testing.T
	tree    *treetest.Mem
	now     time.Time
	since   time.Time
	overlap bool
}

func newWorld(t *testing.T) *world {
	begin := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	return &world{t: t, tree: treetest.New(t), now: begin, since: begin, overlap: true}
}

func (w *world) open(node string) *Book {
	return Open(Config{
		Node: node, Tree: w.tree, Now: func() time.Time { return w.now },
		Overlap: func() (time.Time, bool) { return w.since, w.overlap },
	})
}

func (w *world) publish(books ...*Book) {
	w.t.Helper()
	for _, b := range books {
		if err := b.publish(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) progress(b *Book) Progress {
	w.t.Helper()
	p, err := b.Progress()
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// A client may use one node and fetch the root from another: every node reports the same.
func TestAllNodesCount(t *testing.T) {
	w := newWorld(t)
	a, b := w.open("n1"), w.open("n2")
	a.Seen(ip("10.0.0.31"))
	a.Seen(ip("::ffff:10.0.0.32"))
	b.Seen(ip("10.0.0.33"))
	b.Seen(ip("127.0.0.1"))
	b.Seen(netip.Addr{})
	b.Fetched(ip("10.0.0.31"))
	w.publish(a, b)
	for _, book := range []*Book{a, b} {
		p := w.progress(book)
		if p.Fetched != 1 || !slices.Equal(p.Waiting, []netip.Addr{ip("10.0.0.32"), ip("10.0.0.33")}) {
			t.Errorf("got %+v", p)
		}
	}
	// A restart of a node forgets nothing that was published.
	if p := w.progress(w.open("n2")); p.Fetched != 1 || len(p.Waiting) != 2 {
		t.Errorf("after a restart: %+v", p)
	}
	// A client that was not seen for a day does not delay the end.
	w.now = w.now.Add(Lately + time.Hour)
	a.Seen(ip("10.0.0.32"))
	if p := w.progress(a); !slices.Equal(p.Waiting, []netip.Addr{ip("10.0.0.32")}) {
		t.Errorf("a day later: %+v", p)
	}
}

// Nothing is recorded or written outside of an overlap, and a new one begins with nothing.
func TestOutsideOfAnOverlap(t *testing.T) {
	w := newWorld(t)
	w.overlap = false
	a := w.open("n1")
	a.Seen(ip("10.0.0.31"))
	a.Fetched(ip("10.0.0.31"))
	w.publish(a)
	if len(a.clients) != 0 {
		t.Errorf("recorded: %v", a.clients)
	}
	w.overlap = true
	a.Fetched(ip("10.0.0.32")) // before Run has looked
	a.Seen(ip("10.0.0.31"))
	w.publish(a)
	if p := w.progress(a); p.Fetched != 1 || len(p.Waiting) != 1 {
		t.Errorf("got %+v", p)
	}
	w.overlap = false
	w.publish(a)
	if _, err := w.tree.ReadFile("n1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is left after the end: %v", err)
	}
	w.overlap, w.since = true, w.since.Add(time.Hour)
	if p := w.progress(a); p.Fetched != 0 || len(p.Waiting) != 0 {
		t.Errorf("another overlap begins with %+v", p)
	}
}

func TestBounded(t *testing.T) {
	w := newWorld(t)
	a := w.open("n1")
	at := ip("10.0.0.0")
	for range MaxClients + 50 {
		at = at.Next()
		a.Seen(at)
	}
	if p := w.progress(a); len(p.Waiting) != MaxClients || !p.More {
		t.Errorf("%d clients, more: %v", len(p.Waiting), p.More)
	}
	// It is written once an hour at most for clients that are known.
	w.publish(a)
	a.Seen(ip("10.0.0.1"))
	if a.changed {
		t.Error("the same hour is written twice")
	}
}

// A failed write is repeated.
func TestPublishAgain(t *testing.T) {
	w := newWorld(t)
	a := w.open("n1")
	a.Seen(ip("10.0.0.31"))
	broken := errors.New("injected")
	w.tree.Fail = func(string) (error, bool) { return broken, false }
	if err := a.publish(t.Context()); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	w.tree.Fail = nil
	w.publish(a)
	if p := w.progress(w.open("n2")); len(p.Waiting) != 1 {
		t.Errorf("got %+v", p)
	}
}

func TestReady(t *testing.T) {
	since := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	var many []netip.Addr
	for i := range 12 {
		many = append(many, ip(fmt.Sprintf("10.0.0.%d", i+1)))
	}
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		what    string
		p       Progress
		after   time.Duration
		overlap time.Duration
		says    []string // none: it may be finished
	}{
		{"at once", Progress{}, time.Second, week, []string{"until 2026-05-11T12:00:00Z", "pki.overlap",
			"--finish --yes"}},
		{"a second too early", Progress{}, week - time.Second, week, []string{"until 2026-05-11T12:00:00Z"}},
		{"in time", Progress{Fetched: 3}, week, week, nil},
		{"no overlap wanted", Progress{}, 0, 0, nil},
		{"one is late", Progress{Waiting: many[:1]}, week, week,
			[]string{"1 client that was here within 24 hours has not", "10.0.0.1;", "casemate enroll"}},
		{"many are late", Progress{Waiting: many}, week, week, []string{"12 clients that were here", "10.0.0.10, …;"}},
		{"more than were recorded", Progress{Waiting: many[:1], More: true}, week, week, []string{"10.0.0.1, …;"}},
		{"both", Progress{Waiting: many[:2]}, time.Hour, week, []string{"2026-05-11", "10.0.0.1, 10.0.0.2;"}},
	} {
		err := c.p.Ready(since, since.Add(c.after), c.overlap)
		if (err == nil) != (c.says == nil) {
			t.Errorf("%s: got %v", c.what, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) || !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: got %v, want %q", c.what, err, s)
			}
		}
		if s := c.p.Sentence(since, since.Add(c.after), c.overlap); strings.Contains(s, " from ") != (c.says != nil) {
			t.Errorf("%s: status says %s", c.what, s)
		}
	}
}
