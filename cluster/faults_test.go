package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"casemate/cluster"
	"casemate/cluster/blob/blobtest"
	"casemate/cluster/clustertest"
	events "casemate/cluster/tree"
)

// What a random run writes and reads. Every value of a record is written once. Blobs are few, so that the same one is
// pushed, named, forgotten, collected and pushed again.
const (
	writers  = 4
	names    = 6 // of each kind
	blobs    = 4 // that the writers share
	someTime = 300 * time.Millisecond
)

// op is one thing that a client did, as it looked from outside.
type op struct {
	event    string // the object of the event that tells it, unique; "" if it is no write
	kind     string // put, link, remove, expect, miss, final
	value    string // that was written, or read by final ("" is absent)
	expected string // by expect ("" is absent)
	outcome  outcome
	call     int64
	done     int64 // math.MaxInt64: nobody knows
}

type outcome int

func (o outcome) String() string {
	return [...]string{"acknowledged", "unknown", "refused", "conflicted"}[o]
}

const (
	acked outcome = iota
	unknown
	refused    // definitely not done
	conflicted // definitely not done because the expectation did not hold
)

// hit is a read that found something.
type hit struct {
	call, done int64
	life       string // node and how often it had lost its power by then
	value      string
	version    uint64
}

// record is the history of a run.
type record struct {
	mu    sync.Mutex
	clock int64
	ops   map[string][]op
	hits  map[string][]hit
	count atomic.Int64 // ops that have ended
}

func (h *record) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// end notes an operation.
func (h *record) end(key string, o op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o.done = h.clock
	if o.outcome == unknown {
		o.done = math.MaxInt64
	}
	h.ops[key] = append(h.ops[key], o)
	h.count.Add(1)
}

// result sorts an error. Everything that does not say that it is unknown is definite.
func result(err error) outcome {
	switch {
	case err == nil:
		return acked
	case errors.Is(err, cluster.ErrUnknown):
		return unknown
	default:
		return refused
	}
}

// model is what one name may do. Writes that were acknowledged, expectations that were refused, and confirmed misses
// take effect at one moment between call and answer; a write whose outcome is unknown takes effect at one moment after
// its call, or never, which is the same as at the very end; what was refused with another error has not happened and is
// left out. Reads that hit may be as old as the node's lag (promise 4) and are not in it: see misread. The final read
// is, after everything.
var model = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		now, o := state.(string), input.(op)
		switch o.kind {
		case "put", "link":
			return true, o.value
		case "remove":
			return true, ""
		case "expect":
			switch {
			case o.outcome == conflicted:
				return now != o.expected, now
			case now == o.expected:
				return true, o.value
			default:
				return o.outcome == unknown, now
			}
		case "miss":
			return now == "", now
		case "final":
			return now == o.value, now
		}
		panic(o.kind)
	},
	DescribeOperation: func(input, _ any) string { return describe(input.(op)) },
}

func describe(o op) string {
	done := fmt.Sprint(o.done)
	if o.done == math.MaxInt64 {
		done = "∞"
	}
	return fmt.Sprintf("%d…%s %s %.30q expected %.30q %v", o.call, done, o.kind, o.value, o.expected, o.outcome)
}

// judge returns the errors in one name's history, and whether it could be decided.
func (h *record) judge(key string) (decided bool, wrong error) {
	var list []porcupine.Operation
	for i, o := range h.ops[key] {
		if o.outcome != refused {
			list = append(list, porcupine.Operation{ClientId: i, Input: o, Call: o.call, Return: o.done})
		}
	}
	verdict := porcupine.CheckOperationsTimeout(model, list, 20*time.Second)
	if verdict == porcupine.Illegal {
		wrong = errors.New("not linearizable")
	}
	if wrong = errors.Join(wrong, h.lost(key), h.misread(key)); wrong != nil {
		wrong = fmt.Errorf("%s: %w\n%s", key, wrong, h.tell(key))
	}
	return verdict != porcupine.Unknown, wrong
}

// wrote reports whether an operation has written, or may have.
func (o op) wrote() bool {
	return o.kind != "miss" && o.kind != "final" && (o.outcome == acked || o.outcome == unknown)
}

