package fileserver

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shortOf are the short layout's names of upstream URLs, as the people that use it write them.
var shortOf = []struct {
	url   *regexp.Regexp
	short []string // $v without v, $a the architecture
}{
	{regexp.MustCompile(`^https://dl\.k8s\.io/release/v(?P<v>[^/]+)/bin/linux/(?P<a>[^/]+)/(?P<n>.+)$`), []string{
		"/kubernetes/v$v/$n", "/kubernetes/$v/$n", "/kubernetes/v$v/$a/$n", "/kubernetes/$v/$a/$n",
		"/kubernetes/v$v/bin/linux/$a/$n",
	}},
	{regexp.MustCompile(`/etcd-io/etcd/releases/download/v(?P<v>[^/]+)/etcd-v.*-linux-(?P<a>\w+)\.tar\.gz$`), []string{
		"/etcd/v$v/etcd-v$v-linux-$a.tar.gz", "/etcd/$v/etcd-$v-linux-$a.tar.gz", "/etcd/v$v/etcd.tar.gz",
		"/kubernetes/etcd/etcd-v$v-linux-$a.tar.gz",
		"/etcd/v$v/$a/etcd.tar.gz",
	}},
	{
		regexp.MustCompile(
			`/containernetworking/plugins/releases/download/v(?P<v>[^/]+)/cni-plugins-linux-(?P<a>\w+)-v.*tgz$`),
		[]string{
			"/cni-plugins/v$v/cni-plugins-linux-$a-v$v.tgz", "/cni-plugins/$v/cni-plugins-linux-$a-$v.tgz",
			"/cni-plugins/v$v/cni-plugins-linux-v$v.tgz",
			"/cni-plugins/$v/cni-plugins.tgz", "/kubernetes/cni/cni-plugins-linux-$a-v$v.tgz",
			"/kubernetes/cni/cni-plugins-linux-$a-$v.tgz",
		}},
	{
		regexp.MustCompile(
			`/kubernetes-sigs/cri-tools/releases/download/v(?P<v>[^/]+)/crictl-v.*-linux-(?P<a>\w+)\.tar\.gz$`),
		[]string{
			"/crictl/v$v/crictl-v$v-linux-$a.tar.gz", "/crictl/$v/crictl-$v-linux-$a.tar.gz",
			"/crictl/v$v/crictl-v$v-linux.tar.gz",
			"/kubernetes/cri-tools/crictl-v$v-linux-$a.tar.gz", "/crictl/crictl-v$v-linux-$a.tar.gz",
		}},
	{regexp.MustCompile(`/opencontainers/runc/releases/download/v(?P<v>[^/]+)/runc\.(?P<a>\w+)$`), []string{
		"/runc/v$v/runc.$a", "/runc/$v/runc.$a", "/runc/v$v/runc", "/runc/$v/$a/runc",
	}},
	{
		regexp.MustCompile(
			`/containerd/containerd/releases/download/v(?P<v>[^/]+)/containerd-.*-linux-(?P<a>\w+)\.tar\.gz$`),
		[]string{
			"/containerd/v$v/containerd-$v-linux-$a.tar.gz", "/containerd/$v/containerd-v$v-linux-$a.tar.gz",
			"/containerd/v$v/containerd.tar.gz",
			"/containerd/containerd-$v-linux-$a.tar.gz",
		}},
	{regexp.MustCompile(`/containerd/nerdctl/releases/download/v(?P<v>[^/]+)/nerdctl-.*-linux-(?P<a>\w+)\.tar\.gz$`),
		[]string{
			"/nerdctl/v$v/nerdctl-$v-linux-$a.tar.gz", "/nerdctl/$v/nerdctl-$v-linux-$a.tar.gz",
			"/nerdctl/$v/nerdctl-$v-linux.tar.gz",
		}},
}

