package sockets

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"casemate/appliance/config"
)

// testConfig is the config of a node on 127.0.0.1 at ports that the kernel chooses.
func testConfig(t *testing.T, dir string) config.Config {
	here := netip.MustParseAddr("127.0.0.1")
	free := []netip.AddrPort{netip.AddrPortFrom(here, 0)}
	return config.Config{
		Node: "n1", Data: filepath.Join(dir, "data"), Advertise: []netip.Addr{here},
		Listen: config.Listen{HTTP: free, HTTPS: free, DNS: free, Peer: free,
			Admin: filepath.Join(dir, "admin.sock")},
	}
}

// inherit makes a socket as systemd passes it: a file with the socket's name.
func inherit(t *testing.T, name, network, addr string) (*os.File, string) {
	t.Helper()
	var f *os.File
	var at string
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at = c.LocalAddr().String()
		if f, err = c.(*net.UDPConn).File(); err != nil {
			t.Fatal(err)
		}
	} else {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		at = l.Addr().String()
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		if f, err = l.(interface{ File() (*os.File, error) }).File(); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	named := os.NewFile(uintptr(mustDup(t, f)), name)
	f.Close()
	return named, at
}

func mustDup(t *testing.T, f *os.File) int {
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestSocketsFromSystemdAreUsedByName(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	// no address is configured: those of the inherited sockets apply
	cfg.Listen.HTTP, cfg.Listen.HTTPS, cfg.Listen.DNS = nil, nil, nil
	http, httpAt := inherit(t, "http", "tcp", "127.0.0.1:0")
	https, httpsAt := inherit(t, "https", "tcp", "127.0.0.1:0")
	// At an address of its own: at 127.0.0.1 the port that is free for UDP may be the one of somebody's connection.
	udp, udpAt := inherit(t, "dns-udp", "udp", "127.53.0.1:0")
	tcp, _ := inherit(t, "dns-tcp", "tcp", udpAt)
	admin, adminAt := inherit(t, "admin", "unix", cfg.Listen.Admin)
	s, err := Bind(&cfg, []*os.File{https, udp, http, tcp, admin}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := s.Addrs()
	if got := fmt.Sprintf("%v %v %v %s", a.HTTP, a.HTTPS, a.DNS, a.Admin); got != fmt.Sprintf("[%s] [%s] [%s] %s",
		httpAt, httpsAt, udpAt, adminAt) {
		t.Errorf("got %s", got)
	}
}

func TestWrongSocketsAreNamed(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	want := netip.MustParseAddrPort("127.0.0.1:18080")
	cfg.Listen.HTTP = []netip.AddrPort{want}
	other, otherAt := inherit(t, "http", "tcp", "127.0.0.1:0")
	if _, err := Bind(&cfg, []*os.File{other}, false); err == nil ||
		!strings.Contains(err.Error(), `systemd's socket "http" is at `+otherAt+
			`, but listen.http is 127.0.0.1:18080: casemate sockets updates systemd`) {
		t.Errorf("got %v", err)
	}
	cfg = testConfig(t, t.TempDir())
	unknown, _ := inherit(t, "web", "tcp", "127.0.0.1:0")
	if _, err := Bind(&cfg, []*os.File{unknown}, false); err == nil ||
		!strings.Contains(err.Error(), `a socket with the name "web"`) {
		t.Errorf("got %v", err)
	}
	half, _ := inherit(t, "dns-udp", "udp", "127.0.0.1:0")
	if _, err := Bind(&cfg, []*os.File{half}, false); err == nil ||
		!strings.Contains(err.Error(), "1 sockets named dns-udp and 0 named dns-tcp") {
		t.Errorf("got %v", err)
	}
	stream, _ := inherit(t, "dns-udp", "tcp", "127.0.0.1:0")
	tcp, _ := inherit(t, "dns-tcp", "tcp", "127.0.0.1:0")
	if _, err := Bind(&cfg, []*os.File{stream, tcp}, false); err == nil ||
		!strings.Contains(err.Error(), `socket "dns-udp" from systemd is not a datagram socket`) {
		t.Errorf("got %v", err)
	}
	elsewhere, at := inherit(t, "admin", "unix", filepath.Join(t.TempDir(), "other.sock"))
	if _, err := Bind(&cfg, []*os.File{elsewhere}, false); err == nil ||
		!strings.Contains(err.Error(), `systemd's socket "admin" is at `+at+`, but listen.admin is `+cfg.Listen.Admin) {
		t.Errorf("got %v", err)
	}
}

// The peer port is bound at every address, or at none of them.
func TestPeerAtEveryAddress(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.Listen.Peer = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")}
	s, err := Bind(&cfg, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := s.Addrs().Peer
	if len(at) != 2 || at[0].Addr().String() != "127.0.0.1" || at[1].Addr().String() != "::1" {
		t.Fatalf("bound at %v", at)
	}
	for _, a := range at {
		c, err := net.Dial("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	other := testConfig(t, t.TempDir())
	other.Listen.Peer = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:0"), at[1]}
	if _, err := Bind(&other, nil, false); err == nil || !strings.Contains(err.Error(), "listen.peer") {
		t.Errorf("a port that is taken: %v", err)
	}
}

// If advertise changes and the sockets do not, a warning says so.
func TestInheritedSocketsThatMissAnAdvertisedAddress(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.Listen = config.Listen{Admin: cfg.Listen.Admin, Peer: cfg.Listen.Peer, HTTPS: cfg.Listen.HTTPS,
		DNS: cfg.Listen.DNS}
	f, at := inherit(t, "http", "tcp", "127.0.0.1:0")
	files := []*os.File{f}
	s, err := Bind(&cfg, files, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if list := s.Misplaced(&cfg, files); len(list) > 0 {
		t.Errorf("got %q", list)
	}
	cfg.Advertise = append(cfg.Advertise, netip.MustParseAddr("10.0.0.12"))
	if list := s.Misplaced(&cfg, files); len(list) != 1 ||
		list[0] != `advertise has 10.0.0.12, but systemd's socket "http" is at `+at+
			`: casemate sockets updates systemd` {
		t.Errorf("got %q", list)
	}
}

func TestTheAdminSocket(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.Listen.Admin = filepath.Join(filepath.Dir(cfg.Data), "deep", "admin.sock")
	s, err := Bind(&cfg, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.Listen.Admin); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, mode %v, want 0660", err, info.Mode())
	}
	if _, err := Bind(&cfg, nil, false); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprintf("listen.admin: sockets.test (process %d) answers at %s: stop it or",
			os.Getpid(), cfg.Listen.Admin)) {
		t.Errorf("a second one: %v", err)
	}
	s.Admin.(*net.UnixListener).SetUnlinkOnClose(false)
	s.Close() // as kill -9 leaves it
	if s, err = Bind(&cfg, nil, false); err != nil {
		t.Fatalf("what a killed daemon left behind: %v", err)
	}
	s.Close()
	if err := os.WriteFile(cfg.Listen.Admin, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Bind(&cfg, nil, false); err == nil || !strings.Contains(err.Error(), "exists and is not a socket") {
		t.Errorf("a file in its place: %v", err)
	}
	if data, _ := os.ReadFile(cfg.Listen.Admin); string(data) != "precious" {
		t.Error("the file is gone")
	}
}
