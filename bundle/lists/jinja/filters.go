package jinja

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

func (e filterExpr) eval(v Scope) (any, error) {
	x, err := e.of.eval(v)
	if IsUndefined(err) && (e.name == "default" || e.name == "d") {
		x, err = Undefined{cause: err}, nil
	}
	if err != nil {
		return nil, err
	}
	if e.name == "default" || e.name == "d" {
		return e.fallback(x, v)
	}
	if u, ok := x.(Undefined); ok {
		return nil, u
	}
	if x, err = v.ForceAll(x); err != nil {
		return nil, err
	}
	args, named, err := e.args.evaluated(v)
	if err != nil {
		return nil, err
	}
	return call{v, e.name, x, args, named}.filter()
}

// fallback is the filter default. Its argument is evaluated only if it is needed, so that a default that cannot be
// evaluated does no harm.
func (e filterExpr) fallback(x any, v Scope) (any, error) {
	falsy := false
	for i, a := range e.args.list {
		if i == 1 {
			b, err := value(a, v)
			if err != nil {
				return nil, err
			}
			falsy = truth(b)
		}
	}
	if b := e.args.named["boolean"]; b != nil {
		y, err := value(b, v)
		if err != nil {
			return nil, err
		}
		falsy = truth(y)
	}
	_, not := x.(Undefined)
	switch {
	case !not && (!falsy || truth(x)):
		return x, nil
	case len(e.args.list) > 0:
		return e.args.list[0].eval(v)
	case e.args.named["default_value"] != nil:
		return e.args.named["default_value"].eval(v)
	}
	return "", nil
}

func (c call) filter() (any, error) {
	switch c.name {
	case "bool":
		return Bool(c.of), nil
	case "int":
		return Int(c.of, Int(c.arg(0, "default"), 0)), nil
	case "list":
		return c.items()
	case "length", "count":
		if s, ok := c.of.(string); ok {
			return int64(len([]rune(s))), nil
		}
		list, err := c.items()
		return int64(len(list)), err
	case "first", "last":
		list, err := c.items()
		switch {
		case err != nil:
			return nil, err
		case len(list) == 0:
			return Undefined{What: c.name + " of nothing"}, nil
		case c.name == "first":
			return list[0], nil
		}
		return list[len(list)-1], nil
	case "join":
		return c.join()
	case "sort", "unique", "reverse":
		return c.reorder()
	case "select", "reject", "map":
		return c.each()
	case "dict2items":
		d, ok := c.of.(*Dict)
		if !ok {
			return nil, fmt.Errorf("dict2items of %s", typeName(c.of))
		}
		return d.items(), nil
	case "ternary":
		if truth(c.of) {
			return c.arg(0, "true_val"), nil
		}
		return c.arg(1, "false_val"), nil
	case "string", "lower", "upper", "trim", "basename", "replace", "regex_replace", "split":
		s, err := Text(c.of)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		return c.text(s)
	}
	return nil, fmt.Errorf("the filter %s is not supported", c.name)
}

// items returns the items of a list, or the keys of a dictionary.
func (c call) items() ([]any, error) {
	switch of := c.of.(type) {
	case []any:
		return of, nil
	case *Dict:
		keys := make([]any, len(of.Keys))
		for i, k := range of.Keys {
			keys[i] = k
		}
		return keys, nil
	case string:
		list := make([]any, 0, len(of))
		for _, r := range of {
			list = append(list, string(r))
		}
		return list, nil
	}
	return nil, fmt.Errorf("%s of %s", c.name, typeName(c.of))
}

// items returns the pairs of a dictionary, as dict2items does.
func (d *Dict) items() []any {
	list := make([]any, len(d.Keys))
	for i, k := range d.Keys {
		item := &Dict{}
		item.Set("key", k)
		item.Set("value", d.Values[k])
		list[i] = item
	}
	return list
}

func (c call) join() (any, error) {
	list, err := c.items()
	if err != nil {
		return nil, err
	}
	between, err := c.str(0, "d")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, item := range list {
		s, err := Text(item)
		if err != nil {
			return nil, fmt.Errorf("join: %w", err)
		}
		if i > 0 {
			b.WriteString(between)
		}
		if b.WriteString(s); b.Len() > MaxText {
			return nil, fmt.Errorf("a text of more than %d bytes", MaxText)
		}
	}
	return b.String(), nil
}

