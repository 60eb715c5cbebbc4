package dnssrv

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
)

// contentOf is all that a table's names hold, by name.
func contentOf(t *Table) map[string]string {
	all := map[string]string{}
	for name, e := range t.names.all() {
		all[string(name)] = string(e)
	}
	return all
}

// story draws updates from names that meet each other in every way: below one another, wildcards, our own names and
// special ones.
type story struct {
	*rand.Rand
	spec    Spec
	records map[string][]Record
}

func (s *story) pick(list ...string) string { return list[s.IntN(len(list))] }

func (s *story) owner() string {
	name := s.pick("a", "b", "c", "*", "_tcp") + "." + s.pick("x.example", "y.x.example", "example", "docker.io",
		"quay.io",
		"casemate.internal", "other.internal", "localhost", "resolver.arpa", "10.in-addr.arpa", "b.a.x.example")
	return s.pick(name, name, name, "docker.io", "n1.casemate.internal", "casemate.internal", "casemate.internal",
		"ns.casemate.internal", "11.0.0.10.in-addr.arpa", "localhost", "1.0.0.127.in-addr.arpa", "invalid", "x.example")
}

func (s *story) list(owner string) (list []Record) {
	for _, r := range []Record{
		{Type: "A", Values: []string{"192.0.2.1", "192.0.2.2"}},
		{Type: "AAAA", Values: []string{"fd00::7"}},
		{Type: "TXT", Values: []string{"some", "words"}},
		{Type: "SRV", Values: []string{"0 1 2 a.x.example"}},
		{Type: "CNAME", Values: []string{"target.example"}},
	} {
		if s.IntN(3) == 0 {
			r.Name, r.TTL = owner, time.Duration(s.IntN(2))*time.Minute
			list = append(list, r)
		}
	}
	return list
}

// step makes an update and, if it is to succeed, records the expected content.
func (s *story) step(fails bool) Update {
	before := s.spec
	u := Update{Records: map[string][]Record{}}
	switch s.IntN(12) {
	case 0:
		s.spec.Origins = []string{s.pick("docker.io", "quay.io"), s.pick("a.x.example", "registry.k8s.io", "localhost")}
		u.Origins = s.spec.Origins
	case 1:
		s.spec.Nodes = slices.Clone(s.spec.Nodes)
		i := s.IntN(len(s.spec.Nodes))
		s.spec.Nodes[i].Healthy = !s.spec.Nodes[i].Healthy
		u.Nodes = s.spec.Nodes
	case 2:
		s.spec.Nodes = []Node{
			{Name: "n1", Addrs: addrs("10.0.0.11"), Healthy: true}, {
				Name: s.pick("n2", "a"), Addrs: addrs("10.0.0.12", "fd00::12")},
		}
		u.Nodes = s.spec.Nodes
	case 3:
		s.spec.Domain = s.pick("casemate.internal", "other.internal", "x.example")
		s.spec.TTL = time.Duration(1+s.IntN(3)) * time.Second
		s.spec.Forward = []Forward{{Zone: s.pick(".", "test", "invalid"),
			Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}}
		u.Base = s.spec.update().Base
	}
	records := maps.Clone(s.records)
	for range s.IntN(4) {
		owner := s.owner()
		u.Records[owner] = s.list(owner)
		records[owner] = u.Records[owner]
	}
	if fails {
		u.Records["bad.example"] = []Record{{Name: "bad.example", Type: "A", Values: []string{"x"}}}
		s.spec = before
		return u
	}
	s.records = records
	return u
}

