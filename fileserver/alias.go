package fileserver

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// project is one row of the short layout: /<name>/<version>/<file>. In dirs and file, {V} is the version without v and
// {A} the architecture.
type project struct {
	names []string // the first element; further names are those of Kubespray's older file layout below /kubernetes/
	dirs  []string // upstream directories, the usual one first
	file  string   // the usual file
}

var projects = []project{
	{[]string{"kubernetes"}, []string{"dl.k8s.io/release/v{V}/bin/linux/{A}", "dl.k8s.io/release/v{V}"}, ""},
	{[]string{"containerd"}, []string{"github.com/containerd/containerd/releases/download/v{V}"},
		"containerd-{V}-linux-{A}.tar.gz"},
	{[]string{"runc"}, []string{"github.com/opencontainers/runc/releases/download/v{V}"}, "runc.{A}"},
	{[]string{"cni-plugins", "cni"}, []string{"github.com/containernetworking/plugins/releases/download/v{V}"},
		"cni-plugins-linux-{A}-v{V}.tgz"},
	{[]string{"etcd"}, []string{"github.com/etcd-io/etcd/releases/download/v{V}"}, "etcd-v{V}-linux-{A}.tar.gz"},
	{[]string{"crictl", "cri-tools"}, []string{"github.com/kubernetes-sigs/cri-tools/releases/download/v{V}"},
		"crictl-v{V}-linux-{A}.tar.gz"},
	{[]string{"nerdctl"}, []string{"github.com/containerd/nerdctl/releases/download/v{V}"},
		"nerdctl-{V}-linux-{A}.tar.gz"},
}

// archs maps the spellings of an architecture to Go's, which upstream file names use; names lists those.
var (
	archs = map[string]string{
		"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64",
		"arm": "arm", "armhf": "arm", "armv7": "arm",
		"386": "386", "i386": "386", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64", "loong64": "loong64",
	}
	archNames = []string{"amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64"}
)

// Architectures are those that a file's alias can mean, as Go spells them.
func Architectures() []string { return slices.Clone(archNames) }

// KnownArchitecture reports whether name is a spelling of one of them, as amd64 and aarch64 are.
func KnownArchitecture(name string) bool { return archs[name] != "" }

