package missing

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// known is what an appliance knows in these tests.
type known struct{ hosts, nodes, registries, files []string }

func (k known) Known(host string) bool    { return slices.Contains(k.hosts, host) }
func (k known) Node(label string) bool    { return slices.Contains(k.nodes, label) }
func (k known) Registry(host string) bool { return slices.Contains(k.registries, host) }
func (k known) Holds(url string) bool     { return slices.Contains(k.files, url) }

var site = known{
	hosts: []string{
		"quay.io", "docker.io", "registry.k8s.io", "ghcr.io", "dl.k8s.io", "archive.ubuntu.com", "casemate.internal",
		"n1.casemate.internal", "registry.casemate.internal", "git.bank.example",
	},
	nodes:      []string{"n1", "bastion1"},
	registries: []string{"quay.io", "docker.io", "registry.k8s.io", "ghcr.io"},
	files: []string{
		"https://deb.example/dists/stable/InRelease", "https://deb.example/dists/stable/main/binary-amd64/Packages.xz",
		"https://old.example/dists/stable/Release", "https://old.example/dists/stable/main/binary-amd64/Packages",
		"https://flat.example/deb/Packages.gz", "https://github.com/x/y/info/refs",
		"https://files.example/a-1-py3-none-any.whl",
	},
}

const accepts = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"

