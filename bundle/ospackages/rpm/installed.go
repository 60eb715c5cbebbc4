package rpm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

const maxInstalled = 64 << 20 // bytes of a list

// Installed is what is installed on nodes of one kind.
type Installed struct {
	packages map[string][]installedPackage
}

type installedPackage struct {
	evr      evr
	arch     string
	anyEpoch bool // rpm -qa does not print epochs
}

// installedLine is one of rpm -qa: NAME-[EPOCH:]VERSION-RELEASE.ARCH; with a date after it (rpm -qa --last).
var installedLine = regexp.MustCompile(`^([A-Za-z0-9_]\S*)-((?:[0-9]+:|\(none\):)?)([^-\s:]+)-([^-\s]+)\.` +
	`([a-z][a-z0-9_]*)(?:\s.*)?$`)

// IsInstalled reports whether a text is one that ReadInstalled reads.
func IsInstalled(head []byte) bool {
	for line := range strings.Lines(string(head)) {
		if line = strings.TrimSpace(line); line != "" {
			return installedLine.MatchString(line)
		}
	}
	return false
}

// ReadInstalled reads the output of rpm -qa on a node.
func ReadInstalled(r io.Reader) (*Installed, error) {
	i := &Installed{packages: map[string][]installedPackage{}}
	in := bufio.NewScanner(io.LimitReader(r, maxInstalled))
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "gpg-pubkey-") {
			continue
		}
		m := installedLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("line %d: %.100q is not a line of rpm -qa", n, line)
		}
		epoch := strings.Replace(m[2], "(none)", "0", 1)
		i.packages[m[1]] = append(i.packages[m[1]], installedPackage{parseEVR(epoch + m[3] + "-" + m[4]), m[5],
			m[2] == ""})
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if len(i.packages) == 0 {
		return nil, errors.New("it names no installed package: give the output of rpm -qa on a node")
	}
	return i, nil
}

// has reports whether a package is installed in this version.
func (i *Installed) has(p *Package) bool {
	if i == nil {
		return false
	}
	for _, q := range i.packages[p.Name] {
		e := q.evr
		if q.anyEpoch {
			e.epoch = p.evr.epoch
		}
		if q.arch == p.Arch && e.compare(p.evr) == 0 {
			return true
		}
	}
	return false
}

// older reports whether a package is installed in another version, for the same architecture.
func (i *Installed) older(p *Package) bool {
	if i == nil || i.has(p) {
		return false
	}
	for _, q := range i.packages[p.Name] {
		if q.arch == p.Arch || q.arch == "noarch" || p.Arch == "noarch" {
			return true
		}
	}
	return false
}

// satisfies reports whether something installed satisfies a dependency: by its name and version, or, if the indices
// have the same package, by what that provides.
func (i *Installed) satisfies(d *dep, u *universe) bool {
	if i == nil {
		return false
	}
	for _, q := range i.packages[d.name] {
		have := dep{d.name, q.evr, equal}
		if q.anyEpoch {
			have.evr.epoch = d.evr.epoch
		}
		if d.meets(&have) {
			return true
		}
	}
	for _, v := range u.provided[d.name] {
		if d.meets(v.dep) && i.has(v.Package) {
			return true
		}
	}
	return false
}
