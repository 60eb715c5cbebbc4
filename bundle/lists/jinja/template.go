package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// template is a parsed template: pieces one after the other.
type template []piece

// piece is literal text, an expression, or a block condition.
type piece struct {
	text string
	expr expr
	cond []branch
}

// branch is one "if", "elif" or "else" (test nil) with its content.
type branch struct {
	test expr
	body template
}

// Parse parses text with {{ expressions }}, {% if %} and {# comments #}. As in Ansible, the newline after a block tag
// is removed.
func Parse(s string) (template, error) {
	if len(s) > MaxTemplate {
		return nil, fmt.Errorf("the template is longer than %d bytes", MaxTemplate)
	}
	p := &templateParser{rest: s}
	t, stop, err := p.parse(0)
	if err == nil && stop != nil {
		err = fmt.Errorf("{%% %s %%} without its beginning", stop[0].text)
	}
	return t, err
}

type templateParser struct {
	rest string
	trim bool // whitespace at the beginning of rest is to be removed
}

// parse reads up to the end, or to a tag that ends or divides a block, and returns the tokens of that tag.
func (p *templateParser) parse(depth int) (t template, stop []token, err error) {
	if depth > maxNesting {
		return nil, nil, fmt.Errorf("blocks are nested deeper than %d", maxNesting)
	}
	for {
		text, tag, after := p.rest, "", ""
		for i := 0; i+1 < len(text); i++ {
			if text[i] == '{' && strings.IndexByte("{%#", text[i+1]) >= 0 {
				text, tag, after = text[:i], p.rest[i:i+2], p.rest[i+2:]
				break
			}
		}
		if p.trim {
			text = strings.TrimLeft(text, " \t\r\n")
		}
		p.trim = false
		if minus, ok := strings.CutPrefix(after, "-"); ok && tag != "" {
			after, text = minus, strings.TrimRight(text, " \t\r\n")
		}
		if text != "" {
			t = append(t, piece{text: text})
		}
		var tokens []token
		switch tag {
		case "":
			return t, nil, nil
		case "{#":
			comment, rest, ok := strings.Cut(after, "#}")
			if !ok {
				return nil, nil, errors.New(`no "#}" at its end`)
			}
			p.rest, p.trim = rest, strings.HasSuffix(comment, "-")
		case "{{":
			if tokens, p.rest, p.trim, err = lexExpression(after, "}}"); err != nil {
				return nil, nil, err
			}
			e, err := parseExpression(tokens)
			if err != nil {
				return nil, nil, err
			}
			t = append(t, piece{expr: e})
		case "{%":
			if tokens, p.rest, p.trim, err = lexExpression(after, "%}"); err != nil {
				return nil, nil, err
			}
			p.rest = strings.TrimPrefix(p.rest, "\n")
			if len(tokens) == 0 {
				return nil, nil, errors.New("{% %} is empty")
			}
			switch tokens[0].text {
			case "if":
				c, err := p.condition(tokens, depth)
				if err != nil {
					return nil, nil, err
				}
				t = append(t, c)
			case "elif", "else", "endif":
				return t, tokens, nil
			case "raw":
				raw, rest, ok := cutEndRaw(p.rest)
				if !ok {
					return nil, nil, errors.New("{% raw %} without {% endraw %}")
				}
				t, p.rest = append(t, piece{text: raw}), rest
			default:
				return nil, nil, fmt.Errorf("{%% %s %%} is not supported", tokens[0].text)
			}
		}
	}
}

func cutEndRaw(s string) (raw, rest string, ok bool) {
	for i := 0; ; {
		n := strings.Index(s[i:], "{%")
		if n < 0 {
			return "", "", false
		}
		i += n
		if inner, after, ok := strings.Cut(s[i+2:], "%}"); ok && strings.Trim(inner, " \t\r\n-") == "endraw" {
			return s[:i], after, true
		}
		i += 2
	}
}

// condition reads the rest of an {% if %} whose tokens are given.
func (p *templateParser) condition(tokens []token, depth int) (piece, error) {
	var c piece
	for {
		var b branch
		var err error
		if tokens[0].text != "else" {
			if b.test, err = parseExpression(tokens[1:]); err != nil {
				return c, err
			}
		}
		if b.body, tokens, err = p.parse(depth + 1); err != nil {
			return c, err
		}
		c.cond = append(c.cond, b)
		switch {
		case tokens == nil:
			return c, errors.New("{% if %} without {% endif %}")
		case tokens[0].text == "endif":
			return c, nil
		case b.test == nil:
			return c, fmt.Errorf("{%% %s %%} after {%% else %%}", tokens[0].text)
		}
	}
}

// Render evaluates a template. A template that is a single expression has that expression's value; every other one
// gives text.
func (t template) Render(v Scope) (any, error) {
	if len(t) == 1 && t[0].expr != nil {
		return t[0].expr.eval(v)
	}
	var b strings.Builder
	if err := t.write(&b, v); err != nil {
		return nil, err
	}
	return b.String(), nil
}

func (t template) write(b *strings.Builder, v Scope) error {
	for _, p := range t {
		switch {
		case p.expr != nil:
			x, err := value(p.expr, v)
			if err != nil {
				return err
			}
			s, err := Text(x)
			if err != nil {
				return err
			}
			b.WriteString(s)
		case p.cond != nil:
			for _, c := range p.cond {
				if c.test != nil {
					x, err := value(c.test, v)
					if err != nil {
						return err
					}
					if !truth(x) {
						continue
					}
				}
				if err := c.body.write(b, v); err != nil {
					return err
				}
				break
			}
		default:
			b.WriteString(p.text)
		}
		if b.Len() > MaxText {
			return fmt.Errorf("a text of more than %d bytes", MaxText)
		}
	}
	return nil
}

// Scope resolves the variables of a template. A variable may itself be a template; the Scope evaluates it when it is
// asked for.
type Scope interface {
	// Lookup returns the value of a variable, or undefined.
	Lookup(name string) (any, error)
	// Force evaluates a value that is an unevaluated template, and returns every other value as it is.
	Force(x any) (any, error)
	// ForceAll evaluates the elements of a list or dictionary too.
	ForceAll(x any) (any, error)
	// Given reports whether the template that is being evaluated was written by the user, who may ask for what only
	// Ansible knows.
	Given() bool
}
