//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestLogins logs in with a wrong password. At the bastions' own name every client says so. At an origin's name clients
// send no password, since pulling needs none, and say that they are logged in; what they have stored, as they have the
// password of the real registry on many nodes, keeps nobody from pulling.
func TestLogins(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	putPause(t, l, b)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	n.write("etc/policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	runroot, err := os.MkdirTemp("", "pr") // podman wants a short one
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(runroot)
	docker := []string{"docker", "-H", "unix://" + n.dockerd(t), "--config", n.path("tmp/docker")}
	podman := []string{"podman", "--root", n.path("tmp/podman"), "--runroot", runroot, "--storage-driver", "vfs"}
	auth := []string{"--authfile", n.path("tmp/auth.json")}
	with := func(command []string, more ...string) []string {
		return append(append([]string{}, command...), more...)
	}
	for _, c := range []struct {
		client      string
		login, pull []string
	}{
		{"docker", with(docker, "login"), with(docker, "pull", "HOST/IMAGE")},
		{"podman", with(with(podman, "login"), auth...), with(with(podman, "pull", "--signature-policy",
			n.path("etc/policy.json"), "HOST/IMAGE"), auth...)},
		{"skopeo", with([]string{"skopeo", "login"}, auth...), with([]string{"skopeo", "inspect"},
			append(auth, "docker://HOST/IMAGE")...)},
		{"oras", []string{client(t, "oras"), "login"}, []string{client(t, "oras"), "manifest", "fetch", "HOST/IMAGE"}},
		{"helm", []string{client(t, "helm"), "registry", "login"}, nil}, // it pulls charts only
	} {
		login := func(host string) (string, error) {
			return n.tryIn("wrong", with(c.login, "-u", "ops", "--password-stdin", host)...)
		}
		if out, err := login("registry.casemate.internal"); err == nil {
			t.Errorf("%s: a wrong password logs in at the bastions' own name:\n%s", c.client, out)
		}
		for host, image := range map[string]string{"docker.io": "library/sample:1", "registry.k8s.io": "pause:3.10"} {
			out, err := login(host)
			if err != nil || !strings.Contains(out, "Login Succeeded") {
				t.Errorf("%s: login at %s: %v\n%s", c.client, host, err, out)
			}
			if c.pull == nil {
				continue
			}
			var pull []string
			for _, word := range c.pull {
				pull = append(pull, strings.NewReplacer("HOST", host, "IMAGE", image).Replace(word))
			}
			if out, err := n.try(pull...); err != nil {
				t.Errorf("%s: with another password stored it does not pull from %s: %v\n%s", c.client, host, err, out)
			}
		}
	}
}
