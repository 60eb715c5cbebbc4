package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// MaxTranscript bounds a transcript in a file of its own, in bytes.
const MaxTranscript = 256 << 20

// transcript is a transcript in a file of its own, as JSON.
type transcript struct {
	Version   int       `json:"transcript"` // 1
	Questions questions `json:"questions"`
}

// questions is a list that is read one by one: in a hostile file, a question may be as short as "{}" and would take 40
// times as much memory.
type questions []Question

func (list *questions) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if begin, err := dec.Token(); err != nil || begin != json.Delim('[') {
		return errors.New("questions is not a list")
	}
	*list = nil
	for dec.More() {
		var q Question
		if err := dec.Decode(&q); err != nil {
			return err
		}
		if err := q.Check(); err != nil {
			return err
		}
		if len(*list) == MaxQuestions {
			return fmt.Errorf("more than %d questions", MaxQuestions)
		}
		*list = append(*list, q)
	}
	return nil
}

// EncodeTranscript sorts and checks questions, and returns the file: one question in each line.
func EncodeTranscript(questions []Question) ([]byte, error) {
	ix := Index{Questions: slices.Clone(questions)}
	if err := ix.checkQuestions(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString(`{"transcript":1,"questions":[`)
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	for i := range ix.Questions {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		if err := enc.Encode(&ix.Questions[i]); err != nil {
			return nil, err
		}
		out.Truncate(out.Len() - 1) // Encode ends a line
	}
	out.WriteString("\n]}\n")
	return out.Bytes(), nil
}

// DecodeTranscript reads a transcript that EncodeTranscript wrote, or that was edited since.
func DecodeTranscript(text []byte) ([]Question, error) {
	var t transcript
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&t); {
	case err != nil:
		return nil, fmt.Errorf("it is not a transcript: %w", err)
	case t.Version != 1:
		return nil, fmt.Errorf("it is a transcript of version %d, and this program reads version 1", t.Version)
	case dec.More():
		return nil, errors.New("it is not a transcript: text follows its end")
	}
	ix := Index{Questions: t.Questions}
	return ix.Questions, ix.checkQuestions()
}

// JoinQuestions joins transcripts whose content is in one bundle. Where the same question was answered with content in
// one and not in another, because it was asked before the content was there, the content is the answer. It returns the
// URLs of other questions with several answers; of these the answer of the first transcript is kept.
func JoinQuestions(transcripts ...[]Question) (joined []Question, differ []string) {
	for _, t := range transcripts {
		joined = append(joined, t...)
	}
	slices.SortStableFunc(joined, func(a, b Question) int { return CompareQuestions(&a, &b) })
	kept := joined[:0]
	for _, q := range joined {
		n := len(kept)
		if n == 0 || CompareQuestions(&kept[n-1], &q) != 0 {
			kept = append(kept, q)
			continue
		}
		have := &kept[n-1]
		switch {
		case have.SameAnswer(&q):
			if have.Digest == "" {
				have.Digest, have.Size = q.Digest, q.Size
			}
		case q.found() && !have.found():
			*have = q
		case have.found() && !q.found():
		default:
			differ = append(differ, q.URL)
		}
	}
	return kept, slices.Compact(differ)
}

// found reports an answer that is not the absence of content.
func (q *Question) found() bool { return q.Status < 400 }

// SameAnswer reports whether the answers of two questions do not contradict each other: what only one of them knows is
// no difference.
func (q *Question) SameAnswer(other *Question) bool {
	return q.Status == other.Status && q.Location == other.Location &&
		(q.Digest == other.Digest || q.Digest == "" || other.Digest == "")
}
