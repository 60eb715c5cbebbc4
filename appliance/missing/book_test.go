package missing

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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

	"go.uber.org/goleak"

	"casemate/cluster/treetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	if e.Name != "registry.k8s.io/pause:3.10" || e.Count != 3 || !e.First.Equal(t0) || !e.Last.Equal(t0.Add(time.Hour)) ||
		!slices.Equal(e.Clients, []string{"10.0.0.2", "10.0.0.1"}) || e.Detail != "no such tag" || !slices.Equal(e.Nodes, []string{"n1"}) {
		t.Errorf("got %+v", e)
	}
}

// A million distinct misses by a scan: the book stays small, and what honest clients miss stays in it.
func TestAScanDoesNotPushOutWhatOthersMiss(t *testing.T) {
	b := open(t, Config{Max: 1000})
	now := time.Now().UTC()
	for i := range 50 {
		b.add(Image, fmt.Sprintf("quay.io/honest:%d", i), "", node1, now)
	}
	b.add(DNS, "shared.example", "", noise, now)
	b.add(DNS, "shared.example", "", node2, now)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	for i := range n {
		b.add(File, fmt.Sprintf("https://example.org/%d", i), "", noise, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 4<<20 {
		t.Errorf("1000 entries hold %d bytes more than before", got)
	}
	list := entries(t, b)
	if len(list) != 1000 {
		t.Fatalf("%d entries, want 1000", len(list))
	}
	honest := 0
	for _, e := range list {
		if e.Kind == Image {
			honest++
		}
	}
	if honest != 50 {
		t.Errorf("%d of 50 honest misses are left", honest)
	}
	if !slices.ContainsFunc(list, func(e Entry) bool { return e.Name == "shared.example" }) {
		t.Error("what an honest client missed too is gone")
	}
	if got := fmt.Sprintf("https://example.org/%d", n-1); !slices.ContainsFunc(list, func(e Entry) bool { return e.Name == got }) {
		t.Error("the newest miss is not there")
	}
	if _, dropped := b.Len(); dropped != uint64(n-1000+51) {
		t.Errorf("%d dropped, want %d", dropped, n-1000+51)
	}
}

func TestManyAddressesAreBoundedToo(t *testing.T) {
	b := open(t, Config{Max: 100})
	now := time.Now().UTC()
	var raw [16]byte
	copy(raw[:], []byte{0xfd})
	for i := range 10000 {
		binary.BigEndian.PutUint32(raw[12:], uint32(i)) // one /64
		b.add(Host, fmt.Sprint("six", i), "", netip.AddrFrom16(raw), now)
		b.add(Host, fmt.Sprint("four", i), "", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), now)
	}
	if len(b.entries) != 100 || len(b.clients) > 100 || len(b.noisy) != len(b.clients) {
		t.Errorf("%d entries, %d clients, heap of %d", len(b.entries), len(b.clients), len(b.noisy))
	}
	b.add(Host, "shared", "", node1, now)
	for i := range 1000 {
		b.add(Host, "shared", "", netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), now)
	}
	if e := b.entries[key{Host, "shared"}]; e == nil || len(e.Clients) != maxClients || e.Count != 1001 {
		t.Errorf("got %+v", e)
	}
	if len(b.clients) > 101 {
		t.Errorf("%d clients are kept for 100 entries", len(b.clients))
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
	want := entries(t, b)
	stop()
	wg.Wait()
	again := open(t, Config{File: path})
	if got := entries(t, again); fmt.Sprint(got) != fmt.Sprint(want) {
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
		if err := b.publish(ctx); err != nil {
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

func TestPublishingIsBoundedAndOnlyWhenChanged(t *testing.T) {
	m := treetest.New(t)
	b := open(t, Config{Tree: m})
	now := time.Now().UTC()
	for i := range 3000 {
		b.add(DNS, strings.Repeat("x", maxName-8)+fmt.Sprint(i), "", node1, now)
	}
	ctx := context.Background()
	if err := b.publish(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := m.Stat("n1")
	if err != nil || info.Size() > 2<<20 {
		t.Fatalf("%v, %d bytes", err, info.Size())
	}
	m.Fail = func(string) (error, bool) { return syscall.EAGAIN, false }
	if err := b.publish(ctx); err != nil {
		t.Errorf("an unchanged book was written: %v", err)
	}
	b.Add(DNS, "new", "", node1)
	if err := b.publish(ctx); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("got %v", err)
	}
	m.Fail = nil
	if err := b.publish(ctx); err != nil {
		t.Error(err)
	}
}

func TestNamesAreOnePrintableLine(t *testing.T) {
	b := open(t, Config{})
	b.Add(Host, "a\nb\x1b[31m\u202e\xff"+strings.Repeat("é", maxName), "x\ty", node1)
	e := entries(t, b)[0]
	if !strings.HasPrefix(e.Name, "a?b?[31m??é") || len(e.Name) > maxName+8 || strings.ContainsRune(e.Name[8:], '\ufffd') || e.Detail != "x?y" {
		t.Errorf("got %q %q", e.Name[:20], e.Detail)
	}
}
