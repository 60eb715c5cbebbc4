package rpm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	maxRepoFile  = 4 << 20 // bytes of one .repo file
	maxRepoFiles = 1000    // repositories of all files
)

// Repo is one repository, as a .repo file names it (dnf.conf(5)).
type Repo struct {
	ID       string
	BaseURLs []string // each with a slash at its end
	// Mirrorlist and Metalink are URLs of documents that name mirrors, or "".
	Mirrorlist, Metalink string
	Keys                 []string // URLs or paths
	GPGCheck             bool     // the signature of each package is checked
	RepoGPGCheck         bool     // the signature of repomd.xml is checked
	// Priority orders repositories, the lowest first; dnf's default is 99.
	Priority int
	// Hotfixes says that packages of this repository are candidates although a module has their names.
	Hotfixes bool
	Exclude  []string // patterns of packages that are no candidates
	Include  []string // if there are any: of those that are
	Where    string   // FILE:LINE
}

// String names the repository in messages.
func (r *Repo) String() string {
	for _, u := range append(slices.Clone(r.BaseURLs), r.Metalink, r.Mirrorlist) {
		if u != "" {
			return r.ID + " (" + u + ")"
		}
	}
	return r.ID
}

// Repos is what .repo files say.
type Repos struct {
	// Vars are the values of variables: releasever, and those of /etc/dnf/vars. basearch and arch are known.
	Vars map[string]string
	// Architectures are those of the nodes, in rpm's names; none: x86_64.
	Architectures []string

	List  []Repo
	Notes []string
	bad   []string
}

// Err returns the errors in all files, one a line, or nil.
func (r *Repos) Err() error {
	if len(r.bad) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.bad, "\n"))
}

func (r *Repos) refuse(where, format string, args ...any) {
	if text := where + ": " + fmt.Sprintf(format, args...); len(r.bad) < 100 && !slices.Contains(r.bad, text) {
		r.bad = append(r.bad, text)
	}
}

func (r *Repos) note(where, format string, args ...any) {
	if text := where + ": " + fmt.Sprintf(format, args...); len(r.Notes) < 100 && !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

// section is one section of an INI file.
type section struct {
	name, where string
	values      map[string]string
}

// Read adds a file. name is its name in messages. Errors in it are those of Err.
func (r *Repos) Read(name string, in io.Reader) {
	b, err := io.ReadAll(io.LimitReader(in, maxRepoFile+1))
	switch {
	case err != nil:
		r.refuse(name, "%v", err)
		return
	case len(b) > maxRepoFile:
		r.refuse(name, "larger than %d MiB: is it a .repo file?", maxRepoFile>>20)
		return
	case bytes.IndexByte(b, 0) >= 0:
		r.refuse(name, "it is not a text: give a .repo file of /etc/yum.repos.d")
		return
	}
	before := len(r.List) + len(r.bad) + len(r.Notes)
	for _, s := range r.sections(name, bytes.TrimPrefix(b, []byte("\ufeff"))) {
		r.section(&s)
	}
	if len(r.List)+len(r.bad)+len(r.Notes) == before {
		r.refuse(name, "it names no repository: write a section such as [baseos] with a line baseurl=https://HOST/…")
	}
}

// sections reads the INI form: a line that begins with white space continues the value before it.
func (r *Repos) sections(name string, b []byte) (list []section) {
	in := bufio.NewScanner(bytes.NewReader(b))
	in.Buffer(nil, maxRepoFile+1)
	last := ""
	for n := 1; in.Scan(); n++ {
		where, raw := fmt.Sprintf("%s:%d", name, n), in.Text()
		line := strings.TrimSpace(raw)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			id, rest, ok := strings.Cut(line[1:], "]")
			if rest = strings.TrimSpace(rest); !ok || id == "" || rest != "" && rest[0] != '#' && rest[0] != ';' {
				r.refuse(where, "%.100q is not the head of a section such as [baseos]", line)
				return list
			}
			list, last = append(list, section{id, where, map[string]string{}}), ""
		case len(list) == 0:
			r.refuse(where, "%.100q stands before the first section: write the repository's [ID] above it", line)
			return nil
		case raw[0] == ' ' || raw[0] == '\t':
			if last == "" {
				r.refuse(where, "%.100q continues no value: write KEY=VALUE at the beginning of a line", line)
				continue
			}
			list[len(list)-1].values[last] += "\n" + line
		default:
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				r.refuse(where, "%.100q is not KEY=VALUE", line)
				continue
			}
			last = strings.ToLower(strings.TrimSpace(k))
			list[len(list)-1].values[last] = strings.TrimSpace(v)
		}
	}
	if err := in.Err(); err != nil {
		r.refuse(name, "%v", err)
	}
	return list
}

// section adds the repository of a section, once for each architecture if its addresses differ by that.
func (r *Repos) section(s *section) {
	if s.name == "main" {
		r.note(s.where, "[main] is not read: only repositories are")
		return
	}
	enabled, ok := boolean(s.values["enabled"], true)
	if !ok {
		r.refuse(s.where, "enabled=%.40s is neither 1 nor 0", s.values["enabled"])
		return
	}
	if !enabled {
		r.note(s.where, "[%s] is disabled (enabled=0), so it is left out", s.name)
		return
	}
	archs := r.Architectures
	if len(archs) == 0 {
		archs = []string{"x86_64"}
	}
	for _, arch := range archs {
		repo, err := r.repo(s, arch)
		if err != nil {
			r.refuse(s.where, "[%s]: %v", s.name, err)
			return
		}
		same := func(o Repo) bool { return o.ID == repo.ID && o.String() == repo.String() }
		if slices.ContainsFunc(r.List, same) {
			continue // another architecture has the same address, or another file has the same repository
		}
		if len(r.List) >= maxRepoFiles {
			r.refuse(s.where, "more than %d repositories", maxRepoFiles)
			return
		}
		r.List = append(r.List, repo)
	}
}

