package lookup

import (
	"context"
	"strings"

	"casemate/appliance/content"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// Stored returns the names in the tree of what req lists, for a bundle, and a report of what is missing or different.
// Content of hosts that are not enabled counts as stored. notes list what is answered and not stored.
func (l *Lookup) Stored(ctx context.Context, req content.CheckRequest) (names, notes []string, r *content.Report,
	err error) {
	s := &storedNames{l: l, ctx: ctx}
	c := l.checker()
	c.Unreached = func(string) string { return "" }
	c.Found = s.add
	if r, err = c.Check(ctx, req); err != nil {
		return nil, nil, nil, err
	}
	return s.names, s.notes, r, s.err
}

// storedNames collects the names in the tree of what a check finds.
type storedNames struct {
	l            *Lookup
	ctx          context.Context
	names, notes []string
	err          error
}

func (s *storedNames) add(a content.Answer) {
	if a.URL != "" {
		s.addFile(a)
		return
	}
	for _, tag := range []string{a.Tag, ""} { // without the tag if a tolerance answered with another one
		if path, err := s.l.Images.TreeName(a.Repository, tag, a.Digest); err == nil && s.link("registry/"+path) != "" {
			s.names = append(s.names, "registry/"+path)
			return
		}
	}
}

// addFile adds a file, the redirects that lead to it, and the objects of a Git repository if it has its references.
func (s *storedNames) addFile(a content.Answer) {
	const hops = 8
	url := a.URL
	for range hops {
		name := content.RedirectsDir + "/" + s.key(url)
		target, err := s.l.Tree.ReadFile(name)
		if err != nil {
			break
		}
		s.names = append(s.names, name)
		url = string(target)
	}
	name := "files/" + s.key(a.At.URL)
	if s.link(name) != a.At.Digest {
		s.notes = append(s.notes, a.URL+" is left out: the bastions make it from other content")
		return
	}
	s.names = append(s.names, name)
	repository, isGit := strings.CutSuffix(a.At.URL, "/info/refs")
	if !isGit {
		return
	}
	for info, err := range s.l.Files.List(s.ctx, repository+"/") {
		if err != nil {
			s.err = err
			return
		}
		s.names = append(s.names, "files/"+s.key(info.URL))
	}
}

// key returns the name of a URL below files/ and content.RedirectsDir, "" if it has none.
func (s *storedNames) key(url string) string {
	origins := s.l.Current.State().Origins
	key, err := fileserver.KeyIn(url, func(host string) (string, bool) {
		host, _ = origins.Canonical(host)
		return host, true
	})
	if err != nil {
		return ""
	}
	return key
}

// link returns the digest of a link of the tree, "" if there is none.
func (s *storedNames) link(name string) string {
	info, err := s.l.Tree.Stat(name)
	if err != nil {
		return ""
	}
	return tree.DigestOf(info)
}
