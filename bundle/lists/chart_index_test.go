package lists

import (
	"strings"
	"testing"
)

// Where the index leads to a registry, the chart is an image. A tag has "_" where a version has "+"
// (https://helm.sh/docs/topics/registries/).
func TestChartInARegistry(t *testing.T) {
	for ref, want := range map[string]string{
		"registry-1.docker.io/bitnamicharts/nginx:1.2.3":      "docker.io/bitnamicharts/nginx:1.2.3",
		"index.docker.io/bitnamicharts/nginx":                 "docker.io/bitnamicharts/nginx:9.9.9_x",
		"ghcr.io/org/chart":                                   "ghcr.io/org/chart:9.9.9_x",
		"ghcr.io/org/chart@sha256:" + strings.Repeat("a", 64): "ghcr.io/org/chart@sha256:" + strings.Repeat("a", 64),
	} {
		ix, err := ReadChartIndex([]byte("entries: {x: [{version: 9.9.9+x, urls: ['oci://" + ref + "']}]}"))
		if err != nil {
			t.Fatal(err)
		}
		f, i, err := ix.Archive(Chart{Repo: "https://charts.example", Name: "x", Where: "w", Optional: true})
		if err != nil || f != nil || i.Ref() != want || i.Where != "w" || !i.Optional {
			t.Errorf("%s: got %v, %v, %v", ref, f, i, err)
		}
	}
	ix, err := ReadChartIndex([]byte("entries: {x: [{version: 1.0.0, urls: ['oci://UPPER/x y']}]}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ix.Archive(Chart{Name: "x"}); err == nil {
		t.Error("no error")
	}
}

func TestCompareSemver(t *testing.T) {
	// In order, by https://semver.org, 11.
	list := []string{
		"",
		"latest",
		"1.0.0-alpha",
		"1.0.0-alpha.1",
		"1.0.0-alpha.beta",
		"1.0.0-beta",
		"1.0.0-beta.2",
		"1.0.0-beta.11",
		"1.0.0-rc.1",
		"1.0.0",
		"v1.0.1",
		"1.2",
		"1.10.0",
		"2.0.0+b",
		"10.0.0",
		"99999999999999999999999.0.0",
	}
	for i, a := range list {
		for j, b := range list {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := compareSemver(a, b); got != want {
				t.Errorf("%q, %q: got %d, want %d", a, b, got, want)
			}
		}
	}
	if compareSemver("1.0.0+a", "v1.0.0+b") != 0 {
		t.Error("build metadata counts")
	}
}

func FuzzCompareSemver(f *testing.F) {
	f.Add("1.0.0", "1.0.0-rc.1")
	f.Add("v1", "x")
	f.Fuzz(func(t *testing.T, a, b string) {
		if x, y := compareSemver(a, b), compareSemver(b, a); x != -y {
			t.Errorf("%q, %q: %d and %d", a, b, x, y)
		}
	})
}

// For any index.yaml, finding a chart does not panic, and the result has the requested version.
func FuzzChartIndex(f *testing.F) {
	f.Add([]byte("entries: {a: [{version: 1.0.0, urls: [x.tgz], digest: aa}]}"), "a", "1.0.0")
	f.Add([]byte("a: &a [x, x]\nentries: {a: [*a, *a]}"), "a", "")
	f.Add([]byte("a: &a [*a, *a]\nentries: *a"), "a", "1")
	f.Fuzz(func(t *testing.T, b []byte, name, version string) {
		ix, err := ReadChartIndex(b)
		if err != nil {
			return
		}
		w := Chart{Repo: "https://charts.example", Name: name, Version: version}
		if v, err := pick(ix.entries[name], w); err == nil && version != "" &&
			strings.TrimPrefix(v.Version, "v") != strings.TrimPrefix(version, "v") {
			t.Errorf("asked for %q, got %q", version, v.Version)
		}
		if file, image, err := ix.Archive(w); err == nil && (file == nil) == (image == nil) {
			t.Errorf("got %v and %v", file, image)
		}
	})
}
