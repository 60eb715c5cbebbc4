package repositories

import (
	"fmt"
	"log/slog"
	"testing"

	"casemate/cluster"
)

// BenchmarkScan reads a tree of 200 000 files, as it happens after a start and after a large import.
func BenchmarkScan(b *testing.B) {
	cfg := cluster.Config{Dir: b.TempDir(), Node: "n1", Log: slog.New(slog.DiscardHandler)}
	if err := cluster.Bootstrap(cfg); err != nil {
		b.Fatal(err)
	}
	node, err := cluster.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { node.Close() })
	files := node.Tree().Sub("files")
	if err := files.Update(b.Context(), func(batch cluster.Batch) error {
		for i := range 200_000 {
			batch.Put(fmt.Sprintf("deb.test/debian/pool/main/%d/package-%d_1.0-1_amd64.deb?", i%1000, i), nil)
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	x := New(files, slog.New(slog.DiscardHandler))
	for b.Loop() {
		x.update(b.Context(), nil, true)
	}
}
