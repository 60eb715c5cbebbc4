package nodeconf

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A ConfFile is one file that was generated.
type ConfFile struct {
	Path    string `json:"path"` // absolute on a node; relative in an inventory
	Content string `json:"content"`
}

// Conf is what was generated: files, and what to know about them, one sentence each.
type Conf struct {
	Files []ConfFile `json:"files"`
	Notes []string   `json:"notes"`
}

func (c *Conf) file(path, content string) { c.Files = append(c.Files, ConfFile{path, content}) }
func (c *Conf) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// runtimes are those that Mirrors knows.
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

// HostsFile holds the lines that /etc/hosts needs where no resolver knows the bastions.
const HostsFile = "/etc/hosts.casemate"

// mirrored is a site with the registries that are not mirrored.
type mirrored struct {
	*Site
	own []string // registries that nodes ask themselves, HOST or HOST:PORT, sorted
}

// registryHost is a registry as images' names have it.
var registryHost = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

// Mirrors writes a container runtime's mirror configuration for nodes whose DNS is left alone: every registry that the
// bastions answer for is asked for at the bastions, each by its own name, and nowhere else. So is every other registry,
// as far as the runtime has a catch-all: it then is a miss that the bastions know of, and nobody waits for the Internet.
// Excepted are the bastions' own names and own, the site's own registries (HOST or HOST:PORT). With the same site it
// writes the same bytes.
func Mirrors(s *Site, runtime string, own ...string) (*Conf, error) {
	i := slices.Index(Runtimes(), runtime)
	if i < 0 {
		return nil, fmt.Errorf("mirrors are written for %s, got %q", strings.Join(Runtimes(), ", "), runtime)
	}
	if err := s.sound(); err != nil {
		return nil, err
	}
	if len(s.Pulled()) == 0 {
		return nil, fmt.Errorf("no origin is a registry, so there is nothing to mirror: see casemate origin list")
	}
	m := &mirrored{Site: s}
	for _, host := range own {
		if host = strings.ToLower(host); len(host) > 260 || !registryHost.MatchString(host) {
			return nil, fmt.Errorf("an own registry is HOST or HOST:PORT, got %.80q", host)
		}
		if slices.Contains(s.Registries(), host) {
			return nil, fmt.Errorf("%s is an origin of the bastions, which are asked for it: "+
				"casemate origin remove %s if it is your own", host, host)
		}
		m.own = append(m.own, host)
	}
	slices.Sort(m.own)
	m.own = slices.Compact(m.own)
	c := &Conf{}
	runtimes[i].write(m, c)
	c.file(HostsFile, s.hosts())
	c.note("nodes must find the bastions' names: where no resolver knows %s, append %s to /etc/hosts; casemate enroll --no-resolver does that and the CA on a node",
		s.Domain, HostsFile)
	return c, nil
}

// hosts are the lines of /etc/hosts. The names that stand for all bastions are in each line: both the C library and Go
// give all addresses of such a name.
func (s *Site) hosts() string {
	var b strings.Builder
	b.WriteString("# The bastions: append these lines to /etc/hosts where no resolver knows them.\n")
	for _, n := range s.Nodes {
		for _, a := range n.Addrs {
			fmt.Fprintf(&b, "%s %s registry.%[3]s files.%[3]s %[3]s\n", a, s.Host(n), s.Domain)
		}
	}
	return b.String()
}

// Pulled are the registries' names that stand in images' names. Those that only ever are the target of a redirect or of
// a token request are left out, because the bastions send nobody there.
func (s *Site) Pulled() (list []string) {
	for _, name := range s.Registries() {
		label, _, _ := strings.Cut(name, ".")
		if label != "auth" && label != "pkg-containers" && !strings.HasPrefix(label, "cdn") {
			list = append(list, name)
		}
	}
	return list
}

// ca is the content of a file of root certificates; sound has read them before.
func (s *Site) ca() string {
	roots, _ := s.roots()
	return roots
}

