package rpm

import (
	"context"
	"strings"
	"testing"

	"casemate/bundle/ospackages"
)

// rule is one rule of the closure, with a small repository that shows it.
type rule struct {
	name      string
	packages  []testPackage
	modules   string
	request   []string
	enable    []string // streams of modules
	installed string   // lines of rpm -qa
	want      string
	weakless  bool // --no-recommends
	dnf       bool // dnf is asked for the same
}

var rules = []rule{
	{name: "a dependency", request: []string{"a"}, want: "a-1-1 b-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: b"), pkg("b", "1-1"), pkg("c", "1-1")}},
	{name: "the highest version", request: []string{"a"}, want: "a-1-10 b-1.10-1", dnf: true, packages: []testPackage{
		pkg("a", "1-9"), pkg("a", "1-10", "Requires: b >= 1.2"), pkg("b", "1.9-1"), pkg("b", "1.10-1")}},
	{name: "an epoch", request: []string{"a"}, want: "a-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1:1-1"), pkg("a", "2-1")}},
	{name: "a tilde and a caret", request: []string{"a", "b"}, want: "a-1.0-1 b-1.0^git1-1", dnf: true,
		packages: []testPackage{pkg("a", "1.0~rc1-1"), pkg("a", "1.0-1"), pkg("b", "1.0^git1-1"), pkg("b", "1.0-1")}},
	{name: "an exact older version", request: []string{"a"}, want: "a-1-1 b-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: b = 1-1"), pkg("b", "1-1"), pkg("b", "2-1")}},
	{name: "a version without a release", request: []string{"a"}, want: "a-1-1 b-1-7", dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Requires: b = 1"), pkg("b", "1-7"), pkg("b", "2-1")}},
	{name: "a version in a request", request: []string{"a=1-1", "b=2:3-1", "c-1-1.x86_64"}, dnf: false,
		want: "a-1-1 b-3-1 c-1-1", packages: []testPackage{pkg("a", "1-1"), pkg("a", "2-1"), pkg("b", "2:3-1"),
			pkg("b", "2:4-1"), pkg("c", "1-1"), pkg("c", "2-1")}},
	{name: "a cycle", request: []string{"a"}, want: "a-1-1 b-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: b"), pkg("b", "1-1", "Requires: a")}},
	{name: "a shared library", request: []string{"a"}, want: "a-1-1 lib-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: libx.so.1()(64bit)"), pkg("lib", "1-1", "Provides: libx.so.1()(64bit)"),
		pkg("lib@i686", "1-1", "Provides: libx.so.1")}},
	{name: "a virtual capability with versions", request: []string{"a"}, want: "a-1-1 new-1-1", dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Requires: api >= 2"), pkg("old", "1-1", "Provides: api = 1"),
			pkg("new", "1-1", "Provides: api = 2.5")}},
	{name: "several providers", request: []string{"a"}, want: "a-1-1 x-1-1 y-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: mta"), pkg("y", "1-1", "Provides: mta"), pkg("x", "1-1", "Provides: mta")}},
	{name: "a suggested provider", request: []string{"a"}, want: "a-1-1 y-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: mta", "Suggests: y"), pkg("y", "1-1", "Provides: mta"),
		pkg("x", "1-1", "Provides: mta")}},
	{name: "a provider that is broken", request: []string{"a"}, want: "a-1-1 y-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: mta"), pkg("x", "1-1", "Provides: mta", "Requires: gone"),
		pkg("y", "1-1", "Provides: mta")}},
	{name: "a file of primary", request: []string{"a"}, want: "a-1-1 sh-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: /bin/sh"), pkg("sh", "1-1", "File: /bin/sh"), pkg("z", "1-1", "File: /bin/zsh")}},
	{name: "a file of filelists", request: []string{"a"}, want: "a-1-1 data-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: /usr/share/data/x"), pkg("data", "1-1", "Path: /usr/share/data/x")}},
	{name: "a recommended package", request: []string{"a"}, want: "a-1-1 b-1-1 c-1-1", dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Recommends: b", "Recommends: gone", "Suggests: d"),
			pkg("b", "1-1", "Requires: c"), pkg("c", "1-1"), pkg("d", "1-1")}},
	{name: "without recommended packages", request: []string{"a"}, want: "a-1-1", weakless: true, dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Recommends: b"), pkg("b", "1-1")}},
	{name: "a supplement", request: []string{"a"}, want: "a-1-1 plugin-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1"), pkg("plugin", "1-1", "Supplements: a"), pkg("other", "1-1", "Supplements: gone")}},
	{name: "a rich supplement", request: []string{"a", "lang"}, want: "a-1-1 a-de-1-1 lang-1-1", dnf: true,
		packages: []testPackage{pkg("a", "1-1"), pkg("lang", "1-1"), pkg("a-de", "1-1", "Supplements: (a and lang)"),
			pkg("a-fr", "1-1", "Supplements: (a and lang-fr)")}},
	{name: "rich: and", request: []string{"a"}, want: "a-1-1 b-1-1 c-2-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: (b and c >= 2)"), pkg("b", "1-1"), pkg("c", "1-1"), pkg("c", "2-1")}},
	{name: "rich: or", request: []string{"a"}, want: "a-1-1 b-1-1 c-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: (b or c)"), pkg("b", "1-1"), pkg("c", "1-1")}},
	{name: "rich: or with one that is there", request: []string{"a"}, want: "a-1-1 c-1-1", dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Requires: (gone or c)"), pkg("c", "1-1")}},
	{name: "rich: or of several", request: []string{"a"}, want: "a-1-1 b-1-1 c-1-1 d-1-1", dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Requires: ((b and c) or d)"), pkg("b", "1-1"), pkg("c", "1-1"),
			pkg("d", "1-1")}},
	{name: "rich: if", request: []string{"a", "b"}, want: "a-1-1 b-1-1 c-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: (c if b)"), pkg("b", "1-1"), pkg("c", "1-1")}},
	{name: "rich: if of what cannot be", request: []string{"a"}, want: "a-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: (c if gone)"), pkg("c", "1-1")}},
	{name: "rich: if else", request: []string{"a"}, want: "a-1-1 b-1-1 c-1-1 d-1-1", dnf: true,
		packages: []testPackage{pkg("a", "1-1", "Requires: (c if b else d)", "Requires: b"), pkg("b", "1-1"),
			pkg("c", "1-1"), pkg("d", "1-1")}},
	{name: "rich: unless", request: []string{"a"}, want: "a-1-1 c-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Recommends: (c unless b)"), pkg("b", "1-1"), pkg("c", "1-1")}},
	{name: "rich: with", request: []string{"a"}, want: "a-1-1 two-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: (api >= 1 with api < 2)"), pkg("one", "1-1", "Provides: api = 2"),
		pkg("two", "1-1", "Provides: api = 1.5")}},
	{name: "rich: without", request: []string{"a"}, want: "a-1-1 two-1-1", dnf: true, packages: []testPackage{
		pkg("a", "1-1", "Requires: (api without broken)"), pkg("one", "1-1", "Provides: api", "Provides: broken"),
		pkg("two", "1-1", "Provides: api")}},
	{name: "an obsoleter", request: []string{"old"}, want: "lib-1-1 new-2-1 old-1-1", dnf: true,
		packages: []testPackage{pkg("old", "1-1"),
			pkg("new", "2-1", "Obsoletes: old < 2", "Provides: old = 2", "Requires: lib"),
			pkg("lib", "1-1"), pkg("never", "1-1", "Obsoletes: old < 1")}},
	{name: "noarch and another architecture", request: []string{"a", "b.i686"}, want: "a-1-1 b-1-1.i686 c-1-1",
		dnf: true, packages: []testPackage{pkg("a@noarch", "1-1", "Requires: c"), pkg("b", "1-1"), pkg("b@i686", "1-1"),
			pkg("c", "1-1"), pkg("c@i686", "1-1"), pkg("d@aarch64", "1-1")}},
	{name: "a capability that is requested", request: []string{"webserver"}, want: "nginx-1-1", dnf: true,
		packages: []testPackage{pkg("nginx", "1-1", "Provides: webserver")}},
	{name: "a pattern", request: []string{"py*"}, want: "pya-1-1 pyb-1-1", packages: []testPackage{
		pkg("pya", "1-1"), pkg("pyb", "1-1"), pkg("ruby", "1-1")}},
	{name: "everything", request: []string{"*"}, want: "a-1-1 a-2-1 b-1-1.i686", packages: []testPackage{
		pkg("a", "1-1"), pkg("a", "2-1"), pkg("b@i686", "1-1"), pkg("c@aarch64", "1-1")}},
	{name: "what rpm itself provides", request: []string{"a"}, want: "a-1-1", packages: []testPackage{
		pkg("a", "1-1", "Requires: rpmlib(PayloadIsZstd) <= 5.4.18-1")}},
	{name: "installed", request: []string{"a"}, installed: "b-1-1.x86_64\nlib-1-1.x86_64", want: "a-1-1 c-1-1",
		packages: []testPackage{pkg("a", "1-1", "Requires: b", "Requires: libx.so.1", "Requires: c"), pkg("b", "2-1"),
			pkg("c", "1-1"), pkg("lib", "1-1", "Provides: libx.so.1")}},
	{name: "installed in a version that is too old", request: []string{"a"}, installed: "lib-1-1.x86_64\n" +
		"lib-common-1-1.noarch\nother-1-1.x86_64", want: "a-1-1 lib-2-1 lib-common-2-1", packages: []testPackage{
		pkg("a", "1-1", "Requires: lib >= 2"), pkg("lib", "2-1", "Source: lib-2-1.src.rpm"),
		pkg("lib-common@noarch", "2-1", "Source: lib-2-1.src.rpm"), pkg("lib-devel", "2-1", "Source: lib-2-1.src.rpm"),
		pkg("other", "2-1")}},
	{name: "a default stream", request: []string{"nginx"}, want: "lib-1-1 nginx-1.20-1", dnf: true, modules: streams,
		packages: modular},
	{name: "a stream that is enabled", request: []string{"nginx"}, enable: []string{"nginx:1.24"},
		want: "nginx-1.24-1 ssl-3-1", modules: streams, packages: modular},
	{name: "a stream that is not enabled", request: []string{"perl"}, want: "perl-5-1", dnf: true, modules: streams,
		packages: modular},
}

