//go:build e2e

package e2e

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rpmHost is the publisher's host. The certificate of httptest is for it.
const rpmHost = "rpm.example.com"

// TestDNFAcrossTheGap makes a repository as publishers do (rpmbuild, rpmsign, createrepo_c, gpg), collects packages of
// it, carries them across, and installs them with the same .repo file and the real dnf, which verifies the signatures
// of the repository and of each package.
func TestDNFAcrossTheGap(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"dnf", "createrepo_c", "rpmbuild", "rpmsign", "gpg"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("there is no %s: cmd/casemate/e2e/prepare installs it", tool)
		}
	}
	p := newRPMPublisher(t)
	l := newLab(t)
	b := newBastion(t, l, "n1", "--permit", rpmHost)
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	dir := t.TempDir()
	repoFile, list := filepath.Join(dir, "os.repo"), filepath.Join(dir, "packages.list")
	for file, text := range map[string]string{
		repoFile: `[os]
name=OS $releasever
metalink=https://` + rpmHost + `/metalink?repo=os-$releasever&arch=$basearch
gpgcheck=1
repo_gpgcheck=1
gpgkey=https://` + rpmHost + `/RPM-GPG-KEY
`,
		list: "conntrack\nnginx\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	create := func(file string, more ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(repo(t), "bin", "casemate"), append([]string{"bundle", "create", file,
			"--packages", list, "--dnf", repoFile, "--dnf-var", "releasever=9", "--cache",
			filepath.Join(dir, "cache")}, more...)...)
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+p.proxy, "SSL_CERT_FILE="+p.roots)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	file := filepath.Join(dir, "rpm.tar")
	create(file)
	b.casemate(t, "import", file)

	dnf := newDNF(t, n, repoFile)
	for _, c := range []struct{ command, want string }{
		{"makecache", "Metadata cache created"}, {"makecache --refresh", "Metadata cache created"},
		{"module list", "1.24 [d]"}, {"group list", "Tools"}, {"install conntrack nginx", "Complete!"},
		{"updateinfo list --installed", "TEST-2026-1"},
	} {
		if out, err := dnf.try(strings.Fields(c.command)...); err != nil || !strings.Contains(out, c.want) {
			t.Fatalf("dnf %s: %v\n%s", c.command, err, out)
		}
	}
	for name, want := range map[string]string{"conntrack": "1.0", "libnetfilter": "2.0", "nginx": "1.24"} {
		out := n.must(t, "rpm", "--root", n.path("root"), "-q", "--qf", "%{VERSION}", name)
		if !strings.HasPrefix(out, want) {
			t.Errorf("%s is %s, want %s", name, out, want)
		}
	}
	t.Run("Ansible", func(t *testing.T) { ansibleInstallsRPM(t, n, repoFile) })
	b.missedNothing(t)

	t.Run("a package outside of the list", func(t *testing.T) {
		if out, err := dnf.try("install", "socat"); err == nil || !strings.Contains(out, "404") {
			t.Errorf("want 404, got %v\n%s", err, out)
		}
		missed := b.casemate(t, "missing", "-o", "packages")
		if !strings.Contains(missed, "\nsocat") {
			t.Errorf("the missing book should name socat:\n%s", missed)
		}
		if err := os.WriteFile(list, []byte(missed), 0o644); err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(dir, "next.tar")
		create(next)
		b.casemate(t, "import", next)
		if out, err := dnf.try("install", "socat"); err != nil {
			t.Errorf("dnf install: %v\n%s", err, out)
		}
	})
}

// rpmPublisher is a web server with a signed repository, reached over https through a proxy.
type rpmPublisher struct {
	proxy, roots string
}

const spec = `Name: %[1]s
Version: %[2]s
Release: 1
Summary: x
License: MIT
BuildArch: noarch
%[3]s
%%description
x
%%files
`

const moduleYAML = `---
document: modulemd
version: 2
data:
  name: nginx
  stream: "1.24"
  version: 1
  context: c1
  arch: noarch
  summary: x
  description: x
  license: {module: [MIT]}
  artifacts: {rpms: ["nginx-0:1.24-1.noarch"]}
...
---
document: modulemd-defaults
version: 1
data: {module: nginx, stream: "1.24", profiles: {"1.24": []}}
...
`

const (
	updateinfoXML = `<?xml version="1.0"?><updates><update from="p@example.com" status="final" type="security" version="1">
<id>TEST-2026-1</id><title>libnetfilter</title><issued date="2026-01-01 00:00:00"/><severity>Important</severity>
<description>x</description><pkglist><collection short="os"><name>os</name><package name="libnetfilter" version="2.0"
release="1" epoch="0" arch="noarch"><filename>libnetfilter-2.0-1.noarch.rpm</filename></package></collection></pkglist>
</update></updates>
`
	compsXML = `<?xml version="1.0"?><comps><group><id>tools</id><name>Tools</name><description>x</description>
<default>false</default><uservisible>true</uservisible><packagelist><packagereq type="mandatory">socat</packagereq>
</packagelist></group></comps>
`
)

