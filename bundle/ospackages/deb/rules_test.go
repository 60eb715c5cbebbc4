package deb

import (
	"context"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/ospackages"
)

// rule is one rule of what a request brings along.
type rule struct {
	name     string
	packages []string
	request  []string
	want     string // labels of what is collected
	finding  string // a part of the only failure
	note     string // a part of a note
	// installed is the output of dpkg-query -W on a node.
	installed    string
	noRecommends bool
	archs        []string // of the nodes; amd64
	// more are further suites beside the first, by name, each with the head of its Release file.
	more map[string][]string
	apt  bool // apt can be asked the same: it installs the request, and not more than is collected
}

var rules = []rule{
	{name: "a package without needs", packages: []string{pkg("a", "1"), pkg("b", "1")}, request: []string{"a"},
		want: "a=1", apt: true},
	{name: "depends and pre-depends, transitively",
		packages: []string{pkg("a", "1", "Depends: b, c"), pkg("b", "1", "Pre-Depends: d"), pkg("c", "1"), pkg("d",
			"1")},
		request: []string{"a"}, want: "a=1 b=1 c=1 d=1", apt: true},
	{name: "a cycle", packages: []string{pkg("a", "1", "Depends: b"), pkg("b", "1", "Depends: a")},
		request: []string{"a"}, want: "a=1 b=1", apt: true},
	{name: "recommends", packages: []string{pkg("a", "1", "Recommends: b, gone"), pkg("b", "1", "Recommends: c"),
		pkg("c", "1", "Suggests: d"), pkg("d", "1")},
		request: []string{"a"}, want: "a=1 b=1 c=1", note: "a:amd64 1 recommends gone, which is left out: no source " +
			"has gone",
		apt: true},
	{name: "no recommends", packages: []string{pkg("a", "1", "Recommends: b"), pkg("b", "1")},
		request: []string{"a"}, want: "a=1", noRecommends: true, apt: true},
	{name: "the highest version", packages: []string{pkg("a", "1.9"), pkg("a", "1.10"), pkg("a", "1.10~rc1")},
		request: []string{"a"}, want: "a=1.10", apt: true},
	{name: "an epoch beats a version", packages: []string{pkg("a", "9"), pkg("a", "1:1")}, request: []string{"a"},
		want: "a=1%253a1", apt: true},
	{name: "a version that was asked for", packages: []string{pkg("a", "1", "Depends: b"), pkg("a", "2"), pkg("b",
		"1")},
		request: []string{"a=1"}, want: "a=1 b=1", apt: true},
	{name: "a version that is spelled differently", packages: []string{pkg("a", "1.0-0")}, request: []string{"a=1.00"},
		want: "a=1.0-0"},
	{name: "versions of dependencies", packages: []string{
		pkg("a", "1", "Depends: b (>= 2), c (<< 2), d (= 1.5), e (<= 1), f (>> 1)"),
		pkg("b", "1"), pkg("b", "2"), pkg("c", "1.9"), pkg("d", "1.5"), pkg("e", "1"), pkg("f", "1.1")},
		request: []string{"a"}, want: "a=1 b=2 c=1.9 d=1.5 e=1 f=1.1", apt: true},
	{name: "an older version that a dependency asks for", packages: []string{pkg("a", "1", "Depends: b (<< 2)"),
		pkg("b", "1"), pkg("b", "2")}, request: []string{"a"}, want: "a=1 b=1"},
	{name: "the former operators", packages: []string{pkg("a", "1", "Depends: b (> 1), c (< 1)"), pkg("b", "1"),
		pkg("c", "1")}, request: []string{"a"}, want: "a=1 b=1 c=1", apt: true},
	{name: "the first alternative", packages: []string{pkg("a", "1", "Depends: b | c"), pkg("b", "1"), pkg("c", "1")},
		request: []string{"a"}, want: "a=1 b=1", apt: true},
	{name: "the first alternative that is there", packages: []string{pkg("a", "1", "Depends: gone | b (>= 2) | c"),
		pkg("b", "1"), pkg("c", "1")}, request: []string{"a"}, want: "a=1 c=1", apt: true},
	{name: "an alternative that another package brings", packages: []string{pkg("a", "1", "Depends: b | c, d"),
		pkg("b", "1"), pkg("c", "1"), pkg("d", "1", "Depends: c")}, request: []string{"a"}, want: "a=1 b=1 c=1 d=1",
		apt: true},
	{name: "the first alternative that can be installed", packages: []string{pkg("a", "1", "Depends: b | c"),
		pkg("b", "1", "Depends: gone"), pkg("c", "1")}, request: []string{"a"}, want: "a=1 c=1", apt: true},
	{name: "an alternative that cannot be installed deep below", packages: []string{pkg("a", "1", "Depends: b | c"),
		pkg("b", "1", "Depends: d"), pkg("c", "1"), pkg("d", "1", "Depends: e"), pkg("e", "1", "Depends: gone")},
		request: []string{"a"}, want: "a=1 c=1", apt: true},
	{name: "a virtual package", packages: []string{pkg("a", "1", "Depends: v"), pkg("b", "1", "Provides: v")},
		request: []string{"a"}, want: "a=1 b=1", apt: true},
	{name: "a real package before one that provides it", packages: []string{pkg("a", "1", "Depends: v"),
		pkg("b", "1", "Provides: v"), pkg("v", "1")}, request: []string{"a"}, want: "a=1 v=1", apt: true},
	{name: "all providers that are equally good", packages: []string{pkg("a", "1", "Depends: v"),
		pkg("b", "1", "Provides: v"), pkg("c", "1", "Provides: v")}, request: []string{"a"}, want: "a=1 b=1 c=1",
		apt: true},
	{name: "the provider of the highest priority", packages: []string{pkg("a", "1", "Depends: v"),
		pkg("b", "1", "Provides: v", "Priority: optional"), pkg("c", "1", "Provides: v", "Priority: important")},
		request: []string{"a"}, want: "a=1 c=1", apt: true},
	{name: "a virtual package as an alternative", packages: []string{pkg("a", "1", "Depends: v | c"),
		pkg("b", "1", "Provides: v"), pkg("c", "1")}, request: []string{"a"}, want: "a=1 b=1", apt: true},
	{name: "a default and then any provider", packages: []string{pkg("a", "1", "Depends: default-v | v"),
		pkg("default-v", "1", "Depends: c"), pkg("b", "1", "Provides: v"), pkg("c", "1", "Provides: v")},
		request: []string{"a"}, want: "a=1 c=1 default-v=1", apt: true},
	{name: "providers that exclude each other", packages: []string{pkg("a", "1", "Depends: v"),
		pkg("b", "1", "Provides: v", "Conflicts: v", "Replaces: v"), pkg("c", "1", "Provides: v", "Conflicts: v",
			"Replaces: v")}, request: []string{"a"}, want: "a=1 b=1 c=1", apt: true},
	{name: "alternatives that are recommended", packages: []string{pkg("a", "1", "Recommends: gone | b (>= 2) | c, v"),
		pkg("b", "1"), pkg("c", "1", "Depends: d"), pkg("d", "1", "Provides: v")}, request: []string{"a"},
		want: "a=1 c=1 d=1", apt: true},
	{name: "a provided version", packages: []string{pkg("a", "1", "Depends: v (>= 2)"),
		pkg("b", "1", "Provides: v (= 1)"), pkg("c", "1", "Provides: v (= 2)"), pkg("d", "9", "Provides: v")},
		request: []string{"a"}, want: "a=1 c=1", apt: true},
	{name: "a name that one package provides", packages: []string{pkg("b", "1", "Provides: v")}, request: []string{"v"},
		want: "b=1", apt: true},
	{name: "a name that several packages provide", packages: []string{pkg("b", "1", "Provides: v"),
		pkg("c", "1", "Provides: v")}, request: []string{"v"},
		finding: "p.list:1: package v: it is a virtual package: write the name of one that provides it, such as b, c"},
	{name: "a dependency that nothing satisfies", packages: []string{pkg("a", "1", "Depends: b (>= 2)"), pkg("b", "1")},
		request: []string{"a"},
		finding: "p.list:1: package a: a:amd64 1 needs b (>= 2), b is there in version 1 only"},
	{name: "a dependency deep below that nothing satisfies", packages: []string{pkg("a", "1", "Depends: b"),
		pkg("b", "1", "Depends: gone, c"), pkg("c", "1")}, request: []string{"a", "c"}, want: "c=1",
		finding: "p.list:1: package a: a:amd64 1 needs b, b:amd64 1 needs gone, no source has gone"},
	{name: "a dependency that cannot be read", packages: []string{pkg("a", "1", "Depends: b (== 1)"), pkg("b", "1")},
		request: []string{"a"}, finding: "no version that dpkg accepts"},
	{name: "a name that no source has", packages: []string{pkg("conntrack", "1")}, request: []string{"contrack"},
		finding: "p.list:1: package contrack: no source has it; did you mean conntrack?"},
	{name: "a version that no source has", packages: []string{pkg("a", "1")}, request: []string{"a=2"},
		finding: "package a=2: no source has this version, there is 1"},
	{name: "an architecture that no source has", packages: []string{pkg("a:arm64", "1")}, request: []string{"a"},
		finding: "it is there for arm64, not for amd64"},
	{name: "a conflict does not matter", packages: []string{pkg("a", "1", "Conflicts: b"), pkg("b", "1")},
		request: []string{"a", "b"}, want: "a=1 b=1"},
	{name: "a pattern", packages: []string{pkg("linux-a", "1", "Depends: c"), pkg("linux-b", "1"), pkg("c", "1"),
		pkg("x", "1")}, request: []string{"linux-*"}, want: "c=1 linux-a=1 linux-b=1"},
	{name: "everything", packages: []string{pkg("a", "1", "Depends: gone"), pkg("a", "2"), pkg("b:all", "1"),
		pkg("c:arm64", "1")}, request: []string{"*"}, want: "a=1 a=2 b=1"},

	{name: "packages for all architectures", packages: []string{pkg("a", "1", "Depends: b"), pkg("b:all", "1",
		"Depends: c"),
		pkg("c", "1")}, request: []string{"a"}, want: "a=1 b=1 c=1", apt: true},
	{name: "dependencies stay in their architecture", packages: []string{pkg("a", "1", "Depends: b"), pkg("b", "1"),
		pkg("b:arm64", "1"), pkg("a:arm64", "1", "Depends: b")}, request: []string{"a:arm64"},
		want: "a:arm64=1 b:arm64=1", apt: true},
	{name: "a foreign package serves every architecture", packages: []string{pkg("a:arm64", "1", "Depends: b, c"),
		pkg("b", "1", "Multi-Arch: foreign"), pkg("c:all", "1", "Multi-Arch: foreign")},
		request: []string{"a:arm64"}, want: "a:arm64=1 b=1 c=1", apt: true},
	{name: "a package of another architecture does not", packages: []string{pkg("a:arm64", "1", "Depends: b"),
		pkg("b", "1", "Multi-Arch: same")}, request: []string{"a:arm64"}, finding: "b is there for amd64 only"},
	{name: "any architecture", packages: []string{pkg("a:arm64", "1", "Depends: python:any"),
		pkg("python", "1", "Multi-Arch: allowed")}, request: []string{"a:arm64"}, want: "a:arm64=1 python=1",
		apt: true},
	{name: "the architecture itself where any is allowed", packages: []string{pkg("a", "1",
		"Depends: python:any (>= 1)"),
		pkg("python", "1", "Multi-Arch: allowed")}, request: []string{"a"}, want: "a=1 python=1", apt: true},
	{name: "nodes of two architectures", packages: []string{pkg("a", "1", "Depends: b"), pkg("b", "1"),
		pkg("a:arm64", "1", "Depends: b"), pkg("b:arm64", "1")}, request: []string{"a"}, archs: []string{"amd64",
		"arm64"},
		want: "a:arm64=1 a=1 b:arm64=1 b=1"},
	{name: "a package that only some nodes can have", packages: []string{pkg("a", "1")}, request: []string{"a"},
		archs: []string{"amd64", "arm64"}, want: "a=1",
		note: "p.list:1: a is not for every kind of node: it is there for amd64, not for arm64"},

	{name: "what is installed is left out", packages: []string{pkg("a", "1", "Depends: b (>= 1), c | d, v"), pkg("b",
		"2"),
		pkg("c", "1"), pkg("d", "1"), pkg("e", "1", "Provides: v")}, request: []string{"a"},
		installed: "b\t1.5\nd:amd64\t1\ne\t1\n", want: "a=1", apt: true},
	{name: "what is installed and too old is not", packages: []string{pkg("a", "1", "Depends: b (>= 2)"), pkg("b",
		"2")},
		request: []string{"a"}, installed: "b\t1\n", want: "a=1 b=2", apt: true},
	{name: "a request that is installed", packages: []string{pkg("a", "1"), pkg("b", "2")}, request: []string{"a", "b"},
		installed: "a\t1\nb\t1\n", want: "b=2", apt: true},

	{name: "what is installed and broken by a package", packages: []string{pkg("a", "1", "Breaks: b (<< 2)"), pkg("b",
		"1"),
		pkg("b", "2")}, request: []string{"a"}, installed: "b\t1\n", want: "a=1 b=2", apt: true},
	{name: "what is installed and not broken", packages: []string{pkg("a", "1", "Breaks: b (<< 1)"), pkg("b", "2")},
		request: []string{"a"}, installed: "b\t1\n", want: "a=1", apt: true},
	{name: "what is installed and needs one version", packages: []string{pkg("a", "1", "Depends: lib (>= 2)"),
		pkg("lib", "1"), pkg("lib", "2"), pkg("sys", "1", "Depends: lib (= 1)"), pkg("sys", "2",
			"Depends: lib (= 2), c"),
		pkg("c", "1")}, request: []string{"a"}, installed: "lib\t1\nsys\t1\n", want: "a=1 c=1 lib=2 sys=2", apt: true},
	{name: "the base system where it needs one version", packages: []string{pkg("a", "1", "Depends: lib"), pkg("lib",
		"2"),
		pkg("sys", "2", "Priority: important", "Depends: lib (= 2), c"), pkg("c", "1"),
		pkg("x", "2", "Priority: optional", "Depends: lib (= 2)")}, request: []string{"a"},
		want: "a=1 c=1 lib=2 sys=2"},
	{name: "the base system where it is broken", packages: []string{
		pkg("a", "1", "Breaks: sys (<< 2), x (<< 2)", "Conflicts: y"),
		pkg("sys", "2", "Priority: required"), pkg("x", "2"), pkg("y", "1", "Priority: required")},
		request: []string{"a"}, want: "a=1 sys=2"},

	{name: "security updates", packages: []string{pkg("a", "1")}, request: []string{"a"},
		more: map[string][]string{"stable-security": {pkg("a", "1+deb12u1")}}, want: "a=1+deb12u1", apt: true},
	{name: "backports only where nothing else satisfies", packages: []string{pkg("a", "1"), pkg("b", "1",
		"Depends: a (>= 2)")},
		request: []string{"a", "b"}, want: "a=1 a=2 b=1",
		more: map[string][]string{"stable-backports": {"NotAutomatic: yes", "ButAutomaticUpgrades: yes", pkg("a",
			"2")}}},
}

