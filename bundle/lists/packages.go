package lists

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Package is one package of an operating system, by the name that its repository knows.
type Package struct {
	// Name is the package's name. It may have * and ?, for any text and any character; "*" alone is every package. @ID
	// is a group of RPM repositories.
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // "": the newest
	Arch    string `json:"arch,omitempty"`    // in the repository's own names; "": those of the nodes
	Where   string `json:"where,omitempty"`
	// Optional says that only some installations need it: without a repository that has it, it is left out with a note.
	Optional bool `json:"optional,omitempty"`
}

// Label returns the package as a line of a list: NAME:ARCH=VERSION.
func (p Package) Label() string {
	s := p.Name
	if p.Arch != "" {
		s += ":" + p.Arch
	}
	if p.Version != "" {
		s += "=" + p.Version
	}
	return s
}

var (
	// packageName matches the names of DEB (Debian policy, 5.6.1) and RPM packages, and patterns of them.
	packageName = regexp.MustCompile(`^[A-Za-z0-9*?][A-Za-z0-9+._*?-]{0,254}$`)
	// packageVersion matches the versions of both ([epoch:]version[-revision]).
	packageVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+:~^_-]{0,254}$`)
	groupID        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,254}$`)
	packageArch    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
)

// Packages reads a list of packages of an operating system, one a line: NAME, NAME=VERSION, NAME:ARCH,
// NAME:ARCH=VERSION, and @ID for a group of dnf; in a name * is any text and ? one character, and * alone is every
// package. name is the list's name in messages.
func (l *Parser) Packages(name string, r io.Reader) {
	l.eachLine(name, r, func(where, line string) error {
		p, err := ParsePackage(line)
		if err != nil {
			return err
		}
		p.Where = where
		if _, again := l.first("package "+p.Label(), request{where: where}); !again {
			l.wanted.Packages = append(l.wanted.Packages, p)
		}
		return nil
	})
}

// ParsePackage reads one line of a list of packages, without its comment.
func ParsePackage(line string) (Package, error) {
	var p Package
	if words := strings.Fields(line); len(words) > 1 {
		return p, fmt.Errorf("%s is more than one package: write one a line, comments after #", shown(line))
	}
	name, version, exact := strings.Cut(line, "=")
	name, arch, other := strings.Cut(name, ":")
	p = Package{Name: name, Version: version, Arch: arch}
	switch {
	case strings.HasPrefix(line, "@^"):
		return p, fmt.Errorf("%s is an environment: write its groups, which dnf group info %s prints on a node",
			shown(line), shown(strings.TrimPrefix(line, "@^")))
	case strings.HasPrefix(line, "@"):
		if id := strings.TrimPrefix(line, "@"); !groupID.MatchString(id) {
			return p, fmt.Errorf("%s is not a group: write @ID, which dnf group list --ids prints on a node",
				shown(line))
		}
		return p, nil
	case strings.Contains(line, "://"):
		return p, fmt.Errorf("%s is a URL: it belongs in a list of files (--files)", shown(line))
	case strings.HasSuffix(line, ".deb"), strings.HasSuffix(line, ".rpm"):
		return p, fmt.Errorf("%s is a file: write the name of the package in it", shown(line))
	case strings.Contains(name, "/"):
		return p, fmt.Errorf("%s: a suite cannot be chosen for a package: write NAME=VERSION", shown(line))
	case !packageName.MatchString(name):
		return p, fmt.Errorf("%s is not the name of a package: write NAME, NAME=VERSION or NAME:ARCH", shown(name))
	case other && !packageArch.MatchString(arch):
		return p, fmt.Errorf("%s: %s is not an architecture such as amd64", shown(line), shown(arch))
	case exact && !packageVersion.MatchString(version):
		return p, fmt.Errorf("%s: %s is not a version", shown(line), shown(version))
	}
	return p, nil
}
