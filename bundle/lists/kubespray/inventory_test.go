package kubespray

import (
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"casemate/bundle/lists/jinja"
)

func mapFS(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return m
}

// plain makes of a value what can be compared.
func plain(v any) any {
	switch v := v.(type) {
	case *source:
		return v.text
	case *hidden:
		return "hidden"
	case []any:
		list := []any{}
		for _, x := range v {
			list = append(list, plain(x))
		}
		return list
	case *jinja.Dict:
		m := map[string]any{}
		for k, x := range v.Values {
			m[k] = plain(x)
		}
		return m
	}
	return v
}

// hostVars are the variables of a host of an inventory.
func hostVars(t *testing.T, in *Inventory, host string, playbooks fs.FS) map[string]any {
	t.Helper()
	h := in.hosts[host]
	if h == nil {
		t.Fatalf("no host %s", host)
	}
	defs, err := in.variablesOf(h, playbooks)
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{}
	for name, d := range defs {
		vars[name] = plain(d.value)
	}
	return vars
}

// Every place of a variable overrides those before it, in Ansible's order.
func TestInventoryPrecedence(t *testing.T) {
	steps := []struct{ file, text string }{
		{"hosts.ini", "[all:vars]\nx=%s\n"},
		{"hosts.ini", "[outer:vars]\nx=%s\n"},
		{"hosts.ini", "[inner:vars]\nx=%s\n"},
		{"group_vars/all/a.yml", "x: %s\n"},
		{"group_vars/all/b", "x: %s\n"},
		{"group_vars/all/b.d/a.yml", ""}, // a directory with an extension is none
		{"group_vars/all/c/z.yaml", "x: %s\n"},
		{"group_vars/all/d.json", `{"x": "%s"}`},
		{"playbooks/group_vars/all.yml", "x: %s\n"},
		{"group_vars/outer.json", `{"x": "%s"}`},
		{"group_vars/inner.yaml", "x: %s\n"},
		{"playbooks/group_vars/outer", "x: %s\n"},
		{"playbooks/group_vars/inner/x.yml", "x: %s\n"},
		{"hosts.ini", "[inner]\nnode x=%s\n"},
		{"host_vars/node.yml", "x: %s\n"},
		{"playbooks/host_vars/node/x", "x: %s\n"},
	}
	for n := len(steps); n >= 0; n-- {
		files := map[string]string{"hosts.ini": "[inner]\nnode\n[outer:children]\ninner\n"}
		want := any(nil)
		for i, s := range steps[:n] {
			value := fmt.Sprintf("step%d", i)
			text := strings.ReplaceAll(s.text, "%s", value)
			if s.file == "hosts.ini" {
				files[s.file] += text
			} else {
				files[s.file] = text + "\n"
			}
			if s.text != "" {
				want = value
			}
		}
		fsys := mapFS(files)
		in, err := ReadInventory("inv", fsys, "hosts.ini")
		if err != nil {
			t.Fatal(err)
		}
		playbooks, err := fs.Sub(fsys, "playbooks")
		if err != nil {
			t.Fatal(err)
		}
		if got := hostVars(t, in, "node", playbooks)["x"]; got != want {
			t.Errorf("with the first %d places: %v, want %v", n, got, want)
		}
	}
}

