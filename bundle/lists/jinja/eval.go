package jinja

import (
	"fmt"
	"strconv"
)

// expr is a node of an expression. Its value may be undefined; use value where that is an error.
type expr interface {
	eval(v Scope) (any, error)
}

type (
	litExpr  struct{ value any }
	nameExpr string
	listExpr []expr
	dictExpr struct{ keys, values []expr }
	condExpr struct{ test, then, other expr } // other nil: undefined, and "" in a text
	notExpr  struct{ of expr }
	// logicExpr is "or" if or is set, and "and" otherwise; as in Python, its value is that of the operand that decides.
	logicExpr struct {
		left, right expr
		or          bool
	}
	compareExpr struct {
		op          string
		left, right expr
	}
	binaryExpr struct {
		op          string
		left, right expr
	}
	indexExpr  struct{ of, index expr }
	sliceExpr  struct{ of, from, to expr } // from and to may be nil
	methodExpr struct {
		of   expr
		name string
		args arguments
	}
	callExpr struct {
		name string
		args arguments
	}
	filterExpr struct {
		of   expr
		name string
		args arguments
	}
	testExpr struct {
		of   expr
		not  bool
		name string
		args arguments
	}
)

// arguments are those of a call.
type arguments struct {
	list  []expr
	named map[string]expr
}

// value evaluates an expression; undefined is an error.
func value(e expr, v Scope) (any, error) {
	x, err := e.eval(v)
	if err != nil {
		return nil, err
	}
	if u, ok := x.(Undefined); ok {
		return nil, u
	}
	return x, nil
}

// whole evaluates an expression and everything that a list or dictionary holds.
func whole(e expr, v Scope) (any, error) {
	x, err := value(e, v)
	if err != nil {
		return nil, err
	}
	return v.ForceAll(x)
}

func (e litExpr) eval(Scope) (any, error) { return e.value, nil }

func (e nameExpr) eval(v Scope) (any, error) { return v.Lookup(string(e)) }

func (e listExpr) eval(v Scope) (any, error) {
	list := make([]any, 0, len(e))
	for _, item := range e {
		x, err := value(item, v)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, nil
}

func (e dictExpr) eval(v Scope) (any, error) {
	d := &Dict{}
	for i := range e.keys {
		k, err := value(e.keys[i], v)
		if err != nil {
			return nil, err
		}
		key, err := Text(k)
		if err != nil {
			return nil, err
		}
		x, err := value(e.values[i], v)
		if err != nil {
			return nil, err
		}
		d.Set(key, x)
	}
	return d, nil
}

func (e condExpr) eval(v Scope) (any, error) {
	test, err := value(e.test, v)
	switch {
	case err != nil:
		return nil, err
	case truth(test):
		return e.then.eval(v)
	case e.other == nil:
		return "", nil // in Jinja this is an undefined that prints as nothing
	}
	return e.other.eval(v)
}

func (e notExpr) eval(v Scope) (any, error) {
	x, err := value(e.of, v)
	return !truth(x), err
}

func (e logicExpr) eval(v Scope) (any, error) {
	x, err := value(e.left, v)
	if err != nil || truth(x) == e.or {
		return x, err
	}
	return value(e.right, v)
}

func (e compareExpr) eval(v Scope) (any, error) {
	a, err := whole(e.left, v)
	if err != nil {
		return nil, err
	}
	b, err := whole(e.right, v)
	if err != nil {
		return nil, err
	}
	return compareWith(e.op, a, b)
}

func compareWith(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(a, b)
	case "not in":
		ok, err := contains(a, b)
		return !ok, err
	}
	n, err := compareValues(a, b)
	return ordered(op, n), err
}

// ordered reports whether the result of a comparison satisfies the operator.
func ordered(op string, n int) bool {
	switch op {
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	case ">=":
		return n >= 0
	case "==":
		return n == 0
	}
	return n != 0
}

func (e binaryExpr) eval(v Scope) (any, error) {
	a, err := value(e.left, v)
	if err != nil {
		return nil, err
	}
	b, err := value(e.right, v)
	if err != nil {
		return nil, err
	}
	return arithmetic(e.op, a, b)
}

func (e indexExpr) eval(v Scope) (any, error) {
	of, err := e.of.eval(v)
	if err != nil {
		return nil, err
	}
	i, err := value(e.index, v)
	if err != nil {
		return nil, err
	}
	switch of := of.(type) {
	case Undefined: // stays undefined, so that a default can follow
		return of, nil
	case *Dict:
		key, err := Text(i)
		if err != nil {
			return nil, err
		}
		if err := of.unknown(v, key); err != nil {
			return nil, err
		}
		x, ok := of.Values[key]
		if !ok {
			return Undefined{What: describe(e.of) + "[" + strconv.Quote(key) + "]"}, nil
		}
		return v.Force(x)
	case []any:
		n, ok := i.(int64)
		if !ok {
			return nil, fmt.Errorf("%s is not an index of a list", typeName(i))
		}
		if n < 0 {
			n += int64(len(of))
		}
		if n < 0 || n >= int64(len(of)) {
			return Undefined{What: fmt.Sprintf("%s[%d]", describe(e.of), n)}, nil
		}
		return v.Force(of[n])
	}
	return nil, fmt.Errorf("%s has no parts", typeName(of))
}

// describe names an expression in messages.
func describe(e expr) string {
	switch e := e.(type) {
	case nameExpr:
		return string(e)
	case indexExpr:
		if l, ok := e.index.(litExpr); ok {
			return fmt.Sprintf("%s[%q]", describe(e.of), fmt.Sprint(l.value))
		}
		return describe(e.of) + "[" + describe(e.index) + "]"
	case filterExpr:
		return describe(e.of) + " | " + e.name
	case methodExpr:
		return describe(e.of) + "." + e.name + "()"
	}
	return "(…)"
}

func (e sliceExpr) eval(v Scope) (any, error) {
	of, err := value(e.of, v)
	if err != nil {
		return nil, err
	}
	n := 0
	switch of := of.(type) {
	case []any:
		n = len(of)
	case string:
		n = len(of)
	default:
		return nil, fmt.Errorf("%s has no parts", typeName(of))
	}
	bound := func(e expr, fallback int) (int, error) {
		if e == nil {
			return fallback, nil
		}
		x, err := value(e, v)
		if err != nil {
			return 0, err
		}
		i, ok := x.(int64)
		if !ok {
			return 0, fmt.Errorf("%s is not an index", typeName(x))
		}
		if i < 0 {
			i += int64(n)
		}
		return int(min(max(i, 0), int64(n))), nil
	}
	from, err := bound(e.from, 0)
	if err != nil {
		return nil, err
	}
	to, err := bound(e.to, n)
	if err != nil {
		return nil, err
	}
	to = max(from, to)
	if s, ok := of.(string); ok {
		return s[from:to], nil
	}
	return of.([]any)[from:to], nil
}
