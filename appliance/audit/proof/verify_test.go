package proof

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"casemate/cluster/merkle"
)

// sample is a log of n events, the first of which were dropped.
type sample struct {
	lines  [][]byte // of the export, without the last one
	last   []byte
	old    []byte // checkpoint of two thirds of it
	oldest []byte // checkpoint within the dropped part
	signer *Signer
}

func newSample(t testing.TB, n, drop int) sample {
	t.Helper()
	signer, err := NewSigner("casemate.internal/audit", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := sample{signer: signer}
	sign := func(tree merkle.Frontier) []byte {
		text, err := signer.Checkpoint(tree)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var tree merkle.Frontier
	var segment []byte
	for i := range n {
		line := fmt.Appendf(nil, `{"n":%d,"time":"2026-01-31T10:%02d:00Z","index":%d,"node":"n1","actor":"alice",`+
			`"verb":"image.push","object":"team/app:%d","new":"sha256:%064x"}`, i, i%60, i+7, i, i)
		if i == drop && drop > 0 {
			line = fmt.Appendf(nil, `{"n":%d,"time":"2026-01-31T10:%02d:00Z","index":%d,"node":"n1","actor":"node/n1",`+
				`"how":"node","verb":"audit.drop","object":"events 0 to %d"}`, i, i%60, i+7, drop-1)
		}
		tree = tree.Add(merkle.LeafHash(line))
		if i < drop {
			segment = append(append(segment, line...), '\n')
		} else {
			s.lines = append(s.lines, append(line, '\n'))
		}
		if i+1 == drop {
			s.lines = append(s.lines, Hashes(0, segment))
		}
		switch i + 1 {
		case drop / 2:
			s.oldest = sign(tree)
		case n * 2 / 3:
			s.old = sign(tree)
		}
	}
	s.last = End(sign(tree), signer.PublicKey())
	return s
}

func (s sample) export() []byte { return append(bytes.Join(s.lines, nil), s.last...) }

func verify(t testing.TB, export []byte, opt Options) *Report {
	t.Helper()
	r, err := Verify(bytes.NewReader(export), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnIntactLogIsVerified(t *testing.T) {
	s := newSample(t, 90, 40)
	for _, key := range []string{"", s.signer.PublicKey().String()} {
		r := verify(t, s.export(), Options{Key: key, Checkpoints: [][]byte{s.old, s.oldest}})
		if len(r.Faults) != 0 || r.Events != 90 || r.Dropped != 40 || fmt.Sprint(r.Proven) != "[20 60]" ||
			r.Origin != "casemate.internal/audit" || r.Key != s.signer.PublicKey().String() {
			t.Errorf("%+v", r)
		}
	}
	empty, _ := s.signer.Checkpoint(merkle.Frontier{})
	if r := verify(t, End(empty, s.signer.PublicKey()), Options{Checkpoints: [][]byte{empty}}); len(r.Faults) != 0 ||
		fmt.Sprint(r.Proven) != "[0]" {
		t.Errorf("an empty log: %+v", r)
	}
}

// TestEveryChangeIsFound: single bits, dropped, exchanged and repeated lines, and truncations, at random places of an
// export. Without the key none of them passes.
func TestEveryChangeIsFound(t *testing.T) {
	s := newSample(t, 90, 40)
	whole := s.export()
	opt := Options{Checkpoints: [][]byte{s.old}}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 1500 {
		lines := append(append([][]byte{}, s.lines...), s.last)
		a, b := rnd.IntN(len(lines)), rnd.IntN(len(lines))
		var changed []byte
		what := ""
		switch i % 5 {
		case 0, 1:
			at, bit := rnd.IntN(len(whole)), rnd.IntN(8)
			changed = bytes.Clone(whole)
			changed[at] ^= 1 << bit
			what = fmt.Sprintf("bit %d of byte %d", bit, at)
		case 2:
			lines = append(lines[:a], lines[a+1:]...)
			changed, what = bytes.Join(lines, nil), fmt.Sprintf("line %d dropped", a)
		case 3:
			if a == b {
				continue
			}
			lines[a], lines[b] = lines[b], lines[a]
			changed, what = bytes.Join(lines, nil), fmt.Sprintf("lines %d and %d exchanged", a, b)
		case 4:
			at := rnd.IntN(len(whole))
			changed, what = whole[:at], fmt.Sprintf("cut after %d bytes", at)
		}
		if r := verify(t, changed, opt); len(r.Faults) == 0 {
			t.Fatalf("%s is not found", what)
		}
	}
}

// TestHiddenEventsAreFound: hashes in the place of events have the same root, so whoever exports a log could hide
// events of it. Only the oldest may be hashes, and only those of which the log says so.
func TestHiddenEventsAreFound(t *testing.T) {
	hashes := func(first uint64, lines ...[]byte) []byte { return Hashes(first, bytes.Join(lines, nil)) }
	whole, dropped := newSample(t, 90, 0), newSample(t, 90, 40)
	export := func(s sample, lines ...[]byte) []byte { return append(bytes.Join(lines, nil), s.last...) }
	cut := func(s sample, from, to int, with ...[]byte) []byte {
		return export(s, slices.Concat(s.lines[:from], with, s.lines[to:])...)
	}
	forged := []byte(`{"n":0,"time":"2026-01-31T10:00:00Z","index":7,"node":"n1","actor":"eve","how":"password",` +
		`"verb":"audit.drop","object":"events 0 to 9"}` + "\n")
	for what, c := range map[string]struct {
		export []byte
		says   string
	}{
		"the oldest":             {cut(whole, 0, 10, hashes(0, whole.lines[:10]...)), "does not say that they"},
		"some in the middle":     {cut(whole, 50, 60, hashes(50, whole.lines[50:60]...)), "only the oldest"},
		"the newest":             {cut(whole, 80, 90, hashes(80, whole.lines[80:]...)), "only the oldest"},
		"all":                    {export(whole, hashes(0, whole.lines...)), "does not say that they"},
		"more than the log says": {cut(dropped, 1, 3, hashes(40, dropped.lines[1:3]...)), "does not say"},
		"one after those":        {cut(dropped, 5, 6, hashes(44, dropped.lines[5])), "only the oldest"},
		"as an account says":     {append(bytes.Clone(forged), whole.last...), "checkpoint says"},
	} {
		r := verify(t, c.export, Options{})
		if len(r.Faults) == 0 || !strings.Contains(strings.Join(r.Faults, "\n"), c.says) {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// TestTheHolderOfTheKeyIsFound: a log that was changed and signed again is found by an older checkpoint, and one that
// goes on from an older copy says why.
func TestTheHolderOfTheKeyIsFound(t *testing.T) {
	s := newSample(t, 90, 0)
	rnd := rand.New(rand.NewPCG(3, 4))
	resign := func(lines [][]byte) []byte {
		var tree merkle.Frontier
		var out []byte
		for i, line := range lines {
			_, rest, _ := strings.Cut(string(line), ",")
			line = fmt.Appendf(nil, `{"n":%d,%s`, i, rest)
			tree = tree.Add(merkle.LeafHash(bytes.TrimSuffix(line, []byte("\n"))))
			out = append(out, line...)
		}
		text, err := s.signer.Checkpoint(tree)
		if err != nil {
			t.Fatal(err)
		}
		return append(out, End(text, s.signer.PublicKey())...)
	}
	opt := Options{Checkpoints: [][]byte{s.old}}
	if r := verify(t, resign(s.lines), opt); len(r.Faults) != 0 {
		t.Fatalf("signed again unchanged: %v", r.Faults)
	}
	for i := range 300 {
		lines := append([][]byte{}, s.lines...)
		a := rnd.IntN(60) // what the checkpoint covers
		switch i % 4 {
		case 0:
			lines[a] = bytes.Replace(lines[a], []byte("alice"), []byte("mallory"), 1)
		case 1:
			lines = append(lines[:a], lines[a+1:]...)
		case 2:
			b := (a + 1 + rnd.IntN(88)) % 90
			lines[a], lines[b] = lines[b], lines[a]
		case 3:
			lines = lines[:a]
		}
		if r := verify(t, resign(lines), opt); len(r.Faults) == 0 || r.Proven != nil {
			t.Fatalf("change %d of line %d: %+v", i%4, a, r)
		}
	}
	restored := append(append([][]byte{}, s.lines[:50]...), []byte(`{"n":50,"time":"2026-02-01T10:00:00Z","index":9,`+
		`"verb":"cluster.restore","old":"cluster x, backup of 2026-01-31"}`+"\n"))
	r := verify(t, resign(restored), opt)
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "checkpoint of 60 events is newer than the log") ||
		!strings.Contains(r.Faults[0], "restored from a backup (cluster x, backup of 2026-01-31)") ||
		len(r.Breaks) != 1 {
		t.Errorf("%+v", r)
	}
	other, _ := NewSigner("casemate.internal/audit", bytes.Repeat([]byte{8}, 32))
	text, _ := other.Checkpoint(merkle.Frontier{})
	for what, opt := range map[string]Options{
		"a checkpoint of another key": {Checkpoints: [][]byte{text}}, "another key": {Key: other.PublicKey().String()},
	} {
		if r := verify(t, s.export(), opt); len(r.Faults) == 0 {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// TestWitnesses: other signatures on a checkpoint do no harm.
func TestWitnesses(t *testing.T) {
	s := newSample(t, 9, 0)
	witnessed := append(bytes.Clone(s.old), "— witness.example AAAAAGZvbw==\n"...)
	if r := verify(t, s.export(), Options{Checkpoints: [][]byte{witnessed}}); len(r.Faults) != 0 || len(r.Proven) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestWrongInputs(t *testing.T) {
	s := newSample(t, 3, 0)
	for what, opt := range map[string]Options{
		"no checkpoint":     {Checkpoints: [][]byte{nil}},
		"not a checkpoint":  {Checkpoints: [][]byte{[]byte("a\nb\nc\n\n")}},
		"a long checkpoint": {Checkpoints: [][]byte{bytes.Repeat([]byte("x"), maxNote+1)}},
		"not a key":         {Key: "a+b+c"},
	} {
		if r, err := Verify(bytes.NewReader(s.export()), opt); err == nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
	for what, text := range map[string]string{
		"nothing": "", "a long line": strings.Repeat("x", 2*maxLine), "another file": "hello\n",
		"half an event": `{"n":0` + "\n",
		"long hashes":   `{"first":0,"hashes":"` + strings.Repeat("A", 60_000) + `"}` + "\n",
	} {
		if r := verify(t, []byte(text), Options{}); len(r.Faults) == 0 {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// FuzzVerify: no input makes it panic, and none that is not the sample's export passes with its key and checkpoint.
func FuzzVerify(f *testing.F) {
	s := newSample(f, 5, 3)
	opt := Options{Key: s.signer.PublicKey().String(), Checkpoints: [][]byte{s.old}}
	whole := s.export()
	f.Add(whole, s.old)
	f.Add(s.last, s.oldest)
	f.Fuzz(func(t *testing.T, export, checkpoint []byte) {
		if r := verify(t, export, opt); len(r.Faults) == 0 && !bytes.Equal(export, whole) {
			t.Errorf("%q passes", export)
		}
		if c, err := Open(checkpoint, s.signer.PublicKey()); err == nil && c.Size > 5 {
			t.Errorf("%q is signed", checkpoint)
		}
	})
}
