package foreign

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/bundle/lists"
)

// treePart is a tree of files under their hosts' names, as wget -x writes it.
type treePart struct {
	a     *archive
	files []treeFile
}

// treeFile is one path of a tree; symbolic links give a file several paths.
type treeFile struct {
	path string // host/path
	*entry
}

// hostPath returns the part of a path that begins with a host, which can be in at most two directories.
func hostPath(name string) (string, bool) {
	for range 3 {
		first, rest, ok := strings.Cut(name, "/")
		if !ok {
			return "", false
		}
		if isTreeHost(first) {
			return name, true
		}
		name = rest
	}
	return "", false
}

// isHost reports whether s is a public host's name: a DNS name with a dot whose last label has only letters (RFC 3696,
// section 2), unlike directories such as v1.32 and file.d.
func isHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	labels := strings.Split(strings.ToLower(s), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	last := labels[len(labels)-1]
	return len(labels) > 1 &&
		(strings.HasPrefix(last, "xn--") || len(last) > 1 && strings.Trim(last, "abcdefghijklmnopqrstuvwxyz") == "")
}

// isTreeHost reports whether a directory has a host's name as wget -x writes it: with the port unless it is the
// default. A name with a port is always a host.
func isTreeHost(s string) bool {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return isHost(s)
	}
	_, err := lists.PlaceURL("https://" + host + "/")
	return err == nil && len(port) <= 5 && port != "" && strings.Trim(port, "0123456789") == ""
}

// isEditorFile reports whether a file was left behind by an editor or a desktop. Other dot files belong to mirrors
// (.treeinfo, .well-known).
func isEditorFile(name string) bool {
	base := path.Base(name)
	switch {
	case base == ".DS_Store",
		strings.HasPrefix(base, "._"),
		strings.HasPrefix(base, ".#"),
		strings.HasPrefix(base, ".nfs"):
		return true
	}
	return strings.HasPrefix(base, ".") && strings.HasPrefix(path.Ext(base), ".sw") && len(path.Ext(base)) == 4
}

// treeURLs returns the URLs of a path host/dir/name?query: its own, and that of the directory for which a web server
// returns it. In a file name, a percent sign before two hex digits is an encoding from the URL ("@scope%2Fname"; wget
// keeps those that a file name needs); also are the URLs for a literal percent sign.
func treeURLs(name string) (urls, also []string) {
	host, rest, _ := strings.Cut(name, "/")
	host, _, _ = strings.Cut(strings.ToLower(host), ":")
	rest, query, asked := strings.Cut(rest, "?")
	if asked {
		query = "?" + escapeQuery(query)
	}
	spellings := func(path string) []string {
		url := "https://" + host + "/" + path
		if dir, ok := strings.CutSuffix(url, "/index.html"); ok {
			return []string{url + query, dir + "/" + query}
		}
		return []string{url + query}
	}
	urls = spellings(escapeUnlessEncoded(rest, "-._~!$&'()*+,;=:@/"))
	if literal := spellings(escapePath(rest)); literal[0] != urls[0] {
		also = literal
	}
	return urls, also
}

const hexDigits = "0123456789ABCDEF"

// escapePath percent-encodes what a path must not contain (RFC 3986, section 3.3); a percent sign is literal.
func escapePath(s string) string { return percentEncode(s, "-._~!$&'()*+,;=:@/") }

// escapeQuery percent-encodes what a query must not contain. wget decodes a query for the file name, except %2F, so a
// percent sign before two hex digits stays.
func escapeQuery(s string) string { return escapeUnlessEncoded(s, "-._~!$&'()*+,;=:@/?") }

// escapeUnlessEncoded percent-encodes everything but letters, digits and bare, and keeps what is encoded.
func escapeUnlessEncoded(s, bare string) string {
	var b strings.Builder
	for i, part := range strings.Split(s, "%") {
		if i > 0 && len(part) > 1 && strings.Trim(part[:2], hexDigits+"abcdef") == "" {
			b.WriteByte('%')
		} else if i > 0 {
			b.WriteString("%25")
		}
		b.WriteString(percentEncode(part, bare))
	}
	return b.String()
}

