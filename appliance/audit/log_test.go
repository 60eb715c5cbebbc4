package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"casemate/appliance/audit/deeds"
	"casemate/appliance/audit/proof"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// node is a cluster of one with its audit log.
type node struct {
	*cluster.Cluster
	log  *Log
	dir  string
	now  time.Time
	keep time.Duration
}

func open(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir(), now: time.Now()}
	cfg := cluster.Config{Dir: filepath.Join(n.dir, "data"), Node: "n1", Log: slog.New(slog.DiscardHandler),
		Describe: deeds.Of}
	if err := cluster.Bootstrap(cfg); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.Cluster, err = cluster.Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	n.log = New(Config{
		Cluster: n.Cluster, Tree: n.Tree(), Sealer: n.Cluster, Origin: "casemate.internal/audit",
		Retain: func() time.Duration { return n.keep }, Now: func() time.Time { return n.now },
		Log: slog.New(slog.DiscardHandler),
	})
	return n
}

// record records count logins, a second apart, of alice and bob in turns.
func (n *node) record(t *testing.T, count int) {
	t.Helper()
	var list []cluster.Occurrence
	for i := range count {
		o := cluster.Occurrence{Event: tree.Event{Verb: "login", Object: fmt.Sprint(i)},
			Actor: tree.Actor{Name: []string{"alice", "bob"}[i%2], How: "password"}, Time: n.now}
		if list = append(list, o); len(list) == cluster.MaxOccurrences || i+1 == count {
			if err := n.Record(t.Context(), list); err != nil {
				t.Fatal(err)
			}
			list = nil
		}
	}
}

