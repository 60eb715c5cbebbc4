package lists

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxChecksums is the maximum size of a file of checksums, in bytes. Kubespray's has some 200 KiB.
const maxChecksums = 16 << 20

// Checksums holds the content of files of checksums. The zero value and nil are empty.
type Checksums struct {
	sums       []knownSum            // of files, by name
	components []knownSum            // of Kubespray's components
	byBase     map[string][]int      // of sums, by the last element of the name
	byVersion  map[string][]int      // of components
	byDigest   map[string]knownNames // the source of a digest
}

// knownSum is one checksum.
type knownSum struct {
	digest string
	where  string // FILE:LINE
	// the name of a file, perhaps with directories; or a component with version and architecture, for messages
	name string
	component
}

// knownNames are names that share a digest; only a few are kept for messages.
type knownNames []string

// ReadChecksums reads one file of checksums: what sha256sum, sha512sum, shasum and the BSDs' sha256 write, a lone
// checksum ("kubelet.sha256"), or Kubespray's checksums.yml. name is the file's name in messages, and the name of the
// file that a lone checksum is of. Errors name the lines.
func ReadChecksums(name string, r io.Reader) (*Checksums, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxChecksums+1))
	if err != nil {
		return nil, fmt.Errorf("%s: read: %w", name, err)
	}
	if len(b) > maxChecksums {
		return nil, fmt.Errorf("%s: a file of checksums has at most %d MiB", name, maxChecksums>>20)
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	c := &Checksums{}
	if looksLikeYAML(b) {
		err = c.readYAML(name, b)
	} else {
		err = c.readLines(name, b)
	}
	if err != nil {
		return nil, err
	}
	if len(c.sums)+len(c.components) == 0 {
		return nil, fmt.Errorf("%s: no checksum in it", name)
	}
	c.index()
	return c, nil
}

// Add adds the checksums of more.
func (c *Checksums) Add(other *Checksums) {
	if other != nil {
		c.sums = append(c.sums, other.sums...)
		c.components = append(c.components, other.components...)
		c.index()
	}
}

func (c *Checksums) index() {
	c.byBase, c.byVersion, c.byDigest = map[string][]int{}, map[string][]int{}, map[string]knownNames{}
	for i, s := range c.sums {
		c.byBase[path.Base(s.name)] = append(c.byBase[path.Base(s.name)], i)
	}
	for i, s := range c.components {
		c.byVersion[bareVersion(s.version)] = append(c.byVersion[bareVersion(s.version)], i)
	}
	for _, s := range slices.Concat(c.components, c.sums) {
		if have := c.byDigest[s.digest]; len(have) < 4 && !slices.Contains(have, s.name) {
			c.byDigest[s.digest] = append(have, s.name)
		}
	}
}

var (
	// sumLine is a line of sha256sum: the checksum, a space, a space or "*" (binary mode), the name. A "\" before it
	// says that the name is escaped.
	sumLine = regexp.MustCompile(`^(\\?)([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})[ \t]+\*?(\S.*)$`)
	bsdLine = regexp.MustCompile(`^(?:SHA(256|512)|SHA2-(256|512)) ?\((.+)\) ?= ?([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})$`)
	sumOnly = regexp.MustCompile(`^([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})$`)
	weakSum = regexp.MustCompile(
		`^(?:\\?[0-9A-Fa-f]{32}|\\?[0-9A-Fa-f]{40}|\\?[0-9A-Fa-f]{56}|\\?[0-9A-Fa-f]{96})(?:[ \t]|$)` +
			`|^(MD5|SHA1|SHA224|SHA384) ?\(`,
	)
	yamlKey = regexp.MustCompile(`^(---|[A-Za-z_][A-Za-z0-9_.-]*:)(\s|$)`)
)

// looksLikeYAML examines the first line that is not empty or a comment.
func looksLikeYAML(b []byte) bool {
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return yamlKey.Match(line)
		}
	}
	return false
}

