//go:build bench

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"casemate/bundle/format"
)

// oneAndThree starts a casemate of one node and one of three, all on this machine. The three are in an order in which
// the first leads.
func oneAndThree(t testing.TB) (one *bench, three []*bench) {
	t.Helper()
	one = newBench(t)
	one.start(t)
	bin := filepath.Join(repo(t), "bin/casemate")
	for i, ip := range []string{"127.0.0.11", "127.0.0.12", "127.0.0.13"} {
		b := benchAt(t, fmt.Sprintf("n%d", i+1), ip)
		if i == 0 {
			must(t, bin, "init", "--config", b.config)
		} else {
			token := strings.Fields(three[0].casemate(t, "token", "create"))[0]
			must(t, bin, "join", "--config", b.config, "--token", token, "127.0.0.11:27443")
		}
		b.start(t)
		three = append(three, b)
	}
	wholeBench(t, three)
	// voter, leader
	slices.SortStableFunc(three, func(a, b *bench) int { return strings.Compare(b.role(t), a.role(t)) })
	if r := three[0].role(t); r != "leader" {
		slices.Reverse(three)
	}
	return one, three
}

type benchMember struct {
	Node, Role  string
	Up, Self    bool
	BlobsToCome int `json:"blobs_to_come"`
}

func (b *bench) members(t testing.TB) (list []benchMember) {
	t.Helper()
	if err := json.Unmarshal([]byte(b.casemate(t, "member", "list", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *bench) role(t testing.TB) string {
	for _, m := range b.members(t) {
		if m.Self {
			return m.Role
		}
	}
	return ""
}

// wholeBench waits until all vote and nothing is still to be copied in the background.
func wholeBench(t testing.TB, nodes []*bench) {
	t.Helper()
	until(t, "the cluster is whole", func() error {
		for _, b := range nodes {
			for _, m := range b.members(t) {
				if !m.Up || m.BlobsToCome != 0 || m.Role == "learner" {
					return fmt.Errorf("%+v", m)
				}
			}
		}
		return nil
	})
}

func cpuOf(t testing.TB, nodes []*bench) (total time.Duration) {
	for _, b := range nodes {
		total += b.cpu(t)
	}
	return total
}

// turns measures a call with one node, with three at the leader, and with three at a follower, in turns, and prints
// medians, CPU and the ratio.
func turns(t testing.TB, what string, n int, unit string, amount float64, one *bench, three []*bench,
	do func(round int, b *bench), after ...func(b *bench)) (speed, cpu map[string]float64) {
	t.Helper()
	places := []struct {
		name string
		at   *bench
		all  []*bench
	}{{"one node", one, []*bench{one}}, {"three, leader", three[0], three}, {"three, follower", three[1], three}}
	took, used := map[string][]float64{}, map[string][]float64{}
	for round := range n {
		for _, p := range places {
			must(t, "sync")
			c0, t0 := cpuOf(t, p.all), time.Now()
			do(round, p.at)
			took[p.name] = append(took[p.name], time.Since(t0).Seconds())
			wholeBench(t, p.all) // background work counts as CPU, and must not be counted for the next one
			used[p.name] = append(used[p.name], (cpuOf(t, p.all) - c0).Seconds())
			for _, f := range after {
				f(p.at)
			}
		}
	}
	for _, p := range places {
		fmt.Printf("BENCH %-10s %-16s %.2f s (median of %.2f)  %7.1f %s/s  %.2f s CPU  throughput to one node %.2f\n",
			what, p.name, median(took[p.name]), took[p.name],
			amount/median(took[p.name]), unit, median(used[p.name]), median(took["one node"])/median(took[p.name]))
	}
	speed = map[string]float64{}
	for name, v := range took {
		speed[name] = amount / median(v)
	}
	return speed, medians(used)
}

// TestBenchThreePush compares pushing images that share layers to three nodes with pushing them to one.
func TestBenchThreePush(t *testing.T) {
	one, three := oneAndThree(t)
	auth := one.auth(t)
	three[0].auth(t)
	base := keep(t, randomImage(t, 8<<20, 4))
	shared, _ := base.Layers()
	images := func(n int) (list []v1.Image) {
		for range n {
			top := randomImage(t, 1<<20, 1)
			layers, _ := top.Layers()
			img, err := mutate.AppendLayers(empty.Image, append(slices.Clone(shared), layers...)...)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, keep(t, img))
		}
		return list
	}
	const n = 10
	list := images(n)
	turns(t, "push", rounds, "MiB", n*33, one, three, func(round int, b *bench) {
		for j, img := range list {
			push(t, img, fmt.Sprintf("registry.casemate.internal/bench/r%s-%d-%d:1", b.tls[len(b.tls)-8:len(b.tls)-6],
				round, j), remote.WithTransport(b.transport()), remote.WithAuth(auth))
		}
	})
	// Many small ones, one after another: what waits for syncs and for the other nodes.
	small := keep(t, randomImage(t, 4<<10, 2))
	turns(t, "push small", rounds, "images", n, one, three, func(round int, b *bench) {
		for j := range n {
			img := mutate.Annotations(small, map[string]string{"n": fmt.Sprint(round, j, b.tls)}).(v1.Image)
			push(t, img, fmt.Sprintf("registry.casemate.internal/bench/s-%d:%d", j, round),
				remote.WithTransport(b.transport()), remote.WithAuth(auth))
		}
	})
}

// timing notes how long the PUTs of manifests take.
type timing struct {
	http.RoundTripper
	took *[]float64 // ms
}

func (r timing) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	res, err := r.RoundTripper.RoundTrip(req)
	if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
		*r.took = append(*r.took, time.Since(began).Seconds()*1000)
	}
	return res, err
}

