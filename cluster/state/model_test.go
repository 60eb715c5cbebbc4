package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
)

// model is the tree written down as plainly as can be: maps, copied whole for each command, references counted by
// looking. It sweeps at once.
type model struct {
	index    uint64
	names    map[string][]mnode // newest claim first
	blobs    map[Digest]mblob
	tombs    map[Digest]uint64
	stages   map[string]mstage
	sessions map[string]msession
}

type mnode struct {
	claim   string
	version uint64
	mod     int64
	data    string
	digest  Digest
	holds   []Digest
	weak    bool
}

type mblob struct {
	size int64
	born uint64
	pin  int64
}

type mstage struct {
	until int64
	ops   []Op
}

type msession struct {
	boot, finished uint64
	outcomes       map[uint64]moutcome
}

type moutcome struct {
	index uint64
	code  Code
}

func newModel() *model {
	return &model{names: map[string][]mnode{}, blobs: map[Digest]mblob{}, tombs: map[Digest]uint64{},
		stages: map[string]mstage{}, sessions: map[string]msession{}}
}

func (m *model) copy() *model {
	c := newModel()
	c.index = m.index
	for k, v := range m.names {
		c.names[k] = slices.Clone(v)
	}
	maps.Copy(c.blobs, m.blobs)
	maps.Copy(c.tombs, m.tombs)
	for k, v := range m.stages {
		v.ops = slices.Clone(v.ops)
		c.stages[k] = v
	}
	for k, v := range m.sessions {
		v.outcomes = maps.Clone(v.outcomes)
		c.sessions[k] = v
	}
	return c
}

// apply returns the model after the command, the code of its refusal (0 is none) and the index of its outcome.
func (m *model) apply(index uint64, c *Command) (*model, Code, uint64) {
	base := m.copy()
	base.index = index
	if c.Node != "" {
		if c.Seq == 0 || c.Finished >= c.Seq {
			return base, CodeInvalid, index
		}
		se, ok := base.sessions[c.Node]
		if c.Boot < se.boot {
			return base, CodeOldBoot, index
		}
		if !ok || c.Boot > se.boot {
			se = msession{boot: c.Boot, outcomes: map[uint64]moutcome{}}
		}
		if c.Seq <= se.finished {
			return base, CodeFinished, index
		}
		if o, ok := se.outcomes[c.Seq]; ok {
			return base, o.code, o.index
		}
		se.finished = max(se.finished, c.Finished)
		maps.DeleteFunc(se.outcomes, func(seq uint64, _ moutcome) bool { return seq <= se.finished })
		base.sessions[c.Node] = se
	}
	next := base.copy()
	code := next.batch(base, c)
	if code != 0 {
		next = base
	}
	if c.Node != "" {
		next.sessions[c.Node].outcomes[c.Seq] = moutcome{index, code}
	}
	return next, code, index
}

func (m *model) batch(before *model, c *Command) Code {
	staged := map[string][]Op{}
	for _, op := range c.Ops {
		expects := []Op{op}
		switch op := op.(type) {
		case *Stage:
			staged[op.ID] = append(staged[op.ID], op.Ops...)
		case *Publish:
			expects = append(slices.Clone(before.stages[op.ID].ops), staged[op.ID]...)
		}
		for _, x := range expects {
			if x, ok := x.(*Expect); ok && before.version(x.Name) != x.Version {
				return CodeVersion
			}
		}
	}
	for _, op := range c.Ops {
		if code := m.op(c.Time, op); code != 0 {
			return code
		}
	}
	return 0
}

func (m *model) version(name string) uint64 {
	if l := m.names[name]; len(l) > 0 {
		return l[0].version
	}
	return 0
}

func (m *model) strong(d Digest) int {
	n := 0
	for _, l := range m.names {
		for _, x := range l {
			if !x.weak && (x.digest == d || slices.Contains(x.holds, d)) {
				n++
			}
		}
	}
	for _, st := range m.stages {
		for _, op := range st.ops {
			op.(staging).keeps(func(k Digest) {
				if k == d {
					n++
				}
			})
		}
	}
	return n
}

func (m *model) pin(d Digest, until int64) {
	b := m.blobs[d]
	b.pin = max(b.pin, until)
	m.blobs[d] = b
}

