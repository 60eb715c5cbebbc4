//go:build e2e

package e2e

import (
	"os"
	"path"
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
	r := newReceiver(t, b)
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
	// A receiver of the audit log that dies, and comes back later, gets what happened meanwhile.
	r.daemon.Process.Kill()
	checkScopedKeys(t, b, n, docker, auth)
	r.start(t)
	checkDirectory(t, b, n, docker, auth)
	r.check(t, b)
}

// checkScopedKeys: with an API key of a pusher below a prefix, clients push there and nowhere else, and not any more
// when the key was revoked, although their tokens would be valid for minutes.
func checkScopedKeys(t *testing.T, b *bastion, n *host, docker, auth []string) {
	t.Helper()
	key := strings.TrimSpace(b.casemate(t, "apikey", "create", "ci", "--role", "pusher", "--images-below", "team"))
	const own, image = "registry.casemate.internal", "registry.k8s.io/pause:3.10"
	helm := client(t, "helm")
	with := func(command []string, more ...string) []string {
		return append(append([]string{}, command...), more...)
	}
	for _, login := range [][]string{with(docker, "login"), with([]string{"skopeo", "login"}, auth...),
		{helm, "registry", "login"}} {
		if out, err := n.tryIn(key, append(login, "-u", "ci", "--password-stdin", own)...); err != nil {
			t.Fatalf("%s with a key: %v\n%s", login[0], err, out)
		}
	}
	n.must(t, with(docker, "pull", image)...)
	n.write("tmp/chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 0.1.0\n")
	n.must(t, helm, "package", n.path("tmp/chart"), "-d", n.path("tmp"))
	n.must(t, "sh", "-c", `cd "$HOME" && COSIGN_PASSWORD= "$0" generate-key-pair`, client(t, "cosign"))
	clients := []struct {
		name string
		push func(below string) (string, error)
	}{
		{"docker", func(below string) (string, error) {
			n.must(t, with(docker, "tag", image, own+"/"+below+"/docker:1")...)
			return n.try(with(docker, "push", own+"/"+below+"/docker:1")...)
		}},
		{"skopeo", func(below string) (string, error) {
			return n.try(with(with([]string{"skopeo", "copy"}, auth...), "docker://"+image,
				"docker://"+own+"/"+below+"/skopeo:1")...)
		}},
		{"helm", func(below string) (string, error) {
			return n.try(helm, "push", n.path("tmp/chart-0.1.0.tgz"), "oci://"+own+"/"+below)
		}},
		// It reads the credentials of docker's login. Of a repository with the same last element it would find the
		// signature, and have nothing to push.
		{"cosign", func(below string) (string, error) {
			return n.try("env", "DOCKER_CONFIG="+n.path("tmp/docker"), "COSIGN_PASSWORD=",
				"COSIGN_REPOSITORY="+own+"/"+below+"/in-"+path.Base(below), client(t, "cosign"), "sign", "--yes",
				"--tlog-upload=false", "--key", n.path("tmp/cosign.key"), own+"/team/docker:1")
		}},
	}
	for _, c := range clients {
		if out, err := c.push("team"); err != nil {
			t.Errorf("%s does not push below its prefix: %v\n%s", c.name, err, out)
		}
		if out, err := c.push("other"); err == nil || !strings.Contains(strings.ToLower(out), "denied") {
			t.Errorf("%s pushes elsewhere: %v\n%s", c.name, err, out)
		}
	}
	n.must(t, helm, "pull", "oci://"+own+"/team/chart", "--version", "0.1.0", "-d", n.path("tmp/docker"))
	b.casemate(t, "apikey", "revoke", "--yes", "ci")
	for _, c := range clients {
		if out, err := c.push("team/again"); err == nil {
			t.Errorf("%s pushes with a revoked key:\n%s", c.name, out)
		}
	}
}