// TestKubesprayLists: every URL of the real lists can be put, and is served at its origin, in the files_repo layout,
// with its checksum, and under its short names where it has some.
func TestKubesprayLists(t *testing.T) {
	lists, err := filepath.Glob("testdata/*.files.list")
	if err != nil || len(lists) != 2 {
		t.Fatal(lists, err)
	}
	shorts := map[int]bool{}
	for _, list := range lists {
		f := start(t)
		file, err := os.Open(list)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var urls []string
		for lines := bufio.NewScanner(file); lines.Scan(); {
			urls = append(urls, strings.TrimSpace(lines.Text()))
			f.put(t, lines.Text(), "bytes of "+lines.Text())
		}
		if len(urls) < 20 {
			t.Fatalf("%s has %d lines", list, len(urls))
		}
		for _, url := range urls {
			body := "bytes of " + url
			host, path, _ := strings.Cut(strings.TrimPrefix(url, "https://"), "/")
			want(t, f.origin(host, "/"+path), 200, body)
			want(t, f.own("/"+host+"/"+path), 200, body)
			want(t, f.own("//"+host+"/"+path), 200, body) // files_repo with a slash at its end
			want(t, f.origin(host, "/"+path+".sha256"), 200, "*")
			want(t, f.own("/"+host+"/"+path+".sha512"), 200, "*")
			for i, row := range shortOf {
				m := row.url.FindStringSubmatchIndex(url)
				if m == nil {
					continue
				}
				shorts[i] = true
				for _, template := range row.short {
					short := string(row.url.ExpandString(nil,
						strings.NewReplacer("$v", "${v}", "$a", "${a}", "$n", "${n}").Replace(template), url, m))
					if got := text(t, f.own(short)); got != body {
						t.Errorf("%s is %q, want %q", short, got, body)
					}
				}
			}
		}
		if m := f.missed(); m != nil {
			t.Errorf("missed %q", m)
		}
	}
	if len(shorts) != len(shortOf) {
		t.Errorf("short names of %d projects were tried, of %d", len(shorts), len(shortOf))
	}
}

// TestAliasArchitecture: a short name without an architecture answers only if one is stored or files.alias_arch
// decides.
func TestAliasArchitecture(t *testing.T) {
	const k, r = "https://dl.k8s.io/release/v1.32.0/bin/linux/",
		"https://github.com/opencontainers/runc/releases/download/v1.2.6/runc."
	f := start(t)
	for _, arch := range []string{"arm64"} {
		f.put(t, k+arch+"/kubeadm", "kubeadm "+arch)
		f.put(t, r+arch, "runc "+arch)
	}
	want(t, f.own("/kubernetes/v1.32.0/kubeadm"), 200, "kubeadm arm64")
	want(t, f.own("/runc/1.2.6/runc"), 200, "runc arm64")
	want(t, f.own("/kubernetes/v1.32.0/arm64/kubeadm"), 200, "kubeadm arm64")
	want(t, f.own("/kubernetes/v1.32.0/aarch64/kubeadm"), 200, "kubeadm arm64")
	want(t, f.own("/runc/v1.2.6/runc.arm64"), 200, "runc arm64")
	if got := strings.Join(f.luck, "\n"); got != "/kubernetes/v1.32.0/kubeadm → "+k+
		"arm64/kubeadm\n/runc/1.2.6/runc → "+r+"arm64" {
		t.Errorf("luck:\n%s", got)
	}
	if m := f.missed(); m != nil {
		t.Errorf("missed %q", m)
	}
	// Another architecture than the one asked for is never served.
	want(t, f.own("/kubernetes/v1.32.0/amd64/kubeadm"), 404, "*")
	want(t, f.own("/runc/v1.2.6/runc.amd64"), 404, "*")
	f.arch = "amd64"
	want(t, f.own("/kubernetes/v1.32.0/kubeadm"), 404, "*")
	f.arch = ""
	wanted := []string{
		k + "amd64/kubeadm | asked for as /kubernetes/v1.32.0/amd64/kubeadm",
		r + "amd64 | asked for as /runc/v1.2.6/runc.amd64",
		k + "amd64/kubeadm | asked for as /kubernetes/v1.32.0/kubeadm",
	}
	if m := f.missed(); strings.Join(m, "\n") != strings.Join(wanted, "\n") {
		t.Errorf("missed:\n%s", strings.Join(m, "\n"))
	}

	f.put(t, k+"amd64/kubeadm", "kubeadm amd64")
	f.put(t, r+"amd64", "runc amd64")
	want(t, f.own("/kubernetes/v1.32.0/kubeadm"), 404, "*")
	want(t, f.own("/kubernetes/v1.32.0/kubeadm.sha256"), 404, "*")
	want(t, f.own("/runc/v1.2.6/runc"), 404, "*")
	const detail = " | it names no architecture and several are stored, ask for one of these or set files.alias_arch: "
	wanted = []string{
		"/kubernetes/v1.32.0/kubeadm" + detail + k + "amd64/kubeadm " + k + "arm64/kubeadm",
		"/kubernetes/v1.32.0/kubeadm.sha256" + detail + k + "amd64/kubeadm " + k + "arm64/kubeadm",
		"/runc/v1.2.6/runc" + detail + r + "amd64 " + r + "arm64",
	}
	if m := f.missed(); strings.Join(m, "\n") != strings.Join(wanted, "\n") {
		t.Errorf("missed:\n%s", strings.Join(m, "\n"))
	}
	for _, arch := range []string{"amd64", "arm64"} {
		f.arch = arch
		want(t, f.own("/kubernetes/v1.32.0/kubeadm"), 200, "kubeadm "+arch)
		want(t, f.own("/runc/v1.2.6/runc"), 200, "runc "+arch)
		want(t, f.own("/runc/v1.2.6/runc.amd64"), 200, "runc amd64")
	}
}