// lost says in plain words what the model would say too, and also where that could not decide: the last value is one
// that was written, was not refused, and was not followed by an acknowledged write.
func (h *record) lost(key string) error {
	ops := h.ops[key]
	if len(ops) == 0 || ops[len(ops)-1].kind != "final" {
		return errors.New("the history has no end")
	}
	final := ops[len(ops)-1]
	possible := final.value == "" // as it was at first
	after := int64(0)
	for _, o := range ops {
		if o.wrote() && o.value == final.value && o.done >= after {
			possible, after = true, o.done
		}
	}
	if !possible {
		return fmt.Errorf("it is %.40q, which was never written, or was refused", final.value)
	}
	for _, o := range ops {
		if o.wrote() && o.outcome == acked && o.call > after {
			return fmt.Errorf("it is %.40q, and the acknowledged %s is lost", final.value, describe(o))
		}
	}
	return nil
}

// misread: a read that hits returns a value that was written and not refused, and not before that write began; the
// values of one node never go back, unless it has lost its power.
func (h *record) misread(key string) error {
	newest := map[string][]hit{}
	for _, r := range h.hits[key] {
		if !slices.ContainsFunc(h.ops[key], func(o op) bool {
			return o.wrote() && o.value == r.value && o.call < r.done
		}) {
			return fmt.Errorf("%s read %.40q, which nobody had written", r.life, r.value)
		}
		for _, before := range newest[r.life] {
			if before.done < r.call && before.version > r.version {
				return fmt.Errorf("%s read version %d and later %d", r.life, before.version, r.version)
			}
		}
		newest[r.life] = append(newest[r.life], r)
	}
	return nil
}

// The judge itself is tested: with histories that it must reject, and with some that it must accept.
func TestJudge(t *testing.T) {
	put := func(value string, o outcome, call, done int64) op {
		if o == unknown {
			done = math.MaxInt64
		}
		return op{kind: "put", value: value, outcome: o, call: call, done: done}
	}
	miss := func(call, done int64) op { return op{kind: "miss", call: call, done: done} }
	final := func(value string) op { return op{kind: "final", value: value, call: 90, done: 91} }
	expect := func(expected, value string, o outcome, call, done int64) op {
		return op{kind: "expect", expected: expected, value: value, outcome: o, call: call, done: done}
	}
	for _, c := range []struct {
		what string
		ops  []op
		hits []hit
		ok   bool
	}{
		{"nothing", []op{final("")}, nil, true},
		{"one write", []op{put("a", acked, 1, 2), final("a")}, nil, true},
		{"a lost write", []op{put("a", acked, 1, 2), final("")}, nil, false},
		{"an older write over a newer one", []op{put("a", acked, 1, 2), put("b", acked, 3, 4), final("a")}, nil, false},
		{"writes at the same time", []op{put("a", acked, 1, 4), put("b", acked, 2, 3), final("a")}, nil, true},
		{"an unknown write that happened late", []op{put("a", unknown, 1, 0), put("b", acked, 3, 4), final("a")},
			nil, true},
		{"an unknown write that did not happen", []op{put("a", unknown, 1, 0), final("")}, nil, true},
		{"a refused write that happened", []op{put("a", refused, 1, 2), final("a")}, nil, false},
		{"a miss after a write", []op{put("a", acked, 1, 2), miss(3, 4), final("a")}, nil, false},
		{"a miss during a write", []op{put("a", acked, 1, 4), miss(2, 3), final("a")}, nil, true},
		{"a write that two expectations had", []op{expect("", "a", acked, 1, 2), expect("", "b", acked, 3, 4),
			final("b")}, nil, false},
		{"an expectation refused rightly", []op{put("a", acked, 1, 2), expect("", "b", conflicted, 3, 4), final("a")},
			nil, true},
		{"an expectation refused wrongly", []op{put("a", acked, 1, 2), expect("a", "b", conflicted, 3, 4), final("a")},
			nil, false},
		{"an old hit", []op{put("a", acked, 1, 2), put("b", acked, 3, 4), final("b")}, []hit{{5, 6, "n1/0", "a", 1}},
			true},
		{"a hit that goes back", []op{put("a", acked, 1, 2), put("b", acked, 3, 4), final("b")},
			[]hit{{5, 6, "n1/0", "b", 2}, {7, 8, "n1/0", "a", 1}}, false},
		{"a hit that goes back after a power cut", []op{put("a", acked, 1, 2), put("b", acked, 3, 4), final("b")},
			[]hit{{5, 6, "n1/0", "b", 2}, {7, 8, "n1/1", "a", 1}}, true},
		{"a hit from nowhere", []op{put("a", acked, 5, 6), final("a")}, []hit{{1, 2, "n1/0", "a", 1}}, false},
		{"a hit of what was refused", []op{put("a", refused, 1, 2), final("")}, []hit{{3, 4, "n1/0", "a", 1}}, false},
	} {
		h := &record{ops: map[string][]op{"k": c.ops}, hits: map[string][]hit{"k": c.hits}}
		if _, wrong := h.judge("k"); (wrong == nil) != c.ok {
			t.Errorf("%s: %v", c.what, wrong)
		}
	}
}

