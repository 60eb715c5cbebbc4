//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine is a Debian that systemd has booted, on a host of the lab: a container with namespaces of its own over a tree that is not changed.
type machine struct {
	*host
	init string // its process 1, as we see it
}

// boot mounts the tree with a layer for what this machine writes, and a cgroup hierarchy that systemd can own, where nobody else sees them.
const boot = `set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
exec systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$2/root" --network-namespace-path="$3" --machine="$4" \
  --bind-ro="$2/shared:/mnt" --link-journal=no --resolv-conf=off --console=pipe`

// tree is the Debian that machines boot; prepare makes it.
func tree(t testing.TB) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(repo(t), "bin", "debian-*", "usr"))
	if err != nil || len(list) != 1 {
		t.Fatalf("there is no Debian to boot (%q, %v): cmd/casemate/e2e/prepare makes it", list, err)
	}
	return filepath.Dir(list[0])
}

// boot starts a machine at a host and waits until systemd is up.
func (l *lab) machine(t testing.TB, name string) *machine {
	t.Helper()
	m := &machine{host: l.host(name, "")}
	must(t, "ip", "-n", m.ns, "route", "add", "default", "via", "10.77.0.1")
	for _, d := range []string{"upper/etc", "work", "root", "shared"} {
		if err := os.MkdirAll(m.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write("upper/etc/hostname", name+"\n")
	m.write("upper/etc/resolv.conf", "")
	log, err := os.Create(m.path("boot.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", boot, "sh", tree(t), m.dir, "/run/netns/"+m.ns, l.name+name)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		if t.Failed() && m.init != "" {
			journal, _ := m.in("journalctl", "--no-pager", "-o", "short-precise", "-n", "150")
			t.Logf("%s's journal:\n%s", name, journal)
		}
		cmd.Process.Signal(syscall.SIGTERM) // nspawn asks its process 1 to shut down
		select {
		case <-exited:
		case <-time.After(30 * time.Second):
			t.Errorf("machine %s did not shut down", name)
			cmd.Process.Kill()
			<-exited
		}
		log.Close()
	})
	until(t, name+" is up", func() error {
		select {
		case <-exited:
			out, _ := os.ReadFile(log.Name())
			t.Fatalf("%s did not boot:\n%s", name, out)
		default:
		}
		out, err := run("pgrep", "-P", fmt.Sprint(cmd.Process.Pid))
		if err != nil {
			return fmt.Errorf("no process 1 yet")
		}
		m.init = strings.Fields(out)[0]
		if out, err = m.in("systemctl", "is-system-running"); strings.TrimSpace(out) != "running" {
			return fmt.Errorf("%s: %w", strings.TrimSpace(out), err)
		}
		return nil
	})
	return m
}

// inCommand is a command inside the machine, as root.
func (m *machine) inCommand(ctx context.Context, args ...string) *exec.Cmd {
	full := append([]string{"--target", m.init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}, args...)
	return exec.CommandContext(ctx, "nsenter", full...)
}

// in runs a command inside the machine.
func (m *machine) in(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := m.inCommand(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// do runs a command inside the machine that has to succeed.
func (m *machine) do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := m.in(args...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", m.name, strings.Join(args, " "), err, out)
	}
	return out
}

// sh runs a line of shell inside the machine that has to succeed.
func (m *machine) sh(t testing.TB, line string) string {
	t.Helper()
	return m.do(t, "sh", "-c", line)
}

// says runs a line of shell inside the machine that has to succeed and to say want.
func (m *machine) says(t testing.TB, want, line string) string {
	t.Helper()
	out := m.sh(t, line)
	if !strings.Contains(out, want) {
		t.Fatalf("%s: %s: should have said %q, said\n%s", m.name, line, want, out)
	}
	return out
}

// wrong runs a line of shell inside the machine that has to fail and to say want.
func (m *machine) wrong(t testing.TB, want, line string) {
	t.Helper()
	out, err := m.in("sh", "-c", line)
	if err == nil || !strings.Contains(out, want) {
		t.Fatalf("%s: %s: should have failed and said %q, said (%v)\n%s", m.name, line, want, err, out)
	}
}