// ourNames are the bastions' own names that images' names may have.
func (s *Site) ourNames() []string {
	list := []string{"registry." + s.Domain, s.Domain}
	for _, n := range s.Nodes {
		list = append(list, s.Host(n))
	}
	return list
}

// catchAll is the note of runtimes with a catch-all.
func (s *mirrored) catchAll(c *Conf, more string) {
	c.note("every registry that is not listed is asked for at the bastions too, where it is a miss: "+
		"name registries of your own with --own HOST%s", more)
}

const containerdDir = "/etc/containerd/certs.d"

// containerdMirrors writes a hosts.toml for each registry. containerd names the registry in ?ns=, so the bastions need
// no path. "server" comes last and is a bastion too: without it containerd would go to the Internet at the end, and
// wait there. _default is read for registries that have no directory.
func containerdMirrors(s *mirrored, c *Conf) {
	const ca = containerdDir + "/casemate-ca.crt"
	c.file(ca, s.ca())
	const host = "capabilities = [\"pull\", \"resolve\"]\nca = \"" + ca + "\"\ndial_timeout = \"2s\"\n"
	var b strings.Builder
	fmt.Fprintf(&b, "server = \"https://%s\"\n%s", s.Host(s.Nodes[len(s.Nodes)-1]), host)
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "\n[host.\"https://%s\"]\n  %s", s.Host(n), strings.ReplaceAll(strings.TrimSuffix(host, "\n"), "\n", "\n  ")+"\n")
	}
	for _, name := range s.Pulled() {
		c.file(containerdDir+"/"+name+"/hosts.toml", "# Images of "+name+" come from the bastions and from nowhere else; the first that answers is taken.\n"+b.String())
	}
	c.file(containerdDir+"/_default/hosts.toml", "# Images of all other registries come from the bastions and from nowhere else: "+
		"what they do not have is in casemate missing.\n"+b.String())
	for _, name := range s.ourNames() {
		c.file(containerdDir+"/"+name+"/hosts.toml",
			fmt.Sprintf("# The bastions' own name.\nserver = \"https://%s\"\nca = \"%s\"\n", name, ca))
	}
	for _, name := range s.own {
		c.file(containerdDir+"/"+name+"/hosts.toml", fmt.Sprintf("# A registry of the site's own.\nserver = \"https://%s\"\n", name))
	}
	s.catchAll(c, "; one that has a directory of its own there is left alone")
	c.note(`containerd's config.toml needs config_path = "%s" under [plugins."io.containerd.cri.v1.images".registry] (containerd 2) `+
		`or [plugins."io.containerd.grpc.v1.cri".registry] (1.x) and a restart if that is new; changes below the directory need none`, containerdDir)
	c.note("containerd 1.x knows no dial_timeout: there a bastion whose host is down, not only its daemon, costs 30 s for each request")
}

// dockerMirrors can only do Docker Hub: dockerd has mirrors for nothing else, and takes none with a path, so the Hub's
// names reach the bastions flat.
func dockerMirrors(s *mirrored, c *Conf) {
	var mirrors []string
	for _, n := range s.Nodes {
		mirrors = append(mirrors, "https://"+s.Host(n))
		c.file("/etc/docker/certs.d/"+s.Host(n)+"/ca.crt", s.ca())
	}
	daemon, _ := json.MarshalIndent(map[string][]string{"registry-mirrors": mirrors}, "", "  ") // strings alone cannot fail
	c.file("/etc/docker/daemon.json", string(daemon)+"\n")
	c.note("docker knows mirrors for Docker Hub only: images of every other registry (%s) need DNS, so run casemate enroll on nodes with docker, or pull from registry.%s/REGISTRY/IMAGE",
		strings.Join(s.without("docker.io"), ", "), s.Domain)
	c.note("docker has no catch-all: " +
		"a registry that is not listed is looked for in the Internet, and no bastion hears of it")
	c.note("where no mirror has an image docker asks registry-1.docker.io at last, which cannot be turned off: that error is about the network, the reason is in casemate missing")
	c.note("merge daemon.json with the one that is there, and reload or restart docker")
}