func (h *record) tell(key string) string {
	var b strings.Builder
	ops := slices.Clone(h.ops[key])
	slices.SortFunc(ops, func(a, b op) int { return int(a.call - b.call) })
	for _, o := range ops {
		fmt.Fprintln(&b, "  ", describe(o))
	}
	return b.String()
}

// faults is a run.
type faults struct {
	t    *testing.T
	cl   *clustertest.Cluster
	h    *record
	r    *rand.Rand // the nemesis's
	seed uint64
	over atomic.Bool

	contents [][]byte     // see contents
	image    *blobtest.FS // a node's disk as it was once, nil if there is none
	imageOf  *clustertest.Node
	logs     barriers // that the nemesis can let hang, nil in most histories
	stale    int      // how often it has done so

	mu    sync.Mutex
	asked []*clustertest.Node // by clients: cl.Nodes is the nemesis's
	lives map[string]int      // how often a node has lost its power
}

func (f *faults) life(n *clustertest.Node) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%s/%d", n.Name, f.lives[n.Name])
}

// someNode returns a node that a client may ask.
func (f *faults) someNode(r *rand.Rand) *clustertest.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[r.IntN(len(f.asked))]
}

// ask lets the clients ask the nodes that there are now.
func (f *faults) ask() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = slices.Clone(f.cl.Nodes)
}

func (f *faults) died(nodes ...*clustertest.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range nodes {
		f.lives[n.Name]++
	}
}

