package search

import (
	"context"
	"iter"
	"slices"
	"strings"

	"casemate/appliance/names"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// The index is the names as text, in units that are replaced as a whole: a repository, a directory of files, the owner
// of DNS records. So a search is a search in a few strings, and a change costs the reading of its unit. Units are
// sorted by key, and the lines of a unit too; a position is a unit's key and a line's first field. Every slice is
// replaced and never changed, so that a search sees one state while it is consumed.

// unit is a part of the index.
type unit struct {
	// key is the section and the name: a canonical repository, a directory of files in the tree, an owner.
	key string
	// text are lines, each ended by \n: TAG\tDIGEST or @DIGEST of a repository, ELEMENT\tDIGEST of a directory, and
	// TYPE\tVALUES of an owner.
	text string
	// lowKey and low are the key and the text in lower case, which costs memory only where they have capitals.
	lowKey, low string
}

func newUnit(key, text string) unit { return unit{key, text, lower(key), lower(text)} }

// may reports whether a unit can have hits: a cheap check that leaves out nearly all units of nearly all searches.
func (u *unit) may(q query) bool {
	switch u.key[0] {
	case sectionImages:
		// The text may begin in the name and end in a tag or digest.
		return strings.ContainsAny(q.text, ":@") || u.has(q.text)
	case sectionFiles:
		return strings.Contains(q.inFiles, "/") || u.has(q.inFiles) || u.has(q.text)
	}
	return strings.Contains(q.text, " ") || u.has(q.text)
}

func (u *unit) has(text string) bool {
	return strings.Contains(u.lowKey[1:], text) || strings.Contains(u.low, text)
}

// byKey compares a unit's key.
func byKey(u unit, key string) int { return strings.Compare(u.key, key) }

// The sections, in the order in which they are searched. The first two are public.
const (
	sectionImages  = '1'
	sectionFiles   = '2'
	sectionNames   = '3'
	sectionImports = "4" // not in the index
)

// Positions in a unit before and after all lines.
const (
	beforeLines = "\x01"
	afterLines  = "\U0010ffff"
)

// find yields the hits in a unit behind the line last. charts reports whether a directory is one of charts.
func (u *unit) find(q query, last string, charts func(dir string) bool) iter.Seq[Hit] {
	switch u.key[0] {
	case sectionImages:
		return u.images(q, last)
	case sectionFiles:
		return u.files(q, last, charts)
	}
	return u.names(q, last)
}

// lines yields the two fields of each line behind last.
func (u *unit) lines(last string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for line := range strings.Lines(u.text) {
			first, second, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if first > last && !yield(first, second) {
				return
			}
		}
	}
}

