//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// packages builds the DEB and the RPM of this machine's architecture, as that version, into dir.
func packages(t testing.TB, version, dir string) {
	t.Helper()
	out, err := runIn(filepath.Join(repo(t), "packaging", "tools"), "go", "run", "./packages", "-root", "../..", "-out",
		dir, "-version", version, "-commit", "e2e", "-arch", goarch())
	if err != nil {
		t.Fatalf("packages: %v\n%s", err, out)
	}
}

// manager describes the commands of a package manager.
type manager struct {
	install, upgrade, remove string // upgrade followed by the file's path
	old, new                 string // the files' names
	purges                   bool   // it can also take data away
}

// TestPackage takes the packages through their life on a Debian that systemd has booted: install, init, start, reload,
// a hanging daemon, kill -9, upgrade with pulls running, remove, install again, purge. RPM's own program does so with
// the RPM, on the same Debian.
func TestPackage(t *testing.T) {
	dir := t.TempDir()
	packages(t, "v0.1.0", dir)
	packages(t, "v0.2.0", dir)
	again := t.TempDir()
	packages(t, "v0.2.0", again)
	files, err := filepath.Glob(filepath.Join(again, "casemate*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		must(t, "cmp", file, filepath.Join(dir, filepath.Base(file)))
		if filepath.Ext(file) == ".deb" {
			if out, err := run("lintian", "--allow-root", "--fail-on", "error,warning", file); err != nil {
				t.Errorf("lintian: %v\n%s", err, out)
			}
		}
	}
	rpmArch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goarch()]
	for kind, m := range map[string]manager{
		"deb": {"dpkg -i", "dpkg -i", "dpkg -r casemate", "casemate_0.1.0-1_" + goarch() + ".deb", "casemate_0.2.0-1_" +
			goarch() + ".deb", true},
		// What the RPM needs of the host, /bin/sh, is Debian's and not in rpm's database.
		"rpm": {"rpm -i --nodeps", "rpm -U --nodeps", "rpm -e --nodeps casemate", "casemate-0.1.0-1." + rpmArch +
			".rpm", "casemate-0.2.0-1." + rpmArch + ".rpm", false},
	} {
		t.Run(kind, func(t *testing.T) { life(t, m, dir) })
	}
}