func TestWhatIsNoNeed(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	by := func(method, agent, accept, kind, name string) Question {
		return Question{Kind: kind, Name: name, Method: method, Agent: agent, Accept: accept}
	}
	dns := func(name, qtype string) Question { return Question{Kind: DNS, Name: name, Detail: qtype} }
	file := func(url string) Question { return by("GET", "curl/8", "*/*", File, url) }
	apt := func(url string) Question { return by("GET", "Debian APT-HTTP/1.3 (2.6.1)", "", File, url) }
	dnf := func(url string) Question { return by("GET", "libdnf (Rocky Linux 9)", "", File, url) }
	head := func(agent, accept, name string) Question { return by("HEAD", agent, accept, Image, name) }
	get := func(name string) Question { return by("GET", "containerd/2.1.0", accepts, Image, name) }
	for _, c := range []struct {
		q    Question
		want string
	}{
		// Names of hosts.
		{dns("www.nowhere.example", "A"), ""},
		{dns("registry.bank.example", "AAAA"), ""},
		{dns("mail.bank.example", "MX"), ""},
		{dns("0.debian.pool.ntp.org", "A"), ""},
		{dns("dc.bank.local", "A"), ""},
		{dns("payments.svc.bank.example", "A"), ""},
		{dns("node9.casemate.internal", "A"), ""},
		{dns("n1.io", "A"), ""},
		{dns("quay.io.svc.cluster.local", "A"), SearchList},
		{dns("QUAY.IO.svc.cluster.local.", "A"), SearchList},
		{dns("registry.k8s.io.default.svc.cluster.local", "AAAA"), SearchList},
		{dns("quay.io.lab.example", "A"), SearchList},
		{dns("git.bank.example.corp.example", "A"), SearchList},
		{dns("localhost.svc.k8s.example", "A"), SearchList},
		{dns("registry.casemate.internal.casemate.internal", "A"), SearchList},
		{dns("node1.default.svc.cluster.local", "A"), ClusterInternal},
		{dns("kubernetes.default.svc.cluster.local", "A"), ClusterInternal},
		{dns("nowhere.example.cluster.local", "A"), ClusterInternal},
		{dns("kubernetes.default.svc.k8s.lan", "A"), ClusterInternal},
		{dns("kubernetes.default.svc", "A"), ClusterInternal},
		{dns("10-0-0-1.default.pod.cluster.prod", "A"), ClusterInternal},
		{dns("node1", "A"), SingleLabel},
		{dns("node1.", "AAAA"), SingleLabel},
		{dns("n1", "A"), HostName},
		{dns("bastion1.lab.example", "A"), HostName},
		{dns("n1.local", "A"), HostName},
		{dns("n1.default.svc.cluster.local", "A"), HostName},
		{dns("node1.localdomain", "A"), SpecialUse},
		{dns("x.invalid", "A"), SpecialUse},
		{dns("nas.home.arpa", "A"), SpecialUse},
		{dns("1.0.0.10.in-addr.arpa", "PTR"), ReverseLookup},
		{dns("1.0.0.10.in-addr.arpa", "A"), ReverseLookup},
		{dns("1.0.ip6.arpa", "PTR"), ReverseLookup},
		{dns("db.bank.example", "PTR"), ReverseLookup},
		{dns("_http._tcp.deb.debian.org", "SRV"), ServiceDiscovery},
		{dns("_http._tcp.deb.debian.org", "A"), ServiceDiscovery},
		{dns("_ldap._tcp.dc._msdcs.bank.example", "SRV"), ServiceDiscovery},
		{dns("ldap.bank.example", "SRV"), ServiceDiscovery},
		{dns("wpad.bank.example", "A"), ServiceDiscovery},
		{dns("nowhere.example", "HTTPS"), RecordType},
		{dns("nowhere.example", "CAA"), RecordType},
		{dns("example", "NS"), RecordType},
		{dns("connectivity-check.ubuntu.com", "A"), Connectivity},
		{dns(`\000.`, "A"), ""},
		{dns("", "A"), ""},
		{Question{Kind: TLS, Name: "www.bank.example"}, ""},
		{Question{Kind: TLS, Name: "quay.io.lab.example"}, SearchList},
		{Question{Kind: TLS, Name: "node1"}, SingleLabel},
		{Question{Kind: Host, Name: "www.bank.example", Method: "HEAD"}, ""},
		{Question{Kind: Host, Name: "docker.io.svc.cluster.local"}, SearchList},
		{Question{Kind: Host, Name: "bastion1"}, HostName},
		{Question{Kind: Host, Name: "?"}, ""},

		// Images.
		{get("registry.k8s.io/pause:3.10"), ""},
		{get("registry.k8s.io/pause@sha256:" + hex), ""},
		{get("quay.io/a/b:sha256-1.2"), ""},
		{get("quay.io/a/sha256-" + hex + ".sig"), ""},
		{get("quay.io/a/b"), ""},
		{get("quay.io/a/b:sha256-" + hex), SignatureProbe},
		{get("quay.io/a/b:sha256-" + hex + ".sig"), SignatureProbe},
		{get("quay.io/a/b:sha256-" + hex + ".att"), SignatureProbe},
		{get("quay.io/a/b:sha256-" + hex + ".sbom"), SignatureProbe},
		{get("quay.io/a/b:sha512-" + hex + hex + ".sig"), SignatureProbe},
		{head("containerd/v1.7.27", "", "quay.io/a/b:1"), ""},
		{head("containerd/v1.7.11-k3s2", "", "quay.io/a/b@sha256:"+hex), ""},
		{head(`docker/27.1.1 go/go1.21 UpstreamClient(Docker-Client/27.1.1 \(linux\))`, "", "quay.io/a/b:1"), ""},
		{head("buildkit/v0.16", "", "quay.io/a/b:1"), ""},
		{head("Helm/3.18.4", "", "ghcr.io/charts/x:1"), ""},
		{head("Helm/3.22", accepts, "ghcr.io/charts/x@sha256:"+hex), HeadProbe},
		{head("oras-go", "", "ghcr.io/x:1"), ""},
		{head("oras/1.3.6", accepts, "ghcr.io/x:1"), HeadProbe},
		{head("something/1", accepts, "quay.io/a/b:1"), ""},
		{head("", accepts, "quay.io/a/b:1"), ""},
		{head("something/1", "*/*", "quay.io/a/b:1"), HeadProbe},
		{head("curl/8.5.0", "*/*", "quay.io/a/b:1"), HeadProbe},
		{head("crane/0.20 go-containerregistry/0.20", accepts, "quay.io/a/b:1"), HeadProbe},
		{head("cosign/v2.4.1 (linux; amd64) go-containerregistry/v0.20", accepts, "quay.io/a/b:1"), HeadProbe},
		{head("containers/5.34.0 (github.com/containers/image)", accepts, "quay.io/a/b:1"), HeadProbe},
		{head("Watchtower (Docker)", accepts, "quay.io/a/b:1"), HeadProbe},
		{by("GET", "cosign/v2.4.1", "", Image, "quay.io/a/b:1"), ""},
		{by("GET", "containerd/2.1.0", "", Blob, "quay.io/a/b@sha256:"+hex), ""},

		// Files.
		{file("https://dl.k8s.io/release/v1/bin/linux/amd64/kubeadm"), ""},
		{file("https://dl.k8s.io/release/stable-1.txt"), ""},
		{by("HEAD", "curl/8", "*/*", File, "https://dl.k8s.io/x"), HeadProbe},
		{file("https://dl.k8s.io/favicon.ico"), BrowserProbe},
		{file("/favicon.ico"), BrowserProbe},
		{file("https://dl.k8s.io/robots.txt"), BrowserProbe},
		{file("/robots.txt"), BrowserProbe},
		{file("https://dl.k8s.io/apple-touch-icon-120x120.png"), BrowserProbe},
		{file("https://dl.k8s.io/.well-known/security.txt"), BrowserProbe},
		{file("https://registry.terraform.io/.well-known/terraform.json"), ""},
		{file("https://github.com/x/y/raw/v1/robots.txt"), ""},
		{file("https://docker.io/v1/search?q=nginx"), RegistryProbe},
		{file("https://docker.io/v1/search"), RegistryProbe},
		{file("https://quay.io/v1/_ping"), RegistryProbe},
		{file("/v1/_ping"), RegistryProbe},
		{file("https://docker.io/v1/users/"), RegistryProbe},
		{file("https://docker.io/v1/repositories/library/nginx/images"), RegistryProbe},
		{file("https://dl.k8s.io/v1/images/x"), ""},
		{file("https://ghcr.io/index.yaml"), RegistryProbe},
		{file("https://ghcr.io/charts/index.yaml"), RegistryProbe},
		{file("https://helm.cilium.io/index.yaml"), ""},
		{file("https://github.com/x/z/info/refs?service=git-upload-pack"), ""},
		{file("https://github.com/x/z.git/HEAD"), ""},
		{file("https://github.com/x/z/info/refs"), GitProbe},
		{file("https://github.com/x/z/info/refs?service=git-receive-pack"), GitProbe},
		{file("https://github.com/x/z/objects/info/alternates"), GitProbe},
		{file("https://github.com/x/z/objects/info/http-alternates"), GitProbe},
		{file("https://github.com/x/y/objects/01/" + hex[:38]), GitProbe},
		{file("https://github.com/x/z/objects/01/" + hex[:38]), ""},
		{file("https://github.com/x/z/objects/info/packs"), ""},

		// Packages.
		{apt("https://new.example/dists/stable/InRelease"), ""},
		{apt("https://old.example/dists/stable/InRelease"), OtherForm},
		{apt("https://deb.example/dists/stable/Release"), OtherForm},
		{apt("https://deb.example/dists/stable/Release.gpg"), OtherForm},
		{apt("https://old.example/dists/stable/Release.gpg"), OtherForm},
		{apt("https://new.example/dists/stable/main/binary-amd64/Packages.xz"), ""},
		{apt("https://deb.example/dists/stable/main/binary-amd64/Packages.gz"), OtherForm},
		{apt("https://old.example/dists/stable/main/binary-amd64/Packages.xz"), OtherForm},
		{apt("https://flat.example/deb/Packages.xz"), OtherForm},
		{apt("https://new.example/dists/stable/main/binary-amd64/by-hash/SHA256/" + hex), OtherForm},
		{apt("https://new.example/dists/stable/main/i18n/Translation-en.xz"), OptionalIndex},
		{apt("https://new.example/dists/stable/main/i18n/by-hash/SHA256/" + hex), OptionalIndex},
		{apt("https://new.example/dists/stable/main/dep11/Components-amd64.yml.gz"), OptionalIndex},
		{apt("https://new.example/dists/stable/main/dep11/icons-64x64.tar.gz"), OptionalIndex},
		{apt("https://new.example/dists/stable/main/cnf/Commands-amd64"), OptionalIndex},
		{apt("https://new.example/dists/stable/main/Contents-amd64.gz"), OptionalIndex},
		{apt("https://new.example/dists/stable/main/binary-amd64/Packages.diff/Index"), OptionalIndex},
		{apt("https://flat.example/deb/Translation-en"), OptionalIndex},
		{apt("https://new.example/pool/main/c/curl/curl_8.deb"), ""},
		{dnf("https://rpm.example/repodata/repomd.xml"), ""},
		{dnf("https://rpm.example/repodata/repomd.xml.asc"), ""},
		{by("GET", "ZYpp 17.31", "", File, "https://rpm.example/repodata/repomd.xml.asc"), OptionalIndex},
		{by("GET", "ZYpp 17.31", "", File, "https://rpm.example/media.1/media"), OptionalIndex},
		{dnf("https://rpm.example/.treeinfo"), OptionalIndex},
		{dnf("https://rpm.example/images/updates.img"), OptionalIndex},
		{dnf("https://rpm.example/drpms/a-1_2.x86_64.drpm"), OtherForm},
		{dnf("https://rpm.example/Packages/a-1.x86_64.rpm"), ""},
		{file("https://files.example/a-1-py3-none-any.whl.metadata"), OtherForm},
		{file("https://files.example/b-1-py3-none-any.whl.metadata"), ""},
		{file("?"), ""},
		{file(""), ""},
	} {
		if got := Judge(c.q, site); got != c.want {
			t.Errorf("%+v:\ngot %q, want %q", c.q, got, c.want)
		}
		if c.want != "" && !slices.Contains(Reasons, c.want) {
			t.Errorf("%q is none of Reasons", c.want)
		}
	}
	for _, r := range rules {
		if !slices.Contains(Reasons, r.reason) {
			t.Errorf("%q is none of Reasons", r.reason)
		}
	}
}

