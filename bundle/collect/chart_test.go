package collect

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/lists"
)

func TestCollectCharts(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "charts/oci", "1.0.0_build", "linux/amd64", "chart")
	other := tree(t, map[string]string{"/far/abs-1.0.0.tgz": "\x1f\x8babs"})
	index := fmt.Sprintf(`apiVersion: v1
entries:
  rel:
  - version: 1.2.0
    urls: [rel-1.2.0.tgz]
    digest: %s
    created: "2020-01-01T00:00:00Z"
  - {version: 1.10.0, urls: [charts/rel-1.10.0.tgz], digest: "sha256:%s"}
  - {version: 2.0.0-rc.1, urls: [rel-2.0.0-rc.1.tgz]}
  abs:
  - {version: v1.0.0, urls: ["%s/far/abs-1.0.0.tgz"]}
  oci:
  - {version: 1.0.0+build, urls: ["oci://%s/charts/oci"]}
  bad:
  - {version: 1.0.0, urls: [bad.tgz], digest: %s}
  digest:
  - {version: 1.0.0, urls: [bad.tgz], digest: nonsense}
  none:
  - {version: 1.0.0}
  rcs:
  - {version: 1.0.0-rc.1, urls: [x]}
`, hexSum("\x1f\x8b120"), hexSum("\x1f\x8b1100"), other.URL, u.host, hexSum("\x1f\x8bright"))
	s := tree(t, map[string]string{
		"/stable/index.yaml": index, "/stable/rel-1.2.0.tgz": "\x1f\x8b120",
		"/stable/charts/rel-1.10.0.tgz": "\x1f\x8b1100", "/stable/charts/rel-1.10.0.tgz.prov": "signed",
		"/stable/bad.tgz": "\x1f\x8bwrong", "/yaml/index.yaml": "entries: [",
		"/odd/index.yaml": "<html>no such repository",
	})
	chart := func(repo, name, version string) lists.Chart {
		return lists.Chart{Repo: s.URL + repo, Name: name, Version: version, Where: "charts.list:" + name}
	}
	opt := s.options(t)
	good := &lists.Wanted{
		Charts: []lists.Chart{
			chart("/stable", "rel", ""),
			chart("/stable/", "rel", "v1.2.0"),
			chart("/stable", "abs", "1.0.0"),
			chart("/stable", "oci", "1.0.0+build"),
		},
	}
	c := collect(t, good, opt)
	var got []string
	for _, n := range contents(t, c) {
		got = append(got, strings.TrimPrefix(strings.TrimPrefix(n, s.URL), other.URL))
	}
	slices.Sort(got)
	want := []string{
		u.host + "/charts/oci:1.0.0_build",
		"/stable/index.yaml",
		"/stable/rel-1.2.0.tgz",
		"/stable/charts/rel-1.10.0.tgz",
		"/stable/charts/rel-1.10.0.tgz.prov",
		"/far/abs-1.0.0.tgz",
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if n := len(s.asked("/stable/index.yaml")); n != 1 {
		t.Errorf("the index was asked for %d times", n)
	}
	c.Close()
	opt.DryRun = true
	collect(t, good, opt).Close()
	opt.DryRun = false

	_, err := Collect(t.Context(), &lists.Wanted{Charts: []lists.Chart{
		chart(
			"/stable",
			"bad",
			"",
		), chart("/stable", "digest", ""), chart("/stable", "none", ""), chart("/stable", "rcs", ""), chart("/stable",
			"missing", ""),
		chart("/stable", "rel", "3.0.0"), chart("/yaml", "x", ""), chart("/odd", "x", ""), chart("/nowhere", "x", ""),
	}}, opt)
	var ce *Error
	if !errors.As(err, &ce) || len(ce.Failed) != 9 {
		t.Fatalf("got %v", err)
	}
	for i, want := range []string{
		"its checksum is wrong", "which is not a digest", "no URL", "only pre-releases, name one of them: " +
			"1.0.0-rc.1", "does not list it",
		"its newest are 2.0.0-rc.1, 1.10.0, 1.2.0", "not an index of charts", "not an index of charts", "404",
	} {
		if f := ce.Failed[i]; !strings.Contains(f.Err.Error(), want) || !strings.HasPrefix(f.Name, "chart ") ||
			!strings.HasPrefix(f.Where, "charts.list:") {
			t.Errorf("got %+v, want %q", f, want)
		}
	}
}