func life(t *testing.T, pm manager, dir string) {
	l := newLab(t)
	b := l.boot(t, "b1", func(m *booted) {
		// resolved holds port 53 at 127.0.0.53, as on most machines.
		m.service("systemd-networkd", true)
		m.service("systemd-resolved", true)
		m.service("NetworkManager", false)
		m.service("containerd", false)
		m.etc("systemd/network/10-eth0.network", "[Match]\nName=eth0\n[Network]\nAddress="+m.ip+
			"/24\nGateway=10.77.0.1\n")
		m.etc("hostname", "b1\n")
	})
	for _, file := range []string{pm.old, pm.new} {
		must(t, "cp", filepath.Join(dir, file), b.root+"/mnt")
	}
	img := pauseImage(t)
	ref, err := name.ParseReference("registry.k8s.io/pause:3.10")
	if err == nil {
		err = tarball.WriteToFile(b.root+"/mnt/images.tar", ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.root+"/mnt/kubeadm", make([]byte, 48<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	old, next := "/mnt/"+pm.old, "/mnt/"+pm.new

	t.Log("install: nothing runs, and the next step is printed")
	b.says(t, "casemate init", pm.install+" "+old)
	b.says(t, "inactive", "systemctl is-active casemate.service || true")
	b.says(t, "disabled", "systemctl is-enabled casemate.service || true")
	b.says(t, "casemate 750", "stat -c '%U %a' /var/lib/casemate")
	b.says(t, "casemate v0.1.0", "casemate version | tr -s ' '")
	b.says(t, "casemate", "test -s /usr/share/bash-completion/completions/casemate && zcat "+
		"/usr/share/man/man8/casemate.8.gz")
	b.enabledTooEarly(t)

	t.Log("init, as root on a fresh package, finds the address by itself and prepares everything for the daemon's user")
	out := b.says(t, "systemctl enable --now casemate.service", "casemate init 2>&1")
	for _, want := range []string{"wrote /etc/casemate/casemate.yaml",
		"firewall-cmd --permanent --add-service=casemate", "casemate enroll"} {
		if !strings.Contains(out, want) {
			t.Errorf("init did not say %q:\n%s", want, out)
		}
	}
	t.Log("an init that was killed when only the data was complete resumes")
	b.sh(t, "echo > /etc/casemate/casemate.yaml && rm -r /etc/systemd/system/casemate*.d")
	b.says(t, "the data existed already", "casemate init 2>&1")
	b.wrong(t, "is initialised already", "casemate init 2>&1")
	b.says(t, b.ip, "cat /etc/casemate/casemate.yaml")
	if out := b.sh(t, "find /var/lib/casemate ! -user casemate"); out != "" {
		t.Errorf("the daemon's user cannot use %s", out)
	}
	if out, err := b.in("systemd-analyze", "verify", "--man=no", "casemate.service", "casemate-http.socket",
		"casemate-https.socket",
		"casemate-dns.service", "casemate-dns-udp.socket", "casemate-dns-tcp.socket",
		"casemate-dns-link.socket"); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}

	t.Log("start: a node with this resolver and this root pulls by upstream name")
	b.sh(t, "systemctl enable --now casemate.service")
	b.says(t, "v0.1.0", "casemate status")
	for unit, most := range map[string]float64{"casemate.service": 2.0, "casemate-dns.service": 2.0} {
		out := b.sh(t, "systemd-analyze security --no-pager "+unit)
		exposure := regexp.MustCompile(`exposure level for ` + unit + `: ([0-9.]+)`).FindStringSubmatch(out)
		if exposure == nil {
			t.Fatal("systemd-analyze security did not say a level")
		}
		t.Logf("%s: exposure level %s", unit, exposure[1])
		if level, err := strconv.ParseFloat(exposure[1], 64); err != nil || level > most {
			t.Errorf("%s: exposure level %s, at most %.1f is wanted (%v)\n%s", unit, exposure[1], most, err, out)
		}
	}
	b.sh(t, "casemate import /mnt/images.tar && casemate file put "+
		"https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm /mnt/kubeadm")
	n := l.host("node", b.ip)
	n.trust(b.sh(t, "casemate ca"))
	sock := n.containerd(t)
	const image, file = "registry.k8s.io/pause:3.10", "https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm"
	n.must(t, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", image)
	n.must(t, "curl", "-fsS", "-o", "/dev/null", file)

	t.Log("1 000 pulls at a time beside 1 000 idle connections, within the unit's limits")
	crowd(t, n, b)

	t.Log("reload: what can be re-read is; the rest is reported; a mistake changes nothing")
	b.sh(t,
		`sed -i 's/^#log:/log:/; s/^  #level: .*/  level: debug/; s/^node: .*/node: "other"/' /etc/casemate/casemate.yaml && systemctl reload casemate`)
	until(t, "the journal has the log", func() error {
		out, err := b.in("journalctl", "-u", "casemate", "-o", "cat", "--no-pager")
		for _, want := range []string{"node has changed in the config and needs a restart", "log level changed"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q (%v)", want, err)
			}
		}
		return nil
	})
	b.sh(t, "echo 'nodes: [' >> /etc/casemate/casemate.yaml")
	b.wrong(t, "", "systemctl reload casemate")
	b.sh(t,
		`sed -i '$d' /etc/casemate/casemate.yaml && sed -i 's/^node: .*/node: "b1"/' /etc/casemate/casemate.yaml && systemctl reload casemate && casemate status`)

	t.Log("DNS answers while the daemon is stopped, also from a process that was started meanwhile")
	ask := n.asker(t, b.ip, "dl.k8s.io")
	ask.while(t, "everything runs", 20, nil)
	b.sh(t, "systemctl kill --kill-whom=main --signal=STOP casemate.service")
	ask.while(t, "the daemon is stopped", 100, nil)
	was := b.sh(t, "systemctl show -P NRestarts casemate-dns.service")
	b.sh(t, "systemctl kill --kill-whom=main --signal=KILL casemate-dns.service")
	ask.while(t, "the DNS process was killed and the daemon is stopped", 100, nil)
	if now := b.sh(t, "systemctl show -P NRestarts casemate-dns.service"); now == was {
		t.Errorf("the DNS process was not started anew: %s", now)
	}
	b.says(t, "Status: ", "systemctl status --no-pager casemate-dns.service")
	b.sh(t, "systemctl kill --kill-whom=main --signal=CONT casemate.service")
	until(t, "the daemon has a DNS process again", func() error {
		out, err := b.in("casemate", "status")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	b.sh(t, "systemctl restart casemate-dns && casemate name set a.casemate.test A 10.9.9.9")
	n.asker(t, b.ip, "a.casemate.test").while(t, "a name was set after a restart of DNS", 1, nil)
	t.Log("what strangers' packets get to is a box")
	look := b.sh(t, "p=$(systemctl show -P MainPID casemate-dns); grep -E '^(NoNewPrivs|Seccomp|CapEff|Uid)' "+
		"/proc/$p/status; id -u casemate")
	t.Log(look)
	for _, want := range []string{`NoNewPrivs:\s1\n`, `Seccomp:\s2\n`, `CapEff:\s0+\n`} {
		if !regexp.MustCompile(want).MatchString(look) {
			t.Errorf("the DNS process's status has no %s", want)
		}
	}
	b.wrong(t, "", "setpriv --reuid=nobody --clear-groups python3 -c \"import socket; "+
		"socket.socket(socket.AF_UNIX).connect('/run/casemate-dns/link.sock')\"")
	b.wrong(t, "", "test -e /proc/$(systemctl show -P MainPID casemate-dns)/root/var/lib/casemate/cluster")

	t.Log("a daemon that hangs is restarted by the watchdog; one that is killed, too; DNS continues")
	dnsPID := b.sh(t, "systemctl show -P MainPID casemate-dns.service")
	b.sh(t, "mkdir -p /run/systemd/system/casemate.service.d && printf '[Service]\\nWatchdogSec=4\\n' > "+
		"/run/systemd/system/casemate.service.d/short.conf && systemctl daemon-reload && systemctl restart casemate")
	for _, signal := range []string{"STOP", "KILL"} {
		before := b.sh(t, "systemctl show -P NRestarts casemate.service")
		b.sh(t, "systemctl kill --kill-whom=main --signal="+signal+" casemate.service")
		until(t, "it is back after SIG"+signal, func() error {
			out, err := b.in("sh", "-c", "systemctl show -P NRestarts casemate.service; casemate status >/dev/null")
			if err != nil || strings.HasPrefix(out, before) {
				return fmt.Errorf("%s, %w", out, err)
			}
			return nil
		})
		n.must(t, "curl", "-fsS", "-o", "/dev/null", file)
	}
	if now := b.sh(t, "systemctl show -P MainPID casemate-dns.service"); now != dnsPID {
		t.Errorf("the DNS process was started anew with the daemon: %s, it was %s", now, dnsPID)
	}

	t.Log("upgrade with pulls and downloads running: none fails, and the daemon is the new one")
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	var p pulls
	n.pullLoop(ctx, &wg, &p, sock, image)
	var downloads, lost int
	var why string
	wg.Go(func() {
		for ctx.Err() == nil {
			if out, err := n.try("curl", "-fsS", "--no-keepalive", "--limit-rate", "30m", "-o", "/dev/null",
				file); err != nil {
				lost, why = lost+1, out
			}
			downloads++
		}
	})
	some := func(what string) {
		t.Helper()
		p.mu.Lock()
		from := p.done
		p.mu.Unlock()
		until(t, what, func() error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.failed) == 0 && p.done < from+3 {
				return fmt.Errorf("%d pulls", p.done-from)
			}
			return nil
		})
	}
	some("pulls before the upgrade")
	start := time.Now()
	ask.while(t, "the package is upgraded", 1, func() { b.sh(t, pm.upgrade+" "+next) })
	t.Logf("the upgrade took %.1f s", time.Since(start).Seconds())
	b.says(t, "v0.2.0", "casemate status")
	// The unit hides the file from which the time is usually read.
	metrics := n.must(t, "curl", "-fsS", "http://"+b.ip+"/metrics")
	if !strings.Contains(metrics, "\nprocess_start_time_seconds 1") {
		t.Error("/metrics does not say when the process was started")
	}
	some("pulls after it")
	stop()
	wg.Wait()
	if len(p.failed) > 0 || p.retried > 0 || lost > 0 || downloads == 0 {
		t.Errorf("%d pulls, %d again, %d failed %q; %d downloads, %d failed: %s", p.done, p.retried, len(p.failed),
			p.failed, downloads, lost, why)
	}
	t.Logf("%d pulls and %d downloads during the upgrade, the longest time between two pulls %.1f s", p.done, downloads,
		p.gap.Seconds())

	t.Log("other ports: sockets updates systemd")
	b.says(t, "nothing has changed", "casemate sockets 2>&1")
	b.sh(t, `sed -i 's/^#listen:/listen:/; s/^  #http: .*/  http: ["`+b.ip+`:80", "`+b.ip+
		`:8080"]/' /etc/casemate/casemate.yaml`)
	b.wrong(t, "", "systemctl restart casemate")
	b.says(t, "systemd's socket \"http\" is at "+b.ip+":80, but listen.http is "+b.ip+":80, "+b.ip+":8080",
		"journalctl -u casemate -o cat --no-pager -n 20")
	// Not restart: where two services start while sockets are bound anew, systemd's own children hold the old ones for
	// a moment.
	anew := "systemctl daemon-reload && systemctl stop 'casemate*' && systemctl start casemate"
	b.says(t, anew, "casemate sockets 2>&1")
	b.sh(t, anew)
	n.must(t, "curl", "-fsS", "-o", "/dev/null", "http://"+b.ip+":8080/healthz")

	t.Log("remove keeps the data; installed again, it continues")
	b.sh(t, pm.remove)
	b.wrong(t, "", "systemctl is-active casemate.service || systemctl is-active casemate-http.socket || systemctl "+
		"is-active casemate-dns.service")
	n.fails(t, "", "curl", "-fsS", "-m", "5", "-o", "/dev/null", "http://"+b.ip+"/healthz")
	b.sh(t, "test -d /var/lib/casemate/cluster && ! test -e /usr/bin/casemate && test -e /etc/casemate/casemate.yaml")
	b.says(t, "data of an earlier installation exists", pm.install+" "+next)
	b.sh(t, "systemctl enable --now casemate.service")
	n.must(t, "curl", "-fsS", "-o", "/dev/null", file)

	if !pm.purges {
		return
	}
	b.sh(t, "umask 077 && mkdir /root/backup && echo 'correct horse battery staple' > /root/backup/passphrase && "+
		"casemate backup /root/backup/casemate.tar --passphrase-file /root/backup/passphrase")
	t.Log("purge removes everything, also from a separate volume")
	b.sh(t, "mount --bind /var/lib/casemate /var/lib/casemate && dpkg -P casemate && umount /var/lib/casemate && "+
		"rmdir /var/lib/casemate")
	if out := b.sh(t, "ls -d /var/lib/casemate /etc/casemate /etc/systemd/system/casemate* /usr/share/doc/casemate "+
		"2>/dev/null || true"); out != "" {
		t.Errorf("after the purge there is still\n%s", out)
	}

	t.Log("restored from a backup that only root can read, it is the same to the nodes")
	b.sh(t, pm.install+" "+next)
	b.says(t, "systemctl enable --now casemate.service",
		"casemate restore /root/backup/casemate.tar --passphrase-file /root/backup/passphrase 2>&1")
	b.sh(t, "systemctl enable --now casemate.service && casemate status")
	n.must(t, "curl", "-fsS", "-o", "/dev/null", file)
	n.must(t, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", image)
}

// crowd holds 1 000 idle connections and 1 000 stalled downloads of a blob, examines the daemon, and lets the downloads
// end.
func crowd(t *testing.T, n *host, b *booted) {
	const each, size = 1000, 8 << 20
	if err := os.WriteFile(b.root+"/mnt/blob", make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	b.sh(t, "casemate file put https://dl.k8s.io/crowd /mnt/blob")
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(b.sh(t, "casemate ca"))) {
		t.Fatal("no root")
	}
	// Each connection is opened just before its request: the daemon waits ten seconds for the first one.
	open := func() (c net.Conn, err error) {
		n.inside(t, func() error {
			c, err = net.Dial("tcp", b.ip+":443")
			return nil
		})
		if err != nil {
			return nil, err
		}
		return tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "dl.k8s.io"}), nil
	}
	conns := make([]net.Conn, 2*each)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	// all does f with each connection, a few at a time.
	all := func(what string, f func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		slots := make(chan struct{}, 16)
		for i := range conns {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := f(i); err != nil {
					t.Errorf("%s: connection %d: %v", what, i, err)
				}
			})
		}
		if wg.Wait(); t.Failed() {
			t.FailNow()
		}
	}
	bodies := make([]*http.Response, len(conns))
	all("asking", func(i int) error {
		c, err := open()
		if err != nil {
			return err
		}
		conns[i] = c
		r, err := http.NewRequest("HEAD", "https://dl.k8s.io/crowd", nil)
		if err != nil {
			return err
		}
		if i >= each {
			r.Method = "GET"
		}
		if err := r.Write(c); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), r)
		if err == nil && (resp.StatusCode != 200 || resp.ContentLength != size) {
			err = fmt.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
		}
		bodies[i] = resp
		return err
	})
	look := b.sh(t,
		`p=$(systemctl show -P MainPID casemate); sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p;s/^Threads:[^0-9]*//p' /proc/$p/status; ls /proc/$p/fd | wc -l`)
	var rss, threads, files int
	if _, err := fmt.Sscan(look, &rss, &threads, &files); err != nil {
		t.Fatalf("%v: %s", err, look)
	}
	socks, err := b.in("sed", "-n", "s/^TCP: .* mem //p", "/proc/net/sockstat")
	pages, _ := strconv.Atoi(strings.TrimSpace(socks))
	t.Logf("%d MiB resident, %d threads, %d files; the kernel's buffers of all TCP sockets: %d MiB (%v)", rss>>10,
		threads, files, pages*os.Getpagesize()>>20, err)
	if rss>>10 > 400 || files > 8192 || threads > 4096 {
		t.Error("that does not fit the unit's limits")
	}
	all("reading", func(i int) error {
		if i < each {
			return nil
		}
		n, err := io.Copy(io.Discard, bodies[i].Body)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	})
	b.says(t, "serves", "casemate status")
}
