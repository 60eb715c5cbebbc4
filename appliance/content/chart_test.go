package content

import (
	"strings"
	"testing"

	"casemate/bundle/lists"
	"casemate/registry"
)

const index = `apiVersion: v1
entries:
  app:
  - {version: 2.0.0-rc.1, urls: [app-2.0.0-rc.1.tgz]}
  - {version: 1.9.0, urls: [app-1.9.0.tgz]}
  - {version: v1.10.0, digest: DIGEST, urls: [charts/app-1.10.0.tgz]}
  - {version: 1.2, urls: ["https://gone.example/app-1.2.0.tgz"]}
  - {version: 1.0.0+build, urls: ["oci://quay.io/charts/app"]}
  - {version: 0.9.0, urls: ["oci://quay.io/charts/app:0.9.0"]}
  - {version: 0.1.0}
  - {version: 0.2.0, urls: ["http://[bad"]}
  - {version: 0.3.0, urls: ["oci://QUAY"]}
`

func TestCheckCharts(t *testing.T) {
	const repo = "https://charts.example/stable"
	s := &shelf{t: t, files: map[string]string{
		repo + "/index.yaml": strings.Replace(index, "DIGEST",
			strings.TrimPrefix(sha256Of("right"), "sha256:"), 1),
		repo + "/charts/app-1.10.0.tgz":  "wrong",
		repo + "/app-1.9.0.tgz":          "chart",
		"https://bad.example/index.yaml": "entries: [",
	},
		images: map[string]registry.Resolution{"quay.io/charts/app:1.0.0_build": {Digest: one}},
		away:   map[string]string{"gone.example": "it is no origin"}}
	for _, c := range []struct {
		repo, version, chart string
		want                 *Finding
	}{
		{repo, "1.9.0", "app", nil},
		{repo + "/", "v1.9.0", "app", nil},
		{repo, "1.0.0+build", "app", nil},
		{repo, "", "app", &Finding{Verdict: VerdictChecksum, Detail: repo + "/charts/app-1.10.0.tgz",
			Want: sha256Of("right"), Got: sha256Of("wrong"), Known: repo + "/index.yaml"}},
		{repo, "2.0.0-rc.1", "app", &Finding{Verdict: VerdictMissing, Detail: repo + "/app-2.0.0-rc.1.tgz"}},
		{repo, "1.2", "app", &Finding{Verdict: VerdictUnreached, Detail: "https://gone.example/app-1.2.0.tgz: it is " +
			"not stored, and it is no origin"}},
		{repo, "0.9.0", "app", &Finding{Verdict: VerdictMissing, Detail: "quay.io/charts/app:0.9.0"}},
		{repo, "0.1.0", "app", &Finding{Verdict: VerdictMissing, Detail: repo +
			"/index.yaml: version 0.1.0 has no URL in the index"}},
		{repo, "0.2.0", "app", &Finding{Verdict: VerdictMissing, Detail: repo +
			`/index.yaml: version 0.2.0: parse "http://[bad": missing ']' in host`}},
		{repo, "5.0.0", "app", &Finding{Verdict: VerdictMissing, Detail: repo +
			"/index.yaml: the index has no such version; its newest are 2.0.0-rc.1, v1.10.0, 1.9.0"}},
		{repo, "1.9.0", "other", &Finding{Verdict: VerdictMissing, Detail: repo +
			"/index.yaml: the repository's index does not list it"}},
		{"https://none.example", "1.9.0", "app", &Finding{Verdict: VerdictMissing,
			Detail: "https://none.example/index.yaml"}},
	} {
		w := lists.Chart{Repo: c.repo, Name: c.chart, Version: c.version, Where: "list:1"}
		r, err := s.checker().Check(t.Context(), CheckRequest{Wanted: lists.Wanted{Charts: []lists.Chart{w}}})
		if err != nil {
			t.Fatal(err)
		}
		name := c.chart + " " + c.version + " of " + c.repo
		if c.version == "" {
			name = c.chart + " newest of " + c.repo
		}
		expect(t, r, c.want, "chart", name)
	}
	for _, c := range []struct{ repo, version, says string }{
		{repo, "0.3.0", "has no registry"},
		{"https://bad.example", "1", "is not an index of charts"},
	} {
		r, err := s.checker().Check(t.Context(), CheckRequest{
			Wanted: lists.Wanted{Charts: []lists.Chart{{Repo: c.repo, Name: "app", Version: c.version}}}})
		if err != nil || r.Missing != 1 || !strings.Contains(r.Findings[0].Detail, c.says) {
			t.Errorf("%s %s: %+v, %v", c.repo, c.version, r, err)
		}
	}
}

// The index is read once for all charts of a repository.
func TestCheckReadsAnIndexOnce(t *testing.T) {
	s := &shelf{t: t, files: map[string]string{"https://charts.example/index.yaml": index,
		"https://charts.example/app-1.9.0.tgz": "chart"}}
	w := lists.Chart{Repo: "https://charts.example", Name: "app", Version: "1.9.0"}
	r, err := s.checker().Check(t.Context(), CheckRequest{Wanted: lists.Wanted{Charts: []lists.Chart{w, w, w}}})
	if err != nil || r.Here != 3 || len(s.opened) != 1 {
		t.Errorf("%+v, %v, opened %v", r, err, s.opened)
	}
}
