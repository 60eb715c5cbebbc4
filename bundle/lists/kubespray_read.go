package lists

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
)

var errNoKubespray = fmt.Errorf("no %s/defaults/main/download.yml in it: give a checkout of Kubespray v2.24 or newer", kubesprayRoles[0])

// read reads the variables: the facts of a node, the role's defaults, its vars, and those that were given.
func (k *kubespray) read(opt KubesprayOptions) error {
	for _, role := range kubesprayRoles {
		if _, err := fs.Stat(k.fsys, role+"/defaults/main/download.yml"); err == nil {
			k.role = role
			break
		}
	}
	if k.role == "" {
		return errNoKubespray
	}
	var err error
	if k.defaults, err = k.readDefinitions(k.role, "defaults"); err != nil {
		return err
	}
	if k.own, err = k.readDefinitions(k.role, "vars"); err != nil {
		return err
	}
	if k.download, err = openVars(k.fsys, k.role+"/defaults/main/download.yml"); err != nil {
		return err
	}
	for _, dir := range []string{"/defaults/main/", "/vars/main/"} { // the latter since v2.28
		switch k.lists.Checksums, err = k.readChecksums(k.role + dir + "checksums.yml"); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		}
		if k.lists.Checksums != nil {
			break
		}
	}
	k.over = map[string]definition{}
	for _, file := range opt.Vars {
		f, err := readVars(file.Name, file.R)
		if err != nil {
			return err
		}
		for name, d := range f.defs {
			k.over[name] = d
		}
	}
	k.facts = facts(opt.Arch)
	k.vars = k.scope(nil, nil)
	if err := k.readEntries(); err != nil {
		return err
	}
	return k.readRelease()
}

// readDefinitions reads the files of one kind ("defaults" or "vars") of a role, as Ansible finds them: main.yml, or those in main/.
func (k *kubespray) readDefinitions(role, kind string) (map[string]definition, error) {
	defs := map[string]definition{}
	for _, pattern := range []string{"/main.yml", "/main.yaml", "/main/*.yml", "/main/*.yaml"} {
		names, err := fs.Glob(k.fsys, role+"/"+kind+pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			f, err := openVars(k.fsys, name)
			if err != nil {
				return nil, err
			}
			maps.Copy(defs, f.defs)
		}
	}
	return defs, nil
}

// scope is the variables as a role sees them, by Ansible's precedence: its own defaults win over those of kubespray_defaults, any role's vars win over
// any defaults, and what was given wins over all.
func (k *kubespray) scope(defaults, vars map[string]definition) *variables {
	return (&variables{}).with(k.facts, k.defaults, defaults, k.own, vars, k.over)
}

// facts are what Ansible would find out about a node.
func facts(arch string) map[string]definition {
	if arch == "" {
		arch = "amd64"
	}
	machine := arch
	switch arch {
	case "amd64":
		machine = "x86_64"
	case "arm64":
		machine = "aarch64"
	case "arm":
		machine = "armv7l"
	}
	all := &dict{}
	all.set("system", "Linux")
	all.set("architecture", machine)
	const where = "a node's facts"
	return map[string]definition{
		"ansible_facts":        {all, where},
		"ansible_system":       {"Linux", where},
		"ansible_architecture": {machine, where},
	}
}

func (k *kubespray) readChecksums(name string) (*Checksums, error) {
	f, err := k.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadChecksums(name, f)
}

func (k *kubespray) readEntries() error {
	x, err := k.vars.lookup("downloads")
	if err != nil {
		return err
	}
	all, ok := x.(*dict)
	if !ok {
		return fmt.Errorf("%s/defaults/main/download.yml: the variable downloads is missing, or is no dictionary", k.role)
	}
	for _, name := range all.keys {
		fields, ok := all.values[name].(*dict)
		if !ok {
			return fmt.Errorf("%s: downloads.%s is no dictionary", k.vars.defs["downloads"].where, name)
		}
		e := downloadEntry{name, fields, k.vars.defs["downloads"].where}
		for _, field := range []string{"repo", "url"} {
			if s, ok := fields.values[field].(*source); ok {
				e.where = s.where
				break
			}
		}
		k.entries = append(k.entries, e)
	}
	return nil
}

func (k *kubespray) readRelease() error {
	f, err := openVars(k.fsys, "galaxy.yml")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if v, ok := f.defs["version"].value.(string); ok {
		k.lists.Release = "v" + strings.TrimPrefix(v, "v")
	}
	return nil
}
