package state

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The promises are those of package cluster, by number; what each needs of the state is proved here.

// TestPromise2PureFunctionOfTheLog looks at the source for what could make two replicas differ: a clock, chance, the
// world outside, goroutines.
func TestPromise2PureFunctionOfTheLog(t *testing.T) {
	may := []string{"bytes", "crypto/sha256", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt",
		"hash/crc32", "io", "io/fs", "iter", "math", "slices", "strconv", "strings", "syscall",
		"time", "unicode", "unicode/utf8", "github.com/fxamacker/cbor/v2", "github.com/tidwall/btree",
		"casemate/cluster/merkle"}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		looked++
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if !slices.Contains(may, strings.Trim(i.Path.Value, `"`)) {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine", set.Position(n.Pos()))
			case *ast.SelectorExpr:
				// Of time, only what turns a number from the log into a time; of syscall, only the name of an error; of
				// json, only its grammar.
				if x, ok := n.X.(*ast.Ident); ok &&
					(x.Name == "time" && !slices.Contains([]string{"Time", "Unix", "RFC3339Nano"}, n.Sel.Name) ||
						x.Name == "syscall" && n.Sel.Name != "EAGAIN" || x.Name == "json" && n.Sel.Name != "Valid") {
					t.Errorf("%s uses %s.%s", set.Position(n.Pos()), x.Name, n.Sel.Name)
				}
			}
			return true
		})
	}
	if looked < 10 {
		t.Errorf("only %d files were looked at", looked)
	}
}

// TestPromise2ReplicasAreIdentical feeds one log to two states, one of which is cloned, read, written to snapshots and
// restored all the time.
func TestPromise2ReplicasAreIdentical(t *testing.T) {
	for _, l := range []*log{summed(t), eventful(t)} {
		quiet, busy := New(), New()
		for i, e := range l.entries {
			index := uint64(i + 1)
			a, b := quiet.Apply(index, e), busy.Apply(index, e)
			if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
				t.Errorf("entry %d: %+v and %+v", index, a, b)
			}
			busy.Clone()
			busy = restore(t, snapshot(t, busy.Clone()))
		}
		if !bytes.Equal(snapshot(t, quiet), snapshot(t, busy)) {
			t.Error("the replicas differ")
		}
	}
}

// TestPromise4ClonesAreReadWhileTheLogGoesOn is for the race detector, and holds that a reader sees one moment.
func TestPromise4ClonesAreReadWhileTheLogGoesOn(t *testing.T) {
	s := New()
	put := func(round int) {
		var c Command
		for i := range 50 {
			c.Ops = append(c.Ops, &Put{Name: fmt.Sprintf("d%d/n%d", i%5, i), Data: fmt.Append(nil, round)})
		}
		if round%3 == 0 {
			c.Ops = append([]Op{&Remove{Name: "."}}, c.Ops...)
		}
		data, err := c.Encode()
		if err != nil {
			t.Error(err)
			return
		}
		if r := s.Apply(s.Index()+1, data); r.Err != nil || r.Fatal != nil {
			t.Error(r)
		}
	}
	put(0)
	views := make(chan *State)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for v := range views {
				n, want := 0, ""
				for name, e := range v.Walk(".", "") {
					if want == "" {
						want = e.Data
					}
					if got, ok := v.Get(name); !ok || e.Data != want || got != e {
						t.Errorf("%s is of round %s beside round %s", name, e.Data, want)
					}
					n++
				}
				for d := range v.ReadDir(".", "") {
					for range v.ReadDir(d.Name, "") {
						n--
					}
				}
				if n != 0 {
					t.Errorf("Walk and ReadDir differ by %d", n)
				}
			}
		})
	}
	for round := range 200 {
		views <- s.Clone()
		put(round + 1)
	}
	close(views)
	readers.Wait()
}

