package doctor

import (
	"crypto/x509"
	"maps"
	"path"
	"slices"
	"strings"
)

// mirror is a registry mirror as a runtime's file configures it.
type mirror struct {
	file  string
	place string   // groups files that are read together: a registry without a mirror in one may have it in another
	of    string   // the registry, as the file writes it
	first []string // tried first, in this order
	last  string   // tried after them; "" is none
	soft  bool     // an entry of first that is not a bastion is only a warning if last is a bastion
}

// check reports what is wrong with the mirror's endpoints.
func (o *overrules) check(m mirror) {
	v := func(detail string) values {
		return values{"file": m.file, "names": shown(m.of, "every registry"),
			"detail": shown(detail, "the registry itself")}
	}
	ours := false
	for _, to := range m.first {
		switch {
		case !o.elsewhere(to):
			ours = true
		case m.soft:
			o.c.warn("mirror-elsewhere", v(to))
		default:
			o.c.fail("mirror-elsewhere", v(to))
		}
	}
	switch {
	case m.last == "":
	case !o.elsewhere(m.last):
		ours = true
	case ours && o.r.mirror:
		o.c.warn("mirror-last", v(m.last))
	default:
		o.c.fail("mirror-elsewhere", v(m.last))
	}
	for _, to := range append(slices.Clone(m.first), m.last) {
		if strings.HasPrefix(to, "http://") && !o.elsewhere(to) {
			o.c.warn("mirror-insecure", v(to))
		}
	}
	if ours {
		o.mirrored[m.place] = append(o.mirrored[m.place], m.of)
	}
}

// shown formats a pattern for the report.
func shown(pattern, all string) string {
	if pattern == "_default" || pattern == "*" {
		return all
	}
	return clip(pattern)
}

// unmirrored reports registries without a mirror in a runtime that has mirrors for others.
func (o *overrules) unmirrored() {
	if !o.r.mirror {
		return // in this mode a registry without a mirror is found through DNS
	}
	for _, place := range slices.Sorted(maps.Keys(o.mirrored)) {
		lacking := slices.DeleteFunc(o.r.site.Pulled(), func(name string) bool {
			return slices.ContainsFunc(o.mirrored[place], func(p string) bool { return covers(p, name) })
		})
		if len(lacking) > 0 {
			o.c.warn("mirror-lacking", values{"file": place, "names": some(lacking)})
		}
	}
}

// caFile checks a file of roots that a runtime's file names. Runtimes add them to the system's, so a file without our
// root does no harm as long as the system has it.
func (o *overrules) caFile(file, names, ca string) {
	at := ca
	if !path.IsAbs(at) {
		at = path.Join(path.Dir(file), at)
	}
	text, ok := o.r.read(at)
	if !ok && slices.Contains(o.r.report.Unseen, at) {
		return
	}
	held := parseCerts([]byte(text))
	v := values{"file": file, "names": names, "detail": ca}
	if len(held) == 0 {
		o.c.fail("mirror-ca", v)
	} else if slices.ContainsFunc(o.r.roots, func(root *x509.Certificate) bool {
		return !slices.ContainsFunc(held, root.Equal)
	}) {
		o.c.warn("mirror-ca-root", v)
	}
}

const (
	containerdConf = "/etc/containerd/config.toml"
	containerdDir  = "/etc/containerd/certs.d"
)

// containerd checks hosts.toml for every name that the bastions answer for, and for all others (containerd's
// docs/hosts.md).
func (o *overrules) containerd() {
	dirs, sure := o.configPath()
	told := slices.Contains(dirs, containerdDir)
	for _, dir := range []string{containerdDir, "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
		"/var/lib/rancher/rke2/agent/etc/containerd/certs.d"} {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		for _, f := range o.r.glob(dir + "/*/hosts.toml") {
			host := path.Base(path.Dir(f))
			if !o.concerns(host) {
				continue
			}
			if text, ok := o.read(f); ok {
				o.hostsTOML(dir, f, host, text)
			}
			if dir == containerdDir && sure && !told {
				o.c.warn("config-path", values{"file": dir, "detail": containerdConf})
			}
		}
	}
}

// configPath returns the directories that containerd's configuration names for hosts.toml files; sure reports whether
// all of the configuration could be read.
func (o *overrules) configPath() (dirs []string, sure bool) {
	sure = true
	// imported by default since 2.2
	files := append([]string{containerdConf}, o.r.glob("/etc/containerd/conf.d/*.toml")...)
	for i := 0; i < len(files) && i < 64; i++ {
		text, ok := o.r.read(files[i])
		if !ok && !slices.Contains(o.r.report.Unseen, files[i]) {
			continue
		}
		sections, err := parseTOML(text)
		if !ok || err != nil { // our parser supports less than containerd's
			sure = false
			continue
		}
		for _, s := range sections {
			if i == 0 && len(s.name) == 0 {
				for _, pattern := range s.values["imports"] {
					if !path.IsAbs(pattern) {
						pattern = path.Join(path.Dir(containerdConf), pattern)
					}
					files = append(files, o.r.glob(pattern)...)
				}
			}
			for key, value := range s.values {
				switch strings.Join(append(slices.Clone(s.name), key), ".") {
				case "plugins.io.containerd.cri.v1.images.registry.config_path",
					"plugins.io.containerd.grpc.v1.cri.registry.config_path", "plugins.cri.registry.config_path":
					for _, list := range value {
						dirs = append(dirs, strings.FieldsFunc(list, func(r rune) bool { return r == ':' })...)
					}
				}
			}
		}
	}
	for i := range dirs {
		dirs[i] = path.Clean("/" + dirs[i])
	}
	return dirs, sure
}

