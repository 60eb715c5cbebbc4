package doctor

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// checkOverrules looks for what on the node sends programs elsewhere than DNS and the trust store say: runtimes' own mirrors and CA files, proxies.
func (r *run) checkOverrules(_ context.Context, c *Check) {
	o := overrules{r: r, c: c, names: map[string]bool{}, nodes: map[string]bool{}}
	for _, n := range r.names() {
		o.names[n] = true
	}
	for _, n := range r.site.Nodes {
		o.nodes[r.site.Host(n)] = true
	}
	for _, own := range []string{"", "registry.", "files."} {
		o.nodes[own+r.site.Domain] = true
	}
	for _, d := range r.doors {
		o.nodes[d.addr.String()] = true
	}
	o.containerd()
	o.certsDirs()
	o.dockerDaemon()
	o.registriesConf()
	o.proxies()
	o.packages()
	c.Text = fmt.Sprintf("%d files of runtimes and proxies, none of which leads elsewhere", o.files)
	if len(c.Troubles) > 0 {
		c.Text = fmt.Sprintf("%d files of runtimes and proxies", o.files)
	}
}

type overrules struct {
	r     *run
	c     *Check
	names map[string]bool // that the bastions answer for
	nodes map[string]bool // that are the bastions'
	files int
}

// read counts what was there.
func (o *overrules) read(name string) (string, bool) {
	text, ok := o.r.read(name)
	if ok {
		o.files++
	}
	return text, ok
}

// elsewhere reports a URL or host[:port][/path] that leads to no bastion.
func (o *overrules) elsewhere(to string) bool {
	if !strings.Contains(to, "://") {
		to = "https://" + to
	}
	u, err := url.Parse(to)
	if err != nil {
		return true
	}
	host := strings.ToLower(u.Hostname())
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.Unmap().String()
	}
	return !o.names[host] && !o.nodes[host] && o.node(host)
}

// node reports a name that is no bastion's. Every kind of loopback is the node's own, a mirror on it (Spegel) asks the bastions itself.
func (o *overrules) node(host string) bool {
	a, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !a.IsLoopback())
}

// containerd reads hosts.toml for every name that the bastions answer for, and for all others (containerd's docs/hosts.md).
func (o *overrules) containerd() {
	for _, dir := range []string{"/etc/containerd/certs.d", "/var/lib/rancher/k3s/agent/etc/containerd/certs.d", "/var/lib/rancher/rke2/agent/etc/containerd/certs.d"} {
		for _, f := range o.r.glob(dir + "/*/hosts.toml") {
			host := path.Base(path.Dir(f))
			if host != "_default" && !o.names[bare(host)] {
				continue
			}
			names := host
			if host == "_default" {
				names = "every registry"
			}
			if text, ok := o.read(f); ok {
				o.hostsTOML(f, names, text)
			}
		}
	}
}

// bare takes a port off a directory's name, as certs.d has them.
func bare(dir string) string {
	host, _, _ := strings.Cut(strings.TrimSuffix(dir, "_"), ":")
	return strings.ToLower(host)
}

func (o *overrules) hostsTOML(file, names, text string) {
	sections, err := parseTOML(text)
	if err != nil {
		o.c.fail("mirror-unreadable", values{"file": file, "detail": err.Error()})
		return
	}
	v := func(detail string) values { return values{"file": file, "names": names, "detail": detail} }
	for _, s := range sections {
		to := s.get("server")
		if len(s.name) == 2 && s.name[0] == "host" {
			to = s.name[1]
		} else if len(s.name) > 0 {
			continue
		}
		if to != "" && o.elsewhere(to) {
			o.c.fail("mirror-elsewhere", v(to))
		} else if strings.HasPrefix(to, "http://") {
			o.c.warn("mirror-insecure", v(to))
		}
		if s.get("skip_verify") == "true" {
			o.c.warn("mirror-insecure", v("skip_verify"))
		}
		for _, ca := range s.values["ca"] {
			at := ca
			if !path.IsAbs(at) {
				at = path.Join(path.Dir(file), at)
			}
			if text, ok := o.r.read(at); !ok && !slices.Contains(o.r.report.Unseen, at) || ok && len(parseCerts([]byte(text))) == 0 {
				o.c.fail("mirror-ca", v(ca))
			}
		}
	}
}