// TestPromise6ABlobGoesOnlyWhenNothingNamesIt keeps a blob by each thing that can keep one, in turn.
func TestPromise6ABlobGoesOnlyWhenNothingNamesIt(t *testing.T) {
	d := dg("one")
	for what, c := range map[string]struct{ keep, let []Op }{
		"a link":           {[]Op{&Link{Name: "a", Digest: d}}, []Op{&Remove{Name: "a"}}},
		"a link, replaced": {[]Op{&Link{Name: "a", Digest: d}}, []Op{&Put{Name: "a"}}},
		"a hold":           {[]Op{&Link{Name: "m", Digest: dg("two"), Holds: []Digest{d}}}, []Op{&Remove{Name: "."}}},
		"a pin":            {[]Op{&AddBlob{Digest: d, Size: 3, Until: 10}}, []Op{&Expire{Now: 10}}},
		"a weak link":      {[]Op{&LinkWeak{Name: "w", Digest: d, Until: 10}}, []Op{&Expire{Now: 11}}},
		"a hidden claim": {[]Op{&Link{Name: "a", Digest: d, Claim: "i"}, &Put{Name: "a"}},
			[]Op{&DropClaims{Claim: "i"}}},
		"a stage": {[]Op{&Stage{ID: "s", Until: 10, Ops: []Op{&LinkWeak{Name: "w", Digest: d}}}},
			[]Op{&DropStage{ID: "s"}}},
		"a stage, in time": {[]Op{&Stage{ID: "s", Until: 10, Ops: []Op{&Link{Name: "w", Digest: d}}}},
			[]Op{&Expire{Now: 10}}},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLog(t)
			l.blob("one", "two")
			l.must(c.keep...)
			if r := l.must(&Collect{Digests: []Digest{d}}); r.Collected != nil {
				t.Error("collected")
			}
			if _, ok := l.s.Blob(d); !ok {
				t.Error("its record is gone")
			}
			l.must(c.let...)
			if r := l.must(&Collect{Digests: []Digest{d}}); !slices.Equal(r.Collected, []Digest{d}) {
				t.Errorf("still kept: %v", r.Collected)
			}
		})
	}
}

// TestPromise6LogOrderDecides has a push and a collect of the same bytes in flight at once, in both orders.
func TestPromise6LogOrderDecides(t *testing.T) {
	d := dg("one")
	// The bytes lie on the disks of a majority, confirmed at index 1, and no record knows them yet.
	collect, add := &Collect{Digests: []Digest{d}}, &AddBlob{Digest: d, Size: 3, Confirmed: 1, Until: 9}
	l := newLog(t)
	l.must(&Put{Name: "x"})
	l.must(add)
	if r := l.must(collect); r.Collected != nil {
		t.Error("the push came first, and its blob is pinned")
	}
	l = newLog(t)
	l.must(&Put{Name: "x"})
	l.must(collect)
	e := l.refused(CodeCollected, add, &Link{Name: "a", Digest: d})
	if !errors.Is(e, ErrCollected) {
		t.Errorf("the collect came first, the bytes may be gone: %v", e)
	}
	// Copied and confirmed again, behind the collect.
	again := *add
	again.Confirmed = l.s.Index()
	l.must(&again, &Link{Name: "a", Digest: d})
}

// TestPromise8WhatIsNotUnderstoodIsFatal holds that there is no way past such an entry.
func TestPromise8WhatIsNotUnderstoodIsFatal(t *testing.T) {
	cases := notUnderstood(t)
	cases["the cluster went to format"] = unchecked(t, &SetFormat{Version: MaxFormat + 1})
	for what, data := range cases {
		s := full(t).s
		before := snapshot(t, s)
		for range 3 {
			if r := s.Apply(s.Index()+1, data); r.Fatal == nil || !strings.Contains(r.Fatal.Error(), "log index ") {
				t.Errorf("%s: %+v", what, r)
			}
		}
		if !bytes.Equal(snapshot(t, s), before) {
			t.Errorf("%s: the state moved", what)
		}
	}
}

// TestPromise9ABatchAppearsAtOneEntry fails a batch at every place and in every way that a batch can fail.
func TestPromise9ABatchAppearsAtOneEntry(t *testing.T) {
	edits := []Op{
		&Put{Name: "a", Data: []byte("new")}, &AddBlob{Digest: dg("five"), Size: 4, Confirmed: 1},
		&Link{Name: "l", Digest: dg("five"), Claim: "k"}, &Remove{Name: "w"},
		&DropClaims{Claim: "i"}, &Expire{Now: 1 << 61}, &Collect{Digests: []Digest{dg("two"), dg("six")}},
		&Stage{ID: "t", Until: 9, Ops: []Op{&Link{Name: "z", Digest: dg("one")}}},
		&Sweep{Limit: 1}, &SetFormat{Version: 1}, &DropStage{ID: "s"},
	}
	l := full(t)
	l.must(&Remove{Name: "a"}, &Put{Name: "dir/file"})
	for code, bad := range map[Code]Op{
		CodeConflict: &Put{Name: "dir"}, CodeVersion: &Expect{Name: "dir/file", Version: 1},
		CodeNoBlob:  &Link{Name: "b", Digest: benchDigest(1)},
		CodeNoStage: &Publish{ID: "nowhere"}, CodeCollected: &AddBlob{Digest: dg("six"), Confirmed: 1},
	} {
		for i := range len(edits) + 1 {
			l.refused(code, slices.Concat(edits[:i], []Op{bad}, edits[i:])...)
		}
	}
	if e, ok := l.s.Get("dir/file"); !ok || e.Version == 0 {
		t.Error(e)
	}
	r := l.must(edits...)
	if e, ok := l.s.Get("l"); !ok || e.Version != r.Index {
		t.Error(e)
	}
	if e, ok := l.s.Get("a"); !ok || e.Version != r.Index {
		t.Error(e)
	}
}

