package rehearsal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"casemate/bundle"
)

const (
	maxLine = 64 << 10 // bytes of a line in the file
	maxFile = 256 << 20
	maxGaps = 4096
)

// FileName is the name of the record in the directory of a rehearsal.
const FileName = "questions.jsonl"

// Entry is one question of the transcript: who asked it, and when. It has no address of a client.
type Entry struct {
	bundle.Question
	// Clients are the programs that asked, sorted: "containerd", "curl". Unknown ones are not written.
	Clients []string  `json:"clients,omitempty"`
	First   time.Time `json:"first,omitzero"` // zero: written by a version that kept no times
	Last    time.Time `json:"last,omitzero"`
	Count   int       `json:"count"`
	// Moved says that the answer had another content before.
	Moved bool `json:"moved,omitempty"`
	// OriginDigest is the digest that a tag had at its origin when it was compared last, if it was another one.
	OriginDigest string `json:"origin_digest,omitempty"`
}

// Gap is something that was asked and is not in the transcript.
type Gap struct {
	Name  string    `json:"name"` // method, host and path
	Why   string    `json:"why"`
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	Count int       `json:"count"`
}

// File is a file that was fetched. Whoever asked first was answered before its digest was known.
type File struct {
	URL    string `json:"url"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

func (f *File) check() error {
	q := bundle.Question{Method: "GET", URL: f.URL, Status: 200, Digest: f.Digest, Size: f.Size}
	if f.Digest == "" {
		return errors.New("a file has no digest")
	}
	return q.Check()
}

// line is one line of the file: requests with one answer, or with none that is recorded, the digest of a file, or that
// of a tag at its origin. A line of a single request has no count, and a line of several has what they add up to.
type line struct {
	*bundle.Question
	Gap     *Gap      `json:"gap,omitempty"`
	File    *File     `json:"file,omitempty"`
	Tag     *Tag      `json:"tag,omitempty"`
	Clients []string  `json:"clients,omitempty"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
	Count   int       `json:"count,omitempty"`
	Moved   bool      `json:"moved,omitempty"`
}

// Record is what was asked, and how it was answered. The zero Record is empty.
type Record struct {
	questions map[key]*Entry
	gaps      map[gapKey]*Gap
	files     map[string]File   // that were fetched, by URL
	origins   map[string]string // digests of tags at their origins, by REPOSITORY:TAG
	lost      int               // requests that found no place
}

type key struct{ url, method, accept, held string }

func keyOf(q *bundle.Question) key { return key{q.URL, q.Method, q.Accept, q.Held} }

type gapKey struct{ name, why string }

// Read reads the record at path, which may be open elsewhere. A line that a crash has cut, or that is being written,
// is left out; a damaged one is an error.
func Read(path string) (*Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &Record{}
	if _, err := r.read(f); err != nil {
		return nil, fmt.Errorf("the record of the rehearsal, %s: %w", path, err)
	}
	return r, nil
}

// read adds the lines of a file, and returns how many bytes they have.
func (r *Record) read(f io.Reader) (size int64, err error) {
	in := bufio.NewReaderSize(io.LimitReader(f, maxFile), maxLine)
	for n := 1; ; n++ {
		text, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return size, nil // a line without its end was being written during a crash
		}
		if err != nil {
			return 0, fmt.Errorf("line %d: longer than %d bytes", n, maxLine)
		}
		var l line
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&l); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
		if err := l.check(); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
		size += int64(len(text))
		r.add(l)
	}
}

func (l *line) check() error {
	kinds := 0
	for _, has := range []bool{l.Question != nil, l.Gap != nil, l.File != nil, l.Tag != nil} {
		if has {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("it has one of a question, a gap, a file and a tag")
	case l.File != nil:
		return l.File.check()
	case l.Tag != nil:
		return l.Tag.check()
	case l.Count < 0 || l.Gap != nil && l.Gap.Count < 0:
		return errors.New("count must not be negative")
	case l.Gap != nil && (l.Gap.Name == "" || len(l.Gap.Name) > maxGapName || len(l.Gap.Why) > maxGapName):
		return fmt.Errorf("name and why of a gap have 1 to %d bytes", maxGapName)
	case len(l.Clients) > len(programs):
		return fmt.Errorf("at most %d clients are known", len(programs))
	case l.Question != nil:
		return l.Question.Check()
	}
	return nil
}

// add adds what a line says. It reports whether the record has a place for it.
func (r *Record) add(l line) bool {
	switch {
	case l.Gap != nil:
		return r.addGap(*l.Gap)
	case l.File != nil:
		return r.addFile(*l.File)
	case l.Tag != nil:
		return r.addTag(*l.Tag)
	}
	q, n := *l.Question, max(l.Count, 1)
	e := r.questions[keyOf(&q)]
	if e == nil {
		if len(r.questions) >= bundle.MaxQuestions {
			r.lost += n
			return false
		}
		if r.questions == nil {
			r.questions = map[key]*Entry{}
		}
		e = &Entry{Question: q, First: l.First}
		r.questions[keyOf(&q)] = e
	}
	q.Client = e.Client
	r.complete(&q)
	if q.Digest == "" && q.Status == e.Status {
		q.Digest, q.Size = e.Digest, e.Size // the answer was sent before its end was known
	}
	e.Moved = e.Moved || l.Moved || e.Digest != "" && q.Digest != "" && e.Digest != q.Digest
	e.Question, e.Last = q, l.Last
	e.Count += n
	for _, c := range l.Clients {
		if at, known := slices.BinarySearch(e.Clients, c); !known {
			e.Clients = slices.Insert(e.Clients, at, c)
		}
	}
	return true
}

// complete adds the digest of a file to an answer that was given before it was known.
func (r *Record) complete(q *bundle.Question) {
	if f, ok := r.files[q.URL]; ok && q.Status == http.StatusOK && q.Digest == "" {
		q.Digest, q.Size = f.Digest, f.Size
	}
}

// addFile remembers a file. Beyond a bound none is: then digests are known when the bundle is made.
func (r *Record) addFile(f File) bool {
	if r.files == nil {
		r.files = map[string]File{}
	}
	if _, known := r.files[f.URL]; !known && len(r.files) >= bundle.MaxQuestions {
		return false
	}
	r.files[f.URL] = f
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if e := r.questions[key{url: f.URL, method: method}]; e != nil {
			r.complete(&e.Question)
		}
	}
	return true
}

