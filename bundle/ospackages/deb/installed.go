package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

const maxInstalled = 256 << 20 // bytes of a dpkg status file

// Installed is what is installed on nodes of one kind.
type Installed struct {
	packages map[string][]installedPackage
	provided map[string][]provided // by the virtual package; name is that of the installed one
	names    []string              // of packages, in the order of the file
}

type installedPackage struct {
	version, arch, multiArch string // arch "": that of the node
	depends                  string // "" if it is not known
}

// line of dpkg-query -W (NAME[:ARCH] VERSION) or dpkg -l (ii NAME[:ARCH] VERSION ARCH …).
var installedLine = regexp.MustCompile(`^(?:[hi]i[ R]? )?\s*([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9-]+))?\s+([0-9]\S*)`)

// ReadInstalled reads what says which packages a node has: a dpkg status file (/var/lib/dpkg/status), or the output of
// dpkg-query -W or dpkg -l.
func ReadInstalled(r io.Reader) (*Installed, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, _ := in.Peek(64 << 10)
	i := &Installed{packages: map[string][]installedPackage{}, provided: map[string][]provided{}}
	var err error
	if isDeb822(head) && bytes.HasPrefix(bytes.TrimSpace(head), []byte("Package:")) {
		err = i.readStatus(in)
	} else {
		err = i.readLines(in)
	}
	if err == nil && len(i.packages) == 0 {
		err = errors.New("it names no installed package: give /var/lib/dpkg/status of a node, or the output of " +
			"dpkg-query -W there")
	}
	return i, err
}

func (i *Installed) readStatus(r io.Reader) error {
	p := newParagraphs(r, maxInstalled, false)
	p.keep = func(f string) bool { return f == "status" || kept[f] }
	for {
		f, line, err := p.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if state := strings.Fields(f["status"]); len(state) != 3 || state[2] != "installed" {
			continue
		}
		i.add(f["package"], installedPackage{f["version"], f["architecture"], multiArch(f["multi-arch"]),
			join(f["pre-depends"], f["depends"])})
		for _, v := range providesOf(f["provides"]) {
			i.provided[v.name] = append(i.provided[v.name], provided{f["package"], v.version})
		}
	}
}

func (i *Installed) readLines(r io.Reader) error {
	in := bufio.NewScanner(io.LimitReader(r, maxInstalled))
	for n := 1; in.Scan(); n++ {
		line := in.Text()
		m := installedLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			i.add(m[1], installedPackage{version: m[3], arch: m[2]})
		case strings.TrimSpace(line) == "" || len(i.packages) == 0: // the head of dpkg -l
		case strings.Contains(line, "\t") || regexp.MustCompile(`^[a-z][a-zA-Z ]{2} `).MatchString(line):
			// not installed: dpkg-query has no version, dpkg -l another state
		default:
			return fmt.Errorf("line %d: %.100q is not a line of dpkg-query -W", n, line)
		}
	}
	return in.Err()
}

func (i *Installed) add(name string, p installedPackage) {
	if len(i.packages[name]) == 0 {
		i.names = append(i.names, name)
	}
	i.packages[name] = append(i.packages[name], p)
}

// satisfies reports whether something installed satisfies an alternative of a package of an architecture.
func (i *Installed) satisfies(a *alternative, m *machine, arch string) bool {
	if i == nil {
		return false
	}
	for _, p := range i.packages[a.name] {
		have := p.arch
		if have == "" {
			have = m.native
		}
		if a.accepts(p.version) && m.fits(have, p.multiArch, a.arch, arch) != not {
			return true
		}
	}
	for _, v := range i.provided[a.name] {
		if a.op == "" || v.version != "" && a.accepts(v.version) {
			return true
		}
	}
	// A list of names and versions does not have what they provide: the indices may.
	for _, p := range m.provided(a.name) {
		if (a.op == "" || p.version != "" && a.accepts(p.version)) && i.has(p.Package, m.native) {
			return true
		}
	}
	return false
}

// has reports whether a package is installed in this version.
func (i *Installed) has(p *Package, native string) bool {
	if i == nil {
		return false
	}
	for _, q := range i.packages[p.Name] {
		sameArch := q.arch == p.Arch || q.arch == "" && (p.Arch == native || p.Arch == "all")
		if sameArch && compareVersions(q.version, p.Version) == 0 {
			return true
		}
	}
	return false
}
