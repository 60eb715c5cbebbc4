package kubespray

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"casemate/bundle/lists/jinja"
)

const (
	maxInventoryHosts  = 20000
	maxInventoryGroups = 20000
	maxInventoryFiles  = 20000 // files that are examined, with those of variables
	maxInventoryDeep   = 20    // of directories, and of groups that a YAML inventory nests in each other
)

// Inventory is an Ansible inventory, as ansible-playbook -i reads it: hosts, their groups, and the variables of both,
// in files of hosts and in group_vars and host_vars beside them.
type Inventory struct {
	name   string // of the directory, for messages
	fsys   fs.FS  // the directory with group_vars
	groups map[string]*inventoryGroup
	hosts  map[string]*inventoryHost
	order  []*inventoryHost // in the order in which they were found
	// unread are sources of hosts that only Ansible can read.
	unread []string
	files  int
	notes  []string
	vars   map[string]map[string]definition // of group_vars/NAME and host_vars/NAME, once read
}

type inventoryGroup struct {
	name     string
	vars     map[string]definition
	parents  []*inventoryGroup
	depth    int // the longest path from all
	priority int
}

type inventoryHost struct {
	name   string
	vars   map[string]definition
	groups []*inventoryGroup // its parents
}

// ReadInventory reads an inventory: the file of that name in a directory, or the whole directory for "". name is the
// directory's name in messages. Files that only Ansible can read (a script, a plugin's configuration, an encrypted
// file) are not an error: Notes names them.
func ReadInventory(name string, fsys fs.FS, file string) (*Inventory, error) {
	in := &Inventory{name: name, fsys: fsys, groups: map[string]*inventoryGroup{}, hosts: map[string]*inventoryHost{},
		vars: map[string]map[string]definition{}}
	in.group("all").priority = 1
	var err error
	if file == "" {
		err = in.readDir()
	} else {
		err = in.readFile(file)
	}
	if err == nil {
		err = in.rank()
	}
	if err != nil {
		return nil, err
	}
	beside := len(in.namesIn("group_vars")) + len(in.namesIn("host_vars"))
	if len(in.hosts)+len(in.unread)+len(in.group("all").vars)+beside == 0 {
		return nil, fmt.Errorf("%s is not an inventory: %w in %s", in.label(file), errNoInventory, in.name)
	}
	in.addKubesprayGroups()
	return in, nil
}

var errNoInventory = errors.New("it names no host, and there are no group_vars and no host_vars")

// Notes say what is remarkable about the inventory, one sentence each.
func (in *Inventory) Notes() []string { return in.notes }

func (in *Inventory) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(in.notes, n) {
		in.notes = append(in.notes, n)
	}
}

// label is a file's name in messages.
func (in *Inventory) label(file string) string { return path.Join(in.name, file) }

// ignoredEnds are the suffixes of file names that Ansible ignores in a directory, by default or by Kubespray's
// ansible.cfg. ".ini" is among them.
var ignoredEnds = []string{"~", ".orig", ".bak", ".cfg", ".retry", ".pyc", ".pyo", ".creds", ".gpg", ".swp", ".rpm",
	".md", ".txt", ".rst"}

func ignoredInventory(name string) bool {
	switch {
	case strings.HasPrefix(name, "."), name == "host_vars", name == "group_vars", name == "vars_plugins":
		return true
	case strings.Contains(name, "artifacts"), strings.Contains(name, "credentials"): // Kubespray's ansible.cfg
		return true
	}
	return slices.ContainsFunc(ignoredEnds, func(end string) bool { return strings.HasSuffix(name, end) })
}

// readDir reads all files of the directory that may contain hosts. With Kubespray's ansible.cfg, Ansible ignores files
// that end in .ini in a directory; they are read if the other files name no host, because then they are the inventory.
func (in *Inventory) readDir() error {
	var ini []string
	var failed []error
	err := in.walk(".", 0, func(name string) {
		if path.Ext(name) == ".ini" {
			ini = append(ini, name)
		} else if err := in.readFile(name); err != nil {
			failed = append(failed, err)
		}
	})
	if err != nil {
		return err
	}
	others := len(in.hosts) > 0
	for _, name := range ini {
		if !others {
			if err := in.readFile(name); err != nil {
				failed = append(failed, err)
			}
			continue
		}
		alone, err := ReadInventory(in.name, in.fsys, name)
		if err != nil && !errors.Is(err, errNoInventory) || err == nil && len(alone.hosts) > 0 {
			in.note("%s is not read, as Ansible ignores files that end in .ini in a directory that has "+
				"others; name the file itself if it is the inventory", in.label(name))
		}
	}
	if len(in.hosts) == 0 {
		return errors.Join(failed...)
	}
	for _, err := range failed {
		in.note("%v (the rest of the inventory is read)", err)
	}
	return nil
}

