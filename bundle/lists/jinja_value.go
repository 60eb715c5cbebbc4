package lists

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The values of expressions are nil, bool, int64, float64, string, []any, *dict, undefined, and *source, which is a
// template that has not been evaluated yet.

const (
	maxText  = 1 << 20 // bytes of one string
	maxItems = 1 << 20 // of one list
)

// dict is a dictionary in the order in which it was written. Its keys are strings: Kubespray's tables are looked up
// with versions, which YAML reads as strings, integers or decimals just as they happen to look.
type dict struct {
	keys   []string
	values map[string]any
	// open says that there are more keys than these, which only Ansible knows: a node's facts.
	open bool
}

// unknown is an error for a key that is not there but may be where Ansible runs, nil for every other. Only what the
// user gave is held to that: the templates of a checkout are made for a machine that has no facts yet.
func (d *dict) unknown(v Scope, key string) error {
	if _, ok := d.values[key]; ok || !d.open || !v.Given() {
		return nil
	}
	return &unreadableError{"the fact " + key + " of a node is known only where Ansible runs"}
}

func (d *dict) set(key string, v any) {
	if d.values == nil {
		d.values = map[string]any{}
	}
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = v
}

// undefined is the value of what is not there. It can be asked for and be given a default; every other use is an
// error, which is the undefined itself.
type undefined struct {
	what string
	// cause, instead of what, is the error of a variable whose template uses something undefined.
	cause error
}

func (u undefined) Error() string {
	if u.cause != nil {
		return u.cause.Error()
	}
	return u.what + " is not defined"
}
func (u undefined) Unwrap() error { return u.cause }

// isUndefined says whether an error comes from the use of something undefined.
func isUndefined(err error) bool {
	var u undefined
	return errors.As(err, &u)
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "none"
	case bool:
		return "a boolean"
	case int64, float64:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	case *dict:
		return "a dictionary"
	case undefined:
		return "undefined"
	}
	return "a template"
}

// truth is Python's.
func truth(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case *dict:
		return len(v.keys) > 0
	}
	return false
}

// toText writes a scalar as Python's str does; none is "", as in Ansible's templates.
func toText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case bool:
		if v {
			return "True", nil
		}
		return "False", nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		return s, nil
	case string:
		return v, nil
	case undefined:
		return "", v
	}
	return "", fmt.Errorf("%s cannot be written as text", typeName(v))
}

func toNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// equal is Python's ==.
func equal(a, b any) bool {
	if x, ok := toNumber(a); ok {
		y, ok := toNumber(b)
		return ok && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		s, ok := b.(string)
		return ok && a == s
	case []any:
		l, ok := b.([]any)
		return ok && slices.EqualFunc(a, l, equal)
	case *dict:
		d, ok := b.(*dict)
		return ok && slices.Equal(slices.Sorted(slices.Values(a.keys)), slices.Sorted(slices.Values(d.keys))) &&
			!slices.ContainsFunc(a.keys, func(k string) bool { return !equal(a.values[k], d.values[k]) })
	}
	return false
}

// compareValues orders numbers and strings.
func compareValues(a, b any) (int, error) {
	if x, ok := toNumber(a); ok {
		if y, ok := toNumber(b); ok {
			switch {
			case x < y:
				return -1, nil
			case x > y:
				return 1, nil
			}
			return 0, nil
		}
	}
	x, xok := a.(string)
	y, yok := b.(string)
	if !xok || !yok {
		return 0, fmt.Errorf("%s and %s have no order", typeName(a), typeName(b))
	}
	return strings.Compare(x, y), nil
}

// contains is Python's "in".
func contains(v, in any) (bool, error) {
	switch in := in.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			return false, fmt.Errorf("%s cannot be in a string", typeName(v))
		}
		return strings.Contains(in, s), nil
	case []any:
		return slices.ContainsFunc(in, func(x any) bool { return equal(x, v) }), nil
	case *dict:
		key, err := toText(v)
		if err != nil {
			return false, err
		}
		_, ok := in.values[key]
		return ok, nil
	}
	return false, fmt.Errorf("nothing can be in %s", typeName(in))
}

// toInt reads an integer as the filter int does: what is none is fallback.
func toInt(v any, fallback int64) int64 {
	switch v := v.(type) {
	case string:
		s := strings.TrimSpace(v)
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<53 {
			return int64(f)
		}
	default:
		if f, ok := toNumber(v); ok && math.Abs(f) < 1<<53 {
			return int64(f)
		}
	}
	return fallback
}

// toBool reads a boolean as Ansible's filter bool does.
func toBool(v any) bool {
	if s, ok := v.(string); ok {
		switch strings.ToLower(s) {
		case "yes", "on", "1", "true", "t", "y":
			return true
		}
		return false
	}
	n, ok := toNumber(v)
	return ok && n == 1
}

// arithmetic is one of the operators of levels.
func arithmetic(op string, a, b any) (any, error) {
	if op == "~" {
		x, err := toText(a)
		if err != nil {
			return nil, err
		}
		y, err := toText(b)
		if err != nil {
			return nil, err
		}
		return concat(x, y)
	}
	if op == "+" {
		switch x := a.(type) {
		case string:
			if y, ok := b.(string); ok {
				return concat(x, y)
			}
		case []any:
			if y, ok := b.([]any); ok {
				if len(x)+len(y) > maxItems {
					return nil, fmt.Errorf("a list of more than %d items", maxItems)
				}
				return slices.Concat(x, y), nil
			}
		}
	}
	x, xok := toNumber(a)
	y, yok := toNumber(b)
	if !xok || !yok {
		return nil, fmt.Errorf("%s %s %s has no meaning", typeName(a), op, typeName(b))
	}
	_, af := a.(float64)
	_, bf := b.(float64)
	var f float64
	switch op {
	case "+":
		f = x + y
	case "-":
		f = x - y
	case "*":
		f = x * y
	default:
		if y == 0 {
			return nil, errors.New("division by zero")
		}
		switch op {
		case "/":
			return x / y, nil
		case "//":
			f = math.Floor(x / y)
		default:
			f = x - y*math.Floor(x/y)
		}
	}
	if !af && !bf {
		if math.Abs(f) >= 1<<53 {
			return nil, errors.New("the number is too large")
		}
		return int64(f), nil
	}
	return f, nil
}

func concat(a, b string) (any, error) {
	if len(a)+len(b) > maxText {
		return nil, fmt.Errorf("a text of more than %d bytes", maxText)
	}
	return a + b, nil
}

// unreadableError says that something has a value which is not known here. Other than what is undefined it takes no
// default.
type unreadableError struct{ why string }

func (e *unreadableError) Error() string { return e.why }
