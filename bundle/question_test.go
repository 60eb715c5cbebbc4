package bundle

import (
	"strings"
	"testing"
)

func question() Question {
	return Question{Method: "GET", URL: "https://registry.k8s.io/v2/pause/manifests/3.10", Accept: "a/b, c/d",
		Client: "containerd", Status: 200, Digest: digestA, Size: 3}
}

// TestQuestions: a transcript comes back as it was, sorted, in the newest version of the index.
func TestQuestions(t *testing.T) {
	ix := fullIndex()
	again := question()
	again.Held, again.Status, again.Size = digestA, 304, 0
	moved := Question{Method: "GET", URL: "https://github.com/o/r", Status: 302, Location: "https://objects.example/1"}
	ix.Questions = []Question{again, question(), moved}
	for _, with := range []bool{false, true} {
		if with {
			ix.Redirects = []Redirect{{"https://a.example/x", "https://b.example/x"}}
			ix.Unverified = []Unverified{{"https://b.example/InRelease", "it is signed by key AB"}}
		}
		b, err := ix.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeIndex(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Questions) != 3 || got.Questions[0] != moved || got.Questions[1] != question() ||
			got.Questions[2] != again || got.Version != 4 {
			t.Errorf("version %d, %+v", got.Version, got.Questions)
		}
		empty := strings.Replace(string(b), `"questions":[`, `"questions":[],"x":[`, 1)
		if _, err := DecodeIndex([]byte(empty)); err == nil || !strings.Contains(err.Error(), "questions is empty") {
			t.Errorf("an empty transcript: %v", err)
		}
	}
}

// TestQuestionRefused: what could not be asked again, or might be a secret, is no question.
func TestQuestionRefused(t *testing.T) {
	for says, change := range map[string]func(*Question){
		"method":                       func(q *Question) { q.Method = "POST" },
		"not an http":                  func(q *Question) { q.URL = "https://user@x.example/" },
		"is not an http":               func(q *Question) { q.URL = "ftp://x.example/" },
		"credential":                   func(q *Question) { q.URL += "?X-Amz-Signature=abc" },
		"location: ":                   func(q *Question) { q.Location = "javascript:1" },
		"location has a query":         func(q *Question) { q.Location = "https://x.example/?sig=1" },
		"digest":                       func(q *Question) { q.Digest = "sha256:x" },
		"sha256:y":                     func(q *Question) { q.Held = "sha256:y" },
		"401":                          func(q *Question) { q.Status = 401 },
		"502":                          func(q *Question) { q.Status = 502 },
		"printable ASCII":              func(q *Question) { q.Accept = "a\nb" },
		"1024":                         func(q *Question) { q.Client = strings.Repeat("x", 1025) },
		"size must be between":         func(q *Question) { q.Size = -1 },
		"questions https://registry.k": nil,
	} {
		ix := smallIndex()
		ix.Questions = []Question{question()}
		if change == nil {
			ix.Questions = append(ix.Questions, question())
		} else {
			change(&ix.Questions[0])
		}
		if _, err := ix.Encode(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		} else if strings.Contains(err.Error(), "abc") {
			t.Errorf("the error has the credential: %v", err)
		}
	}
}