func (r *Repos) repo(s *section, arch string) (Repo, error) {
	var err error
	get := func(key string) string {
		v, e := r.substitute(s.values[key], arch)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", key, e)
		}
		return v
	}
	flag := func(key string, usual bool) bool {
		v, ok := boolean(get(key), usual)
		if !ok && err == nil {
			err = fmt.Errorf("%s=%.40s is neither 1 nor 0", key, get(key))
		}
		return v
	}
	repo := Repo{ID: s.name, Where: s.where, Priority: 99, Mirrorlist: get("mirrorlist"),
		Metalink: get("metalink"), Keys: values(get("gpgkey")),
		// A .repo file without gpgcheck has that of dnf.conf, which every distribution sets.
		GPGCheck: flag("gpgcheck", true), RepoGPGCheck: flag("repo_gpgcheck", false),
		Hotfixes: flag("module_hotfixes", false),
		Exclude:  values(get("excludepkgs") + " " + get("exclude")), Include: values(get("includepkgs")),
	}
	for _, u := range values(get("baseurl")) {
		repo.BaseURLs = append(repo.BaseURLs, strings.TrimRight(u, "/")+"/")
	}
	if p := get("priority"); p != "" && err == nil {
		if repo.Priority, err = strconv.Atoi(p); err != nil {
			err = fmt.Errorf("priority=%.40s is not a number", p)
		}
	}
	// An older form of metalink=.
	if strings.Contains(repo.Mirrorlist, "metalink") && repo.Metalink == "" {
		repo.Metalink, repo.Mirrorlist = repo.Mirrorlist, ""
	}
	urls := slices.DeleteFunc(append(slices.Clone(repo.BaseURLs), repo.Mirrorlist, repo.Metalink),
		func(u string) bool { return u == "" })
	if len(urls) == 0 && err == nil {
		err = errors.New("it has no baseurl, mirrorlist or metalink")
	}
	for _, u := range urls {
		if e := checkURL(u); e != nil && err == nil {
			err = e
		}
	}
	return repo, err
}

// checkURL returns an error if nothing can be fetched from a URL.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%.200q is not an http or https URL", s)
	}
	if u.User != nil {
		return fmt.Errorf("%s has a password: nodes would need it too; put it into ~/.netrc", u.Redacted())
	}
	return nil
}

// values splits a list at white space and commas.
func values(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
}

// boolean reads a value as dnf does. "" is the usual one.
func boolean(s string, usual bool) (value, ok bool) {
	switch strings.ToLower(s) {
	case "":
		return usual, true
	case "1", "yes", "true", "on":
		return true, true
	case "0", "no", "false", "off":
		return false, true
	}
	return false, false
}

var variable = regexp.MustCompile(`\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))`)

// substitute replaces variables ($releasever, ${basearch}) for nodes of an architecture.
func (r *Repos) substitute(s, arch string) (string, error) {
	var missing error
	out := variable.ReplaceAllStringFunc(s, func(m string) string {
		name := strings.Trim(m, "${}")
		v, ok := r.variable(name, arch)
		if !ok && missing == nil {
			missing = fmt.Errorf("the value of %s is not known: give it with --dnf-var %s=VALUE", m, name)
		}
		return v
	})
	return out, missing
}

func (r *Repos) variable(name, arch string) (string, bool) {
	if v, ok := r.Vars[name]; ok {
		return v, true
	}
	release, known := r.Vars["releasever"]
	major, minor, _ := strings.Cut(release, ".")
	switch name {
	case "basearch":
		return baseArch(arch), true
	case "arch":
		return arch, true
	case "releasever_major":
		return major, known
	case "releasever_minor":
		return minor, known
	}
	return "", false
}

// baseArch is the name that repositories have for an architecture (dnf's rpm.basearch).
func baseArch(arch string) string {
	switch arch {
	case "i386", "i486", "i586", "i686":
		return "i386"
	case "armv7hl", "armv7hnl", "armv8hl":
		return "armhfp"
	case "x86_64_v2", "x86_64_v3", "x86_64_v4":
		return "x86_64"
	}
	return arch
}

// compatible are the architectures of packages that can be installed on nodes of an architecture, the preferred first.
func compatible(arch string) []string {
	x86 := []string{"i686", "i586", "i486", "i386", "noarch"}
	switch arch {
	case "x86_64":
		return append([]string{"x86_64"}, x86...)
	case "x86_64_v2", "x86_64_v3", "x86_64_v4":
		list := []string{"x86_64_v4", "x86_64_v3", "x86_64_v2", "x86_64"}
		return append(list[slices.Index(list, arch):], x86...)
	case "i686", "i586", "i486", "i386":
		return x86[slices.Index(x86, arch):]
	case "armv7hl":
		return []string{"armv7hl", "noarch"}
	}
	return []string{arch, "noarch"}
}

// matches reports whether a package is one of patterns: NAME, NAME.ARCH, NAME-VERSION, NAME-VERSION-RELEASE or
// NAME-VERSION-RELEASE.ARCH, with * and ?.
func matches(patterns []string, p *Package) bool {
	for _, pattern := range patterns {
		for _, s := range []string{p.Name, p.Name + "." + p.Arch, p.Name + "-" + p.evr.version,
			p.Name + "-" + p.evr.version + "-" + p.evr.release,
			p.Name + "-" + p.evr.version + "-" + p.evr.release + "." + p.Arch} {
			if ok, _ := path.Match(pattern, s); ok {
				return true
			}
		}
	}
	return false
}