// repository publishes the suites of a rule and returns its sources.
func (r *rule) repository(s *site, uri string) string {
	suites := map[string][]string{"stable": r.packages}
	for name, list := range r.more {
		suites[name] = list
	}
	var sources strings.Builder
	for name, list := range suites {
		var head, packages []string
		for _, text := range list {
			if strings.HasPrefix(text, "Package: ") {
				packages = append(packages, text)
			} else {
				head = append(head, text)
			}
		}
		d := newDist(name, packages...)
		d.uri, d.head = uri, head
		d.publish(s)
		sources.WriteString("deb " + uri + " " + name + " main\n")
	}
	return sources.String()
}

// foreign reports whether there are packages of arm64.
func (r *rule) foreign() bool {
	return slices.ContainsFunc(r.packages, func(p string) bool { return strings.Contains(p, "Architecture: arm64") })
}

// collect runs a rule.
func (r *rule) collect(t *testing.T) *ospackages.Result {
	t.Helper()
	s := newSite()
	opt := options(t, r.repository(s, host), r.request...)
	opt.NoRecommends = r.noRecommends
	opt.Near = near
	if r.archs != nil {
		opt.Architectures = r.archs
	} else if r.foreign() {
		for i := range opt.Sources { // what a node has as a foreign architecture its sources have too
			opt.Sources[i].Architectures = []string{"amd64", "arm64"}
		}
	}
	if r.installed != "" {
		i, err := ReadInstalled(strings.NewReader(r.installed))
		if err != nil {
			t.Fatal(err)
		}
		opt.Installed = []*Installed{i}
	}
	res, err := Collect(context.Background(), s, opt)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestRules(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			res := r.collect(t)
			if got := labels(res); got != r.want {
				t.Errorf("collected %q, want %q", got, r.want)
			}
			var findings []string
			for _, u := range res.Unavailable {
				findings = append(findings, u.Where+": "+u.Name+": "+u.Err.Error())
			}
			got := strings.Join(findings, "\n")
			if r.finding == "" && got != "" || len(findings) > 1 || !strings.Contains(got, r.finding) {
				t.Errorf("findings %q, want %q", got, r.finding)
			}
			if notes := strings.Join(res.Notes, "\n"); !strings.Contains(notes, r.note) {
				t.Errorf("notes %q, want %q", notes, r.note)
			}
		})
	}
}
