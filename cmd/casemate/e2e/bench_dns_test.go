//go:build bench

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
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

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/miekg/dns"

	"casemate/cluster"
	"casemate/cluster/treetest"
)

var upstreams = []string{
	"registry.k8s.io", "docker.io", "registry-1.docker.io", "quay.io", "ghcr.io", "gcr.io", "dl.k8s.io", "github.com",
	"get.helm.sh",
}

// dnsPeers starts Knot, Unbound, dnsmasq and CoreDNS, which know the names and deny everything else.
func dnsPeers(t testing.TB, names []string) []server {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	var servers []server
	add := func(name, addr string, args ...string) {
		servers = append(servers, server{name: name, dns: addr, pid: start(t, dir, args...)})
	}
	var local, zone, root strings.Builder
	root.WriteString("$TTL 15\n. SOA ns.invalid. root.invalid. 1 3600 600 86400 15\n. NS ns.invalid.\n")
	for _, n := range names {
		fmt.Fprintf(&local, "  local-data: \"%s. 15 A 10.0.0.1\"\n", n)
		fmt.Fprintf(&zone, "host-record=%s,10.0.0.1\n", n)
		fmt.Fprintf(&root, "%s. A 10.0.0.1\n", n)
	}
	write("root.zone", root.String())
	add("knot", "127.0.0.1:28453", "knotd", "-c", write("knot.conf", `server:
    listen: 127.0.0.1@28453
    udp-workers: 2
    tcp-workers: 2
    rundir: `+dir+`
    user: root
log:
  - target: stderr
    any: error
database:
    storage: `+dir+`
template:
  - id: default
    storage: `+dir+`
zone:
  - domain: .
    file: root.zone
`))
	add("unbound", "127.0.0.1:28253", "unbound", "-d", "-c", write("unbound.conf", `server:
  interface: 127.0.0.1@28253
  num-threads: 2
  so-reuseport: yes
  so-rcvbuf: 4m
  chroot: ""
  username: ""
  directory: "`+dir+`"
  pidfile: "`+dir+`/u.pid"
  use-syslog: no
  access-control: 127.0.0.0/8 allow
  do-ip6: no
  local-zone: "." static
  local-data: ". 15 SOA ns.invalid. root.invalid. 1 3600 600 86400 15"
`+local.String()))
	if len(names) <= 1000 {
		add("dnsmasq", "127.0.0.1:28353", "dnsmasq", "-k", "-C", write("dnsmasq.conf",
			"port=28353\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\nlocal=/#/\n"+
				zone.String()))
		add("coredns", "127.0.0.1:28153", client(t, "coredns"), "-conf", write("Corefile",
			".:28153 {\n bind 127.0.0.1\n file "+dir+"/root.zone .\n}\n"))
	}
	for _, s := range servers {
		awaitDNS(t, s, names[0])
	}
	return servers
}

func awaitDNS(t testing.TB, s server, name string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.dns)
	until(t, s.name+" answers", func() error {
		out, err := run("dig", "@"+host, "-p", port, "+short", "+time=1", "+tries=1", name)
		if err != nil || strings.TrimSpace(out) == "" {
			return fmt.Errorf("%v %s", err, out)
		}
		return nil
	})
}

