package lists

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxListSize = 64 << 20 // bytes of one list or manifest file
	maxListLine = 16 << 10 // bytes of one line of a list
	maxBadLines = 100      // bad lines that are reported; more are counted
)

// Parser collects the names in lists of all kinds. Errors in them are collected too, and Wanted reports all of them
// before anything is fetched. The zero value is ready.
type Parser struct {
	wanted Wanted
	seen   map[string]request // first requests, by a key of their kind
	bad    []string
	more   int // number of bad lines beyond maxBadLines
	said   int // number of names and bad lines so far, including repeated ones
	notes  []string
}

// request says where something was requested first.
type request struct {
	index  int // its position in a list of Wanted
	digest string
	where  string
}

// BadLists reports the errors in lists, one line each: "FILE:LINE: what is wrong: what to do".
type BadLists struct {
	Lines []string
	More  int // lines that are not reported
}

func (e *BadLists) Error() string {
	s := strings.Join(e.Lines, "\n")
	if e.More > 0 {
		s += fmt.Sprintf("\nand %d more", e.More)
	}
	return s
}

// Wanted returns the names of all lists in their order, each once. The error, if any line was bad, is a *BadLists.
func (l *Parser) Wanted() (*Wanted, error) {
	if len(l.bad) > 0 {
		return nil, &BadLists{Lines: l.bad, More: l.more}
	}
	return &l.wanted, nil
}

// AllNotes counts the names and the bad lines so far, including repeated ones: a list that does not change the count is
// empty.
func (l *Parser) AllNotes() int { return l.said }

// Notes are remarks about lists that are not errors, one sentence each.
func (l *Parser) Notes() []string { return l.notes }

func (l *Parser) note(where, format string, args ...any) {
	if len(l.notes) < maxBadLines {
		l.notes = append(l.notes, where+": "+fmt.Sprintf(format, args...))
	}
}

func (l *Parser) refuse(where string, err error) {
	l.said++
	if len(l.bad) == maxBadLines {
		l.more++
		return
	}
	l.bad = append(l.bad, where+": "+err.Error())
}

// first records that key was requested, and returns the first request if this is not the first.
func (l *Parser) first(key string, a request) (request, bool) {
	l.said++
	if l.seen == nil {
		l.seen = map[string]request{}
	}
	if before, ok := l.seen[key]; ok {
		return before, true
	}
	l.seen[key] = a
	return a, false
}

var errUTF16 = errors.New("the list is UTF-16: save it as UTF-8")

// eachLine calls take for every line of r that is not empty, without comment and surrounding space. A comment begins
// with "#" at the beginning of a line or after a space. A bad line, or an error of take, does not end the reading.
func (l *Parser) eachLine(name string, r io.Reader, take func(where, line string) error) {
	in := bufio.NewReaderSize(&bounded{r: r, left: maxListSize}, maxListLine)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			l.refuse(fmt.Sprintf("%s:%d", name, n), fmt.Errorf("read: %w", err))
			return
		}
		if n == 1 {
			if bytes.HasPrefix(line, []byte("\xff\xfe")) || bytes.HasPrefix(line, []byte("\xfe\xff")) {
				l.refuse(name+":1", errUTF16)
				return
			}
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		said, bad := cleanLine(line)
		if long {
			bad = fmt.Errorf("the line is longer than %d bytes: is this a list, with one name a line?", maxListLine)
		}
		if said != "" || bad != nil {
			where := fmt.Sprintf("%s:%d", name, n)
			if bad == nil {
				bad = take(where, said)
			}
			if bad != nil {
				l.refuse(where, bad)
			}
		}
		if err == io.EOF {
			return
		}
	}
}

// cleanLine returns a line without comment and surrounding space.
func cleanLine(line []byte) (string, error) {
	if !utf8.Valid(line) {
		return "", errors.New("the line is not UTF-8: save the list as UTF-8 text")
	}
	line = bytes.TrimSpace(line)
	for i := range line {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = bytes.TrimSpace(line[:i])
			break
		}
	}
	s := string(line)
	if strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) {
		return "", fmt.Errorf("%s has characters that cannot be printed: is this a text file?", shown(s))
	}
	return s, nil
}

// shown quotes a text of a list, shortened.
func shown(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// errTooLarge is the error of a bounded reader that has more bytes than allowed.
var errTooLarge = fmt.Errorf("the list is larger than %d MiB", maxListSize>>20)

// bounded reads at most left bytes, and fails if there are more.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if int64(n) > b.left {
		return int(b.left), errTooLarge
	}
	b.left -= int64(n)
	return n, err
}
