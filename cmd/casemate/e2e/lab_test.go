//go:build e2e || bench

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience ends what hangs; no verdict depends on it, on however busy a machine.
const patience = 10 * time.Minute

// family is which addresses the hosts of a lab have.
type family int

const (
	onlyIPv4 family = iota
	onlyIPv6
	deadIPv6 // both families, and whatever is sent over IPv6 gets lost on the way
)

// labs counts the labs, because tests run at the same time.
var labs atomic.Int32

// lab is a switch with hosts on it, all in network namespaces named after this process and the lab's number.
type lab struct {
	t      testing.TB
	name   string
	family family
	hosts  int
	dir    string
}

// host is a network namespace with addresses, a resolver and a trust store.
type host struct {
	lab  *lab
	name string
	ns   string
	ip   string   // one that works
	ips  []string // all
	dir  string   // its scratch directory; etc/ below it is mounted at /etc
	view string   // the script by which a command gets to see it; enter if empty
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabOf(t, onlyIPv4)
}

func newLabOf(t testing.TB, f family) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("end-to-end tests need root")
	}
	l := &lab{t: t, name: fmt.Sprintf("cm%d-%d", os.Getpid(), labs.Add(1)), family: f, dir: t.TempDir()}
	must(t, "ip", "netns", "add", l.name+"sw")
	t.Cleanup(func() { run("ip", "netns", "del", l.name+"sw") })
	must(t, "ip", "-n", l.name+"sw", "link", "add", "br0", "type", "bridge")
	must(t, "ip", "-n", l.name+"sw", "link", "set", "br0", "up")
	return l
}

// host adds a host to the switch; its resolver is dns and its trust store is empty until trust is called.
func (l *lab) host(name, dns string) *host {
	l.t.Helper()
	l.hosts++
	h := &host{lab: l, name: name, ns: l.name + name, dir: filepath.Join(l.dir, name)}
	must(l.t, "ip", "netns", "add", h.ns)
	l.t.Cleanup(func() { run("ip", "netns", "del", h.ns) })
	port := fmt.Sprintf("p%d", l.hosts)
	must(l.t, "ip", "-n", l.name+"sw", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	must(l.t, "ip", "-n", l.name+"sw", "link", "set", port, "master", "br0", "up")
	must(l.t, "ip", "-n", h.ns, "link", "set", "eth0", "up")
	must(l.t, "ip", "-n", h.ns, "link", "set", "lo", "up")
	h.addresses(l.hosts + 1)
	for _, d := range []string{"etc/certs", "etc/local", "tmp"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	resolv := ""
	if dns != "" {
		resolv = "nameserver " + dns + "\noptions timeout:2 attempts:2\n"
	}
	h.write("etc/resolv.conf", resolv)
	h.write("etc/hosts", "127.0.0.1 localhost\n")
	h.write("etc/certs/ca-certificates.crt", "")
	return h
}

// addresses gives the host its addresses: the number is their last part.
func (h *host) addresses(number int) {
	t := h.lab.t
	t.Helper()
	if h.lab.family != onlyIPv6 {
		h.ips = append(h.ips, fmt.Sprintf("10.77.0.%d", number))
		must(t, "ip", "-n", h.ns, "addr", "add", h.ips[0]+"/24", "dev", "eth0")
	}
	switch h.lab.family {
	case onlyIPv6:
		six := fmt.Sprintf("fd77::%d", number)
		h.ips = append(h.ips, six)
		must(t, "ip", "-n", h.ns, "addr", "add", six+"/64", "dev", "eth0", "nodad")
	case deadIPv6:
		// Each host is in a network of its own, behind a router that nobody is.
		six := fmt.Sprintf("fd77:0:0:%d::1", number)
		h.ips = append(h.ips, six)
		must(t, "ip", "-n", h.ns, "addr", "add", six+"/64", "dev", "eth0", "nodad")
		must(t, "ip", "-n", h.ns, "neigh", "add", "fe80::99", "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev",
			"eth0")
		must(t, "ip", "-n", h.ns, "route", "add", "default", "via", "fe80::99", "dev", "eth0")
	}
	h.ip = h.ips[0]
}

// at returns one of the host's sockets, as it is written in a URL and by most programs.
func (h *host) at(port string) string { return net.JoinHostPort(h.ip, port) }

// addressType returns the type of DNS record that has the host's address, and the one that has none.
func (h *host) addressType() (has, not string) {
	if strings.Contains(h.ip, ":") {
		return "AAAA", "A"
	}
	return "A", "AAAA"
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) write(name, content string) string {
	h.lab.t.Helper()
	p := h.path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.lab.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		h.lab.t.Fatal(err)
	}
	return p
}

// trust makes the certificates in pem the only roots that the host trusts, the way Debian does it.
func (h *host) trust(pem string) {
	h.lab.t.Helper()
	h.write("etc/local/casemate.crt", pem)
	out, err := exec.Command("update-ca-certificates", "--fresh", "--certsconf",
		h.write("etc/ca-certificates.conf", ""),
		"--certsdir", h.path("tmp"), "--localcertsdir", h.path("etc/local"), "--etccertsdir", h.path("etc/certs"),
		"--hooksdir", h.path("tmp")).CombinedOutput()
	if err != nil {
		h.lab.t.Fatalf("update-ca-certificates: %v\n%s", err, out)
	}
}

// enter puts the host's resolver and trust store over the machine's in a mount namespace of the process's own.
const enter = `set -e
mount --bind "$1/etc/resolv.conf" "$(readlink -f /etc/resolv.conf)"
mount --bind "$1/etc/hosts" /etc/hosts
mount --bind "$1/etc/certs" /etc/ssl/certs
mount --bind "$1/etc/local" /usr/local/share/ca-certificates
shift
exec "$@"`

// command is a command on that host.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	full := append([]string{"--net=/run/netns/" + h.ns, "unshare", "--mount", "--propagation", "private", "sh", "-c",
		cmp.Or(h.view, enter), "sh", h.dir}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", full...)
	cmd.Env = append(os.Environ(), "HOME="+h.path("tmp"), "XDG_RUNTIME_DIR="+h.path("tmp"), "TMPDIR="+h.path("tmp"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// try runs a command on the host and returns its output.
func (h *host) try(args ...string) (string, error) { return h.tryIn("", args...) }

// tryIn is try with standard input.
func (h *host) tryIn(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := h.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// must runs a command on the host that has to succeed.
func (h *host) must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := h.try(args...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.name, strings.Join(args, " "), err, out)
	}
	return out
}

// fails runs a command on the host that has to fail and to say want.
func (h *host) fails(t testing.TB, want string, args ...string) string {
	t.Helper()
	out, err := h.try(args...)
	if err == nil {
		t.Fatalf("%s: %s: should have failed\n%s", h.name, strings.Join(args, " "), out)
	}
	if !strings.Contains(out, want) {
		t.Fatalf("%s: %s: should have said %q, said\n%s", h.name, strings.Join(args, " "), want, out)
	}
	return out
}

// exits is fails with an exit code.
func (h *host) exits(t testing.TB, code int, want string, args ...string) string {
	t.Helper()
	out, err := h.try(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code || !strings.Contains(out, want) {
		t.Fatalf("%s: %s: should have exited with %d and said %q: %v\n%s", h.name, strings.Join(args, " "), code, want,
			err, out)
	}
	return out
}

// daemon starts a long-running command on the host; it is ended with the test. Its output is shown if the test fails.
func (h *host) daemon(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(h.path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(patience):
			t.Errorf("%s did not stop after SIGTERM", name)
			cmd.Process.Kill()
			<-exited
		}
		log.Close()
		if t.Failed() {
			out, _ := os.ReadFile(log.Name())
			if len(out) > 20000 {
				out = out[len(out)-20000:]
			}
			t.Logf("%s said:\n%s", name, out)
		}
	})
	return cmd
}

