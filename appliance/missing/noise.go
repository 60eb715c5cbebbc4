package missing

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Facts are what is known, besides the question itself, to decide whether it shows a need. Its methods answer from
// memory.
type Facts interface {
	// Known reports whether a host name belongs to an origin or a bastion, or was set by the operator.
	Known(host string) bool
	// Node reports whether a label is the host name of a bastion.
	Node(label string) bool
	// Registry reports whether a host mainly serves images.
	Registry(host string) bool
	// Holds reports whether the file at a URL is stored.
	Holds(url string) bool
}

type nothingKnown struct{}

func (nothingKnown) Known(string) bool    { return false }
func (nothingKnown) Node(string) bool     { return false }
func (nothingKnown) Registry(string) bool { return false }
func (nothingKnown) Holds(string) bool    { return false }

// Reasons why a question is noise: it does not show that content must be imported.
const (
	ReverseLookup    = "reverse lookup"        // the name of an address (PTR)
	ServiceDiscovery = "service discovery"     // SRV, _http._tcp, wpad
	RecordType       = "record type"           // queried in addition to addresses: HTTPS, CAA, NS
	HostName         = "host name"             // a bastion's host name with a suffix, or in a private zone
	SingleLabel      = "single label"          // a name without a dot
	ClusterInternal  = "cluster-internal name" // of a Kubernetes cluster's own DNS
	SearchList       = "search-list expansion" // a name with a search list's suffix
	SpecialUse       = "special-use name"      // .invalid, .onion (RFC 6761)
	Connectivity     = "connectivity check"    // checks whether the Internet can be reached
	SignatureProbe   = "signature probe"       // checks for a signature, an attestation or an SBOM
	HeadProbe        = "HEAD probe"            // checks whether content exists
	RegistryProbe    = "registry probe"        // docker search, the API before /v2/, Helm's index at a registry
	GitProbe         = "git probe"             // files that few repositories have
	BrowserProbe     = "browser probe"         // favicon.ico, robots.txt
	OptionalIndex    = "optional index"        // indexes that apt and dnf treat as optional
	OtherForm        = "other form"            // the same content with another compression or name
)

// Reasons lists all of them.
var Reasons = []string{
	ReverseLookup, ServiceDiscovery, RecordType, HostName, SingleLabel, ClusterInternal, SearchList, SpecialUse,
	Connectivity, SignatureProbe, HeadProbe, RegistryProbe, GitProbe, BrowserProbe, OptionalIndex, OtherForm,
}

// rules are tried in order; the first that matches gives the reason.
var rules = []struct {
	reason string
	kinds  []string
	match  func(*judged) bool
}{
	{ReverseLookup, []string{DNS}, func(j *judged) bool {
		return j.Detail == "PTR" || j.under("in-addr.arpa") || j.under("ip6.arpa")
	}},
	{ServiceDiscovery, []string{DNS}, (*judged).discoversServices},
	{RecordType, []string{DNS}, func(j *judged) bool {
		return j.Detail != "" && !slices.Contains([]string{"A", "AAAA", "CNAME", "TXT", "MX"}, j.Detail)
	}},
	{SpecialUse, []string{DNS}, func(j *judged) bool { return slices.ContainsFunc(specialUse, j.under) }},
	{HostName, []string{DNS, TLS, Host}, (*judged).isHostName},
	{SingleLabel, []string{DNS, TLS, Host}, func(j *judged) bool { return len(j.labels) == 1 }},
	{SearchList, []string{DNS, TLS, Host}, (*judged).isExpanded},
	{ClusterInternal, []string{DNS, TLS, Host}, (*judged).isClusterInternal},
	{Connectivity, []string{DNS, TLS, Host}, func(j *judged) bool {
		return slices.ContainsFunc(connectivity, j.under)
	}},

	{SignatureProbe, []string{Image}, func(j *judged) bool { return attachedTag.MatchString(j.tag) }},
	{HeadProbe, []string{Image}, (*judged).onlyLooks},

	{BrowserProbe, []string{File}, (*judged).isBrowsers},
	{RegistryProbe, []string{File}, (*judged).probesRegistry},
	{GitProbe, []string{File}, (*judged).probesGit},
	{OptionalIndex, []string{File}, (*judged).isOptionalIndex},
	{OtherForm, []string{File}, (*judged).hasOtherForm},
	{HeadProbe, []string{File}, func(j *judged) bool { return j.Method == "HEAD" }},
}

