package appliance

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A taken port is one sentence that names it and what to do, and everything that was bound before it is free again.
func TestATakenPortIsNamedAndNothingStaysBound(t *testing.T) {
	for _, c := range []struct{ network, key string }{{"tcp", "listen.https"}, {"udp", "listen.dns"}, {
		"tcp", "listen.dns"}} {
		cfg := testConfig(t, t.TempDir())
		var taken netip.AddrPort
		for c.network == "tcp" && !taken.IsValid() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			// DNS binds UDP first: nobody else may have that port
			if u, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
				u.Close()
				taken = l.Addr().(*net.TCPAddr).AddrPort()
			}
		}
		if c.network == "udp" {
			l, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			taken = l.LocalAddr().(*net.UDPAddr).AddrPort()
		}
		if c.key == "listen.dns" {
			cfg.Listen.DNS = []netip.AddrPort{taken}
		} else {
			cfg.Listen.HTTPS = []netip.AddrPort{taken}
		}
		_, err := Open(cfg, Options{Log: testLog(t)})
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(),
			fmt.Sprintf("%s: %s port %s is taken by appliance.test (process %d): stop it or change", c.key, c.network,
				taken, os.Getpid())) {
			t.Errorf("got %v", err)
		}
		if there(cfg.Data) || there(cfg.Listen.Admin) {
			t.Error("something was made")
		}
	}
	cfg := testConfig(t, t.TempDir())
	cfg.Listen.HTTP = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:8080")}
	if _, err := Open(cfg, Options{}); err == nil ||
		!strings.Contains(err.Error(), "listen.http: 192.0.2.1 is not an address of this host") {
		t.Errorf("got %v", err)
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
