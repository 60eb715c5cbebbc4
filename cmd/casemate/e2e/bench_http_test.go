//go:build bench

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
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
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/bcrypt"
)

// HTTP and TLS beside nginx and zot. Every row is measured in turns within a few seconds of its peer's, because other
// work on the machine changes by the minute.

// peerName is the name in the peers' certificate.
const peerName = "peer.casemate.internal"

// peerCert has casemate's CA certify the peers, so that they send as many certificates, of the same kind of key.
func peerCert(t testing.TB, b *bench, dir string) (cert, key string) {
	t.Helper()
	b.casemate(t, "cert", "issue", "--name", peerName, "--name", "127.0.0.1", "--out", dir)
	certs, _ := filepath.Glob(filepath.Join(dir, "*.crt"))
	keys, _ := filepath.Glob(filepath.Join(dir, "*.key"))
	if len(certs) == 0 || len(keys) == 0 {
		t.Fatal("cert issue left no certificate")
	}
	return certs[0], keys[0]
}

// zot starts zot over http or, with a certificate, over https; with a password it has the user "bench" and nobody else.
// Without the program the rows have no peer.
func zot(t testing.TB, port int, cert, key, password string) (s server, ok bool) {
	t.Helper()
	bin := client(t, "zot")
	if _, err := os.Stat(bin); err != nil {
		fmt.Println("BENCH zot is not in bin/clients: its rows are left out")
		return s, false
	}
	dir := t.TempDir()
	secure, scheme := "", "http"
	if cert != "" {
		secure, scheme = fmt.Sprintf(`, "tls": {"cert": %q, "key": %q}`, cert, key), "https"
	}
	name := "zot"
	if password != "" {
		// zot checks the hash at each request. The cost is the default of htpasswd -B.
		hash, err := bcrypt.GenerateFromPassword([]byte(password), 5)
		if err != nil {
			t.Fatal(err)
		}
		users := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(users, fmt.Appendf(nil, "bench:%s\n", hash), 0o600); err != nil {
			t.Fatal(err)
		}
		secure += fmt.Sprintf(`, "auth": {"htpasswd": {"path": %q}}`, users)
		name = "zot, a user"
	}
	conf := filepath.Join(dir, "zot.json")
	text := fmt.Sprintf(`{"distSpecVersion": "1.1.1", "storage": {"rootDirectory": %q},
 "http": {"address": "127.0.0.1", "port": "%d"%s}, "log": {"level": "error"}}`, dir+"/data", port, secure)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s = server{name: name, http: fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)}
	s.pid = start(t, dir, bin, "serve", conf)
	until(t, "zot answers", func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err
	})
	return s, true
}

// wrkRun is a result of wrk, and the server's usage meanwhile.
type wrkRun struct {
	rate, bytes float64 // a second
	p99         time.Duration
	requests    float64
	cpu         time.Duration
}

func wrk(t testing.TB, s server, conns, seconds int, url string, headers ...string) wrkRun {
	t.Helper()
	args := []string{"wrk", "--latency", "--timeout", "60s", "-t" + strconv.Itoa(min(2, conns)),
		"-c" + strconv.Itoa(conns), fmt.Sprintf("-d%ds", seconds)}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	before := s.cpu(t)
	out := must(t, append(args, url)...)
	r := wrkRun{cpu: s.cpu(t) - before}
	if strings.Contains(out, "Non-2xx") {
		t.Fatalf("%s: %s", s.name, out)
	}
	number := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("wrk said no %s:\n%s", pattern, out)
		}
		return m[1]
	}
	r.rate, _ = strconv.ParseFloat(number(`Requests/sec:\s+([\d.]+)`), 64)
	r.requests, _ = strconv.ParseFloat(number(`(\d+) requests in`), 64)
	r.p99, _ = time.ParseDuration(number(`99%\s+([\d.]+[a-z]+)`))
	size := number(`Transfer/sec:\s+([\d.]+)`)
	r.bytes, _ = strconv.ParseFloat(size, 64)
	r.bytes *= map[string]float64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30,
		"": 1}[number(`Transfer/sec:\s+[\d.]+([KMG]?)B`)]
	return r
}