func (c call) reorder() (any, error) {
	if c.named["attribute"] != nil {
		return nil, fmt.Errorf("%s by an attribute is not supported", c.name)
	}
	list, err := c.items()
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	switch c.name {
	case "reverse":
		slices.Reverse(list)
	case "unique":
		var once []any
		for _, x := range list {
			if in, _ := contains(x, once); !in {
				once = append(once, x)
			}
		}
		list = once
	default:
		slices.SortStableFunc(list, func(a, b any) int {
			n, bad := compareValues(a, b)
			err = cmp.Or(err, bad)
			return n
		})
		if truth(c.arg(0, "reverse")) {
			slices.Reverse(list)
		}
	}
	return list, err
}

// each implements select and reject, whose first argument is the name of a test, and map, whose first argument is the
// name of a filter.
func (c call) each() (any, error) {
	list, err := c.items()
	if err != nil {
		return nil, err
	}
	kept := []any{}
	if attribute, ok := c.named["attribute"].(string); ok && c.name == "map" {
		for _, x := range list {
			y, err := indexExpr{litExpr{x}, litExpr{attribute}}.eval(c.v)
			if err != nil {
				return nil, err
			}
			kept = append(kept, y)
		}
		return kept, nil
	}
	if len(c.args) == 0 {
		return nil, fmt.Errorf("%s without a name is not supported", c.name)
	}
	name, err := c.str(0, "")
	if err != nil {
		return nil, err
	}
	if name == "map" || name == "select" || name == "reject" {
		return nil, fmt.Errorf("%s of %s is not understood", c.name, name)
	}
	for _, x := range list {
		inner := call{c.v, name, x, c.args[1:], c.named}
		if c.name == "map" {
			y, err := inner.filter()
			if err != nil {
				return nil, err
			}
			kept = append(kept, y)
			continue
		}
		ok, err := inner.test()
		if err != nil {
			return nil, err
		}
		if ok == (c.name == "select") {
			kept = append(kept, x)
		}
	}
	return kept, nil
}

// text implements the filters of strings.
func (c call) text(s string) (any, error) {
	switch c.name {
	case "lower":
		return strings.ToLower(s), nil
	case "upper":
		return strings.ToUpper(s), nil
	case "trim":
		return strings.TrimSpace(s), nil
	case "basename":
		return path.Base(s), nil
	case "split":
		return c.split(s)
	case "replace", "regex_replace":
		old, err := c.str(0, "regex")
		if err != nil {
			return nil, err
		}
		with, err := c.str(1, "replacement")
		if err != nil {
			return nil, err
		}
		if c.name == "regex_replace" {
			return regexReplace(s, old, with)
		}
		if old == "" || strings.Count(s, old)*len(with) > MaxText {
			return nil, errors.New("replace: nothing to replace, or a text that is too long")
		}
		return strings.ReplaceAll(s, old, with), nil
	}
	return s, nil
}

func (c call) split(s string) (any, error) {
	between, err := c.str(0, "sep")
	if err != nil {
		return nil, err
	}
	parts := strings.Fields(s)
	if between != "" {
		parts = strings.Split(s, between)
	}
	list := make([]any, len(parts))
	for i, p := range parts {
		list[i] = p
	}
	return list, nil
}

// groups are Python's \1 and \g<name> in a replacement.
var groups = regexp.MustCompile(`\\(?:([0-9])|g<([A-Za-z0-9_]+)>)`)

// regexReplace is Python's re.sub. Features that Go's regular expressions do not have, such as lookaheads, are an
// error.
func regexReplace(s, expression, with string) (any, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, fmt.Errorf("regex_replace: %w", err)
	}
	with = groups.ReplaceAllString(strings.ReplaceAll(with, "$", "$$"), "$${$1$2}")
	if len(s)*(len(with)+1) > MaxText {
		return nil, errors.New("regex_replace: the text is too long")
	}
	return re.ReplaceAllString(s, with), nil
}