func (c *Checksums) readLines(name string, b []byte) error {
	var bad BadLists
	in := bufio.NewScanner(bytes.NewReader(b))
	in.Buffer(nil, maxListLine)
	n := 0
	for in.Scan() {
		n++
		line := strings.TrimRight(in.Text(), " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		s := knownSum{where: fmt.Sprintf("%s:%d", name, n)}
		var sum string
		if m := sumLine.FindStringSubmatch(line); m != nil {
			sum, s.name = m[2], m[3]
			if m[1] != "" {
				s.name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(s.name)
			}
		} else if m := bsdLine.FindStringSubmatch(line); m != nil && (len(m[4]) == 64) == (m[1]+m[2] == "256") {
			sum, s.name = m[4], m[3]
		} else if sumOnly.MatchString(line) {
			sum = line
			s.name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(path.Base(strings.ReplaceAll(name, `\`,
				"/")), "sum"), ".sha256"), ".sha512")
		} else {
			err := errors.New("not a line of a file of checksums: write HEX, two spaces and the file's name, as " +
				"sha256sum does")
			if weakSum.MatchString(line) {
				err = errors.New("only sha256 and sha512 are accepted: use one of those")
			}
			if len(bad.Lines) < maxBadLines {
				bad.Lines = append(bad.Lines, fmt.Sprintf("%s: %s: %v", s.where, shown(line), err))
			} else {
				bad.More++
			}
			continue
		}
		s.digest, _ = ParseChecksum(sum)
		s.name = strings.TrimPrefix(strings.ReplaceAll(s.name, `\`, "/"), "./")
		c.sums = append(c.sums, s)
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	if len(bad.Lines) > 0 {
		return &bad
	}
	return nil
}

// readYAML reads Kubespray's checksums.yml: component_checksums, then perhaps an operating system and an architecture,
// then the version; the checksum is "sha256:HEX" or HEX. 0 means that there is no such file.
func (c *Checksums) readYAML(name string, b []byte) error {
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var bad BadLists
	var walk func(n *yaml.Node, keys []string)
	walk = func(n *yaml.Node, keys []string) {
		switch {
		case n.Kind == yaml.DocumentNode:
			for _, v := range n.Content {
				walk(v, keys)
			}
		case n.Kind == yaml.MappingNode && len(keys) < 5:
			for i := 0; i+1 < len(n.Content); i += 2 {
				walk(n.Content[i+1], append(keys[:len(keys):len(keys)], n.Content[i].Value))
			}
		case n.Kind != yaml.ScalarNode || len(keys) < 2 || !strings.HasSuffix(keys[0], "_checksums") ||
			n.Value == "0" || n.Value == "":
		default:
			s := knownSum{where: fmt.Sprintf("%s:%d", name, n.Line), component: newComponent(keys)}
			s.name = s.component.String()
			var err error
			if s.digest, err = ParseChecksum(n.Value); err == nil {
				c.components = append(c.components, s)
			} else if len(bad.Lines) < maxBadLines {
				bad.Lines = append(bad.Lines, fmt.Sprintf("%s: %s: %v", s.where, strings.Join(keys, " "), err))
			} else {
				bad.More++
			}
		}
	}
	walk(&root, nil)
	if len(bad.Lines) > 0 {
		return &bad
	}
	return nil
}

// Find returns the digest that the file at a URL must have, and its source. A name in a file of checksums is matched
// with the URL's last element, and with more of its path if several files have that name. known without a digest says
// why the existing checksums do not help.
func (c *Checksums) Find(rawURL string) (digest, known string, ok bool) {
	if c == nil {
		return "", "", false
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Path == "" {
		return "", "", false
	}
	if digest, known, ok = c.findName(u.Path); ok || known != "" {
		return digest, known, ok
	}
	return c.findComponent(u)
}

// findName finds the names that are a suffix of the path, and returns the longest.
func (c *Checksums) findName(p string) (digest, known string, ok bool) {
	elems := strings.Split(p, "/")
	most := 0
	var best []knownSum
	for _, i := range c.byBase[path.Base(p)] {
		s := c.sums[i]
		n := 0 // number of equal elements from the end
		for names := strings.Split(s.name, "/"); n < len(names) && n < len(elems) &&
			names[len(names)-1-n] == elems[len(elems)-1-n]; n++ {
		}
		if n > most {
			most, best = n, nil
		}
		if n == most && !slices.ContainsFunc(best, func(b knownSum) bool { return b.digest == s.digest }) {
			best = append(best, s)
		}
	}
	return choose(best)
}

// choose returns the checksum on which all agree. A sha256 and a sha512 of one file do not contradict each other; the
// sha256 is used then.
func choose(best []knownSum) (digest, known string, ok bool) {
	if len(best) == 2 && len(best[0].digest) != len(best[1].digest) {
		if len(best[0].digest) > len(best[1].digest) {
			best[0] = best[1]
		}
		best = best[:1]
	}
	switch len(best) {
	case 0:
		return "", "", false
	case 1:
		return best[0].digest, best[0].known(), true
	}
	return "", fmt.Sprintf("ambiguous: %s and %s", best[0].known(), best[1].known()), false
}

func (s knownSum) known() string { return s.where + ": " + s.name }

// Other returns the known artifact that has a digest ("kubelet arm64 1.35.4"), or "".
func (c *Checksums) Other(digest string) string {
	if c == nil {
		return ""
	}
	return strings.Join(c.byDigest[digest], ", ")
}

// Apply gives the known digests to the files of w that have none. It returns a note for each file whose checksum is
// ambiguous; the error, a *BadLists, names the files for which a list and the checksums have different digests.
func (c *Checksums) Apply(w *Wanted) (notes []string, err error) {
	var bad BadLists
	for i := range w.Files {
		f := &w.Files[i]
		digest, known, ok := c.Find(f.URL)
		switch {
		case !ok && known != "" && f.Digest == "":
			notes = append(notes, fmt.Sprintf("%s is not checked, its checksum is %s", f.URL, known))
		case !ok:
		case f.Digest == "":
			f.Digest, f.Known = digest, known
		case len(f.Digest) == len(digest) && f.Digest != digest:
			if len(bad.Lines) == maxBadLines {
				bad.More++
				continue
			}
			bad.Lines = append(
				bad.Lines,
				fmt.Sprintf(
					"%s: %s has %s (%s), but %s says %s: remove the one that is wrong",
					f.Where,
					f.URL,
					f.Digest,
					f.Known,
					known,
					digest,
				),
			)
		}
	}
	if len(bad.Lines) > 0 {
		return notes, &bad
	}
	return notes, nil
}