// Of groups of a host the deeper wins, then the one of higher priority, then the later in the alphabet.
func TestInventoryGroupOrder(t *testing.T) {
	for _, c := range []struct{ name, hosts, want string }{
		{"alphabet", "[b]\nn\n[a]\nn\n[a:vars]\nx=a\n[b:vars]\nx=b\n", "b"},
		{"priority", "[b]\nn\n[a]\nn\n[a:vars]\nx=a\nansible_group_priority=2\n[b:vars]\nx=b\n", "a"},
		{"priority does not beat depth", "[b]\nn\n[c:children]\nb\n[a]\nn\n[a:" +
			"vars]\nx=a\nansible_group_priority=9\n[b:vars]\nx=b\n", "b"},
		{"the longest way counts", "[z]\nn\n[a:children]\nb\nz\n[b:children]\nc\n[c:children]\nz\n[y]\nn\n[x:" +
			"children]\ny\n[y:vars]\nx=y\n[z:vars]\nx=z\n[c:vars]\nx=c\n", "z"},
		{"a child that is declared later", "[all:children]\ntop\n[top:children]\nlow\n[low]\nn\n[top:" +
			"vars]\nx=top\n[low:vars]\nx=low\n", "low"},
		{"a host before all sections", "n x=alone\n[all:vars]\nx=all\n", "alone"},
		{"yaml", "all:\n  hosts: {n: }\n  vars: {x: all}\n  children:\n    b: {hosts: n, vars: {x: b}}\n    a: " +
			"{hosts: {n: {}}, vars: {x: a, ansible_group_priority: '3'}}\n", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, err := ReadInventory("inv", mapFS(map[string]string{"hosts": c.hosts}), "hosts")
			if err != nil {
				t.Fatal(err)
			}
			if got := hostVars(t, in, "n", nil)["x"]; got != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
		})
	}
}

// Values of INI inventories are Python literals, or texts; those of host lines lose a shell's quotes before.
func TestInventoryINIValues(t *testing.T) {
	for _, c := range []struct {
		text string
		want any
	}{
		{"1.20", 1.2}, {"1.2.3", "1.2.3"}, {"v1.2", "v1.2"}, {"007", "007"}, {"0", int64(0)}, {"-5",
			int64(-5)}, {"0x1F", int64(31)}, {"0o17", int64(15)},
		{"1_000", int64(1000)}, {"1e3", 1000.0}, {".5", 0.5}, {"True", true}, {"true", "true"}, {"yes",
			"yes"}, {"None", nil}, {"null", "null"}, {"", ""},
		{"'1.20'", "1.20"}, {`"a\tb\x41\u0041"`, "a\tbAA"}, {`r'\d'`, `\d`}, {"'a' 'b'", "ab"}, {"'open",
			"'open"}, {"[1, 'a', None,]", []any{int64(1), "a", nil}},
		{"(1,)", []any{int64(1)}}, {"(1)", int64(1)}, {"80,443", []any{int64(80), int64(443)}}, {"a,b",
			"a,b"}, {"{'a': {1: True}}", map[string]any{"a": map[string]any{"1": true}}},
		{"{1, 2}", []any{int64(1), int64(2)}}, {"{}", map[string]any{}}, {"{'a': 1, 2}", "{'a': 1, 2}"}, {"1 # one",
			int64(1)}, {"a # one", "a # one"}, {"1+2", "1+2"},
		{"99999999999999999999", "99999999999999999999"}, {"{{ a }}", "{{ a }}"}, {"10.0.0.1", "10.0.0.1"}, {"12abc",
			"12abc"}, {"a = b", "a = b"}, {"- 1", int64(-1)}, {"--1", "--1"},
		{strings.Repeat("[", 200) + strings.Repeat("]", 200),
			strings.Repeat("[", 200) + strings.Repeat("]", 200)}, {`'\U99999999'`, `'\U99999999'`}, {`'\x4'`, `'\x4'`},
	} {
		in, err := ReadInventory("inv", mapFS(map[string]string{"h.ini": "[g]\nn\n[g:vars]\n x = " + c.text + " \n"}),
			"h.ini")
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if got := hostVars(t, in, "n", nil)["x"]; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %#v, want %#v", c.text, got, c.want)
		}
	}
	const line = `n a="1.20" b='"1.20"' c=x#y d="b c" "e=f g" h="it's" i=a\ b j='{"k": [1]}' k="a\"b\c" l= # m=1`
	want := map[string]any{"a": 1.2, "b": "1.20", "c": "x"}
	rest := map[string]any{"a": 1.2, "b": "1.20", "d": "b c", "e": "f g", "h": "it's", "i": "a b",
		"j": map[string]any{"k": []any{int64(1)}}, "k": `a"b\c`, "l": ""}
	for text, want := range map[string]map[string]any{line: want, strings.Replace(line, " c=x#y", "", 1): rest} {
		in, err := ReadInventory("inv", mapFS(map[string]string{"h.ini": text}), "h.ini")
		if err != nil {
			t.Fatal(err)
		}
		if got := hostVars(t, in, "n", nil); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v", text, got)
		}
	}
}

