package fileserver

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"casemate/cluster/tree"
)

const pageSize = 1000 // entries on one page of a listing

// List yields the files whose canonical URL begins with prefix ("" for all; "https://" may be omitted, and the prefix
// may end within an element), in the order of their paths. It sees one state of the tree. An error (fs.ErrInvalid: no
// URL begins like that; or the context's) is the last value.
func (s *Server) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter is List from the file behind the URL after on ("" for all; it need not exist). Its cost does not depend on
// what is before after.
func (s *Server) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		begin, err := s.keyPrefix(prefix)
		if err != nil {
			yield(Info{}, err)
			return
		}
		dir, part := ".", begin // the last element may be incomplete
		if i := strings.LastIndexByte(begin, '/'); i >= 0 {
			dir, part = begin[:i], begin[i+1:]
		}
		from := ""
		if last := keyOf(after); after != "" && compareKeys(last, begin) >= 0 {
			from = last
		} else if part != "" && fs.ValidPath(begin) {
			from = begin
			if fi, err := s.cfg.Tree.Stat(begin); err == nil { // the walk begins after it
				if h, ok := storedFileOf(begin, fi); ok && !yield(h.info(), nil) {
					return
				}
			}
		}
		for name, fi := range s.cfg.Tree.Walk(dir, from) {
			if err := ctx.Err(); err != nil {
				yield(Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			if !strings.HasPrefix(name, begin) {
				if from != "" {
					return // those with the prefix are contiguous
				}
				continue
			}
			if h, ok := storedFileOf(name, fi); ok && !yield(h.info(), nil) {
				return
			}
		}
	}
}

// keyPrefix returns the common prefix of the keys of the URLs that begin with prefix.
func (s *Server) keyPrefix(prefix string) (string, error) {
	if _, rest, ok := strings.Cut(prefix, "://"); ok {
		prefix = rest
	}
	host, path, whole := strings.Cut(prefix, "/")
	if prefix == "" || !whole {
		return strings.ToLower(host), nil // an incomplete host
	}
	a, err := parseURL(host + "/" + path)
	if err != nil {
		return "", err
	}
	a, _ = s.canonical(a)
	return strings.TrimSuffix(a.key(a.query), "?"), nil
}

// entry is one line of a listing.
type entry struct {
	Name   string    `json:"name"` // decoded; a directory's ends in "/"
	Dir    bool      `json:"dir,omitempty"`
	URL    string    `json:"url,omitempty"`
	Size   int64     `json:"size,omitempty"` // bytes
	Time   time.Time `json:"time,omitzero"`
	Digest string    `json:"digest,omitempty"`
	href   string    // relative
}

// listing is one page of a directory.
type listing struct {
	URL     string  `json:"url"`
	Entries []entry `json:"entries"`
	Next    string  `json:"next,omitempty"` // the query of the next page, "?after=…"
	up      bool
}

// asksListing reports whether a client at an origin explicitly requests a listing. Other clients (curl, helm, apt) get
// what the origin would answer, and a directory is no file there.
func asksListing(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "text/html") || strings.Contains(accept, "application/json")
}

// list answers with a page of a directory, and reports false if there is none.
func (s *Server) list(w http.ResponseWriter, r *http.Request, a address, own bool) bool {
	dir := a.dir()
	if !s.isDir(dir) {
		if _, known := s.canonical(a); !own || !known || len(a.elems) > 0 {
			return false
		}
		// An origin without content has an empty listing.
	}
	page := &listing{URL: "https://" + dir + "/", Entries: []entry{}, up: own || len(a.elems) > 0}
	page.Entries, page.Next = s.entries(dir, r.URL.Query().Get("after"))
	page.write(w, r)
	return true
}

// listOrigins answers with the origins: those that are enabled and those that have content.
func (s *Server) listOrigins(w http.ResponseWriter, r *http.Request) {
	after := r.URL.Query().Get("after")
	page := &listing{URL: "/"}
	page.Entries, page.Next = s.entries(".", after)
	host := func(e entry) string { return strings.TrimSuffix(e.Name, "/") }
	held := map[string]bool{}
	last := "" // of the page; "" if nothing follows
	for _, e := range page.Entries {
		held[host(e)] = true
		if page.Next != "" {
			last = host(e)
		}
	}
	for _, origin := range s.cfg.Origins() {
		if !held[origin] && origin > after && (last == "" || origin < last) {
			page.Entries = append(page.Entries, entry{Name: origin + "/", Dir: true, href: "./" + escape(origin) + "/"})
		}
	}
	slices.SortFunc(page.Entries, func(a, b entry) int { return strings.Compare(host(a), host(b)) })
	if len(page.Entries) > pageSize {
		page.Entries = page.Entries[:pageSize]
		page.Next = "?after=" + url.QueryEscape(host(page.Entries[pageSize-1]))
	}
	page.write(w, r)
}

