package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"casemate/appliance/config"
	"casemate/appliance/resolver"
	"casemate/appliance/setup"
	"casemate/cluster/waittest"
	"casemate/dnssrv/process"
)

// Each of distribution's handlers.App has one goroutine that cannot be stopped; it waits for events that are never
// sent.
func TestMain(m *testing.M) {
	startDNS, publishBooks = dnsHere, 24*time.Hour
	waittest.Main(m, goleak.Find, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

// dnsHere runs a node's DNS process in this one, over the same connection and with the same sockets.
func dnsHere(log *slog.Logger, peer *os.File, files []*os.File, names []string) (process.Process, error) {
	named := []*os.File{peer}
	names = append([]string{resolver.SocketPeer}, names...)
	named = append(named, files...)
	for i, f := range named { // under the names that a process of its own would give them
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			return nil, err
		}
		named[i] = os.NewFile(uintptr(fd), names[i])
	}
	cfg, err := resolver.ProcessConfig(named)
	if err != nil {
		return nil, err
	}
	cfg.Log = log
	ctx, cancel := context.WithCancel(context.Background())
	p := &here{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if err := process.Serve(ctx, cfg); err != nil && !errors.Is(err, process.ErrStopped) {
			log.Error("the DNS process has ended", "err", err)
		}
	}()
	return p, nil
}

type here struct {
	cancel func()
	done   chan struct{}
}

func (p *here) Done() <-chan struct{} { return p.done }
func (p *here) Kill()                 { p.cancel() }

// testLog writes to the test's log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

var loopback = netip.MustParseAddr("127.0.0.1")

// testConfig is the config of a node on 127.0.0.1 at ports that the kernel chooses.
func testConfig(t testing.TB, dir string) config.Config {
	any := []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}
	cfg := config.Config{
		Node: "n1", Data: filepath.Join(dir, "data"), Advertise: []netip.Addr{loopback},
		Listen: config.Listen{HTTP: any, HTTPS: any, DNS: any, Peer: any, Admin: filepath.Join(dir, "admin.sock")},
	}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// node is a running appliance, seen by a client with only its resolver and its root.
type node struct {
	*Appliance
	t      testing.TB
	client *http.Client // port 443 and 80 lead to where the node listens
	stop   func()
}

func initNode(t testing.TB, cfg config.Config, opt setup.InitOptions) setup.InitResult {
	t.Helper()
	opt.Log = testLog(t)
	res, err := setup.Init(context.Background(), cfg, opt)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// serveNode starts the node of cfg; it stops at the end of the test, or by stop.
func serveNode(t testing.TB, cfg config.Config, tune ...func(*Appliance)) *node {
	t.Helper()
	return serveNodeWith(t, cfg, Options{Log: testLog(t)}, tune...)
}

func serveNodeWith(t testing.TB, cfg config.Config, opt Options, tune ...func(*Appliance)) *node {
	t.Helper()
	a, err := Open(cfg, opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tune {
		f(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n := &node{Appliance: a, t: t}
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		n.client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.Roots()) {
		t.Fatal("no roots")
	}
	n.client = &http.Client{
		Transport: &http.Transport{DialContext: n.dial, TLSClientConfig: &tls.Config{RootCAs: roots},
			MaxIdleConnsPerHost: 4},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(n.stop)
	return n
}

// resolver asks the node's DNS server.
func (n *node) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, n.Addrs().DNS[0].String())
	}}
}

// dial finds the name by the node's DNS and the usual ports where they are here.
func (n *node) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ip := host
	if _, err := netip.ParseAddr(host); err != nil {
		found, err := n.resolver().LookupHost(ctx, host+".")
		if err != nil {
			return nil, err
		}
		ip = found[0]
	}
	switch port {
	case "443":
		port = fmt.Sprint(n.Addrs().HTTPS[0].Port())
	case "80":
		port = fmt.Sprint(n.Addrs().HTTP[0].Port())
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(ip, port))
}

// do sends a request as a client of the node.
func (n *node) do(method, url string, body io.Reader, edit ...func(*http.Request)) (*http.Response, string) {
	n.t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range edit {
		f(r)
	}
	resp, err := n.client.Do(r)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, string(data)
}

// admin calls the admin API; in and out are JSON, a string or []byte as in is sent as it is. It returns the status and
// the error's sentence.
func (n *node) admin(method, path string, in, out any) (int, string) {
	n.t.Helper()
	var body io.Reader
	switch in := in.(type) {
	case nil:
	case string:
		body = strings.NewReader(in)
	default:
		data, err := json.Marshal(in)
		if err != nil {
			n.t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequest(method, "http://admin/v1/"+path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.Addrs().Admin)
		}}}
	resp, err := c.Do(r)
	if err != nil {
		n.t.Fatalf("admin %s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if resp.StatusCode >= 400 {
		var e struct{ Error string }
		if err := json.Unmarshal(data, &e); err != nil || e.Error == "" {
			n.t.Fatalf("admin %s %s: %s without a sentence: %s", method, path, resp.Status, data)
		}
		return resp.StatusCode, e.Error
	}
	if s, ok := out.(*string); ok {
		*s = string(data)
	} else if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			n.t.Fatalf("admin %s %s: %v: %s", method, path, err, data)
		}
	}
	return resp.StatusCode, ""
}

// must is admin for requests that must succeed.
func (n *node) must(method, path string, in, out any) {
	n.t.Helper()
	if status, sentence := n.admin(method, path, in, out); status >= 300 {
		n.t.Fatalf("admin %s %s: %d %s", method, path, status, sentence)
	}
}
