package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// call is a filter, test or method with its arguments evaluated.
type call struct {
	v     Scope
	name  string
	of    any
	args  []any
	named map[string]any
}

// arg is the i-th argument, or the one of that name, or nil.
func (c call) arg(i int, name string) any {
	if i < len(c.args) {
		return c.args[i]
	}
	return c.named[name]
}

// str returns an argument that must be a text; "" when it is missing.
func (c call) str(i int, name string) (string, error) {
	s, err := Text(c.arg(i, name))
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.name, err)
	}
	return s, nil
}

// evaluated returns the values of the arguments.
func (a arguments) evaluated(v Scope) (list []any, named map[string]any, err error) {
	for _, e := range a.list {
		x, err := whole(e, v)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, x)
	}
	for name, e := range a.named {
		x, err := whole(e, v)
		if err != nil {
			return nil, nil, err
		}
		if named == nil {
			named = map[string]any{}
		}
		named[name] = x
	}
	return list, named, nil
}

func (e callExpr) eval(v Scope) (any, error) {
	args, named, err := e.args.evaluated(v)
	if err != nil {
		return nil, err
	}
	switch {
	case e.name == "undef":
		return Undefined{What: "undef()"}, nil
	case e.name != "lookup":
		return nil, fmt.Errorf("the function %s is not supported", e.name)
	case len(args) != 2:
		return nil, errors.New("lookup is supported with two arguments only")
	}
	what, err := Text(args[1])
	if err != nil {
		return nil, err
	}
	switch args[0] {
	case "vars", "ansible.builtin.vars":
		x, err := v.Lookup(what)
		if _, not := x.(Undefined); err == nil && not && named["default"] != nil {
			return named["default"], nil
		}
		return x, err
	case "env", "ansible.builtin.env":
		if v.Given() {
			return nil, &UnreadableError{Why: "the environment variable " + what + " is known only where Ansible runs"}
		}
		return "", nil // the lists do not depend on the user's environment
	}
	return nil, &UnreadableError{Why: fmt.Sprintf("lookup of %v is not supported", args[0])}
}

func (e methodExpr) eval(v Scope) (any, error) {
	x, err := value(e.of, v)
	if err != nil {
		return nil, err
	}
	if x, err = v.ForceAll(x); err != nil {
		return nil, err
	}
	args, named, err := e.args.evaluated(v)
	if err != nil {
		return nil, err
	}
	c := call{v, e.name, x, args, named}
	switch of := x.(type) {
	case *Dict:
		switch e.name {
		case "keys":
			return c.items()
		case "values":
			list := make([]any, len(of.Keys))
			for i, k := range of.Keys {
				list[i] = of.Values[k]
			}
			return list, nil
		case "get":
			key, err := c.str(0, "key")
			if err != nil {
				return nil, err
			}
			if err := of.unknown(v, key); err != nil {
				return nil, err
			}
			if y, ok := of.Values[key]; ok {
				return y, nil
			}
			return c.arg(1, "default"), nil
		}
	case string:
		s, err := c.str(0, "")
		if err != nil {
			return nil, err
		}
		switch e.name {
		case "startswith":
			return strings.HasPrefix(of, s), nil
		case "endswith":
			return strings.HasSuffix(of, s), nil
		case "strip":
			c.name = "trim"
			return c.text(of)
		case "split", "lower", "upper", "replace":
			return c.text(of)
		}
	}
	return nil, fmt.Errorf("the method %s of %s is not supported", e.name, typeName(x))
}