// until waits for a condition; the last error says what is still missing.
func until(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func run(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

func runIn(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := run(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// repo is the top of the work tree.
func repo(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func client(t testing.TB, name string) string { return filepath.Join(repo(t), "bin", "clients", name) }

// bastion is a host that runs casemate.
type bastion struct {
	*host
	config string
	socket string
	binary string // "" is bin/casemate
}

func newBastion(t testing.TB, l *lab, name string, initArgs ...string) *bastion {
	t.Helper()
	return newBastionOf(t, l, name, "", initArgs...)
}

// newBastionOf is newBastion with another binary than bin/casemate.
func newBastionOf(t testing.TB, l *lab, name, binary string, initArgs ...string) *bastion {
	t.Helper()
	b := &bastion{host: l.host(name, ""), binary: binary}
	b.config = b.path("casemate.yaml")
	b.socket = b.path("admin.sock")
	b.configure(b.path("data"))
	b.must(t, append([]string{b.bin(), "init", "--config", b.config}, initArgs...)...)
	return b
}

// configure writes the config.
func (b *bastion) configure(data string) {
	b.write("casemate.yaml", fmt.Sprintf("node: %s\ndata: %s\nadvertise: [\"%s\"]\nlisten:\n  admin: %s\n", b.name,
		data, strings.Join(b.ips, `", "`), b.socket))
}

func (b *bastion) bin() string {
	if b.binary != "" {
		return b.binary
	}
	return filepath.Join(repo(b.lab.t), "bin", "casemate")
}

// serve starts the daemon and waits until it is ready.
func (b *bastion) serve(t testing.TB) *exec.Cmd {
	t.Helper()
	cmd := b.launch(t)
	b.ready(t)
	return cmd
}

// launch starts the daemon and does not wait.
func (b *bastion) launch(t testing.TB) *exec.Cmd {
	t.Helper()
	return b.daemon(t, "casemate", b.bin(), "serve", "--config", b.config)
}

func (b *bastion) ready(t testing.TB) {
	t.Helper()
	until(t, "casemate is ready", func() error {
		out, err := b.try(b.bin(), "--socket", b.socket, "status")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// casemate runs a command of the command line against the running daemon.
func (b *bastion) casemate(t testing.TB, args ...string) string {
	t.Helper()
	return b.must(t, append([]string{b.bin(), "--socket", b.socket}, args...)...)
}
