package kubespray

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"casemate/bundle/lists/jinja"
)

// playbooksDir is the directory of a checkout's playbooks; group_vars and host_vars in it are used too.
const playbooksDir = "playbooks"

// maxVariants bounds the hosts with different results that are computed for one checkout.
const maxVariants = 200

// clusterHost is a host on which Kubespray downloads, with its variables from the inventory.
type clusterHost struct {
	name string
	vars map[string]definition
}

// hostsOf returns the hosts of an inventory, with the variables beside the checkout's playbooks.
func (c *checkout) hostsOf(in *Inventory) (iter.Seq2[clusterHost, error], error) {
	playbooks, err := fs.Sub(c.fsys, playbooksDir)
	if err != nil {
		return nil, err
	}
	return in.clusterHosts(playbooks), nil
}

// oneHost returns the host of a checkout without an inventory.
func oneHost(yield func(clusterHost, error) bool) { yield(clusterHost{}, nil) }

// clusterHosts iterates over the hosts of the inventory that Kubespray installs. If the inventory names none, or not
// all of them, there is one for each group and host that has variables, so that none of these is missed. It returns one
// host after the other, because all of them with all their variables may need much memory.
func (in *Inventory) clusterHosts(playbooks fs.FS) iter.Seq2[clusterHost, error] {
	var hosts []*inventoryHost
	used := map[string]bool{}
	for _, h := range in.order {
		groups := groupsOf(h)
		if !slices.ContainsFunc(groups, func(g *inventoryGroup) bool {
			return slices.Contains([]string{"k8s_cluster",
				"etcd"}, g.name)
		}) {
			continue
		}
		hosts = append(hosts, h)
		used["host_vars/"+h.name] = true
		for _, g := range groups {
			used["group_vars/"+g.name] = true
		}
	}
	if len(hosts) == 0 || len(in.unread) > 0 {
		if len(in.unread) == 0 {
			in.note("%s names no host in kube_control_plane, kube_node, etcd or calico_rr: the variables of all "+
				"groups in it and in group_vars are used", in.name)
		}
		hosts = append(hosts, in.addPlaceholderHost(used)...)
	}
	groups := in.groupLists()
	return func(yield func(clusterHost, error) bool) {
		for _, h := range hosts {
			vars, err := in.variablesOf(h, playbooks)
			if err == nil {
				maps.Copy(vars, magic(h, groups))
			}
			if !yield(clusterHost{h.name, vars}, err) || err != nil {
				return
			}
		}
	}
}

// addPlaceholderHost returns one host for each group and host name that has variables and no known host.
func (in *Inventory) addPlaceholderHost(used map[string]bool) []*inventoryHost {
	var list []*inventoryHost
	add := func(name string, groups ...string) {
		h := &inventoryHost{name: name, vars: map[string]definition{}}
		for _, g := range groups {
			group := in.group(g)
			group.depth = max(group.depth, 1)
			h.groups = append(h.groups, group)
		}
		in.addKubesprayGroupsOf(h)
		list = append(list, h)
	}
	names := map[string]bool{"kube_control_plane": true, "kube_node": true, "etcd": true, "calico_rr": true}
	for name := range in.groups {
		names[name] = true
	}
	for _, name := range in.namesIn("group_vars") {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch {
		case used["group_vars/"+name], name == "all", name == "ungrouped", name == "k8s_cluster":
		case name == "kube_control_plane", name == "etcd", name == "calico_rr":
			add("a host of "+name, name)
		default:
			add("a host of "+name, name, "kube_node")
		}
	}
	for _, name := range in.namesIn("host_vars") {
		if !used["host_vars/"+name] {
			add(name, "kube_node")
		}
	}
	return list
}

// namesIn returns the groups or hosts that have variables in a directory beside the inventory.
func (in *Inventory) namesIn(kind string) []string {
	entries, _ := fs.ReadDir(in.fsys, kind)
	var names []string
	for _, e := range entries {
		name := e.Name()
		if ext := path.Ext(name); !e.IsDir() && slices.Contains(varsEnds[1:], ext) {
			name = strings.TrimSuffix(name, ext)
		}
		if !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, "~") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// groupLists returns Ansible's variable groups.
func (in *Inventory) groupLists() *jinja.Dict {
	of := map[string][]any{"all": nil}
	for _, h := range in.order {
		of["all"] = append(of["all"], h.name)
		for _, g := range groupsOf(h) {
			of[g.name] = append(of[g.name], h.name)
		}
	}
	d := &jinja.Dict{}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		d.Set(name, of[name])
	}
	return d
}