// contents are the bytes of the blobs that the writers share: one is so large that copies begin while it is written.
func contents(seed uint64) (list [][]byte) {
	for which := range blobs {
		size := 2000 + which
		if which == 0 {
			size = 1<<20 + 300_000
		}
		list = append(list, noise(size, seed<<8|uint64(which)))
	}
	return list
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// client plays one writer until the run is over.
func (f *faults) client(id int) {
	r := rand.New(rand.NewPCG(f.seed, uint64(id+1)))
	ctx := context.Background()
	for i := 0; !f.over.Load(); i++ {
		n := f.someNode(r)
		f.think(r)
		life := f.life(n)
		c := n.Live()
		if c == nil || life != f.life(n) { // a process that began in between may be one of another life
			continue
		}
		tree := c.Tree()
		rec := fmt.Sprintf("record/%d", r.IntN(names))
		link := fmt.Sprintf("link/%d", r.IntN(names))
		value := fmt.Sprintf("%d.%d.%d", f.seed, id, i)
		update := func(key string, o op, fn func(b cluster.Batch)) {
			o.event = value
			told := events.WithEvent(events.WithActor(ctx, events.Actor{Name: "client"}),
				events.Event{Verb: "write", Object: o.event})
			o.call = f.h.now()
			err := tree.Update(told, func(b cluster.Batch) error { fn(b); return nil })
			if o.outcome = result(err); o.kind == "expect" && errors.Is(err, fs.ErrExist) {
				o.outcome = conflicted
			}
			f.h.end(key, o)
			if o.outcome == refused {
				f.pause()
			}
			if o.outcome == acked && o.value != "" && o.kind != "link" {
				f.read(tree, life, key) // one's own write, or a newer one (promise 3): see misread
			}
		}
		switch r.IntN(10) {
		case 0, 1:
			update(rec, op{kind: "put", value: value}, func(b cluster.Batch) {
				b.Put(rec, []byte(value))
				for j := range r.IntN(40) { // sometimes more than an entry takes
					b.Put(fmt.Sprintf("fill/%d/%d", id, j), bytes.Repeat([]byte("x"), 100))
				}
			})
		case 2:
			key := []string{rec, link}[r.IntN(2)]
			update(key, op{kind: "remove"}, func(b cluster.Batch) { b.Remove(key) })
		case 3:
			old, version, _, err := tree.Look(rec)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			update(rec, op{kind: "expect", value: value, expected: old}, func(b cluster.Batch) {
				b.Expect(rec, version)
				b.Put(rec, []byte(value))
			})
		case 4, 5, 6:
			data := f.contents[r.IntN(blobs)]
			digest := digestOf(data)
			if r.IntN(4) > 0 { // otherwise it is named if it is known, as a mount is
				if err := push(c, data, []string{"", fmt.Sprint("up", id)}[r.IntN(2)]); err != nil {
					f.h.count.Add(1)
					f.pause()
					continue
				}
			}
			update(link, op{kind: "link", value: digest}, func(b cluster.Batch) { b.Link(link, digest) })
		default:
			f.read(tree, life, []string{rec, link}[r.IntN(2)])
		}
	}
}

func push(c *cluster.Cluster, data []byte, id string) error {
	w, err := c.Tree().CreateBlob(id)
	if err != nil {
		return err
	}
	defer w.Close()
	for piece := range slices.Chunk(data, 128<<10) {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	_, err = w.Commit(context.Background(), "")
	return err
}

func (f *faults) read(tree *cluster.Tree, life, key string) {
	call := f.h.now()
	value, version, sure, err := tree.Look(key)
	switch {
	case err == nil:
		f.h.mu.Lock()
		f.h.clock++
		f.h.hits[key] = append(f.h.hits[key], hit{call, f.h.clock, life, value, version})
		f.h.mu.Unlock()
	case errors.Is(err, fs.ErrNotExist) && sure:
		f.h.end(key, op{kind: "miss", call: call})
	case !errors.Is(err, fs.ErrNotExist):
		f.t.Errorf("seed %d: read %s: %v", f.seed, key, err)
	}
	f.h.count.Add(1)
}

// think is what a client does between two questions; it lets the bubble's time pass.
func (f *faults) think(r *rand.Rand) { time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond) }

// pause lets a client that was refused ask again a little later, as clients do.
func (f *faults) pause() { time.Sleep(100 * time.Millisecond) }

// some waits until the clients have got somewhere, or cannot.
func (f *faults) some(ops int) {
	end := time.Now().Add(someTime)
	for from := f.h.count.Load(); f.h.count.Load() < from+int64(ops) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// nemesis plays one fault, and sometimes ends it.
func (f *faults) nemesis() {
	cl, r := f.cl, f.r
	n := cl.Nodes[r.IntN(len(cl.Nodes))]
	var others []string
	for _, m := range cl.Nodes {
		if m != n {
			others = append(others, m.Name)
		}
	}
	other := others[r.IntN(len(others))]
	// Nodes that their disk has stopped are started again: on the same disk, or after a power cut.
	for _, m := range cl.Nodes {
		if m.C == nil {
			continue
		}
		select {
		case <-m.C.Done():
			f.died(m)
			if r.IntN(2) == 0 {
				f.t.Logf("nemesis: %s has stopped: %v", m.Name, m.C.Err())
				m.Die()
			} else {
				f.t.Logf("nemesis: %s has stopped and loses power: %v", m.Name, m.C.Err())
				m.PowerCut()
			}
			f.start(m)
		default:
		}
	}
	what := r.IntN(18)
	f.t.Logf("nemesis: %d at %s, %s", what, n.Name, other)
	switch what {
	case 0:
		cl.Net.Cut([]string{n.Name}, others)
	case 1:
		cl.Net.Cut([]string{n.Name}, []string{other})
	case 2:
		cl.Net.CutOneWay(n.Name, other)
	case 3:
		cl.Net.Slow(n.Name, other, time.Duration(1+r.IntN(60))*time.Millisecond)
	case 4, 5:
		cl.Net.Heal()
	case 6:
		if n.C != nil {
			n.Stop()
		}
	case 7:
		if n.C != nil {
			f.died(n)
			n.PowerCut()
		}
	case 8:
		if r.IntN(2) == 0 {
			f.died(cl.Nodes...)
			cl.PowerCut()
			for _, m := range cl.Nodes {
				if r.IntN(3) > 0 {
					f.start(m)
				}
			}
		}
	case 9:
		if n.C != nil {
			n.FailSync(r.IntN(30), r.IntN(2) == 0)
		}
	case 10, 11:
		if n.C != nil {
			if r.IntN(3) > 0 {
				n.SetForward(2 * time.Minute)
			}
			ctx, cancel := context.WithTimeout(context.Background(), someTime)
			n.C.GC(ctx, false)
			cancel()
		}
	case 12:
		if n.C != nil {
			n.C.Snapshot() // there may be nothing new
		}
	case 13:
		f.image, f.imageOf = n.FS.Image(), n
	case 14, 15:
		f.revert()
	case 16:
		f.askStaleLeader()
	default:
		for _, m := range cl.Nodes {
			f.start(m)
		}
	}
	f.some(r.IntN(60))
}

// revert puts a node's disk back to what it was once. The others are there and can be reached, so that it hears of what
// it has lost: with a second fault at the same time what was acknowledged may be gone, as for any cluster of three.
func (f *faults) revert() {
	n := f.imageOf
	if n == nil {
		return
	}
	f.cl.Net.Heal()
	for _, m := range f.cl.Nodes {
		m.FS.Fault(nil)
	}
	f.revive()
	f.cl.Leader()
	f.died(n)
	n.Revert(f.image)
	f.start(n)
	f.cl.Wait(func() error {
		f.revive()
		for _, m := range n.C.Members() {
			if !m.Up || m.Role == "leader" && n.C.Index() < m.Applied {
				return fmt.Errorf("%s hears %s: %v, and is at %d of %d", n.Name, m.Node, m.Up, n.C.Index(), m.Applied)
			}
		}
		return nil
	})
}

// askStaleLeader cuts the leader off and asks it, as long as it may think that it leads, and after that. Its lease ends
// before another can lead; where its log hangs it does not notice, and what the other one has acknowledged meanwhile it
// must not deny.
func (f *faults) askStaleLeader() {
	for _, n := range f.cl.Nodes {
		if n.C == nil || n.C.Status().Role != "leader" {
			continue
		}
		if g := f.logs[n.Name]; g != nil {
			open := g.hold()
			var writing sync.WaitGroup
			defer writing.Wait()
			defer open()
			writing.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), someTime)
				defer cancel()
				n.C.Tree().Update(ctx, func(b cluster.Batch) error { b.Put("hangs", nil); return nil })
			})
			f.until(func() bool { return g.waiting.Load() > 0 })
		}
		f.cl.Net.Cut([]string{n.Name}, otherNames(f.cl, n))
		if f.logs != nil {
			f.deny(n)
		}
		for range 20 {
			for key := range f.keys() {
				f.read(n.C.Tree(), f.life(n), key)
			}
			time.Sleep(20 * time.Millisecond)
		}
		return
	}
}

