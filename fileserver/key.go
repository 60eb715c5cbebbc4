package fileserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"casemate/bundle/credentials"
)

// Bounds of an address. GitHub, Google and the distributions stay far below them; longer ones are refused (400), never
// stored.
const (
	maxKey     = 2048 // bytes of a whole key, percent-encoding included
	maxLeaf    = 1024 // bytes of its last element, including the query; the tree's own limit of an element
	maxElement = 255  // bytes of one decoded path element, the limit of most file systems
	maxDepth   = 64   // path elements
	maxHost    = 253  // RFC 1035
)

// address is a URL split into its canonical parts.
//
// In the tree it is host/element/…/element?query: a path element never contains a bare question mark (it is encoded),
// so every file's name contains exactly one, and a URL can be a file and a directory at once. A URL that ends in a
// slash is the file "?" of its directory.
type address struct {
	host  string   // canonical origin, "" for a path of the short layout
	elems []string // percent-encoded; never empty, "." or ".."
	slash bool     // the path ends in a slash (or is empty)
	query string   // canonical, without the question mark and without credentials
	// signed is the canonical query with its credentials; "" if it has none. Earlier versions stored files under it.
	signed string
}

// dir is the directory of the path in the tree.
func (a address) dir() string {
	if len(a.elems) == 0 {
		return a.host
	}
	return a.host + "/" + strings.Join(a.elems, "/")
}

// key is the name in the tree of the file with that query.
func (a address) key(query string) string {
	if a.slash {
		return a.dir() + "/?" + query
	}
	return a.dir() + "?" + query
}

// tooLong reports whether the tree would refuse a key for its length.
func tooLong(key string) bool {
	return len(key) > maxKey || len(key)-strings.LastIndexByte(key, '/')-1 > maxLeaf
}

// url is the address in error messages and listings.
func (a address) url() string { return URL(a.key(a.query)) }

// base is the last path element, decoded, "" if the address ends in a slash.
func (a address) base() string {
	if a.slash {
		return ""
	}
	return unescape(a.elems[len(a.elems)-1])
}

// withBase returns the address with another last path element, given decoded.
func (a address) withBase(name string) address {
	a.elems = append(a.elems[:len(a.elems)-1:len(a.elems)-1], escape(name))
	return a
}

// unescape decodes a path whose percent-encoding is valid.
func unescape(path string) string {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return path
	}
	return plain
}

// URL is the canonical URL of a name in the tree; Key is the inverse.
func URL(key string) string { return "https://" + strings.TrimSuffix(key, "?") }

// Key is the name in the tree of the file at rawURL ("https://host/path?query"; http, or no scheme at all, is the
// same). All spellings of one address have one key: the host is in lower case without a port and replaced by its
// origin, percent-encoding has one form ("+" is "%2B", "%7e" is "~"; in a path "%2F" stays distinct from "/"), repeated
// slashes become one, a fragment is dropped, an empty query is no query, countme=N in a query is dropped, and so are
// credentials and signatures (package credentials). A trailing slash counts, and so does the rest of the query.
//
// fs.ErrInvalid: it is not such a URL, has user information, "." or ".." elements, control characters, or is too long.
// fs.ErrPermission: its host is not an origin.
func (s *Server) Key(rawURL string) (string, error) { return KeyIn(rawURL, s.cfg.Canonical) }

// KeyIn is Key with the origins that canonical knows (as Config.Canonical), which need not be enabled yet: an import
// computes the names of its files with it and enables their hosts in the same batch. Key and KeyIn of an origin give
// the same name.
func KeyIn(rawURL string, canonical func(host string) (string, bool)) (string, error) {
	a, err := parseURL(rawURL)
	if err != nil {
		return "", err
	}
	host, ok := canonical(a.host)
	if !ok {
		return "", fmt.Errorf("put %s: %s is not an origin here, add it with `casemate origin add %s`: %w", a.url(),
			a.host, a.host, fs.ErrPermission)
	}
	a.host = host
	if key := a.key(a.query); !tooLong(key) {
		return key, nil
	}
	return "", fmt.Errorf("url %q: too long: %w", clip(rawURL), fs.ErrInvalid) // with its origin's name
}

// canonical replaces the host by its origin if it has one.
func (s *Server) canonical(a address) (address, bool) {
	host, ok := s.cfg.Canonical(a.host)
	if ok {
		a.host = host
	}
	return a, ok
}

