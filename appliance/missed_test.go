package appliance

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/missing"
	"casemate/appliance/setup"
	"casemate/appliance/status"
	"casemate/cluster/waittest"
)

// Probes, and names expanded by search lists, are not misses: they are not in the list, and are counted with their
// reason.
func TestNoiseIsNotMissing(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	const ubuntu = "https://archive.ubuntu.com/ubuntu/dists/noble/"
	n.must("PUT", "files?url="+ubuntu+"InRelease", "Suite: noble", nil)
	n.must("PUT", "names/git.bank.example/A", map[string]any{"values": []string{"10.0.0.7"}}, nil)
	hex := strings.Repeat("0123456789abcdef", 4)
	want := map[string]string{} // reasons by kind and name
	ask := func(method, url, agent, entry, reason string) {
		t.Helper()
		resp, _ := n.do(method, url, nil, func(r *http.Request) { r.Header.Set("User-Agent", agent) })
		if resp.StatusCode != 404 && resp.StatusCode != 421 {
			t.Errorf("%s %s: %s", method, url, resp.Status)
		}
		if entry != "" {
			want[entry] = reason
		}
	}
	ask("HEAD", "https://quay.io/v2/a/needed/manifests/1", "containerd/2.1.0", "image quay.io/a/needed:1", "")
	ask("GET", "https://quay.io/v2/a/needed/manifests/1", "containerd/2.1.0", "", "")
	ask("HEAD", "https://quay.io/v2/a/looked/manifests/1", "crane/0.20 go-containerregistry/0.20",
		"image quay.io/a/looked:1", missing.HeadProbe)
	ask("GET", "https://quay.io/v2/a/b/manifests/sha256-"+hex+".sig", "cosign/v2.4.1", "image quay.io/a/b:sha256-"+hex+
		".sig", missing.SignatureProbe)
	ask("GET", "https://quay.io/v2/a/b/manifests/sha256-"+hex, "cosign/v3.0.0", "image quay.io/a/b:sha256-"+hex,
		missing.SignatureProbe)
	ask("HEAD", "https://quay.io/v2/a/b/blobs/sha256:"+hex, "skopeo/1.18", "", "") // as a push begins: not even noise
	ask("GET", "https://docker.io/v1/search?q=nginx", "Docker-Client/27", "file https://docker.io/v1/search?q=nginx",
		missing.RegistryProbe)
	ask("GET", "https://index.docker.io/v1/_ping", "docker/20", "file https://docker.io/v1/_ping",
		missing.RegistryProbe)
	ask("GET", "https://ghcr.io/charts/index.yaml", "Helm/3.18.4", "file https://ghcr.io/charts/index.yaml",
		missing.RegistryProbe)
	ask("GET", "https://charts.jetstack.io/index.yaml", "Helm/3.18.4", "file https://charts.jetstack.io/index.yaml", "")
	ask("GET", "https://dl.k8s.io/release/v9.9.9/bin/linux/amd64/kubeadm", "ansible-httpget",
		"file https://dl.k8s.io/release/v9.9.9/bin/linux/amd64/kubeadm", "")
	ask("HEAD", "https://dl.k8s.io/release/v9.9.8/bin/linux/amd64/kubeadm", "curl/8.5.0",
		"file https://dl.k8s.io/release/v9.9.8/bin/linux/amd64/kubeadm", missing.HeadProbe)
	ask("GET", "https://dl.k8s.io/favicon.ico", "Mozilla/5.0", "file https://dl.k8s.io/favicon.ico",
		missing.BrowserProbe)
	ask("GET", "https://files.casemate.internal/robots.txt", "Mozilla/5.0", "file /robots.txt", missing.BrowserProbe)
	ask("GET", ubuntu+"Release.gpg", "Debian APT-HTTP/1.3", "file "+ubuntu+"Release.gpg", missing.OtherForm)
	ask("GET", ubuntu+"main/binary-amd64/by-hash/SHA256/"+hex, "Debian APT-HTTP/1.3", "file "+ubuntu+
		"main/binary-amd64/by-hash/SHA256/"+hex, missing.OtherForm)
	ask("GET", ubuntu+"main/i18n/Translation-en.xz", "Debian APT-HTTP/1.3", "file "+ubuntu+
		"main/i18n/Translation-en.xz", missing.OptionalIndex)
	ask("GET", ubuntu+"main/binary-amd64/Packages.xz", "Debian APT-HTTP/1.3", "file "+ubuntu+
		"main/binary-amd64/Packages.xz", "")
	ask("GET", ubuntu+"main/binary-amd64/Packages.gz", "Debian APT-HTTP/1.3", "file "+ubuntu+
		"main/binary-amd64/Packages.gz", missing.OtherForm)
	ask("GET", "https://github.com/x/y/objects/info/alternates", "git/2.43",
		"file https://github.com/x/y/objects/info/alternates", missing.GitProbe)
	for name, reason := range map[string]string{
		"www.nowhere.example": "", "quay.io.svc.cluster.local": missing.SearchList,
		"quay.io.lab.example":          missing.SearchList,
		"git.bank.example.lab.example": missing.SearchList, "node1.default.svc.cluster.local": missing.ClusterInternal,
		"node1": missing.SingleLabel, "node1.lab.example": missing.SearchList, "n1.lab.example": missing.HostName,
	} {
		n.resolves(name)
		want["dns "+name] = reason
	}
	n.resolver().LookupAddr(t.Context(), "10.0.0.99")
	want["dns 99.0.0.10.in-addr.arpa"] = missing.ReverseLookup
	n.resolver().LookupSRV(t.Context(), "http", "tcp", "deb.nowhere.example.")
	want["dns _http._tcp.deb.nowhere.example"] = missing.ServiceDiscovery

	list := func(query string) map[string]missing.Listed {
		t.Helper()
		var book []missing.Listed
		n.must("GET", "missing"+query, nil, &book)
		got := map[string]missing.Listed{}
		for i, e := range book {
			got[e.Kind+" "+e.Name] = e
			if i > 0 && e.Noise == "" && book[i-1].Noise != "" {
				t.Errorf("%s stands behind noise", e.Name)
			}
		}
		return got
	}
	var all map[string]missing.Listed
	waittest.Until(t, "DNS has told its misses", func() bool {
		all = list("?all=true")
		for entry := range want {
			if _, ok := all[entry]; !ok {
				return false
			}
		}
		return true
	})
	if len(all) != len(want) {
		t.Errorf("%d entries, want %d: %v", len(all), len(want), all)
	}
	needs := list("")
	for entry, reason := range want {
		if e := all[entry]; e.Noise != reason {
			t.Errorf("%s: got %q, want %q", entry, e.Noise, reason)
		}
		if e, listed := needs[entry]; listed != (reason == "") || listed && e.Cure == "" {
			t.Errorf("%s: listed: %v, want %v, cured by %q", entry, listed, reason == "", e.Cure)
		}
	}
	var st struct{ Misses []status.Miss }
	n.must("GET", "status", nil, &st)
	if len(st.Misses) != len(needs) {
		t.Errorf("status shows %+v", st.Misses)
	}
	_, metrics := n.do("GET", "https://n1.casemate.internal/metrics", nil)
	for _, line := range []string{
		`casemate_misses_noise_total{reason="signature probe"} 2`,
		`casemate_misses_noise_total{reason="reverse lookup"} 1`,
		`casemate_misses_noise_total{reason="connectivity check"} 0`, `casemate_misses_total{kind="image"} 2`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("/metrics has no %s", line)
		}
	}

	// One entry is forgotten, until it is asked for again.
	const typo = "https://dl.k8s.io/release/v9.9.9/bin/linux/amd64/kubeadm"
	n.must("DELETE", "missing/entries?name="+url.QueryEscape(typo), nil, nil)
	if _, still := list("?all=true")["file "+typo]; still {
		t.Error("what was forgotten is still there")
	}
	if status, says := n.admin("DELETE", "missing/entries?name=nothing", nil, nil); status != 404 ||
		!strings.Contains(says, "not in the missing book") {
		t.Errorf("got %d %s", status, says)
	}
	if status, says := n.admin("DELETE", "missing/entries", nil, nil); status != 400 ||
		!strings.Contains(says, "name is missing") {
		t.Errorf("got %d %s", status, says)
	}
	ask("GET", typo, "curl/8", "", "")
	if _, again := list("")["file "+typo]; !again {
		t.Error("what was asked for again is not there")
	}
}