// whole builds the expected table at once.
func (s *story) whole(t *testing.T) *Table {
	t.Helper()
	spec := s.spec
	for _, owner := range slices.Sorted(maps.Keys(s.records)) {
		spec.Records = append(spec.Records, s.records[owner]...)
	}
	tab, err := NewTable(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// TestUpdatesMakeTheTableThatIsBuiltAtOnce: however a table came about, it is the same; an update that fails, or that
// is not finished, shows nothing; and no update touches a table that is in use.
func TestUpdatesMakeTheTableThatIsBuiltAtOnce(t *testing.T) {
	stories := 10
	if os.Getenv("CASEMATE_SOAK") != "" {
		stories = 300
	}
	for n := range stories {
		s := &story{rand.New(rand.NewPCG(uint64(n), 1)), threeNodes(), map[string][]Record{}}
		srv := New(Config{})
		if _, err := srv.Apply(s.spec.update()); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			used := srv.table.Load()
			shown, what := contentOf(used), fmt.Sprintf("story %d, step %d", n, i)
			more := s.IntN(5) == 0
			fails := s.IntN(5) == 0
			kept, records := s.spec, s.records
			if more {
				u := s.step(false)
				u.More = true
				if _, err := srv.Apply(u); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if srv.table.Load() != used {
					t.Fatalf("%s: an unfinished update shows", what)
				}
			}
			_, err := srv.Apply(s.step(fails))
			if (err != nil) != fails {
				t.Fatalf("%s: %v", what, err)
			}
			if fails {
				s.spec, s.records = kept, records
			}
			if !maps.Equal(contentOf(used), shown) {
				t.Fatalf("%s: a table in use has changed", what)
			}
			got, want := srv.table.Load(), s.whole(t)
			if g, w := contentOf(got), contentOf(want); !maps.Equal(g, w) {
				for name := range w {
					if g[name] != w[name] {
						t.Errorf("%s: %s: got %x, want %x", what, textOf(name), g[name], w[name])
					}
				}
				for name := range g {
					if _, ok := w[name]; !ok {
						t.Errorf("%s: %s: got %x, want nothing", what, textOf(name), g[name])
					}
				}
				t.FailNow()
			}
			if !slices.Equal(got.Conflicts(), want.Conflicts()) {
				t.Fatalf("%s: conflicts:\ngot %q\nwant %q", what, got.Conflicts(), want.Conflicts())
			}
		}
	}
}

// TestHealthTouchesNoName: a node that goes down, and settings that say nothing of names, leave every page as it is.
func TestHealthTouchesNoName(t *testing.T) {
	srv, spec := New(Config{}), fuzzSpec()
	if _, err := srv.Apply(spec.update()); err != nil {
		t.Fatal(err)
	}
	before := srv.table.Load()
	spec.Nodes[0].Healthy = false
	spec.ResponseRate = 100
	if _, err := srv.Apply(Update{Base: spec.update().Base, Nodes: spec.Nodes, Origins: spec.Origins}); err != nil {
		t.Fatal(err)
	}
	if after := srv.table.Load(); after.names != before.names || len(after.live[v4]) == len(before.live[v4]) {
		t.Error("the names were touched, or the node still answers")
	}
}

// TestOneNameCostsOneName counts the pages that a change makes, of many names.
func TestOneNameCostsOneName(t *testing.T) {
	srv := New(Config{})
	many(t, srv, 20_000)
	pages := func() map[*node]bool {
		all := map[*node]bool{}
		var walk func(*node)
		walk = func(n *node) {
			if all[n] = true; n.kids != nil {
				for _, kid := range n.kids {
					walk(kid)
				}
			}
		}
		walk(srv.table.Load().names.root)
		return all
	}
	before := pages()
	name := "host7.site7.bank.example"
	if _, err := srv.Apply(Update{Records: map[string][]Record{name: {
		{Name: name, Type: "A", Values: []string{"192.0.2.1"}}}}}); err != nil {
		t.Fatal(err)
	}
	made := 0
	for n := range pages() {
		if !before[n] {
			made++
		}
	}
	if made == 0 || made > 10 || len(before) < 500 {
		t.Errorf("one name of %d pages made %d", len(before), made)
	}
}

// many gives a server so many names, in parts.
func many(t testing.TB, srv *Server, n int) {
	spec := threeNodes()
	spec.Origins = []string{"docker.io", "registry.k8s.io", "quay.io"}
	u := spec.update()
	for i := range n {
		name := fmt.Sprintf("host%d.site%d.bank.example", i, i%1000)
		u.Records[name] = []Record{{Name: name, Type: "A",
			Values: []string{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()}}}
		if u.More = i < n-1; len(u.Records) < 4096 && u.More {
			continue
		}
		if _, err := srv.Apply(u); err != nil {
			t.Fatal(err)
		}
		u = Update{Records: map[string][]Record{}}
	}
}

// BenchmarkNames is what 200 000 names cost: all at once, each in memory, and a change of one.
func BenchmarkNames(b *testing.B) {
	const n = 200_000
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	b.Run("load", func(b *testing.B) {
		before := heap()
		var srv *Server
		for b.Loop() {
			srv = New(Config{})
			many(b, srv, n)
		}
		b.ReportMetric((heap()-before)/n, "bytes/name")
		runtime.KeepAlive(srv)
	})
	srv := New(Config{})
	many(b, srv, n)
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		name := "host7.site7.bank.example"
		for i := 0; b.Loop(); i++ {
			srv.Apply(Update{Records: map[string][]Record{name: {
				{Name: name, Type: "A", Values: []string{fmt.Sprintf("192.0.2.%d", i%256)}}}}})
		}
	})
	b.Run("health", func(b *testing.B) {
		b.ReportAllocs()
		nodes := threeNodes().Nodes
		for b.Loop() {
			nodes[0].Healthy = !nodes[0].Healthy
			srv.Apply(Update{Nodes: nodes})
		}
	})
}