// An operator who sees a reason finds it explained.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n### Noise\n")
	section, _, _ = strings.Cut(section, "\n### ")
	if n := strings.Count(section, "\n| `"); n != len(Reasons) {
		t.Errorf("%d reasons are explained, there are %d", n, len(Reasons))
	}
	for _, reason := range Reasons {
		if !strings.Contains(section, "\n| `"+reason+"` | ") {
			t.Errorf("docs/operations.md does not explain %q", reason)
		}
	}
}

// Some entries are noise because of others, in whatever order they came and on whichever node.
func TestOneEntryExplainsAnother(t *testing.T) {
	b := open(t, Config{Facts: site})
	t0 := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	asked := func(client netip.Addr, kind string, names ...string) {
		for i, name := range names {
			b.add(kind, name, "", client, t0.Add(time.Duration(i)*time.Second))
		}
	}
	asked(node1, DNS, "www.nowhere.example.lab.example", "www.nowhere.example", "node1.lab.example", "node1",
		"www.other.example.lab.example")
	asked(node2, DNS, "www.bank.example", "www.bank", "node2.site.example", "node2")
	asked(node1, File,
		"https://new.example/dists/stable/InRelease", "https://new.example/dists/stable/Release",
		"https://new.example/dists/stable/Release.gpg",
		"https://new.example/dists/stable/main/binary-amd64/Packages.xz",
		"https://new.example/dists/stable/main/binary-amd64/Packages.bz2",
		"https://new.example/dists/stable/main/binary-amd64/Packages", "https://flat.example/x/Packages",
		"https://other.example/Release")
	all, err := b.All()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range all {
		got[e.Name] = e.Noise
	}
	for name, want := range map[string]string{
		"www.nowhere.example": "", "www.nowhere.example.lab.example": SearchList, "node1": SingleLabel,
		// the end is one that this client adds
		"node1.lab.example": SearchList,
		// not queried without its suffix
		"www.other.example.lab.example":                                   "",
		"www.bank":                                                        "",
		"node2.site.example":                                              "", // no evidence that the suffix was added
		"https://new.example/dists/stable/InRelease":                      "",
		"https://new.example/dists/stable/Release":                        OtherForm,
		"https://new.example/dists/stable/Release.gpg":                    OtherForm,
		"https://new.example/dists/stable/main/binary-amd64/Packages.xz":  "",
		"https://new.example/dists/stable/main/binary-amd64/Packages.bz2": OtherForm,
		"https://new.example/dists/stable/main/binary-amd64/Packages":     OtherForm,
		"https://flat.example/x/Packages":                                 "",
		"https://other.example/Release":                                   "",
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s: got %q, want %q", name, have, want)
		}
	}
}

