package deb

import (
	"fmt"
	"strings"
	"testing"
)

// show writes a source in one line.
func show(s Source) string {
	text := fmt.Sprintf("%s %s %s", s.Where, s.Base(), strings.Join(s.Components, ","))
	for name, list := range map[string][]string{"arch": s.Architectures} {
		if list != nil {
			text += " " + name + "=" + strings.Join(list, ",")
		}
	}
	if s.Languages != nil {
		text += " lang=" + strings.Join(s.Languages, ",")
	}
	if s.Targets != nil {
		text += " target=" + strings.Join(s.Targets, ",")
	}
	if s.SignedBy != "" {
		text += " signed-by=" + strings.ReplaceAll(s.SignedBy, "\n", "/")
	}
	if s.Trusted {
		text += " trusted"
	}
	if s.AnyDate {
		text += " any date"
	}
	return text
}

func TestSources(t *testing.T) {
	for _, x := range []struct{ name, text, want, notes string }{
		{"a line", "deb http://h/debian bookworm main contrib\n", "f:1 http://h/debian/dists/bookworm/ main,contrib",
			""},
		{"comments and white space", "\ufeff# x\n\n  deb\thttp://h/debian/  bookworm   main # y\r\n",
			"f:3 http://h/debian/dists/bookworm/ main", ""},
		{"options", "deb [arch=amd64,arm64 lang=de,en signed-by=/k.gpg target+=Contents-deb trusted=yes] https://H/x " +
			"s c\n",
			"f:1 https://h/x/dists/s/ c arch=amd64,arm64 lang=de,en target=Contents-deb signed-by=/k.gpg trusted", ""},
		{"options without spaces around", "deb [ arch=amd64 ]http://h/x s c\n",
			"f:1 http://h/x/dists/s/ c arch=amd64", ""},
		{"dates", "deb [check-valid-until=no] http://h/x s c\n", "f:1 http://h/x/dists/s/ c any date", ""},
		{"no options", "deb [] http://h/x s c\n", "f:1 http://h/x/dists/s/ c", ""},
		{"sources are left out", "deb-src http://h/x s c\ndeb http://h/x s c\n", "f:2 http://h/x/dists/s/ c",
			"f:1: source packages (deb-src) are not collected"},
		{"the old security suite", "deb http://h/x stretch/updates main\n",
			"f:1 http://h/x/dists/stretch/updates/ main", ""},
		{"flat", "deb http://h/x ./\n", "f:1 http://h/x/ ", ""},
		{"a port", "deb http://h:8080/x s c\n", "f:1 http://h:8080/x/dists/s/ c", ""},
		{"stanzas", "# x\nTypes: deb deb-src\nURIs: http://h/a http://h/b\nSuites: s s-updates\nComponents: main\n " +
			"non-free\n" +
			"Signed-By: /k.gpg\n\n\nTypes: deb\nEnabled: no\nURIs: http://h/c\nSuites: s\nComponents: main\n",
			"f:2 http://h/a/dists/s/ main,non-free signed-by=/k.gpg\n" +
				"f:2 http://h/a/dists/s-updates/ main,non-free signed-by=/k.gpg\n" +
				"f:2 http://h/b/dists/s/ main,non-free signed-by=/k.gpg\n" +
				"f:2 http://h/b/dists/s-updates/ main,non-free signed-by=/k.gpg",
			"f:2: source packages (deb-src) are not collected\nf:10: it is not enabled, so it is left out"},
		{"fields of stanzas", "types: deb\nuris: http://h/a\nsuites: s\ncomponents: c\nArchitectures: amd64 arm64\n" +
			"Architectures-Remove: arm64\nLanguages: none\nTargets-Add: CNF\nCheck-Valid-Until: no\nTrusted: " +
			"yes\nX-Foo: bar\n",
			"f:1 http://h/a/dists/s/ c arch=amd64 lang=none target=CNF trusted any date", ""},
		{"a comment in a stanza", "Types: deb\n# http://old\nURIs: http://h/a\nSuites: s\nComponents: c\n",
			"f:1 http://h/a/dists/s/ c", ""},
		{"a key in a stanza", "Types: deb\nURIs: http://h/a\nSuites: s\nComponents: c\nSigned-By:\n -----BEGIN\n .\n " +
			"abc\n",
			"f:1 http://h/a/dists/s/ c signed-by=-----BEGIN//abc", ""},
		{"a flat stanza", "Types: deb\nURIs: http://h/a\nSuites: /\n", "f:1 http://h/a/ ", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			var s Sources
			s.Read("f", strings.NewReader(x.text))
			if err := s.Err(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, src := range s.List {
				got = append(got, show(src))
			}
			if strings.Join(got, "\n") != x.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), x.want)
			}
			if got := strings.Join(s.Notes, "\n"); got != x.notes {
				t.Errorf("notes %q, want %q", got, x.notes)
			}
		})
	}
}

