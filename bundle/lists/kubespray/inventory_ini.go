package kubespray

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"casemate/bundle/lists/jinja"
)

var (
	iniSection = regexp.MustCompile(`^\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?$`)
	iniGroup   = regexp.MustCompile(`^([^:\]\s]+)\s*(?:#.*)?$`)
)

// iniReader reads one INI inventory.
type iniReader struct {
	*Inventory
	label   string
	line    int
	group   *inventoryGroup // of the section
	declare map[string]bool // groups with a section of hosts or children, or from another file
	// wanted are groups that are used and have no section yet, with the line and the use.
	wanted map[string]string
}

// readINI reads a file of hosts in Ansible's INI: [GROUP], [GROUP:vars] and [GROUP:children].
func (in *Inventory) readINI(label, text string) error {
	r := &iniReader{Inventory: in, label: label, group: in.group("ungrouped"),
		declare: map[string]bool{"all": true, "ungrouped": true}, wanted: map[string]string{}}
	for name := range in.groups {
		r.declare[name] = true
	}
	state := "hosts"
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		r.line++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		var err error
		if m := iniSection.FindStringSubmatch(line); m != nil {
			state, err = r.section(m[1], m[2])
		} else if line[0] == '[' && line[len(line)-1] == ']' {
			err = fmt.Errorf("%.100q is not a section: sections are [GROUP], [GROUP:vars] or [GROUP:children], "+
				"without blanks",
				line)
		} else {
			switch state {
			case "vars":
				err = r.variable(line)
			case "children":
				err = r.child(line)
			default:
				err = r.hostLine(line)
			}
		}
		if err != nil {
			return fmt.Errorf("inventory %s:%d: %w", label, r.line, err)
		}
	}
	var unmet []string
	for name, where := range r.wanted {
		unmet = append(unmet, fmt.Sprintf("%s, but there is no [%s]", where, name))
	}
	if len(unmet) > 0 {
		slices.Sort(unmet)
		return fmt.Errorf("inventory %s", unmet[0])
	}
	return nil
}

func (r *iniReader) section(name, kind string) (state string, err error) {
	switch kind {
	case "", "hosts", "children":
		r.declare[name] = true
		delete(r.wanted, name)
	case "vars":
		if !r.declare[name] && r.wanted[name] == "" {
			r.wanted[name] = fmt.Sprintf("%s:%d: [%s:vars] sets variables of a group", r.label, r.line, name)
		}
	default:
		return "", fmt.Errorf("the section [%s:%s] has an unknown kind: it is vars, children or nothing", name, kind)
	}
	if len(r.groups) > maxInventoryGroups {
		return "", fmt.Errorf("an inventory has at most %d groups", maxInventoryGroups)
	}
	r.group = r.Inventory.group(name)
	if kind == "" {
		kind = "hosts"
	}
	return kind, nil
}

func (r *iniReader) child(line string) error {
	m := iniGroup.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("want the name of a group, got %.100q", line)
	}
	if !r.declare[m[1]] && r.wanted[m[1]] == "" {
		r.wanted[m[1]] = fmt.Sprintf("%s:%d: [%s:children] names the group %s", r.label, r.line, r.group.name, m[1])
	}
	return r.addChild(r.group, r.Inventory.group(m[1]))
}

func (r *iniReader) variable(line string) error {
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		return fmt.Errorf("want NAME=VALUE, got %.100q", line)
	}
	name = strings.TrimSpace(name)
	r.group.set(name, r.define(name, strings.TrimSpace(value)))
	return nil
}

func (r *iniReader) hostLine(line string) error {
	words, err := splitShell(line)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return nil
	}
	if words[0] == "---" {
		return fmt.Errorf("%q is not a host: the file looks like YAML but is not", words[0])
	}
	hosts, err := hostNames(words[0])
	if err != nil {
		return err
	}
	vars := map[string]definition{}
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("want NAME=VALUE after the host %s, got %.100q", words[0], w)
		}
		vars[name] = r.define(name, value)
	}
	for _, name := range hosts {
		h, err := r.addHost(name, r.group)
		if err != nil {
			return err
		}
		for name, d := range vars {
			h.vars[name] = d
		}
	}
	return nil
}

// define returns a variable with its value, typed as Ansible does.
func (r *iniReader) define(name, text string) definition {
	where := fmt.Sprintf("%s:%d", r.label, r.line)
	value, ok := pythonLiteral(text)
	if !ok {
		value = text
	}
	return definition{templates(value, name, where), where}
}

// templates marks the texts in a value that are templates for later evaluation.
func templates(value any, name, where string) any {
	switch of := value.(type) {
	case string:
		if isTemplate(of) {
			return &source{text: of, name: name, where: where, given: true}
		}
	case []any:
		for i := range of {
			of[i] = templates(of[i], name, where)
		}
	case *jinja.Dict:
		for k, v := range of.Values {
			of.Values[k] = templates(v, name, where)
		}
	}
	return value
}
