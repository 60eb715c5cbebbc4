//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpgradeFromPackageWithConffile: earlier packages owned /etc/casemate/casemate.yaml, which init writes. The
// upgrade asks nothing, keeps what was written, takes away what was not, and no package owns the file afterwards.
func TestUpgradeFromPackageWithConffile(t *testing.T) {
	dir := t.TempDir()
	before := earlier(t, dir)
	packages(t, "v99.0.0", dir)
	rpmArch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goarch()]
	for _, pm := range []struct {
		kind, install, upgrade, remove, owned string
		old, next                             string
	}{
		{
			"deb", "dpkg -i", "dpkg -i", "dpkg -P casemate", "dpkg-query -W -f='${Conffiles}' casemate; dpkg -S " +
				"/etc/casemate/casemate.yaml 2>/dev/null",
			"casemate_0.1.0-1_" + goarch() + ".deb", "casemate_99.0.0-1_" + goarch() + ".deb",
		},
		{
			"rpm", "rpm -i --nodeps", "rpm -U --nodeps", "rpm -e --nodeps casemate",
			"rpm -q --configfiles casemate; rpm -qf /etc/casemate/casemate.yaml >/dev/null 2>&1 && echo casemate.yaml",
			"casemate-0.1.0-1." + rpmArch + ".rpm", "casemate-99.0.0-1." + rpmArch + ".rpm",
		},
	} {
		t.Run(pm.kind, func(t *testing.T) {
			l := newLab(t)
			b := l.boot(t, "b1", plainMachine)
			must(t, "cp", filepath.Join(before, pm.old), filepath.Join(dir, pm.next), b.root+"/mnt")
			noOwner := func() {
				t.Helper()
				if out, _ := b.in("sh", "-c", pm.owned); strings.Contains(out, "casemate.yaml") {
					t.Errorf("the package owns the config: %s", out)
				}
				if out := b.sh(t, "ls -A /etc/casemate 2>/dev/null || true"); strings.Trim(out, "\n") != "" &&
					strings.Trim(out, "\n") != "casemate.yaml" {
					t.Errorf("left behind in /etc/casemate: %s", out)
				}
			}

			t.Log("a file that nobody has written into goes with the old package")
			b.sh(t, pm.install+" /mnt/"+pm.old+" && test -f /etc/casemate/casemate.yaml")
			b.sh(t, pm.upgrade+" /mnt/"+pm.next+" </dev/null && ! test -e /etc/casemate/casemate.yaml")
			noOwner()
			b.sh(t, pm.remove)

			t.Log("one that init has written, and the operator edited, stays, and the daemon runs on")
			b.sh(t, pm.install+" /mnt/"+pm.old+" && casemate init 2>&1 && echo '# by hand' >> "+
				"/etc/casemate/casemate.yaml && systemctl enable --now casemate.service")
			was := b.sh(t, "cat /etc/casemate/casemate.yaml")
			b.sh(t, pm.upgrade+" /mnt/"+pm.next+" </dev/null")
			if now := b.sh(t, "cat /etc/casemate/casemate.yaml"); now != was {
				t.Errorf("the config was\n%s\nand is\n%s", was, now)
			}
			noOwner()
			b.says(t, "v99.0.0", "casemate status")
			b.says(t, "active", "systemctl is-active casemate.service")

			t.Log("and so does one that a node runs with that has every default")
			b.sh(t, "systemctl stop 'casemate*' && rm -r /var/lib/casemate/* && "+pm.remove+"; rm -rf /etc/casemate")
			b.sh(t, pm.install+" /mnt/"+pm.old+" && cp -p /etc/casemate/casemate.yaml /mnt/blank && casemate init "+
				"2>&1 && cp -p /mnt/blank /etc/casemate/casemate.yaml")
			b.sh(t, pm.upgrade+" /mnt/"+pm.next+" </dev/null && cmp /mnt/blank /etc/casemate/casemate.yaml")
			noOwner()
		})
	}
}

