//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRemovedNodeStaysDown: a bastion that was removed is not started again by systemd, its sockets and its DNS are
// down, and its own status says why and what to do.
func TestRemovedNodeStaysDown(t *testing.T) {
	dir := t.TempDir()
	packages(t, "v0.1.0", dir)
	l := newLab(t)
	deb := "casemate_0.1.0-1_" + goarch() + ".deb"
	install := func(name string) *booted {
		m := l.boot(t, name, plainMachine)
		must(t, "cp", filepath.Join(dir, deb), m.root+"/mnt")
		m.sh(t, "dpkg -i /mnt/"+deb)
		return m
	}
	b1, b2 := install("b1"), install("b2")
	t.Log("enabled before init, nothing runs, and one line says what is missing")
	b2.enabledTooEarly(t)
	b2.wrong(t, "no casemate is initialised here (data directory /var/lib/casemate): casemate init",
		"casemate status 2>&1")
	b1.sh(t, "casemate init 2>&1 && systemctl enable --now casemate.service")
	token := b1.sh(t, "casemate token create 2>/dev/null")
	if err := os.WriteFile(b2.root+"/mnt/token", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	b2.sh(t, "casemate join --token @/mnt/token "+b1.ip+" && systemctl enable --now casemate.service")
	client := l.host("client", "")
	asks := []string{"dig", "+time=1", "+tries=1", "+short", "@" + b2.ip, "registry.k8s.io"}
	until(t, "the second bastion votes and answers", func() error {
		if out := b1.sh(t, "casemate member list"); strings.Count(out, "voter")+strings.Count(out, "leader") != 2 {
			return fmt.Errorf("%s", out)
		}
		if out, err := client.try(asks...); err != nil || !strings.Contains(out, b2.ip) {
			return fmt.Errorf("dig: %v: %s", err, out)
		}
		return nil
	})
	b1.sh(t, "casemate member remove --yes b2")
	silent := func() {
		t.Helper()
		until(t, "everything is down", func() error {
			out := b2.sh(t, "systemctl is-active casemate.service casemate-dns.service casemate-http.socket "+
				"casemate-https.socket "+
				"casemate-dns-udp.socket casemate-dns-tcp.socket casemate-dns-link.socket || true")
			if got := strings.Join(strings.Fields(out), " "); got != "failed"+strings.Repeat(" inactive", 6) {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
		b2.says(t, "4", "systemctl show -P ExecMainStatus casemate.service")
		client.fails(t, "", asks...)
		client.fails(t, "", "curl", "-sS", "-m", "5", "-o", "/dev/null", "http://"+b2.ip+"/healthz")
		for _, command := range []string{"status", "member list"} {
			b2.wrong(t, "this node was removed from the cluster: clear its data directory and join under a new name",
				"casemate "+command+" 2>&1")
		}
	}
	silent()
	b2.says(t, "0", "systemctl show -P NRestarts casemate.service")
	t.Log("started by hand, or by a boot, it goes down again")
	b2.wrong(t, "", "systemctl start casemate.service")
	silent()
	b2.says(t, "this node was removed from the cluster", "journalctl -u casemate -o cat --no-pager -n 20")
	t.Log("cleared, it joins under a new name")
	token = b1.sh(t, "casemate token create 2>/dev/null")
	if err := os.WriteFile(b2.root+"/mnt/token", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	b2.sh(t, "rm -rf /var/lib/casemate/* /etc/casemate/casemate.yaml && casemate join --name b3 --token @/mnt/token "+
		b1.ip+
		" && systemctl enable --now casemate.service")
	until(t, "it answers again", func() error {
		if out, err := client.try(asks...); err != nil || !strings.Contains(out, b2.ip) {
			return fmt.Errorf("dig: %v: %s", err, out)
		}
		return nil
	})
}

// enabledTooEarly starts a daemon before init: systemctl says that it failed and where to look, the reason is there in
// one sentence, and nothing is tried again.
func (m *booted) enabledTooEarly(t *testing.T) {
	t.Helper()
	m.wrong(t, "systemctl status casemate.service", "systemctl enable --now casemate.service 2>&1")
	const why = "no casemate is initialised here (data directory /var/lib/casemate): casemate init"
	for _, look := range []string{"systemctl status --no-pager -l casemate.service || true",
		"journalctl -u casemate --no-pager"} {
		out := m.says(t, why, look)
		if strings.Count(out, why) != 1 {
			t.Errorf("%s says it more than once:\n%s", look, out)
		}
	}
	m.says(t, "NOTCONFIGURED", "systemctl status --no-pager -l casemate.service || true")
	if out := m.sh(t, "systemctl show -P NRestarts casemate.service; systemctl list-jobs --no-legend 'casemate*'; "+
		"systemctl list-units --no-legend --state=active,activating 'casemate*'"); out != "0\n" {
		t.Errorf("something goes on: %s", out)
	}
}