func percentEncode(s, bare string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(bare, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// newTree returns a tree of the entries and of the links in the archive that lead to some of them. It returns nil if
// there are none.
func (r *Reader) newTree(a *archive, entries []*entry) (*treePart, error) {
	p := &treePart{a: a}
	for _, e := range entries {
		if name, ok := hostPath(e.name); ok {
			p.files = append(p.files, treeFile{name, e})
		}
	}
	if err := p.followLinks(r); err != nil {
		return nil, err
	}
	if len(p.files) == 0 {
		return nil, nil
	}
	if a.truncated {
		return nil, explainReadError(
			fmt.Sprintf("%s: no end marker after %d files", a.name, len(a.entries)),
			io.ErrUnexpectedEOF,
		)
	}
	return p, nil
}

// followLinks adds the paths that symbolic and hard links create. A link to a directory adds a path for each file in
// it.
func (p *treePart) followLinks(r *Reader) error {
	var sorted []*entry
	for _, e := range p.a.entries {
		if p.a.byName[e.name] == e {
			sorted = append(sorted, e)
		}
	}
	slices.SortFunc(sorted, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	// follow adds name for the file at to; inside are the directories that links have led into on the way.
	var follow func(name, to string, inside []string) error
	follow = func(name, to string, inside []string) error {
		if err := r.count(len(name)); err != nil {
			return fmt.Errorf("%s: %w", p.a.name, err)
		}
		to = p.a.resolveLinks(to)
		if e := p.a.file(to); e != nil {
			host, ok := hostPath(name)
			switch {
			case !ok || isEditorFile(name):
			case p.a.open == nil && e.digest == "" && e.data == nil:
				p.a.skip(name, "a link to a file under no host's name")
			default:
				p.files = append(p.files, treeFile{host, e})
			}
			return nil
		}
		for hops := 0; p.a.byName[to] != nil && hops < 16; hops++ {
			to = p.a.byName[to].link // a link to a link to a directory
		}
		if slices.Contains(inside, to) || len(inside) == 8 {
			return nil // a directory that contains itself through a link ends here
		}
		inside = append(inside[:len(inside):len(inside)], to)
		i, _ := slices.BinarySearchFunc(
			sorted,
			to+"/",
			func(e *entry, s string) int { return strings.Compare(e.name, s) },
		)
		if i == len(sorted) || !strings.HasPrefix(sorted[i].name, to+"/") {
			p.a.skip(name, "a link to a missing file")
		}
		for ; i < len(sorted) && strings.HasPrefix(sorted[i].name, to+"/"); i++ {
			if err := follow(name+sorted[i].name[len(to):], sorted[i].name, inside); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range sorted {
		if e.link != "" {
			if err := follow(e.name, e.link, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *treePart) kind() string { return bundle.KindTree }

func (p *treePart) need(*Reader) int64 {
	var n int64
	for _, e := range p.unique() {
		if e.digest == "" {
			n += e.size
		}
	}
	return n
}

// unique returns every file once, in the order of the archive.
func (p *treePart) unique() []*entry {
	seen := make(map[*entry]bool, len(p.files))
	var list []*entry
	for _, f := range p.files {
		if !seen[f.entry] {
			seen[f.entry] = true
			list = append(list, f.entry)
		}
	}
	return list
}

func (p *treePart) load(ctx context.Context, r *Reader) error {
	list := p.unique()
	err := parallel(ctx, len(list), func(ctx context.Context, i int) error {
		return r.put(ctx, p.a, list[i], "")
	})
	if err != nil {
		return err
	}
	var second []func()
	for _, f := range p.files {
		urls, also := treeURLs(f.path)
		taken := 0
		for _, url := range urls {
			if _, err := lists.PlaceURL(url); err != nil && len(also) == 0 {
				r.refused.Add(f.path, fmt.Errorf("%s: %w", p.a.name, err))
			} else if err == nil {
				taken++
				r.addFile(url, f.digest, f.size, p.a.name)
			}
		}
		for _, url := range also {
			if _, err := lists.PlaceURL(url); err != nil && taken == 0 {
				r.refused.Add(f.path, fmt.Errorf("%s: %w", p.a.name, err))
			} else if err == nil {
				second = append(second, func() {
					if _, ok := r.names.files[url]; !ok { // another file's own name takes precedence
						r.addFile(url, f.digest, f.size, p.a.name)
					}
				})
			}
		}
		if host, _, ok := strings.Cut(f.path, "/"); ok && strings.Contains(host, ":") {
			bare, _, _ := strings.Cut(host, ":")
			r.note("%s: files of %s become files of %s: addresses inside have no port", p.a.name, host, bare)
		}
	}
	for _, add := range second {
		add()
	}
	return nil
}

// resolveLinks returns name with the links among its directories resolved, up to a limit.
func (a *archive) resolveLinks(name string) string {
	for range 16 {
		changed := false
		for i := 0; i < len(name) && !changed; i++ {
			if name[i] != '/' {
				continue
			}
			if e := a.byName[name[:i]]; e != nil && e.link != "" {
				name, changed = path.Join(e.link, name[i+1:]), true
			}
		}
		if !changed {
			break
		}
	}
	return name
}
