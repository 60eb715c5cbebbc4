//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"casemate/appliance/doctor"
)

// doctor runs casemate doctor on the host, which has to end with this exit code.
func (h *host) doctor(t *testing.T, want int, args ...string) *doctor.Report {
	t.Helper()
	return h.doctorOf(t, client(t, "../casemate"), want, args...)
}

// doctorOf is doctor with another binary.
func (h *host) doctorOf(t *testing.T, binary string, want int, args ...string) *doctor.Report {
	t.Helper()
	begun := time.Now()
	out, err := h.try(append([]string{binary, "doctor", "-o", "json"}, args...)...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if code != want {
		t.Fatalf("exit code %d, want %d\n%s", code, want, out)
	}
	t.Logf("doctor took %s", time.Since(begun).Round(time.Millisecond))
	var r doctor.Report
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &r
}

// says reports whether the report has this trouble, as a warning or as a failure, with a cause that says this.
func says(r *doctor.Report, id string, warning bool, cause string) bool {
	return slices.ContainsFunc(r.Checks, func(c *doctor.Check) bool {
		return slices.ContainsFunc(c.Troubles, func(t doctor.Trouble) bool {
			return t.ID == id && t.Warning == warning && strings.Contains(t.Cause, cause) && len(t.Seen) > 0 &&
				len(t.Cure) > 0
		})
	})
}

func show(r *doctor.Report) string {
	var b strings.Builder
	r.Write(&b)
	return b.String()
}

// TestDoctor: doctor finds nothing on an enrolled node, and finds the problem on one that is not.
func TestDoctor(t *testing.T) {
	l := newLab(t)
	tr := newTrio(t, l)
	b, ips := tr.nodes[0], []string{}
	for _, n := range tr.nodes {
		ips = append(ips, n.ip)
	}
	resolv := func(list ...string) string {
		return "nameserver " + strings.Join(list, "\nnameserver ") + "\noptions timeout:2 attempts:2\n"
	}
	n := l.host("node", "")
	n.write("etc/resolv.conf", resolv(ips...))
	n.trust(b.casemate(t, "ca"))

	pause, err := layout.Write(b.path("pause"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := pause.AppendIndex(platforms(t, pauseImage(t))); err != nil {
		t.Fatal(err)
	}
	b.casemate(t, "import", "--name", "pause", b.path("pause"), "--repository", "registry.k8s.io/pause:3.10")
	b.casemate(t, "import", "--name", "large", writeImage(t, b.path("large"), randomImage(t, 6<<20, 1)), "--repository",
		"quay.io/team/large:1")
	file := make([]byte, 300<<10)
	rand.Read(file)
	if err := os.WriteFile(b.path("kubeadm"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	b.casemate(t, "file", "put", "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm", b.path("kubeadm"))
	tr.whole(3)

	t.Run("a node that is set up", func(t *testing.T) {
		r := n.doctor(t, 0)
		for _, c := range r.Checks {
			if c.State == doctor.Skipped || c.State == doctor.Failed {
				t.Errorf("%s is %s: %s", c.Name, c.State, c.Text)
			}
		}
		t.Logf("\n%s", show(r))
	})
	t.Run("without root", func(t *testing.T) {
		out, err := n.try("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", client(t, "../casemate"),
			"doctor")
		if err != nil || !strings.Contains(out, "ok       transfer") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("the line of a bastion", func(t *testing.T) {
		line := b.casemate(t, "doctor", "--line")
		line, _, _ = strings.Cut(line, "\n")
		out, err := n.try("sh", "-c", line)
		if err != nil || !strings.Contains(out, "ok       transfer") {
			t.Errorf("%v\n%s\n%s", err, line, out)
		}
		out, err = n.try("sh", "-c", strings.Replace(line, "uname -m", "echo vax", 1))
		if err == nil || !strings.Contains(out, "take the line of a bastion with that architecture") {
			t.Errorf("%v\n%s", err, out)
		}
		sum := strings.Fields(line[strings.Index(line, `&& echo "`)+len(`&& echo "`):])[0]
		out, err = n.try("sh", "-c", strings.ReplaceAll(line, sum, strings.Repeat("0", 64)))
		if err == nil || !strings.Contains(out, "no bastion served the right file") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("the CA is missing", func(t *testing.T) {
		// Go reads the other files of the directory too.
		if err := os.Rename(n.path("etc/certs"), n.path("trusted")); err != nil {
			t.Fatal(err)
		}
		n.write("etc/certs/ca-certificates.crt", "")
		defer func() { os.RemoveAll(n.path("etc/certs")); os.Rename(n.path("trusted"), n.path("etc/certs")) }()
		r := n.doctor(t, 3)
		if !says(r, "unknown-authority", false,
			"not in this node's trust store (/etc/ssl/certs/ca-certificates.crt)") || r.Failed != 1 {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("another resolver is the first", func(t *testing.T) {
		// A host that answers nothing but NXDOMAIN for origins: a bastion of another appliance would answer, this one
		// refuses.
		n.write("etc/resolv.conf", resolv("10.77.0.250", ips[0]))
		defer n.write("etc/resolv.conf", resolv(ips...))
		r := n.doctor(t, 3)
		if !says(r, "foreign-among", false, "10.77.0.250") || r.Failed != 1 {
			t.Errorf("\n%s", show(r))
		}
		r = n.doctor(t, 3, ips[1])
		if !says(r, "foreign-among", false, "10.77.0.250") {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("no bastion among the resolvers", func(t *testing.T) {
		n.write("etc/resolv.conf", resolv("10.77.0.250"))
		defer n.write("etc/resolv.conf", resolv(ips...))
		if r := n.doctor(t, 3); !says(r, "no-bastion", false, "10.77.0.250") {
			t.Errorf("\n%s", show(r))
		}
		if r := n.doctor(t, 3, ips[0]); !says(r, "foreign-only", false, "10.77.0.250") {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("an old line in the hosts file", func(t *testing.T) {
		n.write("etc/hosts", "127.0.0.1 localhost\n192.0.2.1 registry.k8s.io\n")
		defer n.write("etc/hosts", "127.0.0.1 localhost\n")
		if r := n.doctor(t, 3); !says(r, "hosts-file", false, "192.0.2.1") || r.Failed != 1 {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("large packets are lost", func(t *testing.T) {
		// The path from the bastion to the node has a smaller MTU than the bastion assumes, without any notification.
		hole := []string{"OUTPUT", "-d", n.ip, "-m", "length", "--length", "1401:65535", "-j", "DROP"}
		b.must(t, append([]string{"iptables", "-A"}, hole...)...)
		defer b.must(t, append([]string{"iptables", "-D"}, hole...)...)
		r := n.doctor(t, 3, "--image", "quay.io/team/large:1")
		if !says(r, "stall", false, b.ip) {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("registries that ask for a password", func(t *testing.T) {
		b.casemate(t, "config", "set", "registry.anonymous", "none")
		defer b.casemate(t, "config", "set", "registry.anonymous", "pull")
		until(t, "the setting is taken up", func() error {
			_, err := n.try("curl", "-fsS", "https://registry.k8s.io/v2/")
			if err == nil {
				return errors.New("no password is asked for")
			}
			return nil
		})
		if r := n.doctor(t, 3); !says(r, "challenge", false, "") {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("a node whose DNS is left alone", func(t *testing.T) { mirrored(t, l, b) })
	t.Run("one bastion is down", func(t *testing.T) {
		tr.kill(tr.nodes[2])
		r := n.doctor(t, 0)
		if !says(r, "refused", true, ips[2]) || r.Warnings != 1 {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("the first bastion does not answer", func(t *testing.T) {
		// Dead, not refused: no answer arrives. Every lookup waits for it, and works.
		tr.start(tr.nodes[2])
		tr.whole(3)
		hole := []string{"INPUT", "-s", n.ip, "-j", "DROP"}
		b.must(t, append([]string{"iptables", "-A"}, hole...)...)
		defer b.must(t, append([]string{"iptables", "-D"}, hole...)...)
		r := n.doctor(t, 0, ips[1])
		if !says(r, "unreachable", true, ips[0]) || r.Warnings != 1 {
			t.Errorf("\n%s", show(r))
		}
	})
	t.Run("all are dead", func(t *testing.T) {
		for _, b := range tr.nodes {
			run("ip", "-n", b.ns, "link", "set", "eth0", "down")
		}
		r := n.doctor(t, 3, ips...)
		if !says(r, "unreachable", false, ips[0]) {
			t.Errorf("\n%s", show(r))
		}
		for _, b := range tr.nodes {
			run("ip", "-n", b.ns, "link", "set", "eth0", "up")
		}
	})
}

// mirrored is TestDoctor on a node that was enrolled without its resolver and has mirrors, those of Kubespray's kind
// among them.
func mirrored(t *testing.T, l *lab, b *bastion) {
	m := l.fresh(t, "mirrored")
	for _, dir := range []string{"docker", "containerd", "containers"} { // the machine's own
		if err := os.RemoveAll(m.path("etc/" + dir)); err != nil {
			t.Fatal(err)
		}
	}
	m.must(t, "sh", "-c", b.line(t)+" --no-resolver")
	for _, runtime := range []string{"containerd", "crio", "rke2"} {
		b.casemate(t, "mirrors", "--for", runtime, "--dir", m.dir)
	}
	m.write("etc/containerd/config.toml",
		"version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d'\n")
	const own = "registry.casemate.internal"
	m.write("etc/containerd/certs.d/"+own+"/hosts.toml", "server = \"https://"+own+
		"\"\n[host.\"https://n2.casemate.internal\"]\n  ca = [\"/etc/casemate/ca.crt\"]\n")

	r := m.doctor(t, 0)
	if r.Warnings+r.Skipped != 0 || len(r.Bastions) != 3 ||
		!strings.Contains(show(r), own+"/registry.k8s.io/pause:3.10 by tag and by digest") {
		t.Errorf("\n%s", show(r))
	}
	t.Logf("\n%s", show(r))
	m.doctor(t, 0, "n2.casemate.internal")
	if out, err := m.try("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", client(t, "../casemate"),
		"doctor"); err != nil || !strings.Contains(out, "ok       transfer") {
		t.Errorf("without root: %v\n%s", err, out)
	}
	if r := m.doctor(t, 3, "--mode", "dns"); !says(r, "foreign-only", false, "10.77.0.250") {
		t.Errorf("\n%s", show(r))
	}

	// One thing is taken away at a time.
	for _, c := range []struct{ file, id, cause string }{
		{"etc/hosts", "own-name-lost", own},
		{"etc/casemate/ca.crt", "mirror-ca", "/etc/casemate/ca.crt"},
		{"etc/rancher/rke2/casemate-ca.crt", "mirror-ca", "/etc/rancher/rke2/casemate-ca.crt"},
	} {
		had, err := os.ReadFile(m.path(c.file))
		if err != nil {
			t.Fatal(err)
		}
		if c.file == "etc/hosts" {
			m.write(c.file, "127.0.0.1 localhost\n")
		} else if err := os.Remove(m.path(c.file)); err != nil {
			t.Fatal(err)
		}
		if r := m.doctor(t, 3); !says(r, c.id, false, c.cause) || r.Failed != 1 {
			t.Errorf("without %s:\n%s", c.file, show(r))
		}
		m.write(c.file, string(had))
	}
	m.write("etc/containerd/config.toml", "version = 3\n")
	if r := m.doctor(t, 0); !says(r, "config-path", true, "/etc/containerd/config.toml") {
		t.Errorf("\n%s", show(r))
	}
	m.must(t, "sh", "-c", b.line(t)+" --undo")
	if _, err := os.Stat(m.path("etc/casemate")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what undo leaves: %v", err)
	}
}