func TestInventoryHosts(t *testing.T) {
	for _, c := range []struct{ pattern, want string }{
		{"node", "node"}, {"node:2222", "node"}, {"node[1:3]", "node1 node2 node3"}, {"n[08:10].x:22",
			"n08.x n09.x n10.x"}, {"[a:c]x", "ax bx cx"}, {"n[1:9:4]", "n1 n5 n9"},
		{"r[1:2]-n[a:b]", "r1-na r1-nb r2-na r2-nb"}, {"10.0.0.[9:11]",
			"10.0.0.9 10.0.0.10 10.0.0.11"}, {"[fd00::1]:22", "fd00::1"}, {"fd00::1", "fd00::1"}, {"n[:2]", "n0 n1 n2"},
		{"n[3:1]", ""},
	} {
		got, err := hostNames(c.pattern)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v %v, want %s", c.pattern, got, err, c.want)
		}
	}
	for pattern, want := range map[string]string{
		"n[1:2": "has no ]", "n[1]": "a range is written", "n[1:2:3:4]": "a range is written", "n[1:]": "has no " +
			"end", "n[01:100]": "the same number of digits", "n[1:a]": "both be numbers",
		"n[c:a]": "ends before it begins", "n[1:9:0]": "the step", "n[1:99999999]": "more than " +
			"20000", "n[1:200][1:200]": "more than 20000", "node:": "ends in a colon",
	} {
		if got, err := hostNames(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v, want %s", pattern, got, err, want)
		}
	}
}

