package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"syscall"
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
	return fmt.Sprintf("registry/registry.k8s.io/team-%02d/app-%d/_layers/sha256/%s", i/40000, i/40,
		hex.EncodeToString([]byte(d[1:])))
}

// layers encodes commands that make the names from..to of layers, each with a blob of its own, per names a command.
func layers(tb testing.TB, from, to, per int) [][]byte {
	var list [][]byte
	for i := from; i < to; i += per {
		c := Command{Time: int64(i)}
		for k := i; k < min(i+per, to); k++ {
			d := benchDigest(k)
			c.Ops = append(c.Ops, &AddBlob{Digest: d, Size: 1 << 20},
				&Link{Name: layerName(k), Digest: d, Claim: "import-1"})
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

// cpu reports the processor time that an operation takes, collecting garbage included: on a busy machine the other
// number says little. It is called when the loop begins and what it returns when the loop ends.
func cpu(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	b.ResetTimer()
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMemory reports the bytes of heap that one name with a blob of its own takes: filled by commands, filled
// while every thousandth state is cloned, and restored from a snapshot. A registry's real tree has several names to a
// blob and takes less.
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

// BenchmarkApply applies commands to a million names. "one" is the command of a tag: an Expect, a link with holds and a
// record, with a session; "cloned" makes a clone after each, as readers need; "batch" counts names, a thousand to a
// command; "decode" is what of "one" is decoding.
func BenchmarkApply(b *testing.B) {
	s := New()
	fill(b, s, million)
	commands := func(n int) [][]byte {
		list := make([][]byte, n)
		for i := range list {
			k := i * 7919 % million
			c := Command{Node: "n1", Boot: s.Index() + 1, Seq: uint64(i + 1), Finished: uint64(i), Time: 1, Ops: []Op{
				&Expect{Name: fmt.Sprintf("registry/team/app-%d/_manifests/tags/v1/current/link", k)},
				&Link{Name: layerName(k), Digest: benchDigest(k),
					Holds: []Digest{benchDigest(k + 1), benchDigest(k + 2)}},
				&Put{Name: fmt.Sprintf("registry/team/app-%d/_manifests/tags/v2/current/link", k),
					Data: make([]byte, 71)},
			}}
			var err error
			if list[i], err = c.Encode(); err != nil {
				b.Fatal(err)
			}
		}
		return list
	}
	apply := func(b *testing.B, s *State, list [][]byte, each func()) {
		b.ReportAllocs()
		defer cpu(b)()
		for _, cmd := range list {
			if r := s.Apply(s.Index()+1, cmd); r.Err != nil || r.Fatal != nil {
				b.Fatal(r.Err, r.Fatal)
			}
			each()
		}
	}
	b.Run("one", func(b *testing.B) { c := s.Clone(); apply(b, c, commands(min(b.N, million-2)), func() {}) })
	b.Run("cloned", func(b *testing.B) {
		c := s.Clone()
		apply(b, c, commands(min(b.N, million-2)), func() { c.Clone() })
	})
	b.Run("batch", func(b *testing.B) {
		list := layers(b, million, million+b.N, 1000)
		apply(b, s.Clone(), list, func() {})
	})
	b.Run("decode", func(b *testing.B) {
		list := commands(1)
		b.ReportAllocs()
		defer cpu(b)()
		for range b.N {
			if _, err := Decode(list[0], 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMillion reads, clones, writes and restores a state of a million names.
func BenchmarkMillion(b *testing.B) {
	s := New()
	fill(b, s, million)
	var names []string
	for i := range 1000 {
		names = append(names, layerName(i*997))
	}
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		defer cpu(b)()
		for i := range b.N {
			if _, ok := s.Get(names[i%1000]); !ok {
				b.Fatal("not there")
			}
		}
	})
	b.Run("GetMiss", func(b *testing.B) {
		defer cpu(b)()
		for i := range b.N {
			if _, ok := s.Get(names[i%1000][:100]); ok {
				b.Fatal("there")
			}
		}
	})
	b.Run("ReadDir", func(b *testing.B) {
		defer cpu(b)()
		for range b.N {
			for range s.ReadDir("registry/registry.k8s.io", "") {
			}
		}
	})
	b.Run("Walk", func(b *testing.B) {
		defer cpu(b)()
		for range b.N {
			for range s.Walk(".", "") {
			}
		}
	})
	b.Run("Clone", func(b *testing.B) {
		defer cpu(b)()
		for range b.N {
			s.Clone()
		}
	})
	b.Run("DropClaims", func(b *testing.B) {
		cmd, err := (&Command{Ops: []Op{&Put{Name: "zzz", Claim: "other"}, &DropClaims{Claim: "other"}}}).Encode()
		if err != nil {
			b.Fatal(err)
		}
		c := s.Clone()
		defer cpu(b)()
		for range b.N {
			if r := c.Apply(c.Index()+1, cmd); r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	})
	b.Run("Snapshot", func(b *testing.B) {
		var n int64
		defer cpu(b)()
		for range b.N {
			var err error
			if n, err = s.Snapshot().WriteTo(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n)/million, "bytes/entry")
	})
	b.Run("Restore", func(b *testing.B) {
		var buf bytes.Buffer
		if _, err := s.WriteTo(&buf); err != nil {
			b.Fatal(err)
		}
		defer cpu(b)()
		for range b.N {
			if _, err := Restore(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkEvents applies 10 million events, one a command, and seals them: time and bytes of the log of events.
func BenchmarkEvents(b *testing.B) {
	const all, segment = 10_000_000, 1024
	for b.Loop() {
		s := New()
		index := uint64(0)
		apply := func(ops ...Op) {
			data, err := (&Command{Ops: ops, Time: 1 << 60}).Encode()
			if err != nil {
				b.Fatal(err)
			}
			index++
			if r := s.Apply(index, data); r.Err != nil || r.Fatal != nil {
				b.Fatal(r)
			}
		}
		apply(&SetFormat{Version: eventFormat})
		e := &Event{Actor: "alice", How: "password", From: "10.0.0.1", Verb: "image.push", Object: "team/app:1.0",
			New: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
		bytes := 0
		for s.Events().Tree.Size() < all {
			apply(e)
			if first := s.Events().First; s.Events().Tree.Size()-first == 2*segment {
				h := sha256.New()
				for n, line := range s.EventLines(first) {
					if n == first+segment {
						break
					}
					h.Write([]byte(line))
					h.Write([]byte{'\n'})
					bytes += len(line) + 1
				}
				d := Digest(h.Sum([]byte{sha256Tag}))
				apply(&AddBlob{Digest: d, Size: 1, Confirmed: index},
					&SealEvents{Name: fmt.Sprintf("audit/segments/%016d", first), First: first, Count: segment})
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB/heap")
		b.ReportMetric(float64(bytes)/float64(s.Events().First), "B/event")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/all, "ns/event")
		runtime.KeepAlive(s)
	}
}
