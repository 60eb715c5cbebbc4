package canonical

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// MaxDocument is the maximum length of an index document or an inventory.
const MaxDocument = 256 << 20

// maxLine is the maximum length of one element of a list.
const maxLine = 1 << 20

// Buffer holds a JSON document of one fixed form: members in a fixed order without spaces, each element of a list on a
// line of its own. A reader can therefore read a document of a hundred thousand names element by element and check each
// before the next one takes memory, and the same content has only one form.
type Buffer struct{ bytes.Buffer }

// Encode encodes v as encoding/json does, without its HTML escapes.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// WriteList writes a member of the document that is a list.
func WriteList[T any](l *Buffer, before string, list []T) error {
	l.WriteString(before + "[")
	for i := range list {
		b, err := Encode(&list[i])
		if err != nil {
			return err
		}
		if i > 0 {
			l.WriteByte(',')
		}
		l.WriteByte('\n')
		l.Write(b)
	}
	if len(list) > 0 {
		l.WriteByte('\n')
	}
	l.WriteByte(']')
	return nil
}

// Cursor reads a document that Buffer holds.
type Cursor struct {
	Doc    []byte
	Offset int
}

func (c *Cursor) Rest() []byte { return c.Doc[c.Offset:] }

// Skip moves over s if it is next.
func (c *Cursor) Skip(s string) bool {
	if !bytes.HasPrefix(c.Rest(), []byte(s)) {
		return false
	}
	c.Offset += len(s)
	return true
}

func (c *Cursor) Expect(s string) error {
	if !c.Skip(s) {
		return fmt.Errorf("byte %d: want %q, got %.40q", c.Offset, s, c.Rest())
	}
	return nil
}

// Version reads the member that every document begins with, and refuses a version that only a newer program reads.
func (c *Cursor) Version(what string, newest int) error {
	if err := c.Expect(`{"version":`); err != nil {
		return err
	}
	n := bytes.IndexByte(c.Rest(), ',')
	if n < 0 {
		return fmt.Errorf("byte %d: the version is missing", c.Offset)
	}
	s := string(c.Rest()[:min(n, 10)])
	v, err := strconv.Atoi(s)
	if err != nil || v < 1 || strconv.Itoa(v) != s {
		return fmt.Errorf("byte %d: %q is not a version", c.Offset, s)
	}
	if v > newest {
		return fmt.Errorf(
			"%s has version %d and this casemate reads up to %d: install a newer casemate",
			what,
			v,
			newest,
		)
	}
	c.Offset += n
	return nil
}

// String reads a JSON string in its canonical form.
func (c *Cursor) String() (string, error) {
	var s string
	dec := json.NewDecoder(bytes.NewReader(c.Rest()[:min(len(c.Rest()), maxLine)]))
	if err := dec.Decode(&s); err != nil {
		return "", fmt.Errorf("byte %d: %w", c.Offset, err)
	}
	b, err := Encode(s)
	if err != nil {
		return "", err
	}
	return s, c.Expect(string(b))
}

// ReadList reads a list that WriteList wrote. check is called for each element with its predecessor, which is nil for
// the first one.
func ReadList[T any](c *Cursor, before string, check func(prev, v *T) error) ([]T, error) {
	if err := c.Expect(before + "["); err != nil {
		return nil, err
	}
	list := []T{}
	if c.Skip("]") {
		return list, nil
	}
	if err := c.Expect("\n"); err != nil {
		return nil, err
	}
	for {
		line := c.Rest()
		n := bytes.IndexByte(line[:min(len(line), maxLine)], '\n')
		if n < 0 {
			return nil, fmt.Errorf("byte %d: the list does not end", c.Offset)
		}
		line = line[:n]
		item, more := bytes.CutSuffix(line, []byte(","))
		var v T
		if err := Decode(item, &v); err != nil {
			return nil, fmt.Errorf("byte %d: %w", c.Offset, err)
		}
		var prev *T
		if len(list) > 0 {
			prev = &list[len(list)-1]
		}
		if err := check(prev, &v); err != nil {
			return nil, fmt.Errorf("byte %d: %w", c.Offset, err)
		}
		list = append(list, v)
		c.Offset += n + 1
		if !more {
			return list, c.Expect("]")
		}
	}
}

// Decode decodes b into v and refuses every form but the one that Encode writes.
func Decode(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	again, err := Encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%.200q is not in canonical form, %.200q", b, again)
	}
	return nil
}