// earlier builds the packages, as version 0.1.0, of the last commit in which they owned the node's config, and returns
// their directory.
func earlier(t *testing.T, dir string) string {
	t.Helper()
	git := func(args ...string) (string, error) {
		out, err := runIn(repo(t), append([]string{"git"}, args...)...)
		return strings.TrimSpace(out), err
	}
	commit := "666ea31"
	if _, err := git("cat-file", "-e", commit+"^{commit}"); err != nil {
		left, err := git("log", "-1", "--format=%H", "-STypeConfigNoReplace", "--", "packaging/tools/packages/main.go")
		if err != nil || left == "" {
			t.Skipf("the history with the earlier package is not here: %v %s", err, left)
		}
		if commit = left + "~"; strings.Contains(packagerAt(t, left), "TypeConfigNoReplace") {
			commit = left // it is not gone in a commit yet
		}
	}
	tree := filepath.Join(dir, "earlier")
	if out, err := git("worktree", "add", "--detach", tree, commit); err != nil {
		t.Fatalf("git worktree: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := git("worktree", "remove", "--force", tree); err != nil {
			t.Errorf("git worktree remove: %v\n%s", err, out)
		}
	})
	out := filepath.Join(dir, "old")
	if text, err := runIn(filepath.Join(tree, "packaging", "tools"), "go", "run", "./packages", "-root", "../..",
		"-out", out, "-version", "v0.1.0", "-commit", "e2e", "-arch", goarch()); err != nil {
		t.Fatalf("packages of %s: %v\n%s", commit, err, text)
	}
	return out
}

// packagerAt is the program that builds the packages, as of a commit.
func packagerAt(t *testing.T, commit string) string {
	t.Helper()
	out, err := runIn(repo(t), "git", "show", commit+":packaging/tools/packages/main.go")
	if err != nil {
		t.Fatalf("git show: %v\n%s", err, out)
	}
	return out
}

// TestDaemonEndsForNoReasonButItsOwn: what the machine under a bastion does to it, its status names, and when the cause
// is gone it runs again by itself.
func TestDaemonEndsForNoReasonButItsOwn(t *testing.T) {
	dir := t.TempDir()
	packages(t, "v0.1.0", dir)
	l := newLab(t)
	deb := "casemate_0.1.0-1_" + goarch() + ".deb"
	b := l.boot(t, "b1", plainMachine)
	must(t, "cp", filepath.Join(dir, deb), b.root+"/mnt")
	b.sh(t, "dpkg -i /mnt/"+deb+" && casemate init 2>&1 && systemctl enable --now casemate.service")
	client := l.host("client", "")
	runs, tells := watched(t, b, client)
	runs("the first start")

	t.Log("systemd's journal is stopped")
	pid := b.sh(t, "systemctl show -P MainPID casemate.service casemate-dns.service | grep .")
	b.sh(t, "systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket "+
		"systemd-journald.service 2>/dev/null; ! systemctl is-active --quiet systemd-journald")
	b.sh(t, "casemate config set dns.ttl 19s && casemate config set dns.ttl 18s && casemate status") // each is logged
	b.sh(t, "systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service")
	b.sh(t, "casemate config set files.alias_arch amd64")
	runs("the journal was stopped")
	if now := b.sh(t, "systemctl show -P MainPID casemate.service casemate-dns.service | grep ."); now != pid {
		t.Errorf("a process is another one: %q, it was %q", now, pid)
	}
	until(t, "it logs to the new journal", func() error {
		if out := b.sh(t, "journalctl -u casemate --no-pager | tail -n 3"); !strings.Contains(out, "files.alias_arch") {
			return errors.New(out)
		}
		return nil
	})

	t.Log("somebody ends it")
	b.sh(t, "kill -TERM $(systemctl show -P MainPID casemate.service) $(systemctl show -P MainPID "+
		"casemate-dns.service)")
	until(t, "the processes are others", func() error {
		now := b.sh(t, "systemctl show -P MainPID casemate.service casemate-dns.service | grep .")
		for old := range strings.Lines(pid) {
			if strings.Contains(now, old) {
				return errors.New(now)
			}
		}
		return nil
	})
	runs("SIGTERM")

	t.Log("the data disk is not there, and comes back")
	b.sh(t, "systemctl stop casemate.service && mv /var/lib/casemate /var/lib/disk && mkdir /var/lib/casemate && ! "+
		"systemctl start casemate.service")
	for range 30 { // each wakes the socket
		client.try("curl", "-sS", "-m", "0.2", "http://"+b.ip+"/readyz")
	}
	tells("if its disk is not mounted, mount it")
	b.sh(t, "mount --bind /var/lib/disk /var/lib/casemate")
	runs("the disk came back")

	t.Log("the files belong to somebody else")
	b.sh(t, "systemctl stop casemate.service && chown -R 4711:4711 /var/lib/disk && ! systemctl start casemate.service")
	tells("chown -R casemate: /var/lib/casemate")
	b.says(t, "chown -R casemate: /var/lib/casemate", "journalctl -u casemate -o cat --no-pager -n 20")
	if out := b.sh(t, "journalctl -u casemate -o cat --no-pager -n 20"); strings.Contains(out, "casemate init") {
		t.Errorf("it is told to make a second cluster:\n%s", out)
	}
	b.sh(t, "chown -R casemate: /var/lib/casemate")
	runs("the owner was set right")

}