// entries reads one page of a directory. after is the last tree name of the previous page.
func (s *Server) entries(dir, after string) (list []entry, next string) {
	list = []entry{}
	if strings.ContainsRune(after, '/') || after != "" && !fs.ValidPath(after) {
		after = "" // not written by this server
	}
	last := ""
	for c := range tree.Children(s.cfg.Tree.Walk, dir, after) {
		if len(list) == pageSize {
			return list, "?after=" + url.QueryEscape(last)
		}
		last = c.Name
		if e, ok := entryOf(c.First, c.Name, c.Dir, c.Info); ok {
			list = append(list, e)
		}
	}
	return list, ""
}

// keyOf is the name in the tree of a canonical URL, the inverse of URL.
func keyOf(rawURL string) string {
	key := strings.TrimPrefix(rawURL, "https://")
	if !strings.Contains(key, "?") {
		key += "?" // each has one, see address
	}
	return key
}

// compareKeys compares names of the tree in the order of Walk: element by element.
func compareKeys(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// A Child is a file, or a directory of files, directly below a path.
type Child struct {
	Name    string // decoded, with the query if there is one
	Element string // as it is in the tree
	Path    string // of a directory: "host/element/element", for Level
	File    *Info  // nil: a directory
}

// Level yields what is directly below a path ("host/element/element", with or without a scheme; "" for all hosts), in
// the order of the tree, beginning after the element called after ("" for all). Its cost does not depend on what is
// further below. fs.ErrInvalid, as its only value: no URL begins like that.
func (s *Server) Level(path, after string) iter.Seq2[Child, error] {
	return func(yield func(Child, error) bool) {
		dir, under := ".", ""
		if path != "" {
			_, rest, schemed := strings.Cut(path, "://")
			if !schemed {
				rest = path
			}
			a, err := parseURL("https://" + strings.Trim(rest, "/") + "/")
			if err != nil || a.query != "" {
				yield(Child{}, fmt.Errorf("path %q: no URL begins like that: %w", clip(path), fs.ErrInvalid))
				return
			}
			a, _ = s.canonical(a)
			dir, under = a.dir(), a.dir()+"/"
		}
		if strings.ContainsRune(after, '/') {
			after = ""
		}
		for c := range tree.Children(s.cfg.Tree.Walk, dir, after) {
			e, ok := entryOf(c.First, c.Name, c.Dir, c.Info)
			if !ok {
				continue
			}
			child := Child{Name: strings.TrimSuffix(e.Name, "/"), Element: c.Name}
			if c.Dir {
				child.Path = under + c.Name
			} else {
				child.File = &Info{e.URL, e.Digest, e.Size, e.Time}
			}
			if !yield(child, nil) {
				return
			}
		}
	}
}

// entryOf makes the entry of a directory's element.
func entryOf(key, elem string, deep bool, fi fs.FileInfo) (entry, bool) {
	plain := func(s string) string {
		if p, err := url.PathUnescape(s); err == nil {
			return p
		}
		return s
	}
	if deep {
		return entry{Name: plain(elem) + "/", Dir: true, href: "./" + elem + "/"}, true
	}
	h, ok := storedFileOf(key, fi)
	if !ok {
		return entry{}, false
	}
	path, query, _ := strings.Cut(elem, "?")
	e := entry{Name: plain(path), URL: URL(key), Size: h.size, Time: h.mod.UTC(), Digest: h.digest, href: "./" + path}
	if query != "" {
		e.Name += "?" + query
		e.href += "?" + query
	}
	return e, true
}

// write answers with the page, in the client's preferred form.
func (l *listing) write(w http.ResponseWriter, r *http.Request) {
	if l.Next != "" {
		w.Header().Set("Link", "<"+l.Next+`>; rel="next"`)
	}
	w.Header().Set("Vary", "Accept")
	accept := r.Header.Get("Accept")
	if strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html") {
		text, err := json.MarshalIndent(l, "", "  ")
		if err != nil { // strings, numbers and times only
			answer(w, http.StatusInternalServerError, "the listing cannot be written.")
			return
		}
		body(w, http.StatusOK, "application/json", string(text)+"\n")
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	var b strings.Builder
	title := html.EscapeString(clip(l.URL))
	b.WriteString("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + title + "</title>" +
		"<link rel=\"icon\" href=\"data:,\">" + // browsers would ask for /favicon.ico, which would be missing
		"<style>body{font-family:monospace}td{padding-right:2em}</style></head>\n<body><h1>" +
		title + "</h1>\n<table>\n")
	if l.up {
		b.WriteString("<tr><td><a href=\"../\">../</a></td></tr>\n")
	}
	for _, e := range l.Entries {
		name := e.Name
		if name == "" {
			name = "./"
		}
		fmt.Fprintf(&b, "<tr><td><a href=\"%s\">%s</a></td>", html.EscapeString(e.href), html.EscapeString(name))
		if !e.Dir {
			fmt.Fprintf(&b, "<td>%d</td><td>%s</td><td>%s</td>", e.Size, e.Time.Format(time.RFC3339),
				html.EscapeString(e.Digest))
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</table>\n")
	if l.Next != "" {
		b.WriteString("<p><a href=\"" + html.EscapeString(l.Next) + "\">more</a></p>\n")
	}
	b.WriteString("</body></html>\n")
	body(w, http.StatusOK, "text/html; charset=utf-8", b.String())
}