var (
	versionElement = regexp.MustCompile(`^v?[0-9]+\.[0-9]+(\.[0-9]+)*([-+][0-9A-Za-z.+-]+)?$`)
	versionInName  = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)\.?[0-9]+)?(\+[0-9a-z]+[0-9])?`)
)

// short is a parsed path of the short layout.
type short struct {
	project
	version string // without v
	arch    string // "" if the path names none
	name    string // the last element
}

// parseShort reads /<project>[/<version>][/bin][/linux][/<arch>]/<name>; without an element for the version, the
// version is taken from the name. /kubernetes/<project>/<name> is Kubespray's file layout until 2.24.
func parseShort(elems []string) (short, bool) {
	plain := make([]string, len(elems))
	for i, e := range elems {
		p, err := url.PathUnescape(e)
		if err != nil {
			return short{}, false
		}
		plain[i] = p
	}
	if len(plain) > 2 && plain[0] == "kubernetes" && !versionElement.MatchString(plain[1]) {
		plain = plain[1:]
	}
	if len(plain) < 2 || len(plain) > 6 {
		return short{}, false
	}
	row := slices.IndexFunc(projects, func(p project) bool { return slices.Contains(p.names, plain[0]) })
	if row < 0 {
		return short{}, false
	}
	sh := short{project: projects[row], name: plain[len(plain)-1]}
	for _, elem := range plain[1 : len(plain)-1] {
		arch, isArch := archs[elem]
		switch {
		case sh.version == "" && versionElement.MatchString(elem):
			sh.version = strings.TrimPrefix(elem, "v")
		case sh.arch == "" && isArch:
			sh.arch = arch
		case elem == "bin" || elem == "linux":
		default:
			return short{}, false
		}
	}
	if sh.version == "" {
		sh.version = versionInName.FindString(sh.name)
	}
	if _, arch := stem(sh.name, sh.version); sh.arch == "" {
		sh.arch = arch
	}
	return sh, sh.version != ""
}

// fill fills a template; the inserted values need no percent-encoding.
func (sh short) fill(template, arch string) string {
	return strings.NewReplacer("{V}", sh.version, "{A}", arch).Replace(template)
}

// stem reduces a file's name to the part without version, system and architecture: "cni-plugins-linux-arm64-v1.9.1.tgz"
// is "cni plugins tgz" for arm64.
func stem(name, version string) (stem, arch string) {
	name = strings.ReplaceAll(name, "x86_64", "amd64")
	if version != "" {
		name = strings.ReplaceAll(strings.ReplaceAll(name, "v"+version, ""), version, "")
	}
	var words []string
	for word := range strings.FieldsFuncSeq(name, func(c rune) bool { return c == '-' || c == '_' || c == '.' }) {
		if a, is := archs[word]; is && arch == "" {
			arch = a
		} else if word != "linux" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " "), arch
}

// getAlias answers a read in the short layout.
func (s *Server) getAlias(w http.ResponseWriter, r *http.Request, a address) {
	asked := "/" + strings.Join(a.elems, "/")
	sh, ok := parseShort(a.elems)
	if !ok || a.slash {
		s.miss(w, r, asked, "neither an origin nor a short name with a version; see /")
		return
	}
	h, of, kind, err := s.lookupShort(sh)
	if err == nil && of == "" {
		s.countAlias(r, asked, sh, h)
		s.send(w, r, h)
		return
	}
	if err == nil {
		s.countAlias(r, asked, sh, h)
		s.sendSum(w, r, h, of, kind)
		return
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.fail(w, r, err)
		return
	}
	var many *manyArchs
	if errors.As(err, &many) {
		s.miss(w, r, asked, many.Error())
		return
	}
	s.miss(w, r, s.upstream(sh, asked), "asked for as "+clip(asked))
}

// lookupShort finds the answer to a path of the short layout: the file h or, if of is not "", its checksum as kind
// says.
func (s *Server) lookupShort(sh short) (h storedFile, of string, kind sumKind, err error) {
	if h, err = s.findShort(sh); !errors.Is(err, fs.ErrNotExist) {
		return h, "", kind, err
	}
	if of, kind, ok := sumOf(sh.name); ok {
		plain := sh
		plain.name = of
		switch h, sumErr := s.findShort(plain); {
		case sumErr == nil:
			return h, of, kind, nil
		case !errors.Is(sumErr, fs.ErrNotExist) || errors.As(sumErr, new(*manyArchs)):
			err = sumErr
		}
	}
	return storedFile{}, "", kind, err
}

// countAlias reports a path without an architecture that was answered with a file that has one.
func (s *Server) countAlias(r *http.Request, asked string, sh short, h storedFile) {
	if sh.arch == "" && archOf(h.key) != "" {
		s.cfg.Luck(r, asked, URL(h.key))
	}
}

// archOf returns the architecture in a key's directories or name.
func archOf(key string) string {
	path, _, _ := strings.Cut(key, "?")
	for elem := range strings.SplitSeq(path, "/") {
		if _, arch := stem(elem, versionInName.FindString(elem)); arch != "" {
			return arch
		}
	}
	return ""
}

// manyArchs is the fs.ErrNotExist of a path without an architecture where several are stored.
type manyArchs struct{ urls []string }

func (m *manyArchs) Error() string {
	return "it names no architecture and several are stored, ask for one of these or set files.alias_arch: " +
		strings.Join(m.urls, " ")
}
func (m *manyArchs) Is(err error) bool { return err == fs.ErrNotExist }

// findShort finds the file of a path of the short layout: the file of exactly that name, otherwise the one whose name
// is the same with version, system and architecture written differently or omitted. Without an architecture in the
// path, the setting files.alias_arch decides, and without the setting the only one that is stored.
func (s *Server) findShort(sh short) (storedFile, error) {
	arch := sh.arch
	if arch == "" {
		arch = archs[s.cfg.AliasArch()]
	}
	var candidates []storedFile
	want, _ := stem(sh.name, sh.version)
	for _, dir := range sh.dirs {
		root, _, inPath := strings.Cut(dir, "/{A}")
		if root = sh.fill(root, ""); !s.isDir(root) {
			continue // a directory that does not exist costs one look-up in the tree
		}
		if !inPath {
			if h, err := s.stat(root + "/" + escape(sh.name) + "?"); !errors.Is(err, fs.ErrNotExist) {
				return h, err
			}
			candidates = append(candidates, s.similar(root, sh.version, want, arch)...)
			continue
		}
		for _, try := range archNames {
			if arch != "" && try != arch {
				continue
			}
			h, err := s.stat(sh.fill(dir, try) + "/" + escape(sh.name) + "?")
			if err == nil {
				candidates = append(candidates, h)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return storedFile{}, err
			}
		}
	}
	switch len(candidates) {
	case 0:
		return storedFile{}, fs.ErrNotExist
	case 1:
		return candidates[0], nil
	}
	many := &manyArchs{}
	for _, c := range candidates {
		many.urls = append(many.urls, URL(c.key))
	}
	return storedFile{}, many
}

// similar lists the files of a release directory that have that stem, and that architecture if one is given.
func (s *Server) similar(dir, version, want, arch string) []storedFile {
	const most = 2000 // no release has that many files
	var found []storedFile
	seen := 0
	for name, fi := range s.cfg.Tree.Walk(dir, "") {
		if seen++; seen > most || len(found) == len(archNames) {
			break
		}
		rest := strings.TrimPrefix(name, dir+"/")
		file, ok := strings.CutSuffix(rest, "?") // without a query
		if !ok || strings.Contains(file, "/") {
			continue
		}
		plain, err := url.PathUnescape(file)
		if err != nil {
			continue
		}
		has, is := stem(plain, version)
		if h, ok := storedFileOf(name, fi); ok && has == want && is != "" && (arch == "" || is == arch) {
			found = append(found, h)
		}
	}
	return found
}

// upstream returns the URL that would have to be put for a path of the short layout, or the path itself where it is
// uncertain.
func (s *Server) upstream(sh short, asked string) string {
	arch := sh.arch
	if arch == "" {
		arch = archs[s.cfg.AliasArch()]
	}
	dir := sh.dirs[0]
	want, named := stem(sh.name, sh.version)
	switch usual, _ := stem(sh.fill(sh.file, "amd64"), sh.version); {
	case strings.Contains(dir, "{A}"):
		if arch == "" {
			return asked
		}
		return URL(sh.fill(dir, arch) + "/" + escape(sh.name))
	case want == usual && arch != "":
		return URL(sh.fill(dir, "") + "/" + escape(sh.fill(sh.file, arch)))
	case named != "":
		return URL(sh.fill(dir, "") + "/" + escape(sh.name))
	}
	return asked
}