func TestBadSources(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "f: it names no source",
		"# nothing\n":                           "f: it names no source",
		"deb http://h/x\n":                      "f:1: write deb URI SUITE COMPONENT",
		"deb http://h/x s\n":                    `f:1: the suite "s" needs a component`,
		"deb http://h/x s/ c\n":                 "the repository is flat and has no components",
		"deb [arch=amd64 http://h/x s c\n":      "the options have no end",
		"deb [arch] http://h/x s c\n":           `the option "arch" has no value`,
		"rpm http://h/x s c\n":                  `"rpm" is not a type of source`,
		"deb file:/srv/x s c\n":                 "is on one machine only",
		"deb cdrom:[Debian]/ s c\n":             "is on one machine only",
		"deb mirror+http://h/list s c\n":        "write the address of one of them",
		"deb ftp://h/x s c\n":                   "only https and http can be fetched",
		"deb http://u:p@h/x s c\n":              "user and password must not be in a list",
		"deb http://h/../x s c\n":               "write the resolved path",
		"deb http://h/x?y s c\n":                "has no query",
		"deb http://h/x ../s c\n":               "leads out of the repository",
		"deb http://h/x s ?\n":                  "is not the name of a suite or component",
		"Types: deb\nURIs: http://h/x\n":        "f:1: a source needs Types, URIs and Suites",
		"Types: deb\nbad line\n":                "is not a field",
		"Types: x\nURIs: http://h/x\nSuites: s": `"x" is not a type of source`,
		"\x00":                                  "it is not a text",
		strings.Repeat("#", maxSources+1):       "larger than",
		"deb http://h/x s c\ndeb\n":             "f:2: write deb",
	} {
		var s Sources
		s.Read("f", strings.NewReader(text))
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
}

// Whatever the file is, it is read or refused, and what is read can be fetched.
func FuzzSources(f *testing.F) {
	f.Add("deb [arch=amd64 signed-by=/x] http://h/debian bookworm main\n")
	f.Add("Types: deb\nURIs: http://h/a\nSuites: s ./\nComponents: c\nSigned-By:\n a\n .\n b\n")
	f.Fuzz(func(t *testing.T, text string) {
		var s Sources
		s.Read("f", strings.NewReader(text))
		for _, src := range s.List {
			base := src.Base()
			if !strings.HasPrefix(base, "http") || !strings.HasSuffix(base, "/") || strings.Contains(base, "/../") {
				t.Errorf("%q", base)
			}
		}
		if s.Err() == nil && len(s.List)+len(s.Notes) == 0 {
			t.Error("nothing was read and nothing was said")
		}
	})
}

// Whatever a Release file is, it is read or refused, and no index leads out of the repository.
func FuzzRelease(f *testing.F) {
	f.Add([]byte("Suite: stable\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n " + strings.Repeat("0", 64) +
		" 3 main/binary-amd64/Packages.gz\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRelease(b)
		if err != nil {
			return
		}
		list, _ := indices(&Source{URI: "http://h", Suite: "s", Components: []string{"main"}}, r, []string{"amd64"})
		for _, i := range list {
			for _, form := range i.forms {
				if strings.Contains(form.path, "..") || form.Size < 0 {
					t.Errorf("%q has %d bytes", form.path, form.Size)
				}
			}
		}
		_ = r.checkTime(today, false)
	})
}

// Whatever an index is, it is read or refused, and the addresses of its packages are in the repository.
func FuzzPackages(f *testing.F) {
	f.Add(pkg("a", "1", "Depends: b (>= 1) | c:any", "Provides: d (= 2), e"))
	f.Add("Package: a\n b\n\n\nPackage")
	f.Fuzz(func(t *testing.T, text string) {
		u, s := newUniverse(), &suite{Source: &Source{URI: "http://h", Suite: "s"}, Release: &Release{}}
		_ = readPackages(strings.NewReader(text), 1<<20, func(p *Package) error {
			p.suite = s
			if at := p.URL(); !strings.HasPrefix(at, "http://h/") || strings.Contains(at, "/../") {
				t.Errorf("%q", at)
			}
			return u.add(p)
		})
		u.sort()
		m := &machine{universe: u, native: "amd64", recommends: true}
		for _, p := range u.packages {
			for _, n := range m.needs(p) {
				if len(n.Options) == 0 && n.Missing == "" {
					t.Errorf("%q is not satisfied for no reason", n.Text)
				}
			}
		}
	})
}

// Whatever is installed, it is read or refused.
func FuzzInstalled(f *testing.F) {
	f.Add("adduser\t3.134\nlibc6:amd64\t2.36-9\n")
	f.Add("Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\nProvides: b\n\n")
	f.Add("Desired=Unknown\n||/ Name Version\n+++-===\nii  adduser 3.134 all add users\n")
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := ReadInstalled(strings.NewReader(text)); err == nil && len(i.packages) == 0 {
			t.Error("nothing is installed")
		}
	})
}
