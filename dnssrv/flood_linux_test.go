package dnssrv

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// These tests put a server and a client into separate network namespaces, connected by a cable. The client's side also
// sends questions with forged sources: addresses of the same network without a host. The kernel retains the answers to
// those while it tries to resolve the link-layer address, three seconds each.

// cable is two namespaces with one cable between them; the server has the first address of each network.
type cable struct {
	t              testing.TB
	server, client string // namespaces
}

const floodV4, floodV6 = "10.99.0.1", "fd99::1"

func newCable(t testing.TB) *cable {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root (network namespaces, raw sockets)")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs iproute2")
	}
	name := fmt.Sprintf("cmdns%d%s", os.Getpid(), strings.ToLower(t.Name()[len("Test"):])[:4])
	c := &cable{t: t, server: name + "s", client: name + "c"}
	ip := c.ip
	for _, ns := range []string{c.server, c.client} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("needs the right to make network namespaces: %s", out)
		}
		t.Cleanup(func() { ip("netns", "del", ns) })
	}
	ip("-n", c.server, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", c.client)
	for ns, host := range map[string]string{c.server: "1", c.client: "2"} {
		ip("-n", ns, "addr", "add", "10.99.0."+host+"/16", "dev", "eth0")
		ip("-n", ns, "addr", "add", "fd99::"+host+"/64", "dev", "eth0", "nodad")
		ip("-n", ns, "link", "set", "lo", "up")
		ip("-n", ns, "link", "set", "eth0", "up")
	}
	return c
}

func (c *cable) ip(args ...string) {
	c.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// serve starts our server; stats ends it and gives its counts.
func (c *cable) serve(server netip.AddrPort, buffer, rate int) (stats func() Stats) {
	t := c.t
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", c.server, os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", serverEnv, server, buffer, rate))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	stats = sync.OnceValue(func() (s Stats) {
		in.Close()
		for lines.Scan() {
			json.Unmarshal(lines.Bytes(), &s)
		}
		cmd.Wait()
		return s
	})
	t.Cleanup(func() { stats() })
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the server did not start: %q", lines.Text())
	}
	return stats
}

// in calls f on a thread in the client's namespace. Sockets that it opens stay there.
func (c *cable) in(f func() error) {
	c.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			ns, err := os.Open("/run/netns/" + c.client)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

// dial connects the client's host to the server.
func (c *cable) dial(network string, server netip.AddrPort) net.Conn {
	c.t.Helper()
	return c.dialFrom(nil, network, server)
}

func (c *cable) dialFrom(local net.Addr, network string, server netip.AddrPort) (conn net.Conn) {
	c.t.Helper()
	c.in(func() (err error) {
		conn, err = (&net.Dialer{LocalAddr: local}).Dial(network, server.String())
		return err
	})
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// newcomer makes a host appear on the client's side and connects it to the server.
func (c *cable) newcomer(a netip.Addr, server netip.AddrPort) net.Conn {
	c.t.Helper()
	plen, opts := "/16", []string{}
	if a.Is6() {
		plen, opts = "/64", []string{"nodad"}
	}
	c.ip(append([]string{"-n", c.client, "addr", "add", a.String() + plen, "dev", "eth0"}, opts...)...)
	return c.dialFrom(net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)), "udp", server)
}

// forger sends questions with forged sources to the server.
type forger struct {
	t       testing.TB
	fd      int
	to      unix.Sockaddr
	server  netip.AddrPort
	payload []byte
	sent    uint64
}

func (c *cable) forger(server netip.AddrPort) *forger {
	c.t.Helper()
	f := &forger{t: c.t, server: server, payload: packet(c.t, question("registry.k8s.io", dns.TypeA))}
	family := unix.AF_INET
	f.to = &unix.SockaddrInet4{Addr: [4]byte{10, 99, 0, 1}}
	if server.Addr().Is6() {
		family = unix.AF_INET6
		f.to = &unix.SockaddrInet6{Addr: server.Addr().As16()}
	}
	c.in(func() (err error) {
		f.fd, err = unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
		return err
	})
	c.t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

// send sends one question from source (RFC 768, RFC 791, RFC 8200).
func (f *forger) send(source netip.Addr) {
	f.t.Helper()
	udp := make([]byte, 8, 8+len(f.payload))
	binary.BigEndian.PutUint16(udp, uint16(20000+f.sent%20000))
	binary.BigEndian.PutUint16(udp[2:], f.server.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(f.payload)))
	udp = append(udp, f.payload...)
	src, dst := source.AsSlice(), f.server.Addr().AsSlice()
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(udp))
	for _, part := range [][]byte{src, dst, udp} {
		for i, b := range part {
			sum += uint32(b) << (8 * (1 - i%2))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	var ip []byte
	if source.Is4() {
		ip = make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP // the kernel fills in length and checksum
		copy(ip[12:], src)
		copy(ip[16:], dst)
	} else {
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		copy(ip[8:], src)
		copy(ip[24:], dst)
	}
	if err := unix.Sendto(f.fd, append(ip, udp...), 0, f.to); err != nil {
		f.t.Fatalf("forged question: %v", err)
	}
	f.sent++
}

// nobody returns the i-th of n addresses of the server's network that no host has.
func nobody(server netip.Addr, i uint64, n int) netip.Addr {
	k := int(i) % n
	if server.Is4() {
		return netip.AddrFrom4([4]byte{10, 99, byte(1 + k/250), byte(1 + k%250)})
	}
	a := server.As16()
	a[13], a[14], a[15] = 1, byte(k>>8), byte(k)
	return netip.AddrFrom16(a)
}

// patience is how long an honest client waits before it would ask again: longer than a busy machine takes for an
// answer, shorter than the three seconds after which the kernel gives an address up.
const patience = 2 * time.Second

// firstTry asks one question and says whether it is answered within a time.
func firstTry(t testing.TB, conn net.Conn, within time.Duration) bool {
	t.Helper()
	q, buf := question("docker.io", dns.TypeA), make([]byte, maxUDP)
	conn.Write(packet(t, q))
	conn.SetReadDeadline(time.Now().Add(within))
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return false
		}
		// Another id is an answer to an earlier question that came too late.
		if n > 2 && binary.BigEndian.Uint16(buf) == q.Id {
			return true
		}
	}
}