// A user who reads with a password is one client, whatever the addresses of the requests. A password that was not
// verified identifies no user.
func TestAMissIsAUsers(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	miss := func(url, entry string) []string {
		t.Helper()
		n.do("GET", url, nil, func(r *http.Request) { r.SetBasicAuth("ada", "correct horse") })
		var book []missing.Listed
		n.must("GET", "missing", nil, &book)
		i := slices.IndexFunc(book, func(e missing.Listed) bool { return e.Name == entry })
		if i < 0 {
			t.Fatalf("the book has no entry %s: %+v", entry, book)
		}
		return book[i].Clients
	}
	const image = "https://registry.casemate.internal/v2/quay.io/a/b/manifests/"
	if c := miss(image+"1", "quay.io/a/b:1"); !slices.Equal(c, []string{"127.0.0.1"}) {
		t.Errorf("a password that nobody has looked at: %v", c)
	}
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	if c := miss(image+"2", "quay.io/a/b:2"); !slices.Equal(c, []string{"ada@127.0.0.1"}) {
		t.Errorf("a user: %v", c)
	}
	if c := miss("https://dl.k8s.io/x", "https://dl.k8s.io/x"); !slices.Equal(c, []string{"127.0.0.1"}) {
		t.Errorf("a file: %v", c)
	}
}
