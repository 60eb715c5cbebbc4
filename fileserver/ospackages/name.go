package ospackages

import (
	"net/url"
	"regexp"
	"strings"
)

// Package is what the name of a package file says. It has no epoch.
type Package struct {
	Format  string `json:"format"` // "deb" or "rpm"
	Name    string `json:"name"`
	Version string `json:"version"` // with release or revision
	Arch    string `json:"arch"`    // in the format's own names: amd64, all, x86_64, noarch
}

var (
	debFile = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]*)_([0-9A-Za-z.+:~-]+)_([a-z0-9-]+)\.u?deb$`)
	// NAME-VERSION-RELEASE.ARCH.rpm: neither version nor release has a dash.
	rpmFile = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9+._-]*)-([A-Za-z0-9+._~^]+-[A-Za-z0-9+._~^]+)\.` +
		`([a-z0-9_]+)\.rpm$`)
)

// ParseFileName reads the name of a package file, the last element of its URL's path, also percent-encoded.
func ParseFileName(name string) (Package, bool) {
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	if len(name) > 512 {
		return Package{}, false
	}
	if m := debFile.FindStringSubmatch(name); m != nil {
		version := m[2]
		if _, rest, ok := strings.Cut(version, ":"); ok {
			version = rest
		}
		return Package{"deb", m[1], version, m[3]}, version != ""
	}
	if m := rpmFile.FindStringSubmatch(name); m != nil && m[3] != "src" && m[3] != "nosrc" {
		return Package{"rpm", m[1], m[2], m[3]}, true
	}
	return Package{}, false
}
