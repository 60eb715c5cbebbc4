package nodeconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// A ConfFile is one generated configuration file.
type ConfFile struct {
	Path    string `json:"path"` // absolute on a node; relative in an inventory
	Content string `json:"content"`
}

// Conf is generated configuration: files, and notes about them, one sentence each.
type Conf struct {
	Files []ConfFile `json:"files"`
	Notes []string   `json:"notes"`
}

func (c *Conf) file(path, content string) { c.Files = append(c.Files, ConfFile{path, content}) }
func (c *Conf) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// runtimes are the runtimes that Mirrors supports.
var runtimes = []struct {
	name  string
	write func(*mirrored, *Conf)
}{
	{"containerd", containerdMirrors},
	{"docker", dockerMirrors},
	{"podman", podmanMirrors},
	{"crio", crioMirrors},
	{"k3s", func(s *mirrored, c *Conf) { rancherMirrors(s, c, "k3s", "k3s or k3s-agent") }},
	{"rke2", func(s *mirrored, c *Conf) { rancherMirrors(s, c, "rke2", "rke2-server or rke2-agent") }},
}

// Runtimes are the container runtimes that Mirrors writes for.
func Runtimes() (names []string) {
	for _, r := range runtimes {
		names = append(names, r.name)
	}
	return names
}

// HostsFile has the lines that /etc/hosts needs if no resolver knows the bastions.
const HostsFile = "/etc/hosts.casemate"

// mirrored is a site and the registries that are not to be mirrored.
type mirrored struct {
	*Site
	own []string // registries that nodes reach themselves, HOST or HOST:PORT, sorted
}

// registryHost matches a registry in an image name; an IPv6 address is in brackets.
var registryHost = regexp.MustCompile(`^(\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:[0-9]{1,5})?$`)

// ownRegistry returns a registry as it is in image names, in lower case. An IPv6 address may be given without brackets.
func ownRegistry(host string) (string, error) {
	host = strings.ToLower(host)
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	ok := len(host) <= 260 && registryHost.MatchString(host)
	if inside, _, found := strings.Cut(strings.TrimPrefix(host, "["), "]"); found && ok {
		a, err := netip.ParseAddr(inside)
		ok = err == nil && a.Is6()
	}
	if !ok {
		return "", fmt.Errorf("an own registry must be HOST or HOST:PORT, got %.80q", host)
	}
	return host, nil
}

// Mirrors writes a container runtime's mirror configuration for nodes that keep their resolver. Every registry that
// the bastions serve is requested only from the bastions, from each by its own name. Where the runtime has a
// catch-all, so is every other registry: the request then is a miss that the bastions record, and no client waits for
// the Internet. Exceptions are the bastions' own names and own, the site's own registries (HOST or HOST:PORT). The
// same site gives the same bytes.
func Mirrors(s *Site, runtime string, own ...string) (*Conf, error) {
	i := slices.Index(Runtimes(), runtime)
	if i < 0 {
		return nil, fmt.Errorf("mirrors are written for %s, got %q", strings.Join(Runtimes(), ", "), runtime)
	}
	if err := s.sound(); err != nil {
		return nil, err
	}
	if len(s.Pulled()) == 0 {
		return nil, fmt.Errorf("no origin is a registry, so there is nothing to mirror (see casemate origin list)")
	}
	m := &mirrored{Site: s}
	for _, host := range own {
		host, err := ownRegistry(host)
		if err != nil {
			return nil, err
		}
		if slices.Contains(s.Registries(), host) {
			return nil, fmt.Errorf("%s is an origin that the bastions serve: "+
				"casemate origin remove %s if it is your own registry", host, host)
		}
		m.own = append(m.own, host)
	}
	slices.Sort(m.own)
	m.own = slices.Compact(m.own)
	c := &Conf{}
	runtimes[i].write(m, c)
	c.file(HostsFile, s.hosts())
	c.note("nodes must resolve the bastions' names: if no resolver knows %s, append %s to /etc/hosts; the line of "+
		"casemate enroll does that and adds the CA, with --no-resolver at its end", s.Domain, HostsFile)
	return c, nil
}