// TestPromise9StagedNamesAppearTogether publishes what many entries staged.
func TestPromise9StagedNamesAppearTogether(t *testing.T) {
	l := newLog(t)
	l.blob("one")
	for i := range 20 {
		var ops []Op
		for k := range 10 {
			ops = append(ops, &Link{Name: fmt.Sprintf("import/%d/%d", i, k), Digest: dg("one"), Claim: "big"})
		}
		l.must(&Stage{ID: "big", From: uint64(10 * i), Until: 1 << 60, Ops: ops})
		if l.s.IsDir("import") {
			t.Fatal("a staged name is seen")
		}
	}
	r := l.must(&Expect{Name: "import/0/0", Version: 0}, &Publish{ID: "big"})
	n := 0
	for name, e := range l.s.Walk("import", "") {
		if n++; e.Version != r.Index {
			t.Errorf("%s is at version %d", name, e.Version)
		}
	}
	if n != 200 || len(r.Changed) != 200 {
		t.Errorf("%d names, told of %d", n, len(r.Changed))
	}
}

// TestPromise9AStageThatExpiredInBetweenIsNotPublished loses the first half of a batch to the clock of another node.
func TestPromise9AStageThatExpiredInBetweenIsNotPublished(t *testing.T) {
	l := newLog(t)
	l.must(&Stage{ID: "s", Until: 10, Ops: []Op{&Put{Name: "first"}, &Put{Name: "second"}}})
	l.must(&Expire{Now: 10})
	l.refused(CodeNoStage, &Stage{ID: "s", From: 2, Until: 20, Ops: []Op{&Put{Name: "third"}}})
	l.refused(CodeNoStage, &Publish{ID: "s"})
	if l.s.Stats().Stages != 0 {
		t.Error("half a stage is left")
	}
}

// TestPromise11ExactlyOnce repeats every command of a log at every later place and compares with the log in which each
// occurs once.
func TestPromise11ExactlyOnce(t *testing.T) {
	var commands []*Command
	for i, op := range []Op{
		&Put{Name: "a", Data: []byte("1")}, &Remove{Name: "a"}, &Expect{Name: "a", Version: 7},
		&Put{Name: "a", Data: []byte("2")}, &AddBlob{Digest: dg("one"), Size: 3},
		&Link{Name: "b", Digest: dg("one")}, &Remove{Name: "b"}, &Collect{Digests: []Digest{dg("one")}},
		&Link{Name: "b", Digest: dg("one")}, &Put{Name: "a/b"},
	} {
		commands = append(commands, &Command{Node: "n", Boot: 1, Seq: uint64(i + 1), Finished: uint64(max(i-3, 0)),
			Time: int64(i), Ops: []Op{op}})
	}
	seen := func(s *State) string {
		var b strings.Builder
		for name, e := range s.Walk(".", "") {
			fmt.Fprintln(&b, name, e.Data, e.Digest, e.ModTime)
		}
		for d, x := range s.Blobs("") {
			fmt.Fprintln(&b, d, x.Size, x.Strong, x.Weak)
		}
		return b.String()
	}
	for repeated := range commands {
		for at := repeated + 1; at <= len(commands); at++ {
			once, twice := newLog(t), newLog(t)
			for i := range len(commands) + 1 {
				if i == at {
					first := once.s.outcomes
					r := twice.command(commands[repeated])
					o, remembered := first.get(outcomeKey("n", uint64(repeated+1)))
					switch {
					case remembered && (!r.Repeat || fmt.Sprint(r.Err) != fmt.Sprint(o.error()) || r.Index != o.index):
						t.Errorf("command %d repeated before %d: %+v, first %v", repeated, at, r, o)
					case !remembered && !errors.Is(r.Err, ErrFinished):
						t.Errorf("command %d repeated before %d: %+v", repeated, at, r)
					}
				}
				if i == len(commands) {
					break
				}
				a := once.command(commands[i])
				if b := twice.command(commands[i]); i < at && fmt.Sprint(a.Err) != fmt.Sprint(b.Err) {
					t.Errorf("command %d: %v and %v", i, a.Err, b.Err)
				}
				if a.Err != nil && errors.Is(a.Err, fs.ErrInvalid) {
					t.Fatal(a.Err)
				}
			}
			if seen(once.s) != seen(twice.s) {
				t.Errorf("command %d repeated before %d made a difference:\n%s\n%s", repeated, at, seen(once.s),
					seen(twice.s))
			}
		}
	}
}
