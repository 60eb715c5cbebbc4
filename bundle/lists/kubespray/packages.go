package kubespray

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"casemate/bundle/lists"
	"casemate/bundle/lists/jinja"
)

// systemRoles install the packages that every node needs: they name them in variables.
var systemRoles = []string{"roles/system_packages", "roles/kubernetes/preinstall"}

// listPackages lists the packages that the roles install on nodes with an operating system. Conditions about the
// system decide; whatever else a package depends on makes it optional, unless it is true.
func (k *kubespray) listPackages(s *OS) error {
	for _, role := range systemRoles {
		if err := k.systemPackages(role, s); err != nil {
			return err
		}
	}
	return fs.WalkDir(k.fsys, "roles", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := path.Base(name); base == "molecule" || base == "tests" || name == "roles/upgrade" {
				return fs.SkipDir
			}
			return nil
		}
		role, file, ok := strings.Cut(name, "/tasks/")
		if ext := path.Ext(file); !ok || !d.Type().IsRegular() || ext != ".yml" && ext != ".yaml" ||
			!s.prepares(role, strings.TrimSuffix(file, ext)) {
			return nil
		}
		return k.taskPackages(role, name, s)
	})
}

// prepares reports whether a file of tasks is for this system: the files of the role that prepares hosts have the names
// of systems.
func (s *OS) prepares(role, file string) bool {
	if base := path.Base(role); base != "bootstrap_os" && base != "bootstrap-os" {
		return true
	}
	return file == "main" || slices.Contains(s.tasks, file)
}

// roleScope returns the variables as a role sees them on a system.
func (k *kubespray) roleScope(role string, s *OS) (*variables, error) {
	defaults, err := k.readDefinitions(role, "defaults")
	if err != nil {
		return nil, err
	}
	vars, err := k.readDefinitions(role, "vars")
	if err != nil {
		return nil, err
	}
	vars = maps.Clone(vars)
	for _, name := range s.varsFiles() {
		f, err := openVars(k.fsys, role+"/vars/"+name+".yml")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(vars, f.defs)
		break
	}
	cluster := map[string]definition{
		"group_names": {[]any{"all", "etcd", "k8s_cluster", "kube_control_plane", "kube_node"}, "any node"},
	}
	return k.scope(defaults, nil).with(cluster, k.inventory, s.facts(k.facts), k.own, vars, k.over), nil
}

// systemPackages lists what the variables pkgs (a dictionary with conditions) or required_pkgs and common_required_pkgs
// (lists, before v2.26) of a role name.
func (k *kubespray) systemPackages(role string, s *OS) error {
	if _, err := fs.Stat(k.fsys, role); err != nil {
		return nil
	}
	v, err := k.roleScope(role, s)
	if err != nil {
		return err
	}
	if all, ok := v.defs["pkgs"].value.(*jinja.Dict); ok {
		for _, name := range all.Keys {
			conditions, _ := all.Values[name].([]any)
			if certain, possible := k.holds(v, conditions); possible {
				k.addPackage(name, !certain, v.defs["pkgs"].where)
			}
		}
	}
	for _, name := range []string{"required_pkgs", "common_required_pkgs"} {
		if d, ok := v.defs[name]; ok {
			k.addPackages(v, d.value, false, d.where)
		}
	}
	return nil
}

// holds evaluates conditions. certain: all are true. Not possible: one is false, and depends on the system alone.
func (k *kubespray) holds(v *variables, conditions []any) (certain, possible bool) {
	certain = true
	for _, c := range conditions {
		one := v.with()
		one.asked = map[string]bool{}
		x, err := one.ForceAll(c)
		system := true
		for name := range one.asked {
			k.asked[name] = true
			_, fact := v.defs[name]
			fact = fact && (strings.HasPrefix(name, "ansible_") || strings.HasPrefix(name, "is_"))
			system = system && fact
		}
		switch {
		case err == nil && jinja.Bool(x):
		case err == nil && system:
			return false, false
		default:
			certain = false
		}
	}
	return certain, true
}

// addPackages adds the names in a value, which is one name or a list of names.
func (k *kubespray) addPackages(v *variables, value any, optional bool, where string) {
	x, err := v.ForceAll(value)
	if err != nil {
		k.note("%s: packages are left out, because their names cannot be evaluated: %v", where, err)
		return
	}
	if list, ok := x.([]any); ok {
		for _, e := range list {
			k.addPackages(v, e, optional, where)
		}
		return
	}
	text, err := jinja.Text(x)
	if err != nil {
		k.note("%s: packages are left out: %v", where, err)
		return
	}
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			k.addPackage(name, optional, where)
		}
	}
}

// withEpoch matches the names of RPM packages with their version, NAME-EPOCH:VERSION-RELEASE.
var withEpoch = regexp.MustCompile(`^(.+)-(\d+:[^-:]+(?:-[^-:]+)?)$`)

func (k *kubespray) addPackage(name string, optional bool, where string) {
	if m := withEpoch.FindStringSubmatch(name); m != nil && !strings.Contains(name, "=") {
		name = m[1] + "=" + m[2]
	}
	p, err := lists.ParsePackage(strings.TrimSuffix(name, "=*"))
	if err != nil {
		k.note("%s: a package is left out: %v", where, err)
		return
	}
	p.Where, p.Optional = where, optional
	k.lists.addPackage(p)
}

