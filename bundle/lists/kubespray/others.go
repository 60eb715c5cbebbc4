package kubespray

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// inventoriesDir is the usual directory of inventories in a checkout.
const inventoriesDir = "inventory"

// shippedInventories come with Kubespray. They are used by somebody only if they were changed.
var shippedInventories = []string{inventoriesDir + "/sample", inventoriesDir + "/local"}

// findInventories returns the inventories in a checkout: directories with variables of groups or hosts, and files.
func (c *checkout) findInventories() []string {
	var found []string
	entries, _ := fs.ReadDir(c.fsys, inventoriesDir)
	for _, e := range entries {
		if ignoredInventory(e.Name()) {
			continue
		}
		name := path.Join(inventoriesDir, e.Name())
		if st, err := fs.Stat(c.fsys, name); err != nil || !st.IsDir() {
			if err == nil && st.Mode().IsRegular() {
				found = append(found, name)
			}
			continue
		}
		within, _ := fs.ReadDir(c.fsys, name)
		if slices.ContainsFunc(within, func(e fs.DirEntry) bool {
			return e.Name() == "group_vars" || e.Name() == "host_vars" || !e.IsDir() && !ignoredInventory(e.Name())
		}) {
			found = append(found, name)
		}
	}
	return found
}

// noteInventories notes the inventories in the checkout that were not given, and what they would change. Those that
// Kubespray ships are noted only if they change the lists of the release.
func (c *checkout) noteInventories(opt Options, lists *Lists) {
	plain, err := c.forHosts(Options{Arch: opt.Arch}, oneHost, nil)
	for _, name := range c.findInventories() {
		if slices.Contains(opt.Given, name) {
			continue
		}
		other, otherErr := c.withInventory(opt, name)
		switch {
		case errors.Is(otherErr, errNoInventory):
		case otherErr != nil:
			lists.note("%s was not given with --kubespray-inventory; it cannot be read as it is: %s", name,
				strings.ReplaceAll(otherErr.Error(), "\n", " "))
		case err != nil || !slices.Contains(shippedInventories, name) || len(missingFrom(other, plain)) > 0:
			said := "with it all names are the same"
			if more := missingFrom(other, lists); len(more) > 0 {
				said = fmt.Sprintf("with it the lists have %d more, such as %s", len(more),
					strings.Join(more[:min(len(more), 3)], ", "))
			}
			lists.note("%s was not given with --kubespray-inventory; %s", name, said)
		}
	}
}

// missingFrom returns the names that are in a and not in b.
func missingFrom(a, b *Lists) []string {
	have := map[string]bool{}
	for _, name := range b.names() {
		have[name] = true
	}
	return slices.DeleteFunc(a.names(), func(name string) bool { return have[name] })
}

// withInventory returns the lists with an inventory in the checkout.
func (c *checkout) withInventory(opt Options, name string) (*Lists, error) {
	dir, file := name, ""
	if st, err := fs.Stat(c.fsys, name); err == nil && !st.IsDir() {
		dir, file = path.Split(name)
		dir = path.Clean(dir)
	}
	fsys, err := fs.Sub(c.fsys, dir)
	if err != nil {
		return nil, err
	}
	in, err := ReadInventory(dir, fsys, file)
	if err != nil {
		return nil, err
	}
	hosts, err := c.hostsOf(in)
	if err != nil {
		return nil, err
	}
	return c.forHosts(Options{Arch: opt.Arch, Domain: opt.Domain}, hosts, nil)
}

// names returns all names in the lists.
func (l *Lists) names() []string {
	var names []string
	for _, i := range l.Images {
		names = append(names, i.Ref())
	}
	for _, f := range l.Files {
		names = append(names, f.URL)
	}
	for _, f := range l.Forgotten {
		names = append(names, f.Name())
	}
	return names
}