// TestBenchManifestsZot compares manifest requests by tag with zot: at 256 connections and at one.
func TestBenchManifestsZot(t *testing.T) {
	b := newBench(t)
	b.start(t)
	auth := b.auth(t)
	img := keep(t, randomImage(t, 1024, 8))
	push(t, img, "registry.casemate.internal/bench/m:1", remote.WithTransport(b.transport()), remote.WithAuth(auth))
	servers := []server{b.server}
	if z, ok := zot(t, 28700, "", "", ""); ok {
		oci := mutate.MediaType(img, "application/vnd.oci.image.manifest.v1+json")
		push(t, oci, strings.TrimPrefix(z.http, "http://")+"/bench/m:1")
		servers = append(servers, z)
	}
	for _, conns := range []int{256, 1} {
		rate, cpu, p99 := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range rounds {
			for _, s := range servers {
				r := wrk(t, s, conns, 3, s.http+"/v2/bench/m/manifests/1", "Host: registry.casemate.internal",
					"Accept: application/vnd.docker.distribution.manifest.v2+json, "+
						"application/vnd.oci.image.manifest.v1+json")
				rate[s.name] = append(rate[s.name], r.rate)
				cpu[s.name] = append(cpu[s.name], r.cpu.Seconds()*1e6/r.requests)
				p99[s.name] = append(p99[s.name], float64(r.p99)/1e6)
			}
		}
		for _, s := range servers {
			fmt.Printf("BENCH manifest, %3d connections  %-9s %7.0f req/s  %6.1f us CPU/req  p99 %7.2f ms  rate/zot "+
				"%.2f  cpu/zot %.2f  p99/zot %.2f\n",
				conns, s.name, median(rate[s.name]), median(cpu[s.name]), median(p99[s.name]),
				median(rate[s.name])/median(rate["zot"]),
				median(cpu[s.name])/median(cpu["zot"]), median(p99[s.name])/median(p99["zot"]))
		}
		switch {
		case len(servers) == 1:
		case conns == 1:
			report(row{what: "manifest by tag, 1 connection", unit: "requests a second", ours: median(rate["casemate"]),
				peer: "zot", best: median(rate["zot"]), factor: 2, atLeast: true})
		default:
			less(fmt.Sprintf("manifest by tag, %d connections, p99", conns), "ms", medians(p99), 1)
			less(fmt.Sprintf("manifest by tag, %d connections", conns), "µs CPU a request", medians(cpu), 1)
		}
	}
}

// bigBlob pushes one layer of this size and leaves the same bytes in a file of root.
func bigBlob(t testing.TB, b *bench, root string, size int64) (path string) {
	t.Helper()
	img := keep(t, randomImage(t, size, 1))
	push(t, img, "registry.casemate.internal/bench/big:1", remote.WithTransport(b.transport()),
		remote.WithAuth(b.auth(t)))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	src, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out, err := os.Create(filepath.Join(root, "big.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, src); err != nil {
		t.Fatal(err)
	}
	return "/v2/bench/big/blobs/" + digest.String()
}

// TestBenchClients compares CPU for each GiB that 64 clients take at a time.
func TestBenchClients(t *testing.T) {
	b := newBench(t)
	b.start(t)
	root := t.TempDir()
	cert, key := peerCert(t, b, root)
	n := nginx(t, root, cert, key)
	blob := bigBlob(t, b, root, 8<<20)
	for _, c := range []struct{ label, ours, nginx string }{
		{"http", b.http + blob, n.http + "/big.bin"},
		{"https", b.tls + blob, n.tls + "/big.bin"},
	} {
		cpu, speed := map[string][]float64{}, map[string][]float64{}
		for range rounds {
			for _, s := range []server{b.server, n} {
				url := c.nginx
				if s.name == "casemate" {
					url = c.ours
				}
				began := time.Now()
				r := wrk(t, s, 64, 4, url)
				sent := r.bytes * time.Since(began).Seconds() / (1 << 30)
				cpu[s.name] = append(cpu[s.name], r.cpu.Seconds()/sent)
				speed[s.name] = append(speed[s.name], r.bytes/(1<<30))
			}
		}
		for _, s := range []server{b.server, n} {
			fmt.Printf("BENCH blob %-5s, 64 clients  %-9s %5.2f GiB/s  %5.3f s CPU/GiB\n", c.label, s.name,
				median(speed[s.name]), median(cpu[s.name]))
		}
		fmt.Printf("BENCH blob %-5s, 64 clients  casemate/nginx CPU %.2f\n", c.label,
			median(cpu["casemate"])/median(cpu["nginx"]))
		less("blob "+c.label+", 64 clients", "s CPU a GiB", medians(cpu),
			map[string]float64{"http": 1.2, "https": 1}[c.label])
	}
}

// handshake makes one full handshake, with no session to resume, and waits until the server has closed as well.
func handshake(addr, name string, roots *x509.CertPool, curve tls.CurveID) error {
	tcp, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		return err
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(time.Minute))
	cfg := &tls.Config{ServerName: name, RootCAs: roots, CurvePreferences: []tls.CurveID{curve}}
	if roots == nil {
		cfg.InsecureSkipVerify = true
	}
	c := tls.Client(tcp, cfg)
	if err := c.Handshake(); err != nil {
		return err
	}
	c.CloseWrite()
	io.Copy(io.Discard, c)
	return nil
}

