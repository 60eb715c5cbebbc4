//go:build bench

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"casemate/cluster"
	"casemate/cluster/treetest"
)

// All benchmarks run on loopback of this machine, peers interleaved with casemate in one run; they print medians and
// ratios, and at the end one table of targets and results (report).
//
// quick leaves most repetitions out, so that the whole takes five minutes.
var (
	quick  = os.Getenv("CASEMATE_BENCH") == "quick"
	rounds = scaled(5, 1)
)

// scaled returns the full amount of work, or less for a quick run.
func scaled[T any](whole, less T) T {
	if quick {
		return less
	}
	return whole
}

// server is a running program under measurement.
type server struct {
	name string
	pid  int
	http string // base URL, plain
	tls  string // base URL, https
	dns  string // host:port
}

// cpu is the CPU time that the process and those that it has started have used, in nanoseconds as the scheduler counts
// them: /proc/PID/stat has ticks of 10 ms.
func (s server) cpu(t testing.TB) time.Duration {
	t.Helper()
	total := time.Duration(0)
	for _, pid := range append([]int{s.pid}, children(s.pid)...) {
		const scheduled = 2 // the kind of clock, below the complement of the process (clock_getcpuclockid(3))
		var used unix.Timespec
		if unix.ClockGettime(int32(^pid)<<3|scheduled, &used) == nil {
			total += time.Duration(used.Nano())
		}
	}
	return total
}