// Judge returns the reason why a question is noise, "" if it shows a need.
func Judge(q Question, facts Facts) string {
	j := newJudged(q, facts)
	for _, r := range rules {
		if slices.Contains(r.kinds, q.Kind) && r.match(j) {
			return r.reason
		}
	}
	return ""
}

// judged is a parsed question.
type judged struct {
	Question
	facts Facts

	labels []string // of a host name; nil if it is not one
	tag    string   // of an image; "" if it has no tag

	host  string   // of a file's URL; "" for a path of files.DOMAIN without an origin
	elems []string // of its path, unescaped; the last is "" for a directory
	base  string   // the last element
	query string
}

func newJudged(q Question, facts Facts) *judged {
	j := &judged{Question: q, facts: facts}
	switch q.Kind {
	case DNS, TLS, Host:
		j.labels = labelsOf(q.Name)
	case Image:
		i := strings.LastIndexByte(q.Name, ':')
		if i > strings.LastIndexByte(q.Name, '/') && !strings.Contains(q.Name, "@") {
			j.tag = q.Name[i+1:]
		}
	case File:
		j.host, j.elems, j.query = splitURL(q.Name)
		j.base = j.elems[len(j.elems)-1]
	}
	return j
}

// labelsOf returns the labels of a host name in lower case; nil if it is not one.
func labelsOf(name string) []string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return nil
		}
	}
	return labels
}

// splitURL splits a file's URL. It always returns at least one element.
func splitURL(name string) (host string, elems []string, query string) {
	path := name
	if _, rest, ok := strings.Cut(name, "://"); ok {
		host, path, _ = strings.Cut(rest, "/")
	}
	path, query, _ = strings.Cut(strings.TrimPrefix(path, "/"), "?")
	elems = strings.Split(path, "/")
	for i, e := range elems {
		if plain, err := url.PathUnescape(e); err == nil {
			elems[i] = plain
		}
	}
	return host, elems, query
}

// under reports whether the name is zone or below it.
func (j *judged) under(zone string) bool {
	z := strings.Split(zone, ".")
	return len(j.labels) >= len(z) && slices.Equal(j.labels[len(j.labels)-len(z):], z)
}

// specialUse are names that no DNS server resolves (https://www.iana.org/assignments/special-use-domain-names), and
// the suffix of hosts that have no domain. It does not include .local, which many Active Directory domains end in.
var specialUse = []string{
	"localhost", "invalid", "onion", "alt", "test", "home.arpa", "service.arpa", "resolver.arpa", "localdomain",
}

// connectivity are hosts that systems request to check for Internet access; nothing fails without a response.
var connectivity = []string{
	"connectivity-check.ubuntu.com", "network-test.debian.org", "nmcheck.gnome.org", "conncheck.opensuse.org",
	"detectportal.firefox.com", "captive.apple.com", "connectivitycheck.gstatic.com", "clients3.google.com",
	"www.msftconnecttest.com", "www.msftncsi.com", "dns.msftncsi.com", "ping.archlinux.org", "networkcheck.kde.org",
	"probe.fedoraproject.org",
}

func (j *judged) discoversServices() bool {
	if j.Detail == "SRV" || j.Detail == "NAPTR" || j.Detail == "URI" || strings.HasPrefix(j.Name, "_") {
		return true
	}
	return len(j.labels) > 0 && (j.labels[0] == "wpad" || j.labels[0] == "isatap" ||
		slices.ContainsFunc(j.labels, func(l string) bool { return l[0] == '_' }))
}

// isHostName reports the host name of a bastion with any domain that a client's search list adds. A registered domain
// (n1.io) is not such a name.
func (j *judged) isHostName() bool {
	return len(j.labels) > 0 && j.facts.Node(j.labels[0]) && (len(j.labels) != 2 || privateZone(j.labels[1:])) &&
		!j.facts.Known(strings.Join(j.labels, "."))
}

// privateZone reports whether labels form a zone that exists in no public DNS.
func privateZone(labels []string) bool {
	return slices.Contains(privateZones, labels[len(labels)-1])
}

