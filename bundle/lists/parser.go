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
	maxBadLines = 100      // bad lines that are kept to be shown; more are counted
)

// Parser collects what lists ask for, from many lists of all kinds. What is wrong with them is kept too and said by
// Wanted, all of it, before anything is done. The zero value is ready.
type Parser struct {
	wanted Wanted
	seen   map[string]request // what was asked for already, by a key of its kind
	bad    []string
	more   int // bad lines beyond maxBadLines
	said   int // names and bad lines so far, those that were said before too
	notes  []string
}

// request says who asked for something first.
type request struct {
	index  int // in its list of Wanted
	digest string
	where  string
}

// BadLists says what is wrong with lists, one line each: "FILE:LINE: what is wrong: what to do".
type BadLists struct {
	Lines []string
	More  int // lines that were left out
}

func (e *BadLists) Error() string {
	s := strings.Join(e.Lines, "\n")
	if e.More > 0 {
		s += fmt.Sprintf("\nand %d more", e.More)
	}
	return s
}

// Wanted returns what all lists ask for together, in their order and each name once. The error, if any line was bad, is
// a *BadLists.
func (l *Parser) Wanted() (*Wanted, error) {
	if len(l.bad) > 0 {
		return nil, &BadLists{Lines: l.bad, More: l.more}
	}
	return &l.wanted, nil
}

// AllNotes counts the names and the bad lines so far, those that were said before too: what adds none says nothing.
func (l *Parser) AllNotes() int { return l.said }

// Notes are what is to be known of the lists although nothing is wrong with them, one sentence each.
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

// first remembers that key was asked for, and returns who asked for it first if this is not the first time.
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

// eachLine calls take for every line of r that says something, without comment and surrounding space. A comment is "#"
// at a line's begin or after a space. A bad line, or what take says of one, does not end the reading.
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

// cleanLine is what a line says, without comment and surrounding space.
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

// shown quotes what a list says, shortened.
func shown(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// errTooLarge is what a bounded reader says when there is more than it may read.
var errTooLarge = fmt.Errorf("the list is larger than %d MiB", maxListSize>>20)

// bounded reads at most left bytes and fails, rather than ends, if there are more.
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