func (u *unit) images(q query, last string) iter.Seq[Hit] {
	return func(yield func(Hit) bool) {
		name := u.key[1:]
		if last < beforeLines && contains(name, q.text) {
			if !yield(Hit{Kind: KindRepository, Name: name, at: u.key + "\n" + beforeLines}) {
				return
			}
		}
		// A reference may contain the text although neither of its parts does.
		part, tag, tagged := cutLast(q.text, ":")
		tagged = tagged && strings.HasSuffix(name, part)
		part, dg, digested := strings.Cut(q.text, "@")
		digested = digested && strings.HasSuffix(name, part)
		if !tagged && !digested && !contains(u.text, q.text) {
			return
		}
		for first, digest := range u.lines(last) {
			h := Hit{Kind: KindImage, Name: name + ":" + first, Digest: digest, at: u.key + "\n" + first}
			var ok bool
			if d, is := strings.CutPrefix(first, "@"); is {
				h.Name, h.Digest = name+first, d
				ok = q.digest(d) || digested && strings.HasPrefix(d, dg)
			} else {
				ok = contains(first, q.text) || q.digest(digest) || tagged && strings.HasPrefix(lower(first), tag)
			}
			if ok && !yield(h) {
				return
			}
		}
	}
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (u *unit) files(q query, last string, charts func(string) bool) iter.Seq[Hit] {
	return func(yield func(Hit) bool) {
		dir := u.key[1:]
		all, deep := contains(dir, q.inFiles), strings.Contains(q.inFiles, "/")
		if !all && !deep && !contains(u.text, q.inFiles) && !contains(u.text, q.text) {
			return
		}
		for elem, digest := range u.lines(last) {
			shown := strings.TrimSuffix(elem, "?")
			if !all && !contains(shown, q.inFiles) && !q.digest(digest) &&
				!(deep && contains(dir+"/"+shown, q.inFiles)) {
				continue
			}
			h := Hit{KindFile, fileserver.URL(dir + "/" + elem), "", digest, u.key + "\n" + elem}
			switch name, _, _ := strings.Cut(elem, "?"); {
			case isPackage(name):
				h.Kind = KindPackage
			case strings.HasSuffix(name, ".tgz") && charts(dir):
				h.Kind = KindChart
			}
			if !yield(h) {
				return
			}
		}
	}
}

func isPackage(name string) bool {
	for _, ext := range []string{".deb", ".udeb", ".ddeb", ".rpm", ".whl"} {
		if strings.HasSuffix(name, ext) {
			return true
		}
	}
	return false
}

// hasCharts reports whether a directory, or the one above it, has the index of a repository of charts.
func hasCharts(units []unit, dir string) bool {
	for range 2 {
		key := string(sectionFiles) + dir
		i, ok := slices.BinarySearchFunc(units, key, byKey)
		if ok && strings.Contains("\n"+units[i].text, "\nindex.yaml?\t") {
			return true
		}
		if i := strings.LastIndexByte(dir, '/'); i > 0 {
			dir = dir[:i]
		}
	}
	return false
}

func (u *unit) names(q query, last string) iter.Seq[Hit] {
	return func(yield func(Hit) bool) {
		owner := u.key[1:]
		all := strings.Contains(owner, q.text)
		if !all && !contains(u.text, q.text) && !strings.Contains(q.text, " ") {
			return
		}
		for kind, values := range u.lines(last) {
			h := Hit{Kind: KindName, Name: owner + " " + kind, Detail: values, at: u.key + "\n" + kind}
			if (all || contains(values, q.text) || contains(h.Name, q.text)) && !yield(h) {
				return
			}
		}
	}
}

// index follows the tree. One goroutine at a time calls fresh.
type index struct {
	cfg   Config
	stop  func()
	takes map[byte]func() (names []string, all bool)
	units []unit
	built bool
}

// directories of the tree, by section.
var directories = map[byte]string{sectionImages: "registry", sectionFiles: "files", sectionNames: "names"}

// follow returns an empty index.
func follow(cfg Config) *index {
	ctx, cancel := context.WithCancel(context.Background())
	x := &index{cfg: cfg, stop: cancel, takes: map[byte]func() ([]string, bool){}}
	for section, dir := range directories {
		_, x.takes[section] = cfg.Tree.Follow(ctx, dir)
	}
	return x
}

// manyChanges is how many changes are read one by one.
const manyChanges = 500

// fresh returns the units as the tree is now.
func (x *index) fresh(ctx context.Context) ([]unit, error) {
	for section, take := range x.takes {
		changed, all := take() // before reading
		c := newChanges(section)
		var err error
		if all || !x.built || len(changed) > manyChanges {
			err = x.readAll(ctx, c)
		} else {
			err = x.readChanged(ctx, c, changed)
		}
		if err != nil {
			return nil, err
		}
		x.units = c.apply(x.units)
	}
	x.built = true
	return x.units, nil
}

// changes are new texts of units of one section.
type changes struct {
	section byte
	gone    []string            // everything at or below these names goes first; "": all
	texts   map[string][]string // the lines of a unit by its name; none: it goes
}

func newChanges(section byte) *changes {
	return &changes{section: section, texts: map[string][]string{}}
}

func (c *changes) add(name, line string) { c.texts[name] = append(c.texts[name], line) }

// apply returns the units with the changes.
func (c *changes) apply(units []unit) []unit {
	if len(c.gone)+len(c.texts) == 0 {
		return units
	}
	stays := func(u unit) bool {
		if u.key[0] != c.section {
			return true
		}
		if _, changed := c.texts[u.key[1:]]; changed {
			return false
		}
		return !slices.ContainsFunc(c.gone, func(dir string) bool { return under(u.key[1:], dir) })
	}
	next := make([]unit, 0, len(units)+len(c.texts))
	for _, u := range units {
		if stays(u) {
			next = append(next, u)
		}
	}
	for name, lines := range c.texts {
		if len(lines) > 0 {
			slices.Sort(lines)
			next = append(next, newUnit(string(c.section)+name, strings.Join(slices.Compact(lines), "")))
		}
	}
	slices.SortFunc(next, func(x, y unit) int { return strings.Compare(x.key, y.key) })
	return next
}

// under reports whether a name is dir or below it; everything is below "".
func under(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (dir == "" || rest == "" || rest[0] == '/')
}

// readAll reads a section.
func (x *index) readAll(ctx context.Context, c *changes) error {
	c.gone = []string{""}
	switch c.section {
	case sectionImages:
		return x.readImages(ctx, c, "", false)
	case sectionFiles:
		return x.readFiles(ctx, c, "files")
	}
	return x.readNames(ctx, c, "names")
}

// readChanged reads what changed: names of the tree, or directories that are gone.
func (x *index) readChanged(ctx context.Context, c *changes, changed []string) error {
	done := map[string]bool{}
	for _, name := range changed {
		var err error
		rest := strings.TrimPrefix(strings.TrimPrefix(name, directories[c.section]), "/")
		switch c.section {
		case sectionImages:
			rest = strings.TrimPrefix(strings.TrimPrefix(rest, "repositories"), "/")
			repo, inside, in := strings.Cut(rest, "/_")
			switch {
			case done[repo], in && !under(inside, "manifests"):
				continue
			case in:
				done[repo] = true
				c.texts[repo] = nil
				err = x.readImages(ctx, c, repo, true)
			default: // a directory of repositories was removed
				c.gone = append(c.gone, rest)
				err = x.readImages(ctx, c, rest, false)
			}
		case sectionFiles:
			if !strings.Contains(rest, "?") { // a directory was removed
				c.gone = append(c.gone, rest)
				err = x.readFiles(ctx, c, name)
				break
			}
			dir := rest[:max(0, strings.LastIndexByte(rest, '/'))]
			if done[dir] {
				continue
			}
			done[dir] = true
			c.texts[dir] = nil
			for child := range tree.Children(x.cfg.Tree.Walk, "files/"+dir, "") {
				if d := tree.DigestOf(child.Info); !child.Dir && d != "" {
					c.add(dir, child.Name+"\t"+d+"\n")
				}
			}
		default:
			owner := names.Owner(name)
			if done[owner] || owner == "" {
				continue
			}
			done[owner] = true
			c.texts[owner] = nil
			err = x.readNames(ctx, c, "names/"+owner)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// readImages reads the repositories at or below a path, or one alone.
func (x *index) readImages(ctx context.Context, c *changes, path string, alone bool) error {
	read := x.cfg.Registry.Names(ctx, path)
	if alone {
		read = x.cfg.Registry.NamesIn(ctx, path)
	}
	repo := ""
	untagged := map[string]bool{} // of repo
	flush := func() {
		for d := range untagged {
			c.add(repo, "@"+d+"\n")
		}
		clear(untagged)
	}
	for n, err := range read {
		if err != nil {
			return err
		}
		if n.Repository != repo {
			flush()
			repo = n.Repository
			c.texts[repo] = nil
		}
		if n.Tag == "" {
			untagged[n.Digest] = true
			continue
		}
		delete(untagged, n.Digest)
		c.add(repo, n.Tag+"\t"+n.Digest+"\n")
	}
	flush()
	return nil
}

// readFiles reads the files below a directory of the tree.
func (x *index) readFiles(ctx context.Context, c *changes, dir string) error {
	for name, fi := range x.cfg.Tree.Walk(dir, "") {
		if ctx.Err() != nil {
			break
		}
		d := tree.DigestOf(fi)
		key := strings.TrimPrefix(name, "files/")
		if i := strings.LastIndexByte(key, '/'); i > 0 && d != "" {
			c.add(key[:i], key[i+1:]+"\t"+d+"\n")
		}
	}
	return ctx.Err()
}

var oneLine = strings.NewReplacer("\n", " ", "\t", " ")

// readNames reads the DNS records at or below a name of the tree. One that cannot be read has no values.
func (x *index) readNames(ctx context.Context, c *changes, dir string) error {
	for path := range x.cfg.Tree.Walk(dir, "") {
		if ctx.Err() != nil {
			break
		}
		owner, kind, ok := strings.Cut(strings.TrimPrefix(path, "names/"), "/")
		if !ok {
			continue
		}
		values := ""
		if r, here, err := names.Read(x.cfg.Tree, path); err == nil && here {
			values = oneLine.Replace(strings.Join(r.Values, " "))
		}
		c.add(owner, kind+"\t"+values+"\n")
	}
	return ctx.Err()
}