var privateZones = []string{
	"local", "localdomain", "lan", "home", "internal", "intranet", "private", "corp", "cluster", "k8s",
}

// isExpanded reports a known name with a suffix appended: with ndots:5, a pod queries quay.io.svc.cluster.local
// before quay.io.
func (j *judged) isExpanded() bool {
	if j.Expanded || len(j.labels) > 1 && j.labels[0] == "localhost" {
		return true
	}
	if j.labels == nil || j.facts.Known(strings.Join(j.labels, ".")) {
		return false
	}
	for n := 2; n < len(j.labels); n++ {
		if j.facts.Known(strings.Join(j.labels[:n], ".")) {
			return true
		}
	}
	return false
}

// isClusterInternal reports a name that belongs to a Kubernetes cluster's DNS: below cluster.local, or of the form
// service.namespace.svc.ZONE with a zone that exists in no public DNS.
func (j *judged) isClusterInternal() bool {
	if j.under("cluster.local") {
		return true
	}
	for i, l := range j.labels {
		if (l == "svc" || l == "pod") && i > 0 {
			rest := j.labels[i+1:]
			return len(rest) == 0 || rest[0] == "cluster" || privateZone(rest)
		}
	}
	return false
}

// attachedTag matches the tags of content attached to a manifest, for registries without the referrers API: cosign's
// signatures (.sig), attestations (.att) and SBOMs (.sbom), and the index of the referrers tag schema (OCI
// distribution specification).
var attachedTag = regexp.MustCompile(`^(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64,128})(\.[0-9A-Za-z._-]+)?$`)

// What a HEAD request for a manifest means.
const (
	looks = iota // no need: a GET follows if the program needs the image
	pulls        // a pull starts
	byTag        // by tag a pull starts; by digest a push checks what exists
)

// heads maps programs to the meaning of their HEAD requests for manifests. The first whose name begins a word of
// User-Agent applies.
var heads = []struct {
	program string
	says    int
}{
	{"go-containerregistry", looks}, {"crane", looks}, {"cosign", looks}, {"notation", looks},
	{"containers", looks}, {"cri-o", looks}, {"podman", looks}, {"libpod", looks}, {"buildah", looks},
	{"skopeo", looks}, {"oras", looks}, // oras resolve, oras discover
	{"watchtower", looks}, {"renovate", looks}, {"diun", looks}, {"keel", looks}, {"argocd-image-updater", looks},
	{"containerd", pulls}, {"docker", pulls}, {"buildkit", pulls}, {"nerdctl", pulls}, {"moby", pulls}, {"k3s", pulls},
	{"rke2", pulls}, {"helm", byTag}, {"oras-go", byTag}, {"regclient", pulls}, {"spegel", pulls},
	{"stargz-snapshotter", pulls},
	{"curl", looks}, {"wget", looks}, {"python-requests", looks}, {"mozilla", looks},
}

// onlyLooks reports a HEAD request for a manifest that does not start a pull. An unknown program pulls if it accepts
// manifest types.
func (j *judged) onlyLooks() bool {
	if j.Method != "HEAD" {
		return false
	}
	words := strings.FieldsFunc(strings.ToLower(j.Agent), func(r rune) bool { return strings.ContainsRune(" ();,", r) })
	for _, h := range heads {
		for _, w := range words {
			if w == h.program || strings.HasPrefix(w, h.program+"/") {
				return h.says == looks || h.says == byTag && j.tag == ""
			}
		}
	}
	return !strings.Contains(j.Accept, "manifest") && !strings.Contains(j.Accept, "image.index")
}

// dir returns the URL of the file's directory, or of an ancestor.
func (j *judged) dir(up int) string {
	if j.host == "" || up >= len(j.elems) {
		return ""
	}
	escaped := make([]string, 0, len(j.elems))
	for _, e := range j.elems[:len(j.elems)-1-up] {
		escaped = append(escaped, url.PathEscape(e)+"/")
	}
	return "https://" + j.host + "/" + strings.Join(escaped, "")
}

// beside reports whether the file of that name in the same directory is stored.
func (j *judged) beside(name string) bool {
	dir := j.dir(0)
	return dir != "" && j.facts.Holds(dir+url.PathEscape(name))
}

