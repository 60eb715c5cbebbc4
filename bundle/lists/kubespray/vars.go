package kubespray

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"casemate/bundle/lists/jinja"
)

const (
	maxVarsFile = 8 << 20 // bytes of one file of variables; Kubespray's largest has 200 KiB
	maxVarsNode = 1 << 20 // values of one file, with what aliases repeat
	maxVarsDeep = 100     // nesting of values, and length of chains of variables
	maxSteps    = 1 << 20 // templates that are evaluated for one result
)

// variables are Ansible's: a variable may be a template that refers to others, and is evaluated when it is used. It
// implements jinja.Scope.
type variables struct {
	defs  map[string]definition
	cache map[*source]any
	busy  []string // the variables that are being evaluated
	steps int
	given bool // what is being evaluated was given by the user
	// asked, if it is not nil, records the names that are looked up: the result depends on no others.
	asked map[string]bool
}

// definition is one variable as it was written.
type definition struct {
	value any
	where string // FILE:LINE
}

// source is a template in a file of variables.
type source struct {
	text  string
	name  string // the variable that contains it
	where string
	given bool // by an inventory or a file of variables, so that it may use what only Ansible knows
}

// hidden is a value that cannot be read.
type hidden struct {
	why   string
	name  string // the variable that contains it
	where string
}

// variableError says which variable could not be evaluated.
type variableError struct {
	name, where string
	err         error
}

func (e *variableError) Error() string {
	return fmt.Sprintf("%s: the variable %s cannot be evaluated: %v", e.where, e.name, e.err)
}
func (e *variableError) Unwrap() error { return e.err }

// with returns a copy with more definitions, which override earlier ones. Everything is evaluated again.
func (v *variables) with(more ...map[string]definition) *variables {
	n := &variables{defs: maps.Clone(v.defs), asked: v.asked}
	if n.defs == nil {
		n.defs = map[string]definition{}
	}
	for _, defs := range more {
		maps.Copy(n.defs, defs)
	}
	return n
}

// Lookup returns the value of a variable, or undefined.
func (v *variables) Lookup(name string) (any, error) {
	if v.asked != nil {
		v.asked[name] = true
	}
	d, ok := v.defs[name]
	if !ok && v.given && onlyAnsibleKnows(name) {
		return nil, &jinja.UnreadableError{Why: name + " is known only where Ansible runs"}
	}
	if !ok {
		return jinja.Undefined{What: name}, nil
	}
	for i, b := range v.busy {
		if b == name {
			return nil, &variableError{
				name,
				d.where,
				fmt.Errorf("it refers to itself (%s → %s)", strings.Join(v.busy[i:], " → "), name),
			}
		}
	}
	if len(v.busy) == maxVarsDeep {
		return nil, &variableError{name, d.where, fmt.Errorf("more than %d variables lead to each other", maxVarsDeep)}
	}
	v.busy = append(v.busy, name)
	defer func() { v.busy = v.busy[:len(v.busy)-1] }()
	return v.Force(d.value)
}

// Force evaluates a value that is a template. An undefined result is an error that names its variable.
func (v *variables) Force(x any) (any, error) {
	if h, ok := x.(*hidden); ok {
		return nil, &variableError{h.name, h.where, &jinja.UnreadableError{Why: h.why}}
	}
	s, ok := x.(*source)
	if !ok {
		return x, nil
	}
	if y, ok := v.cache[s]; ok {
		return y, nil
	}
	if v.steps++; v.steps > maxSteps {
		return nil, fmt.Errorf("more than %d templates to evaluate", maxSteps)
	}
	outer := v.given
	v.given = s.given
	y, err := v.evaluate(s.text)
	v.given = outer
	if u, not := y.(jinja.Undefined); not && err == nil {
		err = u
	}
	if err != nil {
		var inner *variableError
		if errors.As(err, &inner) {
			return nil, err
		}
		return nil, &variableError{s.name, s.where, err}
	}
	if v.cache == nil {
		v.cache = map[*source]any{}
	}
	v.cache[s] = y
	return y, nil
}

// Given reports whether the user wrote the template that is being evaluated.
func (v *variables) Given() bool { return v.given }

