package dnssrv

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"casemate/cluster/share"
	"casemate/cluster/waittest"
	"casemate/dnssrv/dnstest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if how := os.Getenv(serverEnv); how != "" {
		if err := floodServer(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	waittest.Main(m, goleak.Find)
}

func addrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// threeNodes is a cluster with two healthy nodes of both families and one that is not.
func threeNodes() Spec {
	return Spec{
		Domain: "casemate.internal",
		Node:   "n1",
		Nodes: []Node{
			{Name: "n1", Addrs: addrs("10.0.0.11", "fd00::11"), Healthy: true},
			{Name: "n2", Addrs: addrs("10.0.0.12", "fd00::12"), Healthy: true},
			{Name: "n3", Addrs: addrs("10.0.0.13", "fd00::13")},
		},
		Origins: []string{"registry.k8s.io", "docker.io", "registry-1.docker.io", "dl.k8s.io"},
		Allow:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
}

func table(t testing.TB, spec Spec) *Table {
	t.Helper()
	tab, err := NewTable(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) { l.t.Logf("%s", p); return len(p), nil }

func testLogger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(testLog{t}, nil)) }

// running is a server on loopback sockets.
type running struct {
	*Server
	t      testing.TB
	addr   string
	mu     sync.Mutex
	missed []string // name/TYPE
	stop   func()   // idempotent; waits
}

// start starts a server that waits a minute for resolvers: on a busy machine an answer takes longer than clients wait.
func start(t testing.TB, spec Spec) *running {
	return startOn(t, "127.0.0.1:0", spec, patient(nil, true))
}

// startOnce is start for tests that count the questions to resolvers: none is repeated because an answer is late.
func startOnce(t testing.TB, spec Spec) *running {
	return startOn(t, "127.0.0.1:0", spec, patient(nil, false))
}

func startOn(t testing.TB, listen string, spec Spec, edit ...func(*Server)) *running {
	t.Helper()
	r := &running{t: t}
	r.Server = New(Config{
		Log: testLogger(t),
		Miss: func(_ netip.Addr, name, qtype string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.missed = append(r.missed, name+"/"+qtype)
		},
	})
	for _, e := range edit {
		e(r.Server)
	}
	r.SetTable(table(t, spec))
	conn, ln := sockets(t, listen)
	r.addr = conn.LocalAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.ServeUDP(ctx, conn); err != nil {
			t.Errorf("ServeUDP: %v", err)
		}
	})
	wg.Go(func() {
		if err := r.ServeTCP(ctx, ln); err != nil {
			t.Errorf("ServeTCP: %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(r.stop)
	return r
}

// misses stops the server, so that all are reported, and gives them in order.
func (r *running) misses() []string {
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.missed
}

func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	return m
}

// ask asks over UDP.
func (r *running) ask(m *dns.Msg) *dns.Msg { r.t.Helper(); return r.over("udp", m) }

func (r *running) over(network string, m *dns.Msg) *dns.Msg {
	r.t.Helper()
	c := dns.Client{Net: network, Timeout: 2 * time.Minute, UDPSize: 4096}
	resp, _, err := c.Exchange(m, r.addr)
	if err != nil {
		r.t.Fatalf("%s %s: %v", network, m.Question[0].String(), err)
	}
	return resp
}

// askFrom asks over UDP from another loopback address.
func (r *running) askFrom(client string, m *dns.Msg) *dns.Msg {
	r.t.Helper()
	d := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(client)}}
	c := dns.Client{Net: "udp", Timeout: 2 * time.Minute, UDPSize: 4096, Dialer: d}
	resp, _, err := c.Exchange(m, r.addr)
	if err != nil {
		r.t.Fatalf("from %s %s: %v", client, m.Question[0].String(), err)
	}
	return resp
}

// values gives the data of rrs of one type, without owners, in their order.
func values(rrs []dns.RR, rrtype uint16) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype == rrtype {
			out = append(out, rr.String()[len(rr.Header().String()):])
		}
	}
	return out
}

// soaOf gives the owner of the one SOA that a negative answer has.
func soaOf(t testing.TB, m *dns.Msg) string {
	t.Helper()
	if len(m.Answer) != 0 || len(m.Ns) != 1 {
		t.Fatalf("want no answer and one SOA, got %v", m)
	}
	soa, ok := m.Ns[0].(*dns.SOA)
	if !ok || soa.Minttl != soa.Hdr.Ttl {
		t.Fatalf("want an SOA whose minimum is its TTL, got %v", m.Ns[0])
	}
	return soa.Hdr.Name
}

// sockets binds UDP and TCP to one free port.
func sockets(t testing.TB, listen string) (*net.UDPConn, net.Listener) {
	t.Helper()
	conns, ln, err := dnstest.Listen(listen, 1)
	if err != nil {
		t.Fatal(err)
	}
	return conns[0], ln
}

// serverEnv makes the test binary a server: "ADDRESS BUFFER RATE", with the bytes that its socket may hold and
// Spec.ResponseRate.
const serverEnv = "DNSSRV_TEST_SERVER"

// floodServer serves until its standard input ends, then prints its counts.
func floodServer(how string) error {
	spec := threeNodes()
	var addr string
	if _, err := fmt.Sscan(how, &addr, &bufferSize, &spec.ResponseRate); err != nil {
		return fmt.Errorf("%q: %w", how, err)
	}
	spec.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	t, err := NewTable(spec)
	if err != nil {
		return err
	}
	s := New(Config{})
	s.SetTable(t)
	conns, ln, err := dnstest.Listen(addr, 1)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeUDP(ctx, conns[0]) })
	wg.Go(func() { s.ServeTCP(ctx, ln) })
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadByte()
	cancel()
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(s.Stats())
}

// Answers to questions that came together over TCP go together: one write, and one wake-up of the client.
func TestAnswersOverTCPGoTogether(t *testing.T) {
	s := New(Config{})
	s.SetTable(table(t, threeNodes()))
	client, server := net.Pipe()
	s.tcp.conns = share.New(share.Config{Max: 1})
	p := s.tcp.accept(netip.MustParseAddr("127.0.0.1"), func() {})
	var wg sync.WaitGroup
	wg.Go(func() { s.serveConn(t.Context(), server, p) })
	defer wg.Wait()
	defer client.Close()
	var questions []byte
	names := []string{"docker.io", "registry.k8s.io", "nobody.docker.io"}
	for _, name := range names {
		q := packet(t, question(name, dns.TypeTXT))
		questions = append(binary.BigEndian.AppendUint16(questions, uint16(len(q))), q...)
	}
	if _, err := client.Write(questions); err != nil {
		t.Fatal(err)
	}
	answers := make([]byte, 4096)
	n, err := client.Read(answers) // gives one write of the other end
	if err != nil {
		t.Fatal(err)
	}
	rest := answers[:n]
	for _, name := range names {
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
			t.Fatalf("%s: its answer was not in the first write, which had %d bytes", name, n)
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if m := unpacked(t, rest[2:end]); m.Question[0].Name != dns.Fqdn(name) {
			t.Errorf("%s: got %v", name, m)
		}
		rest = rest[end:]
	}
	if len(rest) > 0 {
		t.Errorf("%d bytes more", len(rest))
	}
	client.Close()
	wg.Wait()
	if s.tcp.accept(netip.MustParseAddr("127.0.0.2"), func() {}) == nil {
		t.Error("the connection counts as at work after its last answer")
	}
}
