package doctor

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"casemate/appliance/nodeconf"
)

// checkOverrules checks for configuration that takes precedence over DNS and the trust store: mirrors and CA files of
// runtimes, and proxies.
func (r *run) checkOverrules(_ context.Context, c *Check) {
	o := overrules{r: r, c: c, names: map[string]bool{}, nodes: map[string]bool{}, mirrored: map[string][]string{}}
	for _, n := range r.names() {
		o.names[n] = true
	}
	for _, n := range r.own() {
		o.nodes[n] = true
	}
	for _, d := range r.endpoints {
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
	c.Text = fmt.Sprintf("%d files of runtimes and proxies, all of which use the bastions", o.files)
	if len(c.Troubles) > 0 {
		c.Text = fmt.Sprintf("%d files of runtimes and proxies", o.files)
	}
}

type overrules struct {
	r     *run
	c     *Check
	names map[string]bool // names that the bastions answer for
	nodes map[string]bool // the bastions' own names and addresses
	files int

	mirrored map[string][]string // by place: the registries with a mirror there
}

// covers reports whether a pattern of a runtime's configuration matches a name: all names, all below a domain, or one
// name, with or without a port.
func covers(pattern, name string) bool {
	below, wild := strings.CutPrefix(pattern, "*.")
	return pattern == "_default" || pattern == "*" || wild && strings.HasSuffix(name, "."+below) ||
		bare(pattern) == name
}

// concerns reports whether a pattern matches a name that the bastions answer for.
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

// certsPort is a port at the end of a directory's name below containerd's certs.d.
var certsPort = regexp.MustCompile(`_[0-9]{1,5}_$`)

// bare removes a port from a directory's name, as certs.d has them, a path from a prefix, and the brackets of an IPv6
// address.
func bare(pattern string) string {
	host, _, _ := strings.Cut(certsPort.ReplaceAllString(pattern, ""), "/")
	host = strings.TrimSuffix(host, "_")
	if rest, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(rest, "]")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(host)
}

// read reads a file and counts the files that exist.
func (o *overrules) read(name string) (string, bool) {
	text, ok := o.r.read(name)
	if ok {
		o.files++
	}
	return text, ok
}

// elsewhere reports a URL or host[:port][/path] that is not at a bastion.
func (o *overrules) elsewhere(to string) bool {
	if a, err := netip.ParseAddr(to); err == nil {
		to = nodeconf.URLHost(a)
	}
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
	// An origin's name resolves to a bastion only on nodes that use the bastions as resolvers.
	return !(o.names[host] && !o.r.mirror) && !o.nodes[host] && !loopback(host)
}

// loopback reports the node's own addresses: a mirror on the node (Spegel) asks the bastions itself.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// certsDirs checks the certificate directories of Docker, podman and CRI-O: their roots are added to the system's, so
// only an unreadable file does harm.
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

// dockerDaemon checks daemon.json, whose mirrors apply to Docker Hub only.
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
			// Docker falls back to Docker Hub's own name
			o.c.warn("mirror-elsewhere", values{"file": file, "names": "docker.io", "detail": clip(m)})
		}
	}
	for _, i := range d.Insecure {
		if o.concerns(i) {
			o.c.warn("mirror-insecure", values{"file": file, "names": i, "detail": "insecure-registries"})
		}
	}
	o.proxy(file, httpproxy.Config{HTTPProxy: d.Proxies["http-proxy"], HTTPSProxy: d.Proxies["https-proxy"],
		NoProxy: d.Proxies["no-proxy"]})
}