func newRPMPublisher(t *testing.T) *rpmPublisher {
	t.Helper()
	dir := t.TempDir()
	env := append(os.Environ(), "GNUPGHOME="+filepath.Join(dir, "gpg"), "HOME="+dir)
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	repo, pool := filepath.Join(dir, "www", "el9", "os"), filepath.Join(dir, "www", "pool")
	for _, d := range []string{filepath.Join(dir, "gpg"), repo, pool} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "Publisher <p@example.com>", "rsa2048", "sign", "0")
	t.Cleanup(func() {
		cmd := exec.Command("gpgconf", "--kill", "all")
		cmd.Env = env
		_ = cmd.Run()
	})
	for _, p := range [][3]string{
		{"conntrack", "1.0", "Requires: libnetfilter >= 2"}, {"libnetfilter", "1.0", ""}, {"libnetfilter", "2.0", ""},
		{"socat", "1.0", ""}, {"nginx", "1.24", ""}, {"nginx", "1.26", ""},
	} {
		file := filepath.Join(dir, p[0]+".spec")
		if err := os.WriteFile(file, fmt.Appendf(nil, spec, p[0], p[1], p[2]), 0o600); err != nil {
			t.Fatal(err)
		}
		run("rpmbuild", "-bb", "--define", "_topdir "+dir, "--define", "_rpmdir "+pool, "--define",
			"_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", file)
	}
	packages, err := filepath.Glob(filepath.Join(pool, "*.rpm"))
	if err != nil || len(packages) != 6 {
		t.Fatalf("6 packages should be built, not %v (%v)", packages, err)
	}
	gpg, err := exec.LookPath("gpg") // rpm looks for another program
	if err != nil {
		t.Fatal(err)
	}
	run(append([]string{"rpmsign", "--define", "_gpg_name Publisher", "--define", "__gpg " + gpg,
		"--addsign"}, packages...)...)
	run("createrepo_c", "--location-prefix", "../../pool/", "--outputdir", repo, pool)
	for _, more := range [][3]string{{"modules", "modules.yaml", moduleYAML}, {"updateinfo", "updateinfo.xml",
		updateinfoXML}, {"group", "comps.xml", compsXML}} {
		write(t, dir, more[1], more[2])
		run("modifyrepo_c", "--mdtype="+more[0], filepath.Join(dir, more[1]), filepath.Join(repo, "repodata"))
	}
	run("gpg", "--batch", "--armor", "--detach-sign", filepath.Join(repo, "repodata", "repomd.xml"))
	run("gpg", "--batch", "--armor", "--output", filepath.Join(dir, "www", "RPM-GPG-KEY"), "--export")
	return publish(t, filepath.Join(dir, "www"))
}

// publish serves a directory as rpmHost, with a metalink.
func publish(t *testing.T, www string) *rpmPublisher {
	t.Helper()
	files := http.FileServer(http.Dir(www))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metalink" || r.URL.RawQuery != "repo=os-9&arch=x86_64" {
			files.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, `<?xml version="1.0"?><metalink version="3.0" xmlns="http://www.metalinker.org/"><files>
<file name="repomd.xml"><resources><url protocol="rsync">rsync://other.example.com/os/repodata/repomd.xml</url>
<url protocol="https">https://%s/el9/os/repodata/repomd.xml</url></resources></file></files></metalink>`, rpmHost)
	}))
	t.Cleanup(server.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != rpmHost+":443" {
			http.Error(w, "only "+rpmHost, http.StatusForbidden)
			return
		}
		out, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			out.Close()
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(out, in)
			out.Close()
		}()
		_, _ = io.Copy(in, out)
		in.Close()
	}))
	t.Cleanup(proxy.Close)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(roots, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return &rpmPublisher{proxy: proxy.URL, roots: roots}
}

// dnfOf is dnf on a host, with directories of its own and no package installed.
type dnfOf struct {
	*host
}

func newDNF(t *testing.T, h *host, repoFile string) *dnfOf {
	t.Helper()
	text, err := os.ReadFile(repoFile)
	if err != nil {
		t.Fatal(err)
	}
	h.write("dnf/repos/os.repo", string(text))
	h.write("dnf/dnf.conf", fmt.Sprintf("[main]\nreposdir=%s\nvarsdir=%s\ncachedir=/cache\nlogdir=/log\n"+
		"persistdir=/persist\nplugins=0\nretries=1\nmodule_platform_id=platform:el9\nproxy=\n", h.path("dnf/repos"),
		h.path("dnf/vars")))
	if err := os.MkdirAll(h.path("root"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &dnfOf{h}
}

func (d *dnfOf) try(args ...string) (string, error) {
	return d.host.try(append([]string{"dnf", "--config", d.path("dnf/dnf.conf"), "--installroot", d.path("root"),
		"--releasever=9", "--forcearch=x86_64", "-y"}, args...)...)
}
