//go:build bench

package dnssrv

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestBenchForgedFlood compares how many honest questions get an answer at the first try, beside forged ones at several
// rates, with Unbound. It asserts nothing.
func TestBenchForgedFlood(t *testing.T) {
	server := netip.AddrPortFrom(netip.MustParseAddr(floodV4), 53)
	conf := filepath.Join(t.TempDir(), "unbound.conf")
	text := fmt.Sprintf("server:\n  interface: %s\n  num-threads: 2\n  so-reuseport: yes\n  so-rcvbuf: 4m\n  "+
		"so-sndbuf: 4m\n  chroot: \"\"\n  username: \"\"\n"+
		"  directory: \"%s\"\n  pidfile: \"\"\n  use-syslog: no\n  access-control: 10.0.0.0/8 allow\n  do-ip6: no\n"+
		"  local-zone: \"docker.io.\" static\n  local-data: \"docker.io. 15 A 10.0.0.1\"\n"+
		"  local-zone: \"registry.k8s.io.\" static\n  local-data: \"registry.k8s.io. 15 A 10.0.0.1\"\n",
		server.Addr(), filepath.Dir(conf))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, rate := range []int{300, 3000, 20000} {
		for _, name := range []string{"casemate", "unbound"} {
			t.Run(fmt.Sprintf("%s %d", name, rate), func(t *testing.T) {
				c := newCable(t)
				if name == "casemate" {
					c.serve(server, bufferSize, 1000)
				} else {
					cmd := exec.Command("ip", "netns", "exec", c.server, "unbound", "-d", "-c", conf)
					if err := cmd.Start(); err != nil {
						t.Skip("needs unbound")
					}
					t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
				}
				honest, f := c.dial("udp", server), c.forger(server)
				for !firstTry(t, honest, time.Second) {
				}
				var wg sync.WaitGroup
				end := time.Now().Add(20 * time.Second)
				wg.Go(func() {
					for began := time.Now(); time.Now().Before(end); time.Sleep(time.Millisecond) {
						for float64(f.sent) < time.Since(began).Seconds()*float64(rate) {
							f.send(nobody(server.Addr(), f.sent, 200))
						}
					}
				})
				asked, answered := 0, 0
				for ; time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					asked++
					if firstTry(t, honest, 250*time.Millisecond) {
						answered++
					}
				}
				wg.Wait()
				fmt.Printf("BENCH forged %5d/s  %-8s %3d of %3d honest questions answered at the first try\n",
					rate, name, answered, asked)
			})
		}
	}
}
