package kubespray

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// overlay is the checkout in testdata with more files.
func overlay(t *testing.T, files map[string]string) fstest.MapFS {
	t.Helper()
	m := mapFS(files)
	err := fs.WalkDir(os.DirFS("testdata/kubespray"), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(os.DirFS("testdata/kubespray"), name)
		m[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// withFiles are the lists of the checkout in testdata with an inventory of these files.
func withFiles(t *testing.T, opt Options, files map[string]string) (*Lists, *Inventory, error) {
	t.Helper()
	in, err := ReadInventory("inv", mapFS(files), "")
	if err != nil {
		t.Fatal(err)
	}
	opt.Inventory = in
	k, err := Read(os.DirFS("testdata/kubespray"), opt)
	return k, in, err
}

// changes are the names that one has and the other has not, with + and -, sorted.
func changes(from, to *Lists) []string {
	var list []string
	for _, n := range missingFrom(to, from) {
		list = append(list, "+"+n)
	}
	for _, n := range missingFrom(from, to) {
		list = append(list, "-"+n)
	}
	slices.Sort(list)
	return list
}

// A cluster needs the content that its inventory selects, for each of its hosts.
func TestKubesprayInventory(t *testing.T) {
	plain, err := Read(os.DirFS("testdata/kubespray"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	const one, rope = "[kube_control_plane]\nn1 ip=10.0.0.1 # first\n[kube_node]\nn2 " +
		"ip=10.0.0.2\n", "https://files.example/rope/rope-2.10.0-x86_64.tar.gz"
	old := []string{"+https://files.example/rope/rope-2.9.0-x86_64.tar.gz", "-" + rope}
	for _, c := range []struct {
		name  string
		files map[string]string
		vars  string
		want  []string
		note  string
	}{
		{"nothing of it", map[string]string{"hosts": one}, "", nil, ""},
		{"for all", map[string]string{"hosts": one, "group_vars/all/all.yml": "buoy_image_tag: '2'\n"}, "",
			[]string{"+docker.io/library/buoy:2", "-docker.io/library/buoy:1.28-alpine",
				"-docker.io/library/buoy:from-the-role"}, ""},
		{"for the cluster, which nobody declares", map[string]string{"hosts": one,
			"group_vars/k8s_cluster/x.yml": "beacon_version: " +
				"1.6\n"}, "", []string{"+registry.k8s.io/beacon:1.6", "-registry.k8s.io/beacon/beacon:v1.8.1"}, ""},
		{"groups with old names", map[string]string{"hosts": "[kube-master]\nn1\n",
			"group_vars/kube_control_plane.yml": "beacon_version: " +
				"1.6\n"}, "", []string{"+registry.k8s.io/beacon:1.6", "-registry.k8s.io/beacon/beacon:v1.8.1"}, ""},
		{"a host that is not in the cluster", map[string]string{"hosts": one + "[other]\nn3 beacon_version=1.6\n"},
			"", nil, ""},
		{"one host of two", map[string]string{"hosts": one, "host_vars/n2.yml": "beacon_version: 1.6\n"}, "",
			[]string{"+registry.k8s.io/beacon:1.6"}, "hosts differ: n2 needs what the hosts before it do not need: " +
				"registry.k8s.io/beacon:1.6"},
		{"the hosts of etcd", map[string]string{"hosts": one + "[etcd]\nn4 beacon_version=1.6\n"}, "",
			[]string{"+registry.k8s.io/beacon:1.6"}, "n4 needs"},
		{"a text and a number", map[string]string{"hosts": one +
			"[kube_node:vars]\nbuoy_image_tag=\"1.20\"\n[kube_control_plane:vars]\nbuoy_image_tag=1.20\n"}, "",
			[]string{"+docker.io/library/buoy:1.2", "+docker.io/library/buoy:1.20",
				"-docker.io/library/buoy:1.28-alpine", "-docker.io/library/buoy:from-the-role"}, "hosts differ: n2"},
		{"templates", map[string]string{"hosts": one, "group_vars/all.yml": "mine: '6'\nbeacon_version: \"1.{{ " +
			"mine }}\"\n"}, "", []string{"+registry.k8s.io/beacon:1.6", "-registry.k8s.io/beacon/beacon:v1.8.1"}, ""},
		{"what Ansible sets", map[string]string{"hosts": one,
			"group_vars/all.yml": "beacon_version: \"{{ '1.6' if inventory_hostname in groups['kube_node'] and " +
				"'k8s_cluster' in group_names else '1.8.1' }}\"\n"}, "", []string{"+registry.k8s.io/beacon:1.6"},
			"n2 needs"},
		{"vars of roles win over it", map[string]string{"hosts": one,
			"group_vars/all.yml": "pause_by_series: {'1.36': 5}\nansible_architecture: s390x\n"}, "", nil, ""},
		{"defaults of roles do not", map[string]string{"hosts": one, "group_vars/all.yml": "lantern_tag: '7'\n"}, "",
			[]string{"+docker.io/lantern/plain:7", "+docker.io/library/busybox:7", "-docker.io/lantern/plain:latest",
				"-docker.io/library/busybox:latest"}, ""},
		{"variables besides win over it", map[string]string{"hosts": one,
			"host_vars/n2.yml": "beacon_version: 1.6\n"}, "beacon_version: " +
			"1.5\n", []string{"+registry.k8s.io/beacon:1.5", "-registry.k8s.io/beacon/beacon:v1.8.1"}, ""},
		{"what one hosts forgets another lists", map[string]string{"hosts": one,
			"host_vars/n2.yml": "extra_install_url: " +
				"https://files.example/knot-1.36.5-linux-amd64\nlantern_install_url: \"{{ " +
				"rope_download_url }}\"\n"}, "", nil, ""},
		{"no host", map[string]string{"hosts": "[kube_node]\n#n1\n", "group_vars/etcd.yml": "beacon_version: 1.6\n",
			"group_vars/gpu/x.yml": "buoy_image_tag: gpu\n", "host_vars/n9.yml": "buoy_image_tag: n9\n"}, "",
			[]string{"+docker.io/library/buoy:gpu", "+docker.io/library/buoy:n9", "+registry.k8s.io/beacon:1.6"}, ""},
		{"hosts from a script", map[string]string{"hosts": one, "ec2.sh": "#!/bin/sh\n",
			"group_vars/gpu.yml": "buoy_image_tag: gpu\n"}, "", []string{"+docker.io/library/buoy:gpu"}, "a " +
			"host of gpu needs"},
		{"another version of everything", map[string]string{"hosts": one,
			"group_vars/all.yml": "rope_version: 2.9.0\n"}, "",
			append(slices.Clone(old), "+docker.io/harbour/store:v3.9", "-docker.io/harbour/store:v3.10"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := Options{}
			if c.vars != "" {
				opt.Vars = []Vars{{"vars.yml", strings.NewReader(c.vars)}}
			}
			k, in, err := withFiles(t, opt, c.files)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(c.want)
			sameList(t, "changes", changes(plain, k), c.want)
			if notes := strings.Join(append(k.Notes, in.Notes()...), "\n"); !strings.Contains(notes, c.note) {
				t.Errorf("no %q in\n%s", c.note, notes)
			}
		})
	}
	if k, _, err := withFiles(t, Options{}, map[string]string{"hosts": one,
		"host_vars/n2.yml": "rope_version: 2.9.0\n"}); err != nil {
		t.Error(err)
	} else if f := k.Files[len(k.Files)-1]; f.Digest != sum(32) {
		t.Errorf("a file of one host: %+v", f)
	}
}

// Many hosts are one computation as long as they do not want different things, and many different ones are refused.
func TestKubesprayInventoryOfManyHosts(t *testing.T) {
	var alike, different strings.Builder
	alike.WriteString("[kube_node]\n")
	different.WriteString("[kube_node]\n")
	for i := range maxVariants + 1 {
		fmt.Fprintf(&alike, "n%d ip=10.0.0.%d node_labels=\"{'n': '%d'}\"\n", i, i, i)
		fmt.Fprintf(&different, "n%d buoy_image_tag=v%d\n", i, i)
	}
	k, _, err := withFiles(t, Options{}, map[string]string{"hosts": alike.String()})
	if err != nil || strings.Contains(strings.Join(k.Notes, "\n"), "hosts differ") {
		t.Errorf("%v", err)
	}
	_, _, err = withFiles(t, Options{}, map[string]string{"hosts": different.String()})
	if err == nil ||
		!strings.Contains(err.Error(), "more than 200 hosts of the inventory have different lists, n200 among them") {
		t.Errorf("got %v", err)
	}
}

// Variables beside the playbooks of the checkout count too.
func TestKubesprayInventoryBesidePlaybooks(t *testing.T) {
	in, err := ReadInventory("inv", mapFS(map[string]string{"hosts": "[kube_node]\nn1\n",
		"group_vars/all.yml": "beacon_version: 1.5\n"}), "hosts")
	if err != nil {
		t.Fatal(err)
	}
	k, err := Read(overlay(t, map[string]string{"playbooks/group_vars/all/x.yml": "beacon_version: 1.6\n"}),
		Options{Inventory: in})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(refsOf(k.Images), "registry.k8s.io/beacon:1.6") {
		t.Errorf("images %q", refsOf(k.Images))
	}
}

// What has a value that only Ansible can read is never taken for the checkout's default: it is named, with the names
// for which it decides.
func TestKubesprayInventoryUnreadable(t *testing.T) {
	for _, c := range []struct{ vars, why string }{
		{"beacon_version: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n",
			"inv/group_vars/all.yml:1: the variable beacon_version cannot be evaluated: it is encrypted with " +
				"ansible-vault"},
		{"beacon_version: \"{{ secret | default('1.7') }}\"\nsecret: !vault x\n",
			"inv/group_vars/all.yml:2: the variable secret cannot be evaluated: it is encrypted with ansible-vault"},
		{"beacon_version: \"{{ secret.b[0] | d('1.7') }}\"\nsecret: {b: [!vault x]}\n",
			"the variable secret cannot be evaluated: it is encrypted with ansible-vault"},
		{"beacon_version: \"{{ secret if secret is defined else '1.7' }}\"\nsecret: !vault x\n",
			"the variable secret cannot be evaluated: it is encrypted with ansible-vault"},
		{"beacon_version: \"{{ lookup('env', 'BEACON') | default('1.7', true) }}\"\n",
			"the variable beacon_version cannot be evaluated: the environment variable BEACON is known only " +
				"where Ansible runs"},
		{"beacon_version: \"{{ lookup('file', '/x') | default('1.7') }}\"\n", "lookup of file is not supported"},
		{"beacon_version: \"{{ lookup('community.hashi_vault.hashi_vault', 'secret=a', 'b') | default('1.7') }}\"\n",
			"lookup is supported with two arguments only"},
		{"beacon_version: \"{{ query('file', '/x') | first | default('1.7') }}\"\n",
			"the function query is not supported"},
		{"beacon_version: \"{{ '1' | community.general.no_such | default('1.7') }}\"\n",
			"beacon_version cannot be evaluated"},
		{"beacon_version: \"{{ by[ansible_distribution] | default('1.7') }}\"\nby: {}\n",
			"ansible_distribution is known only where Ansible runs"},
		{"beacon_version: \"{{ ansible_facts['distribution'] | default('1.7') }}\"\n",
			"the fact distribution of a node is known only where Ansible runs"},
		{"beacon_version: \"{{ ansible_facts.get('distribution', '1.7') }}\"\n",
			"the fact distribution of a node is known only where Ansible runs"},
		{"beacon_version: \"{{ hostvars['n1'].v | default('1.7') }}\"\n", "hostvars is known only where Ansible runs"},
		{"beacon_version: \"{% for x in y %}{{ x }}{% endfor %}\"\n", "{% for %} is not supported"},
		{"beacon_version: \"{{ nobody }}\"\n", "the variable beacon_version cannot be evaluated: nobody is not " +
			"defined"},
	} {
		_, _, err := withFiles(t, Options{}, map[string]string{"hosts": "[kube_node]\nn1\n",
			"group_vars/all.yml": c.vars})
		for _, want := range []string{c.why, "it replaces the default " +
			"registry.k8s.io/beacon/beacon:v1.8.1\n", "give its value in a file with --kubespray-vars"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want …%s…", c.vars, err, want)
			}
		}
	}
	// One variable is one error, with all that it decides.
	_, _, err := withFiles(t, Options{}, map[string]string{"hosts": "[kube_node]\nn1\n",
		"group_vars/all.yml": "docker_image_repo: !vault x\n"})
	if err == nil || strings.Count(err.Error(), "docker_image_repo") != 1 ||
		!strings.Contains(err.Error(), "replaces the default docker.io/harbour/store:v3.10, "+
			"docker.io/library/buoy:1.28-alpine\n") {
		t.Errorf("got %v", err)
	}
	// Unused variables do no harm, and optional ones cause a note.
	k, _, err := withFiles(t, Options{}, map[string]string{"hosts": "[kube_node]\nn1\n",
		"group_vars/all.yml": "password: !vault x\nkey: \"{{ lookup('password', 'x') }}\"\n" +
			"lantern_install_url: !vault x\nlantern_chart_version: \"{{ lookup('env', 'X') }}\"\nansible_host_x: " +
			"\"{{ ansible_host | default('x') }}\"\n"})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(k.Notes, "\n")
	for _, want := range []string{"cannot find out what lantern_install_url is",
		"cannot find out what lantern_chart_version is"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in\n%s", want, notes)
		}
	}
	// The checkout's own templates are for a machine without an environment and without facts.
	if _, err := Read(overlay(t, map[string]string{"roles/kubespray_defaults/defaults/main/z.yml": "beacon_version: " +
		"\"{{ lookup('env', 'X') or ansible_distribution | default('1.7') }}\"\n"}),
		Options{}); err != nil {
		t.Error(err)
	}
}

// The bastions' own names, as their mirror mode writes them into an inventory, denote what they mirror; every other
// mirror is an ordinary name.
func TestKubesprayInventoryMirrors(t *testing.T) {
	plain, err := Read(os.DirFS("testdata/kubespray"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	mirror := func(domain string) string {
		return "registry_host: \"registry." + domain + "\"\nfiles_repo: " +
			"\"https://files." + domain + "\"\nkube_image_repo: \"{{ registry_host }}/registry.k8s.io\"\n" +
			"docker_image_repo: \"{{ registry_host }}/docker.io\"\ncilium_operator_image_repo: \"{{ " +
			"registry_host }}/quay.io/cilium/operator\"\n" +
			"lantern_light_container: \"{{ registry_host }}/ghcr.io/lantern/light@sha256:" + strings.Repeat("0",
			63) + "7\"\nsite_url: \"{{ files_repo }}/files.example\"\n" +
			"lantern_repository_url: \"{{ files_repo }}/charts.example/lantern\"\n"
	}
	const other = "harbor.corp.example"
	for _, c := range []struct {
		name, vars, domain string
		want               []string
		note               string
	}{
		{"the default domain", mirror("casemate.internal"), "", nil,
			"files.casemate.internal is taken for the bastions' own name"},
		{"another domain", mirror("gap.bank.example"), "", nil,
			"registry.gap.bank.example is taken for the bastions' own name"},
		{"the domain that is known", mirror("gap.bank.example"), "gap.bank.example", nil, ""},
		{"a port", strings.ReplaceAll(mirror("casemate.internal"), "internal\"", "internal:443\""), "", nil, ""},
		{"plain HTTP", strings.ReplaceAll(mirror("casemate.internal"), "https:", "http:"), "", nil, ""},
		{"without the variables for the hosts", "kube_image_repo: registry.gap.example/registry.k8s.io\n", "", nil,
			"registry.gap.example is taken"},
		{"the names of a node and of the domain", "kube_image_repo: n1.gap.example/registry.k8s.io\nsite_url: " +
			"https://gap.example/files/files.example\n", "gap.example", nil, ""},
		{"no origin, as the sample writes it", "registry_host: registry.gap.example\nfiles_repo: " +
			"https://files.gap.example\nkube_image_repo: \"{{ registry_host }}\"\n" +
			"buoy_image_repo: \"{{ registry_host }}/library/buoy\"\nanchor_download_url: \"{{ files_repo " +
			"}}/anchor\"\n", "", nil, ""},
		{"no origin, and a version", "registry_host: registry.casemate.internal\nkube_image_repo: \"{{ " +
			"registry_host }}\"\nbeacon_version: 1.6\n", "",
			[]string{"+registry.k8s.io/beacon:1.6", "-registry.k8s.io/beacon/beacon:v1.8.1"}, ""},
		{"another domain than the one that is known", "kube_image_repo: registry.other.example/registry.k8s.io\n",
			"gap.example",
			[]string{"+registry.other.example/registry.k8s.io/beacon/beacon:v1.8.1",
				"+registry.other.example/registry.k8s.io/kube-one:v1.36.2", "+registry.other.example/registry.k8s.io/" +
					"kube-two:v1.36.2",
				"+registry.other.example/registry.k8s.io/pause:3.11", "-registry.k8s.io/beacon/" +
					"beacon:v1.8.1", "-registry.k8s.io/kube-one:v1.36.2", "-registry.k8s.io/kube-two:" +
					"v1.36.2", "-registry.k8s.io/pause:3.11"},
			"registry.other.example: 4; they are listed under that name, and fetched there; if these are bastions " +
				"of a domain of their own, it is not gap.example"},
		{"somebody's registry", "cilium_operator_image_repo: " + other + "/quay.io/cilium/operator\n", "",
			[]string{"+" + other + "/quay.io/cilium/operator-generic:v1.19.3",
				"+" + other + "/quay.io/cilium/operator:v1.19.3", "-quay.io/cilium/operator-generic:" +
					"v1.19.3", "-quay.io/cilium/operator:v1.19.3"},
			other + ": 1; they are listed under that name"},
		{"a public registry with such a name", "cilium_operator_image_repo: " +
			"registry.gitlab.com/some.group/operator\n", "",
			[]string{"+registry.gitlab.com/some.group/operator-generic:v1.19.3",
				"+registry.gitlab.com/some.group/operator:v1.19.3", "-quay.io/cilium/operator-generic:" +
					"v1.19.3", "-quay.io/cilium/operator:v1.19.3"}, ""},
		{"only somebody's registry without an origin", "registry_host: registry.corp.example\nbuoy_image_repo: " +
			"\"{{ registry_host }}/buoy\"\n", "",
			[]string{"+registry.corp.example/buoy:1.28-alpine", "+registry.corp.example/buoy:from-the-role",
				"-docker.io/library/buoy:1.28-alpine", "-docker.io/library/buoy:from-the-role"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkout := overlay(t, map[string]string{"roles/addons/more/defaults/main.yml": "quay_image_repo: " +
				"quay.io\nghcr_image_repo: ghcr.io\ncharts_url: https://charts.example\n"})
			for _, given := range []string{"inventory", "variables"} {
				opt := Options{Domain: c.domain}
				if given == "variables" {
					opt.Vars = []Vars{{"offline.yml", strings.NewReader(c.vars)}}
				} else if opt.Inventory, err = ReadInventory("inv",
					mapFS(map[string]string{"hosts": "[kube_node]\nn1\n", "group_vars/all/offline.yml": c.vars}),
					""); err != nil {
					t.Fatal(err)
				}
				k, err := Read(checkout, opt)
				if err != nil {
					t.Fatal(err)
				}
				sameList(t, given, changes(plain, k), c.want)
				if notes := strings.Join(k.Notes, "\n"); !strings.Contains(notes, c.note) {
					t.Errorf("no %q in\n%s", c.note, notes)
				}
				for i, f := range k.Files {
					if len(c.want) == 0 && f.Digest != plain.Files[i].Digest {
						t.Errorf("%s: the checksum of %s is %q, want %q", given, f.URL, f.Digest, plain.Files[i].Digest)
					}
				}
			}
		})
	}
	// As they are, for who looks where things come from.
	k, err := Read(os.DirFS("testdata/kubespray"), Options{Mirrors: true,
		Vars: []Vars{{"x", strings.NewReader(mirror("casemate.internal"))}}})
	if err != nil || !slices.Contains(refsOf(k.Images), "registry.casemate.internal/registry.k8s.io/pause:3.11") {
		t.Errorf("%v %v", refsOf(k.Images), err)
	}
}

// Inventories in the checkout that were not given are noted, those that Kubespray ships only if they were changed.
func TestKubesprayInventoriesNotGiven(t *testing.T) {
	sample := map[string]string{"inventory/sample/inventory.ini": "[kube_node]\n# n1\n",
		"inventory/sample/group_vars/all/all.yml": "bin_dir: /usr/local/bin\n# beacon_version: 1.6\n",
		"inventory/local/hosts.ini":               "[kube_node]\nn1\n"}
	mine := map[string]string{"inventory/mine/hosts.yaml": "kube_node: {hosts: {n1: }}\n",
		"inventory/mine/group_vars/all.yml": "beacon_version: 1.6\n"}
	for _, c := range []struct {
		name  string
		files map[string]string
		given []string
		notes []string
	}{
		{"none", map[string]string{}, nil, nil},
		{"as it is shipped", sample, nil, nil},
		{"mine", mine, nil, []string{"inventory/mine was not given with --kubespray-inventory; with it the " +
			"lists have 1 more, such as registry.k8s.io/beacon:1.6"}},
		{"mine, given", mine, []string{"inventory/mine"}, nil},
		{"mine, of no consequence", map[string]string{"inventory/mine/hosts.ini": "[kube_node]\nn1\n"}, nil,
			[]string{"inventory/mine was not given with --kubespray-inventory; with it all names are the same"}},
		{"a changed sample", map[string]string{"inventory/sample/group_vars/all/all.yml": "beacon_version: 1.6\n"},
			nil, []string{"inventory/sample was not given with --kubespray-inventory; with it the lists have 1 more"}},
		{"a file", map[string]string{"inventory/prod.yml": "kube_node: {hosts: {n1: {beacon_version: 1.6}}}\n"}, nil,
			[]string{"inventory/prod.yml was not given"}},
		{"one that cannot be taken", map[string]string{"inventory/mine/hosts.yaml": "a: ["}, nil,
			[]string{"inventory/mine was not given with --kubespray-inventory; it cannot be read as it is: "}},
		{"one without anything in it", map[string]string{"inventory/mine/hosts.ini": "# nothing\n"}, nil, nil},
		{"what is none", map[string]string{"inventory/credentials/x": "x", "inventory/mine/artifacts/admin.conf": "x",
			"inventory/notes.txt": "x"}, nil, nil},
	} {
		k, err := Read(overlay(t, maps.Clone(c.files)), Options{Given: c.given})
		if err != nil {
			t.Fatal(err)
		}
		var notes []string
		for _, n := range k.Notes {
			if strings.Contains(n, "was not given") {
				notes = append(notes, n)
			}
		}
		if len(notes) != len(c.notes) {
			t.Errorf("%s: %q", c.name, notes)
		}
		for i := range min(len(notes), len(c.notes)) {
			if !strings.HasPrefix(notes[i], c.notes[i]) {
				t.Errorf("%s: %q, want %q", c.name, notes[i], c.notes[i])
			}
		}
	}
}

// Of a real checkout (CASEMATE_KUBESPRAY) the sample inventory changes nothing, and is not noted. With
// CASEMATE_KUBESPRAY_INVENTORY and CASEMATE_KUBESPRAY_LISTS the lists are compared with those that its own script made
// with that inventory.
func TestKubesprayCheckoutInventory(t *testing.T) {
	dir := os.Getenv("CASEMATE_KUBESPRAY")
	if dir == "" {
		t.Skip("CASEMATE_KUBESPRAY names no checkout")
	}
	plain, err := Read(os.DirFS(dir), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(plain.Notes, "\n"); strings.Contains(notes, "inventory/sample") ||
		strings.Contains(notes, "inventory/local") {
		t.Errorf("notes: %s", notes)
	}
	read := func(dir string) *Lists {
		in, err := ReadInventory(dir, os.DirFS(dir), "")
		if err != nil {
			t.Fatal(err)
		}
		k, err := Read(os.DirFS(os.Getenv("CASEMATE_KUBESPRAY")), Options{Inventory: in})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range append(k.Notes, in.Notes()...) {
			t.Log(n)
		}
		return k
	}
	for _, name := range []string{"sample", "local"} {
		sameList(t, name, changes(plain, read(filepath.Join(dir, "inventory", name))), nil)
	}
	mine, lists := os.Getenv("CASEMATE_KUBESPRAY_INVENTORY"), os.Getenv("CASEMATE_KUBESPRAY_LISTS")
	if mine == "" || lists == "" {
		return
	}
	k := read(mine)
	var files []string
	for _, f := range k.Files {
		files = append(files, f.URL)
	}
	compareList(t, filepath.Join(lists, "images.list"), refsOf(k.Images))
	compareList(t, filepath.Join(lists, "files.list"), files)
}
