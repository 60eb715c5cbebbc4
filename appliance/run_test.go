package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/appliance/config"
	"casemate/appliance/missing"
	"casemate/appliance/settings"
	"casemate/appliance/setup"
	"casemate/appliance/sockets"
	"casemate/cluster/waittest"
)

func TestInitLooksAtTheDataDirectoryFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(t, dir)
	file := filepath.Join(dir, "etc", "casemate.yaml")
	if err := os.MkdirAll(cfg.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(cfg.Data, "precious")
	os.WriteFile(precious, nil, 0o644)
	_, err := setup.Init(context.Background(), cfg, setup.InitOptions{ConfigFile: file})
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(),
		`contains "precious", which is not casemate's: choose an empty directory`) || there(file) {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(cfg.Data); len(entries) != 1 {
		t.Errorf("the foreign directory was changed: %v", entries)
	}
	if _, err := Open(cfg, Options{}); err == nil ||
		!strings.Contains(err.Error(), "is not initialised: run casemate init") {
		t.Errorf("serving a foreign directory: %v", err)
	}
	os.Remove(precious)

	res := initNode(t, cfg, setup.InitOptions{ConfigFile: file, Set: map[string]string{"domain": "gap.bank.example"}})
	if res.Domain != "gap.bank.example" || res.ConfigFile != file {
		t.Errorf("got %+v", res)
	}
	if got, err := config.Load(file); err != nil || got.Node != "n1" || got.Data != cfg.Data ||
		!slices.Equal(got.Listen.DNS, cfg.Listen.DNS) {
		t.Errorf("the config that was written: %+v, %v", got, err)
	}
	before, _ := os.ReadFile(filepath.Join(cfg.Data, "cluster", "sealing.key"))
	if _, err := setup.Init(context.Background(), cfg, setup.InitOptions{ConfigFile: file}); !errors.Is(err,
		fs.ErrExist) || !strings.Contains(err.Error(), "is initialised already, start it with: casemate serve") {
		t.Errorf("a second init: %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(cfg.Data, "cluster", "sealing.key")); !bytes.Equal(before, after) {
		t.Error("a second init changed the key")
	}
	// Killed between the data and the config, it goes on where it was; another node's data is not taken for its own.
	os.Remove(file)
	stranger := cfg
	stranger.Node = "n2"
	if _, err := setup.Init(context.Background(), stranger, setup.InitOptions{ConfigFile: file}); err == nil ||
		!strings.Contains(err.Error(), `belongs to node "n1"`) || there(file) {
		t.Errorf("another node's init: %v", err)
	}
	if res := initNode(t, cfg, setup.InitOptions{ConfigFile: file}); !res.Resumed || res.ConfigFile != file ||
		!there(file) {
		t.Errorf("got %+v", res)
	}
	other := cfg
	other.Node = "n2"
	if _, err := Open(other, Options{}); err == nil || !strings.Contains(err.Error(), "n1") {
		t.Errorf("another node's data directory: %v", err)
	}
}

// Repeating an init that was interrupted at any point completes it.
func TestAnInitThatWasCutShortIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	cut, cancel := context.WithCancel(context.Background())
	cancel() // bootstraps, but writes nothing into the tree
	if _, err := setup.Init(cut, cfg, setup.InitOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := Open(cfg, Options{}); err == nil || !strings.Contains(err.Error(), "casemate init") {
		t.Errorf("serving what is half made: %v", err)
	}
	initNode(t, cfg, setup.InitOptions{Set: map[string]string{"dns.ttl": "20s"}})
	n := serveNode(t, cfg)
	var s settings.Setting
	if n.must("GET", "settings/dns.ttl", nil, &s); s.Value != "20s" {
		t.Errorf("got %+v", s)
	}
}

func TestOriginsThatTheRootDoesNotPermitAreStoredAndSaidSo(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	res := initNode(t, cfg, setup.InitOptions{Exclude: []string{"quay.io"}})
	if !slices.ContainsFunc(res.Notes, func(n string) bool {
		return strings.HasPrefix(n, "origin quay.io is not enabled")
	}) {
		t.Errorf("notes: %q", res.Notes)
	}
	n := serveNode(t, cfg)
	if n.resolves("quay.io") || !n.resolves("registry.k8s.io") {
		t.Error("what is not permitted is answered")
	}
	var st struct{ Warnings []string }
	n.must("GET", "status", nil, &st)
	if !slices.ContainsFunc(st.Warnings, func(w string) bool {
		return strings.HasPrefix(w, "origin quay.io is stored but not enabled")
	}) {
		t.Errorf("warnings: %q", st.Warnings)
	}
}

// A download in progress at a stop is finished, and new clients do not wait for it.
func TestAStopLetsDownloadsFinish(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB: more than the sockets hold
	n.must("PUT", "files?url=https://dl.k8s.io/big", string(content), nil)
	resp, err := n.client.Get("https://dl.k8s.io/big")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := io.CopyN(&got, resp.Body, 1000); err != nil {
		t.Fatal(err)
	}
	https := n.Addrs().HTTPS[0].String()
	stopped := make(chan struct{})
	go func() { defer close(stopped); n.stop() }()
	waittest.Until(t, "the node stops", n.stopping.Load)
	if resp, err := n.client.Get("https://dl.k8s.io/big"); err != nil || resp.StatusCode != 200 {
		t.Errorf("a client that comes while the node stops: %v", err)
	} else {
		resp.Body.Close()
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a download under way")
	default:
	}
	if _, err := io.Copy(&got, resp.Body); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d of %d bytes, %v", got.Len(), len(content), err)
	}
	<-stopped
	if c, err := net.Dial("tcp", https); err == nil {
		c.Close()
		t.Error("somebody listens after the stop")
	}
}

