package bundle

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

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
		`{"transcript":2,"questions":[]}`:        "version 2",
		`{"questions":[]}`:                       "version 0",
		`{"transcript":1,"questions":[]} x`:      "follows",
		`{"transcript":1,"odd":[]}`:              "odd",
		`{"transcript":1,"questions":[{}]}`:      "method",
		`{"transcript":1,"questions":[null]}`:    "method",
		`{"transcript":1,"questions":[[]]}`:      "cannot unmarshal array",
		`{"transcript":1,"questions":{}}`:        "not a list",
		`{"transcript":1,"questions":[{"x":1}`:   "unexpected EOF",
		`{"transcript":1,"questions":[{"x":1}]}`: `unknown field "x"`,
		strings.Repeat(`{"questions":[`, 20_000): "exceeded max depth",
		`{"transcript":1,"questions":[{"method":"GET","url":"https://a.example/\u001b[2J","status":404}]}`: "URL",
		`{"transcript":1,"questions":[` + many() + `]}`:                                                    "more than 100000 questions",
		`hello`:                                 "not a transcript",
		`{"transcript":1,"questions":[` + q2(t): "repeated",
	} {
		if _, err := DecodeTranscript([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.200s: %v, want %q", text, err, says)
		}
	}
}

// many are more questions than a transcript may have.
func many() string {
	var list []string
	for i := range MaxQuestions + 1 {
		list = append(list, fmt.Sprintf(`{"method":"GET","url":"https://a.example/%d","status":404}`, i))
	}
	return strings.Join(list, ",")
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