// TestBenchHandshakes compares full handshakes, with certificates that are there (nginx) and that have to be made.
func TestBenchHandshakes(t *testing.T) {
	b := newBench(t)
	b.start(t)
	root := t.TempDir()
	cert, key := peerCert(t, b, root)
	n := nginx(t, root, cert, key)
	warm := scaled(2000, 1000)
	type peer struct {
		server
		label, name string
		curve       tls.CurveID
	}
	peers := []peer{
		{b.server, "casemate, X25519", "registry.casemate.internal", tls.X25519},
		{n, "nginx, X25519", peerName, tls.X25519},
		{b.server, "casemate, X25519MLKEM768", "registry.casemate.internal", tls.X25519MLKEM768},
	}
	used := map[string][]float64{}
	for range rounds {
		for _, p := range peers {
			before := p.cpu(t)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range warm / 4 {
						if err := handshake(strings.TrimPrefix(p.tls, "https://"), p.name, nil, p.curve); err != nil {
							t.Error(p.label, err)
							return
						}
					}
				})
			}
			wg.Wait()
			used[p.label] = append(used[p.label], (p.cpu(t)-before).Seconds()*1e6/float64(warm))
		}
	}
	for _, p := range peers {
		fmt.Printf("BENCH handshake, warm  %-26s %4.0f us CPU  /nginx %.2f\n", p.label, median(used[p.label]),
			median(used[p.label])/median(used["nginx, X25519"]))
	}

	less("handshake, warm", "µs CPU", map[string]float64{
		"casemate": median(used["casemate, X25519"]), "nginx": median(used["nginx, X25519"]),
	}, 1.1)

	// Each origin is a name without a certificate so far. A second round of the same handshakes measures their cost
	// without issuing one.
	const cold = 60
	for i := range cold {
		b.casemate(t, "origin", "add", fmt.Sprintf("cold%d.k8s.io", i))
	}
	took := func() float64 {
		before := b.cpu(t)
		for i := range cold {
			if err := handshake(strings.TrimPrefix(b.tls, "https://"), fmt.Sprintf("cold%d.k8s.io", i), b.roots,
				tls.X25519); err != nil {
				t.Fatal(err)
			}
		}
		return (b.cpu(t) - before).Seconds() * 1e6 / float64(cold)
	}
	first, second := took(), took()
	fmt.Printf("BENCH handshake, cold  %4.0f us CPU with the certificate being made, %4.0f us the second time: %4.0f "+
		"us a certificate\n", first, second, first-second)
	limit("a new certificate", "µs CPU", first-second, 1000)
}

