package content

import (
	"strings"
	"testing"

	"casemate/bundle/lists"
	"casemate/cluster/treetest"
	"casemate/fileserver"
	"casemate/registry"
)

// TestOneRuleForNames checks that bundle create and import accept the same names: a name that is valid by the shared
// rule is accepted by the services that store it, and an invalid one is refused by them as written.
func TestOneRuleForNames(t *testing.T) {
	reg, err := registry.Open(registry.Config{Tree: treetest.New(t), Canonical: func(h string) (string, bool) {
		return h, h == "docker.io"
	}, Origins: func() []string { return []string{"docker.io"} }})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 128) + "/" + strings.Repeat("y", 115)
	for _, host := range []string{"", "docker.io/", "quay.io/", "harbor:443/", "Harbor/", "localhost/",
		"localhost:443/", "10.0.0.1:5000/", "10.0.0.1/", "[fd00::1]:5000/", "registry.example.com:5000/",
		"a_b.example/"} {
		for _, path := range []string{"app", "team/app", "a.b/c", "a..b", "A", "a_b", "a___b", "a-/b", "-a", "", "a//b",
			long, long + "yyyyyyyyyyyyy"} {
			repository := host + path
			place, err := lists.Place(repository)
			if err != nil {
				if _, taken := reg.TreeName(repository, "1", ""); taken == nil {
					t.Errorf("%s is refused by the rule and taken by the registry: %v", repository, err)
				}
				continue
			}
			if _, err := reg.TreeName(place, "1", ""); err != nil {
				t.Errorf("%s has the place %s, which the registry refuses: %v", repository, place, err)
			}
		}
	}
	for _, host := range []string{"dl.k8s.io", "DL.k8s.io:8443", "localhost:8080", "10.0.0.1:80", "[fd00::1]",
		"-a.example", "a..example", "a_b.example", "bücher.example", strings.Repeat("a.", 127)} {
		for _, path := range []string{"", "/", "/a", "/a/", "/a%2Fb", "/@scope%2fname", "/%2F", "/a/..%2Fb", "/a/./b",
			"/a//b", "/%00", "/%7f", "/a%20b?x=%zz&y=%41", "/a?" + strings.Repeat("q", 1100),
			"/a?" + strings.Repeat("/", 340),
			"/" + strings.Repeat("x", 255), "/" + strings.Repeat("x", 256), "/" + strings.Repeat("%20", 200) + "/a",
			"/" + strings.Repeat("a/", 64), "/" + strings.Repeat("a/", 65),
			"/" + strings.Repeat(strings.Repeat("x", 200)+"/", 10),
			"/" + strings.Repeat(strings.Repeat("x", 200)+"/", 11)} {
			raw := "https://" + host + path
			at, err := lists.PlaceURL(raw)
			_, kept := fileserver.KeyIn(raw, func(h string) (string, bool) { return h, true })
			if (err == nil) != (kept == nil) {
				t.Errorf("%.120s: the rule says %v, the files say %v", raw, err, kept)
			}
			if err == nil {
				a, _ := fileserver.KeyIn(raw, func(h string) (string, bool) { return h, true })
				if b, err := fileserver.KeyIn(at, func(h string) (string, bool) { return h, true }); a != b {
					t.Errorf("%s and its place %s are %s and %s, %v", raw, at, a, b, err)
				}
			}
		}
	}
}
