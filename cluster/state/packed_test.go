package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// textCodec is for values that are texts, which may be long.
var textCodec = codec[string]{
	append: func(b []byte, v string) []byte { return append(b, v...) },
	read:   func(s string) string { return s },
}

// twin is a packed table and what it must be, a sorted list.
type twin struct {
	t    packed[string, string]
	keys []string
	vals map[string]string
}

func newTwin() *twin { return &twin{t: newPacked[string](textCodec), vals: map[string]string{}} }

func (w *twin) set(key, value string) {
	w.t.set(key, value)
	if _, ok := w.vals[key]; !ok {
		i, _ := slices.BinarySearch(w.keys, key)
		w.keys = slices.Insert(slices.Clone(w.keys), i, key)
	}
	w.vals[key] = value
}

func (w *twin) del(key string) {
	w.t.del(key)
	if i, ok := slices.BinarySearch(w.keys, key); ok {
		w.keys = slices.Delete(slices.Clone(w.keys), i, i+1)
		delete(w.vals, key)
	}
}

func (w *twin) check(t *testing.T, probes ...string) {
	t.Helper()
	if w.t.len() != len(w.keys) {
		t.Fatalf("it says %d entries, want %d", w.t.len(), len(w.keys))
	}
	last := ""
	w.t.blocks.from("", func(separator, block string) bool {
		if block == "" || separator < last {
			t.Fatalf("block %q behind %q has %d bytes", separator, last, len(block))
		}
		if first := readEntry(block, 0); len(block) > maxBlock && first.end < len(block) {
			t.Fatalf("a block of %d bytes and more than one entry", len(block))
		}
		last = separator
		return true
	})
	for _, pivot := range append(probes, "") {
		var got []string
		w.t.from(pivot, func(k, v string) bool {
			if v != w.vals[k] {
				t.Fatalf("%q has a value of %d bytes, want %d", k, len(v), len(w.vals[k]))
			}
			got = append(got, k)
			return len(got) < 50 || pivot == ""
		})
		i, there := slices.BinarySearch(w.keys, pivot)
		want := w.keys[i:]
		if pivot != "" {
			want = want[:min(len(want), 50)]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("from %q: %q, want %q", pivot, got, want)
		}
		if v, ok := w.t.get(pivot); ok != there || v != w.vals[pivot] {
			t.Fatalf("get %q: %q %v, want %q", pivot, v, ok, w.vals[pivot])
		}
		if there {
			continue
		}
		before, behind := w.t.look(pivot).beside()
		if i > 0 && before >= 0 && before != commonPrefix(w.keys[i-1], pivot) || i < len(w.keys) && behind >= 0 &&
			behind != commonPrefix(w.keys[i], pivot) {
			t.Fatalf("beside %q: %d and %d of %q", pivot, before, behind, w.keys[max(0, i-1):min(len(w.keys), i+1)])
		}
	}
}

// repacked fills a table from the beginning to the end, as Restore does.
func (w *twin) repacked() *twin {
	next := newTwin()
	p := packer[string, string]{t: &next.t}
	for _, k := range w.keys {
		p.add(k, w.vals[k])
		next.vals[k] = w.vals[k]
	}
	p.flush()
	next.keys = w.keys
	return next
}

// randomKey makes keys of long and short parts that others have too.
func randomKey(rng *rand.Rand) string {
	var b strings.Builder
	for range 1 + rng.IntN(4) {
		switch rng.IntN(4) {
		case 0:
			fmt.Fprintf(&b, "%x", rng.IntN(300))
		case 1:
			b.WriteString(strings.Repeat("long", rng.IntN(40)))
		case 2:
			b.WriteByte(byte(rng.IntN(3)))
		default:
			b.WriteString([]string{"a", "ab", "b", "\xff"}[rng.IntN(4)])
		}
	}
	return b.String()
}

