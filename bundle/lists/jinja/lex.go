package jinja

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

const (
	// MaxTemplate is the maximum length of a template.
	MaxTemplate = 64 << 10
	maxNesting  = 60 // nesting depth of expressions
)

// tokenKind is the kind of a token.
type tokenKind byte

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenString
	tokenInt
	tokenFloat
	tokenOp
)

type token struct {
	kind tokenKind
	text string // a string's value, without quotes
}

func (t token) String() string {
	switch t.kind {
	case tokenEnd:
		return "the end"
	case tokenString:
		return strconv.Quote(t.text)
	}
	return t.text
}

var (
	nameToken   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)
	numberToken = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?`)
)

// operators, the longest first.
var operators = []string{
	"==",
	"!=",
	"<=",
	">=",
	"//",
	"**",
	"(",
	")",
	"[",
	"]",
	"{",
	"}",
	".",
	",",
	":",
	"|",
	"+",
	"-",
	"*",
	"/",
	"%",
	"~",
	"<",
	">",
	"=",
}

// lexExpression splits the expression at the beginning of s into tokens, up to end ("}}" or "%}", perhaps with "-"
// before it). It returns the text after that, and whether whitespace there is to be removed.
func lexExpression(s, end string) (tokens []token, rest string, trim bool, err error) {
	depth := 0
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		if depth == 0 {
			if after, ok := strings.CutPrefix(s, "-"+end); ok {
				return tokens, after, true, nil
			}
			if after, ok := strings.CutPrefix(s, end); ok {
				return tokens, after, false, nil
			}
		}
		switch {
		case s == "":
			return nil, "", false, fmt.Errorf("no %q at its end", end)
		case s[0] == '\'' || s[0] == '"':
			text, n, err := lexString(s)
			if err != nil {
				return nil, "", false, err
			}
			tokens, s = append(tokens, token{tokenString, text}), s[n:]
			continue
		}
		if name := nameToken.FindString(s); name != "" {
			tokens, s = append(tokens, token{tokenName, name}), s[len(name):]
			continue
		}
		if m := numberToken.FindStringSubmatch(s); m != nil {
			kind := tokenInt
			if m[1] != "" {
				kind = tokenFloat
			}
			tokens, s = append(tokens, token{kind, m[0]}), s[len(m[0]):]
			continue
		}
		op := ""
		for _, o := range operators {
			if strings.HasPrefix(s, o) {
				op = o
				break
			}
		}
		switch op {
		case "":
			return nil, "", false, fmt.Errorf("%.20q is not supported", s)
		case "(", "[", "{":
			depth++
		case ")", "]", "}":
			depth--
		}
		tokens, s = append(tokens, token{tokenOp, op}), s[len(op):]
	}
}

// lexString reads a string with Python's common escapes and returns its length in s.
func lexString(s string) (text string, n int, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == s[0]:
			return b.String(), i + 1, nil
		case c != '\\' || i+1 == len(s):
			b.WriteByte(c)
		default:
			i++
			switch s[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			case '\\', '\'', '"':
				b.WriteByte(s[i])
			default: // as in Python: an unknown escape is kept, and regular expressions rely on it
				b.WriteByte('\\')
				b.WriteByte(s[i])
			}
		}
	}
	return "", 0, fmt.Errorf("the string %.20q does not end", s)
}