// without are the pulled names that are not the origin's.
func (s *Site) without(host string) []string {
	return slices.DeleteFunc(s.Pulled(), func(name string) bool {
		return slices.ContainsFunc(s.Origins, func(o Origin) bool { return o.Host == host && (name == host || slices.Contains(o.Aliases, name)) })
	})
}

const containersDir = "/etc/containers"

// Unlisted is the registry as which images of unlisted ones are asked for where a runtime cannot say which it was. No
// host can have this name (RFC 2606, section 2).
const Unlisted = "unlisted.invalid"

// publicDomains are those below which public registries are, as far as anybody pulls from them.
var publicDomains = []string{
	"ai", "app", "at", "aws", "be", "biz", "br", "build", "ca", "cc", "ch", "cloud", "cn", "co", "com", "cz",
	"de", "dev", "dk", "es", "eu", "fi", "fr", "gov", "id", "in", "info", "io", "is", "it", "jp", "kr", "land",
	"me", "net", "nl", "no", "org", "pl", "pt", "run", "ru", "se", "sh", "tech", "tools", "tv", "tw", "uk", "us",
	"works", "xyz", "zone",
}

func podmanMirrors(s *mirrored, c *Conf) {
	containersMirrors(s, c)
	c.note("podman, skopeo and buildah read it at the next command")
}

func crioMirrors(s *mirrored, c *Conf) {
	containersMirrors(s, c)
	c.note("systemctl reload crio reads it")
}

// containersMirrors writes registries.conf.d of containers/image, which sends no ns and rewrites paths instead. The
// location is what comes last, after the mirrors; that it is a bastion too keeps the Internet out. "blocked" would not
// do: it forbids the image altogether, mirrors or not.
//
// There is no catch-all, but a wildcard for what is below a domain, of which the longest that matches is taken. It
// replaces the registry's name and cannot pass it on, so all of it lands below one name that no origin can have.
func containersMirrors(s *mirrored, c *Conf) {
	for _, name := range s.ourNames() {
		c.file(containersDir+"/certs.d/"+name+"/ca.crt", s.ca())
	}
	last := len(s.Nodes) - 1
	var b strings.Builder
	b.WriteString("# Images of these registries come from the bastions and from nowhere else: the mirrors in their order, then the location.\n")
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
	b.WriteString("\n# All other registries below the domains that public ones have: " +
		"a miss at the bastions, not a wait for the Internet.\n")
	for _, domain := range publicDomains {
		registry("*."+domain, Unlisted)
	}
	c.file(containersDir+"/registries.conf.d/50-casemate.conf", b.String())
	s.catchAll(c, "; this is so for names below "+strings.Join(publicDomains, ", ")+
		", and the missing book shows them as "+Unlisted+"/…")
	c.note("a short name (podman pull nginx) needs unqualified-search-registries or an alias as before: only names with a registry are mirrored")
}

// rancherMirrors writes registries.yaml, which k3s and RKE2 turn into containerd's hosts.toml at their start. They
// append the registry itself as the last place to ask, unless they are told not to.
func rancherMirrors(s *mirrored, c *Conf, name, services string) {
	dir := "/etc/rancher/" + name
	ca := dir + "/casemate-ca.crt"
	c.file(ca, s.ca())
	var b strings.Builder
	b.WriteString("# Images of these registries come from the bastions, in this order.\nmirrors:\n")
	for _, r := range append(s.Pulled(), "*") { // * is for all that are not listed
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
	c.file(config, "# Without it the registry itself is asked last, in the Internet (since v1.26.13 and v1.29.1; older versions skip it).\ndisable-default-registry-endpoint: true\n")
	s.catchAll(c, "")
	c.note("registries.yaml needs disable-default-registry-endpoint: true, which %s sets; put both there before the first start, or restart %s", config, services)
}
