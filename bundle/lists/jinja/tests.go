package jinja

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func (e testExpr) eval(v Scope) (any, error) {
	x, err := e.of.eval(v)
	if IsUndefined(err) {
		x, err = Undefined{cause: err}, nil
	}
	if err != nil {
		return nil, err
	}
	u, not := x.(Undefined)
	switch {
	case e.name == "defined":
		return !not != e.not, nil
	case e.name == "undefined":
		return not != e.not, nil
	case not:
		return nil, u
	}
	if x, err = v.ForceAll(x); err != nil {
		return nil, err
	}
	args, named, err := e.args.evaluated(v)
	if err != nil {
		return nil, err
	}
	ok, err := call{v, e.name, x, args, named}.test()
	return ok != e.not, err
}

func (c call) test() (bool, error) {
	switch c.name {
	case "version", "version_compare":
		return c.version()
	case "none":
		return c.of == nil, nil
	case "string":
		return typeName(c.of) == "a string", nil
	case "mapping":
		return typeName(c.of) == "a dictionary", nil
	case "boolean":
		return typeName(c.of) == "a boolean", nil
	case "number":
		return typeName(c.of) == "a number", nil
	case "iterable", "sequence":
		_, err := c.items()
		return err == nil, nil
	case "true", "false":
		b, ok := c.of.(bool)
		return ok && b == (c.name == "true"), nil
	case "truthy", "falsy":
		return truth(c.of) == (c.name == "truthy"), nil
	case "match", "search", "regex":
		expression, err := c.str(0, "pattern")
		if err != nil {
			return false, err
		}
		if c.name == "match" {
			expression = "^(?:" + expression + ")"
		}
		re, err := regexp.Compile(expression)
		if err != nil {
			return false, fmt.Errorf("%s: %w", c.name, err)
		}
		s, err := Text(c.of)
		return re.MatchString(s), err
	}
	op := map[string]string{"eq": "==", "equalto": "==", "==": "==", "ne": "!=", "!=": "!=", "in": "in", "lt": "<",
		"<": "<", "le": "<=", "<=": "<=",
		"gt": ">", ">": ">", "ge": ">=", ">=": ">="}[c.name]
	if op == "" || len(c.args) != 1 {
		return false, fmt.Errorf("the test %s is not supported", c.name)
	}
	return compareWith(op, c.of, c.args[0])
}

// version compares versions as Ansible does by default (Python's LooseVersion): numbers as numbers, words as words.
func (c call) version() (bool, error) {
	a, err := Text(c.of)
	if err != nil {
		return false, err
	}
	b, err := c.str(0, "version")
	if err != nil {
		return false, err
	}
	op, err := c.str(1, "operator")
	if err != nil {
		return false, err
	}
	op = cmp.Or(
		map[string]string{"": "==", "=": "==", "eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "ne": "!=",
			"<>": "!="}[op],
		op,
	)
	if !slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, op) {
		return false, fmt.Errorf("%q does not compare versions", op)
	}
	n, err := compareVersions(a, b)
	return ordered(op, n), err
}

var versionPart = regexp.MustCompile(`[0-9]+|[a-z]+|[^0-9a-z.]+`)

func compareVersions(a, b string) (int, error) {
	x, y := versionPart.FindAllString(a, -1), versionPart.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		p, perr := strconv.ParseUint(x[i], 10, 64)
		q, qerr := strconv.ParseUint(y[i], 10, 64)
		n := strings.Compare(x[i], y[i])
		switch {
		case (perr == nil) != (qerr == nil):
			return 0, fmt.Errorf("the versions %.50q and %.50q cannot be compared", a, b)
		case perr == nil:
			n = cmp.Compare(p, q)
		}
		if n != 0 {
			return n, nil
		}
	}
	return cmp.Compare(len(x), len(y)), nil
}
