//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// booted is a host on which a Debian runs, with its own systemd, on an overlay of bin/debian.
type booted struct {
	*host
	root string
	init string // the process ID of its first process
}

// boot boots a Debian; prepare is given its tree before.
func (l *lab) boot(t *testing.T, name string, prepare func(m *booted)) *booted {
	t.Helper()
	lower := filepath.Join(repo(t), "bin", "debian")
	if _, err := os.Stat(lower + "/.whole"); err != nil {
		t.Fatal("there is no bin/debian: cmd/casemate/e2e/prepare makes it")
	}
	m := &booted{host: l.host(name, "")}
	m.root = m.path("root")
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.MkdirAll(m.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "mount", "-t", "overlay", "overlay", "-o", "lowerdir="+lower+",upperdir="+m.path("upper")+",workdir="+
		m.path("work"), m.root)
	t.Cleanup(func() { must(t, "umount", m.root) })
	prepare(m)
	// Its own network manager gives the link its address.
	must(t, "ip", "-n", m.ns, "addr", "flush", "dev", "eth0")

	var log bytes.Buffer
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec systemd-nspawn "$@"`, "sh",
		"--register=no", "--keep-unit", "--boot", "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
		"--network-namespace-path=/run/netns/"+m.ns, "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"-D", m.root)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // nspawn shuts it down
		select {
		case <-exited:
		case <-time.After(patience):
			cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.String())
		}
	})
	t.Cleanup(func() {
		if t.Failed() && m.init != "" {
			journal, _ := m.in("journalctl", "--no-pager", "-o", "short-precise", "-n", "150")
			t.Logf("%s's journal:\n%s", name, journal)
		}
	})
	until(t, "the machine has booted", func() error {
		select {
		case <-exited:
			t.Fatalf("the machine did not boot:\n%s", log.String())
		default:
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		if err != nil {
			return err
		}
		if m.init = strings.TrimSpace(string(children)); m.init == "" {
			return errors.New("it has no first process")
		}
		if out, _ := m.in("systemctl", "is-system-running"); out != "running\n" && out != "degraded\n" {
			return errors.New("systemd says " + out)
		}
		return nil
	})
	return m
}

// in runs a command in the machine.
func (m *booted) in(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", m.init, "-m", "-u", "-i", "-n", "-p", "-C",
		"env", "-i", "--chdir=/", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"},
		args...)...).CombinedOutput()
	return string(out), err
}

// sh runs a line of shell in the machine that has to succeed.
func (m *booted) sh(t *testing.T, line string) string {
	t.Helper()
	return m.mustIn(t, "sh", "-c", line)
}

// says is sh for a line that has to say want.
func (m *booted) says(t *testing.T, want, line string) string {
	t.Helper()
	out := m.sh(t, line)
	if !strings.Contains(out, want) {
		t.Fatalf("%s: %s: should have said %q, said\n%s", m.name, line, want, out)
	}
	return out
}

// wrong runs a line of shell in the machine that has to fail and to say want.
func (m *booted) wrong(t *testing.T, want, line string) {
	t.Helper()
	out, err := m.in("sh", "-c", line)
	if err == nil || !strings.Contains(out, want) {
		t.Fatalf("%s: %s: should have failed and said %q, said (%v)\n%s", m.name, line, want, err, out)
	}
}

func (m *booted) mustIn(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.in(args...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", m.name, strings.Join(args, " "), err, out)
	}
	return out
}

// etc writes a file of the machine's.
func (m *booted) etc(name, text string) {
	m.lab.t.Helper()
	path := filepath.Join(m.root, "etc", name)
	os.Remove(path)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if to, link := strings.CutPrefix(text, "-> "); link && err == nil {
		err = os.Symlink(to, path)
	} else if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
		if strings.HasSuffix(name, ".network") || strings.HasSuffix(name, "resolv.conf") {
			err = errors.Join(err, os.Chmod(path, 0o644)) // other users read them
		}
	}
	if err != nil {
		m.lab.t.Fatal(err)
	}
}

// service says whether systemd is to start it.
func (m *booted) service(name string, on bool) {
	wanted := "systemd/system/multi-user.target.wants/" + name + ".service"
	if on {
		m.etc(wanted, "-> /lib/systemd/system/"+name+".service")
	} else {
		m.etc("systemd/system/"+name+".service", "-> /dev/null")
	}
}

// wrongDNS answers every question for an address with 192.0.2.1, as the resolver of the network would that DHCP names.
func (h *host) wrongDNS(t *testing.T) {
	t.Helper()
	var conn net.PacketConn
	h.inside(t, func() (err error) { conn, err = net.ListenPacket("udp", h.ip+":53"); return err })
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		a := new(dns.Msg).SetReply(r)
		if q := r.Question[0]; q.Qtype == dns.TypeA {
			a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET,
				Ttl: 1}, A: net.IPv4(192, 0, 2, 1)})
		}
		w.WriteMsg(a)
	})}
	done := make(chan struct{})
	go func() { s.ActivateAndServe(); close(done) }()
	t.Cleanup(func() { s.Shutdown(); <-done })
}

// TestEnrollBootedMachines: where the link has another resolver, real resolved, networkd and NetworkManager ask only
// the bastion after the line was run, also for what kubelet reads and after the link was down; and they are as before
// after undo.
func TestEnrollBootedMachines(t *testing.T) {
	const stub = "-> ../run/systemd/resolve/stub-resolv.conf"
	for _, c := range []struct {
		name    string
		prepare func(m *booted, dns string)
		bounce  []string // takes the link down and up again
	}{
		{"networkd", func(m *booted, dns string) {
			m.service("systemd-networkd", true)
			m.service("systemd-resolved", true)
			m.service("NetworkManager", false)
			m.etc("systemd/network/10-eth0.network", "[Match]\nName=eth0\n[Network]\nAddress="+m.ip+"/24\nDNS="+dns+
				"\nDomains=corp.example\n")
			m.etc("resolv.conf", stub)
		}, []string{"sh", "-c", "networkctl down eth0; networkctl up eth0"}},
		{"netplan", func(m *booted, dns string) { // it writes to /run at boot, as this generator does
			m.service("systemd-networkd", true)
			m.service("systemd-resolved", true)
			m.service("NetworkManager", false)
			generator := m.root + "/etc/systemd/system-generators/netplan"
			m.etc("systemd/system-generators/netplan",
				"#!/bin/sh\nmkdir -p /run/systemd/network\nprintf "+
					"'[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\n[DHCP]\\nUseDomains=yes\\n' > "+
					"/run/systemd/network/10-netplan-eth0.network\n")
			if err := os.Chmod(generator, 0o755); err != nil {
				t.Fatal(err)
			}
			m.etc("resolv.conf", stub)
		}, []string{"networkctl", "renew", "eth0"}},
		{"nm-resolved", func(m *booted, dns string) {
			m.service("NetworkManager", true)
			m.service("systemd-resolved", true)
			m.etc("NetworkManager/system-connections/eth0.nmconnection", keyfile(m, dns))
			m.etc("resolv.conf", stub)
		}, []string{"sh", "-c", "nmcli con down eth0; nmcli con up eth0"}},
		{"nm", func(m *booted, dns string) {
			m.service("NetworkManager", true)
			m.service("systemd-resolved", false)
			os.Remove(m.root + "/usr/sbin/resolvconf") // resolved's
			m.etc("NetworkManager/system-connections/eth0.nmconnection", keyfile(m, dns))
			m.etc("resolv.conf", "")
		}, []string{"sh", "-c", "nmcli con down eth0; nmcli con up eth0"}},
		{"ifupdown", func(m *booted, dns string) {
			m.service("NetworkManager", false)
			m.service("systemd-resolved", false)
			m.service("networking", true)
			os.Remove(m.root + "/usr/sbin/resolvconf")
			m.etc("network/interfaces", "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n")
			m.etc("resolv.conf", "")
		}, []string{"sh", "-c", "ifdown eth0; ifup eth0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			b := newBastion(t, l, "n1")
			b.serve(t)
			line := b.line(t)
			other := l.host("other", "")
			other.wrongDNS(t)
			m := l.boot(t, c.name, func(m *booted) {
				conf := other.write("udhcpd.conf", "start "+m.ip+"\nend "+m.ip+"\ninterface eth0\nlease_file "+
					other.path("leases")+"\npidfile "+other.path("udhcpd.pid")+
					"\noption subnet 255.255.255.0\noption lease 120\noption dns "+other.ip+
					"\noption domain corp.example\n")
				other.write("leases", "")
				other.daemon(t, "udhcpd", "busybox", "udhcpd", "-f", conf)
				// A stand-in for a runtime that has read the roots: it has to be another process when they have
				// changed.
				m.etc("systemd/system/containerd.service", "[Service]\nExecStart=/bin/sleep infinity\n")
				m.etc("systemd/system/multi-user.target.wants/containerd.service", "-> ../containerd.service")
				c.prepare(m, other.ip)
			})
			runtime := func() string { return m.mustIn(t, "systemctl", "show", "-p", "MainPID", "containerd") }
			started := runtime()

			// asks waits until programs get this address, and the file that kubelet reads has this resolver alone.
			asks := func(addr, resolver string) {
				t.Helper()
				until(t, "registry.k8s.io is "+addr, func() error {
					if out, _ := m.in("getent", "ahostsv4", "registry.k8s.io"); !strings.HasPrefix(out, addr+" ") {
						return fmt.Errorf("it is %q", out)
					}
					out, err := m.in("sh", "-c", "cat /run/systemd/resolve/resolv.conf 2>/dev/null || cat "+
						"/etc/resolv.conf")
					if n := strings.Count(out, "\nnameserver "); err != nil || n != 1 ||
						!strings.Contains(out, "\nnameserver "+resolver+"\n") {
						return fmt.Errorf("resolvers (%v):\n%s", err, out)
					}
					if !strings.Contains(out, "search corp.example") {
						return fmt.Errorf("the search domain is lost:\n%s", out)
					}
					return nil
				})
			}
			asks("192.0.2.1", other.ip)
			etc := func() map[string]string {
				list := tree(t, m.root+"/etc")
				delete(list, m.root+"/etc/resolv.conf") // where NetworkManager writes it, it does so when it likes
				return list
			}
			was := etc()
			if out := m.mustIn(t, "sh", "-c", line); !strings.Contains(out,
				"resolve to the bastions, and the certificate is trusted") {
				t.Errorf("the line said:\n%s", out)
			}
			restarted := runtime()
			if restarted == started {
				t.Error("the runtime still has the old roots")
			}
			asks(b.ip, b.ip)
			m.mustIn(t, c.bounce...)
			asks(b.ip, b.ip)
			m.mustIn(t, "curl", "-fsS", "https://registry.k8s.io/v2/")
			if out := m.mustIn(t, "sh", "-c", line); !strings.Contains(out, "nothing to do") {
				t.Errorf("the second run said:\n%s", out)
			}
			m.etc("ssl/certs/ca-certificates.crt.new", "left by an update-ca-certificates that was killed\n")
			if out := m.mustIn(t, "sh", "/var/lib/casemate-enroll/enroll.sh", "--undo",
				"--no-restart"); !strings.Contains(out, "containerd uses the old roots until it is restarted: "+
				"systemctl restart containerd") {
				t.Errorf("undo said:\n%s", out)
			}
			if runtime() != restarted {
				t.Error("the runtime was restarted for nothing")
			}
			asks("192.0.2.1", other.ip)
			sameTree(t, was, etc())
		})
	}
}

// keyfile is a connection of NetworkManager's.
func keyfile(m *booted, dns string) string {
	return "[connection]\nid=eth0\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=manual\naddress1=" + m.ip +
		"/24\ndns=" + dns + ";\ndns-search=corp.example;\n[ipv6]\nmethod=disabled\n"
}
