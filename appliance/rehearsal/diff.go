package rehearsal

import (
	"fmt"

	"casemate/bundle"
)

// Difference is a question that two transcripts do not answer in the same way.
type Difference struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Accept string `json:"accept,omitempty"`
	// A and B are the answers: "404", "200 sha256:…"; "" where it was not asked.
	A string `json:"a,omitempty"`
	B string `json:"b,omitempty"`
}

// Diff compares two transcripts, each in the order of bundle.CompareQuestions.
func Diff(a, b []bundle.Question) (list []Difference) {
	for len(a)+len(b) > 0 {
		order := -1
		switch {
		case len(a) == 0:
			order = 1
		case len(b) > 0:
			order = bundle.CompareQuestions(&a[0], &b[0])
		}
		switch {
		case order < 0:
			list = append(list, Difference{Method: a[0].Method, URL: a[0].URL, Accept: a[0].Accept, A: Answer(&a[0])})
			a = a[1:]
		case order > 0:
			list = append(list, Difference{Method: b[0].Method, URL: b[0].URL, Accept: b[0].Accept, B: Answer(&b[0])})
			b = b[1:]
		default:
			if !a[0].SameAnswer(&b[0]) {
				list = append(list, Difference{Method: a[0].Method, URL: a[0].URL, Accept: a[0].Accept,
					A: Answer(&a[0]), B: Answer(&b[0])})
			}
			a, b = a[1:], b[1:]
		}
	}
	return list
}

// Answer returns an answer as one short text.
func Answer(q *bundle.Question) string {
	switch {
	case q.Location != "":
		return fmt.Sprintf("%d to %s", q.Status, q.Location)
	case q.Digest != "":
		return fmt.Sprintf("%d %s", q.Status, q.Digest)
	}
	return fmt.Sprint(q.Status)
}
