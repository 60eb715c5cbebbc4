package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// parseExpression parses all the tokens as one expression.
func parseExpression(tokens []token) (expr, error) {
	p := &exprParser{tokens: tokens}
	e, err := p.conditional()
	if err == nil && p.peek().kind != tokenEnd {
		err = fmt.Errorf("unexpected %s", p.peek())
	}
	return e, err
}

// exprParser is a recursive descent parser with Jinja's precedences: filters and tests bind closest, then arithmetic,
// comparison, not, and, or, if.
type exprParser struct {
	tokens []token
	depth  int
}

func (p *exprParser) peek() token {
	if len(p.tokens) == 0 {
		return token{}
	}
	return p.tokens[0]
}

func (p *exprParser) next() token {
	t := p.peek()
	if len(p.tokens) > 0 {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *exprParser) isOp(text string) bool {
	t := p.peek()
	return t.kind == tokenOp && t.text == text
}

func (p *exprParser) isWord(text string) bool {
	t := p.peek()
	return t.kind == tokenName && t.text == text
}

func (p *exprParser) skipOp(text string) bool {
	ok := p.isOp(text)
	if ok {
		p.next()
	}
	return ok
}

func (p *exprParser) skipWord(text string) bool {
	ok := p.isWord(text)
	if ok {
		p.next()
	}
	return ok
}

func (p *exprParser) expect(op string) error {
	if !p.skipOp(op) {
		return fmt.Errorf("want %q, got %s", op, p.peek())
	}
	return nil
}

func (p *exprParser) conditional() (expr, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, fmt.Errorf("the expression is nested deeper than %d", maxNesting)
	}
	defer func() { p.depth-- }()
	e, err := p.or()
	for err == nil && p.skipWord("if") {
		c := condExpr{then: e}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.skipWord("else") {
			if c.other, err = p.conditional(); err != nil {
				return nil, err
			}
		}
		e = c
	}
	return e, err
}

func (p *exprParser) or() (expr, error) {
	e, err := p.and()
	for err == nil && p.skipWord("or") {
		var right expr
		right, err = p.and()
		e = logicExpr{e, right, true}
	}
	return e, err
}

func (p *exprParser) and() (expr, error) {
	e, err := p.not()
	for err == nil && p.skipWord("and") {
		var right expr
		right, err = p.not()
		e = logicExpr{e, right, false}
	}
	return e, err
}

func (p *exprParser) not() (expr, error) {
	times := 0
	for p.skipWord("not") {
		times++
	}
	e, err := p.compare()
	for ; times > 0; times-- {
		e = notExpr{e}
	}
	return e, err
}

func (p *exprParser) compare() (expr, error) {
	e, err := p.binary(0)
	for err == nil {
		op := ""
		switch t := p.peek(); {
		case t.kind == tokenOp && strings.Contains(" == != < <= > >= ", " "+t.text+" "), p.isWord("in"):
			op = p.next().text
		case p.isWord("not") && len(p.tokens) > 1 && p.tokens[1] == token{tokenName, "in"}:
			p.next()
			p.next()
			op = "not in"
		default:
			return e, nil
		}
		var right expr
		right, err = p.binary(0)
		e = compareExpr{op, e, right}
	}
	return e, err
}

// levels of arithmetic, the loosest first.
var levels = [][]string{{"+", "-"}, {"~"}, {"*", "/", "//", "%"}}

func (p *exprParser) binary(level int) (expr, error) {
	if level == len(levels) {
		return p.unary()
	}
	e, err := p.binary(level + 1)
	for err == nil {
		op := ""
		for _, o := range levels[level] {
			if p.skipOp(o) {
				op = o
				break
			}
		}
		if op == "" {
			return e, nil
		}
		var right expr
		right, err = p.binary(level + 1)
		e = binaryExpr{op, e, right}
	}
	return e, err
}

func (p *exprParser) unary() (expr, error) {
	minus := 0
	for p.skipOp("-") {
		minus++
	}
	e, err := p.primary()
	if err != nil {
		return nil, err
	}
	if e, err = p.postfix(e); err != nil {
		return nil, err
	}
	if minus%2 == 1 {
		e = binaryExpr{"-", litExpr{int64(0)}, e}
	}
	return p.filters(e)
}

func (p *exprParser) primary() (expr, error) {
	switch t := p.next(); t.kind {
	case tokenString:
		s := t.text
		for p.peek().kind == tokenString { // "a" "b" is one string
			s += p.next().text
		}
		return litExpr{s}, nil
	case tokenInt:
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the number %.30s is too large", t.text)
		}
		return litExpr{n}, nil
	case tokenFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, fmt.Errorf("the number %.30s is too large", t.text)
		}
		return litExpr{f}, nil
	case tokenName:
		switch t.text {
		case "true", "True":
			return litExpr{true}, nil
		case "false", "False":
			return litExpr{false}, nil
		case "none", "None":
			return litExpr{nil}, nil
		case "if", "else", "in", "is", "and", "or", "not":
			return nil, fmt.Errorf("unexpected %s", t)
		}
		return nameExpr(t.text), nil
	case tokenOp:
		switch t.text {
		case "(":
			items, comma, err := p.items(")")
			if err == nil && len(items) == 1 && !comma {
				return items[0], nil
			}
			return listExpr(items), err
		case "[":
			items, _, err := p.items("]")
			return listExpr(items), err
		case "{":
			return p.dict()
		}
		return nil, fmt.Errorf("unexpected %s", t)
	default:
		return nil, errors.New("the expression ends too early")
	}
}

