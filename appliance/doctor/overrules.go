package doctor

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// checkOverrules looks for what on the node sends programs elsewhere than DNS and the trust store say: runtimes' own
// mirrors and CA files, proxies.
func (r *run) checkOverrules(_ context.Context, c *Check) {
	o := overrules{r: r, c: c, names: map[string]bool{}, nodes: map[string]bool{}, mirrored: map[string][]string{}}
	for _, n := range r.names() {
		o.names[n] = true
	}
	for _, n := range r.own() {
		o.nodes[n] = true
	}
	for _, d := range r.doors {
		o.nodes[d.addr.String()] = true
	}
	o.containerd()
	o.certsDirs()
	o.dockerDaemon()
	o.registriesConf()
	o.rancher()
	o.unmirrored()
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

	mirrored map[string][]string // by place: the registries for which bastions are named there
}

// covers says whether a pattern of a runtime's configuration stands for a name: all, all below a domain, or one that
// may have a port.
func covers(pattern, name string) bool {
	below, wild := strings.CutPrefix(pattern, "*.")
	return pattern == "_default" || pattern == "*" || wild && strings.HasSuffix(name, "."+below) || bare(pattern) == name
}

// concerns reports a pattern that stands for something that the bastions answer for.
func (o *overrules) concerns(pattern string) bool {
	if host := bare(pattern); o.names[host] || o.nodes[host] {
		return true
	}
	if !strings.HasPrefix(pattern, "*") && pattern != "_default" {
		return false
	}
	for _, names := range []map[string]bool{o.names, o.nodes} {
		for n := range names {
			if covers(pattern, n) {
				return true
			}
		}
	}
	return false
}

// bare takes a port off a directory's name, as certs.d has them, and a path off a prefix.
func bare(pattern string) string {
	host, _, _ := strings.Cut(strings.TrimSuffix(pattern, "_"), "/")
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(host)
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
	// An origin is at a bastion only for those who ask the bastions for names.
	return !(o.names[host] && !o.r.mirror) && !o.nodes[host] && !loopback(host)
}

// loopback is the node's own: a mirror on it (Spegel) asks the bastions itself.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// certsDirs reads the folders with certificates of Docker, and of podman and CRI-O: their roots are added to the
// system's, so only what cannot be read does harm.
func (o *overrules) certsDirs() {
	for _, dir := range []string{"/etc/docker/certs.d", "/etc/containers/certs.d", "/etc/containerd/certs.d"} {
		for _, f := range append(o.r.glob(dir+"/*/*.crt"), o.r.glob(dir+"/*/*.cert")...) {
			host := path.Base(path.Dir(f))
			if !o.concerns(host) {
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
		if o.concerns(i) {
			o.c.warn("mirror-insecure", values{"file": file, "names": i, "detail": "insecure-registries"})
		}
	}
	o.proxy(file, httpproxy.Config{HTTPProxy: d.Proxies["http-proxy"], HTTPSProxy: d.Proxies["https-proxy"], NoProxy: d.Proxies["no-proxy"]})
}
