package kubespray

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/lists/jinja"
)

var errNoKubespray = fmt.Errorf(
	"no %s/defaults/main/download.yml in it: name a checkout of Kubespray v2.24 or newer",
	kubesprayRoles[0],
)

// checkout holds the files of a checkout, independent of a host.
type checkout struct {
	fsys       fs.FS
	release    string
	role       string
	defaults   map[string]definition // the role's
	own        map[string]definition // the role's vars
	download   *varsFile             // the role's download.yml
	checksums  *lists.Checksums
	read       map[string]map[string]definition // by role and kind
	roles      []*role                          // sorted
	images     []imageText                      // in the templates of roles
	hosts      map[string]string                // hosts that it uses by default, with their schemes
	hasDefault map[string]bool                  // the variables that have a default in some role
}

// readCheckout reads the variables of the role that all downloads come from, and what the other roles use.
func readCheckout(fsys fs.FS) (*checkout, error) {
	c := newCheckout(fsys)
	for _, role := range kubesprayRoles {
		if _, err := fs.Stat(c.fsys, role+"/defaults/main/download.yml"); err == nil {
			c.role = role
			break
		}
	}
	if c.role == "" {
		return nil, errNoKubespray
	}
	var err error
	if c.defaults, err = c.readDefinitions(c.role, "defaults"); err != nil {
		return nil, err
	}
	if c.own, err = c.readDefinitions(c.role, "vars"); err != nil {
		return nil, err
	}
	if c.download, err = openVars(c.fsys, c.role+"/defaults/main/download.yml"); err != nil {
		return nil, err
	}
	for _, dir := range []string{"/defaults/main/", "/vars/main/"} { // the latter since v2.28
		switch c.checksums, err = c.readChecksums(c.role + dir + "checksums.yml"); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		}
		if c.checksums != nil {
			break
		}
	}
	if err := c.readRoles(); err != nil {
		return nil, err
	}
	if c.hosts, err = c.upstreamHosts(); err != nil {
		return nil, err
	}
	return c, c.readRelease()
}

func newCheckout(fsys fs.FS) *checkout {
	return &checkout{fsys: fsys, read: map[string]map[string]definition{}, hasDefault: map[string]bool{}}
}

// readDefinitions reads the files of one kind ("defaults" or "vars") of a role, as Ansible finds them: main.yml, or
// those in main/.
func (c *checkout) readDefinitions(role, kind string) (map[string]definition, error) {
	if defs, ok := c.read[role+"/"+kind]; ok {
		return defs, nil
	}
	defs := map[string]definition{}
	for _, pattern := range []string{"/main.yml", "/main.yaml", "/main/*.yml", "/main/*.yaml"} {
		names, err := fs.Glob(c.fsys, role+"/"+kind+pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			f, err := openVars(c.fsys, name)
			if err != nil {
				return nil, err
			}
			maps.Copy(defs, f.defs)
		}
	}
	if kind == "defaults" {
		for name := range defs {
			c.hasDefault[name] = true
		}
	}
	c.read[role+"/"+kind] = defs
	return defs, nil
}

// scope returns the variables as a role sees them, by Ansible's precedence: its own defaults override those of
// kubespray_defaults, an inventory overrides defaults, facts of the node and role vars override the inventory, and
// Options.Vars override everything.
func (k *kubespray) scope(defaults, vars map[string]definition) *variables {
	return (&variables{asked: k.asked}).with(k.defaults, defaults, k.inventory, k.facts, k.own, vars, k.over)
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
	all := &jinja.Dict{Open: true}
	all.Set("system", "Linux")
	all.Set("architecture", machine)
	const where = "a node's facts"
	return map[string]definition{
		"ansible_facts":        {all, where},
		"ansible_system":       {"Linux", where},
		"ansible_architecture": {machine, where},
	}
}

func (c *checkout) readChecksums(name string) (*lists.Checksums, error) {
	f, err := c.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return lists.ReadChecksums(name, f)
}

func (k *kubespray) readEntries() error {
	x, err := k.vars.Lookup("downloads")
	if err != nil {
		return err
	}
	all, ok := x.(*jinja.Dict)
	if !ok {
		return fmt.Errorf(
			"%s/defaults/main/download.yml: the variable downloads is missing, or is not a dictionary",
			k.role,
		)
	}
	for _, name := range all.Keys {
		fields, ok := all.Values[name].(*jinja.Dict)
		if !ok {
			return fmt.Errorf("%s: downloads.%s is not a dictionary", k.vars.defs["downloads"].where, name)
		}
		e := downloadEntry{name, fields, k.vars.defs["downloads"].where}
		for _, field := range []string{"repo", "url"} {
			if s, ok := fields.Values[field].(*source); ok {
				e.where = s.where
				break
			}
		}
		k.entries = append(k.entries, e)
	}
	return nil
}

func (c *checkout) readRelease() error {
	f, err := openVars(c.fsys, "galaxy.yml")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if v, ok := f.defs["version"].value.(string); ok {
		c.release = "v" + strings.TrimPrefix(v, "v")
	}
	return nil
}
