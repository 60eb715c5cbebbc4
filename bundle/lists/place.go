package lists

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// maxPlace is the maximum length of a repository's name inside, with its host: what the distribution specification
// allows.
const maxPlace = 255

// placeElement is one path element of a repository's name (OCI distribution specification 1.1, "Pulling manifests").
var placeElement = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

// Place is the only rule for the repositories that cross the gap: it returns the name that a repository
// ("registry.k8s.io/pause", "harbor:443/team/app") has inside. Collecting, checking and importing all use it.
//
// A port is not part of a name inside, because a host there answers at the default ports only. localhost means that an
// image has no registry yet, so the image becomes a local one. A host without a dot, which no node could resolve to
// this cluster, and an address stay as the first element of the name: repositories of two registries remain distinct.
// The error says why a repository cannot have a name inside.
func Place(repository string) (string, error) {
	name := repository
	host, rest, ok := strings.Cut(repository, "/")
	if ok &&
		(strings.ContainsAny(host, ".:[") || strings.EqualFold(host, "localhost") || host != strings.ToLower(host)) {
		bare := strings.ToLower(host)
		if strings.HasPrefix(bare, "[") {
			return "", fmt.Errorf(
				"%s: an IPv6 address cannot be part of a name inside: give the image another name (docker tag, "+
					"skopeo copy)",
				shown(repository),
			)
		}
		if i := strings.LastIndexByte(bare, ':'); i >= 0 {
			bare = bare[:i]
		}
		switch bare = strings.TrimSuffix(bare, "."); {
		case bare == "localhost":
			name = rest
		default:
			name = bare + "/" + rest
		}
	}
	if len(name) > maxPlace {
		return "", fmt.Errorf(
			"%s: a name has at most %d characters inside, its host included",
			shown(repository),
			maxPlace,
		)
	}
	first, _, deep := strings.Cut(name, "/")
	if !deep && strings.Contains(first, ".") {
		return "", fmt.Errorf(
			"%s: a repository that looks like a host cannot have a name inside: give the image another name (docker "+
				"tag, skopeo copy)",
			shown(repository),
		)
	}
	for elem := range strings.SplitSeq(name, "/") {
		if !placeElement.MatchString(elem) {
			return "", fmt.Errorf(
				"%s: a repository is lower-case path elements of [a-z0-9] separated by ., _, __ or -: give the image "+
					"another name (docker tag, skopeo copy)",
				shown(repository),
			)
		}
	}
	return name, nil
}

// Limits of a file's address inside, in bytes.
const (
	maxFileKey     = 2048 // of the whole address, with percent-encoding
	maxFileLeaf    = 1024 // of the last element with the query
	maxFileElement = 255  // of one decoded path element
	maxFileDepth   = 64   // number of path elements
)

// PlaceURL is Place for files: it returns the URL under which a file is served inside, or an error. Equivalent
// spellings stay different.
func PlaceURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("%s is not a URL", shown(raw))
	}
	refuse := func(why string) (string, error) { return "", fmt.Errorf("%s: %s", shown(raw), why) }
	host := u.Host
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return refuse("a host inside is a name of letters, digits, dots and hyphens, or an IPv4 address")
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' {
			return refuse("it has no valid host name")
		}
	}
	size, depth, leaf := len(host), 0, 0
	for elem := range strings.SplitSeq(u.EscapedPath(), "/") {
		if elem == "" {
			continue
		}
		name, err := url.PathUnescape(elem)
		switch {
		case err != nil:
			return refuse("its percent-encoding is broken")
		case len(name) > maxFileElement:
			return refuse(fmt.Sprintf("a path element has at most %d bytes inside", maxFileElement))
		case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return refuse("its path has control characters")
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == "" || part == "." || part == ".." {
				return refuse(fmt.Sprintf("the path element %s is refused inside", shown(name)))
			}
		}
		leaf = escapedLen(name, "-._~!$&'()*+,;=:@")
		size += leaf + 1
		depth++
	}
	if strings.HasSuffix(u.Path, "/") || u.Path == "" {
		size, leaf = size+1, 0
	}
	query := 1 + queryLen(u.RawQuery)
	if size+query > maxFileKey || leaf+query > maxFileLeaf || depth > maxFileDepth {
		return refuse(
			fmt.Sprintf(
				"an address has at most %d bytes inside, %d of them in its last element with the query, and %d "+
					"elements",
				maxFileKey,
				maxFileLeaf,
				maxFileDepth,
			),
		)
	}
	return u.Scheme + "://" + host + strings.TrimPrefix(raw, u.Scheme+"://"+u.Host), nil
}

// escapedLen returns the length of s when everything but letters, digits and bare is percent-encoded.
func escapedLen(s, bare string) (n int) {
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(bare, c) >= 0 {
			n++
		} else {
			n += 3
		}
	}
	return n
}

// queryLen returns the length of a query in its stored form: unnecessary encoding is removed, everything else is
// encoded.
func queryLen(q string) (n int) {
	const bare = "-._~"
	for i := 0; i < len(q); i++ {
		if q[i] == '%' && i+2 < len(q) && isHexDigit(q[i+1]) && isHexDigit(q[i+2]) {
			c := unhex(q[i+1])<<4 | unhex(q[i+2])
			n += escapedLen(string([]byte{c}), bare)
			i += 2
			continue
		}
		n += escapedLen(q[i:i+1], bare+"!$&'()*+,;=:@")
	}
	return n
}

func isHexDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// checkPlace checks that a requested name is possible inside, and notes it if it is different there.
func (l *Parser) checkPlace(w Image) error {
	place, err := Place(w.Repository)
	if err != nil {
		return err
	}
	name := Image{Repository: place, Tag: w.Tag, Digest: w.Digest}.Ref()
	if before, again := l.first("place "+name, request{digest: w.Repository, where: w.Where}); again &&
		before.digest != w.Repository {
		return fmt.Errorf(
			"%s is called %s inside, and so is that of %s at %s: remove one of the lines, or give one another name",
			w.Ref(),
			name,
			before.digest,
			before.where,
		)
	}
	if place != w.Repository {
		l.note(w.Where, "%s is called %s inside: %s", w.Ref(), name, placeReason(w.Repository, place))
	}
	return nil
}

// placeReason says why a name is different inside.
func placeReason(repository, place string) string {
	host, _, _ := strings.Cut(repository, "/")
	first, _, _ := strings.Cut(place, "/")
	bare, _, _ := strings.Cut(host, ":")
	_, notIP := netip.ParseAddr(bare)
	switch {
	case strings.EqualFold(bare, "localhost"):
		return "localhost is not a registry that others can reach, so it becomes a local image"
	case !strings.Contains(first, "."):
		return "no node can ask for a host without a dot here, so it becomes a local image"
	case notIP == nil, host != first:
		return "a port is not part of a name"
	}
	return "hosts are lower case"
}

// Renamed returns a sentence if a repository has another name inside, "" if the name is the same or not possible.
func Renamed(repository string) string {
	place, err := Place(repository)
	if err != nil || place == repository {
		return ""
	}
	return fmt.Sprintf("%s is called %s inside: %s", repository, place, placeReason(repository, place))
}
