//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestRehearsal: what is installed against a rehearsal is carried in one bundle, and a closed cluster answers every
// question that was asked. What is taken out there is named. The rehearsal survives kill -9.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	up := newInternetWithout(t, l)
	up.put(t, "registry.k8s.io/pause:3.10", pauseImage(t))
	up.files["dl.k8s.io/release/stable.txt"] = []byte("v1.35.4")
	up.files["tools.vendor.example/tool"] = []byte("a tool that nobody has listed")
	up.moved["github.com/o/r/releases/download/v1/tool"] =
		"https://objects.githubusercontent.com/asset/1?sig=s3cretquery"
	up.files["objects.githubusercontent.com/asset/1"] = []byte("an asset")

	r := &bastion{host: l.host("lab", "")}
	dir := r.path("debian12")
	r.socket = dir + "/admin.sock"
	rehearse := func(more ...string) *exec.Cmd {
		cmd := r.daemon(t, "rehearse", append([]string{r.bin(), "rehearse", dir, "--advertise", r.ip}, more...)...)
		r.ready(t)
		return cmd
	}
	proc := rehearse("--resolvers", up.resolver(t), "--upstream-ca", r.write("internet.pem", up.pem), "--permit",
		"vendor.example")
	node := l.host("node", r.ip)
	node.trust(r.casemate(t, "ca"))
	curl := func(args ...string) (string, error) {
		return node.try(append([]string{"curl", "-sSfL", "-H", "Authorization: Basic s3cretheader"}, args...)...)
	}
	install := func(t *testing.T) {
		t.Helper()
		until(t, "the tool of a name that nobody enabled is there", func() error {
			got, err := curl("https://tools.vendor.example/tool")
			if err != nil || got != "a tool that nobody has listed" {
				return fmt.Errorf("%v: %s", err, got)
			}
			return nil
		})
		for _, c := range [][2]string{{"https://dl.k8s.io/release/stable.txt", "v1.35.4"},
			{"https://github.com/o/r/releases/download/v1/tool", "an asset"}} {
			if got, err := curl(c[0]); err != nil || got != c[1] {
				t.Fatalf("%s: %v: %s", c[0], err, got)
			}
		}
		node.fails(t, "404", "curl", "-sSf", "https://dl.k8s.io/absent")
		pulled := node.path("pulled")
		os.RemoveAll(pulled)
		node.must(t, client(t, "crane"), "pull", "--format", "oci", "registry.k8s.io/pause:3.10", pulled)
	}
	install(t)
	proc.Process.Kill()
	until(t, "the rehearsal is dead", func() error {
		if _, err := r.try(r.bin(), "--socket", r.socket, "status"); err == nil {
			return fmt.Errorf("it answers")
		}
		return nil
	})
	rehearse()
	file := r.path("debian12.tar")
	node.try("curl", "-sS", "-d", "want", "https://github.com/o/r.git/git-upload-pack")
	if out := r.must(t, r.bin(), "bundle", "create", file, "--rehearsal", dir); !strings.Contains(out,
		"git-upload-pack is not in the transcript") {
		t.Errorf("what is not recorded is not said:\n%s", out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	transcript := string(text[strings.Index(string(text), `,"questions":`):])
	for _, secret := range []string{"s3cretheader", "s3cretquery", node.ip} {
		if strings.Contains(transcript, secret) {
			t.Errorf("%s is in the transcript", secret)
		}
	}

	b := newBastion(t, l, "n1", "--permit", "vendor.example")
	b.serve(t)
	inside := l.host("inside", b.ip)
	inside.trust(b.casemate(t, "ca"))
	must(t, "ip", "-n", up.ns, "link", "set", "eth0", "down")
	must(t, "ip", "-n", r.ns, "link", "set", "eth0", "down")
	inside.fails(t, "dl.k8s.io", b.bin(), "replay", file)
	b.casemate(t, "import", file)
	if out := inside.must(t, b.bin(), "replay", file); !strings.Contains(out, "100 % of ") {
		t.Errorf("replay:\n%s", out)
	}
	b.casemate(t, "image", "remove", "--yes", "registry.k8s.io/pause:3.10")
	out := inside.fails(t, "registry.k8s.io/v2/pause/manifests/3.10", b.bin(), "replay", file)
	if strings.Contains(out, "stable.txt") {
		t.Errorf("replay names what is there:\n%s", out)
	}
}