// The classifier takes whatever clients send.
func FuzzJudge(f *testing.F) {
	for _, kind := range Kinds {
		for _, name := range []string{
			"", ".", "..", "_", "quay.io.svc.cluster.local", "https://", "https://h", "https://h/?",
			"h://h/%zz/by-hash/x/y", "/", "//", "?",
			"x:sha256-", "@", ":", "/dists/", "https://h/dists/a/b/c", "https://h/.well-known/", "a/objects/00/0",
			"[::1]", "1.2.3.4",
		} {
			f.Add(kind, name, "A", "HEAD", "curl/8 (x;", accepts)
		}
	}
	f.Fuzz(func(t *testing.T, kind, name, detail, method, agent, accept string) {
		q := Question{Kind: kind, Name: name, Detail: detail, Method: method, Agent: agent, Accept: accept,
			Client: node1}
		reason := Judge(q, site)
		if reason != "" && !slices.Contains(Reasons, reason) {
			t.Errorf("%+v: %q is none of Reasons", q, reason)
		}
		if again := Judge(q, site); again != reason {
			t.Errorf("%+v: %q and then %q", q, reason, again)
		}
		b := open(t, Config{Facts: site, File: "/nonexistent/none"})
		b.note(q, time.Unix(0, 0))
		all, err := b.All()
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v: %v", all, err)
		}
		if cure := Cure(all[0], false, func(string) string { return "" }); all[0].Noise != "" && cure != "" {
			t.Errorf("%+v: noise is cured by %q", q, cure)
		}
		NoFile(all[0].Name)
	})
}