func (r *Record) addGap(g Gap) bool {
	g.Count = max(g.Count, 1)
	if have := r.gaps[gapKey{g.Name, g.Why}]; have != nil {
		have.Count += g.Count
		have.Last = g.Last
		return true
	}
	if len(r.gaps) >= maxGaps {
		r.lost += g.Count
		return false
	}
	if r.gaps == nil {
		r.gaps = map[gapKey]*Gap{}
	}
	r.gaps[gapKey{g.Name, g.Why}] = &g
	return true
}

// lines returns the record as few lines, each with its end.
func (r *Record) lines() (text []byte, err error) {
	for _, e := range r.Entries() {
		text, err = appendLine(text, line{Question: &e.Question, Clients: e.Clients, First: e.First, Last: e.Last,
			Count: e.Count, Moved: e.Moved})
		if err != nil {
			return nil, err
		}
	}
	for _, g := range r.Gaps() {
		if text, err = appendLine(text, line{Gap: &g}); err != nil {
			return nil, err
		}
	}
	for _, image := range slices.Sorted(maps.Keys(r.origins)) {
		if text, err = appendLine(text, line{Tag: &Tag{image, r.origins[image]}}); err != nil {
			return nil, err
		}
	}
	return text, nil
}

func appendLine(text []byte, l line) ([]byte, error) {
	one, err := json.Marshal(l)
	return append(append(text, one...), '\n'), err
}

// Entries returns the transcript, in the order of bundle.CompareQuestions.
func (r *Record) Entries() []Entry {
	list := make([]Entry, 0, len(r.questions))
	for _, e := range r.questions {
		e := *e
		e.Clients = slices.Clone(e.Clients)
		e.OriginDigest = r.originDigest(&e.Question)
		list = append(list, e)
	}
	slices.SortFunc(list, func(x, y Entry) int { return bundle.CompareQuestions(&x.Question, &y.Question) })
	return list
}

// Questions returns the transcript without who asked and when, in the same order.
func (r *Record) Questions() []bundle.Question {
	list := make([]bundle.Question, 0, len(r.questions))
	for _, e := range r.questions {
		list = append(list, e.Question)
	}
	slices.SortFunc(list, func(x, y bundle.Question) int { return bundle.CompareQuestions(&x, &y) })
	return list
}

// Gaps returns what is not in the transcript, in the order of names.
func (r *Record) Gaps() []Gap {
	list := make([]Gap, 0, len(r.gaps))
	for _, g := range r.gaps {
		list = append(list, *g)
	}
	slices.SortFunc(list, func(x, y Gap) int { return strings.Compare(x.Name+"\n"+x.Why, y.Name+"\n"+y.Why) })
	return list
}

// Lost returns how many requests were too many to be recorded.
func (r *Record) Lost() int { return r.lost }

// Notes say what the transcript does not have, one sentence each.
func (r *Record) Notes() (list []string) {
	for _, g := range r.Gaps() {
		list = append(list, fmt.Sprintf("%s is not in the transcript: %s", g.Name, g.Why))
	}
	for _, e := range r.Entries() {
		if e.Moved {
			list = append(list, e.URL+" had several contents during the rehearsal: the transcript has the last one")
		}
	}
	list = slices.Compact(list) // one URL may have been asked in several ways
	for _, t := range r.Tags() {
		if at := r.origins[t.Image]; at != "" && at != t.Digest {
			list = append(list, fmt.Sprintf("%s has moved at its origin, to %s: the transcript has %s, as all clients "+
				"of the rehearsal", t.Image, at, t.Digest))
		}
	}
	if r.lost > 0 {
		list = append(list, fmt.Sprintf("%d requests were too many to be recorded", r.lost))
	}
	return list
}
