package lists

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// component is the subject of one of Kubespray's checksums, and how it is recognised in a URL. Kubespray's table does
// not have URLs; its names are similar to those of the files, and a wrong guess would refuse a right file, so
// everything in the table's keys must be in the URL, and the remaining candidates must agree.
type component struct {
	words   []string // of the variable's name, without the words that mark it as a table
	places  []string // operating system and architecture, if the table has them; not "no_arch"
	version string
}

func (c component) String() string {
	return strings.Join(append(append([]string{strings.Join(c.words, "_")}, c.places...), c.version), " ")
}

// newComponent makes a component from the keys that lead to a checksum: variable, places, version.
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

// architectures are the spellings of architectures in file names. Other places have one spelling.
var architectures = map[string][]string{
	"amd64": {"amd64", "x8664", "x64"},
	"arm64": {"arm64", "aarch64"},
	"arm":   {"arm", "armv7l", "armv7", "armhf"},
}

func bareVersion(v string) string { return strings.TrimPrefix(v, "v") }

var (
	words = regexp.MustCompile(`[a-z0-9]+`)
	// versions matches versions in a URL. Suffixes belong to it: 1.2.3-rc1 and 1.2.3+k3s1 are not 1.2.3.
	versions = regexp.MustCompile(`[0-9]+(?:\.[0-9]+)*(?:(?:-|%2[Bb]|\+)(?:alpha|beta|rc|k3s|rke2|k0s)[0-9a-z.-]*)?`)
)

// findComponent finds the checksum of the component in a URL.
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

// score returns how well the words of a URL match: 0 if a word or place is missing, or if the file's own name has
// nothing of the component.
func (c component) score(all, base []string) int {
	inBase, score := false, 0
	for _, w := range c.words {
		if !joined(all, w) {
			if w == "crds" { // gateway_api_standard_crds is the checksum of standard-install.yaml
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

// joined reports whether some neighbouring words are w when written together: "cri-o" is crio, "x86_64" is x8664.
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