// parseURL parses a URL from a user or a setting.
func parseURL(raw string) (address, error) {
	refuse := func(why string) (address, error) {
		return address{}, fmt.Errorf("url %q: %s: %w", clip(raw), why, fs.ErrInvalid)
	}
	if len(raw) > 2*maxKey {
		return refuse("too long")
	}
	full := raw
	if !strings.Contains(raw, "://") {
		full = "https://" + strings.TrimLeft(raw, "/")
	}
	u, err := url.Parse(full)
	if err != nil {
		if inner := new(url.Error); errors.As(err, &inner) {
			err = inner.Err
		}
		return refuse(err.Error())
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return refuse("only https and http have files")
	case u.User != nil:
		return refuse("user and password do not belong in it")
	}
	for elem := range strings.SplitSeq(u.EscapedPath(), "/") {
		if elem == "." || elem == ".." { // a name is written as it is meant; only requests are cleaned
			return refuse(fmt.Sprintf("the path element %q is refused", elem))
		}
	}
	a, err := parsePath(u.EscapedPath(), u.RawQuery)
	if err != nil {
		return refuse(err.Error())
	}
	if a.host, err = cleanHost(u.Host); err != nil {
		return refuse(err.Error())
	}
	if tooLong(a.key(a.query)) {
		return refuse("too long")
	}
	return a, nil
}

// parsePath parses the escaped path and the raw query of a request, and resolves its "." and "..". Its errors are short
// reasons that complete a sentence.
func parsePath(escaped, rawQuery string) (address, error) {
	a := address{slash: true}
	size := 0
	for raw := range strings.SplitSeq(escaped, "/") {
		// Repositories of packages have hrefs such as ./pool/x.deb and ../../pool/x.rpm, which apt requests as they are
		// and other clients clean (RFC 3986, section 5.2.4).
		a.slash = raw == "" || raw == "." || raw == ".."
		switch raw {
		case "", ".":
			continue // files_repo with a trailing slash produces //; every web server folds that
		case "..":
			if len(a.elems) == 0 {
				return a, errors.New("it leads above the root")
			}
			size -= len(a.elems[len(a.elems)-1]) + 1
			a.elems = a.elems[:len(a.elems)-1]
			continue
		}
		elem, err := cleanElement(raw)
		if err != nil {
			return a, err
		}
		if size += len(elem) + 1; size > maxKey || len(a.elems) == maxDepth {
			return a, errors.New("too long")
		}
		a.elems = append(a.elems, elem)
	}
	clean := credentials.StripQuery(rawQuery)
	if a.query = cleanQuery(clean); clean != rawQuery {
		a.signed = cleanQuery(rawQuery)
	}
	return a, nil
}

// cleanElement converts one path element to its canonical encoding.
func cleanElement(raw string) (string, error) {
	name, err := url.PathUnescape(raw)
	switch {
	case err != nil:
		return "", errors.New("its percent-encoding is broken")
	case len(name) > maxElement:
		return "", fmt.Errorf("a path element has at most %d bytes", maxElement)
	}
	// An encoded slash is a character of the element (GitLab's APIs use it in project names). It never becomes a
	// separator in the tree, but a program that unpacks such a name must not be misled.
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("the path element %q is refused", clip(name))
		}
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return "", errors.New("it contains control characters")
		}
	}
	return escape(name), nil
}

// cleanHost converts the host of a URL to lower case without port and trailing dot.
func cleanHost(host string) (string, error) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > maxHost {
		return "", fmt.Errorf("the host has between 1 and %d characters", maxHost)
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' {
			return "", errors.New("it has no valid host name")
		}
	}
	for i := range len(host) {
		if c := host[i]; c == '.' || c == '-' || c == '_' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
			continue
		}
		return "", errors.New("it has no valid host name (write other scripts in their xn-- form)")
	}
	return host, nil
}

const upperHex = "0123456789ABCDEF"

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// escape percent-encodes what RFC 3986 (section 3.3, pchar) does not allow in a path element.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; unreserved(c) || strings.IndexByte("!$&'()*+,;=:@", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

// cleanQuery converts a query to one spelling (RFC 3986, section 6.2.2): unreserved characters bare, delimiters as they
// were written (an encoded & is not a bare one), everything else encoded, including the slash. Any string has such a
// form; cleanQuery is idempotent.
func cleanQuery(raw string) string {
	raw = withoutCount(raw)
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		c, encoded := raw[i], false
		if c == '%' && i+2 < len(raw) {
			hi, lo := strings.IndexByte(upperHex, upper(raw[i+1])), strings.IndexByte(upperHex, upper(raw[i+2]))
			if hi >= 0 && lo >= 0 {
				c, encoded, i = byte(hi<<4|lo), true, i+2
			}
		}
		if unreserved(c) || !encoded && strings.IndexByte("!$&'()*+,;=:@", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

// withoutCount removes the parameters countme=N from a query: dnf adds one to the URL of a repository once a week, for
// the publisher's statistics, and it never changes the answer.
func withoutCount(query string) string {
	if !strings.Contains(query, "countme=") {
		return query
	}
	parts := slices.DeleteFunc(strings.Split(query, "&"), func(p string) bool {
		n, ok := strings.CutPrefix(p, "countme=")
		return ok && n != "" && strings.Trim(n, "0123456789") == ""
	})
	return strings.Join(parts, "&")
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

// clip shortens a quoted value in an error or an answer.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
