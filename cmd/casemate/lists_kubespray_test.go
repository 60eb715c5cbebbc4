package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/lists"
)

// smallCheckout is a checkout of Kubespray below dir, with additional lines in its download.yml.
func smallCheckout(dir, more string) map[string]string {
	return map[string]string{
		dir + "/galaxy.yml": "version: 2.99.0\n",
		dir + "/contrib/offline/generate_list.sh": "KUBE_IMAGES=\"kube-one\"\n    echo \"{{ kube_image_repo " +
			"}}/$i:v{{ kube_version }}\"\n",
		dir + "/roles/kubespray_defaults/defaults/main/download.yml": "kube_version: 1.2.3\nkube_image_repo: " +
			"registry.k8s.io\nanchor_url: https://github.com/anchor\n" +
			"anchor_version: 1\nanchor_download_url: \"{{ anchor_url }}/v{{ anchor_version " +
			"}}/anchor\"\ndownloads: {}\n" + more,
		dir + "/roles/addons/rope/defaults/main.yml":     "rope_tag: 1\n",
		dir + "/roles/addons/rope/templates/rope.yml.j2": "image: quay.io/rope/rope:{{ rope_tag }}\n",
	}
}

func wantedNames(w *lists.Wanted) []string {
	var names []string
	for _, i := range w.Images {
		name := i.Ref()
		if i.Optional {
			name += "?"
		}
		names = append(names, name)
	}
	for _, f := range w.Files {
		names = append(names, f.URL)
	}
	slices.Sort(names)
	return names
}

// Each inventory is a separate cluster; one in a checkout belongs to that checkout.
func TestKubesprayInventories(t *testing.T) {
	files := smallCheckout("ks", "")
	for name, text := range smallCheckout("other", "") {
		files[name] = strings.ReplaceAll(text, "1.2.3", "2.0.0")
	}
	files["ks/inventory/a/hosts.ini"] = "[kube_node]\nn1 anchor_version=2\n"
	files["ks/inventory/b/hosts.yaml"] = "kube_node: {hosts: {n1: }}\n"
	files["ks/inventory/b/group_vars/all/all.yml"] = "anchor_version: 3\nrope_tag: 3\n"
	files["ks/inventory/b/group_vars/all/vault.yml"] = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"
	files["outside/hosts"] = "[kube_node]\nn1\n[kube_node:vars]\nanchor_version=4\n"
	files["vars.yml"] = "anchor_version: 5\n"
	files["listed"] = "quay.io/rope/rope:3\n"
	anchors := func(versions ...string) (urls []string) {
		for _, v := range versions {
			urls = append(urls, "https://github.com/anchor/v"+v+"/anchor")
		}
		return urls
	}
	const one, two = "registry.k8s.io/kube-one:v1.2.3", "registry.k8s.io/kube-one:v2.0.0"
	for _, c := range []struct {
		args  string
		want  []string
		notes []string
	}{
		{"--kubespray ks", append(anchors("1"), "quay.io/rope/rope:1?", one),
			[]string{"note: ks: inventory/a was not given", "note: ks: inventory/b was not given"}},
		{"--kubespray ks --kubespray-inventory ks/inventory/a", append(anchors("2"), "quay.io/rope/rope:1?", one),
			[]string{"note: ks: inventory/b was not given"}},
		{"--kubespray ks --kubespray-inventory ks/inventory/b/hosts.yaml",
			append(anchors("3"), "quay.io/rope/rope:3?", one),
			[]string{"note: ks: inventory/a was not given", "note: ks/inventory/b/group_vars/all/vault.yml is " +
				"encrypted"}},
		{"--kubespray ks --kubespray-inventory ks/inventory/a --kubespray-inventory ks/inventory/b",
			append(anchors("2", "3"), "quay.io/rope/rope:1?", "quay.io/rope/rope:3?", one), nil},
		{"--kubespray ks --kubespray-inventory outside", append(anchors("4"), "quay.io/rope/rope:1?", one),
			[]string{"note: ks: inventory/a was not given"}},
		{"--kubespray ks --kubespray other --kubespray-inventory ks/inventory/a --kubespray-inventory outside/hosts",
			append(anchors("2", "4"), "quay.io/rope/rope:1?", one,
				two), []string{"note: ks: inventory/b was not given"}},
		{"--kubespray ks --kubespray-inventory outside --kubespray-vars vars.yml",
			append(anchors("5"), "quay.io/rope/rope:1?", one), []string{"inventory/b"}},
		{"--images listed --kubespray ks --kubespray-inventory ks/inventory/b",
			append(anchors("3"), "quay.io/rope/rope:3", one), []string{"inventory/a"}},
	} {
		w, _, notes, err := readLists(t, files, "", strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		slices.Sort(c.want)
		if got := wantedNames(w); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.args, got, c.want)
		}
		for _, n := range c.notes {
			if !strings.Contains(notes, n) {
				t.Errorf("%s: no %q in\n%s", c.args, n, notes)
			}
		}
		if c.notes == nil && strings.Contains(notes, "was not given") {
			t.Errorf("%s: %s", c.args, notes)
		}
	}
	for args, want := range map[string]string{
		"--kubespray-inventory outside": "--kubespray-inventory is for " +
			"--kubespray, which is missing",
		"--kubespray ks --kubespray-inventory ks/inventory/b/group_vars": "give the inventory, which is the " +
			"directory around it: ks/inventory/b",
		"--kubespray ks --kubespray-inventory nowhere":       "no such file",
		"--kubespray ks --kubespray-inventory ks/roles":      "inventory ks/roles/",
		"--kubespray ks --kubespray-inventory ks/galaxy.yml": "is not an inventory",
	} {
		if _, _, _, err := readLists(t, files, "", strings.Fields(args)...); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

// A name that one cluster must have is not optional because it is for another.
func TestWhatOneMustHaveIsNotOptional(t *testing.T) {
	for _, firstOptional := range []bool{true, false} {
		s := newWantedSet(&lists.Wanted{})
		for _, optional := range []bool{firstOptional, !firstOptional} {
			s.image(lists.Image{Repository: "quay.io/x", Tag: "1", Optional: optional})
			s.file(lists.File{URL: "https://x/f", Optional: optional})
			s.chart(lists.Chart{Repo: "https://x", Name: "c", Optional: optional})
		}
		if len(s.Images)+len(s.Files)+len(s.Charts) != 3 || s.Images[0].Optional || s.Files[0].Optional ||
			s.Charts[0].Optional {
			t.Errorf("got %+v", s.Wanted)
		}
	}
}

// The fixture's inventory through a link is the one in the checkout.
func TestKubesprayInventoryThroughALink(t *testing.T) {
	files := smallCheckout("ks", "")
	files["ks/inventory/a/hosts.ini"] = "[kube_node]\nn1 anchor_version=2\n"
	if _, _, _, err := readLists(t, files, "", "--kubespray", "ks"); err != nil { // makes the directory and goes there
		t.Fatal(err)
	}
	if err := os.Symlink("ks/inventory/a", "link"); err != nil {
		t.Fatal(err)
	}
	in, err := openInventory("link")
	if err != nil {
		t.Fatal(err)
	}
	if own, given := inventoriesOf("ks", []string{"ks"}, []inventory{in}); len(own) != 1 ||
		!slices.Equal(given, []string{"inventory/a"}) {
		t.Errorf("%v %v", own, given)
	}
}