// deny writes a new name where another node leads, and looks for it at one that led before.
func (f *faults) deny(old *clustertest.Node) {
	key := fmt.Sprint("stale/", f.stale)
	f.stale++
	f.until(func() bool {
		for _, n := range others(f.cl, old) {
			if n.C == nil || n.C.Status().Role != "leader" {
				continue
			}
			o := op{kind: "put", value: fmt.Sprint(f.seed, key), call: f.h.now()}
			o.outcome = result(n.Put(key, o.value))
			f.h.end(key, o)
			f.read(old.C.Tree(), f.life(old), key)
			return true
		}
		return false
	})
}

// until waits for a condition, a second at most.
func (f *faults) until(holds func() bool) {
	for end := time.Now().Add(time.Second); !holds() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// loseDisk takes one node's disk away for good, while the clients go on: it is removed, and another one joins in its
// place. No other fault is left by then, a second disk that came back older among them: what only the two had would be
// gone.
func (f *faults) loseDisk() {
	cl := f.cl
	cl.Net.Heal()
	for _, n := range cl.Nodes {
		n.FS.Fault(nil)
	}
	lost := cl.Nodes[f.r.IntN(len(cl.Nodes))]
	rest := others(cl, lost)
	cl.Wait(func() error {
		f.revive()
		for _, n := range cl.Nodes {
			if n.C.Missing() != 0 {
				return fmt.Errorf("%s is missing %d blobs", n.Name, n.C.Missing())
			}
			for _, m := range n.C.Members() {
				if !m.Up || m.Role == "learner" || m.Role == "leader" && n.C.Index() < m.Applied {
					return fmt.Errorf("%s is at %d and says of %s: %+v", n.Name, n.C.Index(), m.Node, m)
				}
			}
		}
		return nil
	})
	f.t.Logf("the disk of %s is lost for good", lost.Name)
	lost.PowerCut()
	cl.Wait(func() error {
		f.revived(rest)
		return rest[0].C.RemoveMember(context.Background(), lost.Name, false)
	})
	cl.Join()
	cl.Nodes = slices.DeleteFunc(cl.Nodes, func(n *clustertest.Node) bool { return n == lost })
	f.ask()
	cl.WaitVoters(3)
	if f.imageOf == lost {
		f.image, f.imageOf = nil, nil
	}
}

func (f *faults) start(n *clustertest.Node) {
	if n.C == nil {
		err := n.TryStart()
		if err != nil && n.Failed() { // the disk's fault came just now
			n.FS.Fault(nil)
			err = n.TryStart()
		}
		if err != nil {
			f.t.Fatalf("seed %d: %s does not start: %v", f.seed, n.Name, err)
		}
	}
}

// end heals everything, waits until the nodes are equal, and checks what is there.
func (f *faults) end() {
	t, cl := f.t, f.cl
	cl.Net.Heal()
	for _, n := range cl.Nodes {
		n.FS.Fault(nil)
	}
	f.revive()
	var err error
	// what the log has is applied before this
	cl.Wait(func() error { f.revive(); err = cl.Nodes[0].Put("end", "x"); return err })
	f.equal()
	cl.WaitVoters(3)
	first := cl.Nodes[0].C
	for key := range f.keys() {
		call := f.h.now()
		value, _, _, err := first.Tree().Look(key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", key, err)
		}
		f.h.end(key, op{kind: "final", value: value, call: call})
	}
	f.whole()
	f.told()
	// After a collection on every node, each disk has exactly the named blobs.
	for _, n := range cl.Nodes {
		n.SetForward(time.Hour)
		cl.Wait(func() error { _, err := n.C.GC(context.Background(), false); return err })
	}
	f.equal()
	f.whole()
	for _, n := range cl.Nodes {
		cl.Wait(func() error {
			list, err := n.C.OnDisk()
			for _, d := range list {
				if !n.C.Knows(d) {
					return fmt.Errorf("%s has %s, which nothing names", n.Name, d)
				}
			}
			return err
		})
	}
}

// told: each write that was acknowledged is one event, one whose outcome is unknown at most one, and one that was
// refused is none that was done. The log is the same on all nodes, as their states are. A node that has lost its disk
// may not know of events when it proposes: the state tells its write by the name.
func (f *faults) told() {
	f.t.Helper()
	done, all, changes := map[string]int{}, map[string]int{}, map[string]int{}
	for _, line := range f.cl.Nodes[0].C.EventLog().Lines(0) {
		var e struct{ Actor, Verb, Object, Outcome string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.t.Fatal(err)
		}
		if e.Verb == "change" {
			changes[e.Object]++
		}
		if e.Actor == "client" {
			all[e.Object]++
			if e.Outcome == "" {
				done[e.Object]++
			}
		}
	}
	for key := range f.keys() {
		for _, o := range f.h.ops[key] {
			if o.event == "" {
				continue
			}
			n := done[o.event]
			if n == 0 && o.outcome == acked && changes[key] > 0 {
				changes[key]--
				continue
			}
			if all[o.event] > 1 || o.outcome == acked && n != 1 ||
				o.outcome != acked && o.outcome != unknown && n != 0 {
				f.t.Errorf("%s: %s is told by %d events, %d of them done", key, describe(o), all[o.event], n)
			}
			delete(all, o.event)
		}
	}
	if len(all) > 0 {
		f.t.Errorf("%d events tell of writes that nobody made: %v", len(all), all)
	}
}

// verdict judges the history.
func (f *faults) verdict() {
	tally := map[string]int{}
	for key := range f.keys() {
		decided, wrong := f.h.judge(key)
		if wrong != nil {
			f.t.Error(wrong)
		}
		if !decided {
			tally["undecided"]++
		}
		for _, o := range f.h.ops[key] {
			tally[fmt.Sprint(o.kind, " ", o.outcome)]++
		}
		tally["hit"] += len(f.h.hits[key])
	}
	f.t.Logf("seed %d: %v", f.seed, tally)
}

// revive starts what is down, and what its disk has stopped: a fault may show late, such as one that came while the
// log's segments were changed.
func (f *faults) revive() { f.revived(f.cl.Nodes) }

func (f *faults) revived(nodes []*clustertest.Node) {
	for _, n := range nodes {
		if n.C != nil {
			select {
			case <-n.C.Done():
				if n.Failed() {
					n.Die()
				}
			default:
			}
		}
		f.start(n)
	}
}

func (f *faults) keys() func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := range names {
			for _, kind := range []string{"record", "link"} {
				if !yield(fmt.Sprintf("%s/%d", kind, i)) {
					return
				}
			}
		}
		for i := range f.stale {
			if !yield(fmt.Sprint("stale/", i)) {
				return
			}
		}
	}
}

