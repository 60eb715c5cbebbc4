package rpm

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxDepth = 32      // of nested rich dependencies
	maxRich  = 4 << 10 // words of one
)

// expr is a dependency: one capability, or a rich dependency (rpm's manual, Boolean Dependencies) of several.
type expr struct {
	dep  *dep   // of a leaf
	op   string // and, or, if, unless, with, without
	args []*expr
	// other is what counts if the condition of if or unless does not.
	other *expr
}

// parseExpr reads a dependency as primary.xml has it in a name.
func parseExpr(text string) (*expr, error) {
	p := &richParser{words: richWords(text)}
	if len(p.words) > maxRich {
		return nil, fmt.Errorf("the dependency %.60s… is too long", text)
	}
	e, err := p.group(0)
	if err == nil && p.at != len(p.words) {
		err = errors.New("something follows its last parenthesis")
	}
	if err != nil {
		return nil, fmt.Errorf("the dependency %.200s cannot be read: %w", text, err)
	}
	return e, nil
}

// richWords splits a rich dependency at spaces, and at parentheses that do not belong to a name: libfoo.so.1()(64bit)
// is one word.
func richWords(text string) (words []string) {
	start, depth := -1, 0
	flush := func(end int) {
		if start >= 0 {
			words = append(words, text[start:end])
			start = -1
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ' ' || c == '\t':
			if depth == 0 {
				flush(i)
			}
		case c == '(' && start < 0:
			words = append(words, "(")
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == ')':
			flush(i)
			words = append(words, ")")
		case start < 0:
			start = i
		}
	}
	flush(len(text))
	return words
}

type richParser struct {
	words []string
	at    int
}

func (p *richParser) next() string {
	if p.at >= len(p.words) {
		return ""
	}
	p.at++
	return p.words[p.at-1]
}

func (p *richParser) peek() string {
	if p.at >= len(p.words) {
		return ""
	}
	return p.words[p.at]
}

// group reads ( OPERAND [OPERATOR OPERAND]… ).
func (p *richParser) group(depth int) (*expr, error) {
	if depth > maxDepth {
		return nil, errors.New("its parentheses are nested too deeply")
	}
	if p.next() != "(" {
		return nil, errors.New("a parenthesis is missing")
	}
	first, err := p.operand(depth)
	if err != nil {
		return nil, err
	}
	e := &expr{args: []*expr{first}}
	for {
		switch op := p.next(); {
		case op == ")" && e.op == "":
			return first, nil
		case op == ")":
			return e, nil
		case op == "else" && (e.op == "if" || e.op == "unless") && e.other == nil:
			if e.other, err = p.operand(depth); err != nil {
				return nil, err
			}
			continue
		case !richOperator(op):
			return nil, fmt.Errorf("%.60q is no operator", op)
		case e.op != "" && (e.op != op || op == "if" || op == "unless"):
			return nil, fmt.Errorf("%s and %s need parentheses", e.op, op)
		default:
			e.op = op
		}
		arg, err := p.operand(depth)
		if err != nil {
			return nil, err
		}
		e.args = append(e.args, arg)
	}
}

func richOperator(s string) bool {
	switch s {
	case "and", "or", "if", "unless", "with", "without":
		return true
	}
	return false
}

// operand reads a group, or NAME [SENSE VERSION].
func (p *richParser) operand(depth int) (*expr, error) {
	if p.peek() == "(" {
		return p.group(depth + 1)
	}
	name := p.next()
	if name == "" || name == ")" || richOperator(name) || name == "else" {
		return nil, errors.New("the name of a package is missing")
	}
	d := &dep{name: name}
	if op, ok := senses[p.peek()]; ok {
		p.at++
		version := p.next()
		if version == "" || version == ")" {
			return nil, errors.New("a version is missing")
		}
		d.op, d.evr = op, parseEVR(version)
	}
	return &expr{dep: d}, nil
}

// leaves calls f for every capability.
func (e *expr) leaves(f func(*dep)) {
	if e == nil {
		return
	}
	if e.dep != nil {
		f(e.dep)
	}
	for _, a := range e.args {
		a.leaves(f)
	}
	e.other.leaves(f)
}

// isRich reports whether a name in primary.xml is a rich dependency.
func isRich(name string) bool { return strings.HasPrefix(name, "(") }