// hosts returns the lines of /etc/hosts. The names shared by all bastions are in each line: both the C library and Go
// return all addresses of such a name.
func (s *Site) hosts() string {
	var b strings.Builder
	b.WriteString("# The bastions: append these lines to /etc/hosts if no resolver knows them.\n")
	for _, n := range s.Nodes {
		for _, a := range n.Addrs {
			fmt.Fprintf(&b, "%s %s registry.%[3]s files.%[3]s %[3]s\n", a, s.Host(n), s.Domain)
		}
	}
	return b.String()
}

// Pulled returns the registry names that occur in image names. Names that are only targets of redirects or of token
// requests are left out, because the bastions never redirect to them.
func (s *Site) Pulled() (list []string) {
	for _, name := range s.Registries() {
		label, _, _ := strings.Cut(name, ".")
		if label != "auth" && label != "pkg-containers" && !strings.HasPrefix(label, "cdn") {
			list = append(list, name)
		}
	}
	return list
}

// ca returns the content of a file of root certificates; sound has parsed them before.
func (s *Site) ca() string {
	roots, _ := s.roots()
	return roots
}

// ourNames returns the bastions' own names that may occur in image names.
func (s *Site) ourNames() []string {
	list := []string{"registry." + s.Domain, s.Domain}
	for _, n := range s.Nodes {
		list = append(list, s.Host(n))
	}
	return list
}

// catchAll adds the note for runtimes with a catch-all.
func (s *mirrored) catchAll(c *Conf, more string) {
	c.note("images of every registry that is not listed are requested from the bastions too, where they are misses: "+
		"give your own registries with --own HOST%s", more)
}

const containerdDir = "/etc/containerd/certs.d"

// containerdMirrors writes a hosts.toml for each registry. containerd sends the registry in ?ns=, so the bastions
// need no path. "server" is tried last and is a bastion too: without it containerd would try the Internet last, and
// wait. _default is read for registries without a directory.
func containerdMirrors(s *mirrored, c *Conf) {
	const ca = containerdDir + "/casemate-ca.crt"
	c.file(ca, s.ca())
	const host = "capabilities = [\"pull\", \"resolve\"]\nca = \"" + ca + "\"\ndial_timeout = \"2s\"\n"
	var b strings.Builder
	fmt.Fprintf(&b, "server = \"https://%s\"\n%s", s.Host(s.Nodes[len(s.Nodes)-1]), host)
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "\n[host.\"https://%s\"]\n  %s", s.Host(n), strings.ReplaceAll(strings.TrimSuffix(host, "\n"),
			"\n", "\n  ")+"\n")
	}
	for _, name := range s.Pulled() {
		c.file(containerdDir+"/"+name+"/hosts.toml", "# Images of "+name+" come only from the bastions; the first "+
			"that answers is used.\n"+b.String())
	}
	c.file(containerdDir+"/_default/hosts.toml", "# Images of all other registries come only from the bastions too: "+
		"casemate missing lists what they do not have.\n"+b.String())
	for _, name := range s.ourNames() {
		c.file(containerdDir+"/"+name+"/hosts.toml",
			fmt.Sprintf("# The bastions' own name.\nserver = \"https://%s\"\nca = \"%s\"\n", name, ca))
	}
	for _, name := range s.own {
		c.file(containerdDir+"/"+name+"/hosts.toml",
			fmt.Sprintf("# A registry of the site's own.\nserver = \"https://%s\"\n", name))
	}
	s.catchAll(c, "; a registry with its own directory there is not affected")
	c.note(
		`containerd's config.toml needs config_path = "%s" under [plugins."io.containerd.cri.v1.images".registry] (containerd 2) `+
			`or [plugins."io.containerd.grpc.v1.cri".registry] (1.x) and a restart if that is new; changes below the directory need none`, containerdDir)
	c.note("containerd 1.x does not support dial_timeout: a bastion whose host is down, not only its daemon, delays " +
		"each request by 30 s")
}