// TestBenchThreeSmall measures pushes of small images that share nothing, one after another: two layers of 4 KiB, a
// config and a manifest each. They wait for syncs and for the other nodes.
func TestBenchThreeSmall(t *testing.T) {
	one, three := oneAndThree(t)
	auth := one.auth(t)
	three[0].auth(t)
	took := map[*bench]*[]float64{}
	clients := map[*bench]http.RoundTripper{}
	for _, b := range append([]*bench{one}, three...) {
		took[b] = new([]float64)
		clients[b] = timing{b.transport(), took[b]}
	}
	const n = 20
	speed, _ := turns(t, "small image", rounds, "images", n, one, three, func(round int, b *bench) {
		for j := range n {
			push(t, randomImage(t, 4<<10, 2), fmt.Sprintf("registry.casemate.internal/bench/u-%d:%d", j, round),
				remote.WithTransport(clients[b]), remote.WithAuth(auth), remote.WithJobs(1))
		}
	})
	for _, at := range []string{"leader", "follower"} {
		report(row{what: "small images, one writer, three nodes, at the " + at, unit: "images a second",
			ours: speed["three, "+at],
			peer: "one node", best: speed["one node"], factor: 0.6, atLeast: true})
	}
	for i, b := range []*bench{one, three[0], three[1]} {
		all := slices.Sorted(slices.Values(*took[b]))
		if i == 1 {
			limit("manifest PUT, three nodes, at the leader, p50", "ms", all[len(all)/2], 5)
		}
		fmt.Printf("BENCH manifest PUT %-16s p50 %.1f ms  p99 %.1f ms\n",
			[]string{"one node", "three, leader", "three, follower"}[i], all[len(all)/2], all[len(all)*99/100])
	}
}

// TestBenchThreeIdle measures what nodes that have nothing to do use of a core, for 30 s.
func TestBenchThreeIdle(t *testing.T) {
	one, three := oneAndThree(t)
	nodes := append([]*bench{one}, three...)
	time.Sleep(5 * time.Second) // the rest of the start
	before := map[*bench]time.Duration{}
	for _, b := range nodes {
		before[b] = b.cpu(t)
	}
	long := scaled(30*time.Second, 15*time.Second)
	time.Sleep(long)
	for i, b := range nodes {
		if used := 100 * (b.cpu(t) - before[b]).Seconds() / long.Seconds(); i == 1 || i == 2 {
			limit("idle, three nodes, "+[]string{"", "leader", "follower"}[i], "% of a core", used,
				[]float64{0, 1, 0.5}[i])
		}
		fmt.Printf("BENCH idle       %-16s %.2f %% of a core\n",
			[]string{"one node", "three, leader", "three, follower", "three, follower"}[i],
			100*(b.cpu(t)-before[b]).Seconds()/long.Seconds())
	}
}