// rss is the resident memory in MiB of the process and those that it has started. A page that several of them map
// counts once (Pss, proc_pid_smaps(5)).
func (s server) rss() float64 {
	total := 0.0
	for _, pid := range append([]int{s.pid}, children(s.pid)...) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if m := regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB`).FindSubmatch(text); m != nil {
			kb, _ := strconv.Atoi(string(m[1]))
			total += float64(kb) / 1024
		}
	}
	return total
}

// peak is the most that the process has had resident, in MiB.
func (s server) peak() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text); m != nil {
		kb, _ := strconv.Atoi(string(m[1]))
		return float64(kb) / 1024
	}
	return 0
}

// children are the processes that a process has started, and theirs. The kernel lists them by the thread that did it.
func children(pid int) []int {
	var list []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, f := range strings.Fields(string(text)) {
			n, _ := strconv.Atoi(f)
			list = append(append(list, n), children(n)...)
		}
	}
	return list
}

// start runs a peer until the test ends.
func start(t testing.TB, dir string, args ...string) int {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(args[0])+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-done
		}
		log.Close()
		if t.Failed() {
			out, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", args[0], tail(out, 4000))
		}
	})
	return cmd.Process.Pid
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

// bench is one casemate on loopback.
type bench struct {
	server
	dir, config, socket string
	roots               *x509.CertPool
	ca                  string
}

func (b *bench) casemate(t testing.TB, args ...string) string {
	t.Helper()
	return must(t, append([]string{filepath.Join(repo(t), "bin/casemate"), "--socket", b.socket}, args...)...)
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := benchAt(t, "n1", "127.0.0.1")
	must(t, filepath.Join(repo(t), "bin/casemate"), "init", "--config", b.config)
	return b
}

// benchAt writes the config of a node.
func benchAt(t testing.TB, name, ip string) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{dir: dir, config: filepath.Join(dir, "casemate.yaml"), socket: filepath.Join(dir, "admin.sock")}
	b.server = server{name: "casemate", http: "http://" + ip + ":28080", tls: "https://" + ip + ":28443",
		dns: ip + ":28053"}
	text := fmt.Sprintf("node: %[1]s\ndata: %[2]s\nadvertise: [%[3]s]\nlisten:\n  http: [\"%[3]s:28080\"]\n  https: "+
		"[\"%[3]s:28443\"]\n  dns: [\"%[3]s:28053\"]\n  peer: \"%[3]s:27443\"\n  admin: %[4]s\n",
		name, filepath.Join(dir, "data"), ip, b.socket)
	if err := os.WriteFile(b.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) start(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	b.pid = start(t, b.dir, filepath.Join(repo(t), "bin/casemate"), "serve", "--config", b.config)
	until(t, "casemate is ready", func() error {
		resp, err := http.Get(b.http + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			return fmt.Errorf("readyz: %s", resp.Status)
		}
		return nil
	})
	took := time.Since(began)
	b.ca = filepath.Join(b.dir, "ca.crt")
	if err := os.WriteFile(b.ca, []byte(b.casemate(t, "ca")), 0o644); err != nil {
		t.Fatal(err)
	}
	pem, _ := os.ReadFile(b.ca)
	b.roots = x509.NewCertPool()
	b.roots.AppendCertsFromPEM(pem)
	return took
}

// auth makes the user bench.
func (b *bench) auth(t testing.TB) authn.Authenticator {
	t.Helper()
	cmd := exec.Command(filepath.Join(repo(t), "bin/casemate"), "--socket", b.socket, "user", "add", "bench",
		"--password-stdin")
	cmd.Stdin = strings.NewReader("a long password\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	return &authn.Basic{Username: "bench", Password: "a long password"}
}

// transport sends every host to casemate's https port.
func (b *bench) transport() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.roots}, MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, strings.TrimPrefix(b.tls, "https://"))
		}}
}

func distribution(t testing.TB) server {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	os.WriteFile(conf, []byte("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: "+
		"{rootdirectory: "+dir+"/data}, delete: {enabled: true}}\nhttp: {addr: 127.0.0.1:28500, secret: x}\n"), 0o644)
	s := server{name: "distribution", http: "http://127.0.0.1:28500"}
	s.pid = start(t, dir, client(t, "registry"), "serve", conf)
	until(t, "distribution answers", func() error {
		resp, err := http.Get(s.http + "/v2/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	return s
}

func nginx(t testing.TB, root, cert, key string) server {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	os.WriteFile(conf, fmt.Appendf(nil, `daemon off; user root; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 2;
events {}
http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
server { listen 127.0.0.1:28600; root %[2]s; }
server { listen 127.0.0.1:28643 ssl; ssl_certificate %[3]s; ssl_certificate_key %[4]s; ssl_protocols TLSv1.3; root %[2]s; } }
`, dir, root, cert, key), 0o644)
	s := server{name: "nginx", http: "http://127.0.0.1:28600", tls: "https://127.0.0.1:28643"}
	s.pid = start(t, dir, "nginx", "-c", conf, "-p", dir)
	until(t, "nginx answers", func() error {
		resp, err := http.Get(s.http + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	return s
}

// TestBenchBytes compares a 1 GiB blob and file over http and https: throughput and server CPU per GiB.
func TestBenchBytes(t *testing.T) {
	b := newBench(t)
	b.start(t)
	auth := b.auth(t)

	img, err := random.Image(1<<30, 1)
	if err != nil {
		t.Fatal(err)
	}
	img = keep(t, img)
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	d := distribution(t)
	push(t, img, "registry.casemate.internal/bench/big:1", remote.WithTransport(b.transport()), remote.WithAuth(auth))
	push(t, img, strings.TrimPrefix(d.http, "http://")+"/bench/big:1")
	root := t.TempDir()
	file := filepath.Join(root, "big.bin")
	src, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	size, err := io.Copy(out, src)
	if err != nil {
		t.Fatal(err)
	}
	src.Close()
	out.Close()
	b.casemate(t, "file", "put", "https://dl.k8s.io/big.bin", file)
	b.casemate(t, "cert", "issue", "--name", "nginx.casemate.internal", "--out", root)
	certs, _ := filepath.Glob(filepath.Join(root, "*.crt"))
	keys, _ := filepath.Glob(filepath.Join(root, "*.key"))
	if len(certs) == 0 || len(keys) == 0 {
		t.Fatal("cert issue left no certificate")
	}
	n := nginx(t, root, certs[0], keys[0])

	blob := "/v2/bench/big/blobs/" + digest.String()
	type what struct {
		s    server
		url  string
		args []string
	}
	curl := func(w what) {
		cmd := exec.Command("curl", append([]string{"-fsSk", "--http1.1", "-o", "/dev/null", w.url}, w.args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("curl %s: %v\n%s", w.url, err, out)
		}
	}
	host := []string{"-H", "Host: registry.casemate.internal"}
	k8s := []string{"-H", "Host: dl.k8s.io"}
	k8sTLS := []string{"--connect-to", "::127.0.0.1:28443"}
	cases := map[string][]what{
		"blob http":  {{b.server, b.http + blob, host}, {n, n.http + "/big.bin", nil}, {d, d.http + blob, nil}},
		"file http":  {{b.server, b.http + "/big.bin", k8s}, {n, n.http + "/big.bin", nil}},
		"blob https": {{b.server, "https://registry.casemate.internal" + blob, k8sTLS}, {n, n.tls + "/big.bin", nil}},
		"file https": {{b.server, "https://dl.k8s.io/big.bin", k8sTLS}, {n, n.tls + "/big.bin", nil}},
	}
	for _, label := range []string{"blob http", "file http", "blob https", "file https"} {
		cpu, wall := map[string][]float64{}, map[string][]float64{}
		for range rounds {
			for _, w := range cases[label] {
				c0, t0 := w.s.cpu(t), time.Now()
				curl(w)
				gib := float64(size) / (1 << 30)
				cpu[w.s.name] = append(cpu[w.s.name], (w.s.cpu(t)-c0).Seconds()/gib)
				wall[w.s.name] = append(wall[w.s.name], gib/time.Since(t0).Seconds())
			}
		}
		for _, w := range cases[label] {
			fmt.Printf("BENCH %-10s %-12s %5.2f GiB/s  %6.0f ms CPU/GiB  cpu ratio to casemate %.2f\n", label, w.s.name,
				median(wall[w.s.name]),
				1000*median(cpu[w.s.name]), median(cpu[w.s.name])/median(cpu["casemate"]))
		}
		fmt.Printf("BENCH %-10s casemate/nginx CPU %.2f\n", label, median(cpu["casemate"])/median(cpu["nginx"]))
	}
}

// keep holds a random image's layers on disk so that reading them twice gives the same bytes and costs no generating.
func keep(t testing.TB, img v1.Image) v1.Image {
	t.Helper()
	dir := writeImage(t, t.TempDir(), img)
	idx, err := readImage(dir)
	if err != nil {
		t.Fatal(err)
	}
	return idx
}

func push(t testing.TB, img v1.Image, ref string, opts ...remote.Option) {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if strings.HasPrefix(ref, "registry.casemate.internal") {
		r, err = name.ParseReference(ref)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img, opts...); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
}

// TestBenchManifests compares manifest requests per second.
func TestBenchManifests(t *testing.T) {
	b := newBench(t)
	b.start(t)
	auth := b.auth(t)
	d := distribution(t)
	img := keep(t, randomImage(t, 1024, 8))
	push(t, img, "registry.casemate.internal/bench/m:1", remote.WithTransport(b.transport()), remote.WithAuth(auth))
	push(t, img, strings.TrimPrefix(d.http, "http://")+"/bench/m:1")
	rate, cpu := map[string][]float64{}, map[string][]float64{}
	for range rounds {
		for _, s := range []server{b.server, d} {
			c0 := s.cpu(t)
			out := must(t, "wrk", "-t1", "-c16", "-d4s", "-H", "Host: registry.casemate.internal", "-H",
				"Accept: application/vnd.docker.distribution.manifest.v2+json", s.http+"/v2/bench/m/manifests/1")
			if strings.Contains(out, "Non-2xx") {
				t.Fatalf("%s: %s", s.name, out)
			}
			m := regexp.MustCompile(`Requests/sec:\s+([\d.]+)`).FindStringSubmatch(out)
			n := regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(out)
			r, _ := strconv.ParseFloat(m[1], 64)
			count, _ := strconv.ParseFloat(n[1], 64)
			rate[s.name] = append(rate[s.name], r)
			cpu[s.name] = append(cpu[s.name], (s.cpu(t)-c0).Seconds()*1e6/count)
		}
	}
	for _, s := range []server{b.server, d} {
		fmt.Printf("BENCH manifests  %-12s %7.0f req/s  %5.1f us CPU/req\n", s.name, median(rate[s.name]),
			median(cpu[s.name]))
	}
	fmt.Printf("BENCH manifests  casemate/distribution %.1f\n", median(rate["casemate"])/median(rate["distribution"]))
}

// TestBenchParallelPulls compares memory under 200 slow parallel pulls of one blob.
func TestBenchParallelPulls(t *testing.T) {
	b := newBench(t)
	b.start(t)
	auth := b.auth(t)
	d := distribution(t)
	img := keep(t, randomImage(t, 64<<20, 1))
	push(t, img, "registry.casemate.internal/bench/p:1", remote.WithTransport(b.transport()), remote.WithAuth(auth))
	push(t, img, strings.TrimPrefix(d.http, "http://")+"/bench/p:1")
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	for _, c := range []struct {
		s    server
		args []string
		url  string
	}{
		{b.server, []string{"-k", "--http1.1", "--connect-to", "::127.0.0.1:28443"},
			"https://registry.casemate.internal"},
		{b.server, []string{"-H", "Host: registry.casemate.internal"}, b.http},
		{d, nil, d.http},
	} {
		before := c.s.rss()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				cmd := exec.CommandContext(ctx, "curl",
					append(append([]string{"-fsS", "--limit-rate", "2M", "-o", "/dev/null"}, c.args...),
						c.url+"/v2/bench/p/blobs/"+digest.String())...)
				cmd.Run()
			})
		}
		peak := 0.0
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			peak = max(peak, c.s.rss())
		}
		cancel()
		wg.Wait()
		fmt.Printf("BENCH 200 pulls  %-12s %-32s RSS before %.0f MiB, peak %.0f MiB\n", c.s.name, c.url, before, peak)
	}
}

// TestBenchPush compares pushing 50 images that share layers.
func TestBenchPush(t *testing.T) {
	b := newBench(t)
	b.start(t)
	auth := b.auth(t)
	d := distribution(t)
	base := keep(t, randomImage(t, 8<<20, 4))
	var images []v1.Image
	for range 50 {
		top := randomImage(t, 1<<20, 1)
		layers, _ := top.Layers()
		shared, _ := base.Layers()
		img, err := mutate.AppendLayers(empty.Image, append(slices.Clone(shared), layers...)...)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, keep(t, img))
	}
	plain := &http.Transport{MaxIdleConnsPerHost: 16}
	for i := range 3 {
		for _, s := range []server{b.server, d} {
			c0, t0 := s.cpu(t), time.Now()
			for j, img := range images {
				repo := fmt.Sprintf("/bench/r%d-%d:1", i, j)
				if s.name == "casemate" {
					push(t, img, "registry.casemate.internal"+repo, remote.WithTransport(b.transport()),
						remote.WithAuth(auth))
				} else {
					push(t, img, strings.TrimPrefix(d.http, "http://")+repo, remote.WithTransport(plain))
				}
			}
			fmt.Printf("BENCH push 50    %-12s round %d: %.2f s, %.2f s CPU\n", s.name, i, time.Since(t0).Seconds(),
				(s.cpu(t) - c0).Seconds())
		}
	}
}

// TestBenchStart measures a start with many entries: processor time until it is ready, and memory then and after half a
// minute of questions. It starts as after a crash in the middle of bulk writes (a copy of the data directory from
// before the stop), after a clean stop, and once more.
func TestBenchStart(t *testing.T) {
	for _, entries := range scaled([]int{300_000, 1_500_000}, []int{300_000}) {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			b := newBench(t)
			data := filepath.Join(b.dir, "data")
			bulk(t, filepath.Join(data, "cluster"), entries, func() { must(t, "cp", "-a", data, data+".crash") })
			once := func(how string) {
				t.Run(how, func(t *testing.T) {
					took := b.start(t)
					cpu, ready := b.cpu(t), b.rss()
					var first, again []float64
					for range scaled(30, 3) {
						c0 := b.cpu(t)
						b.casemate(t, "status", "-o", "json")
						first = append(first, (b.cpu(t)-c0).Seconds()*1000)
						time.Sleep(time.Second)
					}
					first, again = first[:1], first[1:]
					most := map[int][2]float64{300_000: {0.8, 130}, 1_500_000: {3, 500}}[entries]
					limit(fmt.Sprintf("%d entries, start, %s", entries, how), "s CPU until ready", cpu.Seconds(),
						most[0])
					limit(fmt.Sprintf("%d entries, start, %s", entries, how), "MiB resident", b.rss(), most[1])
					fmt.Printf("BENCH start      %d entries, %-11s ready after %.2f s, %.2f s CPU, RSS %.0f MiB, "+
						"later %.0f, peak %.0f; "+
						"status %.0f ms CPU, again %.0f\n", entries, how, took.Seconds(), cpu.Seconds(), ready, b.rss(),
						b.peak(), first[0], median(again))
				})
			}
			once("clean stop")
			once("again")
			if err := errors.Join(os.RemoveAll(data), os.Rename(data+".crash", data)); err != nil {
				t.Fatal(err)
			}
			once("crash")
			once("thereafter")
		})
	}
}

// bulk writes entries into a node's tree, 2 000 a batch and all of one blob, and stops it.
func bulk(t *testing.T, dir string, entries int, before func()) {
	t.Helper()
	c, err := cluster.Open(cluster.Config{Dir: dir, Node: "n1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	tree := c.Tree()
	w, err := tree.CreateBlob("")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("x"))
	digest, err := w.Commit(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	const batch = 2_000
	for i := 0; i < entries; i += batch {
		if err := tree.Update(ctx, func(u treetest.Batch) error {
			for j := i; j < i+batch; j++ {
				u.Link(fmt.Sprintf("registry/registry.k8s.io/team-%03d/app-%03d/_layers/sha256/%064x/link", j/10000,
					j/100%100, rand.Uint64()), digest)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	before()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