func (m *model) place(name string, n mnode) Code {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := m.names[dir]; ok {
			return CodeConflict
		}
	}
	for other := range m.names {
		if strings.HasPrefix(other, name+"/") {
			return CodeConflict
		}
	}
	rest := slices.DeleteFunc(slices.Clone(m.names[name]), func(x mnode) bool { return x.claim == n.claim })
	n.version = m.index
	m.names[name] = append([]mnode{n}, rest...)
	return 0
}

// drop removes the nodes that gone says, from all names.
func (m *model) drop(gone func(name string, n mnode) bool) {
	for name, l := range m.names {
		l = slices.DeleteFunc(l, func(n mnode) bool { return gone(name, n) })
		if m.names[name] = l; len(l) == 0 {
			delete(m.names, name)
		}
	}
}

func (m *model) op(now int64, op Op) Code {
	switch op := op.(type) {
	case *Put:
		return m.place(op.Name, mnode{claim: op.Claim, mod: now, data: string(op.Data)})
	case *Link:
		for _, d := range append([]Digest{op.Digest}, op.Holds...) {
			if _, ok := m.blobs[d]; !ok {
				return CodeNoBlob
			}
		}
		return m.place(op.Name, mnode{claim: op.Claim, mod: now, digest: op.Digest, holds: op.Holds})
	case *LinkWeak:
		if _, ok := m.blobs[op.Digest]; !ok {
			return CodeNoBlob
		}
		m.pin(op.Digest, op.Until)
		return m.place(op.Name, mnode{claim: op.Claim, mod: now, digest: op.Digest, weak: true})
	case *Remove:
		m.drop(func(name string, _ mnode) bool {
			return op.Name == "." || name == op.Name || strings.HasPrefix(name, op.Name+"/")
		})
	case *AddBlob:
		if b, ok := m.blobs[op.Digest]; ok {
			if b.size != op.Size {
				return CodeInvalid
			}
		} else {
			if op.Confirmed >= m.index {
				return CodeInvalid
			}
			if op.Confirmed < m.tombs[op.Digest] {
				return CodeCollected
			}
			delete(m.tombs, op.Digest)
			m.blobs[op.Digest] = mblob{size: op.Size, born: m.index}
		}
		m.pin(op.Digest, op.Until)
	case *Expire:
		for d, b := range m.blobs {
			if b.pin <= op.Now {
				b.pin = 0
				m.blobs[d] = b
			}
		}
		maps.DeleteFunc(m.stages, func(_ string, st mstage) bool { return st.until <= op.Now })
	case *Collect:
		for _, d := range op.Digests {
			if b, ok := m.blobs[d]; ok && (b.pin != 0 || m.strong(d) != 0) {
				continue
			}
			delete(m.blobs, d)
			m.tombs[d] = m.index
			m.drop(func(_ string, n mnode) bool { return n.weak && n.digest == d })
		}
	case *Stage:
		st := m.stages[op.ID]
		if op.From != 0 && op.From != uint64(len(st.ops)) {
			return CodeNoStage
		}
		for _, x := range op.Ops {
			code := Code(0)
			x.(staging).keeps(func(d Digest) {
				if _, ok := m.blobs[d]; !ok {
					code = CodeNoBlob
				}
			})
			if code != 0 {
				return code
			}
		}
		st.ops = append(st.ops, op.Ops...)
		st.until = max(st.until, op.Until)
		m.stages[op.ID] = st
	case *Publish:
		st, ok := m.stages[op.ID]
		if !ok {
			return CodeNoStage
		}
		for _, x := range st.ops {
			if w, ok := x.(*LinkWeak); ok {
				renewed := *w
				renewed.Until = max(w.Until, op.Until)
				x = &renewed
			}
			if code := m.op(now, x); code != 0 {
				return code
			}
		}
		delete(m.stages, op.ID)
	case *DropStage:
		delete(m.stages, op.ID)
	case *DropClaims:
		m.drop(func(_ string, n mnode) bool { return n.claim == op.Claim })
	}
	return 0
}

