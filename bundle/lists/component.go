package lists

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// component is what one of Kubespray's checksums is of, and how it is recognised in a URL. Kubespray's table says
// nothing about URLs; its names are close to those of the files, and a wrong guess would refuse a right file, so
// everything that the table's keys say must stand in the URL, and what is left to choose from must agree.
type component struct {
	words   []string // of the variable's name, without what only says that it is a table
	places  []string // operating system and architecture, as far as the table has them; not "no_arch"
	version string
}

func (c component) String() string {
	return strings.Join(append(append([]string{strings.Join(c.words, "_")}, c.places...), c.version), " ")
}

// newComponent makes one of the keys that lead to a checksum: variable, places, version.
func newComponent(keys []string) component {
	c := component{version: keys[len(keys)-1]}
	for w := range strings.SplitSeq(strings.TrimSuffix(keys[0], "_checksums"), "_") {
		if w != "binary" && w != "archive" {
			c.words = append(c.words, w)
		}
	}
	for _, place := range keys[1 : len(keys)-1] {
		if place != "no_arch" {
			c.places = append(c.places, place)
		}
	}
	return c
}

// architectures are the ways in which files spell one. A place that is not here has one spelling.
var architectures = map[string][]string{
	"amd64": {"amd64", "x8664", "x64"},
	"arm64": {"arm64", "aarch64"},
	"arm":   {"arm", "armv7l", "armv7", "armhf"},
}

func bareVersion(v string) string { return strings.TrimPrefix(v, "v") }

var (
	words = regexp.MustCompile(`[a-z0-9]+`)
	// versions is what may be one in a URL. Suffixes belong to it: 1.2.3-rc1 and 1.2.3+k3s1 are not 1.2.3.
	versions = regexp.MustCompile(`[0-9]+(?:\.[0-9]+)*(?:(?:-|%2[Bb]|\+)(?:alpha|beta|rc|k3s|rke2|k0s)[0-9a-z.-]*)?`)
)

// findComponent finds the checksum of the component that a URL is of.
func (c *Checksums) findComponent(u *url.URL) (digest, known string, ok bool) {
	all := words.FindAllString(strings.ToLower(u.Path), -1)
	base := words.FindAllString(strings.ToLower(path.Base(u.Path)), -1)
	most := 0
	var best []knownSum
	tried := map[string]bool{}
	for _, v := range versions.FindAllString(u.EscapedPath(), -1) {
		if tried[v] {
			continue
		}
		tried[v] = true
		for _, i := range c.byVersion[v] {
			s := c.components[i]
			score := s.score(all, base)
			if score > most {
				most, best = score, nil
			}
			if score == most && score > 0 && (len(best) == 0 || best[0].digest != s.digest) {
				best = append(best, s)
			}
		}
	}
	return choose(best)
}

// score says how well a URL's words fit: 0 not at all, because a word or place is missing or the file's own name has
// nothing of it.
func (c component) score(all, base []string) int {
	inBase, score := false, 0
	for _, w := range c.words {
		if !joined(all, w) {
			if w == "crds" { // gateway_api_standard_crds is of standard-install.yaml
				continue
			}
			return 0
		}
		score += len(w)
		if joined(base, w) {
			inBase = true
			score += 100 * len(w)
		}
	}
	// "cilium-linux-amd64.tar.gz" is a file of ciliumcli.
	if len(base) > 0 && len(base[0]) > 2 && strings.HasPrefix(strings.Join(c.words, ""), base[0]) {
		inBase = true
	}
	for _, p := range c.places {
		spellings := architectures[p]
		if spellings == nil {
			spellings = []string{p}
		}
		found := false
		for _, s := range spellings {
			found = found || joined(all, s)
		}
		if !found {
			return 0
		}
	}
	if !inBase {
		return 0
	}
	return score
}

// joined says whether some neighbouring words are w when they are written together: "cri-o" is crio, "x86_64" is x8664.
func joined(all []string, w string) bool {
	for i := range all {
		rest := w
		for j := i; j < len(all) && strings.HasPrefix(rest, all[j]); j++ {
			if rest = rest[len(all[j]):]; rest == "" {
				return true
			}
		}
	}
	return false
}
