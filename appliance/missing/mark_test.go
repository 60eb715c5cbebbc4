package missing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"casemate/cluster/tree"
	"casemate/cluster/treetest"
)

// TestMarks: what an operator has noted is seen on every node, until the entry is forgotten or the book is cleared.
func TestMarks(t *testing.T) {
	m := treetest.New(t)
	one, two := open(t, Config{Node: "n1", Tree: m}), open(t, Config{Node: "n2", Tree: m})
	ctx := tree.WithActor(t.Context(), tree.Actor{Name: "ada"})
	note := func(b *Book, name string) string {
		t.Helper()
		all, err := b.All()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.Name == name && e.Mark != nil {
				return e.Mark.By + ": " + e.Mark.Note
			}
		}
		return ""
	}
	const app, file = "quay.io/a/b:1", "https://dl.k8s.io/x"
	one.Add(Image, app, "", node1)
	one.Add(File, file, "", node1)
	two.Add(Image, app, "", node2)
	mark := func(b *Book, name, text string, want error) {
		t.Helper()
		if err := b.Mark(ctx, name, text); !errors.Is(err, want) {
			t.Errorf("%s %.20q: %v", name, text, err)
		}
	}
	mark(one, app, "ordered,\x1b arrives \u202eTuesday", nil)
	mark(one, file, " ordered ", nil)
	mark(one, "nothing", "x", fs.ErrNotExist)
	mark(one, app, strings.Repeat("x", MaxNote+1), fs.ErrInvalid)
	for _, b := range []*Book{one, two} {
		if got := note(b, app); got != "ada: ordered,? arrives ?Tuesday" {
			t.Errorf("%s: %q", b.cfg.Node, got)
		}
	}
	mark(two, app, "here on Friday", nil)
	if got := note(one, app); got != "ada: here on Friday" {
		t.Errorf("marked again: %q", got)
	}
	mark(one, app, "", nil)
	mark(one, app, "", fs.ErrNotExist)
	if got := note(two, app); got != "" {
		t.Errorf("without its mark: %q", got)
	}
	mark(one, app, "again", nil)
	if err := one.Forget(ctx, app); err != nil {
		t.Fatal(err)
	}
	one.Add(Image, app, "", node1)
	if got := note(one, app); got != "" {
		t.Errorf("forgotten: %q", got)
	}
	if got := note(one, file); got != "ada: ordered" {
		t.Errorf("another entry: %q", got)
	}
	if err := one.Clear(ctx); err != nil {
		t.Fatal(err)
	}
	one.Add(File, file, "", node1)
	if got := note(one, file); got != "" {
		t.Errorf("cleared: %q", got)
	}
	if err := open(t, Config{}).Mark(ctx, app, "x"); err == nil {
		t.Error("a book without a tree is marked")
	}
}

// TestManyMarks: their number is bounded, and those of entries that are gone make room.
func TestManyMarks(t *testing.T) {
	m := treetest.New(t)
	b := open(t, Config{Tree: m})
	for i := range maxMarks + 2 {
		b.Add(Image, fmt.Sprintf("quay.io/a/b:%d", i), "", netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	err := m.Update(t.Context(), func(batch tree.Batch) error {
		for i := range maxMarks - 1 {
			name := fmt.Sprintf("quay.io/a/b:%d", i)
			data, err := json.Marshal(mark{Image, name, Mark{Note: "x"}})
			if err != nil {
				return err
			}
			batch.Put(markName+hashOf(Image, name), data)
		}
		data, err := json.Marshal(mark{Image, "quay.io/gone:1", Mark{Note: "x"}})
		batch.Put(markName+hashOf(Image, "quay.io/gone:1"), data)
		batch.Put(markName+hashOf(Image, "other"), data) // not its name
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Mark(t.Context(), fmt.Sprintf("quay.io/a/b:%d", maxMarks), "y"); err != nil {
		t.Errorf("the mark of an entry that is gone makes no room: %v", err)
	}
	if err := b.Mark(t.Context(), fmt.Sprintf("quay.io/a/b:%d", maxMarks+1), "y"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("one mark too many: %v", err)
	}
	if err := b.Mark(t.Context(), "quay.io/a/b:0", "changed"); err != nil {
		t.Error(err)
	}
}

// TestWaiting: clients are counted that asked lately, on any node, each once.
func TestWaiting(t *testing.T) {
	m := treetest.New(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one, two := open(t, Config{Node: "n1", Tree: m}), open(t, Config{Node: "n2", Tree: m})
	const name = "quay.io/a/b:1"
	ask := func(b *Book, from, user string, ago time.Duration) {
		b.note(Question{Kind: Image, Name: name, Client: netip.MustParseAddr(from), User: user}, now.Add(-ago))
	}
	waiting := func(b *Book) int {
		t.Helper()
		list := entries(t, b)
		if len(list) != 1 {
			t.Fatalf("%+v", list)
		}
		for i := range list[0].Clients {
			if list[0].Asked[i] == 0 {
				t.Errorf("no time of %s", list[0].Clients[i])
			}
		}
		return list[0].Waiting(now)
	}
	ask(one, "10.0.0.9", "", time.Hour)
	ask(one, "10.0.0.1", "", 20*time.Minute)
	ask(one, "10.0.0.1", "", 5*time.Minute)
	ask(one, "10.0.0.2", "ada", 5*time.Minute)
	ask(one, "10.0.0.2", "", time.Minute)
	ask(one, "2001:db8::1", "", time.Minute)
	ask(one, "2001:db8::2", "", time.Minute)
	if got := waiting(one); got != 3 {
		t.Errorf("%d clients wait, want 3", got)
	}
	for i := range 8 {
		ask(two, fmt.Sprintf("10.0.1.%d", i), "", time.Minute)
	}
	ask(two, "10.0.0.9", "", time.Minute) // one more than the entry has places
	for _, b := range []*Book{one, two} {
		if err := b.notes.WriteTree(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []*Book{one, two} {
		if got := waiting(b); got != 3+8 {
			t.Errorf("%s: %d clients wait, want 11", b.cfg.Node, got)
		}
	}
	for _, e := range entries(t, one) {
		if len(e.Clients) != maxClients || len(e.Asked) != maxClients {
			t.Errorf("%d clients, %d times", len(e.Clients), len(e.Asked))
		}
		if got := e.Waiting(now.Add(time.Hour)); got != 0 {
			t.Errorf("after an hour %d wait", got)
		}
	}
}

// TestBookWithoutTimes: a book of an earlier version has no times of clients.
func TestBookWithoutTimes(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "missing.json")}
	text := `{"entries":[{"kind":"image","name":"quay.io/a/b:1","count":2,"clients":["10.0.0.1","10.0.0.2"],
	 "last":"2026-01-02T03:04:05Z","asked":[1]}]}`
	if err := os.WriteFile(cfg.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, cfg)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if e := entries(t, b)[0]; e.Waiting(now) != 0 || len(e.Asked) != 2 {
		t.Errorf("%+v", e)
	}
	b.add(Image, "quay.io/a/b:1", "", node1, now)
	if e := entries(t, b)[0]; e.Waiting(now) != 1 || e.Clients[1] != "10.0.0.1" {
		t.Errorf("%+v", e)
	}
}