// modular are packages of streams, and others of the same names.
var modular = []testPackage{
	pkg("nginx", "1.20-1", "Requires: lib"), pkg("nginx", "1.24-1", "Requires: ssl"), pkg("nginx", "1.26-1"),
	pkg("lib", "1-1"), pkg("ssl", "3-1"), pkg("perl", "5-1"), pkg("perl", "6-1"),
}

const streams = `---
document: modulemd
version: 2
data:
  name: nginx
  stream: "1.20"
  version: 1
  context: c1
  arch: x86_64
  summary: x
  description: x
  license: {module: [MIT]}
  dependencies:
  - requires: {platform: [el9]}
  artifacts: {rpms: ["nginx-0:1.20-1.x86_64"]}
...
---
document: modulemd
version: 2
data:
  name: nginx
  stream: "1.24"
  version: 1
  context: c1
  arch: x86_64
  summary: x
  description: x
  license: {module: [MIT]}
  dependencies:
  - requires: {platform: [el9], ssl: []}
  artifacts: {rpms: ["nginx-0:1.24-1.x86_64"]}
...
---
document: modulemd
version: 2
data:
  name: ssl
  stream: "3"
  version: 1
  context: c1
  arch: x86_64
  summary: x
  description: x
  license: {module: [MIT]}
  artifacts: {rpms: ["ssl-0:3-1.x86_64"]}
...
---
document: modulemd
version: 2
data:
  name: perl
  stream: "6"
  version: 1
  context: c1
  arch: x86_64
  summary: x
  description: x
  license: {module: [MIT]}
  artifacts: {rpms: ["perl-0:6-1.x86_64"]}
...
---
document: modulemd-defaults
version: 1
data:
  module: nginx
  stream: "1.20"
  profiles: {"1.20": []}
...
---
document: modulemd-defaults
version: 1
data:
  module: ssl
  stream: "3"
  profiles: {"3": []}
...
`

func (r *rule) publish(s *site, base string) {
	repo := newRepo(r.packages...)
	repo.base, repo.modules = base, r.modules
	repo.publish(s)
}

func (r *rule) collect(t *testing.T) *ospackages.Result {
	t.Helper()
	s := newSite()
	r.publish(s, host)
	opt := options(t, repoFile("os", "baseurl="+host), r.request...)
	opt.NoRecommends, opt.Modules = r.weakless, r.enable
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
			if got := names(res); got != r.want {
				t.Errorf("got  %s\nwant %s\nwhy %v\nnotes %q", got, r.want, res.Packages, res.Notes)
			}
			for _, u := range res.Unavailable {
				t.Errorf("%s: %s: %v", u.Where, u.Name, u.Err)
			}
		})
	}
}