// tail returns the last n elements of the path, joined; "" if there are fewer.
func (j *judged) tail(n int) string {
	if len(j.elems) < n {
		return ""
	}
	return strings.Join(j.elems[len(j.elems)-n:], "/")
}

// wellKnown are names below /.well-known/ that browsers and scanners request from every host.
var wellKnown = []string{
	"security.txt", "change-password", "traffic-advice", "dnt-policy.txt", "assetlinks.json", "gpc.json",
	"apple-app-site-association",
}

var browsers = regexp.MustCompile(`^(favicon\.(ico|png|svg)|apple-touch-icon[0-9a-z-]*\.png|robots\.txt|humans\.txt|` +
	`ads\.txt|security\.txt|sitemap\.xml|browserconfig\.xml|site\.webmanifest|crossdomain\.xml)$`)

func (j *judged) isBrowsers() bool {
	if len(j.elems) <= 2 && len(j.elems) > 0 && j.elems[0] == ".well-known" {
		return slices.Contains(wellKnown, j.base)
	}
	return browsers.MatchString(j.base) && (len(j.elems) == 1 || strings.HasPrefix(j.base, "favicon."))
}

var firstAPI = regexp.MustCompile(`^v1/(_ping|search|users/?|repositories/.+/(images|tags|auth)(/.*)?|images/.+)$`)

// probesRegistry reports requests of registry clients outside /v2/: docker search, the API of 2013 that old clients
// try, and the index.yaml that Helm requests from a host before it is configured as a registry (oci://).
func (j *judged) probesRegistry() bool {
	path := strings.Join(j.elems, "/")
	if path == "_ping" || path == "v1/_ping" || path == "v1/search" {
		return true
	}
	return j.facts.Registry(j.host) && (firstAPI.MatchString(path) || j.base == "index.yaml")
}

var (
	gitObject = regexp.MustCompile(`^objects/[0-9a-f]{2}/([0-9a-f]{38}|[0-9a-f]{62})$`)
	gitBitmap = regexp.MustCompile(`^objects/pack/pack-[0-9a-f]+\.(bitmap|rev)$`)
)

// probesGit reports requests by which git checks what a repository has (gitprotocol-http): alternates, and objects
// that are in packs. The request that starts a clone, info/refs?service=git-upload-pack, shows a need.
func (j *judged) probesGit() bool {
	switch {
	case j.tail(3) == "objects/info/alternates", j.tail(3) == "objects/info/http-alternates":
		return true
	case j.tail(2) == "info/refs":
		return !strings.Contains("&"+j.query+"&", "&service=git-upload-pack&")
	}
	held := func(up int) bool {
		dir := j.dir(up)
		return dir != "" && (j.facts.Holds(dir+"info/refs") || j.facts.Holds(dir+"HEAD"))
	}
	return (gitObject.MatchString(j.tail(3)) || gitBitmap.MatchString(j.tail(3))) && held(2)
}

// inDists returns the elements after dists/ of a path in an apt repository, the suite first; nil for other paths.
func (j *judged) inDists() []string {
	i := slices.Index(j.elems, "dists")
	if i < 0 || i+2 >= len(j.elems) {
		return nil
	}
	return j.elems[i+1:]
}

var (
	optionalApt = regexp.MustCompile(`^(Contents|Translation|Components|icons|Commands)-.+$`)
	optionalRPM = []string{
		".treeinfo", "treeinfo", ".discinfo", "media.repo", "images/updates.img", "images/product.img",
		"media.1/media", "media.1/products", "media.1/build",
	}
)

// isOptionalIndex reports indexes that package managers treat as optional: apt ignores missing translations,
// AppStream data, command-not-found data, contents and diffs of indexes; Anaconda and zypper look for a medium's
// description; zypper requests a signature of every repository.
func (j *judged) isOptionalIndex() bool {
	if dists := j.inDists(); dists != nil {
		for _, e := range dists[1:] {
			if e == "i18n" || e == "dep11" || e == "cnf" || strings.HasSuffix(e, ".diff") {
				return true
			}
		}
		return optionalApt.MatchString(j.base)
	}
	if strings.HasPrefix(j.base, "Translation-") ||
		slices.Contains(optionalRPM, j.tail(1)) || slices.Contains(optionalRPM, j.tail(2)) {
		return true
	}
	zypper := strings.HasPrefix(strings.ToLower(j.Agent), "zypp")
	return zypper && (j.tail(2) == "repodata/repomd.xml.asc" || j.tail(2) == "repodata/repomd.xml.key")
}