// magic returns the variables that Ansible itself sets for a host.
func magic(h *inventoryHost, groups *jinja.Dict) map[string]definition {
	const where = "Ansible itself"
	names := []any{}
	for _, g := range groupsOf(h) {
		names = append(names, g.name)
	}
	slices.SortFunc(names, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	short, _, _ := strings.Cut(h.name, ".")
	return map[string]definition{
		"inventory_hostname": {h.name, where}, "inventory_hostname_short": {short, where},
		"group_names": {names, where}, "groups": {groups, where},
	}
}

// sameFor reports whether two hosts have the same values of the variables in names, as they are written.
func sameFor(names map[string]bool, a, b clusterHost) bool {
	for name := range names {
		x, inA := a.vars[name]
		y, inB := b.vars[name]
		if inA != inB || inA && !sameValue(x.value, y.value) {
			return false
		}
	}
	return true
}

func sameValue(a, b any) bool {
	switch x := a.(type) {
	case *source:
		y, ok := b.(*source)
		return ok && x.text == y.text
	case *hidden:
		y, ok := b.(*hidden)
		return ok && *x == *y
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, sameValue)
	case *jinja.Dict:
		y, ok := b.(*jinja.Dict)
		return ok && (x == y || slices.Equal(x.Keys, y.Keys) &&
			!slices.ContainsFunc(x.Keys, func(k string) bool { return !sameValue(x.Values[k], y.Values[k]) }))
	}
	switch b.(type) {
	case *source, *hidden, []any, *jinja.Dict:
		return false
	}
	return a == b
}

// hostLists are the lists of one host, and the variables that they depend on.
type hostLists struct {
	host  clusterHost
	asked map[string]bool
	lists *Lists
}

// forHosts computes the lists of all hosts and joins them. Hosts that differ in no relevant variable are computed once.
func (c *checkout) forHosts(opt Options, hosts iter.Seq2[clusterHost, error],
	over map[string]definition) (*Lists, error) {
	var done []hostLists
	var failed []string
	for h, err := range hosts {
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(done, func(d hostLists) bool { return sameFor(d.asked, d.host, h) }) {
			continue
		}
		if len(done) == maxVariants {
			return nil, fmt.Errorf("more than %d hosts of the inventory have different lists, %s among them: "+
				"pass parts of it as separate inventories", maxVariants, h.name)
		}
		k := c.cluster(opt, h.vars, over)
		lists, err := k.compute()
		done = append(done, hostLists{h, k.asked, lists})
		if err != nil && !slices.Contains(failed, err.Error()) {
			failed = append(failed, err.Error())
		}
	}
	if len(failed) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(failed, "\n"))
	}
	return join(done), nil
}

// join returns the lists of all hosts together.
func join(done []hostLists) *Lists {
	all := done[0].lists
	listed, images, files := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, d := range done {
		for _, i := range d.lists.Images {
			listed[i.Ref()] = true
		}
		for _, f := range d.lists.Files {
			listed[f.URL] = true
		}
	}
	all.Forgotten = slices.DeleteFunc(all.Forgotten, func(f Forgotten) bool { return listed[f.Name()] })
	forgotten := map[string]bool{}
	for i, d := range done {
		var more []string
		for _, w := range d.lists.Images {
			if !images[w.Ref()] && i > 0 {
				all.Images, more = append(all.Images, w), append(more, w.Ref())
			}
			images[w.Ref()] = true
		}
		for _, f := range d.lists.Files {
			digest, has := files[f.URL]
			switch {
			case !has && i > 0:
				all.Files, more = append(all.Files, f), append(more, f.URL)
			case has && digest != f.Digest:
				all.note("%s has another checksum for %s than for %s: the latter is used", f.URL,
					d.host.name, done[0].host.name)
			}
			if !has {
				files[f.URL] = f.Digest
			}
		}
		for _, f := range d.lists.Forgotten {
			if !forgotten[f.Name()] && !listed[f.Name()] && i > 0 {
				all.Forgotten, more = append(all.Forgotten, f), append(more, f.Name())
			}
			forgotten[f.Name()] = true
		}
		for _, n := range d.lists.Notes {
			all.note("%s", n)
		}
		for _, p := range d.lists.Packages {
			all.addPackage(p)
		}
		if len(more) > 0 {
			all.note("hosts differ: %s needs what the hosts before it do not need: %s", d.host.name,
				strings.Join(more, ", "))
		}
	}
	return all
}

// note adds a sentence once.
func (l *Lists) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(l.Notes, n) {
		l.Notes = append(l.Notes, n)
	}
}