func (o *overrules) hostsTOML(dir, file, host, text string) {
	sections, err := parseTOML(text)
	if err != nil {
		o.c.fail("mirror-unreadable", values{"file": file, "detail": err.Error()})
		return
	}
	m := mirror{file: file, place: dir, of: host}
	for _, s := range sections {
		to := s.get("server")
		switch {
		case len(s.name) == 2 && s.name[0] == "host":
			to = s.name[1]
			m.first = append(m.first, to)
		case len(s.name) > 0:
			continue
		default:
			m.last = to
		}
		if s.get("skip_verify") == "true" {
			o.c.warn("mirror-insecure", values{"file": file, "names": shown(host, "every registry"),
				"detail": "skip_verify"})
		}
		for _, ca := range s.values["ca"] {
			o.caFile(file, shown(host, "every registry"), ca)
		}
	}
	if m.last == "" && o.r.mirror {
		m.last = host // containerd's default
	}
	o.check(m)
}

// registriesConf checks what podman and CRI-O read (containers-registries.conf(5)).
func (o *overrules) registriesConf() {
	for _, f := range append([]string{"/etc/containers/registries.conf"},
		o.r.glob("/etc/containers/registries.conf.d/*.conf")...) {
		text, ok := o.read(f)
		if !ok {
			continue
		}
		sections, err := parseTOML(text)
		if err != nil {
			o.c.fail("mirror-unreadable", values{"file": f, "detail": err.Error()})
			continue
		}
		var all []mirror // [[registry.mirror]] belongs to the last one
		for _, s := range sections {
			to := s.get("location")
			switch {
			case slices.Equal(s.name, []string{"registry"}):
				m := mirror{file: f, place: "/etc/containers", of: s.get("prefix"), last: to, soft: true}
				if m.of == "" {
					m.of = to
				}
				if m.last == "" {
					m.last = m.of
				}
				all = append(all, m)
			case slices.Equal(s.name, []string{"registry", "mirror"}) && len(all) > 0:
				all[len(all)-1].first = append(all[len(all)-1].first, to)
			default:
				continue
			}
			of := all[len(all)-1].of
			if !o.concerns(of) {
				continue
			}
			if s.get("insecure") == "true" {
				o.c.warn("mirror-insecure", values{"file": f, "names": of, "detail": "insecure"})
			}
			if s.get("blocked") == "true" {
				o.c.fail("blocked", values{"file": f, "names": of})
			}
		}
		for _, m := range all {
			if o.concerns(m.of) {
				o.check(m)
			}
		}
	}
}

// rancher checks registries.yaml, from which k3s and RKE2 generate hosts.toml at startup (docs.k3s.io, Private
// Registry Configuration). After its endpoints they ask the registry itself, unless configured not to.
func (o *overrules) rancher() {
	for _, dir := range []string{"/etc/rancher/k3s", "/etc/rancher/rke2"} {
		file := dir + "/registries.yaml"
		text, ok := o.read(file)
		if !ok {
			continue
		}
		doc, err := parseYAML(text)
		if err != nil {
			o.c.fail("mirror-unreadable", values{"file": file, "detail": clip(err.Error())})
			continue
		}
		alone := false
		for _, f := range append([]string{dir + "/config.yaml"}, o.r.glob(dir+"/config.yaml.d/*.yaml")...) {
			text, _ := o.r.read(f)
			if config, err := parseYAML(text); err == nil &&
				config.at("disable-default-registry-endpoint").text() != "" {
				alone = config.at("disable-default-registry-endpoint").text() == "true"
			}
		}
		for of, to := range doc.at("mirrors").pairs() {
			m := mirror{file: file, place: file, of: of, first: to.at("endpoint").texts()}
			if len(m.first) == 0 || !o.concerns(of) {
				continue // without endpoints the embedded registry is used, which asks other nodes
			}
			if o.r.mirror && !alone {
				m.last = of
			}
			o.check(m)
		}
		for host, config := range doc.at("configs").pairs() {
			if !o.concerns(host) {
				continue
			}
			tls := config.at("tls")
			if tls.at("insecure_skip_verify").text() == "true" {
				o.c.warn("mirror-insecure", values{"file": file, "names": shown(host, "every registry"),
					"detail": "insecure_skip_verify"})
			}
			if ca := tls.at("ca_file").text(); ca != "" {
				o.caFile(file, shown(host, "every registry"), ca)
			}
		}
	}
}
