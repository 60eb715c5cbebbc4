//go:build bench

package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/raftlog"
)

// These measure the cluster without the services above it: real files in the temporary directory, TCP and TLS over
// loopback, all nodes in this process and on its cores. Alternatives that are compared are measured in turns. Nothing
// is asserted; `make bench` prints it.

const benchRounds = 3

// benchNode opens a node with a peer port; with by it joins that node's cluster. tune may be nil.
func benchNode(t testing.TB, name string, by *Cluster, tune func(*Config)) *Cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(t.TempDir(), name), Node: name, Log: slog.New(slog.DiscardHandler),
		Peer: []net.Listener{l}}
	if tune != nil {
		tune(&cfg)
	}
	if by == nil {
		return start(t, cfg)
	}
	token, err := by.CreateToken(context.Background(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	joining := cfg
	joining.Peer, joining.PeerAddrs = nil, []string{l.Addr().String()}
	if _, err := Join(context.Background(), joining, by.cfg.PeerAddrs[0], token); err != nil {
		t.Fatal(err)
	}
	return start(t, cfg)
}

// benchNodes opens n voters. The first leads, unless the machine is so busy that it loses that.
func benchNodes(t testing.TB, n int) []*Cluster {
	t.Helper()
	nodes := []*Cluster{benchNode(t, "n1", nil, nil)}
	for i := 2; i <= n; i++ {
		nodes = append(nodes, benchNode(t, fmt.Sprintf("n%d", i), nodes[0], nil))
	}
	benchVoters(t, nodes, n)
	return nodes
}

func benchVoters(t testing.TB, nodes []*Cluster, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Millisecond) {
		whole := true
		for _, c := range nodes {
			voters := 0
			for _, m := range c.Members() {
				if m.Role != "learner" && m.Up {
					voters++
				}
			}
			whole = whole && voters == n
		}
		if whole {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d nodes do not vote", n)
		}
	}
}

func leaderFirst(nodes []*Cluster) []*Cluster {
	nodes = slices.Clone(nodes)
	slices.SortStableFunc(nodes, func(a, b *Cluster) int {
		leads := func(c *Cluster) int {
			if c.Status().Role == "leader" {
				return 0
			}
			return 1
		}
		return leads(a) - leads(b)
	})
	return nodes
}

func quantile(all []time.Duration, q float64) time.Duration {
	all = slices.Sorted(slices.Values(all))
	if len(all) == 0 {
		return 0
	}
	return all[min(len(all)-1, int(q*float64(len(all))))].Round(10 * time.Microsecond)
}

func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}

