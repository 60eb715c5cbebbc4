package rpm

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const maxModules = 100_000 // documents of a modules.yaml

// modules are the streams of modules of all repositories (dnf's modularity).
type modules struct {
	streams  []stream
	defaults map[string]string // stream by module
}

// stream is one build of a stream of a module.
type stream struct {
	module, stream string
	// requires are streams of other modules, any of a list: none means any stream.
	requires map[string][]string
	// packages are NAME-EPOCH:VERSION-RELEASE.ARCH.
	packages []string
}

// moduleDocument is a document of modules.yaml: modulemd version 2, or modulemd-defaults.
type moduleDocument struct {
	Document string `yaml:"document"`
	Version  int    `yaml:"version"`
	Data     struct {
		Name         string    `yaml:"name"`
		Module       string    `yaml:"module"`
		Stream       yaml.Node `yaml:"stream"` // a text, or a number that stands for itself
		Dependencies []struct {
			Requires map[string][]yaml.Node `yaml:"requires"`
		} `yaml:"dependencies"`
		Artifacts struct {
			RPMs []string `yaml:"rpms"`
		} `yaml:"artifacts"`
	} `yaml:"data"`
}

// read adds a modules.yaml.
func (m *modules) read(r io.Reader) error {
	in := yaml.NewDecoder(r)
	for range maxModules {
		var d moduleDocument
		err := in.Decode(&d)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it cannot be read: %w", err)
		}
		switch d.Document {
		case "modulemd":
			m.streams = append(m.streams, d.stream())
		case "modulemd-defaults":
			if d.Data.Module != "" && d.Data.Stream.Value != "" {
				if m.defaults == nil {
					m.defaults = map[string]string{}
				}
				m.defaults[d.Data.Module] = d.Data.Stream.Value
			}
		}
	}
	return errors.New("it has too many documents")
}

func (d *moduleDocument) stream() stream {
	s := stream{module: d.Data.Name, stream: d.Data.Stream.Value, requires: map[string][]string{},
		packages: d.Data.Artifacts.RPMs}
	for _, dep := range d.Data.Dependencies {
		for module, streams := range dep.Requires {
			if module == "platform" {
				continue
			}
			if s.requires[module] == nil {
				s.requires[module] = []string{}
			}
			for _, v := range streams {
				s.requires[module] = append(s.requires[module], v.Value)
			}
		}
	}
	return s
}

// enabled returns the streams that nodes use: the requested ones, the default one of other modules, and those that
// these need. The notes name requested streams that do not exist.
func (m *modules) enabled(requested []string) (on map[[2]string]bool, notes []string) {
	on = map[[2]string]bool{}
	chosen := map[string]bool{}
	var queue [][2]string
	enable := func(k [2]string) {
		if chosen[k[0]] = true; !on[k] {
			on[k] = true
			queue = append(queue, k)
		}
	}
	for _, r := range requested {
		module, name, _ := strings.Cut(r, ":")
		if name == "" {
			name = m.defaults[module]
		}
		if !slices.ContainsFunc(m.streams, func(s stream) bool { return s.module == module && s.stream == name }) {
			notes = append(notes, fmt.Sprintf("no repository has the stream %s of a module, only %s", r,
				m.names(module)))
			continue
		}
		enable([2]string{module, name})
	}
	for module, name := range m.defaults {
		if !chosen[module] {
			enable([2]string{module, name})
		}
	}
	for len(queue) > 0 {
		k := queue[0]
		queue = queue[1:]
		for _, s := range m.streams {
			if s.module != k[0] || s.stream != k[1] {
				continue
			}
			for module, names := range s.requires {
				for _, name := range m.needed(module, names, on) {
					enable([2]string{module, name})
				}
			}
		}
	}
	return on, notes
}

// needed returns the streams of a module that have to be enabled because another one needs one of names.
func (m *modules) needed(module string, names []string, on map[[2]string]bool) []string {
	var allowed []string
	for _, n := range names {
		if on[[2]string{module, n}] {
			return nil
		}
		if !strings.HasPrefix(n, "-") {
			allowed = append(allowed, n)
		}
	}
	if d, ok := m.defaults[module]; ok && (len(allowed) == 0 || slices.Contains(allowed, d)) {
		return []string{d}
	}
	if len(allowed) > 0 {
		return allowed // dnf takes one of them
	}
	return nil
}

// names are the streams of a module, or all modules if there is none of that name.
func (m *modules) names(module string) string {
	var have []string
	for _, s := range m.streams {
		if s.module == module {
			have = append(have, s.module+":"+s.stream)
		}
	}
	if have == nil {
		for _, s := range m.streams {
			have = append(have, s.module)
		}
	}
	slices.Sort(have)
	if have = slices.Compact(have); len(have) > 20 {
		have = append(have[:20], "…")
	}
	if len(have) == 0 {
		return "packages without modules"
	}
	return strings.Join(have, ", ")
}

// filter returns the packages that are candidates: those of enabled streams, and those outside of modules if no
// enabled stream has a package of their name.
func (m *modules) filter(packages []*Package, on map[[2]string]bool) (list []*Package) {
	if len(m.streams) == 0 {
		return packages
	}
	enabled, all, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range m.streams {
		active := on[[2]string{s.module, s.stream}]
		for _, nevra := range s.packages {
			all[nevra] = true
			if enabled[nevra] = enabled[nevra] || active; active {
				names[nameOf(nevra)] = true
			}
		}
	}
	for _, p := range packages {
		key := fmt.Sprintf("%s-%d:%s-%s.%s", p.Name, p.evr.epoch, p.evr.version, p.evr.release, p.Arch)
		switch p.modular = all[key]; {
		case p.modular && !enabled[key]:
		case !p.modular && names[p.Name] && !p.repo.Hotfixes:
		default:
			list = append(list, p)
		}
	}
	return list
}

// nameOf returns the name in NAME-EPOCH:VERSION-RELEASE.ARCH.
func nameOf(nevra string) string {
	for range 2 {
		if i := strings.LastIndexByte(nevra, '-'); i > 0 {
			nevra = nevra[:i]
		}
	}
	return nevra
}

// add joins the modules of another repository. Its defaults count where there are none yet.
func (m *modules) add(o *modules) {
	m.streams = append(m.streams, o.streams...)
	for module, name := range o.defaults {
		if m.defaults == nil {
			m.defaults = map[string]string{}
		}
		if _, have := m.defaults[module]; !have {
			m.defaults[module] = name
		}
	}
}