// TestBenchThreeFiles measures puts of small files at the admin socket, one after another: each is a blob and a name.
func TestBenchThreeFiles(t *testing.T) {
	one, three := oneAndThree(t)
	took := map[*bench][]float64{}
	const n = 100
	turns(t, "file put", rounds, "files", n, one, three, func(round int, b *bench) {
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn,
			error) {
			return new(net.Dialer).DialContext(ctx, "unix", b.socket)
		}}}
		defer client.CloseIdleConnections()
		for i := range n {
			url := fmt.Sprintf("http://casemate/v1/files?url=https://dl.k8s.io/%d/%s/%d", round, b.dns, i)
			req, err := http.NewRequest("PUT", url, strings.NewReader(url))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode >= 300 {
				t.Fatalf("%s: %s", res.Status, text)
			}
			took[b] = append(took[b], time.Since(began).Seconds()*1000)
		}
	})
	for i, b := range []*bench{one, three[0], three[1]} {
		all := slices.Sorted(slices.Values(took[b]))
		fmt.Printf("BENCH file put   %-16s p50 %.1f ms  p99 %.1f ms\n",
			[]string{"one node", "three, leader", "three, follower"}[i], all[len(all)/2], all[len(all)*99/100])
	}
}

// TestBenchThreeImport compares importing a bundle of images into three nodes with importing it into one, and with
// importing it into three that do not know each other.
// CASEMATE_BENCH_THREE_GIB is its size, 1 if not set.
func TestBenchThreeImport(t *testing.T) {
	gib := 1
	if s := os.Getenv("CASEMATE_BENCH_THREE_GIB"); s != "" {
		gib, _ = strconv.Atoi(s)
	}
	dir := t.TempDir()
	l := newLayout(t, filepath.Join(dir, "layout"), 4*gib, 4, 64<<20)
	file := filepath.Join(dir, "bundle.tar")
	if _, err := format.Write(context.Background(), file, &l.index, l.open, format.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(l.dir)
	one, three := oneAndThree(t)
	take := func(b *bench) { b.casemate(t, "import", "--name", "bench", file) }
	drop := func(b *bench, holders ...*bench) {
		b.casemate(t, "import", "remove", "--yes", "bench")
		b.casemate(t, "gc", "--now")
		for _, n := range holders {
			blobs := filepath.Join(n.dir, "data", "cluster", "blobs")
			until(t, "the bytes of the import before are gone", func() error {
				left := int64(0)
				filepath.WalkDir(blobs, func(_ string, d fs.DirEntry, err error) error {
					if err == nil && d.Type().IsRegular() {
						if i, err := d.Info(); err == nil {
							left += i.Size()
						}
					}
					return nil
				})
				if left > 64<<20 {
					return fmt.Errorf("%d bytes are left", left)
				}
				return nil
			})
		}
	}
	_, cpu := turns(t, "import", scaled(3, 1), "MiB", float64(gib)*1024, one, three,
		func(_ int, b *bench) { take(b) }, func(b *bench) { drop(b, three...) })
	// A virtual machine may have to ask its host for each page of memory, unless it has just freed one. Then what one
	// node writes costs several times less than the copies of three, whoever makes them. So three nodes are compared
	// with as many that do not know each other, too: these write as much.
	apart := []*bench{one}
	for i, ip := range []string{"127.0.0.21", "127.0.0.22"} {
		b := benchAt(t, fmt.Sprintf("apart%d", i+1), ip)
		must(t, filepath.Join(repo(t), "bin/casemate"), "init", "--config", b.config)
		b.start(t)
		apart = append(apart, b)
	}
	var alone, together []float64
	for range scaled(3, 1) {
		must(t, "sync")
		before := cpuOf(t, apart)
		for _, b := range apart {
			take(b)
		}
		alone = append(alone, (cpuOf(t, apart) - before).Seconds())
		for _, b := range apart {
			drop(b, b)
		}
		must(t, "sync")
		before = cpuOf(t, three)
		take(three[0])
		wholeBench(t, three)
		together = append(together, (cpuOf(t, three) - before).Seconds())
		drop(three[0], three...)
	}
	report(row{what: fmt.Sprintf("import of %d GiB, three nodes, at the leader", gib), unit: "s CPU",
		ours: cpu["three, leader"],
		peer: "one node", best: cpu["one node"], factor: 3.5})
	report(row{what: fmt.Sprintf("import of %d GiB, three nodes, at the leader, beside three apart", gib),
		unit: "s CPU",
		ours: median(together), peer: "three nodes apart", best: median(alone), factor: 3.5 / 3})
}
