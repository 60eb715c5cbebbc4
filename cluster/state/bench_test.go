package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"testing"
)

// million is how many names the large benchmarks have.
const million = 1_000_000

func benchDigest(i int) Digest {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return Digest("\x01" + string(sum[:]))
}

// layerName is a name as the registry makes them: the longest of the common ones.
func layerName(i int) string {
	d := benchDigest(i)
	return fmt.Sprintf("registry/registry.k8s.io/team-%02d/app-%d/_layers/sha256/%s", i/40000, i/40, hex.EncodeToString([]byte(d[1:])))
}

// layers encodes commands that make the names from..to of layers, each with a blob of its own, per names a command.
func layers(tb testing.TB, from, to, per int) [][]byte {
	var list [][]byte
	for i := from; i < to; i += per {
		c := Command{Time: int64(i)}
		for k := i; k < min(i+per, to); k++ {
			d := benchDigest(k)
			c.Ops = append(c.Ops, &AddBlob{Digest: d, Size: 1 << 20}, &Link{Name: layerName(k), Digest: d, Claim: "import-1"})
		}
		cmd, err := c.Encode()
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, cmd)
	}
	return list
}

func fill(tb testing.TB, s *State, n int) {
	for i := 0; i < n; i += 1000 {
		for _, cmd := range layers(tb, i, min(i+1000, n), 1000) {
			if r := s.Apply(s.Index()+1, cmd); r.Err != nil || r.Fatal != nil {
				tb.Fatal(r.Err, r.Fatal)
			}
		}
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMemory reports the bytes of heap that one name with a blob of its own takes: filled by commands, filled while every thousandth
// state is cloned, and restored from a snapshot. A registry's real tree has several names to a blob and takes less.
func BenchmarkMemory(b *testing.B) {
	b.Run("applied", func(b *testing.B) {
		for range b.N {
			before := heap()
			s := New()
			fill(b, s, million)
			b.ReportMetric(float64(heap()-before)/million, "bytes/entry")
			runtime.KeepAlive(s)
		}
	})
	b.Run("shuffled", func(b *testing.B) {
		for range b.N {
			before := heap()
			s := New()
			for i := range million / 1000 {
				k := i * 617 % (million / 1000) * 1000
				for _, cmd := range layers(b, k, k+1000, 1000) {
					if r := s.Apply(s.Index()+1, cmd); r.Err != nil || r.Fatal != nil {
						b.Fatal(r.Err, r.Fatal)
					}
				}
				s.Clone()
			}
			b.ReportMetric(float64(heap()-before)/million, "bytes/entry")
			runtime.KeepAlive(s)
		}
	})
	b.Run("restored", func(b *testing.B) {
		s := New()
		fill(b, s, million)
		for range b.N {
			r, w := io.Pipe()
			go func(s *State) {
				_, err := s.WriteTo(w)
				w.CloseWithError(err)
			}(s)
			s = nil
			before := int64(0)
			restored, err := Restore(r)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(heap()-before)/million, "bytes/entry")
			s = restored
		}
		runtime.KeepAlive(s)
	})
}
