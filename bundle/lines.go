package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxIndex is how long an index document or an inventory may be.
const maxIndex = 256 << 20

// maxLine is how long one element of a document's list may be.
const maxLine = 1 << 20

// lines writes and reads JSON documents of one fixed form: the members in a fixed order without spaces, the elements of
// each list on a line of their own. So a document of a hundred thousand names is read element by element, each is
// checked before the next one takes memory, and no second form of the same content exists.
type lines struct{ bytes.Buffer }

// element encodes v as encoding/json does, without its escapes for HTML.
func element(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// writeList writes a member of the document that is a list.
func writeList[T any](l *lines, before string, list []T) error {
	l.WriteString(before + "[")
	for i := range list {
		b, err := element(&list[i])
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

// cursor reads what lines wrote.
type cursor struct {
	doc []byte
	off int
}

func (c *cursor) rest() []byte { return c.doc[c.off:] }

// skip moves over s if it stands here.
func (c *cursor) skip(s string) bool {
	if !bytes.HasPrefix(c.rest(), []byte(s)) {
		return false
	}
	c.off += len(s)
	return true
}

func (c *cursor) expect(s string) error {
	if !c.skip(s) {
		return fmt.Errorf("byte %d: want %q, got %.40q", c.off, s, c.rest())
	}
	return nil
}

// version reads the member that every document begins with, and refuses what only a newer program understands.
func (c *cursor) version(what string, newest int) error {
	if err := c.expect(`{"version":`); err != nil {
		return err
	}
	n := bytes.IndexByte(c.rest(), ',')
	if n < 0 {
		return fmt.Errorf("byte %d: no version", c.off)
	}
	s := string(c.rest()[:min(n, 10)])
	v, err := strconv.Atoi(s)
	if err != nil || v < 1 || strconv.Itoa(v) != s {
		return fmt.Errorf("byte %d: %q is no version", c.off, s)
	}
	if v > newest {
		return fmt.Errorf("%s has version %d and this casemate reads up to %d: install a newer casemate", what, v, newest)
	}
	c.off += n
	return nil
}

// text reads a JSON string in its one form.
func (c *cursor) text() (string, error) {
	var s string
	dec := json.NewDecoder(bytes.NewReader(c.rest()[:min(len(c.rest()), maxLine)]))
	if err := dec.Decode(&s); err != nil {
		return "", fmt.Errorf("byte %d: %w", c.off, err)
	}
	b, err := element(s)
	if err != nil {
		return "", err
	}
	return s, c.expect(string(b))
}

// readList reads a list that writeList wrote. check sees each element with its predecessor, which is nil for the first.
func readList[T any](c *cursor, before string, check func(prev, v *T) error) ([]T, error) {
	if err := c.expect(before + "["); err != nil {
		return nil, err
	}
	list := []T{}
	if c.skip("]") {
		return list, nil
	}
	if err := c.expect("\n"); err != nil {
		return nil, err
	}
	for {
		line := c.rest()
		n := bytes.IndexByte(line[:min(len(line), maxLine)], '\n')
		if n < 0 {
			return nil, fmt.Errorf("byte %d: a list that does not end", c.off)
		}
		line = line[:n]
		item, more := bytes.CutSuffix(line, []byte(","))
		var v T
		if err := strict(item, &v); err != nil {
			return nil, fmt.Errorf("byte %d: %w", c.off, err)
		}
		var prev *T
		if len(list) > 0 {
			prev = &list[len(list)-1]
		}
		if err := check(prev, &v); err != nil {
			return nil, fmt.Errorf("byte %d: %w", c.off, err)
		}
		list = append(list, v)
		c.off += n + 1
		if !more {
			return list, c.expect("]")
		}
	}
}

// strict decodes b into v and refuses every form but the one that element writes.
func strict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	again, err := element(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%.200q is not written in its one form, %.200q", b, again)
	}
	return nil
}