// evaluate evaluates a template.
func (v *variables) evaluate(text string) (any, error) {
	t, err := jinja.Parse(text)
	if err != nil {
		return nil, err
	}
	return t.Render(v)
}

// ForceAll also evaluates the elements of a list or dictionary.
func (v *variables) ForceAll(x any) (any, error) {
	x, err := v.Force(x)
	if err != nil {
		return nil, err
	}
	switch of := x.(type) {
	case []any:
		for i := range of {
			if y, err := v.ForceAll(of[i]); err != nil {
				return nil, err
			} else if !unchanged(y, of[i]) {
				list := append([]any(nil), of...)
				for j := i; j < len(list); j++ {
					if list[j], err = v.ForceAll(list[j]); err != nil {
						return nil, err
					}
				}
				return list, nil
			}
		}
	case *jinja.Dict:
		for _, k := range of.Keys {
			if y, err := v.ForceAll(of.Values[k]); err != nil {
				return nil, err
			} else if !unchanged(y, of.Values[k]) {
				d := &jinja.Dict{}
				for _, k := range of.Keys {
					y, err := v.ForceAll(of.Values[k])
					if err != nil {
						return nil, err
					}
					d.Set(k, y)
				}
				return d, nil
			}
		}
	}
	return x, nil
}

// unchanged reports whether forcing a value changed nothing: only templates, and what contains some, change.
func unchanged(a, b any) bool {
	switch b := b.(type) {
	case *source, *hidden:
		return false
	case *jinja.Dict:
		d, ok := a.(*jinja.Dict)
		return ok && d == b
	case []any:
		l, ok := a.([]any)
		return ok && len(l) == len(b) && (len(l) == 0 || &l[0] == &b[0])
	}
	return true
}

// text evaluates a variable that must be a text.
func (v *variables) text(name string) (string, error) {
	x, err := v.Lookup(name)
	if err != nil {
		return "", err
	}
	if u, not := x.(jinja.Undefined); not {
		return "", u
	}
	s, err := jinja.Text(x)
	if err != nil {
		return "", &variableError{name, v.defs[name].where, err}
	}
	return s, nil
}

// varsFile is one file of variables, in its order.
type varsFile struct {
	names []string
	defs  map[string]definition
}

// readVars reads a file of variables of a checkout.
func readVars(name string, r io.Reader) (*varsFile, error) {
	return varsReader{name: name}.read(r)
}

// readGivenVars reads a file of variables that the user gave.
func readGivenVars(name string, r io.Reader) (*varsFile, error) {
	return varsReader{name: name, given: true}.read(r)
}

func (in varsReader) read(r io.Reader) (*varsFile, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxVarsFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", in.name, err)
	}
	if len(b) > maxVarsFile {
		return nil, fmt.Errorf("%s: a file of variables has at most %d MiB", in.name, maxVarsFile>>20)
	}
	if isVault(b) {
		return nil, fmt.Errorf(
			"%s: it is encrypted with ansible-vault; pass the output of ansible-vault decrypt",
			in.name,
		)
	}
	f := &varsFile{defs: map[string]definition{}}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		return nil, fmt.Errorf("%s: %w", in.name, err)
	}
	if len(root.Content) == 0 || isNull(root.Content[0]) {
		return f, nil
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want variables, one \"NAME: VALUE\" each", in.name, top.Line)
	}
	pairs, err := in.pairs(top, 0)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		d, err := in.define(p)
		if err != nil {
			return nil, err
		}
		if _, again := f.defs[p.key.Value]; !again {
			f.names = append(f.names, p.key.Value)
		}
		f.defs[p.key.Value] = d
	}
	return f, nil
}

// openVars reads a file of variables of a checkout.
func openVars(fsys fs.FS, name string) (*varsFile, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readVars(name, f)
}

// varsReader turns YAML into values.
type varsReader struct {
	name, variable string
	given          bool
	nodes          int
}

// pair is one key of a mapping with its value; aliases are resolved.
type pair struct{ key, value *yaml.Node }

