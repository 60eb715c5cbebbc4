package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"casemate/bundle/credentials"
	"casemate/bundle/digests"
)

// MaxQuestions bounds the questions of an index. An install of Kubernetes asks some hundreds.
const MaxQuestions = 100_000

// Question is one request that a client made while an install was rehearsed, and its answer. A transcript is the sorted
// list of all of them. It has no address of a client, no credentials and no content.
type Question struct {
	Method string `json:"method"` // GET or HEAD
	URL    string `json:"url"`    // http or https, as it was requested
	// Accept is the header of a request for a manifest, which decides what the answer is (RFC 9110 section 12.5.1).
	Accept string `json:"accept,omitempty"`
	// Held is the digest of the content that the client had already and asked to be compared (If-None-Match).
	Held string `json:"held,omitempty"`
	// Client is the program that asked first: "containerd", "curl". "": not a known one.
	Client string `json:"client,omitempty"`
	Status int    `json:"status"` // a request for a part has the status of one for the whole
	// Digest and Size are those of the content; "" and 0: unknown.
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
	// Location is where a redirect leads, without its query, which servers sign anew for each request.
	Location string `json:"location,omitempty"`
}

// CompareQuestions orders by what was asked; it is 0 for the same question, whatever the answers are.
func CompareQuestions(a, b *Question) int {
	return cmp.Or(cmp.Compare(a.URL, b.URL), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Accept, b.Accept),
		cmp.Compare(a.Held, b.Held))
}

// recordable are the statuses of answers that are the same again. Logins, limits and failures are not.
var recordable = []int{http.StatusOK, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
	http.StatusNotModified, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound,
	http.StatusGone}

// Check reports why a question cannot stand in a transcript.
func (q *Question) Check() error {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		return fmt.Errorf("question: method must be GET or HEAD, got %.20q", q.Method)
	}
	if err := checkURL(q.URL, 8192); err != nil {
		return fmt.Errorf("question: %w", err)
	}
	if at := credentials.Strip(q.URL); at != q.URL && at != strings.TrimSuffix(q.URL, "?") {
		return fmt.Errorf("question: a parameter of %s carries a credential", at)
	}
	if q.Location != "" {
		if err := checkURL(q.Location, 8192); err != nil {
			return fmt.Errorf("question %s: location: %w", q.URL, err)
		}
		if strings.Contains(q.Location, "?") {
			return fmt.Errorf("question %s: location has a query", q.URL)
		}
	}
	for _, d := range []string{q.Digest, q.Held} {
		if d == "" {
			continue
		}
		if err := digests.Check(d); err != nil {
			return fmt.Errorf("question %s: %w", q.URL, err)
		}
	}
	plain := func(s string) bool {
		return len(s) <= 1024 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	}
	switch {
	case !slices.Contains(recordable, q.Status):
		return fmt.Errorf("question %s: %d is not the status of an answer that is the same again", q.URL, q.Status)
	case !plain(q.Accept) || !plain(q.Client):
		return fmt.Errorf("question %s: accept and client are at most 1024 printable ASCII characters", q.URL)
	case q.Size < 0 || q.Size > MaxContent:
		return fmt.Errorf("question %s: size must be between 0 and %d, got %d", q.URL, int64(MaxContent), q.Size)
	}
	return nil
}

// DigestIn returns the digest of the content of an answer, "" if its header does not say.
func DigestIn(h http.Header) string {
	for _, d := range []string{h.Get("Docker-Content-Digest"), strings.Trim(h.Get("ETag"), `"`)} {
		if digests.Check(d) == nil {
			return d
		}
	}
	return ""
}

func checkQuestion(prev, q *Question) error {
	if err := q.Check(); err != nil {
		return err
	}
	if prev != nil && CompareQuestions(prev, q) >= 0 {
		return fmt.Errorf("questions %s and %s are repeated or out of order", prev.URL, q.URL)
	}
	return nil
}

// checkQuestions sorts and checks a transcript.
func (ix *Index) checkQuestions() error {
	slices.SortFunc(ix.Questions, func(a, b Question) int { return CompareQuestions(&a, &b) })
	if len(ix.Questions) > MaxQuestions {
		return fmt.Errorf("%d questions, at most %d are possible", len(ix.Questions), MaxQuestions)
	}
	for i := range ix.Questions {
		if err := checkQuestion(previous(ix.Questions, i), &ix.Questions[i]); err != nil {
			return err
		}
	}
	return nil
}

// errNoQuestions is for a version that only a transcript needs.
var errNoQuestions = errors.New("questions is empty, which is an older version")
