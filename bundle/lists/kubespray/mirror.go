package kubespray

import (
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"

	"casemate/bundle/lists"
)

// defaultDomain is the domain of bastions that were set up without one.
const defaultDomain = "casemate.internal"

// mirrorNames recognises the bastions' own names, which the variables of "kubespray vars --mode mirror" use, and maps
// them to upstream names: files.DOMAIN/HOST/PATH and registry.DOMAIN/HOST/REPOSITORY.
type mirrorNames struct {
	domains []string
	// guess: the domain is not known. Then a name belongs to the bastions if it has their form and HOST is one that the
	// checkout itself uses.
	guess bool
	// upstream are the hosts that the checkout uses by default, with the scheme of files there.
	upstream map[string]string
	// met are the own names that were replaced.
	met map[string]bool
}

var hostName = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}$`)

// below removes the bastions' own name from "HOST/PATH", where kind is "files" or "registry". own reports whether HOST
// is theirs, sure whether this is known by more than its form.
func (b *mirrorNames) below(kind, name string) (path string, own, sure bool) {
	at, path, _ := strings.Cut(name, "/")
	host := at
	if h, _, err := net.SplitHostPort(at); err == nil {
		host = h
	}
	domain, labelled := strings.CutPrefix(host, kind+".")
	switch {
	case labelled && slices.Contains(b.domains, domain):
		return path, true, true
	case slices.ContainsFunc(b.domains, func(d string) bool { return host == d || strings.HasSuffix(host, "."+d) }):
		if kind == "files" { // DOMAIN/files/HOST/PATH, and DOMAIN/HOST/REPOSITORY
			path, own = strings.CutPrefix(path, "files/")
			return path, own, own
		}
		return path, true, true
	}
	return path, b.guess && labelled && strings.Contains(domain, "."), false
}

// origin returns the upstream name for an own name with an origin, "" for every other name.
func (b *mirrorNames) origin(kind, name string) (host, rest string) {
	path, own, sure := b.below(kind, name)
	host, rest, ok := strings.Cut(path, "/")
	if _, known := b.upstream[host]; !own || !ok || rest == "" || !known && !(sure && hostName.MatchString(host)) {
		return "", ""
	}
	at, _, _ := strings.Cut(name, "/")
	b.met[at] = true
	return host, rest
}

// flat reports whether a value, a URL or the beginning of an image's name, is an own name without an origin.
func (b *mirrorNames) flat(value string) bool {
	kind := "registry"
	if _, after, isURL := strings.Cut(value, "://"); isURL {
		kind, value = "files", after
	}
	path, _, sure := b.below(kind, value)
	host, _, more := strings.Cut(path, "/")
	_, known := b.upstream[host]
	return sure && !known && !(more && hostName.MatchString(host))
}

// file returns the upstream URL of a file, which is most often the URL itself.
func (b *mirrorNames) file(u string) string {
	_, name, ok := strings.Cut(u, "://")
	if b == nil || !ok {
		return u
	}
	host, rest := b.origin("files", name)
	if host == "" {
		return u
	}
	scheme := b.upstream[host]
	if scheme == "" {
		scheme = "https"
	}
	return scheme + "://" + host + "/" + rest
}

// image returns the upstream name of an image, most often the name itself.
func (b *mirrorNames) image(w lists.Image) lists.Image {
	if b == nil {
		return w
	}
	host, rest := b.origin("registry", w.Repository)
	if host == "" {
		return w
	}
	upstream := w
	upstream.Repository = host + "/" + rest
	if again, err := lists.ParseReference(upstream.Ref()); err == nil {
		upstream.Repository = again.Repository
	}
	return upstream
}

// upstreamHosts returns the hosts that a checkout uses by default.
func (c *checkout) upstreamHosts() (map[string]string, error) {
	u, err := c.upstream()
	if err != nil {
		return nil, err
	}
	hosts := map[string]string{"docker.io": "", "helm.cilium.io": "https"}
	for _, text := range u.URLs {
		scheme, rest, _ := strings.Cut(text, "://")
		host, _, _ := strings.Cut(rest, "/")
		if hosts[host] != "https" {
			hosts[host] = scheme
		}
	}
	for _, text := range u.Images {
		if host, _, _ := strings.Cut(text, "/"); hostName.MatchString(host) {
			if _, has := hosts[host]; !has {
				hosts[host] = ""
			}
		}
	}
	return hosts, nil
}

var mirrorVariable = regexp.MustCompile(`_(url|repo|image|container)$`)

// readMirrors finds the bastions' own names in the given variables. A variable with such a name and no origin
// (registry.DOMAIN/pause, as Kubespray's sample has it) does not tell where the content comes from: then the checkout's
// default does.
func (k *kubespray) readMirrors(domain string) {
	b := &mirrorNames{domains: []string{domain}, upstream: k.hosts, met: map[string]bool{}}
	if domain == "" {
		b.domains, b.guess = []string{defaultDomain}, true
		registry, err1 := k.vars.text("registry_host")
		files, err2 := k.vars.text("files_repo")
		registry, ok1 := strings.CutPrefix(registry, "registry.")
		_, files, _ = strings.Cut(files, "://")
		files, ok2 := strings.CutPrefix(strings.TrimSuffix(files, "/"), "files.")
		if err1 == nil && err2 == nil && ok1 && ok2 && registry == files {
			b.domains = append(b.domains, registry)
		}
	}
	k.mirrors = b
	drop := false
	for _, given := range []map[string]definition{k.inventory, k.over} {
		for _, name := range slices.Sorted(maps.Keys(given)) {
			if !mirrorVariable.MatchString(name) || !k.hasDefault[name] {
				continue
			}
			if s, err := k.vars.text(name); err == nil && b.flat(strings.TrimSpace(s)) {
				drop = true
				delete(given, name)
			}
		}
	}
	if drop {
		k.vars = k.scope(nil, nil)
	}
}

// noteHosts notes the hosts in the given variables that the checkout does not use by default.
func (k *kubespray) noteHosts() {
	if k.mirrors == nil {
		return
	}
	for _, at := range slices.Sorted(maps.Keys(k.mirrors.met)) {
		is := "is"
		if k.mirrors.guess {
			is = "is taken for"
		}
		k.note("%s %s the bastions' own name, as \"kubespray vars --mode mirror\" writes it: content under it "+
			"is listed under its upstream name", at, is)
	}
	count := map[string]int{}
	for _, i := range k.lists.Images {
		host, _, _ := strings.Cut(i.Repository, "/")
		count[host]++
	}
	for _, f := range k.lists.Files {
		_, rest, _ := strings.Cut(f.URL, "://")
		host, _, _ := strings.Cut(rest, "/")
		count[host]++
	}
	for _, host := range slices.Sorted(maps.Keys(count)) {
		if _, known := k.hosts[host]; known {
			continue
		}
		why := ""
		if strings.HasPrefix(host, "registry.") || strings.HasPrefix(host, "files.") {
			why = "; if these are bastions of a domain of their own, it is not " + strings.Join(k.mirrors.domains,
				" or ")
		}
		k.note("names for which the given variables use %s: %d; they are listed under that name, and fetched there%s",
			host, count[host], why)
	}
}