// forms lists the names of the same apt index, the preferred one first. apt accepts any of them.
var forms = [][]string{
	{"InRelease", "Release", "Release.gpg"},
	{"Packages.xz", "Packages.gz", "Packages.zst", "Packages.bz2", "Packages.lzma", "Packages.lz4", "Packages"},
	{"Sources.xz", "Sources.gz", "Sources.zst", "Sources.bz2", "Sources.lzma", "Sources.lz4", "Sources"},
}

// formsOf returns the names of the index called base, nil if it is not an index.
func formsOf(base string) []string {
	for _, f := range forms {
		if slices.Contains(f, base) {
			return f
		}
	}
	return nil
}

// hasOtherForm reports content that is stored under another name, or that its client also requests under another
// name.
func (j *judged) hasOtherForm() bool {
	if n := len(j.elems); n > 3 && j.elems[n-3] == "by-hash" {
		return true // apt requests the plain name next
	}
	for _, form := range formsOf(j.base) {
		if form != j.base && form != "Release.gpg" && j.beside(form) {
			return true
		}
	}
	if whole, ok := strings.CutSuffix(j.base, ".metadata"); ok { // of a Python package, PEP 658
		return j.beside(whole)
	}
	return strings.HasSuffix(j.base, ".drpm") // dnf falls back to the whole package
}

// relate finds entries that are noise because of another entry of the whole book, and marks them.
func relate(list []Entry, facts Facts) {
	at := map[key]*Entry{}
	for i := range list {
		at[key{list[i].Kind, list[i].Name}] = &list[i]
	}
	suffixes := searchLists(list, at, facts)
	for i := range list {
		e := &list[i]
		switch {
		case e.Noise != "":
		case e.Kind == DNS && suffixes.expanded(e, at):
			e.Noise = SearchList
		case e.Kind == File && besideOtherForm(e, at):
			e.Noise = OtherForm
		}
	}
}

// searchList has the suffixes that clients append to names, detected by names that they queried with and without
// them.
type searchList map[suffix]bool

type suffix struct{ client, zone string }

func searchLists(list []Entry, at map[key]*Entry, facts Facts) searchList {
	s := searchList{}
	for _, e := range list {
		if e.Kind != DNS {
			continue
		}
		labels := labelsOf(e.Name)
		for n := 2; n < len(labels); n++ {
			short, zone := strings.Join(labels[:n], "."), strings.Join(labels[n:], ".")
			known, asked := facts.Known(short), at[key{DNS, short}]
			if !known && asked == nil {
				continue
			}
			for _, c := range e.Clients {
				if c = ownerOf(c); known || sameOwner(asked.Clients, c) {
					s[suffix{c, zone}] = true
				}
			}
		}
	}
	return s
}

// expanded reports whether a client also queried the name without its suffix, and the suffix is one that the client
// appends.
func (s searchList) expanded(e *Entry, at map[key]*Entry) bool {
	labels := labelsOf(e.Name)
	for n := 1; n < len(labels); n++ {
		short := at[key{DNS, strings.Join(labels[:n], ".")}]
		if short == nil {
			continue
		}
		zone := strings.Join(labels[n:], ".")
		for _, c := range e.Clients {
			if c = ownerOf(c); s[suffix{c, zone}] && sameOwner(short.Clients, c) {
				return true
			}
		}
	}
	return false
}

// besideOtherForm reports whether a preferred form of the same index was missed too.
func besideOtherForm(e *Entry, at map[key]*Entry) bool {
	dir, base := e.Name[:strings.LastIndexByte(e.Name, '/')+1], e.Name[strings.LastIndexByte(e.Name, '/')+1:]
	for _, form := range formsOf(base) {
		if form == base {
			break
		}
		if o := at[key{File, dir + form}]; o != nil {
			return true
		}
	}
	return false
}
