package deb

import (
	"slices"
	"strings"
)

// target is one kind of index that apt asks for (apt's doc/acquire-additional-files.md).
type target struct {
	name  string
	key   string // path below the Release file, without the suffix of its compression
	flat  string // the same in a flat repository; "": there is none
	usual bool   // apt, or a package that servers have, asks for it by default
}

var targets = []target{
	{"Packages", "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages", "Packages", true},
	{"Translations", "$(COMPONENT)/i18n/Translation-$(LANGUAGE)", "$(LANGUAGE)", true},
	{"CNF", "$(COMPONENT)/cnf/Commands-$(NATIVE_ARCHITECTURE)", "", true},
	{"DEP-11", "$(COMPONENT)/dep11/Components-$(NATIVE_ARCHITECTURE).yml", "", true},
	// Programs for desktops switch these on.
	{"DEP-11-icons-small", "$(COMPONENT)/dep11/icons-48x48.tar", "", false},
	{"DEP-11-icons", "$(COMPONENT)/dep11/icons-64x64.tar", "", false},
	{"DEP-11-icons-hidpi", "$(COMPONENT)/dep11/icons-64x64@2.tar", "", false},
	{"DEP-11-icons-large", "$(COMPONENT)/dep11/icons-128x128.tar", "", false},
	{"DEP-11-icons-large-hidpi", "$(COMPONENT)/dep11/icons-128x128@2.tar", "", false},
	{"Contents-deb", "$(COMPONENT)/Contents-$(ARCHITECTURE)", "Contents", false}, // apt-file
}

// compressions are the forms of an index in the order in which apt asks for them.
var compressions = []string{".xz", ".bz2", ".lzma", ".gz", ".zst", ""}

// index is one index of a suite that apt asks for.
type index struct {
	key       string // without compression
	packages  bool   // it lists packages
	arch      string // of these
	component string
	forms     []form // the preferred first
}

// form is one file that has the index.
type form struct {
	path string
	Sum
}

// indices returns those that apt asks for of a suite, for nodes of some architectures, and the architectures and
// components of the source that the suite does not have.
func indices(s *Source, r *Release, archs []string) (list []index, missing []string) {
	all := slices.Clone(archs)
	if slices.Contains(r.Architectures, "all") && !r.NoSupportAll {
		all = append(all, "all")
	}
	languages := s.Languages
	if languages == nil {
		languages = []string{"en"}
	}
	components := s.Components
	if s.Flat() {
		components = []string{""}
	}
	seen := map[string]bool{}
	for _, c := range components {
		if !s.Flat() && !r.hasComponent(c) && !r.lists(c) {
			missing = append(missing, "the component "+c)
			continue
		}
		for _, t := range targets {
			key := t.key
			if s.Flat() {
				key = t.flat
			}
			if key == "" || !t.usual && !slices.Contains(s.Targets, t.name) {
				continue
			}
			for _, i := range expand(key, c, all, archs, languages) {
				i.packages = t.name == "Packages"
				i.forms = r.forms(i.key)
				if len(i.forms) > 0 && !seen[i.key] {
					seen[i.key] = true
					list = append(list, i)
				}
			}
		}
	}
	return list, missing
}

// expand replaces the variables of a path.
func expand(key, component string, archs, natives, languages []string) (list []index) {
	add := func(arch, language string) {
		list = append(list, index{arch: arch, component: component, key: strings.NewReplacer("$(COMPONENT)", component,
			"$(NATIVE_ARCHITECTURE)", arch, "$(ARCHITECTURE)", arch, "$(LANGUAGE)", language).Replace(key)})
	}
	switch {
	case strings.Contains(key, "$(NATIVE_ARCHITECTURE)"):
		for _, a := range natives {
			add(a, "")
		}
	case strings.Contains(key, "$(ARCHITECTURE)"):
		for _, a := range archs {
			add(a, "")
		}
	case strings.Contains(key, "$(LANGUAGE)"):
		for _, l := range languages {
			if l != "none" {
				add("", l)
			}
		}
	default:
		add("", "")
	}
	return list
}

// forms returns the files that have an index, the one that apt prefers first.
func (r *Release) forms(key string) (list []form) {
	for _, suffix := range compressions {
		if sum, ok := r.sums[key+suffix]; ok {
			list = append(list, form{key + suffix, sum})
		}
	}
	return list
}

// lists reports whether there is any file of a component.
func (r *Release) lists(component string) bool {
	for name := range r.sums {
		if strings.HasPrefix(name, component+"/") {
			return true
		}
	}
	return false
}

// supports reports whether the suite has packages for an architecture.
func (r *Release) supports(arch string) bool {
	return len(r.Architectures) == 0 || slices.Contains(r.Architectures, arch)
}
