package missing

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"casemate/cluster/tree"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

var (
	node1 = netip.MustParseAddr("10.0.0.1")
	node2 = netip.MustParseAddr("10.0.0.2")
	noise = netip.MustParseAddr("10.0.0.66")
)

func open(t *testing.T, cfg Config) *Book {
	t.Helper()
	if cfg.File == "" {
		cfg.File = filepath.Join(t.TempDir(), "missing.json")
	}
	if cfg.Node == "" {
		cfg.Node = "n1"
	}
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entries(t *testing.T, b *Book) []Entry {
	t.Helper()
	list, err := b.List()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *Book) add(kind, name, detail string, from netip.Addr, now time.Time) {
	b.note(Question{Kind: kind, Name: name, Detail: detail, Client: from}, now)
}

func TestAMissIsCountedWithItsClients(t *testing.T) {
	b := open(t, Config{})
	t0 := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	b.add(Image, "registry.k8s.io/pause:3.10", "", node1, t0)
	b.add(Image, "registry.k8s.io/pause:3.10", "no such tag", node2, t0.Add(time.Minute))
	b.add(Image, "registry.k8s.io/pause:3.10", "", node1, t0.Add(time.Hour))
	b.add(File, "https://dl.k8s.io/x", "", node1, t0.Add(time.Second))
	list := entries(t, b)
	if len(list) != 2 {
		t.Fatalf("got %+v", list)
	}
	e := list[0]
	if e.Name != "registry.k8s.io/pause:3.10" || e.Count != 3 || !e.First.Equal(t0) ||
		!e.Last.Equal(t0.Add(time.Hour)) ||
		!slices.Equal(e.Clients, []string{"10.0.0.2", "10.0.0.1"}) || e.Detail != "no such tag" ||
		!slices.Equal(e.Nodes, []string{"n1"}) {
		t.Errorf("got %+v", e)
	}
}

// A scan causes very many distinct misses: the book stays small, and the misses of honest clients stay in it.
func TestAScanDoesNotPushOutWhatOthersMiss(t *testing.T) {
	b := open(t, Config{Max: 1000})
	now := time.Now().UTC()
	for i := range 50 {
		b.add(File, fmt.Sprintf("https://dl.k8s.io/honest/%d", i), "", node1, now)
	}
	b.add(File, "https://dl.k8s.io/shared", "", noise, now)
	b.add(File, "https://dl.k8s.io/shared", "", node2, now)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 100_000
	for i := range n {
		b.add(File, fmt.Sprintf("https://example.org/%d", i), "", noise, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 4<<20 {
		t.Errorf("the book holds %d bytes more than before", got)
	}
	list := entries(t, b)
	if share := 1000 * 6 / 20 / 2; len(list) != share+51 {
		t.Fatalf("%d entries, want the scan's share of %d and 51 of others", len(list), share)
	}
	honest := 0
	for _, e := range list {
		if strings.Contains(e.Name, "/honest/") {
			honest++
		}
	}
	if honest != 50 {
		t.Errorf("%d of 50 honest misses are left", honest)
	}
	has := func(name string) bool { return slices.ContainsFunc(list, func(e Entry) bool { return e.Name == name }) }
	if !has("https://dl.k8s.io/shared") {
		t.Error("what an honest client missed too is gone")
	}
	if !has(fmt.Sprintf("https://example.org/%d", n-1)) || has("https://example.org/0") {
		t.Error("it was not the oldest that the scan has lost")
	}
	if _, dropped := b.Len(); dropped != uint64(n-150) {
		t.Errorf("%d dropped, want %d", dropped, n-150)
	}
}

// Forged requests of one kind, from one client or many, do not evict the misses of an honest node: its images and
// files in any case, its own entries of that kind unless the forger has very many addresses. The other nodes see them
// too.
func TestForgedQuestionsEvictNobodyElse(t *testing.T) {
	const forged = 14_000
	honest := []key{
		{Image, "quay.io/a/b:1"}, {Image, "quay.io/a/b:2"}, {Image, "quay.io/a/b:3"}, {Image, "quay.io/a/b:4"},
		{Image, "quay.io/a/b:5"}, {File, "https://dl.k8s.io/x"}, {DNS, "www.honest.example"},
		{TLS, "www.honest.example"}, {Host, "www.honest.example"},
	}
	for _, c := range []struct {
		kind    string
		clients int
	}{{DNS, 1}, {DNS, 50}, {DNS, forged}, {TLS, forged}, {Host, 50}, {Image, 50}} {
		m := treetest.New(t)
		b := open(t, Config{Tree: m})
		now := time.Now().UTC()
		for _, h := range honest {
			b.add(h.kind, h.name, "", node1, now)
		}
		for i := range forged {
			from := netip.AddrFrom4([4]byte{10, 3, byte(i % c.clients >> 8), byte(i % c.clients)})
			b.add(c.kind, fmt.Sprintf("f%d.forged.example", i), "", from, now.Add(time.Second))
		}
		if err := b.notes.WriteTree(t.Context()); err != nil {
			t.Fatal(err)
		}
		other := open(t, Config{Tree: m, Node: "n2"})
		for where, list := range map[string][]Entry{"here": entries(t, b), "on another node": entries(t, other)} {
			for _, h := range honest {
				if h.kind == c.kind && c.clients == forged {
					continue // each of them asked for less than the honest one
				}
				if !slices.ContainsFunc(list, func(e Entry) bool { return e.Kind == h.kind && e.Name == h.name }) {
					t.Errorf("%d questions of kind %s by %d clients: %s %s is gone %s",
						forged, c.kind, c.clients, h.kind, h.name, where)
				}
			}
		}
	}
}

// A client is a user, an IPv4 address or an IPv6 /64, whatever it does with its other bits.
func TestOneClientFillsItsShareOnly(t *testing.T) {
	for _, c := range []struct {
		name string
		from func(i int) Question
	}{
		{"an address", func(int) Question { return Question{Client: node2} }},
		{"a mapped address", func(int) Question { return Question{Client: netip.MustParseAddr("::ffff:10.0.0.2")} }},
		{"a /64", func(i int) Question {
			raw := [16]byte{0xfd}
			binary.BigEndian.PutUint32(raw[12:], uint32(i))
			return Question{Client: netip.AddrFrom16(raw)}
		}},
		{"a user", func(i int) Question {
			return Question{Client: netip.AddrFrom4([4]byte{10, 4, byte(i >> 8), byte(i)}), User: "mallory"}
		}},
	} {
		b := open(t, Config{Max: 1000})
		now := time.Now().UTC()
		b.add(Image, "quay.io/honest:1", "", node1, now)
		for i := range 1000 {
			q := c.from(i)
			q.Kind, q.Name = Image, fmt.Sprintf("quay.io/x:%d", i)
			b.note(q, now.Add(time.Second))
		}
		list := entries(t, b)
		has := func(name string) bool {
			return slices.ContainsFunc(list, func(e Entry) bool { return e.Name == name })
		}
		if n, _ := b.Len(); n != 151 || !has("quay.io/honest:1") || !has("quay.io/x:999") {
			t.Errorf("%s: %d entries, want its share of 150 and the honest one", c.name, n)
		}
	}
}

// The book shows which host asked, while it counts by /64; a host that changes its address keeps no others out.
func TestClientsAreShownAsAddresses(t *testing.T) {
	b := open(t, Config{Max: 1000})
	t0 := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	ask := func(name, user, client string) {
		b.note(Question{Kind: Image, Name: name, User: user, Client: netip.MustParseAddr(client)}, t0)
	}
	for _, c := range []struct{ client, user, want string }{
		{"10.0.0.1", "", "10.0.0.1"}, {"::ffff:10.0.0.1", "", "10.0.0.1"}, {"fd00::2:1", "", "fd00::2:1"},
		{"fe80::1%eth0", "", "fe80::1"}, {"::1", "", "::1"}, {"fd00::2:1", "ops", "ops@fd00::2:1"},
		{"::ffff:10.0.0.1", "ops", "ops@10.0.0.1"},
	} {
		name := "quay.io/" + c.user + c.client + ":1"
		ask(name, c.user, c.client)
		for _, e := range entries(t, b) {
			if e.Name == name && !slices.Equal(e.Clients, []string{c.want}) {
				t.Errorf("%s %s is shown as %q, want %s", c.user, c.client, e.Clients, c.want)
			}
		}
	}
	const wanted = "quay.io/wanted:1"
	for _, client := range []string{"fd00:1::1", "10.0.0.1", "fd00:2::1"} {
		ask(wanted, "", client)
	}
	for i := range 100 {
		ask(wanted, "", fmt.Sprintf("fd00:bad::%x", i))
	}
	e, _ := b.find(key{Image, wanted})
	if e == nil || len(e.Clients) != maxClients || e.Clients[maxClients-1] != "fd00:bad::63" ||
		!slices.Equal(e.Clients[:3], []string{"fd00:1::1", "10.0.0.1", "fd00:2::1"}) {
		t.Errorf("a host with many addresses pushed out the others: %+v", e)
	}
}

// A host may send the short name from one of its addresses and the long one from another.
func TestSearchListsOfHostsWithManyAddresses(t *testing.T) {
	list := func(short, long string) []Entry {
		return []Entry{
			{Kind: DNS, Name: "quay.io", Clients: []string{short}},
			{Kind: DNS, Name: "quay.io.corp.example", Clients: []string{long}},
		}
	}
	for _, c := range []struct {
		short, long string
		want        bool
	}{
		{"fd00::1", "fd00::2", true}, {"fd00::/64", "fd00::2", true}, {"fd00::1", "fd00:0:0:1::1", false},
		{"10.0.0.1", "10.0.0.1", true}, {"10.0.0.1", "10.0.0.2", false},
	} {
		all := list(c.short, c.long)
		at := map[key]*Entry{}
		for i := range all {
			at[key{all[i].Kind, all[i].Name}] = &all[i]
		}
		if got := searchLists(all, at, nothingKnown{}).expanded(&all[1], at); got != c.want {
			t.Errorf("%s asked for the name and %s with a suffix: expanded %v, want %v", c.short, c.long, got, c.want)
		}
	}
}

func TestManyAddressesAreBoundedToo(t *testing.T) {
	b := open(t, Config{Max: 2000})
	s := b.shelves[Host]
	now := time.Now().UTC()
	for i := range 10000 {
		raw := [16]byte{0xfd}
		binary.BigEndian.PutUint32(raw[12:], uint32(i)) // one /64
		b.add(Host, fmt.Sprint("six.", i), "", netip.AddrFrom16(raw), now)
		b.add(Host, fmt.Sprint("four.", i), "", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), now)
	}
	if len(s.entries) != 100 || len(s.clients) > 100 || s.noisy.Len() != len(s.clients) {
		t.Errorf("%d entries, %d clients, heap of %d", len(s.entries), len(s.clients), s.noisy.Len())
	}
	b.add(Host, "shared.example", "", node1, now)
	for i := range 1000 {
		b.add(Host, "shared.example", "", netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), now)
	}
	if e := s.entries[key{Host, "shared.example"}]; e == nil || len(e.Clients) != maxClients || e.Count != 1001 {
		t.Errorf("got %+v", e)
	}
	if len(s.clients) > 101 {
		t.Errorf("%d clients are kept for 100 entries", len(s.clients))
	}
}

// Noise has its own places; it becomes a need when a client needs it, and not the other way round.
func TestNoiseIsKeptApart(t *testing.T) {
	b := open(t, Config{Max: 1000})
	t0 := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	head := Question{Kind: File, Name: "https://dl.k8s.io/x", Client: node1, Method: "HEAD"}
	get := head
	get.Method = "GET"
	all := func() []Entry {
		t.Helper()
		list, err := b.All()
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for i := range 3 {
		if got := b.note(head, t0.Add(time.Duration(i)*time.Minute)); got != HeadProbe {
			t.Fatalf("got %q", got)
		}
	}
	if list := all(); len(list) != 1 || list[0].Noise != HeadProbe || list[0].Count != 3 || len(entries(t, b)) != 0 {
		t.Errorf("got %+v", list)
	}
	b.note(get, t0.Add(time.Hour))
	b.note(head, t0.Add(2*time.Hour))
	if list := entries(t, b); len(list) != 1 || list[0].Count != 1 || !list[0].Last.Equal(t0.Add(time.Hour)) ||
		list[0].Noise != "" || len(all()) != 1 {
		t.Errorf("got %+v", list)
	}
	for i := range 5000 {
		b.add(DNS, fmt.Sprintf("host%d", i), "A", node2, t0)
	}
	if n, _ := b.Len(); n != 1 || len(all()) != 51 {
		t.Errorf("%d needs and %d entries", n, len(all()))
	}
}

func TestTheBookSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "missing.json")
	b := open(t, Config{File: path})
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx) })
	b.Add(Image, "quay.io/a:1", "why", node1)
	b.Add(Image, "quay.io/a:1", "", node2)
	b.Add(DNS, "node7", "A", node2)
	want, err := b.All()
	if err != nil || len(want) != 2 {
		t.Fatal(want, err)
	}
	stop()
	wg.Wait()
	again := open(t, Config{File: path})
	if got, _ := again.All(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	os.WriteFile(path, []byte("{ damaged"), 0o640)
	if got := entries(t, open(t, Config{File: path})); len(got) != 0 {
		t.Errorf("got %+v of a damaged book", got)
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Errorf("the damaged book is not put aside: %v", err)
	}
}

