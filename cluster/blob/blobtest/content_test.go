package blobtest

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestContent compares contents that share pages with plain byte slices.
func TestContent(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	type pair struct {
		got  content
		want []byte
	}
	all := []*pair{{}}
	for range 3000 {
		p := all[rng.IntN(len(all))]
		switch rng.IntN(4) {
		case 0:
			size := rng.IntN(5 * pageSize)
			p.got.resize(int64(size))
			p.want = append(p.want[:min(size, len(p.want))], make([]byte, max(0, size-len(p.want)))...)
		case 1:
			off, data := rng.IntN(5*pageSize), bytes.Repeat([]byte{byte(rng.Int())}, 1+rng.IntN(2*pageSize))
			p.got.writeAt(data, int64(off))
			p.want = append(p.want, make([]byte, max(0, off+len(data)-len(p.want)))...)
			copy(p.want[off:], data)
		case 2:
			c := &pair{p.got.clone(), slices.Clone(p.want)}
			if all = append(all, c); len(all) > 6 {
				all = all[1:]
			}
		case 3:
			off, buf := rng.IntN(6*pageSize), bytes.Repeat([]byte{7}, rng.IntN(3*pageSize))
			n := p.got.readAt(buf, int64(off))
			if want := p.want[min(off, len(p.want)):]; n != min(len(buf), len(want)) ||
				!bytes.Equal(buf[:n], want[:n]) {
				t.Fatalf("at %d of %d bytes: %d bytes differ from what was written", off, len(p.want), n)
			}
		}
		for i, p := range all {
			whole := make([]byte, len(p.want)+1)
			if n := p.got.readAt(whole, 0); p.got.size != int64(len(p.want)) || !bytes.Equal(whole[:n], p.want) {
				t.Fatalf("content %d differs from what was written", i)
			}
		}
	}
}