// pairs returns the keys and values of a mapping, those from merge keys (<<) first, so that later entries override
// them.
func (in *varsReader) pairs(n *yaml.Node, depth int) ([]pair, error) {
	if depth > maxVarsDeep {
		return nil, fmt.Errorf("%s:%d: %s is nested too deep", in.name, n.Line, in.variable)
	}
	var merged, own []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if in.nodes++; in.nodes > maxVarsNode {
			return nil, fmt.Errorf("%s:%d: %s is too large", in.name, n.Line, in.variable)
		}
		for v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		for k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf(
				"%s:%d: %s: keys that are not scalars are not supported",
				in.name,
				k.Line,
				in.variable,
			)
		}
		if k.ShortTag() != "!!merge" {
			own = append(own, pair{k, v})
			continue
		}
		from := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode { // the first of them wins
			from = slices.Clone(v.Content)
			slices.Reverse(from)
		}
		for _, m := range from {
			for m.Kind == yaml.AliasNode {
				m = m.Alias
			}
			if m.Kind != yaml.MappingNode {
				return nil, fmt.Errorf("%s:%d: %s: a merge key (<<) takes mappings", in.name, k.Line, in.variable)
			}
			more, err := in.pairs(m, depth+1)
			if err != nil {
				return nil, err
			}
			merged = append(merged, more...)
		}
	}
	return append(merged, own...), nil
}

// define returns one variable with its value.
func (in *varsReader) define(p pair) (definition, error) {
	in.variable = p.key.Value
	v, err := in.value(p.value, 0)
	return definition{v, fmt.Sprintf("%s:%d", in.name, p.key.Line)}, err
}

func (in *varsReader) value(n *yaml.Node, depth int) (any, error) {
	where := fmt.Sprintf("%s:%d", in.name, n.Line)
	if in.nodes++; in.nodes > maxVarsNode || depth > maxVarsDeep {
		return nil, fmt.Errorf("%s: %s is too large or nested too deep", where, in.variable)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return in.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := in.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		d := &jinja.Dict{}
		pairs, err := in.pairs(n, depth)
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			key, err := jinja.Text(scalar(p.key))
			if err != nil {
				return nil, err
			}
			v, err := in.value(p.value, depth+1)
			if err != nil {
				return nil, err
			}
			d.Set(key, v)
		}
		return d, nil
	}
	switch {
	case n.Tag == "!vault", n.Tag == "!vault-encrypted":
		return &hidden{"it is encrypted with ansible-vault", in.variable, where}, nil
	case n.Tag != "!unsafe" && isTemplate(n.Value):
		return &source{text: n.Value, name: in.variable, where: where, given: in.given}, nil
	}
	return scalar(n), nil
}

// isTemplate reports whether Ansible would evaluate a text.
func isTemplate(s string) bool {
	return strings.Contains(s, "{{") || strings.Contains(s, "{%") || strings.Contains(s, "{#")
}

// onlyAnsibleKnows reports whether an unset variable is one that Ansible itself finds out: a fact of a node, or
// variables of other hosts. Connection variables are not: unset, they do not exist.
func onlyAnsibleKnows(name string) bool {
	rest, ok := strings.CutPrefix(name, "ansible_")
	switch {
	case !ok:
		return slices.Contains([]string{"hostvars", "inventory_dir", "inventory_file", "playbook_dir"}, name)
	case strings.HasPrefix(rest, "ssh_"), strings.HasPrefix(rest, "become"):
		return false
	}
	return !slices.Contains([]string{"host", "port", "user", "password", "connection", "python_interpreter"}, rest)
}

// scalar reads a scalar as YAML 1.1 does, like Ansible: yes and no are booleans.
func scalar(n *yaml.Node) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		if strings.HasPrefix(n.Value, "0o") {
			break // YAML 1.2's
		}
		if i, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 0, 64); err == nil {
			return i
		}
	case "!!float":
		if !strings.Contains(n.Value, ".") {
			break // 12e5 may be a commit
		}
		if f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64); err == nil {
			return f
		}
	case "!!str":
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
			switch n.Value {
			case "yes", "Yes", "YES", "on", "On", "ON":
				return true
			case "no", "No", "NO", "off", "Off", "OFF":
				return false
			}
		}
	}
	return n.Value
}