// Which files of a directory are read, and the notes about the others.
func TestInventoryFiles(t *testing.T) {
	const vault = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		file  string
		hosts string // and x of each
		notes []string
	}{
		{"ini alone", map[string]string{"inventory.ini": "[a]\nn x=1"}, "", "n=1", nil},
		{"yaml wins over ini", map[string]string{"inventory.ini": "[a]\nn x=1",
			"hosts.yaml": "a: {hosts: {m: {x: 2}}}"}, "", "m=2", []string{"inv/inventory.ini is not read"}},
		{"the sample's ini says nothing", map[string]string{"inventory.ini": "[a]\n# n x=1",
			"hosts.yaml": "a: {hosts: {m: {x: 2}}}"}, "", "m=2", nil},
		{"the file itself", map[string]string{"inventory.ini": "[a]\nn x=1", "hosts.yaml": "a: {hosts: {m: {x: 2}}}"},
			"inventory.ini", "n=1", nil},
		{"several files", map[string]string{"01": "[a]\nn x=1", "02": "[b]\nn x=2\n[a:vars]\ny=1",
			"sub/more.yml": "b: {hosts: {o: {x: 3}}}", "old.bak": "[a]\nz", ".hidden": "z", "notes.md": "# " +
				"[a", "k~": "z"}, "", "n=2 o=3", nil},
		{"json with tabs", map[string]string{"hosts.json": "{\n\t\"a\": {\n\t\t\"hosts\": {\"n\": {\"x\": " +
			"\"1.10\"}}\n\t}\n}"}, "", "n=1.10", nil},
		{"ini in a file called yml", map[string]string{"hosts.yml": "[a]\nn x=1"}, "", "n=1", nil},
		{"no extension", map[string]string{"hosts": "---\na: {hosts: n, vars: {x: 1}}"}, "", "n=1", nil},
		{"other extension", map[string]string{"prod.conf": "[a]\nn x=1"}, "", "n=1", nil},
		{"a byte order mark", map[string]string{"hosts": "\ufeff[a]\r\nn x=1\r\n"}, "", "n=1", nil},
		{"a manifest in it", map[string]string{"hosts": "n x=1",
			"patches/kubelet.yaml": "kind: Pod\nmetadata: {name: x}"}, "", "n=1", []string{"kind is not a " +
			"group", "the group metadata has name"}},
		{"merge keys", map[string]string{"hosts.yml": "a:\n  vars: &v {x: 1, y: 2}\nb:\n  hosts: {n: }\n  vars: " +
			"{<<: *v, y: 3}"}, "", "n=1", nil},
		{"both a file and a directory", map[string]string{"hosts": "n", "group_vars/all/a.yml": "x: 1",
			"group_vars/all.yml": "x: 2"}, "", "n=1", []string{"inv/group_vars/all.yml is not read: Ansible " +
			"uses inv/group_vars/all"}},
		{"hidden, backups, other kinds", map[string]string{"hosts": "n", "group_vars/all/a.yml": "x: 1",
			"group_vars/all/.b.yml": "x: 2", "group_vars/all/c.yml~": "x: 2", "group_vars/all/d.txt": "x: " +
				"2", "group_vars/all/e.yml.bak": "x: 2"}, "", "n=1", nil},
		{"an encrypted file", map[string]string{"hosts": "n x=1", "group_vars/all/vault.yml": vault}, "", "n=1",
			[]string{"inv/group_vars/all/vault.yml is encrypted"}},
		{"encrypted hosts", map[string]string{"hosts": "n x=1", "more": vault}, "", "n=1",
			[]string{"inv/more is encrypted"}},
		{"a script", map[string]string{"hosts": "n x=1", "ec2": "#!/usr/bin/python\n"}, "", "n=1",
			[]string{"inv/ec2 is a script"}},
		{"a plugin", map[string]string{"hosts": "n x=1", "aws.yml": "plugin: amazon.aws.aws_ec2\nregions: [x]"}, "",
			"n=1", []string{"inv/aws.yml is the configuration of the inventory plugin amazon.aws.aws_ec2"}},
		{"toml", map[string]string{"hosts": "n x=1", "h.toml": "[a]\nhosts=1"}, "", "n=1",
			[]string{"inv/h.toml is TOML"}},
		{"what is broken beside what is not", map[string]string{"hosts": "n x=1", "broken.yml": "a: {hosts: ["}, "",
			"n=1", []string{"broken.yml", "the rest of the inventory is read"}},
		{"group_vars too deep", map[string]string{"hosts": "n x=1", "dc1/hosts": "m x=2",
			"dc1/group_vars/all.yml": "x: 3"}, "", "m=2 n=1", []string{"inv/dc1/group_vars is not read"}},
		{"names that are paths", map[string]string{"hosts": "../n x=1\n/srv/chroot x=2\n", "n.yml": "x: 3"}, "hosts",
			"../n=1 /srv/chroot=2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, err := ReadInventory("inv", mapFS(c.files), c.file)
			if err != nil {
				t.Fatal(err)
			}
			var hosts []string
			for _, name := range slices.Sorted(maps.Keys(in.hosts)) {
				hosts = append(hosts, fmt.Sprintf("%s=%v", name, hostVars(t, in, name, nil)["x"]))
			}
			if got := strings.Join(hosts, " "); got != c.hosts {
				t.Errorf("hosts %s, want %s", got, c.hosts)
			}
			notes := strings.Join(in.Notes(), "\n")
			for _, want := range c.notes {
				if !strings.Contains(notes, want) {
					t.Errorf("no %q in\n%s", want, notes)
				}
			}
			if len(c.notes) == 0 && notes != "" {
				t.Errorf("notes: %s", notes)
			}
		})
	}
}

