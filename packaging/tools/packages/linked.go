package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A module is linked into the binary, wholly or in part.
type module struct {
	path, version string
	sum           string // go.sum's h1, "" for Go itself
	licences      []licence
	spdx          []string // SPDX identifiers of the licences; sorted
}

type licence struct {
	name string // path below the module's directory
	text []byte
}

// goModule is the standard library, whose licence applies to every program built with it.
const goModule = "std"

// linked returns the modules that are linked into the binary for an architecture, with the licences of exactly the
// linked packages. A licence that is not known to be compatible is an error.
func (b *builder) linked(arch, binary string) ([]module, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	by := map[string]*module{goModule: {path: goModule, version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		if strings.HasPrefix(d.Path, "./") { // a module in this tree is Casemate's own
			continue
		}
		by[d.Path] = &module{path: d.Path, version: d.Version, sum: d.Sum}
	}
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Standard,Module", "./cmd/casemate")
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH="+arch)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Dir string
				Main      bool
			}
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if pkg.Standard || pkg.Module == nil || pkg.Module.Main || strings.HasPrefix(pkg.Module.Dir, b.root+"/") {
			continue
		}
		m := by[pkg.Module.Path]
		if m == nil {
			return nil, fmt.Errorf("%s is in the build and not in the binary's list of modules", pkg.Module.Path)
		}
		for dir := pkg.Dir; ; dir = filepath.Dir(dir) {
			if err := m.take(pkg.Module.Dir, dir); err != nil {
				return nil, err
			}
			if dir == pkg.Module.Dir || len(dir) <= len(pkg.Module.Dir) {
				break
			}
		}
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	root := strings.TrimSpace(string(goroot))
	if err := by[goModule].take(root, root); err != nil {
		return nil, err
	}
	var list []module
	for _, m := range by {
		for _, l := range m.licences {
			id := identify(l.text)
			if id == "" && isNotice(l.name) {
				continue
			}
			if !slices.Contains(compatible, id) {
				return nil, fmt.Errorf("%s@%s: %s is %q, none of %s", m.path, m.version, l.name, id,
					strings.Join(compatible, ", "))
			}
			m.spdx = append(m.spdx, id)
		}
		slices.Sort(m.spdx)
		if m.spdx = slices.Compact(m.spdx); len(m.spdx) == 0 {
			return nil, fmt.Errorf("%s@%s has no licence", m.path, m.version)
		}
		list = append(list, *m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

var licenceName = regexp.MustCompile(`(?i)^(un)?licen[sc]e|^copying|^notice|^patents`)

func isNotice(name string) bool {
	return regexp.MustCompile(`(?i)^(notice|patents)`).MatchString(filepath.Base(name))
}

// take adds the licences in dir, a directory of the module.
func (m *module) take(root, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, err := filepath.Rel(root, filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		known := slices.ContainsFunc(m.licences, func(l licence) bool { return l.name == name })
		// documentation is not linked in
		if known || e.IsDir() || !licenceName.MatchString(e.Name()) ||
			slices.Contains([]string{".go", ".docs"}, filepath.Ext(e.Name())) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		m.licences = append(m.licences, licence{name, text})
	}
	slices.SortFunc(m.licences, func(a, b licence) int { return strings.Compare(a.name, b.name) })
	return nil
}

// compatible are the licences that may be linked in.
var compatible = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "Unlicense", "CC0-1.0"}

// identify recognises the licence of a text by characteristic sentences; "" if it is none of the known ones.
func identify(text []byte) string {
	s := strings.Join(strings.Fields(strings.ToLower(string(text))), " ")
	has := func(list ...string) bool {
		return !slices.ContainsFunc(list, func(x string) bool { return !strings.Contains(s, x) })
	}
	switch {
	// it mentions the GNU licences, too
	case has("mozilla public license version 2.0"), has("mozilla public license, version 2.0"):
		return "MPL-2.0"
	case has("gnu general public license"), has("gnu affero"), has("gnu lesser general public license"),
		has("server side public license"), has("business source license"):
		return "not to be linked in"
	case has("apache license", "version 2.0"):
		return "Apache-2.0"
	case has("redistribution and use in source and binary forms", "neither the name"),
		has("redistribution and use in source and binary forms", "names of its contributors may"),
		has("redistribution and use in source and binary forms", "may not be used to endorse"):
		return "BSD-3-Clause"
	case has("redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	case has("permission is hereby granted, free of charge", "the software is provided \"as is\""):
		return "MIT"
	case has("permission to use, copy, modify, and/or distribute this software"),
		has("permission to use, copy, modify, and distribute this software"):
		return "ISC"
	case has("this is free and unencumbered software released into the public domain"):
		return "Unlicense"
	case has("cc0 1.0 universal"):
		return "CC0-1.0"
	}
	return ""
}

// copyright returns the file in Debian's form (copyright-format 1.0).
func copyright(year int, mods []module) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: "+
		"casemate\n"+
		"Comment: The texts of all licences are in /usr/share/doc/casemate/licenses, that of Casemate in "+
		"/usr/share/doc/casemate/LICENSE.\n\n"+
		"Files: *\nCopyright: %d the Casemate maintainers\nLicense: Apache-2.0\n"+
		" On Debian systems the text of the Apache License, version 2.0, is in\n "+
		"/usr/share/common-licenses/Apache-2.0.\n", year)
	for _, m := range mods {
		fmt.Fprintf(&b, "\nFiles: %s@%s\nCopyright: see the licence\nLicense: %s\n See "+
			"/usr/share/doc/casemate/licenses/%s@%s.\n", m.path, m.version, strings.Join(m.spdx, " and "), m.path,
			m.version)
	}
	return []byte(b.String())
}

