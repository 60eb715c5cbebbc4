package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"casemate/bundle/lists"
	"casemate/bundle/lists/kubespray"
)

// inventory is one --kubespray-inventory.
type inventory struct {
	path string // absolute, with links followed
	*kubespray.Inventory
}

// addKubespray adds what the releases in the checkouts download for the processors of the platforms, as the inventories
// configure it, and the downloads that Kubespray's own list script omits.
func (l *listFlags) addKubespray(cmd *cobra.Command, w *wantedSet, sums *lists.Checksums) error {
	if len(l.kubespray) == 0 {
		return nil
	}
	opt := kubespray.Options{}
	systems, err := findSystems(l.systems)
	if err != nil {
		return err
	}
	if l.domain != nil && len(l.kubesprayInventories)+len(l.kubesprayVars) > 0 {
		if opt.Domain, err = l.domain(); err != nil {
			return err
		}
	}
	said := map[string]bool{}
	say := func(line string) {
		if !said[line] {
			said[line] = true
			fmt.Fprintln(cmd.ErrOrStderr(), line)
		}
	}
	var inventories []inventory
	for _, name := range l.kubesprayInventories {
		in, err := openInventory(name)
		if err != nil {
			return err
		}
		inventories = append(inventories, in)
	}
	for _, dir := range l.kubespray {
		own, given := inventoriesOf(dir, l.kubespray, inventories)
		opt.Given = given
		if len(own) == 0 {
			own = []inventory{{}}
		}
		for _, in := range own {
			opt.Inventory = in.Inventory
			for _, opt.OS = range systems {
				if err := l.addRelease(dir, opt, w, sums, say); err != nil {
					return err
				}
			}
		}
	}
	for _, in := range inventories {
		for _, n := range in.Notes() {
			say("note: " + n)
		}
	}
	return nil
}

// findSystems finds operating systems by their names; without names the only one is nil.
func findSystems(names []string) (list []*kubespray.OS, err error) {
	for _, name := range names {
		s, ok := kubespray.FindOS(name)
		if !ok {
			return nil, usageError{fmt.Errorf("--os %s is not known%s; known are %s", name,
				didYouMean(nearest(name, slices.Values(kubespray.Systems()))), strings.Join(kubespray.Systems(), ", "))}
		}
		list = append(list, s)
	}
	if list == nil {
		list = append(list, nil)
	}
	return list, nil
}

// openInventory opens a directory, or a file of hosts with the files beside it.
func openInventory(name string) (inventory, error) {
	st, err := os.Stat(name)
	if err != nil {
		return inventory{}, err
	}
	if base := filepath.Base(name); st.IsDir() && (base == "group_vars" || base == "host_vars") {
		return inventory{}, usageError{fmt.Errorf("--kubespray-inventory %s: give the inventory, which is the "+
			"directory around it: %s", name, filepath.Dir(name))}
	}
	dir, file := name, ""
	if !st.IsDir() {
		dir, file = filepath.Split(name)
		dir = filepath.Clean(dir)
	}
	path, err := filepath.Abs(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return inventory{}, err
	}
	in, err := kubespray.ReadInventory(filepath.ToSlash(dir), os.DirFS(dir), file)
	return inventory{path, in}, err
}

// inventoriesOf returns the inventories for one of the checkouts: those inside it if there are any, otherwise those
// that are in no checkout. given names the former below the checkout.
func inventoriesOf(dir string, checkouts []string, all []inventory) (own []inventory, given []string) {
	var outside []inventory
	for _, in := range all {
		if rel, ok := below(dir, in.path); ok {
			own = append(own, in)
			// "inventory/mycluster/hosts.yaml" becomes inventory/mycluster.
			parts := strings.Split(filepath.ToSlash(rel), "/")
			given = append(given, strings.Join(parts[:min(len(parts), 2)], "/"))
		} else if !slices.ContainsFunc(checkouts, func(other string) bool {
			_,
				ok := below(other, in.path)
			return ok
		}) {
			outside = append(outside, in)
		}
	}
	if len(own) == 0 {
		own = outside
	}
	return own, given
}

// below returns the path from a directory to an absolute path in it.
func below(dir, path string) (rel string, ok bool) {
	root, err := filepath.Abs(dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err == nil {
		rel, err = filepath.Rel(root, path)
	}
	return rel, err == nil && filepath.IsLocal(rel)
}

// addRelease adds one checkout with one inventory or none.
func (l *listFlags) addRelease(dir string, opt kubespray.Options, w *wantedSet, sums *lists.Checksums,
	say func(line string)) error {
	for i, arch := range l.processors() {
		opt.Arch, opt.Vars = arch, nil
		for _, name := range l.kubesprayVars {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			opt.Vars = append(opt.Vars, kubespray.Vars{Name: name, R: bytes.NewReader(text)})
		}
		k, err := kubespray.Read(os.DirFS(dir), opt)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if i == 0 {
			sums.Add(k.Checksums)
		}
		for _, n := range k.Notes {
			say("note: " + dir + ": " + n)
		}
		for _, i := range k.Images {
			w.image(i)
		}
		for _, f := range k.Files {
			w.file(f)
		}
		for _, p := range k.Packages {
			w.osPackage(p)
		}
		if n := len(k.Forgotten); n > 0 && i == 0 {
			say(fmt.Sprintf("note: %s: its own list script omits %s that add-ons can ask for, included here "+
				"where available:", dir, count(n, "name")))
		}
		for _, f := range k.Forgotten {
			switch {
			case f.Image != nil:
				f.Image.Optional = true
				w.image(*f.Image)
			case f.File != nil:
				f.File.Optional = true
				w.file(*f.File)
			case f.Chart != nil:
				f.Chart.Optional = true
				w.chart(*f.Chart)
			}
			if i == 0 {
				say(fmt.Sprintf("  %s (%s)", f.Name(), f.Where))
			}
		}
	}
	return nil
}
