package registry

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"casemate/cluster/tree"
	"casemate/registry/session"

	"github.com/opencontainers/go-digest"
)

// maxName is the longest repository name in bytes, its origin included, as in distribution itself.
const maxName = 255

// maxPath is the longest accepted path, in bytes: five times the length of a name, a digest and the words between them.
const maxPath = 2048

// Descriptions of repository names and tags for error messages (distribution-spec, "Pulling manifests").
const (
	repositoryForm = "lower-case path elements of [a-z0-9] separated by ., _, __ or -, at most 255 characters"
	tagForm        = "at most 128 characters of [A-Za-z0-9_.-], not beginning with . or -"
)

var errQuery = &apiError{status: 400, code: "UNSUPPORTED", message: "the query cannot be read"}

// parseRequest parses the path of a request: its kind, the name as written, the reference. It knows nothing of views.
// Names may contain the words of the API ("a/manifests/b"), so the path is parsed from its end. Spellings that two
// programs could interpret differently (encoded slashes, dots, NUL, empty elements) are refused.
func parseRequest(req *http.Request) (route, *apiError) {
	var rt route
	p := req.URL.Path
	switch p {
	case "/token":
		rt.kind = kindToken
		return rt, nil
	case "/v2", "/v2/":
		rt.kind = kindPing
		return rt, nil
	}
	rest, ok := strings.CutPrefix(p, "/v2/")
	if !ok || len(p) > maxPath {
		return rt, errNameInvalid.with("the path is not one of a registry")
	}
	if req.URL.RawPath != "" { // set only where the path is encoded in an unusual way
		raw := strings.ToLower(req.URL.RawPath)
		for _, code := range []string{"%2f", "%5c", "%00", "%25"} {
			if strings.Contains(raw, code) {
				return rt, errNameInvalid.with("the path has an encoded separator")
			}
		}
	}
	if req.URL.RawQuery != "" {
		query, err := url.ParseQuery(req.URL.RawQuery)
		if err != nil { // an unreadable parameter would be ignored, and the request would mean something else
			return rt, errQuery.with(err.Error())
		}
		if rt.ns = query.Get("ns"); rt.ns != "" && !validHost(rt.ns) {
			return rt, errNameInvalid.with(fmt.Sprintf("ns is a host name, got %.300q", rt.ns))
		}
	}
	if rest == "_catalog" {
		rt.kind = kindCatalog
		return rt, nil
	}
	rest, last := cutLast(rest)
	before, word := cutLast(rest)
	switch {
	case word == "manifests":
		rt.kind, rt.asked, rt.reference = kindManifest, before, last
	case word == "referrers":
		rt.kind, rt.asked, rt.reference = kindReferrers, before, last
	case word == "tags" && last == "list":
		rt.kind, rt.asked = kindTags, before
	case word == "blobs" && last == "uploads":
		rt.kind, rt.asked = kindUploads, before
	case word == "blobs":
		rt.kind, rt.asked, rt.reference = kindBlob, before, last
	case word == "uploads" && strings.HasSuffix(before, "/blobs"):
		rt.kind, rt.asked, rt.upload = kindUpload, strings.TrimSuffix(before, "/blobs"), last
		if last == "" {
			rt.kind = kindUploads
		}
	default:
		return rt, errNameInvalid.with("the path is not one of a registry")
	}
	if !validName(rt.asked) {
		return rt, errNameInvalid.with("a repository name is " + repositoryForm)
	}
	return rt, rt.parseReference(req.Method)
}

// parseReference checks the part after the name and sets the digest.
func (rt *route) parseReference(method string) *apiError {
	switch rt.kind {
	case kindBlob, kindReferrers, kindManifest:
		switch {
		case tree.ValidDigest(rt.reference):
			rt.digest = digest.Digest(rt.reference)
		case rt.kind != kindManifest || strings.Contains(rt.reference, ":"):
			return errDigestInvalid.with("a digest has the form " + tree.DigestForm)
		case validTag(rt.reference):
		case method == http.MethodGet || method == http.MethodHead:
			// The conformance suite asks for such a tag and wants 404.
			return errManifestUnknown.with("no tag can be called that: a tag is " + tagForm)
		default:
			return errTagInvalid.with("a tag is " + tagForm)
		}
	case kindUpload:
		if !session.ValidUpload(rt.upload) {
			return errUploadUnknown.with("an upload's address is the Location that the registry gave")
		}
	}
	return nil
}

// cutLast splits s at its last slash; without one, before is "".
func cutLast(s string) (before, last string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

// lastElement is the part of a name after its last slash.
func lastElement(name string) string {
	_, last := cutLast(name)
	return last
}

// bareHost returns the host in the form used for comparison: lower case, without port, brackets and final dot.
func bareHost(host string) string {
	if h, ok := strings.CutPrefix(host, "["); ok { // an IPv6 address in brackets, RFC 3986 section 3.2.2
		h, _, _ = strings.Cut(h, "]")
		return strings.ToLower(h)
	}
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// validHost reports whether host can be a host of a registry: a DNS name or an IP address (IPv6 in brackets), with or
// without a port.
func validHost(host string) bool {
	if len(host) > maxName {
		return false
	}
	port := ""
	if h, ok := strings.CutPrefix(host, "["); ok {
		h, port, ok = strings.Cut(h, "]")
		return ok && h != "" && strings.Trim(h, "0123456789abcdefABCDEF:.") == "" &&
			(port == "" || port[0] == ':' && validPort(port[1:]))
	}
	host, port, ok := strings.Cut(host, ":")
	if ok && !validPort(port) {
		return false
	}
	return validElement(strings.ToLower(strings.TrimSuffix(host, ".")))
}

func validPort(port string) bool {
	if port == "" || len(port) > 5 {
		return false
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	return true
}

// validName reports whether a name as written follows the distribution-spec. The first element may have a host's port
// if another element follows.
func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	first, rest, deep := strings.Cut(name, "/")
	if deep {
		host, port, ok := strings.Cut(first, ":")
		if ok && !validPort(port) {
			return false
		}
		first = host
	}
	for validElement(first) {
		if !deep {
			return true
		}
		first, rest, deep = strings.Cut(rest, "/")
	}
	return false
}

// validElement matches [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* of the distribution-spec without a regular expression, because
// it is on the hot path.
func validElement(e string) bool {
	const letter = 'a' // represents any letter or digit below
	before, run := byte(0), 0
	for i := range len(e) {
		c := e[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			before, run = letter, 0
			continue
		case c != '.' && c != '_' && c != '-', before == 0:
			return false
		case before != letter && before != c: // two kinds of separator in a row
			return false
		}
		before = c
		if run++; run > 1 && c == '.' || run > 2 && c == '_' {
			return false
		}
	}
	return before == letter
}

// validTag matches [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} of the distribution-spec.
func validTag(t string) bool {
	if t == "" || len(t) > 128 || t[0] == '.' || t[0] == '-' {
		return false
	}
	for i := range len(t) {
		c := t[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return true
}
