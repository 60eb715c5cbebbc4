package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxParagraph = 8 << 20 // bytes of one paragraph: the sums of a large Release file are one
	maxFields    = 1000    // of one paragraph
)

// paragraphs reads a control file: paragraphs of fields, separated by empty lines (Debian policy, 5.1). Names of fields
// are in lower case in the result.
type paragraphs struct {
	in       *bufio.Reader
	line     int
	left     int64
	comments bool // lines that begin with # are comments
	keep     func(field string) bool
}

func newParagraphs(r io.Reader, limit int64, comments bool) *paragraphs {
	return &paragraphs{in: bufio.NewReaderSize(r, 64<<10), left: limit, comments: comments}
}

var errTooLong = errors.New("the file is longer than it may be")

// next returns the fields of the next paragraph and the number of its first line; io.EOF at the end. Lines that
// continue a value are separated by line feeds in it, without their first space. A "." alone is an empty line.
func (p *paragraphs) next() (fields map[string]string, first int, err error) {
	var value strings.Builder
	name, size := "", 0
	end := func() {
		if name != "" {
			if fields == nil {
				fields = map[string]string{}
			}
			fields[name] = strings.TrimSpace(value.String())
		}
		name = ""
		value.Reset()
	}
	for {
		line, err := p.readLine()
		if err != nil && err != io.EOF {
			return nil, p.line, err
		}
		if size += len(line); size > maxParagraph || len(fields) > maxFields {
			return nil, p.line, errors.New("a paragraph is too long: is this a control file?")
		}
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			if end(); fields != nil {
				return fields, first, nil
			}
			if err == io.EOF {
				return nil, p.line, io.EOF
			}
		case line[0] == '#' && p.comments:
		case line[0] == ' ' || line[0] == '\t':
			if name == "" {
				continue // of a field that is not kept
			}
			text := strings.TrimRight(string(line[1:]), " \t\r")
			if strings.TrimSpace(text) == "." {
				text = ""
			}
			value.WriteString("\n" + text)
		default:
			end()
			key, text, ok := bytes.Cut(line, []byte(":"))
			if !ok || len(bytes.TrimSpace(key)) == 0 {
				return nil, p.line, fmt.Errorf("%.100q is not a field: write NAME: VALUE", line)
			}
			if first == 0 {
				first = p.line
			}
			if field := strings.ToLower(string(bytes.TrimSpace(key))); p.keep == nil || p.keep(field) {
				name = field
				value.Write(bytes.TrimSpace(text))
			} else if fields == nil {
				fields = map[string]string{} // there is a paragraph, even if nothing of it is kept
			}
		}
	}
}

// readLine reads a line without its end. Its bytes are valid until the next call.
func (p *paragraphs) readLine() ([]byte, error) {
	line, err := p.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		long := bytes.Clone(line)
		for err == bufio.ErrBufferFull && len(long) <= maxParagraph {
			line, err = p.in.ReadSlice('\n')
			long = append(long, line...)
		}
		if len(long) > maxParagraph {
			return nil, errors.New("a line is too long: is this a control file?")
		}
		line = long
	}
	p.line++
	if p.left -= int64(len(line)); p.left < 0 {
		return nil, errTooLong
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), err
}
