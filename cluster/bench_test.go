package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func benchCluster(b *testing.B) *Cluster {
	cfg := testConfig(b, b.TempDir())
	cfg.Log = slog.New(slog.DiscardHandler)
	return start(b, cfg)
}

// BenchmarkCommit writes records of 200 bytes, one in each batch: commits per second on the disk of the temporary
// directory.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			c := benchCluster(b)
			data := make([]byte, 200)
			var n atomic.Int64
			b.SetParallelism(max(1, writers/2)) // times GOMAXPROCS, which is 2 on the machine these numbers are told of
			body := func(next func() bool) {
				for next() {
					name := fmt.Sprintf("b/%d", n.Add(1))
					if err := c.Tree().Update(context.Background(), func(batch Batch) error {
						batch.Put(name, data)
						return nil
					}); err != nil {
						b.Error(err)
						return
					}
				}
			}
			b.ResetTimer()
			if writers == 1 {
				body(b.Loop)
			} else {
				b.RunParallel(func(pb *testing.PB) { body(pb.Next) })
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// BenchmarkPush commits blobs of 4 KiB, scratch file to pin, from several goroutines: what an import of many small
// files waits for. Each needs three syncs (bytes, name, log), and the file system and raft do those of many at once; so
// it is the number of writers that counts, not how their log entries are cut.
func BenchmarkPush(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			c := benchCluster(b)
			var n atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range writers {
				all.Go(func() {
					data := make([]byte, 4096)
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						copy(data, fmt.Sprint(i))
						push(b, c.Tree(), data)
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "blobs/s")
		})
	}
}

// BenchmarkRead is what a pull asks of the tree: the link, the blob's size, the open file. With and without a writer
// beside it.
func BenchmarkRead(b *testing.B) {
	for _, beside := range []string{"alone", "beside a writer"} {
		b.Run(beside, func(b *testing.B) {
			c := benchCluster(b)
			tree := c.Tree().Sub("registry")
			d := push(b, tree, []byte("layer"))
			update(b, tree, func(batch Batch) {
				for i := range 10_000 {
					batch.Link(fmt.Sprintf("repo/%d/link", i), d)
				}
			})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; beside != "alone" && ctx.Err() == nil; i++ {
					if tree.Update(ctx, func(batch Batch) error {
						batch.Put(fmt.Sprintf("w/%d", i%1000), nil)
						return nil
					}) != nil {
						return
					}
				}
			}()
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i, err := tree.Stat(fmt.Sprintf("repo/%d/link", n.Add(1)%10_000))
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := tree.StatBlob(i.(info).Digest()); err != nil {
						b.Error(err)
						return
					}
					var f io.Closer
					if f, err = tree.OpenBlob(ctx, d); err != nil {
						b.Error(err)
						return
					}
					f.Close()
				}
			})
			cancel()
			<-done
		})
	}
}

// BenchmarkEvents is BenchmarkCommit with one writer in a cluster without and with a log of events, a commit of each in
// turns, so that both have the same disk and the same neighbours.
func BenchmarkEvents(b *testing.B) {
	var at [2]*Cluster
	for i, format := range []uint64{eventFormat - 1, eventFormat} {
		cfg := testConfig(b, b.TempDir())
		cfg.Log, cfg.format = slog.New(slog.DiscardHandler), format
		at[i] = start(b, cfg)
	}
	data := make([]byte, 200)
	var took [2][]time.Duration
	for n := 0; b.Loop(); n++ {
		for i, c := range at {
			begin := time.Now()
			if err := c.Tree().Update(context.Background(), func(batch Batch) error {
				batch.Put(fmt.Sprintf("b/%d", n), data)
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(begin))
		}
	}
	for i, what := range []string{"µs/without", "µs/with"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])/2].Nanoseconds())/1000, what)
	}
}
