package bundle

import (
	"reflect"
	"strings"
	"testing"
)

// TestWithoutCredentials: which parts of a URL are not written anywhere.
func TestWithoutCredentials(t *testing.T) {
	for raw, want := range map[string]string{
		"https://a.example/f":                      "https://a.example/f",
		"https://a.example/f?":                     "https://a.example/f",
		"https://a.example/f?x=1&Y=%2f":            "https://a.example/f?x=1&Y=%2f",
		"https://a.example/f?x=1&token=s&y":        "https://a.example/f?x=1&y",
		"https://a.example/f?%74oken=s":            "https://a.example/f",
		"https://a.example/f?ACCESS_TOKEN=s#part":  "https://a.example/f#part",
		"https://a.example/f?se=1&sig=s&rsct=x":    "https://a.example/f",
		"https://u:p@a.example/f@1?password=x":     "https://a.example/f@1",
		"https://u:p@a.example":                    "https://a.example",
		"https://a.example/f?tokens=1&monkey=2":    "https://a.example/f?tokens=1&monkey=2",
		"https://a.example/team@v1/f?versionId=3":  "https://a.example/team@v1/f?versionId=3",
		"https://s3.example/f?X-Amz-Date=1&a=b":    "https://s3.example/f",
		"https://s3.example/f?versionId=3&x-goog-": "https://s3.example/f?versionId=3",
	} {
		if got := WithoutCredentials(raw); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

// TestTranscript: a file comes back as it was, and mistakes are one sentence.
func TestTranscript(t *testing.T) {
	again := question()
	again.URL += "-2?a=1&b=2"
	text, err := EncodeTranscript([]Question{again, question()})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "\n") != 4 {
		t.Errorf("not one question in each line:\n%s", text)
	}
	got, err := DecodeTranscript(text)
	if err != nil || !reflect.DeepEqual(got, []Question{question(), again}) {
		t.Errorf("%v: %+v", err, got)
	}
	if text, err = EncodeTranscript(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeTranscript(text); err != nil || len(got) > 0 {
		t.Errorf("an empty one: %v: %+v", err, got)
	}
	for text, says := range map[string]string{
		`{"transcript":2,"questions":[]}`:       "version 2",
		`{"questions":[]}`:                      "version 0",
		`{"transcript":1,"questions":[]} x`:     "follows",
		`{"transcript":1,"odd":[]}`:             "odd",
		`{"transcript":1,"questions":[{}]}`:     "method",
		`hello`:                                 "not a transcript",
		`{"transcript":1,"questions":[` + q2(t): "repeated",
	} {
		if _, err := DecodeTranscript([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

func q2(t *testing.T) string {
	text, err := EncodeTranscript([]Question{question()})
	if err != nil {
		t.Fatal(err)
	}
	one := strings.Split(string(text), "\n")[1]
	return one + "," + one + "]}"
}

// TestJoinQuestions: which answers of two rehearsals go together.
func TestJoinQuestions(t *testing.T) {
	with := func(change func(*Question)) []Question {
		q := question()
		change(&q)
		return []Question{q}
	}
	here := []Question{question()}
	absent := with(func(q *Question) { q.Status, q.Digest, q.Size = 404, "", 0 })
	unknown := with(func(q *Question) { q.Digest, q.Size = "", 0 })
	other := with(func(q *Question) { q.Digest = digestB })
	elsewhere := with(func(q *Question) { q.URL += "x" })
	for name, c := range map[string]struct {
		of     [][]Question
		want   []Question
		differ int
	}{
		"the same":          {[][]Question{here, here}, here, 0},
		"asked before":      {[][]Question{absent, here}, here, 0},
		"asked after":       {[][]Question{here, absent}, here, 0},
		"a digest is known": {[][]Question{unknown, here}, here, 0},
		"another content":   {[][]Question{other, here, here}, other, 1},
		"another question":  {[][]Question{elsewhere, here}, []Question{here[0], elsewhere[0]}, 0},
		"none":              {nil, nil, 0},
	} {
		got, differ := JoinQuestions(c.of...)
		if !reflect.DeepEqual(got, c.want) || len(differ) != c.differ {
			t.Errorf("%s: got %+v, %v", name, got, differ)
		}
	}
}

// FuzzDecodeTranscript: no text makes it panic, and what is read can be written again.
func FuzzDecodeTranscript(f *testing.F) {
	f.Add([]byte(`{"transcript":1,"questions":[{"method":"GET","url":"https://a.example/1","status":404}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		questions, err := DecodeTranscript(text)
		if err != nil {
			return
		}
		if _, err := EncodeTranscript(questions); err != nil {
			t.Error(err)
		}
	})
}
