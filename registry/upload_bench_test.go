package registry

import (
	"io"
	"log/slog"
	"syscall"
	"testing"

	"casemate/cluster"

	"github.com/opencontainers/go-digest"
)

// BenchmarkPush pushes a blob of 1 GiB by one PATCH and an empty PUT, as clients do, to a cluster of one node, without
// a network. user-s/GiB is the processor time outside the kernel for one push, which is mostly hashing. The kernel's
// share is writing the file, and depends on what else the machine does.
func BenchmarkPush(b *testing.B) {
	const size = 1 << 30
	cfg := cluster.Config{Dir: b.TempDir(), Node: "n1", Log: slog.New(slog.DiscardHandler)}
	if err := cluster.Bootstrap(cfg); err != nil {
		b.Fatal(err)
	}
	node, err := cluster.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { node.Close() })
	s := newPusher(b, func(c *Config) { c.Tree = node.Tree().Sub("registry") })
	d, err := digest.SHA256.FromReader(zeros(size))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	begin, pushed := processorTime(b), 0
	for b.Loop() {
		loc := s.open("team/app")
		res := s.send(s.own, "PATCH", loc, zeros(size))
		if res.StatusCode != 202 {
			b.Fatalf("PATCH: %d", res.StatusCode)
		}
		s.expect(201, "PUT", withDigest(res.Header.Get("Location"), d), "")
		pushed++
	}
	b.ReportMetric((processorTime(b)-begin)/float64(pushed), "user-s/GiB")
}

// zeros yields n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(nothing{}, n) }

type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// processorTime returns the time that the process has used outside the kernel so far, in seconds.
func processorTime(tb testing.TB) float64 {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return float64(u.Utime.Nano()) / 1e9
}