// dockerMirrors covers Docker Hub only: dockerd has mirrors for no other registry and accepts none with a path, so
// Docker Hub's names reach the bastions flat.
func dockerMirrors(s *mirrored, c *Conf) {
	var mirrors []string
	for _, n := range s.Nodes {
		mirrors = append(mirrors, "https://"+s.Host(n))
		c.file("/etc/docker/certs.d/"+s.Host(n)+"/ca.crt", s.ca())
	}
	// cannot fail for strings
	daemon, _ := json.MarshalIndent(map[string][]string{"registry-mirrors": mirrors}, "", "  ")
	c.file("/etc/docker/daemon.json", string(daemon)+"\n")
	c.note("docker supports mirrors for Docker Hub only: images of every other registry (%s) need DNS, so run "+
		"casemate enroll on nodes with docker, or pull from registry.%s/REGISTRY/IMAGE",
		strings.Join(s.without("docker.io"), ", "), s.Domain)
	c.note("docker has no catch-all: " +
		"images of a registry that is not listed are requested from the Internet, and the bastions do not record the " +
		"miss")
	c.note("if no mirror has an image, docker tries registry-1.docker.io last, which cannot be turned off: its error " +
		"is then about the network; casemate missing has the cause")
	c.note("merge daemon.json with the existing file, and reload or restart docker")
}

// without returns the pulled names that do not belong to the origin.
func (s *Site) without(host string) []string {
	return slices.DeleteFunc(s.Pulled(), func(name string) bool {
		return slices.ContainsFunc(s.Origins, func(o Origin) bool {
			return o.Host == host && (name == host || slices.Contains(o.Aliases, name))
		})
	})
}

const containersDir = "/etc/containers"

// Unlisted is the registry under which images of unlisted registries are requested if a runtime cannot pass the
// registry's name on. No host can have this name (RFC 2606, section 2).
const Unlisted = "unlisted.invalid"

// publicDomains are the top-level domains under which public registries are found: those of general use, and those of
// the countries and organisations whose registries people pull from.
var publicDomains = []string{
	"academy", "ae", "ai", "app", "ar", "at", "au", "aws", "be", "bg", "bio", "biz", "br", "build", "ca", "cc",
	"ch", "cl", "cloud", "cn", "co", "com", "cx", "cy", "cz", "de", "dev", "digital", "dk", "edu", "ee", "es", "eu",
	"fi", "fm", "fr", "fyi", "gg", "gov", "gr", "hk", "hr", "hu", "id", "ie", "il", "im", "in", "info", "int", "io",
	"is", "it", "jp", "kr", "land", "li", "lt", "lu", "lv", "me", "mil", "mt", "mx", "my", "net", "nl", "no", "nu",
	"nz", "one", "online", "org", "page", "ph", "pl", "pro", "pt", "ro", "rs", "ru", "run", "sa", "science", "se",
	"services", "sg", "sh", "si", "sk", "so", "software", "solutions", "space", "systems", "team", "tech", "th",
	"to", "tools", "tr", "tv", "tw", "ua", "uk", "uno", "us", "vc", "vn", "works", "ws", "xyz", "za", "zone",
}

func podmanMirrors(s *mirrored, c *Conf) {
	containersMirrors(s, c)
	c.note("podman, skopeo and buildah read the file at the next command")
}

func crioMirrors(s *mirrored, c *Conf) {
	containersMirrors(s, c)
	c.note("after a change: systemctl reload crio")
}

