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
	checkScopedKeys(t, b, n, docker, auth)
	checkDirectory(t, b, n, docker, auth)
}

// checkScopedKeys: with an API key of a pusher below a prefix, clients push there and nowhere else, and not any more
// when the key was revoked, although their tokens would be valid for minutes.
func checkScopedKeys(t *testing.T, b *bastion, n *host, docker, auth []string) {
	t.Helper()
	key := strings.TrimSpace(b.casemate(t, "apikey", "create", "ci", "--role", "pusher", "--images-below", "team"))
	const own = "registry.casemate.internal"
	run := func(command []string, more ...string) (string, error) {
		return n.try(append(append([]string{}, command...), more...)...)
	}
	login := func(command ...string) {
		t.Helper()
		if out, err := n.tryIn(key, append(command, "-u", "ci", "--password-stdin", own)...); err != nil {
			t.Fatalf("%s with a key: %v\n%s", command[0], err, out)
		}
	}
	login(append(append([]string{}, docker...), "login")...)
	login(append([]string{"skopeo", "login"}, auth...)...)
	if out, err := run(docker, "pull", "registry.k8s.io/pause:3.10"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dockerPush := func(repo string) (string, error) {
		if out, err := run(docker, "tag", "registry.k8s.io/pause:3.10", own+"/"+repo); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return run(docker, "push", own+"/"+repo)
	}
	skopeoPush := func(repo string) (string, error) {
		return run(append([]string{"skopeo", "copy"}, auth...), "docker://registry.k8s.io/pause:3.10",
			"docker://"+own+"/"+repo)
	}
	for name, push := range map[string]func(string) (string, error){"docker": dockerPush, "skopeo": skopeoPush} {
		if out, err := push("team/" + name + ":1"); err != nil {
			t.Errorf("%s does not push below its prefix: %v\n%s", name, err, out)
		}
		if out, err := push("other/" + name + ":1"); err == nil || !strings.Contains(out, "denied") {
			t.Errorf("%s pushes elsewhere: %v\n%s", name, err, out)
		}
	}
	b.casemate(t, "apikey", "revoke", "--yes", "ci")
	for name, push := range map[string]func(string) (string, error){"docker": dockerPush, "skopeo": skopeoPush} {
		if out, err := push("team/" + name + ":2"); err == nil {
			t.Errorf("%s pushes with a revoked key:\n%s", name, out)
		}
	}
}