func TestAliasMisses(t *testing.T) {
	f := start(t)
	f.put(t,
		"https://github.com/containerd/containerd/releases/download/v1.7.27/containerd-static-1.7.27-linux-amd64.tar.gz", "static")
	f.put(t,
		"https://github.com/containerd/containerd/releases/download/v1.7.27/containerd-1.7.27-windows-amd64.tar.gz",
		"windows")
	f.put(t,
		"https://github.com/containerd/containerd/releases/download/v1.7.27/containerd-1.7.27-linux-amd64.tar.gz?part=1", "query")
	const dir = "https://github.com/containerd/containerd/releases/download/v1.7.27/"
	for _, c := range []struct{ path, name string }{
		{"/containerd/v1.7.27/containerd.tar.gz", "/containerd/v1.7.27/containerd.tar.gz"},
		{"/containerd/1.7.27/containerd-1.7.27-linux-amd64.tar.gz", dir + "containerd-1.7.27-linux-amd64.tar.gz"},
		{"/containerd/v1.7.27/containerd-v1.7.27-linux-x86_64.tar.gz", dir + "containerd-1.7.27-linux-amd64.tar.gz"},
		{"/containerd/v1.7.27/other-linux-arm64", dir + "other-linux-arm64"},
		{"/containerd/v1.7.27/x/y", "/containerd/v1.7.27/x/y"},
		{"/containerd/v1.7.27/", "/containerd/v1.7.27"},
		{"/containerd", "/containerd"},
		{"/nothing/v1.0.0/x", "/nothing/v1.0.0/x"},
		{"/kubernetes/v1.32.0/amd64/arm64/kubeadm", "/kubernetes/v1.32.0/amd64/arm64/kubeadm"},
		{"/kubernetes/v1.32.0/s390x/kubelet.sha256",
			"https://dl.k8s.io/release/v1.32.0/bin/linux/s390x/kubelet.sha256"},
	} {
		want(t, f.own(c.path), 404, "*")
		m := f.missed()
		if name, _, _ := strings.Cut(fmt.Sprint(strings.Join(m, "; ")), " | "); name != c.name {
			t.Errorf("%s missed %q, want %q", c.path, name, c.name)
		}
	}
	want(t, f.own("/containerd/v1.7.27/containerd-static.tar.gz"), 200, "static")
	want(t, f.own("/containerd/v1.7.27/containerd-windows-amd64.tar.gz"), 200, "windows")
}

func TestStem(t *testing.T) {
	for _, c := range []struct{ name, version, stem, arch string }{
		{"containerd-1.7.27-linux-amd64.tar.gz", "1.7.27", "containerd tar gz", "amd64"},
		{"containerd.tar.gz", "1.7.27", "containerd tar gz", ""},
		{"etcd-v3.5.21-linux-arm64.tar.gz", "3.5.21", "etcd tar gz", "arm64"},
		{"runc.amd64", "1.2.6", "runc", "amd64"},
		{"youki-0.4.1-x86_64-musl.tar.gz", "0.4.1", "youki musl tar gz", "amd64"},
		{"kubeadm", "1.32.0", "kubeadm", ""},
		{"arm", "", "", "arm"},
		{"", "", "", ""},
	} {
		if stem, arch := stem(c.name, c.version); stem != c.stem || arch != c.arch {
			t.Errorf("%q: %q, %q", c.name, stem, arch)
		}
	}
}