// sbom returns the content of the binary as SPDX 2.3 in JSON.
func (b *builder) sbom(arch string, binary []byte, mods []module) ([]byte, error) {
	type checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	type ref struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		ID        string     `json:"SPDXID"`
		Name      string     `json:"name"`
		Version   string     `json:"versionInfo"`
		Download  string     `json:"downloadLocation"`
		Analyzed  bool       `json:"filesAnalyzed"`
		Declared  string     `json:"licenseDeclared"`
		Concluded string     `json:"licenseConcluded"`
		Copyright string     `json:"copyrightText"`
		Purpose   string     `json:"primaryPackagePurpose,omitempty"`
		Checksums []checksum `json:"checksums,omitempty"`
		Comment   string     `json:"comment,omitempty"`
		Refs      []ref      `json:"externalRefs,omitempty"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	sum := sha256.Sum256(binary)
	version := packageVersion(b.version, b.epoch)
	const self = "SPDXRef-casemate"
	pkgs := []pkg{{ID: self, Name: "casemate", Version: version, Download: "NOASSERTION", Declared: "Apache-2.0",
		Concluded: "Apache-2.0", Copyright: "NOASSERTION",
		Purpose: "APPLICATION", Checksums: []checksum{{"SHA256", hex.EncodeToString(sum[:])}}}}
	relations := []relation{{"SPDXRef-DOCUMENT", "DESCRIBES", self}}
	for _, m := range mods {
		id := "SPDXRef-" + regexp.MustCompile(`[^A-Za-z0-9.-]`).ReplaceAllString(m.path, "-")
		p := pkg{ID: id, Name: m.path, Version: m.version, Download: "NOASSERTION",
			Declared: strings.Join(m.spdx, " AND "), Concluded: strings.Join(m.spdx, " AND "), Copyright: "NOASSERTION"}
		if m.sum != "" {
			p.Comment = "go.sum " + m.sum
		}
		if m.path != goModule {
			p.Refs = []ref{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.path + "@" + m.version}}
		}
		pkgs = append(pkgs, p)
		relations = append(relations, relation{self, "STATIC_LINK", id})
	}
	data, err := json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "casemate-" +
			version + "-linux-" + arch,
		"documentNamespace": "https://casemate.invalid/spdx/" + version + "-linux-" + arch + "-" +
			hex.EncodeToString(sum[:8]),
		"creationInfo": map[string]any{"created": b.epoch.Format(time.RFC3339),
			"creators": []string{"Tool: casemate-packages"}},
		"packages": pkgs, "relationships": relations,
	}, "", " ")
	return append(data, '\n'), err
}
