package kubespray

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// varsPlace is a directory with group_vars and host_vars: the inventory's, or the playbooks'.
type varsPlace struct {
	fsys  fs.FS
	label string
}

// varsEnds are the suffixes of files of variables, in the order in which Ansible looks for them; the first existing
// file is used.
var varsEnds = []string{"", ".yml", ".yaml", ".json"}

// variablesOf returns the variables of a host in Ansible's precedence, without those of roles, the strongest last:
// those in files of hosts (all, then the groups from outside to inside), group_vars/all, the groups' group_vars, the
// host's own, host_vars. In each step the playbooks' place overrides the inventory's.
func (in *Inventory) variablesOf(h *inventoryHost, playbooks fs.FS) (map[string]definition, error) {
	places := []varsPlace{{in.fsys, in.name}}
	if playbooks != nil {
		places = append(places, varsPlace{playbooks, playbooksDir})
	}
	var names []string
	vars := maps.Clone(in.group("all").vars)
	for _, g := range groupsOf(h) {
		names = append(names, g.name)
		maps.Copy(vars, g.vars)
	}
	add := func(kind string, names ...string) error {
		for _, p := range places {
			for _, name := range names {
				defs, err := in.readVarsOf(p, kind, name)
				if err != nil {
					return err
				}
				maps.Copy(vars, defs)
			}
		}
		return nil
	}
	err := errors.Join(add("group_vars", "all"), add("group_vars", names...))
	maps.Copy(vars, h.vars)
	return vars, errors.Join(err, add("host_vars", h.name))
}

// readVarsOf reads the variables of one group or host in a place: a file, or a directory of files in alphabetical
// order, later ones override earlier ones.
func (in *Inventory) readVarsOf(p varsPlace, kind, name string) (map[string]definition, error) {
	if name == "." || strings.ContainsAny(name, "/\\") || !fs.ValidPath(name) {
		return nil, nil // it does not name a file
	}
	key := path.Join(p.label, kind, name)
	if defs, ok := in.vars[key]; ok {
		return defs, nil
	}
	defs, found := map[string]definition{}, ""
	for _, end := range varsEnds {
		at := path.Join(kind, name+end)
		st, err := fs.Stat(p.fsys, at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			if st, err := fs.Stat(p.fsys, kind); err == nil && !st.IsDir() {
				in.note("%s is not a directory, it is left out", path.Join(p.label, kind))
				break
			}
			return nil, fmt.Errorf("inventory %s: %w", path.Join(p.label, at), err)
		case found != "":
			in.note("%s is not read: Ansible uses %s and nothing else of that name", path.Join(p.label, at),
				path.Join(p.label, found))
			continue
		}
		found = at
		if st != nil && st.IsDir() {
			err = in.readVarsDir(p, at, 0, defs)
		} else if err == nil {
			err = in.readVarsFile(p, at, defs)
		}
		if err != nil {
			return nil, err
		}
	}
	in.vars[key] = defs
	return defs, nil
}

func (in *Inventory) readVarsDir(p varsPlace, dir string, depth int, into map[string]definition) error {
	if depth > maxInventoryDeep {
		return fmt.Errorf("inventory %s: directories are nested deeper than %d", path.Join(p.label, dir),
			maxInventoryDeep)
	}
	entries, err := fs.ReadDir(p.fsys, dir)
	if err != nil {
		return fmt.Errorf("inventory %s: %w", path.Join(p.label, dir), err)
	}
	for _, e := range entries {
		name, ext := e.Name(), path.Ext(e.Name())
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue
		}
		at := path.Join(dir, name)
		st, err := fs.Stat(p.fsys, at)
		switch {
		case err != nil:
			return fmt.Errorf("inventory %s: %w", path.Join(p.label, at), err)
		case st.IsDir() && ext == "":
			err = in.readVarsDir(p, at, depth+1, into)
		case st.Mode().IsRegular() && slices.Contains(varsEnds, ext):
			err = in.readVarsFile(p, at, into)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (in *Inventory) readVarsFile(p varsPlace, file string, into map[string]definition) error {
	label := path.Join(p.label, file)
	b, err := in.readText(p.fsys, file, label)
	if err != nil {
		return err
	}
	if isVault(b) {
		in.note("%s is encrypted with ansible-vault: its variables are not known here. If a version, a "+
			"repository or a URL is among them, give it with --kubespray-vars", label)
		return nil
	}
	f, err := readGivenVars(label, bytes.NewReader(b))
	if err != nil {
		return err
	}
	maps.Copy(into, f.defs)
	return nil
}
