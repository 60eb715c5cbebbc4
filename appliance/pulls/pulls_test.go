package pulls

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func open(t *testing.T, cfg Config, c *clock) *Book {
	t.Helper()
	cfg.Now = c.now
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func last(t *testing.T, b *Book, name, digest string) string {
	t.Helper()
	p, err := b.Last(name, digest)
	if err != nil {
		t.Fatal(err)
	}
	if p == nil {
		return "not known"
	}
	return p.Time.Format("15:04") + " " + p.Node
}

// TestLast: the newest pull of all nodes counts, of this content under this name; a restart keeps it, and what nobody
// has pulled is not known.
func TestLast(t *testing.T) {
	c := &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	tree := treetest.New(t)
	cfg := Config{File: filepath.Join(t.TempDir(), "pulls.json"), Node: "n1", Tree: tree}
	n1 := open(t, cfg, c)
	n2 := open(t, Config{File: filepath.Join(t.TempDir(), "pulls.json"), Node: "n2", Tree: tree}, c)
	n1.Pulled("team/app", "sha256:a")
	c.at = c.at.Add(time.Hour)
	n2.Pulled("team/app", "sha256:a")
	n2.Pulled("team/other", "sha256:a")
	if got := last(t, n1, "team/app", "sha256:a"); got != "03:04 n1" {
		t.Errorf("before n2 has published: %s", got)
	}
	if err := n2.notes.WriteTree(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, digest, want string }{
		{"team/app", "sha256:a", "04:04 n2"},
		{"team/other", "sha256:a", "04:04 n2"},
		{"team/app", "sha256:b", "not known"},
		{"team/ap", "psha256:a", "not known"},
	} {
		if got := last(t, n1, c.name, c.digest); got != c.want {
			t.Errorf("%s@%s: %s, want %s", c.name, c.digest, got, c.want)
		}
	}
	c.at = c.at.Add(time.Hour)
	n1.Pulled("team/app", "sha256:a")
	if err := n1.notes.WriteDisk(); err != nil {
		t.Fatal(err)
	}
	if got := last(t, open(t, cfg, c), "team/app", "sha256:a"); got != "05:04 n1" {
		t.Errorf("after a restart: %s", got)
	}
	c.at = c.at.Add(-3 * time.Hour) // the clock was wrong before
	n1.Pulled("team/app", "sha256:a")
	n1.Pulled("team/new", "sha256:a")
	if got := last(t, n1, "team/new", "sha256:a"); got != "02:04 n1" {
		t.Errorf("after the clock was set back: %s", got)
	}
}

// TestBounds: a book has a fixed size, keeps what is used, and its copy in the tree has the newest.
func TestBounds(t *testing.T) {
	c := &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	b := open(t, Config{File: filepath.Join(t.TempDir(), "pulls.json")}, c)
	const many = 4 * ways << bucketBits
	for i := range many {
		if i%1000 == 0 {
			c.at = c.at.Add(time.Minute)
			b.Pulled("used", "sha256:a")
		}
		b.Pulled(fmt.Sprint(i), "sha256:a")
	}
	if got := last(t, b, "used", "sha256:a"); got == "not known" {
		t.Error("what is in use was displaced")
	}
	whole, _ := b.snapshot(false)
	copied, _ := b.snapshot(true)
	if n := len(whole.(file).Pulls) / pair; n > ways<<bucketBits || n < ways<<bucketBits*9/10 {
		t.Errorf("%d of %d names are kept", n, ways<<bucketBits)
	}
	if n := len(copied.(file).Pulls) / pair; n != publishLimit {
		t.Errorf("the copy has %d names, want %d", n, publishLimit)
	}
	newest := minuteOf(c.at)
	for _, minute := range copied.(file).each {
		if newest-minute > many/1000/4 {
			t.Fatalf("the copy has a pull of %d minutes ago", newest-minute)
		}
	}
}

// TestPulledCostsNothing: no allocation, also for names that are new, and no write within a minute.
func TestPulledCostsNothing(t *testing.T) {
	c := &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	b := open(t, Config{File: filepath.Join(t.TempDir(), "pulls.json")}, c)
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprint("team/", i)
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() { b.Pulled(names[i%len(names)], "sha256:a"); i++ }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := b.table.changed.Load(); n > uint64(len(names)) {
		t.Errorf("%d writes for %d names", n, len(names))
	}
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 1000 {
				b.Pulled(names[(i+g)%len(names)], "sha256:b")
			}
		})
	}
	group.Wait()
	for _, name := range names {
		if last(t, b, name, "sha256:b") == "not known" {
			t.Errorf("%s is not known", name)
		}
	}
}

// FuzzOpen: whatever the file has, the book opens, and what it then has survives being written and read.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"pulls":"AAAAAAAAAAEAAAAB"}`))
	f.Add([]byte(`{"pulls":"////////////////AAA="}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := Config{File: filepath.Join(t.TempDir(), "pulls.json")}
		if err := os.WriteFile(cfg.File, data, 0o600); err != nil {
			t.Fatal(err)
		}
		b := open(t, cfg, &clock{time.Unix(60, 0)})
		var given file
		if json.Unmarshal(data, &given) != nil {
			given = file{}
		}
		kept := map[uint64]uint64{}
		for id, minute := range b.table.all {
			kept[id] = minute
		}
		for id := range kept {
			found := false
			for other, minute := range given.each {
				found = found || other == id && minute == kept[id]
			}
			if !found {
				t.Errorf("%x at %d is not in the file", id, kept[id])
			}
		}
		b.table.changed.Add(1) // so that it is written
		if err := b.notes.WriteDisk(); err != nil {
			t.Fatal(err)
		}
		again := open(t, cfg, &clock{time.Unix(60, 0)})
		for id, minute := range again.table.all {
			if kept[id] != minute {
				t.Errorf("%x: %d, before %d", id, minute, kept[id])
			}
		}
	})
}

func BenchmarkPulled(b *testing.B) {
	book, err := Open(Config{File: filepath.Join(b.TempDir(), "pulls.json")})
	if err != nil {
		b.Fatal(err)
	}
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			book.Pulled("registry.k8s.io/kube-apiserver", digest)
		}
	})
}