// describe writes the model's view in one string, and the state's the same way.
func (m *model) describe() string {
	var b strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(m.names), order) {
		fmt.Fprintf(&b, "%s:", name)
		for _, n := range m.names[name] {
			size := int64(len(n.data))
			if n.digest != "" {
				size = m.blobs[n.digest].size
			}
			fmt.Fprintf(&b, " %q %d %d %q %s %d %v;", n.claim, n.version, n.mod, n.data, n.digest, size, n.weak)
		}
		b.WriteString("\n")
	}
	for _, d := range slices.Sorted(maps.Keys(m.blobs)) {
		x := m.blobs[d]
		weak := 0
		for _, l := range m.names {
			for _, n := range l {
				if n.weak && n.digest == d {
					weak++
				}
			}
		}
		fmt.Fprintf(&b, "%s %d %d %d strong %d weak %d\n", d, x.size, x.born, x.pin, m.strong(d), weak)
	}
	for _, d := range slices.Sorted(maps.Keys(m.tombs)) {
		fmt.Fprintf(&b, "%s collected %d\n", d, m.tombs[d])
	}
	for _, id := range slices.Sorted(maps.Keys(m.stages)) {
		fmt.Fprintf(&b, "stage %s %d %d\n", id, len(m.stages[id].ops), m.stages[id].until)
	}
	return b.String()
}

func describe(s *State) string {
	var b strings.Builder
	for name, e := range s.Walk(".", "") {
		fmt.Fprintf(&b, "%s:", name)
		for i, c := range s.ClaimsOf(name) {
			if i == 0 && c != e {
				fmt.Fprintf(&b, "the newest claim is not what is seen")
			}
			fmt.Fprintf(&b, " %q %d %d %q %s %d %v;", c.Claim, c.Version, c.ModTime.UnixNano(), c.Data, c.Digest,
				c.Size, c.Weak)
		}
		b.WriteString("\n")
	}
	for d, x := range s.Blobs("") {
		pin := int64(0)
		if !x.Until.IsZero() {
			pin = x.Until.UnixNano()
		}
		fmt.Fprintf(&b, "%s %d %d %d strong %d weak %d\n", d, x.Size, x.Born, pin, x.Strong, x.Weak)
	}
	s.tombs.from("", func(d Digest, i uint64) bool {
		fmt.Fprintf(&b, "%s collected %d\n", d, i)
		return true
	})
	for st := range s.Stages() {
		fmt.Fprintf(&b, "stage %s %d %d\n", st.ID, st.Edits, st.Until.UnixNano())
	}
	return b.String()
}

// order is the order of Walk, said another way than the state says it.
func order(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) }