// TestPacked makes random edits, takes some of them back, and compares the table with a plain list; clones keep what
// they had. Along the way it is packed anew.
func TestPacked(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newTwin()
			blocks := 0
			for round := range 150 {
				before := w.t.clone()
				clone := &twin{before, w.keys, map[string]string{}}
				for k, v := range w.vals {
					clone.vals[k] = v
				}
				growing := round/25%2 == 0
				var probes []string
				for range 1 + rng.IntN(60) {
					key := randomKey(rng)
					if len(w.keys) > 0 && (!growing || rng.IntN(6) == 0) {
						key = w.keys[rng.IntN(len(w.keys))]
					}
					probes = append(probes, key)
					if growing || rng.IntN(8) == 0 {
						value := strings.Repeat("v", rng.IntN(80))
						if rng.IntN(40) == 0 {
							value = strings.Repeat("w", rng.IntN(3*maxBlock))
						}
						w.set(key, value)
					} else {
						w.del(key)
					}
				}
				w.check(t, append(probes, randomKey(rng), randomKey(rng))...)
				clone.check(t, probes...)
				switch rng.IntN(4) {
				case 0:
					w.t.rollback()
					w.keys, w.vals = clone.keys, clone.vals
					w.check(t, probes...)
				case 1:
					w = w.repacked()
					w.check(t, probes...)
				default:
					w.t.commit()
				}
				blocks = max(blocks, w.t.blocks.len())
			}
			if blocks < 20 {
				t.Errorf("only %d blocks: the test has become blind", blocks)
			}
			for len(w.keys) > 0 {
				w.del(w.keys[rng.IntN(len(w.keys))])
			}
			if w.check(t, "a"); w.t.blocks.len() != 0 {
				t.Errorf("an empty table has %d blocks", w.t.blocks.len())
			}
		})
	}
}

// Keys that come in order leave full blocks behind, and a table from which nearly all is taken few small ones.
func TestPackedStaysDense(t *testing.T) {
	w := newTwin()
	for i := range 5000 {
		w.t.set(fmt.Sprintf("some/directory/%08d", i), "value")
	}
	size := 0
	w.t.blocks.from("", func(_, block string) bool { size += len(block); return true })
	if full := float64(size) / float64(w.t.blocks.len()*maxBlock); full < 0.9 {
		t.Errorf("blocks are filled to %.2f", full)
	}
	many := w.t.blocks.len()
	for i := range 5000 {
		if i%50 != 0 {
			w.t.del(fmt.Sprintf("some/directory/%08d", i))
		}
	}
	if left := w.t.blocks.len(); w.t.len() != 100 || left > many/20 {
		t.Errorf("%d entries in %d blocks, of %d before", w.t.len(), left, many)
	}
}

// FuzzPacked takes its input for edits: of each a byte that says how much of the key before it begins with, one for the
// length of the rest, the rest, and one for the value.
func FuzzPacked(f *testing.F) {
	f.Add([]byte("\x00\x03abc\x09\x02\x01d\xff\x01\x02e\x00\x80"))
	f.Add([]byte("\x00\x01a\xff\x00\x01b\xff\x01\x01c\xff\x00\x01d\xff\x01\x01\x00\xff\x00\x01b\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newTwin()
		var key []byte
		for len(data) >= 3 {
			same, n := min(int(data[0]), len(key)), min(int(data[1]), len(data)-3)
			key = append(key[:same], data[2:2+n]...)
			value := data[2+n]
			data = data[3+n:]
			if value == 0 {
				w.del(string(key))
			} else {
				w.set(string(key), strings.Repeat(string(rune(value)), int(value)))
			}
			w.check(t, string(key), string(key)+"\x00")
		}
		w.repacked().check(t, string(key))
		w.t.rollback()
		if w.t.len() != 0 || w.t.blocks.len() != 0 {
			t.Fatal("something is left after a rollback")
		}
	})
}