// containersMirrors writes registries.conf.d of containers/image, which sends no ns and rewrites paths instead. The
// location is tried last, after the mirrors; it is a bastion too, so that the Internet is never tried. "blocked"
// would not work: it forbids the image altogether, mirrors or not.
//
// There is no catch-all, but there are wildcards for subdomains, of which the longest match applies. A wildcard
// replaces the registry's name and cannot pass it on, so all these images are requested below one name that no origin
// can have.
func containersMirrors(s *mirrored, c *Conf) {
	for _, name := range s.ourNames() {
		c.file(containersDir+"/certs.d/"+name+"/ca.crt", s.ca())
	}
	last := len(s.Nodes) - 1
	var b strings.Builder
	b.WriteString("# Images of these registries come only from the bastions: first from the mirrors, in order, then " +
		"from the location.\n")
	registry := func(prefix, path string) {
		fmt.Fprintf(&b, "\n[[registry]]\nprefix = \"%s\"\nlocation = \"%s/%s\"\n", prefix, s.Host(s.Nodes[last]), path)
		for _, n := range s.Nodes[:last] {
			fmt.Fprintf(&b, "[[registry.mirror]]\nlocation = \"%s/%s\"\n", s.Host(n), path)
		}
	}
	for _, name := range s.Pulled() {
		registry(name, name)
	}
	b.WriteString("\n# The bastions' own names, and the site's own registries.\n")
	for _, name := range slices.Concat(s.ourNames(), s.own) {
		fmt.Fprintf(&b, "\n[[registry]]\nprefix = \"%[1]s\"\nlocation = \"%[1]s\"\n", name)
	}
	b.WriteString("\n# All other registries below the public top-level domains: " +
		"a miss at the bastions, not a wait for the Internet.\n")
	for _, domain := range publicDomains {
		registry("*."+domain, Unlisted)
	}
	c.file(containersDir+"/registries.conf.d/50-casemate.conf", b.String())
	s.catchAll(c, fmt.Sprintf("; this applies to names below the %d top-level domains at the end of the file, which "+
		"the missing book lists as %s/…", len(publicDomains), Unlisted))
	c.note("a short name (podman pull nginx) still needs unqualified-search-registries or an alias: only names with " +
		"a registry are mirrored")
}

// rancherMirrors writes registries.yaml, from which k3s and RKE2 generate containerd's hosts.toml at startup. They
// append the registry itself as the last server, unless configured not to.
func rancherMirrors(s *mirrored, c *Conf, name, services string) {
	dir := "/etc/rancher/" + name
	ca := dir + "/casemate-ca.crt"
	c.file(ca, s.ca())
	var b strings.Builder
	b.WriteString("# Images of these registries come from the bastions, in this order.\nmirrors:\n")
	for _, r := range append(s.Pulled(), "*") { // * matches all registries that are not listed
		fmt.Fprintf(&b, "  \"%s\":\n    endpoint:\n", r)
		for _, n := range s.Nodes {
			fmt.Fprintf(&b, "      - \"https://%s\"\n", s.Host(n))
		}
	}
	for _, r := range slices.Concat(s.ourNames(), s.own) {
		fmt.Fprintf(&b, "  \"%[1]s\":\n    endpoint:\n      - \"https://%[1]s\"\n", r)
	}
	b.WriteString("configs:\n")
	for _, name := range s.ourNames() {
		fmt.Fprintf(&b, "  \"%s\":\n    tls:\n      ca_file: \"%s\"\n", name, ca)
	}
	c.file(dir+"/registries.yaml", b.String())
	config := dir + "/config.yaml.d/50-casemate.yaml"
	c.file(config, "# Without it the registry itself is tried last, on the Internet (since v1.26.13 and v1.29.1; "+
		"older versions ignore this setting).\ndisable-default-registry-endpoint: true\n")
	s.catchAll(c, "")
	c.note("registries.yaml needs disable-default-registry-endpoint: true, which %s sets; create both before the "+
		"first start, or restart %s", config, services)
}
