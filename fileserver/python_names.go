package fileserver

import (
	"bufio"
	"context"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// normalProject is the normalised name of a Python project (PEP 503), "" if it is no name of one.
func normalProject(name string) string {
	var b strings.Builder
	gap := false // a run of separators that is not written yet
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '-' || c == '_' || c == '.':
			if gap = true; b.Len() == 0 {
				return ""
			}
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case ('a' > c || c > 'z') && ('0' > c || c > '9'):
			return ""
		}
		if gap {
			b.WriteByte('-')
			gap = false
		}
		b.WriteByte(c)
	}
	if gap {
		return ""
	}
	return b.String()
}

// sdistSuffixes are those of source distributions (PEP 625, and what setuptools wrote before it).
var sdistSuffixes = []string{".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"}

// packageVersion returns the version in the name of a wheel (PEP 427) or source distribution of a project, and false if
// the file is none. Names of old source distributions do not tell where the version begins, so the project does.
func packageVersion(file, project string) (string, bool) {
	if project == "" {
		return "", false
	}
	if stem, ok := strings.CutSuffix(file, ".whl"); ok {
		parts := strings.Split(stem, "-")
		if len(parts) != 5 && len(parts) != 6 || normalProject(parts[0]) != project || parts[1] == "" {
			return "", false
		}
		return parts[1], true
	}
	for _, suffix := range sdistSuffixes {
		stem, ok := strings.CutSuffix(file, suffix)
		for i := 0; ok && i < len(stem); i++ {
			if stem[i] == '-' && i+1 < len(stem) && '0' <= stem[i+1] && stem[i+1] <= '9' &&
				normalProject(stem[:i]) == project {
				return stem[i+1:], true
			}
		}
	}
	return "", false
}

// simpleForm is the form of an index's page that a request prefers (PEP 691): a client without a preference gets HTML.
func simpleForm(r *http.Request) string {
	asked := r.Header.Values("Accept")
	if format := r.URL.Query().Get("format"); format != "" {
		asked = []string{format}
	}
	best, quality := plainHTML, 0.0
	for part := range strings.SplitSeq(strings.Join(asked, ","), ",") {
		media, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := parameters["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		form := ""
		switch media {
		case simpleJSON, "application/vnd.pypi.simple.latest+json":
			form = simpleJSON
		case simpleHTML, "application/vnd.pypi.simple.latest+html":
			form = simpleHTML
		case plainHTML, "text/*", "*/*":
			form = plainHTML
		default:
			continue
		}
		if q > quality {
			best, quality = form, q
		}
	}
	return best
}

// asksIndex reports whether a client reads indices of Python packages.
func asksIndex(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept")+r.URL.Query().Get("format"), "application/vnd.pypi.simple.")
}

// Limits of what is read of a file beside a package, and of what is remembered.
const (
	maxHeader = 1 << 20 // bytes of a metadata file's header
	maxFact   = 512     // bytes of what is shown of it
	maxFacts  = 32_768  // files of which it is remembered
)

// facts remembers what small blobs say, by kind and digest: a page needs it of each of its packages.
type facts struct {
	mu    sync.Mutex
	known map[string]string
}

// fact reads what parse finds in a blob; "" if the blob cannot be read now.
func (s *Server) fact(digest string, p factParser) string {
	key := p.kind + digest
	s.facts.mu.Lock()
	text, ok := s.facts.known[key]
	s.facts.mu.Unlock()
	if ok {
		return text
	}
	blob, err := s.cfg.Tree.OpenBlob(context.Background(), digest)
	if err != nil {
		return ""
	}
	defer blob.Close()
	limited := &io.LimitedReader{R: blob, N: maxHeader}
	if text, err = p.read(bufio.NewReader(limited)); err != nil {
		return ""
	}
	s.facts.mu.Lock()
	defer s.facts.mu.Unlock()
	for old := range s.facts.known {
		if len(s.facts.known) < maxFacts {
			break
		}
		delete(s.facts.known, old)
	}
	s.facts.known[key] = text
	return text
}

// factParser reads one fact.
type factParser struct {
	kind string
	read func(r *bufio.Reader) (string, error)
}

// requiresPython is the field of a package's metadata (core metadata: a header as of RFC 822, which ends at the first
// empty line).
var requiresPython = factParser{"requires-python ", func(r *bufio.Reader) (string, error) {
	for {
		line, err := r.ReadString('\n')
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Requires-Python") {
			return shownFact(value), nil
		}
		if err == io.EOF || err == nil && strings.TrimRight(line, "\r\n") == "" {
			return "", nil
		}
		if err != nil {
			return "", err
		}
	}
}}

// firstLine is the first line of a text.
var firstLine = factParser{"first line ", func(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err == io.EOF {
		err = nil
	}
	return shownFact(line), err
}}

// shownFact is a text without surrounding space, "" if it is too long or has control characters.
func shownFact(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxFact || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return ""
	}
	return s
}
