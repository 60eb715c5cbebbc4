package deb

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strconv"
	"strings"

	"casemate/bundle/digests"
)

// maxPackages is the maximum number of packages of all indices together: Debian's main has 63,000 for an architecture.
const maxPackages = 2_000_000

// Package is one package as an index lists it.
type Package struct {
	Name, Version, Arch string
	multiArch           string // same, foreign, allowed or ""
	priority            int    // 0 is the highest: that of required packages
	essential           bool
	depends             string // Pre-Depends and Depends
	recommends          string
	provides            string
	breaks              string // Breaks and Conflicts
	filename            string
	size                int64
	digest              string
	suite               *suite
}

// URL is the address of its file.
func (p *Package) URL() string {
	u := url.URL{Path: "/" + p.filename}
	return p.suite.URI + u.EscapedPath()
}

// Label names it in messages.
func (p *Package) Label() string { return p.Name + ":" + p.Arch + " " + p.Version }

// kept are the fields of an index that count.
var kept = map[string]bool{
	"package": true, "version": true, "architecture": true, "multi-arch": true, "priority": true, "essential": true,
	"pre-depends": true, "depends": true, "recommends": true, "provides": true, "breaks": true, "conflicts": true,
	"filename": true, "size": true, "sha256": true, "sha512": true, "md5sum": true, "sha1": true,
}

// readPackages calls add for every package of an index. Only the fields that count stay in memory.
func readPackages(r io.Reader, limit int64, add func(*Package) error) error {
	in := newParagraphs(r, limit, false)
	in.keep, in.reuse = func(field string) bool { return kept[field] }, map[string]string{}
	for {
		f, line, err := in.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		p, err := newPackage(f)
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if err := add(p); err != nil {
			return err
		}
	}
}

var priorities = []string{"required", "important", "standard", "optional", "extra"}

func newPackage(f map[string]string) (*Package, error) {
	// One allocation holds all texts of a package: indices have a million of them.
	texts := pack(f["package"], f["version"], f["architecture"], join(f["pre-depends"], f["depends"]), f["recommends"],
		f["provides"], join(f["breaks"], f["conflicts"]), f["filename"], sumOf(f))
	p := &Package{
		Name: texts[0], Version: texts[1], Arch: texts[2], depends: texts[3], recommends: texts[4], provides: texts[5],
		breaks: texts[6], filename: texts[7], digest: texts[8], multiArch: multiArch(f["multi-arch"]),
		essential: isTrue(f["essential"], false), priority: len(priorities),
	}
	for i, name := range priorities {
		if f["priority"] == name {
			p.priority = i
		}
	}
	var err error
	p.size, err = strconv.ParseInt(f["size"], 10, 64)
	p.filename = strings.TrimPrefix(p.filename, "./")
	switch {
	case p.Name == "" || p.Version == "" || p.Arch == "":
		return nil, errors.New("a package needs Package, Version and Architecture")
	case err != nil || p.size < 0:
		return nil, fmt.Errorf("the package %.100s has the size %.40q", p.Name, f["size"])
	case p.digest == "" && f["md5sum"]+f["sha1"] != "":
		return nil, fmt.Errorf("the package %.100s has MD5 and SHA1 sums only, which do not protect it: the publisher "+
			"must add SHA256", p.Name)
	case digests.Check(p.digest) != nil:
		return nil, fmt.Errorf("the package %.100s has no SHA256", p.Name)
	case p.filename == "" || strings.HasPrefix(p.filename, "/") || path.Clean(p.filename) != p.filename ||
		strings.HasPrefix(p.filename, "../") || p.filename == "..":
		return nil, fmt.Errorf("the package %.100s has the file name %.200q", p.Name, p.filename)
	}
	return p, nil
}

func sumOf(f map[string]string) string {
	switch {
	case f["sha256"] != "":
		return "sha256:" + strings.ToLower(f["sha256"])
	case f["sha512"] != "":
		return "sha512:" + strings.ToLower(f["sha512"])
	}
	return ""
}

// multiArch returns one of a few constants, so that the field needs no memory of its own.
func multiArch(s string) string {
	for _, known := range []string{"same", "foreign", "allowed"} {
		if s == known {
			return known
		}
	}
	return ""
}

// join connects two lists of dependencies.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// pack copies texts into one piece of memory.
func pack(texts ...string) []string {
	whole := strings.Join(texts, "")
	for i, t := range texts {
		texts[i], whole = whole[:len(t)], whole[len(t):]
	}
	return texts
}