// equal waits until all nodes have the same state, byte for byte, and no node is missing a blob.
func (f *faults) equal() {
	f.t.Helper()
	f.cl.Wait(func() error {
		f.revive()
		want := f.cl.Nodes[0].C.StateBytes()
		for _, n := range f.cl.Nodes {
			if got := n.C.StateBytes(); !bytes.Equal(got, want) {
				return fmt.Errorf("%s and %s differ: %d bytes at %d, and %d at %d", n.Name, f.cl.Nodes[0].Name,
					len(got), n.C.Index(), len(want), f.cl.Nodes[0].C.Index())
			}
			for _, m := range n.C.Members() {
				if m.Missing != 0 {
					return fmt.Errorf("%s says that %s lacks %d", n.Name, m.Node, m.Missing)
				}
			}
		}
		return nil
	})
}

// whole: every name opens on every node and has the bytes that its digest says, and so has every blob on every disk.
func (f *faults) whole() {
	f.t.Helper()
	for _, n := range f.cl.Nodes {
		if r, err := n.C.Scrub(context.Background()); err != nil || r.Faults > 0 {
			f.t.Errorf("%s: scrub: %+v, %v", n.Name, r, err)
		}
		for name, i := range n.C.Tree().Walk("link", "") {
			file, err := n.C.Tree().Open(name)
			if err != nil {
				f.t.Errorf("%s: %v", n.Name, err)
				continue
			}
			data, err := io.ReadAll(file.(io.Reader))
			file.Close()
			if want := i.(interface{ Digest() string }).Digest(); err != nil || digestOf(data) != want {
				f.t.Errorf("%s: %s has %d bytes of %s, wanted %s: %v", n.Name, name, len(data), digestOf(data),
					want, err)
			}
		}
	}
}

