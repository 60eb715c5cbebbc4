package kubespray

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"casemate/bundle/lists/jinja"
)

// maxLiteralDeep bounds the nesting of literals in an INI inventory.
const maxLiteralDeep = 50

// pythonLiteral reads the value of a variable in an INI inventory as Ansible does, with Python's ast.literal_eval: 1.20
// is the number 1.2, and 'x' the text x. ok is false for everything else, which Ansible reads as text.
func pythonLiteral(s string) (v any, ok bool) {
	if !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\n\r") {
		return nil, false
	}
	p := &literalParser{rest: s}
	p.space()
	v, ok = p.list(0, "")
	if list, isList := v.([]any); ok && isList && len(list) == 1 && !p.comma {
		v = list[0] // not a tuple
	}
	return v, ok && p.rest == ""
}

type literalParser struct {
	rest  string
	comma bool // the last list had one
}

// space skips blanks, and a comment, which ends the line.
func (p *literalParser) space() {
	p.rest = strings.TrimLeft(p.rest, " \t\f")
	if strings.HasPrefix(p.rest, "#") {
		p.rest = ""
	}
}

func (p *literalParser) take(token string) bool {
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = rest
		p.space()
	}
	return ok
}

// list reads values separated by commas up to the token end, or to the end of the text for "".
func (p *literalParser) list(depth int, end string) (any, bool) {
	values, comma := []any{}, false
	for {
		if end != "" && p.take(end) {
			p.comma = comma
			return values, true
		}
		if end == "" && p.rest == "" {
			p.comma = comma
			return values, len(values) > 0
		}
		if len(values) > 0 && !comma {
			return nil, false
		}
		v, ok := p.value(depth + 1)
		if !ok {
			return nil, false
		}
		values = append(values, v)
		comma = p.take(",")
	}
}

var (
	literalFloat = regexp.MustCompile(
		`^(?:[0-9](?:_?[0-9])*\.(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?` +
			`|^[0-9](?:_?[0-9])*[eE][+-]?[0-9](?:_?[0-9])*`,
	)
	literalInt = regexp.MustCompile(
		`^0[xX](?:_?[0-9a-fA-F])+|^0[oO](?:_?[0-7])+|^0[bB](?:_?[01])+|^[1-9](?:_?[0-9])*|^0(?:_?0)*`,
	)
	literalWord = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)
	literalText = regexp.MustCompile(`^([rRuU])?('''|"""|'|")`)
)

func (p *literalParser) value(depth int) (any, bool) {
	if depth > maxLiteralDeep {
		return nil, false
	}
	switch {
	case literalText.MatchString(p.rest):
		return p.texts()
	case p.take("["):
		return p.list(depth, "]")
	case p.take("("):
		v, ok := p.list(depth, ")")
		if list, _ := v.([]any); ok && len(list) == 1 && !p.comma {
			return list[0], true
		}
		return v, ok
	case p.take("{"):
		return p.braces(depth)
	case p.take("-"):
		return p.number(-1)
	case p.take("+"):
		return p.number(1)
	}
	switch w := literalWord.FindString(p.rest); w {
	case "True", "False":
		p.take(w)
		return w == "True", true
	case "None":
		p.take(w)
		return nil, true
	}
	return p.number(1)
}

func (p *literalParser) number(sign int64) (any, bool) {
	if s := literalFloat.FindString(p.rest); s != "" {
		f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
		return f * float64(sign), err == nil && p.number1(s)
	}
	s := literalInt.FindString(p.rest)
	n, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 0, 64)
	if err == nil && strings.Trim(s, "0_") == "" {
		n = 0
	}
	return n * sign, err == nil && p.number1(s)
}

// number1 accepts a number if neither a letter nor a digit follows it.
func (p *literalParser) number1(s string) bool {
	rest := p.rest[len(s):]
	return (rest == "" || !strings.ContainsAny(rest[:1], "0123456789._") && literalWord.FindString(rest) == "") &&
		p.take(s)
}

// braces reads a dictionary or a set.
func (p *literalParser) braces(depth int) (any, bool) {
	d, set := &jinja.Dict{}, []any{}
	for comma := true; ; comma = p.take(",") {
		if p.take("}") {
			if len(set) > 0 {
				return set, true
			}
			return d, true
		}
		if !comma {
			return nil, false
		}
		k, ok := p.value(depth + 1)
		if !ok {
			return nil, false
		}
		if !p.take(":") {
			if len(d.Keys) > 0 {
				return nil, false
			}
			set = append(set, k)
			continue
		}
		key, err := jinja.Text(k)
		v, ok := p.value(depth + 1)
		if err != nil || !ok || len(set) > 0 {
			return nil, false
		}
		d.Set(key, v)
	}
}

// texts reads one or more strings, which Python concatenates.
func (p *literalParser) texts() (any, bool) {
	var b strings.Builder
	for {
		m := literalText.FindStringSubmatch(p.rest)
		if m == nil {
			return b.String(), true
		}
		rest, raw, quote := p.rest[len(m[0]):], strings.ContainsAny(m[1], "rR"), m[2]
		for !strings.HasPrefix(rest, quote) {
			if rest == "" {
				return nil, false
			}
			if rest[0] != '\\' || len(rest) < 2 {
				b.WriteByte(rest[0])
				rest = rest[1:]
				continue
			}
			if raw {
				b.WriteString(rest[:2])
				rest = rest[2:]
				continue
			}
			text, after, ok := pythonEscape(rest)
			if !ok {
				return nil, false
			}
			b.WriteString(text)
			rest = after
		}
		p.rest = rest[len(quote):]
		p.space()
	}
}

var simpleEscapes = strings.NewReplacer(
	`\\`,
	`\`,
	`\'`,
	`'`,
	`\"`,
	`"`,
	`\a`,
	"\a",
	`\b`,
	"\b",
	`\f`,
	"\f",
	`\n`,
	"\n",
	`\r`,
	"\r",
	`\t`,
	"\t",
	`\v`,
	"\v",
)

// pythonEscape reads the escape at the beginning of s, which has at least two bytes. An escape that Python does not
// know is kept.
func pythonEscape(s string) (text, rest string, ok bool) {
	digits := 0
	switch s[1] {
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	case 'N':
		return "", "", false
	case '0', '1', '2', '3', '4', '5', '6', '7':
		n := 1
		for n < 3 && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '7' {
			n++
		}
		c, err := strconv.ParseUint(s[1:n+1], 8, 16)
		return string(rune(c)), s[n+1:], err == nil
	default:
		_, size := utf8.DecodeRuneInString(s[1:])
		return simpleEscapes.Replace(s[:1+size]), s[1+size:], true
	}
	if len(s) < 2+digits {
		return "", "", false
	}
	c, err := strconv.ParseUint(s[2:2+digits], 16, 32)
	return string(rune(c)), s[2+digits:], err == nil && c <= utf8.MaxRune
}