func (n *node) export(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := n.log.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (n *node) checkpoint(t *testing.T) []byte {
	t.Helper()
	c, err := n.log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return []byte(c.Checkpoint)
}

func (n *node) verify(t *testing.T, old ...[]byte) *proof.Report {
	t.Helper()
	r, err := proof.Verify(bytes.NewReader(n.export(t)), proof.Options{Checkpoints: old})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTheLogOutlivesItsPlaces: events move from memory into files, and old ones become hashes; lists find what there
// is, and every checkpoint is proven throughout.
func TestTheLogOutlivesItsPlaces(t *testing.T) {
	n := open(t)
	var old [][]byte
	for range 3 {
		n.record(t, 1100)
		old = append(old, n.checkpoint(t))
	}
	if err := n.log.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := n.EventLog()
	if log.First() != 2*proof.SegmentEvents {
		t.Fatalf("%d events are in files", log.First())
	}
	if err := n.log.Seal(t.Context()); err != nil || n.EventLog().Tree().Size() != log.Tree().Size() {
		t.Errorf("sealing is an event, or sealed more: %v", err)
	}
	if r := n.verify(t, old...); len(r.Faults) != 0 || len(r.Proven) != 3 || r.Dropped != 0 {
		t.Errorf("%+v", r)
	}
	list := func(f Filter) Page {
		t.Helper()
		p, err := n.log.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	// Pages from the newest to the oldest are the whole log.
	var pages []string
	count := 0
	for f := (Filter{Actor: "alice", Limit: 400}); ; {
		p := list(f)
		for i, e := range p.Events {
			if e.Actor != "alice" || i > 0 && p.Events[i-1].N >= e.N {
				t.Fatalf("%+v", e)
			}
		}
		count += len(p.Events)
		pages = append(pages, fmt.Sprint(len(p.Events)))
		if f.Before = p.Before; f.Before == 0 {
			break
		}
	}
	if count != 3*550 || strings.Join(pages, " ") != "400 400 400 400 50" {
		t.Errorf("%d events, pages of %v", count, pages)
	}
	if p := list(Filter{Verb: "login", Object: "1099", Actor: "bob"}); len(p.Events) != 3 || p.Before != 0 {
		t.Errorf("%+v", p)
	}
	if p := list(Filter{Verb: "log"}); len(p.Events) != 0 {
		t.Errorf("half a verb: %+v", p)
	}
	if p := list(Filter{Until: n.now.Add(-time.Minute)}); len(p.Events) != 0 {
		t.Errorf("before all: %d", len(p.Events))
	}

	n.keep, n.now = 24*time.Hour, n.now.Add(25*time.Hour)
	if err := n.log.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := n.verify(t, old...); len(r.Faults) != 0 || len(r.Proven) != 3 || r.Dropped != 2*proof.SegmentEvents {
		t.Errorf("after the drop: %+v", r)
	}
	if p := list(Filter{Limit: MaxLimit}); p.Events[0].N != 2*proof.SegmentEvents || p.Before != 0 {
		t.Errorf("the oldest is %d", p.Events[0].N)
	}
	if p := list(Filter{Verb: "audit"}); len(p.Events) != 1 || p.Events[0].Object != "events 0 to 2047" {
		t.Errorf("%+v", p.Events)
	}
	if err := n.log.Drop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDamagedSegmentsAreFound: changes of the files of a log, by whoever has the disk.
func TestDamagedSegmentsAreFound(t *testing.T) {
	n := open(t)
	n.record(t, 2100)
	old := n.checkpoint(t)
	if err := n.log.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := n.Tree().Stat(segmentName(0))
	if err != nil {
		t.Fatal(err)
	}
	hex := strings.TrimPrefix(tree.DigestOf(info), "sha256:")
	var file string
	filepath.WalkDir(n.dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(strings.ReplaceAll(name, "/", ""), hex) {
			file = name
		}
		return nil
	})
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("the blob of the segment: %v", err)
	}
	os.Chmod(file, 0o600)
	rnd := rand.New(rand.NewPCG(5, 6))
	found := func(what string) {
		t.Helper()
		var out bytes.Buffer
		if err := n.log.Export(t.Context(), &out); err != nil {
			return // the tree itself has found it
		}
		r, err := proof.Verify(&out, proof.Options{Checkpoints: [][]byte{old}})
		if err == nil && len(r.Faults) == 0 {
			t.Errorf("%s is not found", what)
		}
	}
	for i := range 60 {
		data := bytes.Clone(whole)
		at := rnd.IntN(len(data))
		switch i % 4 {
		case 0, 1:
			data[at] ^= 1 << rnd.IntN(8)
		case 2:
			data = data[:at]
		case 3:
			lines := bytes.SplitAfter(data, []byte("\n"))
			a, b := rnd.IntN(1000), rnd.IntN(1000)
			if a == b {
				continue
			}
			lines[a], lines[b] = lines[b], lines[a]
			data = bytes.Join(lines, nil)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		found(fmt.Sprintf("change %d at %d", i%4, at))
	}
	if err := n.Tree().Update(t.Context(), func(b cluster.Batch) error { b.Remove("audit"); return nil }); err != nil {
		t.Fatal(err)
	}
	if p, err := n.log.List(t.Context(), Filter{Limit: 1}); err != nil || p.Events[0].Verb != "audit.remove" {
		t.Errorf("the removal itself: %+v, %v", p, err)
	}
	if err := n.log.Export(t.Context(), new(bytes.Buffer)); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "the events 0 to 1023 of the audit log were removed") {
		t.Errorf("removed: %v", err)
	}
}

// TestJournal: a source that tries without end costs a few events, and a count of the others.
func TestJournal(t *testing.T) {
	var got []cluster.Occurrence
	j := &Journal{Now: time.Now, Cluster: recorder(func(list []cluster.Occurrence) error {
		got = append(got, list...)
		return nil
	})}
	for range 1000 {
		j.Note(tree.Actor{Name: "eve", From: "10.0.0.9"}, tree.Event{Verb: "login", Outcome: "refused"})
	}
	j.Note(tree.Actor{Name: "alice", From: "10.0.0.1"}, tree.Event{Verb: "login"})
	for i := range 2000 {
		j.Note(tree.Actor{From: fmt.Sprintf("fd00::%x", i)}, tree.Event{Verb: "login"})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Run(ctx); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, o := range got {
		key := o.Actor.Name + " " + o.Verb
		if count[key]++; o.Verb == SuppressedV && o.Object == "10.0.0.9" && o.New != "990 events were not recorded" {
			t.Errorf("%+v", o)
		}
	}
	if count["eve login"] != burst || count["alice login"] != 1 || count["eve "+SuppressedV] != 1 {
		t.Errorf("%v", count)
	}
	if len(got) > maxWaiting+maxSources+2 {
		t.Errorf("%d events", len(got))
	}
}

// TestStrangersHideNothing: however many failed logins come, from however many addresses, the login of an account is
// recorded, and one host's addresses are one source.
func TestStrangersHideNothing(t *testing.T) {
	flood := map[string]func(i int) string{
		"one address":       func(int) string { return "10.0.0.9" },
		"one host's":        func(i int) string { return fmt.Sprintf("2001:db8::%x", i) },
		"many hosts":        func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i) },
		"without addresses": func(int) string { return "" },
	}
	for what, address := range flood {
		var got []cluster.Occurrence
		j := &Journal{Now: time.Now, Cluster: recorder(func(list []cluster.Occurrence) error {
			got = append(got, list...)
			return nil
		})}
		for i := range 20_000 {
			j.Note(tree.Actor{Name: fmt.Sprint("guess", i), From: address(i)},
				tree.Event{Verb: "user.login", Outcome: "refused"})
		}
		j.Note(tree.Actor{Name: "ada", How: "password", From: address(0)}, tree.Event{Verb: "user.login"})
		j.Note(tree.Actor{Name: "eve", How: "token", From: address(0)}, tree.Event{Verb: "access.refuse", Outcome: "x"})
		j.renew()
		if err := j.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, o := range got {
			who := o.Actor.Name
			if o.Actor.How == "" {
				who = "a stranger"
			}
			count[who+" "+o.Verb]++
		}
		hosts := map[string]int{"many hosts": maxWaiting / 2}
		if count["ada user.login"] != 1 || count["eve access.refuse"] != 1 ||
			count["a stranger user.login"] > max(burst, hosts[what]) || count["a stranger "+SuppressedV] == 0 {
			t.Errorf("%s: %v", what, count)
		}
	}
}

type recorder func([]cluster.Occurrence) error

func (r recorder) Record(_ context.Context, list []cluster.Occurrence) error {
	if len(list) > cluster.MaxOccurrences {
		return errors.New("too many")
	}
	return r(list)
}