// items reads expressions separated by commas up to end, and reports whether there was a comma.
func (p *exprParser) items(end string) (items []expr, comma bool, err error) {
	for !p.skipOp(end) {
		e, err := p.conditional()
		if err != nil {
			return nil, false, err
		}
		items = append(items, e)
		if !p.skipOp(",") {
			return items, comma, p.expect(end)
		}
		comma = true
	}
	return items, comma, nil
}

func (p *exprParser) dict() (expr, error) {
	var d dictExpr
	for !p.skipOp("}") {
		k, err := p.conditional()
		if err != nil {
			return nil, err
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		v, err := p.conditional()
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, k), append(d.values, v)
		if !p.skipOp(",") {
			return d, p.expect("}")
		}
	}
	return d, nil
}

// postfix reads attributes, subscripts and calls.
func (p *exprParser) postfix(e expr) (expr, error) {
	for {
		switch {
		case p.skipOp("."):
			t := p.next()
			if t.kind != tokenName && t.kind != tokenInt {
				return nil, fmt.Errorf("want a name after the dot, got %s", t)
			}
			if p.skipOp("(") {
				args, err := p.arguments()
				if err != nil {
					return nil, err
				}
				e = methodExpr{e, t.text, args}
				continue
			}
			e = indexExpr{e, litExpr{t.text}}
		case p.skipOp("["):
			i, err := p.subscript(e)
			if err != nil {
				return nil, err
			}
			e = i
		case p.isOp("("):
			name, ok := e.(nameExpr)
			if !ok {
				return nil, errors.New("only functions and methods can be called")
			}
			p.next()
			args, err := p.arguments()
			if err != nil {
				return nil, err
			}
			e = callExpr{string(name), args}
		default:
			return e, nil
		}
	}
}

// subscript reads "index]" or "from:to]".
func (p *exprParser) subscript(of expr) (expr, error) {
	var from, to expr
	var err error
	if !p.isOp(":") {
		if from, err = p.conditional(); err != nil {
			return nil, err
		}
		if p.skipOp("]") {
			return indexExpr{of, from}, nil
		}
	}
	if err = p.expect(":"); err != nil {
		return nil, err
	}
	if !p.isOp("]") {
		if to, err = p.conditional(); err != nil {
			return nil, err
		}
	}
	return sliceExpr{of, from, to}, p.expect("]")
}

// arguments reads the arguments of a call after its "(".
func (p *exprParser) arguments() (arguments, error) {
	var a arguments
	for !p.skipOp(")") {
		name := ""
		if p.peek().kind == tokenName && len(p.tokens) > 1 && p.tokens[1] == (token{tokenOp, "="}) {
			name = p.next().text
			p.next()
		}
		e, err := p.conditional()
		if err != nil {
			return a, err
		}
		switch {
		case name != "":
			if a.named == nil {
				a.named = map[string]expr{}
			}
			a.named[name] = e
		default:
			a.list = append(a.list, e)
		}
		if !p.skipOp(",") {
			return a, p.expect(")")
		}
	}
	return a, nil
}

// filters reads "| filter(…)" and "is test(…)".
func (p *exprParser) filters(e expr) (expr, error) {
	for {
		var err error
		switch {
		case p.skipOp("|"):
			f := filterExpr{of: e}
			if f.name, err = p.dotted(); err != nil {
				return nil, err
			}
			if p.skipOp("(") {
				if f.args, err = p.arguments(); err != nil {
					return nil, err
				}
			}
			e = f
		case p.skipWord("is"):
			t := testExpr{of: e, not: p.skipWord("not")}
			if t.name, err = p.dotted(); err != nil {
				return nil, err
			}
			switch next := p.peek(); {
			case p.skipOp("("):
				t.args, err = p.arguments()
			case next.kind == tokenString || next.kind == tokenInt || next.kind == tokenFloat || p.isOp("[") ||
				p.isOp("{") ||
				next.kind == tokenName && !strings.Contains(" if else and or is not in ", " "+next.text+" "):
				var arg expr
				if arg, err = p.primary(); err == nil {
					arg, err = p.postfix(arg)
				}
				t.args.list = []expr{arg}
			}
			if err != nil {
				return nil, err
			}
			e = t
		default:
			return e, nil
		}
	}
}

// dotted reads the name of a filter or test; of a qualified name ("ansible.builtin.bool") the last word is used.
func (p *exprParser) dotted() (string, error) {
	for {
		t := p.next()
		if t.kind != tokenName {
			return "", fmt.Errorf("want a name, got %s", t)
		}
		if !p.skipOp(".") {
			return t.text, nil
		}
	}
}