// TestBenchSkopeo compares pushing 50 images that share four layers with skopeo, and then once more with crane into
// other repositories, over https with a user. zot without one is shown too: it answers anybody.
func TestBenchSkopeo(t *testing.T) {
	b := newBench(t)
	b.start(t)
	b.auth(t)
	root := t.TempDir()
	cert, key := peerCert(t, b, root)
	type target struct {
		server
		repo string
		args []string
	}
	// Both by address: skopeo asks the resolver of the system.
	certs := filepath.Join(root, "certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(b.ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), pem, 0o644); err != nil {
		t.Fatal(err)
	}
	creds := []string{"--dest-creds", "bench:a long password"}
	targets := []target{{b.server, strings.TrimPrefix(b.tls, "https://"), creds}}
	if z, ok := zot(t, 28743, cert, key, "a long password"); ok {
		targets = append(targets, target{z, strings.TrimPrefix(z.http, "https://"), creds})
		open, _ := zot(t, 28744, cert, key, "")
		targets = append(targets, target{open, strings.TrimPrefix(open.http, "https://"), nil})
	}
	base := keep(t, randomImage(t, 8<<20, 4))
	shared, err := base.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for range 50 {
		top, err := randomImage(t, 1<<20, 1).Layers()
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, "application/vnd.oci.image.manifest.v1+json"),
			append(slices.Clone(shared), top...)...)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, writeImage(t, t.TempDir(), v1.Image(img)))
	}
	wall, cpu := map[string][]float64{}, map[string][]float64{}
	for i := range scaled(3, 1) {
		for _, s := range targets {
			before, began := s.cpu(t), time.Now()
			for j, dir := range dirs {
				args := append([]string{"skopeo", "copy", "-q", "--insecure-policy", "--dest-cert-dir", certs},
					s.args...)
				must(t, append(args, "oci:"+dir, fmt.Sprintf("docker://%s/bench/s%d-%d:1", s.repo, i, j))...)
			}
			wall[s.name] = append(wall[s.name], time.Since(began).Seconds())
			cpu[s.name] = append(cpu[s.name], (s.cpu(t) - before).Seconds())
		}
	}
	for _, s := range targets {
		fmt.Printf("BENCH skopeo, 50 images  %-11s %5.1f s  %5.2f s CPU  time/zot %.2f  cpu/zot %.2f\n", s.name,
			median(wall[s.name]), median(cpu[s.name]),
			median(wall[s.name])/median(wall["zot"]), median(cpu[s.name])/median(cpu["zot"]))
	}
	if len(targets) > 1 {
		delete(wall, "zot") // the row's peer has a user, as Casemate has
		delete(cpu, "zot")
		less("skopeo pushes 50 images, https", "s", medians(wall), 0.8)
		less("skopeo pushes 50 images, https", "s CPU", medians(cpu), 0.8)
	}

	// Four at a time, into repositories that are new, of blobs that are here.
	logins := map[string]any{}
	for _, s := range targets {
		if s.args != nil {
			logins[s.repo] = map[string]string{"username": "bench", "password": "a long password"}
		}
	}
	login, err := json.Marshal(map[string]any{"auths": logins})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "config.json"), login, 0o600); err != nil {
		t.Fatal(err)
	}
	wall, cpu = map[string][]float64{}, map[string][]float64{}
	for i := range scaled(3, 1) {
		for _, s := range targets {
			before, began := s.cpu(t), time.Now()
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for j := w; j < len(dirs); j += 4 {
						cmd := exec.Command(client(t, "crane"), "push", dirs[j],
							fmt.Sprintf("%s/bench/c%d-%d:1", s.repo, i, j))
						cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+b.ca, "DOCKER_CONFIG="+root)
						if out, err := cmd.CombinedOutput(); err != nil {
							t.Errorf("crane push into %s: %v\n%s", s.name, err, out)
						}
					}
				})
			}
			wg.Wait()
			wall[s.name] = append(wall[s.name], time.Since(began).Seconds())
			cpu[s.name] = append(cpu[s.name], (s.cpu(t) - before).Seconds())
		}
	}
	for _, s := range targets {
		fmt.Printf("BENCH crane x4, 50 images, blobs are here  %-11s %5.1f s  %5.2f s CPU\n", s.name,
			median(wall[s.name]), median(cpu[s.name]))
	}
	if len(targets) > 1 {
		less("crane x4 pushes 50 images of blobs that are here", "s", medians(wall), 1.2)
		less("crane x4 pushes 50 images of blobs that are here", "s CPU", medians(cpu), 1.2)
	}
}