// walk calls visit for the possible inventories in a directory and below, in Ansible's order.
func (in *Inventory) walk(dir string, depth int, visit func(name string)) error {
	entries, err := fs.ReadDir(in.fsys, dir)
	if err != nil {
		return fmt.Errorf("inventory %s: %w", in.label(dir), err)
	}
	for _, e := range entries {
		if ignoredInventory(e.Name()) {
			continue
		}
		name := path.Join(dir, e.Name())
		st, err := fs.Stat(in.fsys, name) // the target of a link
		switch {
		case err != nil || !st.IsDir() && !st.Mode().IsRegular():
			in.note("%s is neither a file nor a directory, it is left out", in.label(name))
		case !st.IsDir():
			visit(name)
		case depth == maxInventoryDeep:
			return fmt.Errorf("inventory %s: directories are nested deeper than %d", in.label(name), maxInventoryDeep)
		default:
			for _, kind := range []string{"group_vars", "host_vars"} {
				if _, err := fs.Stat(in.fsys, path.Join(name, kind)); err == nil {
					in.note("%s is not read: of an inventory that is a directory, only those directly in it are used; "+
						"name %s itself if it is the inventory",
						in.label(path.Join(name, kind)), in.label(name))
				}
			}
			if err := in.walk(name, depth+1, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// readText reads one bounded file.
func (in *Inventory) readText(fsys fs.FS, file, label string) ([]byte, error) {
	if in.files++; in.files > maxInventoryFiles {
		return nil, fmt.Errorf("inventory %s: more than %d files", in.name, maxInventoryFiles)
	}
	f, err := fsys.Open(file)
	if err != nil {
		return nil, fmt.Errorf("inventory %s: %w", label, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxVarsFile+1))
	if err != nil {
		return nil, fmt.Errorf("inventory %s: %w", label, err)
	}
	if len(b) > maxVarsFile {
		return nil, fmt.Errorf("inventory %s: a file of an inventory has at most %d MiB", label, maxVarsFile>>20)
	}
	return b, nil
}

func isVault(b []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("$ANSIBLE_VAULT;"))
}

// readFile reads one file of hosts, as YAML if it looks like YAML, else as INI.
func (in *Inventory) readFile(file string) error {
	label, ext := in.label(file), path.Ext(file)
	b, err := in.readText(in.fsys, file, label)
	if err != nil {
		return err
	}
	unread := func(why string) {
		in.unread = append(in.unread, label)
		in.note("%s is %s: its hosts and variables are not known here. The variables of groups and hosts in "+
			"group_vars and host_vars are used, whether or not the hosts are in it", label, why)
	}
	switch {
	case isVault(b):
		unread("encrypted with ansible-vault")
		return nil
	case bytes.HasPrefix(b, []byte("#!")):
		unread("a script, which only Ansible runs")
		return nil
	case ext == ".toml":
		unread("TOML, which is not supported")
		return nil
	case !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0:
		return fmt.Errorf("inventory %s: the file is not UTF-8 text", label)
	}
	isYAML := ext == ".yml" || ext == ".yaml" || ext == ".json"
	if isYAML || ext == "" {
		scratch := in.clone()
		plugin, yamlErr := scratch.readYAML(label, b)
		switch {
		case yamlErr == nil && plugin != "":
			unread(fmt.Sprintf("the configuration of the inventory plugin %.60s", plugin))
			return nil
		case yamlErr == nil:
			*in = *scratch
			return nil
		case isYAML && !errors.Is(yamlErr, errNoGroups):
			return yamlErr
		}
	}
	return in.readINI(label, string(b))
}

// clone returns a copy, so that reading a file into it can fail.
func (in *Inventory) clone() *Inventory {
	c := *in
	c.groups, c.hosts = map[string]*inventoryGroup{}, map[string]*inventoryHost{}
	for name, g := range in.groups {
		copied := *g
		copied.vars, copied.parents = maps.Clone(g.vars), nil
		c.groups[name] = &copied
	}
	for name, g := range in.groups {
		for _, p := range g.parents {
			c.groups[name].parents = append(c.groups[name].parents, c.groups[p.name])
		}
	}
	c.order = nil
	for _, h := range in.order {
		copied := &inventoryHost{name: h.name, vars: maps.Clone(h.vars)}
		for _, g := range h.groups {
			copied.groups = append(copied.groups, c.groups[g.name])
		}
		c.hosts[h.name] = copied
		c.order = append(c.order, copied)
	}
	c.notes, c.unread = slices.Clone(in.notes), slices.Clone(in.unread)
	return &c
}

// group returns the group of that name, and creates it if necessary.
func (in *Inventory) group(name string) *inventoryGroup {
	g := in.groups[name]
	if g == nil {
		g = &inventoryGroup{name: name, vars: map[string]definition{}, priority: 1}
		in.groups[name] = g
	}
	return g
}

// addHost adds a host to a group.
func (in *Inventory) addHost(name string, g *inventoryGroup) (*inventoryHost, error) {
	h := in.hosts[name]
	if h == nil {
		if len(in.hosts) == maxInventoryHosts {
			return nil, fmt.Errorf("an inventory has at most %d hosts", maxInventoryHosts)
		}
		h = &inventoryHost{name: name, vars: map[string]definition{}}
		in.hosts[name] = h
		in.order = append(in.order, h)
	}
	if !slices.Contains(h.groups, g) {
		h.groups = append(h.groups, g)
	}
	return h, nil
}

// addChild adds a child to a group.
func (in *Inventory) addChild(parent, child *inventoryGroup) error {
	if parent == child {
		return fmt.Errorf("the group %s cannot be its own child", child.name)
	}
	if len(in.groups) > maxInventoryGroups {
		return fmt.Errorf("an inventory has at most %d groups", maxInventoryGroups)
	}
	if !slices.Contains(child.parents, parent) {
		child.parents = append(child.parents, parent)
	}
	return nil
}

// set sets a variable of a group. ansible_group_priority is not a variable, and is used in files of hosts only.
func (g *inventoryGroup) set(name string, d definition) {
	if name == "ansible_group_priority" {
		if n, ok := jinja.Number(d.value); ok && n == float64(int(n)) {
			g.priority = int(n)
		} else if s, ok := d.value.(string); ok {
			g.priority = int(jinja.Int(s, int64(g.priority)))
		}
		return
	}
	g.vars[name] = d
}

// rank computes the depth of each group below all, and refuses cycles.
func (in *Inventory) rank() error {
	all := in.group("all")
	const busy = -1
	depths := map[*inventoryGroup]int{all: 0}
	var deep func(g *inventoryGroup, level int) (int, error)
	deep = func(g *inventoryGroup, level int) (int, error) {
		if d, ok := depths[g]; ok {
			if d == busy {
				return 0, fmt.Errorf("inventory %s: the group %s is its own descendant, through [%s:children]",
					in.name, g.name, g.name)
			}
			return d, nil
		}
		if level > maxVarsDeep {
			return 0, fmt.Errorf("inventory %s: groups are nested deeper than %d at %s", in.name, maxVarsDeep, g.name)
		}
		depths[g] = busy
		depth := 1
		for _, p := range g.parents {
			d, err := deep(p, level+1)
			if err != nil {
				return 0, err
			}
			depth = max(depth, d+1)
		}
		depths[g], g.depth = depth, depth
		return depth, nil
	}
	if len(all.parents) > 0 {
		return fmt.Errorf("inventory %s: the group all cannot be a child of %s", in.name, all.parents[0].name)
	}
	for _, name := range slices.Sorted(maps.Keys(in.groups)) {
		if _, err := deep(in.groups[name], 0); err != nil {
			return err
		}
	}
	return nil
}

// groupsOf returns all groups of a host but all, in the order of precedence, the strongest last.
func groupsOf(h *inventoryHost) []*inventoryGroup {
	seen := map[*inventoryGroup]bool{}
	var list []*inventoryGroup
	var add func(g *inventoryGroup)
	add = func(g *inventoryGroup) {
		if seen[g] {
			return
		}
		seen[g] = true
		if g.name != "all" {
			list = append(list, g)
		}
		for _, p := range g.parents {
			add(p)
		}
	}
	for _, g := range h.groups {
		add(g)
	}
	slices.SortFunc(list, func(a, b *inventoryGroup) int {
		return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.priority, b.priority),
			strings.Compare(a.name, b.name))
	})
	return list
}

// kubesprayGroups are the groups that Kubespray derives from others when it starts, in its order.
var kubesprayGroups = []struct {
	name string
	of   []string
}{
	{"kube_control_plane", []string{"kube-master"}}, {"kube_node", []string{"kube-node"}}, {"calico_rr",
		[]string{"calico-rr"}},
	{"k8s_cluster", []string{"k8s-cluster", "kube_node", "kube_control_plane", "calico_rr"}},
}

func (in *Inventory) addKubesprayGroups() {
	for _, h := range in.order {
		in.addKubesprayGroupsOf(h)
	}
}

func (in *Inventory) addKubesprayGroupsOf(h *inventoryHost) {
	for _, made := range kubesprayGroups {
		if !slices.ContainsFunc(groupsOf(h), func(g *inventoryGroup) bool { return slices.Contains(made.of, g.name) }) {
			continue
		}
		g := in.group(made.name)
		if g.depth == 0 {
			g.depth = 1
		}
		if !slices.Contains(h.groups, g) {
			h.groups = append(h.groups, g)
		}
	}
}
