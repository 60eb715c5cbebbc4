package lists

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"casemate/bundle/digests"
)

// maxURL is the maximum length of a file's URL, in bytes.
const maxURL = 8192

// Files reads a list of URLs, one a line: Kubespray's files.list, `casemate missing -o files`. A checksum may follow a
// URL: "URL sha256:HEX", or the bare HEX of a sha256 or sha512. name is the list's name in messages.
func (l *Parser) Files(name string, r io.Reader) {
	l.eachLine(name, r, func(where, line string) error {
		if strings.Contains(line, "{{") {
			return fmt.Errorf(
				"%s is a template: use the list that was rendered from it (files.list, not files.list.template)",
				shown(line),
			)
		}
		words := strings.Fields(line)
		if len(words) > 2 {
			return fmt.Errorf(
				"%s is more than a URL and a checksum: write one URL a line, comments after #",
				shown(line),
			)
		}
		f := File{Where: where}
		var err error
		if f.URL, err = ParseFileURL(words[0]); err != nil {
			return err
		}
		if len(words) == 2 {
			if f.Digest, err = ParseChecksum(words[1]); err != nil {
				return err
			}
			f.Known = where
		}
		return l.addFile(f)
	})
}

// addFile adds a file, or the checksum of a file that was added without one.
func (l *Parser) addFile(f File) error {
	if _, err := PlaceURL(f.URL); err != nil {
		return err
	}
	before, again := l.first("file "+f.URL, request{index: len(l.wanted.Files), digest: f.Digest, where: f.Where})
	switch {
	case !again:
		l.wanted.Files = append(l.wanted.Files, f)
	case f.Digest == "" || f.Digest == before.digest:
	case before.digest == "":
		have := &l.wanted.Files[before.index]
		have.Digest, have.Known = f.Digest, f.Known
		before.digest, before.where = f.Digest, f.Where
		l.seen["file "+f.URL] = before
	default:
		return fmt.Errorf(
			"%s has %s here and %s at %s: remove the line that is wrong",
			f.URL,
			f.Digest,
			before.digest,
			before.where,
		)
	}
	return nil
}

// ParseFileURL checks a URL and converts its scheme and host to lower case; the rest stays as it was written, because
// servers may distinguish spellings.
func ParseFileURL(s string) (string, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	switch scheme = strings.ToLower(scheme); {
	case !ok:
		if w, err := ParseReference(s); err == nil &&
			(w.Digest != "" || strings.Contains(s[strings.LastIndexByte(s, '/')+1:], ":")) {
			return "", fmt.Errorf("%s is an image, not a URL: it belongs in a list of images (--images)", shown(s))
		}
		return "", fmt.Errorf("%s has no scheme: write https://%.200s", shown(s), s)
	case scheme == "oci" || scheme == "docker":
		return "", fmt.Errorf("%s is an image, not a file: it belongs in a list of images (--images)", shown(s))
	case scheme != "https" && scheme != "http":
		return "", fmt.Errorf("%s: only https and http can be fetched, write https://%.200s", shown(s), rest)
	case len(s) > maxURL:
		return "", fmt.Errorf("%s is longer than %d bytes", shown(s), maxURL)
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"\\<>", r) }):
		return "", fmt.Errorf("%s has characters that a URL must not contain: percent-encode them", shown(s))
	case strings.Contains(s, "#"):
		return "", fmt.Errorf("%s has a fragment, which is not sent to servers: remove it from # on", shown(s))
	}
	host, path, slash := rest, "", ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if !strings.HasPrefix(path, "/") {
		slash = "/"
	}
	clean := scheme + "://" + strings.ToLower(host) + slash + path
	u, err := url.Parse(clean)
	var inner *url.Error
	switch {
	case errors.As(err, &inner):
		return "", fmt.Errorf("%s is not a URL: %w", shown(s), inner.Err)
	case err != nil:
		return "", fmt.Errorf("%s is not a URL: %w", shown(s), err)
	case u.User != nil:
		return "", fmt.Errorf(
			"%s: user and password must not be in a list, because the bundle would contain them: write the URL "+
				"without them",
			shownHost(u),
		)
	case u.Hostname() == "":
		return "", fmt.Errorf("%s has no host", shown(s))
	}
	for elem := range strings.SplitSeq(u.Path, "/") {
		if elem == "." || elem == ".." {
			return "", fmt.Errorf("%s has %q in its path: write the resolved path", shown(s), elem)
		}
	}
	return clean, nil
}

// shownHost returns a URL for messages, without the secrets in it.
func shownHost(u *url.URL) string { return shown(u.Scheme + "://…@" + u.Host + u.Path) }

// ParseChecksum reads "sha256:HEX", "sha512:HEX" or HEX alone; HEX in either case.
func ParseChecksum(s string) (string, error) {
	d := strings.ToLower(s)
	if !strings.Contains(d, ":") {
		switch len(d) {
		case 64:
			d = "sha256:" + d
		case 128:
			d = "sha512:" + d
		}
	}
	if err := digests.Check(d); err != nil {
		return "", fmt.Errorf("%s is not a checksum: write sha256: and 64 hex digits, or sha512: and 128", shown(s))
	}
	return d, nil
}