// listing is what ReadDir of every directory, Get and IsDir must say, from the names alone.
func checkReading(s *State, m *model, rng *rand.Rand) error {
	dirs := map[string]map[string]bool{".": {}} // directory → element → whether it is one
	for name := range m.names {
		dir, isDir := name, false
		for dir != "." {
			parent := path.Dir(dir)
			if dirs[parent] == nil {
				dirs[parent] = map[string]bool{}
			}
			dirs[parent][path.Base(dir)] = isDir
			dir, isDir = parent, true
		}
	}
	for _, name := range append(slices.Clone(modelNames), ".", "nowhere", "a\x00b", "") {
		e, ok := s.Get(name)
		if l := m.names[name]; ok != (len(l) > 0) || ok && e.Version != l[0].version {
			return fmt.Errorf("get %q: %v %v", name, e, ok)
		}
		if _, want := dirs[name]; s.IsDir(name) != want {
			return fmt.Errorf("%q is a directory: %v", name, !want)
		}
		after := ""
		if rng.IntN(2) == 0 {
			after = []string{"a", "b", "b0", "c", "zz"}[rng.IntN(5)]
		}
		var got, want []string
		for d := range s.ReadDir(name, after) {
			got = append(got, fmt.Sprint(d.Name, d.Dir))
		}
		for _, elem := range slices.Sorted(maps.Keys(dirs[name])) {
			if elem > after {
				want = append(want, fmt.Sprint(elem, dirs[name][elem]))
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("readdir %q after %q: %v, want %v", name, after, got, want)
		}
		after = modelNames[rng.IntN(len(modelNames))]
		got, want = nil, nil
		for n := range s.Walk(name, after) {
			got = append(got, n)
		}
		for _, n := range slices.SortedFunc(maps.Keys(m.names), order) {
			if (name == "." || strings.HasPrefix(n, name+"/")) && order(n, after) > 0 {
				want = append(want, n)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("walk %q after %q: %v, want %v", name, after, got, want)
		}
	}
	return nil
}

var modelNames = []string{"a", "a/b", "a/b/c", "a/b/d", "a/b0", "a-b", "a.b", "a/c/e", "b", "b/c", "b\x01", "c/c/c",
	"c/c", "é/ü", "é"}

// randomOps makes edits that meet each other often.
func randomOps(rng *rand.Rand, m *model, n int, staged bool) []Op {
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	claim := func() string { return pick([]string{"", "", "i1", "i2", "i3"}) }
	name := func() string { return pick(modelNames) }
	digest := func() Digest { return dg(pick(seeds)) }
	until := func() int64 { return rng.Int64N(3) * rng.Int64N(400) }
	var ops []Op
	for range n {
		switch k := rng.IntN(30); {
		case k < 5:
			ops = append(ops, &Put{Name: name(), Data: []byte(pick([]string{"", "x", "y"})), Claim: claim()})
		case k < 9:
			l := &Link{Name: name(), Digest: digest(), Claim: claim()}
			for range rng.IntN(3) {
				l.Holds = append(l.Holds, digest())
			}
			ops = append(ops, l)
		case k < 12:
			ops = append(ops, &LinkWeak{Name: name(), Digest: digest(), Until: until(), Claim: claim()})
		case k < 14:
			ops = append(ops, &Remove{Name: name()})
			if rng.IntN(20) == 0 {
				ops = append(ops, &Remove{Name: "."})
			}
		case k < 15:
			x := name()
			v := m.version(x)
			if rng.IntN(4) == 0 {
				v++
			}
			ops = append(ops, &Expect{Name: x, Version: v})
		case staged:
			ops = append(ops, &Put{Name: name(), Data: []byte("staged")})
		case k < 20:
			d := digest()
			a := &AddBlob{Digest: d, Size: int64(len(d)), Confirmed: m.index, Until: until()}
			if rng.IntN(5) == 0 {
				a.Confirmed -= min(a.Confirmed, rng.Uint64N(10))
			}
			if rng.IntN(40) == 0 {
				a.Confirmed += 2
			}
			if rng.IntN(40) == 0 {
				a.Size++
			}
			ops = append(ops, a)
		case k < 21:
			ops = append(ops, &Expire{Now: rng.Int64N(400)})
		case k < 24:
			ops = append(ops, &Collect{Digests: []Digest{digest(), digest()}})
		case k < 25:
			ops = append(ops, &Sweep{Limit: rng.Uint32N(5)})
		case k < 27:
			st := &Stage{ID: pick([]string{"s1", "s2"}), Until: until(), Ops: randomOps(rng, m, rng.IntN(4), true)}
			if st.From = uint64(len(m.stages[st.ID].ops)); rng.IntN(3) == 0 {
				st.From = rng.Uint64N(4)
			}
			ops = append(ops, st)
		case k < 28:
			ops = append(ops, &Publish{ID: pick([]string{"s1", "s2"}), Until: until()})
		case k < 29:
			ops = append(ops, &DropStage{ID: pick([]string{"s1", "s2", "s3"})})
		default:
			ops = append(ops, &DropClaims{Claim: pick([]string{"i1", "i2", "i3"})})
		}
	}
	return ops
}

// randomCommand sometimes repeats an older command and sometimes comes from a process that is gone.
func randomCommand(rng *rand.Rand, m *model, sent *[]*Command, index uint64) *Command {
	if len(*sent) > 0 && rng.IntN(8) == 0 {
		return (*sent)[max(0, len(*sent)-1-rng.IntN(12))]
	}
	c := &Command{Time: int64(index) * 3, Ops: randomOps(rng, m, 1+rng.IntN(3), false)}
	if rng.IntN(2) == 0 {
		c.Node = []string{"n1", "n2"}[rng.IntN(2)]
		se := m.sessions[c.Node]
		c.Boot = se.boot
		if rng.IntN(30) == 0 {
			c.Boot++
		}
		if c.Boot > 0 && rng.IntN(40) == 0 {
			c.Boot--
		}
		c.Seq = se.finished + 1 + rng.Uint64N(8)
		if rng.IntN(4) == 0 {
			c.Finished = c.Seq - 1 - rng.Uint64N(min(c.Seq, 4))
		}
		*sent = append(*sent, c)
	}
	return c
}

// TestModel feeds random logs to the state and to the model and compares all that can be seen, after every entry. Along
// the way the state is replaced by its own snapshot, and a second replica that never is must stay byte-identical.
func TestModel(t *testing.T) {
	runs, length := 25, 400
	if testing.Short() {
		runs = 8
	}
	codes := map[Code]int{}
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			s, replica, m := New(), New(), newModel()
			there := map[string]bool{}
			var sent []*Command
			for index := uint64(1); index <= uint64(length); index++ {
				if rng.IntN(10) == 0 {
					index += rng.Uint64N(3) // raft's own entries take indexes too
				}
				c := randomCommand(rng, m, &sent, index)
				data, err := c.Encode()
				if err != nil {
					t.Fatal(err)
				}
				old, frozen := s.Clone(), describe(s)
				before := m
				got := s.Apply(index, data)
				if got.Fatal != nil {
					t.Fatal(got.Fatal)
				}
				replica.Apply(index, data)
				next, code, at := m.apply(index, c)
				m = next
				codes[code]++
				var e *Error
				if errors.As(got.Err, &e) && e.Code != code || (got.Err != nil) != (code != 0) || got.Index != at {
					t.Fatalf("entry %d: %v at %d, the model says %d at %d\n%+v", index, got.Err, got.Index, code, at, c)
				}
				if a, b := describe(s), m.describe(); a != b {
					t.Fatalf("entry %d %+v: state\n%s\nmodel\n%s", index, c, a, b)
				}
				if err := audit(s); err != nil {
					t.Fatalf("entry %d: %v", index, err)
				}
				if err := checkReading(s, m, rng); err != nil {
					t.Fatalf("entry %d: %v", index, err)
				}
				if err := checkChanged(before, m, got, c); err != nil {
					t.Fatalf("entry %d: %v", index, err)
				}
				if err := checkNames(s, there, got); err != nil {
					t.Fatalf("entry %d: %v", index, err)
				}
				if describe(old) != frozen {
					t.Fatalf("entry %d changed a clone made before it", index)
				}
				if rng.IntN(20) == 0 {
					if s, err = Restore(bytes.NewReader(snapshot(t, s))); err != nil {
						t.Fatalf("entry %d: %v", index, err)
					}
				}
			}
			if !bytes.Equal(snapshot(t, s), snapshot(t, replica)) {
				t.Fatal("two replicas of one log differ")
			}
		})
	}
	for _, code := range []Code{0, CodeInvalid, CodeConflict, CodeVersion, CodeNoBlob, CodeNoStage, CodeCollected,
		CodeOldBoot, CodeFinished} {
		if codes[code] < 3 {
			t.Errorf("the random logs met code %d only %d times: the test has become blind", code, codes[code])
		}
	}
}