// addPackage adds a package once; what one place requires is not optional.
func (l *Lists) addPackage(p lists.Package) {
	i := slices.IndexFunc(l.Packages, func(q lists.Package) bool { return q.Label() == p.Label() })
	if i < 0 {
		l.Packages = append(l.Packages, p)
	} else if l.Packages[i].Optional && !p.Optional {
		l.Packages[i] = p
	}
}

// packageModules are Ansible's modules that install packages, without the names of their collections.
var packageModules = []string{"package", "apt", "dnf", "dnf5", "yum", "zypper"}

// installs matches commands that install packages.
var installs = regexp.MustCompile(`\b(?:apt-get|apt|dnf|yum|zypper)((?: +-[^ ]+)*) +install +([^&|;\n]+)`)

// task is one task, or a block of tasks.
type task struct {
	where      string
	conditions []any
	fields     map[string]*yaml.Node
}

// taskPackages lists what the tasks of a file install. All of it is optional: which roles and tasks run depends on
// what the cluster has.
func (k *kubespray) taskPackages(role, name string, s *OS) error {
	f, err := k.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRoleFile))
	if err != nil {
		return err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil || len(root.Content) == 0 {
		return nil // not one of tasks
	}
	var v *variables
	in := &varsReader{name: name}
	return in.tasks(root.Content[0], nil, 0, func(t *task) error {
		names, ofSystem := t.installs(in)
		if len(names) == 0 || slices.Contains(systemRoles, role) && ofSystem {
			return nil
		}
		if v == nil {
			if v, err = k.roleScope(role, s); err != nil {
				return err
			}
		}
		if _, possible := k.holds(v, t.conditions); !possible {
			return nil
		}
		for _, items := range t.items(in, v) {
			for _, n := range names {
				k.addPackages(items, n, true, t.where)
			}
		}
		return nil
	})
}

// tasks calls each for every task below a list of tasks and blocks.
func (in *varsReader) tasks(n *yaml.Node, conditions []any, depth int, each func(*task) error) error {
	if n.Kind != yaml.SequenceNode || depth > maxVarsDeep {
		return nil
	}
	for _, c := range n.Content {
		if c.Kind != yaml.MappingNode {
			continue
		}
		pairs, err := in.pairs(c, depth)
		if err != nil {
			return err
		}
		t := &task{where: fmt.Sprintf("%s:%d", in.name, c.Line), conditions: slices.Clone(conditions),
			fields: map[string]*yaml.Node{}}
		for _, p := range pairs {
			t.fields[p.key.Value] = p.value
		}
		if when := t.fields["when"]; when != nil {
			list := []*yaml.Node{when}
			if when.Kind == yaml.SequenceNode {
				list = when.Content
			}
			for _, w := range list {
				text := "{{ " + w.Value + " }}"
				t.conditions = append(t.conditions, &source{text: text, name: "when", where: t.where})
			}
		}
		for _, part := range []string{"block", "rescue", "always"} {
			if t.fields[part] != nil {
				if err := in.tasks(t.fields[part], t.conditions, depth+1, each); err != nil {
					return err
				}
			}
		}
		if err := each(t); err != nil {
			return err
		}
	}
	return nil
}

// installs returns the names of the packages that a task installs. ofSystem: they are those of the variables that
// systemPackages reads.
func (t *task) installs(in *varsReader) (names []any, ofSystem bool) {
	for field, n := range t.fields {
		module := field[strings.LastIndexByte(field, '.')+1:]
		switch {
		case slices.Contains(packageModules, module) && n.Kind == yaml.MappingNode:
			x, err := in.value(n, 0)
			d, ok := x.(*jinja.Dict)
			if err != nil || !ok || d.Values["state"] == "absent" {
				continue
			}
			for _, key := range []string{"name", "pkg", "list"} {
				if value := d.Values[key]; value != nil {
					names = append(names, value)
				}
				if s, ok := d.Values[key].(*source); ok {
					ofSystem = ofSystem || strings.Contains(s.text, "item.packages") || strings.Contains(s.text, "pkgs")
				}
			}
		case module == "set_fact" && n.Kind == yaml.MappingNode:
			x, err := in.value(n, 0)
			d, ok := x.(*jinja.Dict)
			if err == nil && ok && d.Values["common_required_pkgs"] != nil {
				names = append(names, d.Values["common_required_pkgs"])
			}
		case slices.Contains([]string{"raw", "command", "shell"}, module) && n.Kind == yaml.ScalarNode:
			for _, m := range installs.FindAllStringSubmatch(strings.ReplaceAll(n.Value, "\\\n", " "), -1) {
				for _, word := range strings.Fields(m[2]) {
					if word[0] != '-' && !isTemplate(word) {
						names = append(names, word)
					}
				}
			}
		}
	}
	return names, ofSystem
}

// items returns the variables for each turn of a task's loop.
func (t *task) items(in *varsReader, v *variables) []*variables {
	n := t.fields["loop"]
	if n == nil {
		n = t.fields["with_items"]
	}
	if n == nil {
		return []*variables{v}
	}
	x, err := in.value(n, 0)
	if err == nil {
		x, err = v.ForceAll(x)
	}
	list, _ := x.([]any)
	if err != nil || list == nil {
		return nil
	}
	var all []*variables
	for _, item := range list {
		all = append(all, v.with(map[string]definition{"item": {item, t.where}}))
	}
	return all
}