// A download that does not end within the grace period is aborted.
func TestAStopDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg, func(a *Appliance) { a.grace = time.Millisecond })
	n.must("PUT", "files?url=https://dl.k8s.io/big", strings.Repeat("x", 16<<20), nil)
	resp, err := n.client.Get("https://dl.k8s.io/big")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n.stop()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the download was whole")
	}
}

// notified listens on a socket like systemd's and collects the notifications.
func notified(t *testing.T) <-chan string {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	told := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				close(told)
				return
			}
			told <- string(buf[:n])
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return told
}

func TestSystemdIsTold(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	told := notified(t)
	t.Setenv("WATCHDOG_USEC", "2000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	next := func(want string) {
		t.Helper()
		for s := range waittest.Each(t, told, "systemd is told "+want) {
			if strings.HasPrefix(s, want) {
				return
			}
		}
	}
	n := serveNode(t, cfg)
	next("READY=1")
	next("WATCHDOG=1")
	other := cfg
	other.Log.Level = slog.LevelDebug
	other.Data = "/elsewhere"
	go n.Reload(other)
	next("RELOADING=1\nMONOTONIC_USEC=")
	next("READY=1")
	n.stop()
	next("STOPPING=1")
}

// The watchdog is only notified if the node works: a node that does not resolve names, or whose tree has stopped, is
// not alive.
func TestLivenessAsksWhatClientsAsk(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	a, err := Open(cfg, Options{Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := a.alive(ctx); err == nil { // the sockets are there, nobody serves
		t.Error("a node that does not run is alive")
	}
	n := &node{Appliance: a, t: t}
	run, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(run) }()
	waittest.Until(t, "a node that serves is alive", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		return a.alive(ctx) == nil
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// systemd may pass sockets for addresses that appear later or disappear (FreeBind): a node that cannot be reached at
// such an address is not killed for it.
func TestLivenessWithAnAddressThatIsNotHere(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	lc := net.ListenConfig{Control: sockets.FreeBind}
	c, err := lc.ListenPacket(context.Background(), "udp4", "192.0.2.11:0")
	if err != nil {
		t.Skip("an address of others cannot be bound here:", err)
	}
	n := serveNode(t, cfg, func(a *Appliance) { a.socks.DNSUDP = append(a.socks.DNSUDP, c.(*net.UDPConn)) })
	n.admin("GET", "settings", nil, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := n.alive(ctx); err != nil {
		t.Error(err)
	}
}

func TestReloadSaysWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	level := &slog.LevelVar{}
	a, err := Open(cfg, Options{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if notes := a.Reload(cfg); len(notes) != 0 {
		t.Errorf("nothing has changed: %q", notes)
	}
	next := cfg
	next.Log.Level = slog.LevelDebug
	next.Node, next.Data, next.Advertise, next.Listen.HTTP, next.Log.Format = "n2", "/x", nil, nil, "json"
	notes := strings.Join(a.Reload(next), "\n")
	for _, key := range []string{"node", "data", "advertise", "listen", "log.format"} {
		if !strings.Contains(notes, key+" has changed in the config and needs a restart") {
			t.Errorf("%s is not said: %s", key, notes)
		}
	}
	if level.Level() != slog.LevelDebug {
		t.Error("the log level did not follow")
	}
}

func TestMetricsAreNamedAndBounded(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	n.do("GET", "https://dl.k8s.io/not/there", nil)
	n.do("BREW", "https://dl.k8s.io/pot", nil)
	n.resolves("www.nowhere.example")
	// A client that does not trust our root is counted and logged.
	if _, err := http.Get("https://" + n.Addrs().HTTPS[0].String()); err == nil {
		t.Error("trusted without our root")
	}
	wants := []string{
		`casemate_http_requests_total{code="404",method="GET",room="files"} 1`,
		`casemate_http_requests_total{code="405",method="other",room="files"} 1`,
		`casemate_misses_total{kind="file"} 1`,
		`casemate_misses_total{kind="dns"} `,
		`casemate_dns_answers_total{rcode="NXDOMAIN"} `,
		`casemate_tls_errors_total{reason="untrusted"} 1`,
		`casemate_serving 1`, `casemate_raft_applied_index `, `casemate_disk_free_bytes `,
		`casemate_certificate_expiry_timestamp_seconds{kind="root"} `,
		`casemate_info{commit="unknown",node="n1",version="unknown"} 1`,
	}
	for _, w := range wants {
		waittest.Until(t, w+" is among the metrics", func() bool { // what is counted behind the answer arrives later
			_, body := n.do("GET", "http://casemate.internal/metrics", nil)
			return strings.Contains(body, "\n"+w)
		})
	}
}

// Requests with path tricks get a client error and change nothing; none of them reaches a file outside of its
// directory.
func TestPathTricksAreRefused(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	for _, host := range []string{"registry.k8s.io", "files.casemate.internal", "casemate.internal",
		"registry.casemate.internal"} {
		for _, path := range []string{"/../../etc/passwd", "/v2/../../etc/passwd", "/files/../../x",
			"/v2/a/manifests/..", "/%2e%2e/%2e%2e/etc/passwd", "/v2/%2e%2e%2fx/manifests/1", "/a%00b",
			"/v2/a%00b/manifests/1",
			"/files/dl.k8s.io/%00", "//", "/v2//", "/crl/..%2f..%2fx.crl", "/" + strings.Repeat("a/", 3000),
			"/v2/" + strings.Repeat("a", 3000) + "/manifests/1"} {
			c, err := net.Dial("tcp", n.Addrs().HTTP[0].String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host)
			answer, _ := io.ReadAll(c)
			c.Close()
			status, _, _ := strings.Cut(string(answer), "\r\n")
			if !strings.HasPrefix(status, "HTTP/1.1 4") && !(strings.HasPrefix(status, "HTTP/1.1 3") || path == "//" &&
				strings.HasPrefix(status, "HTTP/1.1 200")) {
				t.Errorf("%s%.40s: %s", host, path, status)
			}
			if strings.Contains(string(answer), "root:") {
				t.Errorf("%s%.40s: %s", host, path, answer)
			}
		}
	}
	var book []missing.Entry
	n.must("GET", "missing", nil, &book)
}
