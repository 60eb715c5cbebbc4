package rpm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	maxPackages = 2_000_000 // of all indices together
	maxDeps     = 100_000   // of one package
	maxName     = 4 << 10   // bytes of a name
)

// Package is one package as primary.xml lists it.
type Package struct {
	Name, Arch string
	evr        evr
	requires   []*need
	recommends []*need
	suggests   []*need
	// supplements are conditions on which the package is installed.
	supplements []*need
	provides    []*dep
	obsoletes   []*dep
	files       []string // those that primary.xml has
	href, base  string
	size        int64
	digest      string
	source      string // name of the source package's file
	repo        *repository
	// modular says that it belongs to a stream of a module.
	modular bool
}

// need is a dependency of a package. Packages with the same dependency share it.
type need struct {
	*expr
	rich string // the text of a rich dependency
	err  error  // of one that cannot be read
}

func (n *need) text() string {
	if n.rich != "" {
		return n.rich
	}
	return n.dep.String()
}

// EVR is its version as index files write it: [EPOCH:]VERSION-RELEASE.
func (p *Package) EVR() string { return p.evr.String() }

// Label names it in messages.
func (p *Package) Label() string { return p.Name + "-" + p.EVR() + "." + p.Arch }

// URL is the address of its file.
func (p *Package) URL() string {
	u, _ := resolve(p.repo.base, p.base, p.href) // was checked
	return u
}

// pool shares equal strings and dependencies of packages.
type pool struct {
	strings map[string]string
	deps    map[string]*dep
	needs   map[*dep]*need
	key     []byte // of the entry that is read
}

func newPool() *pool {
	return &pool{strings: map[string]string{}, deps: map[string]*dep{}, needs: map[*dep]*need{}}
}

func (p *pool) share(s string) string {
	if have, ok := p.strings[s]; ok {
		return have
	}
	s = strings.Clone(s)
	p.strings[s] = s
	return s
}

// dep returns the capability of an rpm:entry. Its texts are parts of the key under which it is found again.
func (p *pool) dep(attrs []xml.Attr) *dep {
	var name, flags, epoch, version, release string
	for _, a := range attrs {
		switch a.Name.Local {
		case "name":
			name = a.Value
		case "flags":
			flags = a.Value
		case "epoch":
			epoch = a.Value
		case "ver":
			version = a.Value
		case "rel":
			release = a.Value
		}
	}
	key := append(append(append(p.key[:0], name...), version...), release...)
	n, op := len(key), senses[flags]
	key = append(append(key, '\n', '0'+op, byte(len(name)), byte(len(name)>>8), byte(len(version)),
		byte(len(version)>>8)), epoch...)
	p.key = key
	if d, ok := p.deps[string(key)]; ok {
		return d
	}
	text := string(key)
	number, _ := strconv.Atoi(epoch)
	d := &dep{text[:len(name)], evr{number, text[len(name) : len(name)+len(version)], text[len(name)+len(version) : n]},
		op}
	p.deps[text] = d
	return d
}

// need returns what an entry requires, nil if rpm itself provides it.
func (p *pool) need(d *dep) *need {
	if strings.HasPrefix(d.name, "rpmlib(") {
		return nil
	}
	n, ok := p.needs[d]
	switch {
	case ok:
	case isRich(d.name):
		n = &need{rich: d.name}
		n.expr, n.err = parseExpr(d.name)
		p.needs[d] = n
	default:
		n = &need{expr: &expr{dep: d}}
		p.needs[d] = n
	}
	return n
}