// many runs f from several goroutines for a time and returns how many there were a second.
func many(writers int, d time.Duration, f func(i int64)) float64 {
	var n atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range writers {
		all.Go(func() {
			for time.Since(began) < d {
				f(n.Add(1))
			}
		})
	}
	all.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

type place struct {
	name string
	c    *Cluster
}

func places(t testing.TB) []place {
	t.Helper()
	one, three := benchNodes(t, 1), leaderFirst(benchNodes(t, 3))
	return []place{{"one node", one[0]}, {"three, leader", three[0]}, {"three, follower", three[1]}}
}

// TestBenchWrites writes records of 200 bytes, one in each batch.
func TestBenchWrites(t *testing.T) {
	at := places(t)
	data := make([]byte, 200)
	var n atomic.Int64
	put := func(c *Cluster) {
		name := fmt.Sprintf("w/%d", n.Add(1))
		if err := c.Tree().Update(context.Background(), func(b Batch) error {
			b.Put(name, data)
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	took := map[string][]time.Duration{}
	rates := map[string][]float64{}
	for range benchRounds {
		for _, p := range at {
			for range 200 {
				began := time.Now()
				put(p.c)
				took[p.name] = append(took[p.name], time.Since(began))
			}
			rates[p.name] = append(rates[p.name], many(64, 2*time.Second, func(int64) { put(p.c) }))
		}
	}
	for _, p := range at {
		fmt.Printf("BENCH write      %-16s 1 writer p50 %-8v p99 %-8v  64 writers %6.0f commits/s, to one node %.2f\n",
			p.name, quantile(took[p.name], .5), quantile(took[p.name], .99),
			middle(rates[p.name]), middle(rates[p.name])/middle(rates[at[0].name]))
	}
	idle(t)
}

// TestBenchBlobs: blobs from the scratch file to the pin.
func TestBenchBlobs(t *testing.T) {
	at := places(t)
	for _, c := range []struct {
		size    int
		writers int
		file    bool // the bytes are a file's, as those of an import
	}{{4 << 10, 1, false}, {4 << 10, 64, false}, {8 << 20, 4, false}, {8 << 20, 4, true}} {
		t.Run(fmt.Sprintf("%d KiB file %v", c.size>>10, c.file), func(t *testing.T) {
			var took = map[string][]time.Duration{}
			var mu sync.Mutex
			rates := map[string][]float64{}
			source := filepath.Join(t.TempDir(), "source")
			for range benchRounds {
				for _, p := range at {
					data := make([]byte, c.size)
					rand.Read(data)
					rates[p.name] = append(rates[p.name], many(c.writers, 2*time.Second, func(i int64) {
						began := time.Now()
						w, err := p.c.Tree().CreateBlob("")
						if err != nil {
							t.Error(err)
							return
						}
						defer w.Close()
						mine := fmt.Appendf(nil, "%s %d %d", p.name, i, began.UnixNano())
						if c.file {
							name := fmt.Sprintf("%s-%d", source, i)
							if err := os.WriteFile(name, append(mine, data...), 0o600); err != nil {
								t.Error(err)
							}
							f, err := os.Open(name)
							if err != nil {
								t.Error(err)
								return
							}
							defer os.Remove(name)
							defer f.Close()
							began = time.Now()
							_, err = io.Copy(w, io.NewSectionReader(f, 0, 1<<62))
							if err != nil {
								t.Error(err)
							}
						} else {
							w.Write(mine)
							for part := data; len(part) > 0; {
								n := min(len(part), 64<<10)
								if _, err := w.Write(part[:n]); err != nil {
									t.Error(err)
								}
								part = part[n:]
							}
						}
						if _, err := w.Commit(context.Background(), ""); err != nil {
							t.Error(err)
						}
						mu.Lock()
						defer mu.Unlock()
						took[p.name] = append(took[p.name], time.Since(began))
					}))
				}
			}
			how := "stream"
			if c.file {
				how = "file"
			}
			for _, p := range at {
				r := middle(rates[p.name])
				fmt.Printf("BENCH blob       %-16s %5d KiB, %2d writers, %-6s p50 %-8v p99 %-8v %7.1f/s %6.1f MiB/s, "+
					"to one node %.2f\n", p.name, c.size>>10, c.writers, how,
					quantile(took[p.name], .5), quantile(took[p.name], .99), r, r*float64(c.size)/(1<<20),
					r/middle(rates[at[0].name]))
			}
		})
	}
}

// idle prints what three nodes that have nothing to do use of a processor.
func idle(t testing.TB) {
	used := benchCPU(t)
	time.Sleep(3 * time.Second)
	fmt.Printf("BENCH idle       one node and three in one process: %.1f %% of a core\n",
		100*(benchCPU(t)-used).Seconds()/3)
}

// TestBenchCatchUp: an empty node joins one that holds 1 GiB in blobs of 64 MiB and 5 000 of 4 KiB; until it votes.
// With the rate limit as it is, and without.
func TestBenchCatchUp(t *testing.T) {
	first := benchNode(t, "n1", nil, nil)
	fill := func(n, size int) {
		data := make([]byte, size)
		rand.Read(data)
		var i atomic.Int64
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				data := slices.Clone(data)
				for k := i.Add(1); k <= int64(n); k = i.Add(1) {
					copy(data, fmt.Sprintf("%d of %d", k, size))
					d := push(t, first.Tree(), data)
					update(t, first.Tree(), func(b Batch) { b.Link(fmt.Sprintf("f/%d-%d", size, k), d) })
				}
			})
		}
		all.Wait()
	}
	nodes := []*Cluster{first}
	join := func(what string, blobs int, size float64, limit int64) {
		began := time.Now()
		nodes = append(nodes, benchNode(t, fmt.Sprintf("n%d", len(nodes)+1), first, func(c *Config) {
			c.CatchUp = limit
		}))
		benchVoters(t, nodes, len(nodes))
		s := time.Since(began).Seconds()
		fmt.Printf("BENCH catch up   %-40s %6.1f s  %6.1f MiB/s %7.1f blobs/s\n", what, s, size/s, float64(blobs)/s)
	}
	fill(5000, 4<<10)
	join("5 000 blobs of 4 KiB", 5000, 20, 1<<40)
	fill(16, 64<<20)
	benchSettled(t, nodes)
	join("and 1 GiB in 16 blobs, no limit", 5016, 1044, 1<<40)
	join("and 1 GiB in 16 blobs, 64 MiB/s", 5016, 1044, 0)
}

func benchSettled(t testing.TB, nodes []*Cluster) {
	for _, c := range nodes {
		for c.replica.Missing() != 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestBenchSnapshot takes snapshots of states of 200 000 and 1 000 000 names beside a writer: how long that one's
// writes took meanwhile and before, and how long the snapshot took. The writer waits for syncs of the same disk, so its
// longest write bounds the pause of Apply from above.
func TestBenchSnapshot(t *testing.T) {
	c := benchNode(t, "n1", nil, nil)
	d := push(t, c.Tree(), []byte("x"))
	have := 0
	for _, entries := range []int{200_000, 1_000_000} {
		for ; have < entries; have += 2000 {
			update(t, c.Tree(), func(b Batch) {
				for j := have; j < have+2000; j++ {
					b.Link(fmt.Sprintf("registry/registry.k8s.io/team-%03d/app-%03d/_layers/sha256/%064x/link", j/10000,
						j/100%100, j), d)
				}
			})
		}
		runtime.GC()
		ctx, stop := context.WithCancel(context.Background())
		var mu sync.Mutex
		var took []time.Duration
		var all sync.WaitGroup
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				began := time.Now()
				if err := c.Tree().Update(context.Background(), func(b Batch) error {
					b.Put(fmt.Sprintf("w/%d", i%1000), nil)
					return nil
				}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
			}
		})
		take := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			all := took
			took = nil
			return all
		}
		time.Sleep(2 * time.Second)
		before := take()
		var total, during []time.Duration
		for range benchRounds {
			take()
			began := time.Now()
			if err := c.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
			total = append(total, time.Since(began))
			during = append(during, take()...)
			time.Sleep(500 * time.Millisecond)
		}
		stop()
		all.Wait()
		// What raft's FSM goroutine does for a snapshot, and all that Apply waits for: a copy of the state.
		var held []time.Duration
		for range 1000 {
			began := time.Now()
			c.machine.view.Load().Snapshot()
			held = append(held, time.Since(began))
		}
		slices.Sort(held)
		size := int64(0)
		list, _ := filepath.Glob(filepath.Join(c.cfg.Dir, snapshotDir, "*"+raftlog.Suffix))
		for _, name := range list {
			if i, err := os.Stat(name); err == nil && !strings.HasSuffix(name, ".new") {
				size = max(size, i.Size())
			}
		}
		fmt.Printf("BENCH snapshot   %7d names: %v, %.1f MiB (%d bytes a name); Apply held for %v (longest of 1000 "+
			"%v); writes beside it p50 %v p99 %v max %v, before p50 %v p99 %v max %v\n",
			entries, quantile(total, .5), float64(size)/(1<<20), size/int64(entries), held[500], held[999],
			quantile(during, .5), quantile(during, .99), quantile(during, 1), quantile(before, .5),
			quantile(before, .99), quantile(before, 1))
	}
}

// benchCPU is the processor time that this process has used.
func benchCPU(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
