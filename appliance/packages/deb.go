package packages

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"casemate/appliance/usage"
	"casemate/bundle/ospackages/deb"
)

// A DEB repository has one suite with one component:
//
//	deb [signed-by=…] https://packages.<domain>/<name> stable main
const (
	Suite     = "stable"
	Component = "main"
)

// maxArchs bounds the indices of a repository: each architecture has one. Debian had less than 20 at any time.
const maxArchs = 50

// usualArchs are listed even without packages, so that apt on such nodes has no notice about them.
var usualArchs = []string{"all", "amd64", "arm64"}

// readDEB reads an uploaded package to its end.
func readDEB(r io.Reader) (*uploaded, error) {
	f, err := deb.ReadFile(r)
	if err != nil {
		return nil, err
	}
	_, version, ok := strings.Cut(f.Version, ":") // names of files have no epoch
	if !ok {
		version = f.Version
	}
	return &uploaded{
		entry: entry{Name: f.Name, Version: f.Version, Arch: f.Arch},
		dir:   "pool", base: f.Name + "_" + version + "_" + f.Arch + ".deb",
		describe: func(e *entry) ([]string, error) {
			return []string{fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %s\n\n", f.Control, e.File, e.Size,
				strings.TrimPrefix(e.Digest, "sha256:"))}, nil
		},
	}, nil
}

// writeDEB writes the suite (https://wiki.debian.org/DebianRepository/Format). The packages of all architectures have
// an index of their own, which apt reads besides that of its architecture. There is no Valid-Until: a cluster may be
// switched off for longer than any period, and its repositories have to be usable at once when it is back.
func (s *Store) writeDEB(name string, r *repository, keys []*signingKey) (documents, error) {
	docs := documents{indices: map[string][]byte{}, rest: map[string][]byte{}}
	lists := map[string]*strings.Builder{}
	for _, arch := range usualArchs {
		lists[arch] = &strings.Builder{}
	}
	for i := range r.packages {
		p := &r.packages[i]
		if lists[p.Arch] == nil {
			lists[p.Arch] = &strings.Builder{}
		}
		lists[p.Arch].WriteString(p.Metadata[0])
	}
	archs := slices.Sorted(maps.Keys(lists))
	if len(archs) > maxArchs {
		return docs, usage.Errorf("the repository would have packages of %d architectures, more than %d", len(archs),
			maxArchs)
	}
	var sums strings.Builder
	for _, arch := range archs {
		dir := Component + "/binary-" + arch
		plain := []byte(lists[arch].String())
		packed, err := compressed(plain)
		if err != nil {
			return docs, err
		}
		// The plain form is only described, as in the repositories of distributions: apt compares it after unpacking.
		fmt.Fprintf(&sums, " %x %d %s/Packages\n", sha256.Sum256(plain), len(plain), dir)
		sum := fmt.Sprintf("%x", sha256.Sum256(packed))
		fmt.Fprintf(&sums, " %s %d %s/Packages.gz\n", sum, len(packed), dir)
		docs.rest["dists/"+Suite+"/"+dir+"/Packages.gz"] = packed
		docs.indices["dists/"+Suite+"/"+dir+"/by-hash/SHA256/"+sum] = packed
	}
	release := []byte(fmt.Sprintf("Origin: %s\nLabel: %s\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\n"+
		"Components: %s\nDescription: packages of one's own\nAcquire-By-Hash: yes\nSHA256:\n%s",
		s.cfg.Host, name, Suite, Suite, strings.Replace(r.Date.Format(http.TimeFormat), "GMT", "UTC", 1),
		strings.Join(archs, " "), Component, sums.String()))
	inline, err := clearsigned(release, keys, s.cfg.Now)
	if err != nil {
		return docs, err
	}
	detached, err := detached(release, keys, s.cfg.Now)
	docs.rest["dists/"+Suite+"/Release"] = release
	docs.rest["dists/"+Suite+"/InRelease"] = inline
	docs.rest["dists/"+Suite+"/Release.gpg"] = detached
	return docs, err
}