// manyPulls has four curl processes pull url, 25 at a time each, until the context ends; wait returns when they have
// ended.
func manyPulls(ctx context.Context, t testing.TB, url string) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, "curl", "-Z", "--parallel-immediate", "--parallel-max", "25", "--http1.1",
				"-fsSk",
				"-H", "Host: registry.casemate.internal", "-o", "/dev/null", url+"?n=[1-100000]")
			cmd.Run()
		})
	}
	return wg.Wait
}

// TestBenchBeside measures small requests while 100 pulls over https take all that the cores give.
func TestBenchBeside(t *testing.T) {
	b := newBench(t)
	b.start(t)
	root := t.TempDir()
	cert, key := peerCert(t, b, root)
	n := nginx(t, root, cert, key)
	blob := bigBlob(t, b, root, 256<<20)
	if err := os.WriteFile(filepath.Join(root, "healthz"), []byte("ok\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", b.socket)
	}}}
	plain := &http.Client{Transport: &http.Transport{}}
	secure := &http.Client{Transport: b.transport()}
	get := func(c *http.Client, url string) func() error {
		return func() error {
			resp, err := c.Get(url)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(io.Discard, resp.Body)
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", url, resp.Status)
			}
			return err
		}
	}
	type probe struct {
		label string
		ask   func() error
	}
	ours := []probe{
		{"/healthz, http", get(plain, b.http+"/healthz")},
		{"manifest, https", get(secure, "https://registry.casemate.internal/v2/bench/big/manifests/1")},
		{"handshake", func() error {
			return handshake(strings.TrimPrefix(b.tls, "https://"), "registry.casemate.internal", nil, tls.X25519)
		}},
		{"admin socket", get(admin, "http://admin/v1/settings")},
	}
	theirs := []probe{
		{"small file, http", get(plain, n.http+"/healthz")},
		{"handshake", func() error {
			return handshake(strings.TrimPrefix(n.tls, "https://"), peerName, nil, tls.X25519)
		}},
	}
	worst := map[string][]float64{}
	measure := func(s server, probes []probe, load func(ctx context.Context) (wait func())) {
		ctx, cancel := context.WithCancel(context.Background())
		wait := load(ctx)
		time.Sleep(2 * time.Second)
		before, began := s.cpu(t), time.Now()
		sent := written(s.pid)
		times := make([][]float64, len(probes))
		var wg sync.WaitGroup
		for i, p := range probes {
			wg.Go(func() {
				for end := began.Add(10 * time.Second); time.Now().Before(end); {
					start := time.Now()
					if err := p.ask(); err != nil {
						t.Error(p.label, err)
						return
					}
					times[i] = append(times[i], float64(time.Since(start))/1e6)
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		gib := (written(s.pid) - sent) / (1 << 30)
		took := time.Since(began).Seconds()
		used := (s.cpu(t) - before).Seconds()
		cancel()
		wait()
		for i, p := range probes {
			v := slices.Sorted(slices.Values(times[i]))
			if len(v) == 0 {
				continue
			}
			fmt.Printf("BENCH beside 100 pulls  %-9s %-18s p50 %7.2f ms  p99 %7.2f ms\n", s.name, p.label, v[len(v)/2],
				v[len(v)*99/100])
			if s.name == "casemate" {
				worst[p.label] = append(worst[p.label], v[len(v)*99/100])
			}
		}
		fmt.Printf("BENCH beside 100 pulls  %-9s the pulls %5.2f GiB/s, %.2f s CPU/GiB\n", s.name, gib/took, used/gib)
	}
	for range scaled(3, 1) {
		measure(b.server, ours, func(ctx context.Context) func() { return manyPulls(ctx, t, b.tls+blob) })
		measure(n, theirs, func(ctx context.Context) func() { return manyPulls(ctx, t, n.tls+"/big.bin") })
	}
	for _, p := range ours {
		limit("beside 100 pulls: "+p.label+", p99", "ms", median(worst[p.label]), 100)
	}
}

// written is how many bytes a process and its children have written, to sockets too.
func written(pid int) float64 {
	total := 0.0
	for _, p := range append([]int{pid}, children(pid)...) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", p))
		if m := regexp.MustCompile(`wchar: (\d+)`).FindSubmatch(text); m != nil {
			n, _ := strconv.ParseFloat(string(m[1]), 64)
			total += n
		}
	}
	return total
}