// What cannot be understood is an error that names file and line.
func TestInventoryErrors(t *testing.T) {
	deep := "all:\n"
	for i := range 40 {
		deep += strings.Repeat("  ", i+1) + "children:\n" + strings.Repeat("  ", i+1) + fmt.Sprintf(" g%d:\n", i)
	}
	for _, c := range []struct{ name, file, text, want string }{
		{"section", "h.ini", "[a b]\n", "inv/h.ini:1: \"[a b]\" is not a section"},
		{"kind", "h.ini", "\n[a:var]\n", "inv/h.ini:2: the section [a:var] has an unknown kind"},
		{"variables of nobody", "h.ini", "n\n[a:vars]\nx=1\n",
			"inv/h.ini:2: [a:vars] sets variables of a group, but there is no [a]"},
		{"child that is none", "h.ini", "[a:children]\nb\n", "inv/h.ini:2: [a:children] names the group b, but " +
			"there is no [b]"},
		{"no variable", "h.ini", "[a]\nn x\n", `inv/h.ini:2: want NAME=VALUE after the host n, got "x"`},
		{"no value", "h.ini", "[a]\nn\n[a:vars]\nx\n", `inv/h.ini:4: want NAME=VALUE, got "x"`},
		{"quotes", "h.ini", "n x='a\n", "inv/h.ini:1: a quotation mark (') is not closed"},
		{"range", "h.ini", "n[2:1\n", "inv/h.ini:1: the range of the host"},
		{"hosts", "h.ini", "a[1:15000]\nb[1:15000]\n", "inv/h.ini:2: an inventory has at most 20000 hosts"},
		{"circle", "h.ini", "[a:children]\nb\n[b:children]\na\n", "is its own descendant"},
		{"itself", "h.ini", "[a:children]\na\n", "inv/h.ini:2: the group a cannot be its own child"},
		{"all below another", "h.ini", "[a:children]\nall\n", "the group all cannot be a child of a"},
		{"yaml circle", "h.yml", "a: {children: {b: {children: {a: }}}}\n", "is its own descendant"},
		{"yaml syntax", "h.yml", "a: {hosts: [\n", "inventory inv/h.yml: yaml: "},
		{"a list of hosts", "h.yml", "a:\n  hosts: [n]\n", "inv/h.yml:2: hosts of the group a must be a mapping"},
		{"text as variables", "h.yml", "a:\n  hosts:\n    n: x\n",
			"inv/h.yml:3: the variables of the host n must be a mapping"},
		{"yaml depth", "h.yml", deep, "groups are nested deeper than 20"},
		{"nothing", "h.ini", "# nothing\n", "inv/h.ini is not an inventory: it names no host, and there are no " +
			"group_vars"},
		{"binary", "h.ini", "a\x00b", "inv/h.ini: the file is not UTF-8 text"},
		{"alias to itself", "h.yml", "a: &a\n  vars: {x: [*a]}\n", "nested too deep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadInventory("inv", mapFS(map[string]string{c.file: c.text}), c.file)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want …%s…", err, c.want)
			}
		})
	}
	if _, err := ReadInventory("inv", mapFS(map[string]string{"a.ini": "n"}), "b.ini"); err == nil ||
		!strings.Contains(err.Error(), "inv/b.ini") {
		t.Errorf("a file that is not there: %v", err)
	}
	in, err := ReadInventory("inv", mapFS(map[string]string{"h": "n", "group_vars/all.yml": "- x\n"}), "h")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.variablesOf(in.hosts["n"], nil); err == nil ||
		!strings.Contains(err.Error(), "inv/group_vars/all.yml:1: want variables") {
		t.Errorf("variables that are none: %v", err)
	}
}

// For any content of the files, reading ends, without a panic and within the bounds.
func FuzzInventory(f *testing.F) {
	for _, s := range []string{"[a]\nn[1:3] x=1 y='b c'\n[b:children]\na\n[b:vars]\nz={'k': [1, (2,)]}\n",
		"all: {hosts: {n: {x: 1}}, children: {a: {vars: {<<: {y: 2}}}}}",
		"a: &a {children: {b: {children: *a}}}", "[a:children]\nb\n[b:children]\na\n", "plugin: " +
			"x", "$ANSIBLE_VAULT;1.1", "#!/bin/sh", "n[1:9:2][a:f]:22 k=\"\\", "{\"a\": {\"hosts\": \"n\"}}",
		"[kube-node]\nn x=\"{{ y }}\"\n[k8s_cluster:vars]\nansible_group_priority=3"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, hosts, vars string) {
		for _, name := range []string{"h.ini", "h.yml", "h"} {
			in, err := ReadInventory("inv", mapFS(map[string]string{name: hosts, "group_vars/all": vars,
				"host_vars/n.yml": vars}), name)
			if err != nil {
				continue
			}
			if len(in.hosts) > maxInventoryHosts {
				t.Fatalf("%d hosts", len(in.hosts))
			}
			n := 0
			for range in.clusterHosts(nil) {
				if n++; n == 3 {
					break
				}
			}
		}
	})
}
