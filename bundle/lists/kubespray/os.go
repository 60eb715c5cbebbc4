package kubespray

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"casemate/bundle/lists/jinja"
)

// OS is an operating system of nodes.
type OS struct {
	Name string // as "debian12"
	distribution,
	family, version, release string // Ansible's facts
	tasks []string // the files of tasks by which Kubespray prepares it
}

// systems are the operating systems that can be named.
var systems = func() (list []OS) {
	add := func(name, distribution, family string, tasks []string, versions ...string) {
		for _, v := range versions {
			version, release, _ := strings.Cut(v, " ")
			list = append(list, OS{name + version, distribution, family, version, release, tasks})
		}
	}
	redhat := func(own string) []string { return []string{own, "centos"} }
	add("debian", "Debian", "Debian", []string{"debian"}, "11 bullseye", "12 bookworm", "13 trixie")
	add("ubuntu", "Ubuntu", "Debian", []string{"ubuntu", "debian"}, "20.04 focal", "22.04 jammy", "24.04 noble")
	add("almalinux", "AlmaLinux", "RedHat", redhat("almalinux"), "8", "9", "10")
	add("rocky", "Rocky", "RedHat", redhat("rocky"), "8", "9", "10")
	add("rhel", "RedHat", "RedHat", redhat("rhel"), "8", "9", "10")
	add("centos", "CentOS", "RedHat", redhat("centos"), "8", "9", "10")
	add("oracle", "OracleLinux", "RedHat", redhat("ol"), "8", "9", "10")
	add("fedora", "Fedora", "RedHat", []string{"fedora"}, "39", "40", "41", "42", "43")
	add("amazon", "Amazon", "RedHat", []string{"amzn"}, "2023")
	add("openeuler", "openEuler", "RedHat", redhat("openEuler"), "22.03", "24.03")
	add("opensuse", "openSUSE Leap", "Suse", []string{"opensuse-leap", "opensuse"}, "15.5", "15.6")
	return list
}()

// Systems are the names of the operating systems that FindOS knows.
func Systems() (names []string) {
	for _, s := range systems {
		names = append(names, s.Name)
	}
	return names
}

// FindOS finds an operating system by its name and version, such as debian12, "Rocky Linux 9" or ubuntu-24.04. The rest
// of a longer version is ignored: rocky9.6 is rocky9.
func FindOS(name string) (*OS, bool) {
	plain := strings.NewReplacer(" ", "", "-", "", "_", "", "linux", "", "stream", "", "leap", "").Replace(
		strings.ToLower(name))
	for _, s := range systems {
		for _, alias := range append(osAliases[strings.TrimSuffix(s.Name, s.version)],
			strings.TrimSuffix(s.Name, s.version)) {
			alias = strings.ReplaceAll(alias, "linux", "")
			rest, ok := strings.CutPrefix(plain, alias)
			minor := strings.TrimPrefix(rest, s.version+".")
			if ok && (rest == s.version || minor != rest) {
				return &s, true
			}
		}
	}
	return nil, false
}

// osAliases are other names of operating systems.
var osAliases = map[string][]string{
	"almalinux": {"alma"}, "rhel": {"redhat", "redhatenterprise"}, "oracle": {"ol"}, "amazon": {"amzn", "al"},
}

// major is the first part of its version.
func (s *OS) major() string {
	major, _, _ := strings.Cut(s.version, ".")
	return major
}

// facts are what Ansible finds out about a node with this system, beside known.
func (s *OS) facts(known map[string]definition) map[string]definition {
	manager := map[string]string{"Debian": "apt", "RedHat": "dnf", "Suse": "zypper"}[s.family]
	all := &jinja.Dict{Open: true}
	if d, ok := known["ansible_facts"].value.(*jinja.Dict); ok {
		for _, k := range d.Keys {
			all.Set(k, d.Values[k])
		}
	}
	facts := maps.Clone(known)
	where := fmt.Sprintf("the facts of %s", s.Name)
	for name, value := range map[string]any{
		"distribution": s.distribution, "os_family": s.family, "distribution_version": s.version,
		"distribution_major_version": s.major(), "distribution_release": s.release, "pkg_mgr": manager,
	} {
		all.Set(name, value)
		facts["ansible_"+name] = definition{value, where}
	}
	facts["ansible_facts"] = definition{all, where}
	for _, other := range []string{"is_fedora_coreos", "is_ostree"} {
		facts[other] = definition{false, where}
	}
	return facts
}

// varsFiles are the names of files of variables of a role that are for this system, the most specific first.
func (s *OS) varsFiles() (names []string) {
	distribution, family := strings.ToLower(s.distribution), strings.ToLower(s.family)
	first, _, _ := strings.Cut(distribution, " ")
	for _, d := range []string{distribution, first} {
		for _, v := range []string{s.version, s.release, s.major()} {
			if v != "" {
				names = append(names, d+"-"+v)
			}
		}
		names = append(names, d)
	}
	return slices.Compact(append(names, family+"-"+s.major(), family))
}