func TestOtherNodesSeeTheBookAndClearIt(t *testing.T) {
	m := treetest.New(t)
	ctx := context.Background()
	n1, n2 := open(t, Config{Node: "n1", Tree: m}), open(t, Config{Node: "n2", Tree: m})
	n1.Add(Image, "quay.io/a:1", "", node1)
	n2.Add(Image, "quay.io/a:1", "", node2)
	n2.Add(File, "https://dl.k8s.io/x", "", node2)
	for _, b := range []*Book{n1, n2, n2} {
		if err := b.notes.WriteTree(ctx); err != nil {
			t.Fatal(err)
		}
	}
	list := entries(t, n1)
	if len(list) != 2 {
		t.Fatalf("got %+v", list)
	}
	for _, e := range list {
		if e.Kind == Image && (e.Count != 2 || len(e.Clients) != 2 || !slices.Equal(e.Nodes, []string{"n1", "n2"})) {
			t.Errorf("got %+v", e)
		}
	}
	if err := n1.Clear(ctx); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*Book{n1, n2} {
		if list := entries(t, b); len(list) != 0 {
			t.Errorf("%s after clearing: %+v", b.cfg.Node, list)
		}
	}
	n2.Add(File, "https://dl.k8s.io/y", "", node2)
	if list := entries(t, n2); len(list) != 1 {
		t.Errorf("a miss after clearing: %+v", list)
	}
}