// TestForgedFlood asks honest questions one after another, each after a burst of forged ones, and counts how many are
// answered at the first attempt.
func TestForgedFlood(t *testing.T) {
	for _, tt := range []struct {
		name    string
		server  string
		sources int
		buffer  int
	}{
		{"a few addresses", floodV4, 100, bufferSize},
		{"a whole network", floodV4, 5000, bufferSize},
		{"IPv6", floodV6, 5000, bufferSize},
		// As much as the kernel gives a process without privileges.
		{"small buffers", floodV4, 5000, 212992},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := netip.AddrPortFrom(netip.MustParseAddr(tt.server), 53)
			c := newCable(t)
			stats := c.serve(server, tt.buffer, 0)
			f := c.forger(server)
			honest := c.dial("udp", server)
			const rounds, burst, lost = 60, 250, 3
			answered := 0
			for i := range rounds {
				for range burst {
					f.send(nobody(server.Addr(), f.sent, tt.sources))
				}
				if firstTry(t, honest, patience) {
					answered++
				}
				if i-answered > 2*lost {
					break
				}
			}
			const newcomers = 10
			welcome := 0
			host := server.Addr().Next() // the client's
			for i := 0; i < newcomers && answered >= rounds-lost; i++ {
				host = host.Next()
				conn := c.newcomer(host, server)
				for range burst {
					f.send(nobody(server.Addr(), f.sent, tt.sources))
				}
				// The client has not resolved any link-layer address yet and resolves the server's, as every host does.
				c.ip("-n", c.client, "neigh", "flush", "dev", "eth0")
				if firstTry(t, conn, patience) {
					welcome++
				}
			}
			s := stats()
			t.Logf("%d of %d newcomers answered at the first try", welcome, newcomers)
			if welcome < newcomers-lost {
				t.Errorf("want %d of %d newcomers answered at the first try, got %d", newcomers-lost, newcomers,
					welcome)
			}
			t.Logf("%d of %d honest questions answered at the first try, beside %d forged ones: %+v",
				answered, rounds, f.sent, s)
			// The cable itself, a queue in the kernel, may lose a packet in a burst.
			if answered < rounds-lost {
				t.Errorf("want %d of %d honest questions answered at the first try, got %d", rounds-lost, rounds,
					answered)
			}
			if s.Absent == 0 {
				t.Error("want answers to forged sources held back")
			}
		})
	}
}

// TestRateLimitOnTheWire repeats a question: the answers are truncated so that the client uses TCP, and after an answer
// over TCP it is answered over UDP again.
func TestRateLimitOnTheWire(t *testing.T) {
	const rate, cuts = 1, 20
	server := netip.AddrPortFrom(netip.MustParseAddr(floodV4), 53)
	c := newCable(t)
	stats := c.serve(server, bufferSize, rate)
	udp := &dns.Conn{Conn: c.dial("udp", server)}
	udp.SetDeadline(time.Now().Add(10 * time.Minute)) // ends what hangs
	q := question("registry.k8s.io", dns.TypeA)
	ask := func(co *dns.Conn) *dns.Msg {
		t.Helper()
		if err := co.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
		resp, err := co.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	cut, whole := 0, 0
	began := time.Now()
	for cut < cuts {
		if resp := ask(udp); resp.Truncated {
			if cut++; len(resp.Answer) != 0 {
				t.Errorf("got %v", resp)
			}
		} else if whole++; len(resp.Answer) != 2 {
			t.Errorf("got %v", resp)
		}
	}
	// A slow machine gets as many more whole answers as it takes seconds.
	if most := rate * (limitSeconds + 1 + int(time.Since(began).Seconds())); whole > most {
		t.Errorf("want at most %d whole answers beside %d that are cut, got %d", most, cut, whole)
	}
	tcp := &dns.Conn{Conn: c.dial("tcp", server)}
	tcp.SetDeadline(time.Now().Add(10 * time.Minute))
	if resp := ask(tcp); resp.Truncated || len(resp.Answer) != 2 {
		t.Errorf("got %v", resp)
	}
	for range provenTimes * rate * limitSeconds {
		if resp := ask(udp); resp.Truncated {
			t.Fatal("want whole answers to a client that was answered over TCP")
		}
	}
	if s := stats(); s.Limited != uint64(cut) {
		t.Errorf("want %d counted as limited, got %+v", cut, s)
	}
}