// readPrimary calls add for every package of a primary.xml. Only what counts stays in memory.
func (p *pool) readPrimary(r io.Reader, add func(*Package) error) error {
	in := xml.NewDecoder(r)
	in.Strict = true
	s := &primaryReader{pool: p, add: add}
	for {
		t, err := in.RawToken()
		if err == io.EOF {
			if !s.ended {
				return errors.New("it ends in the middle")
			}
			return nil
		}
		if err == nil {
			err = s.token(t)
		}
		if err != nil {
			line, _ := in.InputPos()
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// primaryReader is the state between two tokens.
type primaryReader struct {
	*pool
	add   func(*Package) error
	p     *Package
	kind  string // of a checksum
	list  string // the list of entries that is read: requires, …
	text  []byte
	keep  bool // text is kept
	n     int  // entries of the package
	ended bool
}

func (s *primaryReader) token(t xml.Token) error {
	switch t := t.(type) {
	case xml.StartElement:
		s.text, s.keep = s.text[:0], false
		return s.start(t)
	case xml.CharData:
		if s.keep {
			if s.text = append(s.text, t...); len(s.text) > maxName {
				return fmt.Errorf("a name is longer than %d bytes", maxName)
			}
		}
	case xml.EndElement:
		err := s.end(t.Name.Local)
		s.keep = false
		return err
	}
	return nil
}

func (s *primaryReader) start(t xml.StartElement) error {
	if t.Name.Local == "package" {
		s.p, s.n, s.list = &Package{}, 0, ""
		return nil
	}
	if s.p == nil {
		return nil
	}
	switch t.Name.Local {
	case "name", "arch", "sourcerpm":
		s.keep = true
	case "file":
		s.keep = attr(t, "type") == "" // the others are directories and ghosts
		s.keep = s.keep || attr(t, "type") == "dir"
	case "checksum":
		s.kind, s.keep = attr(t, "type"), true
	case "version":
		epoch, _ := strconv.Atoi(attr(t, "epoch"))
		s.p.evr = evr{epoch, s.share(attr(t, "ver")), s.share(attr(t, "rel"))}
	case "size":
		s.p.size, _ = strconv.ParseInt(attr(t, "package"), 10, 64)
	case "location":
		s.p.href, s.p.base = strings.Clone(attr(t, "href")), s.share(attr(t, "base"))
	case "requires", "recommends", "suggests", "supplements", "provides", "obsoletes":
		s.list = t.Name.Local
	case "conflicts", "enhances":
		s.list = ""
	case "entry":
		return s.entry(t)
	}
	return nil
}

func attr(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (s *primaryReader) entry(t xml.StartElement) error {
	if s.list == "" {
		return nil
	}
	d := s.dep(t.Attr)
	if s.n++; s.n > maxDeps || len(d.name) > maxName || len(d.evr.version) > maxName {
		return fmt.Errorf("the package %.100s has more than %d dependencies, or one that is too long", s.p.Name,
			maxDeps)
	}
	needs := func(to *[]*need) {
		if n := s.need(d); n != nil {
			*to = append(*to, n)
		}
	}
	switch s.list {
	case "requires":
		needs(&s.p.requires)
	case "recommends":
		needs(&s.p.recommends)
	case "suggests":
		needs(&s.p.suggests)
	case "supplements":
		needs(&s.p.supplements)
	case "provides":
		s.p.provides = append(s.p.provides, d)
	case "obsoletes":
		s.p.obsoletes = append(s.p.obsoletes, d)
	}
	return nil
}

func (s *primaryReader) end(name string) error {
	if name == "metadata" {
		s.ended = true
	}
	if s.p == nil {
		return nil
	}
	switch name {
	case "name":
		s.p.Name = s.share(string(s.text))
	case "arch":
		s.p.Arch = s.share(string(s.text))
	case "sourcerpm":
		s.p.source = s.share(string(s.text))
	case "file":
		if s.keep {
			s.p.files = append(s.p.files, string(s.text))
		}
	case "checksum":
		d, err := checksum{s.kind, string(s.text)}.digest()
		if err != nil {
			return fmt.Errorf("the package %.100s: %w", s.p.Name, err)
		}
		s.p.digest = d
	case "package":
		p := s.p
		s.p = nil
		return s.finish(p)
	}
	return nil
}

// finish checks a package and hands it over.
func (s *primaryReader) finish(p *Package) error {
	switch {
	case p.Name == "" || p.Arch == "" || p.evr.version == "":
		return fmt.Errorf("the package %.100q has no name, architecture or version", p.Name)
	case p.digest == "":
		return fmt.Errorf("the package %.100s has no checksum", p.Name)
	case p.size <= 0:
		return fmt.Errorf("the package %.100s has no size", p.Name)
	}
	if p.Arch == "src" || p.Arch == "nosrc" {
		return nil
	}
	p.requires, p.provides, p.files = clip(p.requires), clip(p.provides), clip(p.files)
	return s.add(p)
}

// clip frees what appending has kept in reserve.
func clip[T any](s []T) []T {
	if len(s) == cap(s) {
		return s
	}
	return append(make([]T, 0, len(s)), s...)
}

// readFilelists calls add for every package of a filelists.xml with each of its paths that is wanted.
func readFilelists(r io.Reader, wanted func(path string) bool, add func(digest, path string)) error {
	in := xml.NewDecoder(r)
	var id string
	var text []byte
	keep, ended := false, false
	for {
		t, err := in.RawToken()
		if err == io.EOF {
			if !ended {
				return errors.New("it ends in the middle")
			}
			return nil
		}
		if err != nil {
			line, _ := in.InputPos()
			return fmt.Errorf("line %d: %w", line, err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			text, keep = text[:0], t.Name.Local == "file"
			if t.Name.Local == "package" {
				id = attr(t, "pkgid")
			}
		case xml.CharData:
			if keep && len(text) <= maxName {
				text = append(text, t...)
			}
		case xml.EndElement:
			if t.Name.Local == "file" && keep && wanted(string(text)) {
				add(id, string(text))
			}
			keep = false
			ended = ended || t.Name.Local == "filelists"
		}
	}
}
