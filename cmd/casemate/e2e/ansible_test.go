//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// play runs tasks with this machine's Ansible: interpreter runs its modules, which are piped to it.
func play(t *testing.T, run func(args ...string) (string, error), interpreter, tasks string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"hosts.ini": "node ansible_connection=local ansible_python_interpreter=" + interpreter + "\n",
		"book.yml":  "- hosts: all\n  gather_facts: false\n  tasks:\n" + tasks,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := run("env", "LC_ALL=C.UTF-8", "ANSIBLE_PIPELINING=1", "ANSIBLE_HOME="+dir, "ANSIBLE_NOCOWS=1",
		"ansible-playbook", "-i", filepath.Join(dir, "hosts.ini"), filepath.Join(dir, "book.yml"))
	if err != nil {
		t.Fatalf("ansible-playbook: %v\n%s", err, out)
	}
}

// ansibleInstalls installs packages in a booted machine with Ansible's modules apt, package and pip.
func ansibleInstalls(t *testing.T, b *bastion, m *booted) {
	wheels := t.TempDir()
	for _, w := range [][]string{{"Tiny.App", "1.0", "Requires-Dist: tiny-lib (>=2)"}, {"tiny-lib", "2.1"}} {
		file, content := makeWheel(t, w[0], w[1], "py3-none-any", w[2:]...)
		if err := os.WriteFile(filepath.Join(wheels, file), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.casemate(t, "import", wheels, "--name", "wheels", "--python-index", pythonIndex)
	// pip's question whether it is the newest itself is no part of this. A virtual environment has roots of its own.
	m.etc("pip.conf", "[global]\nindex-url = "+pythonIndex+
		"\ncert = /etc/ssl/certs/ca-certificates.crt\ndisable-pip-version-check = true\n")
	interpreter := m.write("python3", "#!/bin/sh\nexec nsenter -t "+m.init+" -m -u -i -n -p -C env -i --chdir=/ "+
		"HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 /usr/bin/python3 \"$@\"\n")
	if err := os.Chmod(interpreter, 0o755); err != nil {
		t.Fatal(err)
	}
	play(t, run, interpreter, `
  - apt: {update_cache: true, name: [`+strings.Join(ansiblePackages[:3], ", ")+`]}
    register: first
  - apt: {update_cache: true, name: [`+strings.Join(ansiblePackages[:3], ", ")+`]}
    register: again
  - package: {name: `+ansiblePackages[3]+`}
  - pip: {name: Tiny.App, virtualenv: /opt/venv, virtualenv_command: /usr/bin/python3 -m venv}
  - assert: {that: [first is changed, again is not changed]}
`)
	m.installed(t, ansiblePackages)
	m.says(t, "1.0 2.1", "/opt/venv/bin/python -c 'import tiny_app, tiny_lib; print(tiny_app.version, "+
		"tiny_lib.version)'")
}

// ansibleInstallsRPM installs a package into a directory with Ansible's module dnf.
func ansibleInstallsRPM(t *testing.T, n *host, repoFile string) {
	text, err := os.ReadFile(repoFile)
	if err != nil {
		t.Fatal(err)
	}
	n.write("ansible/repos/os.repo", string(text))
	// dnf's own cache and not one below the root, as its command line has it.
	conf := n.write("ansible/dnf.conf", strings.ReplaceAll("[main]\nreposdir=DIR/repos\nvarsdir=DIR/vars\n"+
		"cachedir=DIR/cache\nlogdir=DIR/log\npersistdir=DIR/persist\nplugins=0\nretries=1\n"+
		"module_platform_id=platform:el9\n", "DIR", n.path("ansible")))
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	n.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 "+hostname+"\n") // Ansible looks up its own name
	root := n.path("ansible/root")
	play(t, n.try, "/usr/bin/python3", `
  - dnf: {name: [conntrack], update_cache: true, installroot: `+root+`, conf_file: `+conf+`, releasever: "9"}
    register: first
  - dnf: {name: [conntrack], installroot: `+root+`, conf_file: `+conf+`, releasever: "9"}
    register: again
  - assert: {that: [first is changed, again is not changed]}
`)
	n.must(t, "rpm", "--root", root, "-q", "conntrack", "libnetfilter")
}
