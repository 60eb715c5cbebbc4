package kubespray

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// errNoGroups: the file is valid YAML but not an inventory, and may be INI.
var errNoGroups = errors.New("not a YAML inventory: want groups, each with hosts, vars or children")

// yamlInventory reads one YAML inventory.
type yamlInventory struct {
	*Inventory
	varsReader
}

// readYAML reads a file of hosts in YAML or JSON. plugin is set, and nothing is read, if the file is the configuration
// of an inventory plugin.
func (in *Inventory) readYAML(label string, b []byte) (plugin string, err error) {
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		return "", fmt.Errorf("inventory %s: %w", label, err)
	}
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return "", fmt.Errorf("inventory %s: %w", label, errNoGroups)
	}
	r := &yamlInventory{in, varsReader{name: label, given: true}}
	groups, err := r.pairs(root.Content[0], 0)
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		if g.key.Value == "plugin" && g.value.Kind == yaml.ScalarNode && g.value.ShortTag() != "!!null" {
			return g.value.Value, nil
		}
	}
	for _, g := range groups {
		if _, err := r.readGroup(g, 0); err != nil {
			return "", err
		}
	}
	return "", nil
}

func (r *yamlInventory) bad(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("inventory %s:%d: %w", r.name(), n.Line, fmt.Errorf(format, args...))
}

func (r *yamlInventory) name() string { return r.varsReader.name }

// isNull reports whether a key has no value.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// readGroup reads one group; everything else is ignored, as Ansible does.
func (r *yamlInventory) readGroup(p pair, depth int) (*inventoryGroup, error) {
	if depth > maxInventoryDeep {
		return nil, r.bad(p.key, "groups are nested deeper than %d", maxInventoryDeep)
	}
	if len(r.groups) > maxInventoryGroups {
		return nil, r.bad(p.key, "an inventory has at most %d groups", maxInventoryGroups)
	}
	if p.value.Kind != yaml.MappingNode && !isNull(p.value) {
		r.note("%s:%d: %.60s is not a group, it is left out", r.name(), p.key.Line, p.key.Value)
		return nil, nil
	}
	g := r.group(p.key.Value)
	if isNull(p.value) {
		return g, nil
	}
	parts, err := r.pairs(p.value, depth)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		value := part.value
		switch part.key.Value {
		case "vars", "children", "hosts":
			if value.Kind == yaml.ScalarNode && !isNull(value) { // a single name
				none := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: value.Line}
				value = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{value, none}, Line: value.Line}
			}
		default:
			r.note("%s:%d: the group %.60s has %.60s, which is none of hosts, vars and children; it is left out",
				r.name(), part.key.Line, g.name, part.key.Value)
			continue
		}
		if isNull(value) {
			continue
		}
		if value.Kind != yaml.MappingNode {
			return nil, r.bad(value, "%s of the group %.60s must be a mapping, with a colon after each name",
				part.key.Value, g.name)
		}
		members, err := r.pairs(value, depth)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			switch part.key.Value {
			case "vars":
				var d definition
				if d, err = r.define(m); err == nil {
					g.set(m.key.Value, d)
				}
			case "children":
				var child *inventoryGroup
				if child, err = r.readGroup(m, depth+1); err == nil && child != nil {
					if err = r.addChild(g, child); err != nil {
						err = r.bad(m.key, "%w", err)
					}
				}
			default:
				err = r.readHosts(g, m)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return g, nil
}

func (r *yamlInventory) readHosts(g *inventoryGroup, m pair) error {
	names, err := hostNames(m.key.Value)
	if err != nil {
		return r.bad(m.key, "%w", err)
	}
	var vars []pair
	switch {
	case isNull(m.value):
	case m.value.Kind == yaml.MappingNode:
		if vars, err = r.pairs(m.value, 0); err != nil {
			return err
		}
	default:
		return r.bad(m.key, "the variables of the host %.60s must be a mapping", m.key.Value)
	}
	defs := map[string]definition{}
	for _, v := range vars {
		if defs[v.key.Value], err = r.define(v); err != nil {
			return err
		}
	}
	for _, name := range names {
		h, err := r.addHost(name, g)
		if err != nil {
			return r.bad(m.key, "%w", err)
		}
		for name, d := range defs {
			h.vars[name] = d
		}
	}
	return nil
}