// The bytes that are written by hand equal those of the library, and both read the same from them.
func TestWireIsTheLibrarys(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	number := func() uint64 {
		return []uint64{rng.Uint64() >> rng.IntN(64), 0, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32,
			1<<63 - 1}[rng.IntN(11)]
	}
	signed := func() int64 { return int64(number()) * (1 - 2*rng.Int64N(2)) }
	text := func() string { return strings.Repeat("\xffx", []int{0, 1, 11, 12, 127, 128, 40_000}[rng.IntN(7)]) }
	digests := func() []Digest {
		switch rng.IntN(3) {
		case 0:
			return nil
		case 1:
			return []Digest{}
		}
		return slices.Repeat([]Digest{dg("one"), dg("three")}, 1+rng.IntN(20))
	}
	data := func() []byte { return [][]byte{nil, {}, []byte(text())}[rng.IntN(3)] }
	for range 2000 {
		same := func(v any, got []byte) {
			t.Helper()
			want, err := encMode.Marshal(v)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%+v: %x, want %x (%v)", v, got, want, err)
			}
		}
		b := &snapBlob{Digest: dg("one"), Size: signed(), Born: number(), Pin: signed()}
		same(b, b.append(nil))
		checkWire(t, b.append(nil), true)
		n := &snapNode{Shared: number(), Rest: text(), Kind: uint8(number()), Version: number(), Mod: signed(),
			Body: text(), Holds: text(), Claim: text(), Born: number()}
		same(n, n.append(nil))
		checkWire(t, n.append(nil), true)
		for _, op := range []Op{
			&Put{Name: text(), Data: data(), Claim: text()}, &Link{Name: text(), Digest: dg("two"), Holds: digests(),
				Claim: text()},
			&LinkWeak{Name: text(), Digest: dg("one"), Until: signed(), Claim: text()}, &Remove{Name: text()},
			&Expect{Name: text(), Version: number()}, &AddBlob{Digest: dg("six"), Size: signed(), Confirmed: number(),
				Until: signed()},
		} {
			got := appendOp(nil, op)
			kind, _ := encMode.Marshal(uint64(op.kind()))
			same(op, bytes.TrimPrefix(got, kind))
			checkWire(t, got, true)
		}
	}
}

// checkWire reads data as each of the records and edits, by hand and by the library.
func checkWire(t *testing.T, data []byte, one bool) {
	t.Helper()
	known := false
	judge := func(s scan, got any, read func() (want any, rest []byte, err error)) {
		t.Helper()
		if s.odd {
			return
		}
		known = true
		if want, rest, err := read(); err != nil || !bytes.Equal(rest, s.p) || !reflect.DeepEqual(got, want) {
			t.Fatalf("%x: read %#v, left %x; the library read %#v, left %x: %v", data, got, s.p, want, rest, err)
		}
	}
	record := func(got, want interface{ scan(*scan) }) {
		t.Helper()
		s := scan{p: data}
		got.scan(&s)
		judge(s, got, func() (any, []byte, error) {
			rest, err := decMode.UnmarshalFirst(data, want)
			return want, rest, err
		})
	}
	record(new(snapBlob), new(snapBlob))
	record(new(snapNode), new(snapNode))
	record(new(header), new(header))
	s := scan{p: data}
	op := scanOp(&s)
	judge(s, op, func() (any, []byte, error) {
		var k opKind
		rest, err := decMode.UnmarshalFirst(data, &k)
		if err != nil {
			return nil, nil, err
		}
		want, _ := newOp(k)
		rest, err = decMode.UnmarshalFirst(rest, want)
		return want, rest, err
	})
	if one && !known {
		t.Fatalf("%x is left to the library", data)
	}
}

func FuzzWire(f *testing.F) {
	for _, op := range everyOp() {
		f.Add(appendOp(nil, op))
	}
	f.Add((&snapBlob{Digest: dg("one"), Size: 7, Born: 300}).append(nil))
	f.Add((&snapNode{Shared: 7, Rest: "x", Kind: 3, Mod: -1}).append(nil))
	f.Fuzz(func(t *testing.T, data []byte) { checkWire(t, data, false) })
}