// TestPortsOfOthers: another program has a port of the bastion's, which its status says, and when that program ends the
// bastion serves by itself. A link in place of its data directory is said where people look.
func TestPortsOfOthers(t *testing.T) {
	dir := t.TempDir()
	packages(t, "v0.1.0", dir)
	l := newLab(t)
	deb := "casemate_0.1.0-1_" + goarch() + ".deb"
	b := l.boot(t, "b1", plainMachine)
	must(t, "cp", filepath.Join(dir, deb), b.root+"/mnt")
	b.sh(t, "dpkg -i /mnt/"+deb+" && casemate init 2>&1 && systemctl enable --now casemate.service")
	runs, _ := watched(t, b, l.host("client", ""))
	runs("the first start")
	for _, c := range []struct{ port, kind, key string }{{"80", "STREAM", "listen.http"}, {
		"53", "DGRAM", "listen.dns"}, {"7443", "STREAM", "listen.peer"}} {
		b.sh(t, "systemctl stop 'casemate*'")
		reuse := "setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1); "
		if c.kind == "DGRAM" {
			reuse = "" // two that say so share a port for datagrams
		}
		b.sh(t, "systemd-run --unit=holder -p Type=exec perl -MSocket -e 'socket(S, PF_INET, SOCK_"+c.kind+
			", 0); "+reuse+
			"bind(S, sockaddr_in("+c.port+", inet_aton(\""+b.ip+"\"))) or die $!; listen(S, 5); sleep 3600'")
		until(t, "the port is taken", func() error {
			_, err := b.in("sh", "-c", "ss -Hlntup | grep -q '"+b.ip+":"+c.port+" '")
			return err
		})
		b.in("systemctl", "start", "casemate.service")
		until(t, "status names the program", func() error {
			out, _ := b.in("casemate", "status")
			if !strings.Contains(out, "perl (process ") || !strings.Contains(out, c.key) {
				return fmt.Errorf("it says %s", out)
			}
			return nil
		})
		b.sh(t, "systemctl stop holder")
		runs("port " + c.port + " was free again")
	}

	t.Log("a link in place of the data directory is said where people look")
	b.sh(t, "systemctl stop 'casemate*' && mv /var/lib/casemate /var/lib/disk && ln -s /var/lib/disk /var/lib/casemate")
	b.wrong(t, "data: /var/lib/disk", "casemate status")
	b.wrong(t, "casemate sockets", "casemate init 2>&1")
}

// watched returns what waits until the bastion serves, web and names, and what waits until its status says why not.
func watched(t *testing.T, b *booted, client *host) (runs, tells func(string)) {
	runs = func(after string) {
		t.Helper()
		until(t, "it serves after "+after, func() error {
			if out, err := b.in("casemate", "status"); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if out, err := client.try("dig", "+time=1", "+tries=1", "+short", "@"+b.ip,
				"registry.k8s.io"); err != nil || !strings.Contains(out, b.ip) {
				return fmt.Errorf("dig: %v: %s", err, out)
			}
			out, err := client.try("curl", "-fsS", "-m", "5", "http://"+b.ip+"/readyz")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	tells = func(want string) {
		t.Helper()
		until(t, "status names the cause", func() error {
			out, err := b.in("casemate", "status")
			if err == nil || !strings.Contains(out, want) {
				return fmt.Errorf("it says (%v) %s, expected %q", err, out, want)
			}
			return nil
		})
	}
	return runs, tells
}