// One entry is removed from the books of all nodes, whichever node recorded it, and reappears when it is requested
// again.
func TestForgettingIsForAllNodes(t *testing.T) {
	m := treetest.New(t)
	ctx := context.Background()
	n1, n2 := open(t, Config{Node: "n1", Tree: m}), open(t, Config{Node: "n2", Tree: m})
	typo := "quay.io/typo:" + strings.Repeat("<", maxName-64)
	n1.Add(Image, typo, "", node1)
	n2.Add(Image, typo, "", node2)
	n2.Add(Image, "quay.io/a:1", "", node2)
	n2.Add(TLS, "www.nowhere.example", "", node2)
	n2.Add(DNS, "www.nowhere.example", "", node2)
	n2.Add(DNS, "node1", "A", node2)
	for _, b := range []*Book{n1, n2} {
		if err := b.notes.WriteTree(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{typo, "www.nowhere.example", "node1"} {
		if err := n1.Forget(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := n1.Forget(ctx, typo); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("forgotten twice: %v", err)
	}
	for _, b := range []*Book{n1, n2} {
		if list, _ := b.All(); len(list) != 1 || list[0].Name != "quay.io/a:1" {
			t.Errorf("%s: %+v", b.cfg.Node, list)
		}
		if err := b.notes.WriteTree(ctx); err != nil {
			t.Fatal(err)
		}
	}
	n2.Add(Image, typo, "", node2)
	if list := entries(t, n2); len(list) != 2 || list[0].Name != typo || list[0].Count != 1 {
		t.Errorf("asked for again: %+v", list)
	}
	if list := entries(t, open(t, Config{Node: "n3", Tree: m})); len(list) != 1 {
		t.Errorf("on a third node: %+v", list)
	}
	// What is forgotten does not grow without bound, and goes with the whole book.
	files := func() (n int) {
		dir, err := m.ReadDir(".")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dir {
			if strings.HasPrefix(d.Name(), forgottenName) {
				n++
			}
		}
		return n
	}
	for i := range maxForgotten {
		name := fmt.Sprintf("https://dl.k8s.io/%d", i)
		n1.Add(File, name, "", node1)
		if err := n1.Forget(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(); n != maxForgotten {
		t.Errorf("%d files", n)
	}
	if err := n1.Clear(ctx); err != nil || files() != 0 {
		t.Errorf("%v, %d files", err, files())
	}
}

// A node of the previous version reads what this one writes, and the reverse. before is the previous format.
func TestVersionsReadEachOther(t *testing.T) {
	type before struct {
		Cleared time.Time `json:"cleared,omitzero"`
		Dropped uint64    `json:"dropped,omitempty"`
		Entries []struct {
			Kind    string    `json:"kind"`
			Name    string    `json:"name"`
			Detail  string    `json:"detail,omitempty"`
			Count   uint64    `json:"count"`
			First   time.Time `json:"first"`
			Last    time.Time `json:"last"`
			Clients []string  `json:"clients"`
			Nodes   []string  `json:"nodes,omitempty"`
		} `json:"entries"`
	}
	m := treetest.New(t)
	ctx := context.Background()
	b := open(t, Config{Tree: m})
	b.Add(Image, "quay.io/a:1", "why", node1)
	b.Note(Question{Kind: Image, Name: "quay.io/b:1", Client: node1, User: "ops"})
	b.Add(DNS, "node1", "A", node1)
	b.Add(File, "https://dl.k8s.io/x", "", node1)
	if err := b.notes.WriteTree(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(ctx, "https://dl.k8s.io/x"); err != nil {
		t.Fatal(err)
	}
	if err := b.notes.WriteTree(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.notes.WriteDisk(); err != nil {
		t.Fatal(err)
	}
	// It takes every file of the directory for a node's, but its own and _cleared.
	var names []string
	dir, err := m.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.ReadFile(b.cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	texts := [][]byte{onDisk}
	for _, d := range dir {
		text, err := m.ReadFile(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	for _, text := range texts {
		var f before
		if err := json.Unmarshal(text, &f); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		for _, e := range f.Entries {
			names = append(names, e.Name)
		}
	}
	if want := []string{"quay.io/b:1", "quay.io/a:1", "quay.io/b:1", "quay.io/a:1"}; !slices.Equal(names, want) {
		t.Errorf("the version before reads %v, want %v", names, want)
	}

	var f before
	if err := json.Unmarshal([]byte(`{"dropped": 3, "entries": [
		{"kind": "dns", "name": "node1", "detail": "A", "count": 2, "first": "2026-11-30T09:00:00Z", "last": "2026-11-30T09:00:00Z", "clients": ["10.0.0.1"]},
		{"kind": "dns", "name": "www.nowhere.example", "detail": "AAAA", "count": 2, "first": "2026-11-30T09:00:00Z", "last": "2026-11-30T10:00:00Z", "clients": ["10.0.0.1"]},
		{"kind": "later", "name": "x", "count": 2, "first": "2026-11-30T09:00:00Z", "last": "2026-11-30T11:00:00Z", "clients": ["10.0.0.1"]}]}`), &f); err != nil {
		t.Fatal(err)
	}
	old, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "missing.json")
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Update(ctx, func(batch tree.Batch) error { batch.Put("n0", old); return nil }); err != nil {
		t.Fatal(err)
	}
	for where, b := range map[string]*Book{"on disk": open(t, Config{File: path}),
		"in the tree": open(t, Config{Tree: m, Node: "n9"})} {
		all, err := b.All()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range all {
			if e.Kind != Image {
				got = append(got, e.Name+" "+e.Noise)
			}
		}
		if want := []string{"x ", "www.nowhere.example ", "node1 " + SingleLabel}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", where, got, want)
		}
	}
}

func TestPublishingIsBoundedAndOnlyWhenChanged(t *testing.T) {
	m := treetest.New(t)
	b := open(t, Config{Tree: m})
	now := time.Now().UTC()
	for i := range 3000 {
		for _, kind := range Kinds {
			b.add(kind, "x.y"+strings.Repeat("<", maxName-16)+fmt.Sprint(i), "", node1, now)
		}
	}
	ctx := context.Background()
	if err := b.notes.WriteTree(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := m.Stat("n1")
	if err != nil || info.Size() > 2<<20 {
		t.Fatalf("%v, %d bytes", err, info.Size())
	}
	m.Fail = func(string) (error, bool) { return syscall.EAGAIN, false }
	if err := b.notes.WriteTree(ctx); err != nil {
		t.Errorf("an unchanged book was written: %v", err)
	}
	b.Add(DNS, "new.example", "", node1)
	if err := b.notes.WriteTree(ctx); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("got %v", err)
	}
	m.Fail = nil
	if err := b.notes.WriteTree(ctx); err != nil {
		t.Error(err)
	}
}

func TestNamesAreOnePrintableLine(t *testing.T) {
	b := open(t, Config{})
	b.Add(Host, "a\nb\x1b[31m\u202e\xff"+strings.Repeat("é", maxName), "x\ty", node1)
	e := entries(t, b)[0]
	if !strings.HasPrefix(e.Name, "a?b?[31m??é") || len(e.Name) > maxName+8 ||
		strings.ContainsRune(e.Name[8:], '\ufffd') || e.Detail != "x?y" {
		t.Errorf("got %q %q", e.Name[:20], e.Detail)
	}
}