// checkNames keeps a list of the names by what is told of them and compares it with what Names yields. What comes and
// goes in one command may do so in any order.
func checkNames(s *State, there map[string]bool, r Result) error {
	count := map[string]int{}
	for _, name := range r.Appeared {
		count[name]++
	}
	for _, name := range r.Vanished {
		count[name]--
	}
	for name, n := range count {
		if n < -1 || n > 1 || n == 1 && there[name] || n == -1 && !there[name] {
			return fmt.Errorf("%q appeared %d times more than it vanished, and was there: %v", name, n, there[name])
		}
		if n != 0 {
			there[name] = n > 0
		}
	}
	maps.DeleteFunc(there, func(_ string, is bool) bool { return !is })
	var got []string
	for name := range s.Names() {
		got = append(got, string(name))
	}
	if want := slices.SortedFunc(maps.Keys(there), order); !slices.Equal(got, want) {
		return fmt.Errorf("names %q, by what was told %q", got, want)
	}
	return nil
}

// checkChanged holds that watchers learn of every name that changed, except those that a collect takes away, of which a
// sweep tells.
func checkChanged(before, after *model, r Result, c *Command) error {
	for _, op := range c.Ops {
		if _, ok := op.(*Collect); ok {
			return nil
		}
	}
	for _, name := range modelNames {
		if before.version(name) == after.version(name) {
			continue
		}
		told := slices.ContainsFunc(r.Changed, func(n string) bool {
			return n == "." || n == name || strings.HasPrefix(name, n+"/")
		})
		if !told {
			return fmt.Errorf("%s changed and nobody was told: %v", name, r.Changed)
		}
	}
	return nil
}