// dnsperf runs one round and returns the rate, the server's CPU in µs for a question, and how many were lost.
func dnsperf(t testing.TB, s server, file string, args ...string) (rate, cpu, lost float64) {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.dns)
	args = append([]string{"dnsperf", "-s", host, "-p", port, "-d", file, "-l", scaled("4", "2")}, args...)
	c0 := s.cpu(t)
	out := must(t, args...)
	used := s.cpu(t) - c0
	value := func(what string) float64 {
		m := regexp.MustCompile(what + `:\s+([\d.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("dnsperf printed no %q:\n%s", what, out)
		}
		v, _ := strconv.ParseFloat(m[1], 64)
		return v
	}
	return value("Queries per second"), used.Seconds() * 1e6 / max(value("Queries completed"), 1), value("Queries lost")
}

// TestBenchDNS compares the CPU for a question of each kind with that of the best peer.
func TestBenchDNS(t *testing.T) {
	b := newBench(t)
	b.start(t)
	servers := append([]server{b.server}, dnsPeers(t, upstreams)...)
	awaitDNS(t, b.server, upstreams[0])
	dir := t.TempDir()
	questions := func(name string, next func(i int) string) string {
		var text strings.Builder
		for i := range 20_000 {
			fmt.Fprintf(&text, "%s A\n", next(i))
		}
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	hot := questions("hot", func(int) string { return upstreams[rand.IntN(len(upstreams))] })
	absent := questions("absent", func(i int) string { return fmt.Sprintf("host%d.absent.example", i%10) })
	random := questions("random", func(int) string {
		return fmt.Sprintf("%x.%x.example", rand.Uint64(), rand.Uint32())
	})
	for _, c := range []struct {
		what   string
		file   string
		args   []string
		factor float64
	}{
		{"DNS, 100 outstanding", hot, []string{"-c", "16", "-q", "100"}, 1},
		{"DNS, 1 000 outstanding", hot, []string{"-c", "16", "-q", "1000"}, 1.2},
		{"DNS with EDNS", hot, []string{"-c", "16", "-q", "100", "-e"}, 1.2},
		{"DNS, NXDOMAIN", absent, []string{"-c", "16", "-q", "100"}, 1.2},
		{"DNS, random names", random, []string{"-c", "16", "-q", "100"}, 1.2},
		{"DNS over TCP", hot, []string{"-c", "16", "-q", "100", "-m", "tcp"}, 1.2},
		{"DNS, 2 000 questions a second", hot, []string{"-c", "16", "-q", "100", "-Q", "2000"}, 1.2},
	} {
		rate, cpu, lost := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range scaled(5, 1) {
			for _, s := range servers {
				if s.name == "dnsmasq" && strings.Contains(c.what, "TCP") {
					continue // it forks for each connection and serves a few at a time
				}
				r, u, l := dnsperf(t, s, c.file, c.args...)
				rate[s.name], cpu[s.name], lost[s.name] = append(rate[s.name], r), append(cpu[s.name], u),
					append(lost[s.name], l)
			}
		}
		medians := map[string]float64{}
		for _, s := range servers {
			if len(cpu[s.name]) == 0 {
				continue
			}
			medians[s.name] = median(cpu[s.name])
			fmt.Printf("BENCH %-30s %-10s %7.0f q/s  %5.1f us CPU/query  lost %.0f\n", c.what, s.name,
				median(rate[s.name]), median(cpu[s.name]), median(lost[s.name]))
		}
		less(c.what, "µs CPU a question", medians, c.factor)
	}
}

// TestBenchStarvation compares how long answers take while 100 pulls over https take all that the machine gives, and
// then while a bundle is imported beside them, blobs are collected, a backup is written, a large file is uploaded. Knot
// has nothing to do but to answer.
func TestBenchStarvation(t *testing.T) {
	b := newBench(t)
	b.start(t)
	auth := b.auth(t)
	knot := dnsPeers(t, upstreams)[0]
	img := keep(t, randomImage(t, 64<<20, 1))
	push(t, img, "registry.casemate.internal/bench/p:1", remote.WithTransport(b.transport()), remote.WithAuth(auth))
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 100 {
		wg.Go(func() {
			for ctx.Err() == nil {
				exec.CommandContext(ctx, "curl", "-fsSk", "--http1.1", "--connect-to",
					"::"+strings.TrimPrefix(b.tls, "https://"),
					"-o", "/dev/null", "https://registry.casemate.internal/v2/bench/p/blobs/"+digest.String()).Run()
			}
		})
	}
	bundles := t.TempDir()
	out := filepath.Join(bundles, "files")
	if err := os.MkdirAll(filepath.Join(out, "dl.k8s.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range scaled(8, 3) {
		big, err := exec.Command("head", "-c", "256M", "/dev/urandom").Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, "dl.k8s.io", fmt.Sprintf("big%d", i)), big, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	measure := func(what string) {
		times := map[string][]float64{}
		for range scaled(400, 100) {
			for _, s := range []server{b.server, knot} {
				began := time.Now()
				m := new(dns.Msg).SetQuestion("registry.k8s.io.", dns.TypeA)
				c := &dns.Client{Timeout: 10 * time.Second}
				if _, _, err := c.Exchange(m, s.dns); err != nil {
					t.Errorf("%s: %v", s.name, err)
				}
				times[s.name] = append(times[s.name], time.Since(began).Seconds()*1000)
				time.Sleep(10 * time.Millisecond)
			}
		}
		at := func(name string, q float64) float64 {
			v := slices.Sorted(slices.Values(times[name]))
			return v[int(q*float64(len(v)-1))]
		}
		for _, s := range []string{"casemate", "knot"} {
			fmt.Printf("BENCH DNS beside %-28s %-10s p50 %.2f ms  p99 %.2f ms\n", what, s, at(s, 0.5), at(s, 0.99))
		}
		limit("DNS beside "+what+", p50", "ms", at("casemate", 0.5), 1)
		less("DNS beside "+what+", p99", "ms",
			map[string]float64{"casemate": at("casemate", 0.99), "knot": at("knot", 0.99)}, 2)
	}
	measure("100 pulls")
	// beside measures while a command runs again and again.
	beside := func(what string, args ...string) {
		done, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				if out, err := run(args...); err != nil {
					t.Errorf("%s: %v\n%s", what, err, out)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		measure("100 pulls and " + what)
		close(stop)
		<-done
	}
	passphrase := filepath.Join(bundles, "passphrase")
	if err := os.WriteFile(passphrase, []byte("a long passphrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(repo(t), "bin/casemate")
	beside("an import", bin, "--socket", b.socket, "import", out)
	beside("a collection", bin, "--socket", b.socket, "gc", "--now")
	beside("a backup", "sh", "-c", `"$0" --socket "$1" backup - --passphrase-file "$2" >/dev/null`, bin, b.socket,
		passphrase)
	beside("an upload", bin, "--socket", b.socket, "file", "put", "https://dl.k8s.io/upload",
		filepath.Join(out, "dl.k8s.io", "big0"))
}

// TestBenchNames measures 200 000 own names: memory, and one change.
func TestBenchNames(t *testing.T) {
	const names = 200_000
	b := newBench(t)
	all := bulkNames(t, filepath.Join(b.dir, "data", "cluster"), names)
	took := b.start(t)
	knot := dnsPeers(t, all)[0]
	awaitDNS(t, b.server, all[names-1])
	queries := filepath.Join(t.TempDir(), "queries")
	var text strings.Builder
	for range 20_000 {
		fmt.Fprintf(&text, "%s A\n", all[rand.IntN(names)])
	}
	if err := os.WriteFile(queries, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cpu := map[string]float64{}
	for _, s := range []server{b.server, knot} {
		_, cpu[s.name], _ = dnsperf(t, s, queries, "-c", "16", "-q", "100")
	}
	less("200 000 own names, random ones asked", "µs CPU a question", cpu, 1.2)
	var wall, used []float64
	for i := range scaled(10, 3) {
		c0, t0 := b.cpu(t), time.Now()
		name := fmt.Sprintf("new-%d.site.example", i)
		b.casemate(t, "name", "set", name, "A", "10.9.9.9")
		awaitDNS(t, b.server, name)
		wall, used = append(wall, time.Since(t0).Seconds()*1000), append(used, (b.cpu(t)-c0).Seconds()*1000)
	}
	fmt.Printf("BENCH 200 000 names  ready after %.2f s, RSS %.0f MiB (knot %.0f MiB), name set until answered %.0f "+
		"ms, %.0f ms CPU\n",
		took.Seconds(), b.rss(), knot.rss(), median(wall), median(used))
	limit("200 000 own names, resident (Knot "+number(knot.rss())+")", "MiB", b.rss(), 150)
	limit("200 000 own names, name set until it is answered", "ms", median(wall), 50)
}

// bulkNames writes DNS records into the tree of a stopped node, and returns their names.
func bulkNames(t *testing.T, dir string, names int) []string {
	t.Helper()
	const batch = 2_000
	c, err := cluster.Open(cluster.Config{Dir: dir, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	all := make([]string, names)
	addr := netip.MustParseAddr("10.0.0.1")
	for i := 0; i < names; i += batch {
		if err := c.Tree().Update(ctx, func(u treetest.Batch) error {
			for j := i; j < i+batch; j++ {
				addr = addr.Next()
				all[j] = fmt.Sprintf("host-%06d.site.example", j)
				u.Put("names/"+all[j]+"/A", fmt.Appendf(nil, `{"values":["%s"]}`, addr))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}