// certsDirs reads the folders with certificates of Docker, and of podman and CRI-O: their roots are added to the system's, so only what cannot be read does harm.
func (o *overrules) certsDirs() {
	for _, dir := range []string{"/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/containerd/certs.d"} {
		for _, f := range append(o.r.glob(dir+"/*/*.crt"), o.r.glob(dir+"/*/*.cert")...) {
			host := path.Base(path.Dir(f))
			if !o.names[bare(host)] {
				continue
			}
			text, ok := o.read(f)
			if !ok {
				continue
			}
			bad := false
			if strings.HasSuffix(f, ".cert") {
				key := strings.TrimSuffix(f, ".cert") + ".key"
				_, has := o.r.read(key)
				bad = !has && !slices.Contains(o.r.report.Unseen, key)
			} else if block, _ := pem.Decode([]byte(text)); block == nil || len(parseCerts([]byte(text))) == 0 {
				bad = true
			}
			if bad {
				o.c.fail("mirror-ca", values{"file": path.Dir(f), "names": host, "detail": path.Base(f)})
			}
		}
	}
}

// dockerDaemon reads daemon.json: mirrors are for Docker Hub only.
func (o *overrules) dockerDaemon() {
	const file = "/etc/docker/daemon.json"
	text, ok := o.read(file)
	if !ok {
		return
	}
	var d struct {
		Mirrors  []string          `json:"registry-mirrors"`
		Insecure []string          `json:"insecure-registries"`
		Proxies  map[string]string `json:"proxies"`
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		o.c.fail("mirror-unreadable", values{"file": file, "detail": clip(err.Error())})
		return
	}
	for _, m := range d.Mirrors {
		if o.elsewhere(m) {
			o.c.warn("mirror-elsewhere", values{"file": file, "names": "docker.io", "detail": clip(m)}) // Docker goes on to the Hub's own name behind it
		}
	}
	for _, i := range d.Insecure {
		if o.names[bare(i)] {
			o.c.warn("mirror-insecure", values{"file": file, "names": i, "detail": "insecure-registries"})
		}
	}
	o.proxy(file, httpproxy.Config{HTTPProxy: d.Proxies["http-proxy"], HTTPSProxy: d.Proxies["https-proxy"], NoProxy: d.Proxies["no-proxy"]})
}

// registriesConf reads what podman and CRI-O read (containers-registries.conf(5)).
func (o *overrules) registriesConf() {
	for _, f := range append([]string{"/etc/containers/registries.conf"}, o.r.glob("/etc/containers/registries.conf.d/*.conf")...) {
		text, ok := o.read(f)
		if !ok {
			continue
		}
		sections, err := parseTOML(text)
		if err != nil {
			o.c.fail("mirror-unreadable", values{"file": f, "detail": err.Error()})
			continue
		}
		of := "" // the registry that mirrors belong to
		for _, s := range sections {
			mirror := slices.Equal(s.name, []string{"registry", "mirror"})
			if !mirror && !slices.Equal(s.name, []string{"registry"}) {
				continue
			}
			to := s.get("location")
			if !mirror {
				if of = s.get("prefix"); of == "" {
					of = to
				}
			}
			host, _, _ := strings.Cut(of, "/")
			if !o.names[bare(host)] {
				continue
			}
			v := func(detail string) values { return values{"file": f, "names": of, "detail": clip(detail)} }
			if to != "" && o.elsewhere(to) {
				if mirror {
					o.c.warn("mirror-elsewhere", v(to)) // the primary location is tried after it
				} else {
					o.c.fail("mirror-elsewhere", v(to))
				}
			}
			if s.get("insecure") == "true" {
				o.c.warn("mirror-insecure", v("insecure"))
			}
			if s.get("blocked") == "true" {
				o.c.fail("blocked", v(""))
			}
		}
	}
}

// units are the services that pull and download on a node.
var units = []string{"containerd", "docker", "crio", "cri-o", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "buildkit", "buildkitd"}

