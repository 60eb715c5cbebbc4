package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The values of expressions are nil, bool, int64, float64, string, []any, *Dict, Undefined, and the Scope's own types
// for templates that have not been evaluated yet.

const (
	MaxText  = 1 << 20 // bytes of one string
	maxItems = 1 << 20 // of one list
)

// Dict is a dictionary that keeps the order in which it was written. Its keys are strings: Kubespray looks up its
// tables by versions, which YAML reads as strings, integers or decimals depending on their form.
type Dict struct {
	Keys   []string
	Values map[string]any
	// Open says that there may be more keys, which only Ansible knows: a node's facts.
	Open bool
}

// unknown returns an error for a missing key that may exist where Ansible runs, and nil for every other. It applies
// only to templates that the user gave: the templates of a checkout are made for a machine without facts.
func (d *Dict) unknown(v Scope, key string) error {
	if _, ok := d.Values[key]; ok || !d.Open || !v.Given() {
		return nil
	}
	return &UnreadableError{Why: "the fact " + key + " of a node is known only where Ansible runs"}
}

func (d *Dict) Set(key string, v any) {
	if d.Values == nil {
		d.Values = map[string]any{}
	}
	if _, ok := d.Values[key]; !ok {
		d.Keys = append(d.Keys, key)
	}
	d.Values[key] = v
}

// Undefined is the value of a missing variable. It can be tested and be given a default; every other use is an error,
// which is the Undefined itself.
type Undefined struct {
	What string
	// cause, instead of What, is the error of a variable whose template uses something undefined.
	cause error
}

func (u Undefined) Error() string {
	if u.cause != nil {
		return u.cause.Error()
	}
	return u.What + " is not defined"
}
func (u Undefined) Unwrap() error { return u.cause }

// IsUndefined reports whether an error comes from the use of something undefined.
func IsUndefined(err error) bool {
	var u Undefined
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
	case *Dict:
		return "a dictionary"
	case Undefined:
		return "undefined"
	}
	return "a template"
}

// truth is Python's truth value.
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
	case *Dict:
		return len(v.Keys) > 0
	}
	return false
}

// Text formats a scalar as Python's str does; none is "", as in Ansible's templates.
func Text(v any) (string, error) {
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
	case Undefined:
		return "", v
	}
	return "", fmt.Errorf("%s cannot be written as text", typeName(v))
}

func Number(v any) (float64, bool) {
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
	if x, ok := Number(a); ok {
		y, ok := Number(b)
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
	case *Dict:
		d, ok := b.(*Dict)
		return ok && slices.Equal(slices.Sorted(slices.Values(a.Keys)), slices.Sorted(slices.Values(d.Keys))) &&
			!slices.ContainsFunc(a.Keys, func(k string) bool { return !equal(a.Values[k], d.Values[k]) })
	}
	return false
}

// compareValues orders numbers and strings.
func compareValues(a, b any) (int, error) {
	if x, ok := Number(a); ok {
		if y, ok := Number(b); ok {
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
	case *Dict:
		key, err := Text(v)
		if err != nil {
			return false, err
		}
		_, ok := in.Values[key]
		return ok, nil
	}
	return false, fmt.Errorf("nothing can be in %s", typeName(in))
}

// Int reads an integer as the filter int does: what is not a number gives fallback.
func Int(v any, fallback int64) int64 {
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
		if f, ok := Number(v); ok && math.Abs(f) < 1<<53 {
			return int64(f)
		}
	}
	return fallback
}

// Bool reads a boolean as Ansible's filter bool does.
func Bool(v any) bool {
	if s, ok := v.(string); ok {
		switch strings.ToLower(s) {
		case "yes", "on", "1", "true", "t", "y":
			return true
		}
		return false
	}
	n, ok := Number(v)
	return ok && n == 1
}

// arithmetic applies one of the operators in levels.
func arithmetic(op string, a, b any) (any, error) {
	if op == "~" {
		x, err := Text(a)
		if err != nil {
			return nil, err
		}
		y, err := Text(b)
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
	x, xok := Number(a)
	y, yok := Number(b)
	if !xok || !yok {
		return nil, fmt.Errorf("%s %s %s is not supported", typeName(a), op, typeName(b))
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
	if len(a)+len(b) > MaxText {
		return nil, fmt.Errorf("a text of more than %d bytes", MaxText)
	}
	return a + b, nil
}

// UnreadableError says that a value exists and is not known here. Unlike an undefined value it takes no default.
type UnreadableError struct{ Why string }

func (e *UnreadableError) Error() string { return e.Why }
