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
	names    map[string]fieldName // by how they are written
	reuse    map[string]string    // what next returns, if the caller needs it only until the next call
}

// fieldName is what is known of a field's name: most lines of an index have one of twenty.
type fieldName struct {
	lower string
	kept  bool
}

func newParagraphs(r io.Reader, limit int64, comments bool) *paragraphs {
	return &paragraphs{in: bufio.NewReaderSize(r, 64<<10), left: limit, comments: comments,
		names: map[string]fieldName{}}
}

var errTooLong = errors.New("the file is longer than it may be")

// next returns the fields of the next paragraph and the number of its first line; io.EOF at the end. Lines that
// continue a value are separated by line feeds in it, without their first space. A "." alone is an empty line.
func (p *paragraphs) next() (fields map[string]string, first int, err error) {
	var value string
	var more strings.Builder // of a value with several lines
	name, size := "", 0
	begin := func() {
		if fields == nil {
			if fields = p.reuse; fields == nil {
				fields = map[string]string{}
			}
			clear(fields)
		}
	}
	end := func() {
		if name == "" {
			return
		}
		if more.Len() > 0 {
			value = strings.TrimSpace(more.String())
			more.Reset()
		}
		begin()
		fields[name], name = value, ""
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
			text := bytes.TrimRight(line[1:], " \t\r")
			if string(bytes.TrimSpace(text)) == "." {
				text = nil
			}
			if more.Len() == 0 {
				more.WriteString(value)
			}
			more.WriteByte('\n')
			more.Write(text)
		default:
			end()
			key, text, ok := bytes.Cut(line, []byte(":"))
			if key = bytes.TrimSpace(key); !ok || len(key) == 0 {
				return nil, p.line, fmt.Errorf("%.100q is not a field: write NAME: VALUE", line)
			}
			if first == 0 {
				first = p.line
			}
			if field := p.named(key); field.kept {
				name, value = field.lower, string(bytes.TrimSpace(text))
			} else {
				begin() // there is a paragraph, even if nothing of it is kept
			}
		}
	}
}

// named looks the name of a field up.
func (p *paragraphs) named(key []byte) fieldName {
	if known, ok := p.names[string(key)]; ok {
		return known
	}
	f := fieldName{lower: strings.ToLower(string(key))}
	f.kept = p.keep == nil || p.keep(f.lower)
	if len(p.names) < maxFields && len(key) < 64 {
		p.names[string(key)] = f
	}
	return f
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