// proxies looks at every environment that programs on the node may have.
func (o *overrules) proxies() {
	o.proxy("the environment", environment(o.r.cfg.Env))
	if text, ok := o.read("/etc/environment"); ok {
		var env []string
		for line := range strings.Lines(text) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
			if k, v, ok := strings.Cut(line, "="); ok {
				env = append(env, k+"="+strings.Trim(v, `"'`))
			}
		}
		o.proxy("/etc/environment", environment(env))
	}
	for _, unit := range units {
		for _, dir := range []string{"/etc/systemd/system/", "/run/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"} {
			// One environment of all drop-ins together: one may set the proxy and another what is excepted.
			var env, files []string
			for _, f := range o.r.glob(dir + unit + ".service.d/*.conf") {
				text, ok := o.read(f)
				if !ok {
					continue
				}
				was := len(env)
				for _, v := range parseUnit(text, "Service", "Environment") {
					env = append(env, words(v)...)
				}
				if len(env) > was {
					files = append(files, filepath.Base(f))
				}
			}
			if len(files) > 0 {
				o.proxy(dir+unit+".service.d/"+files[0], environment(env))
			}
		}
	}
}

// aptProxy is a line that makes apt use a proxy (apt.conf(5), apt-transport-http(1)); with a host in it, it is for that host alone.
var aptProxy = regexp.MustCompile(`(?mi)^\s*Acquire::https?::proxy(?:::([a-z0-9.-]+))?\s+"([^"]*)"`)

// packages looks at the proxies of package managers.
func (o *overrules) packages() {
	tell := func(file, proxy, names string) {
		if proxy != "" && !strings.EqualFold(proxy, "DIRECT") && proxy != "_none_" && o.elsewhere(proxy) {
			if u, err := url.Parse(proxy); err == nil {
				proxy = u.Redacted()
			}
			o.c.warn("package-proxy", values{"file": file, "detail": clip(proxy), "names": names})
		}
	}
	for _, f := range append([]string{"/etc/apt/apt.conf"}, o.r.glob("/etc/apt/apt.conf.d/*")...) {
		text, _ := o.read(f)
		for _, m := range aptProxy.FindAllStringSubmatch(text, -1) {
			if host := strings.ToLower(m[1]); host == "" {
				tell(f, m[2], "every host")
			} else if o.names[host] {
				tell(f, m[2], host)
			}
		}
	}
	for _, f := range []string{"/etc/dnf/dnf.conf", "/etc/yum.conf"} {
		text, _ := o.read(f)
		for _, v := range parseUnit(text, "main", "proxy") {
			tell(f, v, "every host")
		}
	}
}

// environment is what the variables say about proxies; lower case wins (as in net/http).
func environment(env []string) (c httpproxy.Config) {
	get := map[string]string{}
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok {
			get[k] = v
		}
	}
	one := func(name string) string {
		if v := get[name]; v != "" {
			return v
		}
		return get[strings.ToLower(name)]
	}
	return httpproxy.Config{HTTPProxy: one("HTTP_PROXY"), HTTPSProxy: one("HTTPS_PROXY"), NoProxy: one("NO_PROXY")}
}

// proxy reports names that a configuration would send to a proxy that is no bastion.
func (o *overrules) proxy(file string, cfg httpproxy.Config) {
	if cfg.HTTPProxy == "" && cfg.HTTPSProxy == "" {
		return
	}
	through := cfg.ProxyFunc()
	var taken []string
	to := ""
	for _, n := range o.r.names() {
		if p, err := through(&url.URL{Scheme: "https", Host: n, Path: "/"}); err == nil && p != nil {
			taken, to = append(taken, n), p.Redacted()
		}
	}
	if taken != nil {
		o.c.fail("proxy", values{"file": file, "names": some(taken), "detail": clip(to)})
	}
}

// words splits the value of Environment= (systemd.exec(5)): blanks, quotes.
func words(s string) (list []string) {
	var b strings.Builder
	quote, in := rune(0), false
	for _, c := range s {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				list = append(list, b.String())
			}
			b.Reset()
			in = false
		default:
			b.WriteRune(c)
			in = true
		}
	}
	if in {
		list = append(list, b.String())
	}
	return list
}
