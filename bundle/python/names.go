package python

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	projectForm = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	separators  = regexp.MustCompile(`[-_.]+`)
	// versionForm has the characters of a version (PEP 440), in file names too.
	versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}$`)
	tagForm     = regexp.MustCompile(`^[A-Za-z0-9_.]+$`)
)

// maxName bounds a project's name, in bytes.
const maxName = 200

// Normalize returns the normalised name of a project (PEP 503), and false if it is no name.
func Normalize(name string) (string, bool) {
	if len(name) > maxName || !projectForm.MatchString(name) {
		return "", false
	}
	return strings.ToLower(separators.ReplaceAllString(name, "-")), true
}

// File is what the name of a package says.
type File struct {
	Name    string // of the file
	Project string // normalised
	Version string
	// Tags are those of a wheel (PEP 425), each a set joined by dots; empty for a source distribution.
	Python, ABI, Platform string
}

// Wheel reports whether the file is a wheel; otherwise it is a source distribution.
func (f File) Wheel() bool { return f.Python != "" }

// SdistSuffixes are those of source distributions: PEP 625, and what was written before it.
var SdistSuffixes = []string{".tar.gz", ".tgz", ".zip", ".tar.bz2"}

// ParseFile reads the name of a wheel (PEP 427) or a source distribution (PEP 625). In names of old source
// distributions the version begins after the last hyphen before a digit.
func ParseFile(name string) (File, error) {
	if stem, ok := strings.CutSuffix(name, ".whl"); ok {
		return parseWheel(name, stem)
	}
	for _, suffix := range SdistSuffixes {
		stem, ok := strings.CutSuffix(name, suffix)
		for i := len(stem) - 2; ok && i > 0; i-- {
			if stem[i] != '-' || stem[i+1] < '0' || stem[i+1] > '9' {
				continue
			}
			if project, good := Normalize(stem[:i]); good && versionForm.MatchString(stem[i+1:]) {
				return File{Name: name, Project: project, Version: stem[i+1:]}, nil
			}
			break
		}
	}
	return File{}, fmt.Errorf("%.200q is not the name of a Python package (NAME-VERSION-PYTHON-ABI-PLATFORM.whl or "+
		"NAME-VERSION.tar.gz)", name)
}

func parseWheel(name, stem string) (File, error) {
	parts := strings.Split(stem, "-")
	n := len(parts)
	if n != 5 && n != 6 {
		return File{}, fmt.Errorf("%.200q is not the name of a wheel: NAME-VERSION-PYTHON-ABI-PLATFORM.whl", name)
	}
	f := File{Name: name, Version: parts[1], Python: parts[n-3], ABI: parts[n-2], Platform: parts[n-1]}
	var ok bool
	if f.Project, ok = Normalize(parts[0]); !ok {
		return File{}, fmt.Errorf("%.200q: %.100q is not the name of a Python project", name, parts[0])
	}
	for _, tag := range parts[n-3:] {
		ok = ok && tagForm.MatchString(tag)
	}
	badBuild := n == 6 && (parts[2] == "" || parts[2][0] < '0' || parts[2][0] > '9')
	if !ok || badBuild || !versionForm.MatchString(f.Version) {
		return File{}, fmt.Errorf("%.200q: version, build number or tags are not those of a wheel", name)
	}
	return f, nil
}

// SamePublicVersion reports whether two spellings of a version mean the same as far as files of one project need it:
// letters' case, "v", separators, zeros at the end and leading zeros do not count (PEP 440, normalisation).
func SamePublicVersion(a, b string) bool { return canonicalVersion(a) == canonicalVersion(b) }

var (
	// spellings are the other words that PEP 440 allows before a number.
	spellings = strings.NewReplacer("alpha", "a", "beta", "b", "preview", "rc", "pre", "rc", "rev", "post")
	bareC     = regexp.MustCompile(`([0-9][-_.]?)c([0-9]|$)`)
	bareR     = regexp.MustCompile(`([0-9][-_.]?)r([0-9]|$)`)
	implicit  = regexp.MustCompile(`^([0-9.!]*[0-9])-([0-9]+)$`)
	words     = regexp.MustCompile(`[-_.]?(a|b|rc|post|dev)[-_.]?([0-9]*)`)
	zeros     = regexp.MustCompile(`(^|[^0-9])0+([0-9])`)
	tailZeros = regexp.MustCompile(`^((?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*?)(?:\.0)+($|[a-z+.])`)
)

func canonicalVersion(v string) string {
	v = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(v)), "v")
	public, local, hasLocal := strings.Cut(v, "+")
	public = implicit.ReplaceAllString(public, "${1}.post${2}")
	public = spellings.Replace(public)
	public = bareC.ReplaceAllString(public, "${1}rc${2}")
	public = bareR.ReplaceAllString(public, "${1}post${2}")
	public = words.ReplaceAllStringFunc(public, func(s string) string {
		m := words.FindStringSubmatch(s)
		if m[2] == "" {
			m[2] = "0"
		}
		return "." + m[1] + m[2]
	})
	public = zeros.ReplaceAllString(public, "$1$2")
	public = strings.TrimPrefix(public, "0!")
	public = tailZeros.ReplaceAllString(public, "$1$2")
	if hasLocal {
		public += "+" + strings.NewReplacer("-", ".", "_", ".").Replace(local)
	}
	return public
}
