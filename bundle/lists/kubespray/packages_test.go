package kubespray

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// checkoutWith is the checkout in testdata with more files.
func checkoutWith(t *testing.T, more map[string]string) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	base := os.DirFS("testdata/kubespray")
	err := fs.WalkDir(base, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = fs.ReadFile(base, name)
			all[name] = &fstest.MapFile{Data: b}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range more {
		all[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return all
}

// conditional has the form of v2.26 and later: one dictionary with conditions.
var conditional = map[string]string{
	"roles/system_packages/defaults/main.yml": "proxy: ipvs\nntp: false\n",
	"roles/system_packages/vars/main.yml": `
pkgs:
  rsync: []
  apparmor:
    - "{{ ansible_os_family == 'Debian' }}"
  gnupg:
    - "{{ ansible_distribution == 'Debian' }}"
    - "{{ ansible_distribution_major_version in ['11', '12'] }}"
    - "{{ 'k8s_cluster' in group_names }}"
  iproute:
    - "{{ ansible_facts['os_family'] == 'RedHat' }}"
  ipvsadm:
    - "{{ proxy == 'ipvs' }}"
  nftables:
    - "{{ proxy == 'nftables' }}"
  chrony:
    - "{{ ntp }}"
  ping:
    - "{{ main_access_ip is defined and nobody_knows > 3 }}"
  oldcrypt:
    - "{{ ansible_os_family == 'Suse' and ansible_distribution_version is version('15.4', '<') }}"
`,
	"roles/system_packages/tasks/main.yml": `
- name: Manage packages
  package:
    name: "{{ item.packages }}"
    state: "{{ item.state }}"
  loop:
    - packages: "{{ pkgs | dict2items | map(attribute='key') }}"
      state: present
- block:
    - name: epel
      ansible.builtin.package: {name: epel-release, state: present}
  when: ansible_os_family == "RedHat"
`,
	"roles/container-engine/docker/vars/debian.yml": "info:\n  pkgs:\n  - docker=5:28.1-1~debian." +
		"{{ ansible_facts.distribution_major_version }}\n",
	"roles/container-engine/docker/vars/redhat-9.yml": "info: {pkgs: ['docker-3:28.1-1.el9']}\n",
	"roles/container-engine/docker/vars/redhat.yml":   "info: {pkgs: [docker-old]}\n",
	"roles/container-engine/docker/tasks/main.yml": `
- package: {name: "{{ info.pkgs }}", state: present}
  when: info is defined
- package: {name: podman, state: absent}
- apt: {pkg: [one, two]}
  when:
    - ansible_facts['pkg_mgr'] == 'apt'
    - unknown_thing
- dnf: {name: "{{ item }}"}
  loop: [three, four]
  when: ansible_facts['pkg_mgr'] == 'dnf'
- package: {name: "{{ no_such_variable }}"}
`,
	"roles/bootstrap_os/tasks/debian.yml": "- raw:\n    apt-get update && \\\n    apt-get install -y python3-minimal\n",
	"roles/bootstrap_os/tasks/fedora.yml": "- raw: \"dnf install --assumeyes python3 python3-dnf\"\n",
	"roles/bootstrap_os/molecule/x.yml":   "- package: {name: never}\n",
	"roles/upgrade/tasks/main.yml":        "- package: {name: never}\n",
}

// listed has the form of releases before v2.26: lists in files for systems.
var listed = map[string]string{
	"roles/kubernetes/preinstall/defaults/main.yml": "common_required_pkgs: [rsync, " +
		"\"{{ (ansible_distribution == 'Fedora') | ternary('a', 'b') }}\"]\n",
	"roles/kubernetes/preinstall/vars/debian-12.yml": "required_pkgs: [gnupg]\n",
	"roles/kubernetes/preinstall/vars/debian.yml":    "required_pkgs: [older]\n",
	"roles/kubernetes/preinstall/vars/redhat.yml":    "required_pkgs: [nss]\n",
	"roles/kubernetes/preinstall/tasks/0070.yml": `
- set_fact: {common_required_pkgs: "{{ common_required_pkgs | default([]) + ['ipvsadm'] }}"}
- package: {name: "{{ required_pkgs | default([]) | union(common_required_pkgs) }}"}
`,
}

func TestPackages(t *testing.T) {
	for _, c := range []struct {
		name     string
		files    map[string]string
		os, vars string
		want     string // optional ones with a ?
	}{
		{"Debian", conditional, "debian12", "",
			"rsync apparmor gnupg ipvsadm nftables? chrony? ping? python3-minimal? docker=5:28.1-1~debian.12? one? " +
				"two?"},
		{"another release", conditional, "debian13", "",
			"rsync apparmor ipvsadm nftables? chrony? ping? python3-minimal? docker=5:28.1-1~debian.13? one? two?"},
		{"a derivative", conditional, "ubuntu24.04", "",
			"rsync apparmor ipvsadm nftables? chrony? ping? python3-minimal? docker=5:28.1-1~debian.24? one? two?"},
		{"Rocky", conditional, "rocky9", "",
			"rsync iproute ipvsadm nftables? chrony? ping? docker=3:28.1-1.el9? three? four? epel-release?"},
		{"a family's file", conditional, "almalinux8", "",
			"rsync iproute ipvsadm nftables? chrony? ping? docker-old? three? four? epel-release?"},
		{"Fedora", conditional, "fedora42", "", "rsync iproute ipvsadm nftables? chrony? ping? python3? python3-dnf? " +
			"docker-old? three? four? epel-release?"},
		{"an inventory", conditional, "debian13", "proxy: nftables\nntp: true\n",
			"rsync apparmor ipvsadm? nftables chrony ping? python3-minimal? docker=5:28.1-1~debian.13? one? two?"},
		{"lists", listed, "debian12", "", "gnupg rsync b ipvsadm?"},
		{"lists of another", listed, "debian11", "", "older rsync b ipvsadm?"},
		{"lists of a family", listed, "fedora42", "", "nss rsync a ipvsadm?"},
		{"no system", conditional, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := Options{Vars: []Vars{{"given.yml", strings.NewReader(c.vars)}}}
			if c.os != "" {
				opt.OS, _ = FindOS(c.os)
			}
			k, err := Read(checkoutWith(t, c.files), opt)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range k.Packages {
				name := p.Label()
				if p.Optional {
					name += "?"
				}
				if !strings.HasPrefix(p.Where, "roles/") {
					t.Errorf("%s is from %q", name, p.Where)
				}
				got = append(got, name)
			}
			want := strings.Fields(c.want)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got  %s\nwant %s\nnotes %q", strings.Join(got, " "), strings.Join(want, " "), k.Notes)
			}
		})
	}
}

func TestFindOS(t *testing.T) {
	for name, want := range map[string]string{
		"debian12": "debian12", "Debian 12": "debian12", "debian-12.5": "debian12", "ubuntu24.04": "ubuntu24.04",
		"Ubuntu-22.04": "ubuntu22.04", "rocky9": "rocky9",
		"Rocky Linux 9.6": "rocky9", "alma9": "almalinux9", "almalinux9": "almalinux9",
		"rhel8": "rhel8", "redhat9": "rhel9", "ol9": "oracle9", "oraclelinux8": "oracle8", "amzn2023": "amazon2023",
		"centos-stream-9": "centos9", "opensuse-leap-15.6": "opensuse15.6", "debian1": "", "debian": "", "ubuntu24": "",
		"ubuntu24.04.1": "ubuntu24.04", "gentoo": "", "": "", "rocky91": "",
	} {
		s, ok := FindOS(name)
		if ok != (want != "") || ok && s.Name != want {
			t.Errorf("%q is %v, want %q", name, s, want)
		}
	}
	for _, name := range Systems() {
		if s, ok := FindOS(name); !ok || s.Name != name {
			t.Errorf("%s is not found by its own name", name)
		}
	}
}
