package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"casemate/cluster/state"
	"casemate/cluster/tree"
)

type told struct{ Actor, How, From, Node, Verb, Object, Old, New, Outcome string }

// eventsOf returns the events in memory, without the first one.
func eventsOf(t *testing.T, c *Cluster) (list []told) {
	t.Helper()
	for _, line := range c.EventLog().Lines(1) {
		var e told
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// TestChangesAreEvents: a batch is one event, also if it is too large for one entry; bookkeeping and steps that show
// nothing are none; what is refused says so.
func TestChangesAreEvents(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.entrySize = 4096
	cfg.Describe = func(name string, removed bool) (verb, object string) {
		dir, object, _ := strings.Cut(name, "/")
		switch {
		case dir == "book":
			return "", ""
		case removed:
			return dir + ".remove", object
		}
		return dir + ".set", object
	}
	c := start(t, cfg)
	n := c.Tree()
	node := told{Actor: "node/n1", How: "node", Node: "n1"}
	alice := tree.WithActor(t.Context(), tree.Actor{Name: "alice", How: "password", From: "10.0.0.1"})
	by := func(e told) told { e.Actor, e.How, e.From, e.Node = "alice", "password", "10.0.0.1", "n1"; return e }
	w, err := n.CreateBlob("")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("bytes"))
	digest, err := w.Commit(alice, "")
	if err != nil {
		t.Fatal(err)
	}
	put := func(ctx context.Context, fn func(Batch)) error {
		return n.Update(ctx, func(b Batch) error { fn(b); return nil })
	}
	large := func(b Batch) {
		for i := range 100 {
			b.Put(fmt.Sprintf("user/%d", i), make([]byte, 200))
		}
	}
	for i, tt := range []struct {
		ctx  context.Context
		fn   func(Batch)
		want told // no verb: no event
		fail bool
	}{
		{t.Context(), func(b Batch) { b.Put("book/1", nil) }, told{}, false},
		{alice, func(b Batch) { b.LinkWeak("layer/1", digest) }, told{}, false},
		{alice, func(b Batch) { b.Expect("book/2", 0) }, told{}, false},
		{alice, func(b Batch) { b.Put("book/1", nil); b.Put("user/bob", nil) },
			told{Verb: "user.set", Object: "bob"}, false},
		{alice, func(b Batch) { b.Link("file/x", digest) }, told{Verb: "file.set", Object: "x", New: digest}, false},
		{alice, func(b Batch) { b.Remove("file/x"); b.Put("user/eve", nil) },
			told{Verb: "user.set", Object: "eve and 1 more"}, false},
		{alice, func(b Batch) { b.Remove("user/eve") }, told{Verb: "user.remove", Object: "eve"}, false},
		{alice, func(b Batch) { As(b, "base").Link("file/x", digest); As(b, "base").Link("file/y", digest) },
			told{Verb: "import.publish", Object: "base"}, false},
		{tree.WithEvent(alice, tree.Event{Verb: "user.password", Object: "bob\n\xff" + strings.Repeat("é", 1000)}),
			func(b Batch) { b.Put("user/bob", nil) },
			told{Verb: "user.password", Object: "bob??" + strings.Repeat("é", 508) + "…"}, false},
		{alice, large, told{Verb: "user.set", Object: "0 and 99 more"}, false},
		{alice, func(b Batch) { b.Put("user/0/x", nil) }, told{Verb: "user.set", Object: "0/x",
			Outcome: "refused: a file is in place of a directory"}, true},
		{alice, func(b Batch) { large(b); b.Expect("user/1", 1) }, told{Verb: "user.set", Object: "0 and 99 more",
			Outcome: "refused: it was changed meanwhile"}, true},
	} {
		before := len(eventsOf(t, c))
		if err := put(tt.ctx, tt.fn); (err != nil) != tt.fail {
			t.Fatalf("%d: %v", i, err)
		}
		got := eventsOf(t, c)[before:]
		if tt.want.Verb == "" {
			if len(got) != 0 {
				t.Errorf("%d: %+v", i, got)
			}
			continue
		}
		if len(got) != 1 || got[0] != by(tt.want) {
			t.Errorf("%d: got %+v, want %+v", i, got, by(tt.want))
		}
	}
	before := len(eventsOf(t, c))
	if err := n.DropClaims(alice, "base"); err != nil {
		t.Fatal(err)
	}
	if err := c.Record(t.Context(), []Occurrence{{Event: tree.Event{Verb: "login", Outcome: "no"}}}); err != nil {
		t.Fatal(err)
	}
	node.Verb, node.Outcome = "login", "no"
	if got := eventsOf(t, c)[before:]; len(got) != 2 || got[0] != by(told{Verb: "import.remove", Object: "base"}) ||
		got[1] != node {
		t.Errorf("%+v", got)
	}
}

// TestBreaksAreEvents: a restored cluster has the log of its backup, and after it an event that says so; a recovered
// one too.
func TestBreaksAreEvents(t *testing.T) {
	c, _ := full(t, testConfig(t, t.TempDir()))
	data, r := backup(t, c, pass)
	cfg := testConfig(t, filepath.Join(t.TempDir(), "data"))
	cfg.Node = "other"
	if _, err := restoreWith(cfg, data); err != nil {
		t.Fatal(err)
	}
	was, n := eventsOf(t, c), start(t, cfg)
	is := eventsOf(t, n)
	last := len(was) - 1
	if len(is) != len(was) || fmt.Sprint(is[:last]) != fmt.Sprint(was[:last]) || was[last].Verb != "cluster.backup" {
		t.Fatalf("%+v\nbefore\n%+v", is, was)
	}
	if got := is[last]; got.Verb != "cluster.restore" || got.Object != n.ID() || got.Actor != "node/other" ||
		!strings.Contains(got.Old, r.Cluster) || !strings.Contains(got.Old, "by node n1") {
		t.Errorf("%+v", got)
	}
}

// FuzzCleanText: whatever a client sends, the state accepts.
func FuzzCleanText(f *testing.F) {
	f.Add("plain")
	f.Add("é\n\x00\xff" + strings.Repeat("…", 400))
	f.Add(strings.Repeat("\xff", 1030))
	f.Fuzz(func(t *testing.T, s string) {
		e := eventOf(Occurrence{Event: tree.Event{Verb: "v" + s, Object: s, Old: s, New: s, Outcome: s},
			Actor: tree.Actor{Name: s, How: s, From: s}}, "n1")
		if _, err := (&state.Command{Ops: []state.Op{e}}).Encode(); err != nil {
			t.Error(err)
		}
		if utf8.ValidString(s) && len(s) < 60 && !strings.ContainsFunc(s, func(r rune) bool {
			return r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError
		}) && e.Object != s {
			t.Errorf("%q became %q", s, e.Object)
		}
	})
}