// Random faults under random writes (promises 1, 3, 4, 6, 7, 9, 11): whatever was acknowledged is there in the end, on
// every node, nothing that was refused is, and every name has its bytes. The seed decides what the clients and the
// nemesis try; how that meets is up to the scheduler, so a seed that failed may have to be played a few times.
func TestFaults(t *testing.T) {
	for seed := range uint64(cluster.Seeds()) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := &faults{
				t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), lives: map[string]int{},
				h: &record{ops: map[string][]op{}, hits: map[string][]hit{}},
			}
			clustertest.Run(t, f.play)
			f.t = t
			f.verdict()
			if t.Failed() {
				t.Logf("seed %d failed: go test ./cluster -run 'TestFaults/^%d$' -seeds %d", seed, seed, seed+1)
			}
		})
	}
}

func (f *faults) play(t *testing.T) {
	f.t, f.contents = t, contents(f.seed)
	if f.seed%4 == 3 {
		f.logs = newBarriers("n1", "n2", "n3")
	}
	f.cl = clustertest.New(t, 3, func(c *cluster.Config) {
		cluster.Small(c)
		if f.logs != nil { // see pass
			cluster.KeepLog(c)
			f.logs.tune(c)
		}
		cluster.Impatient(c, 2*time.Second)
		c.LeaderWait, c.PinTime = time.Second, time.Minute
		c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With(
			"node", c.Node)
	})
	f.ask()
	var clients sync.WaitGroup
	for id := range writers {
		clients.Go(func() { f.client(id) })
	}
	func() {
		defer clients.Wait() // before the wires are whole: every write ends all the same
		defer f.over.Store(true)
		for step := range 12 {
			if f.seed%4 == 1 && step == 3+int(f.seed/4)%8 {
				f.loseDisk()
			}
			f.nemesis()
		}
	}()
	f.end()
}
