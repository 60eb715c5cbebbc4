package content

import (
	"context"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/lists"
	"casemate/fileserver"
	"casemate/registry"
)

// mixed adds an index that names a blob, a manifest whose type nobody knows, an index of one image, and one blob that
// is not in the pack.
func (p *pack) mixed(ref string) (blob, child, inner, absent string) {
	repo, _, _ := strings.Cut(ref, ":")
	blob = p.blob([]byte("a layer of a build cache"))
	child = p.image(repo, []byte("child"))
	leaf := p.image(repo, []byte("leaf"))
	entry := func(mediaType, digest, more string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, mediaType, digest, len(p.blobs[digest]), more)
	}
	list := func(entries ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, mediaIndex, strings.Join(entries,
			","))
	}
	inner = p.manifest(repo, mediaIndex, list(entry(mediaManifest, leaf,
		`,"platform":{"os":"linux","architecture":"amd64"}`)))
	absent = "sha256:" + hexOf([]byte("absent"))
	p.manifest(ref, mediaIndex, list(entry("application/vnd.oci.image.layer.v1.tar+gzip", blob, ""),
		entry("application/vnd.example+x", child, ""),
		entry(mediaIndex, inner, ""), entry("application/vnd.buildkit.cacheconfig.v0", absent, "")))
	return blob, child, inner, absent
}

// TestImportIndexOfAnything: what an index names is imported, held from collection, counted by the inventory and
// checked, whatever kind it is, and goes with the import.
func TestImportIndexOfAnything(t *testing.T) {
	s := newSite(t)
	p := newPack("cache.tar")
	blob, child, inner, absent := p.mixed("quay.io/team/cache:v1")
	empty := s.world()
	s.must("cache", p)
	s.gc()
	for _, path := range []string{"blobs/" + blob, "manifests/" + child, "blobs/" + child, "manifests/" + inner,
		"manifests/v1"} {
		w := httptest.NewRecorder()
		s.reg.Serve(w, httptest.NewRequest("GET", "/v2/team/cache/"+path, nil), registry.View{Origin: "quay.io",
			Host: "quay.io"})
		if w.Code != 200 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	kept := maps.Collect(s.tree.Kept())
	for d := range p.blobs {
		if _, ok := kept[d]; !ok {
			t.Errorf("the inventory does not have %s", d)
		}
	}
	c := s.checker()
	r, err := c.Check(t.Context(),
		CheckRequest{Wanted: lists.Wanted{Images: []lists.Image{{Repository: "quay.io/team/cache", Tag: "v1"}}},
			Platforms: []string{"linux/amd64"}})
	if err != nil || r.Here != 1 {
		t.Errorf("for a platform that is two levels down: %+v, %v", r, err)
	}
	r, err = c.Check(t.Context(),
		CheckRequest{Wanted: lists.Wanted{Images: []lists.Image{{Repository: "quay.io/team/cache", Tag: "v1"}}}})
	if err != nil || r.Here != 1 || r.Sparse != 1 || !slices.Equal(r.Findings[0].Platforms, []string{"linux/amd64"}) {
		t.Errorf("without a platform: %+v, %v", r, err)
	}
	if _, ok := kept[absent]; ok {
		t.Error("what is absent is kept")
	}
	if again := s.must("cache", p); again.State != Unchanged {
		t.Errorf("again: %s", again.State)
	}
	if _, err := s.Remove(context.Background(), "cache"); err != nil {
		t.Fatal(err)
	}
	s.gc()
	differ(t, s.world(), empty)
}

// checker asks what is really here; there are no files.
func (s *site) checker() *Checker {
	return &Checker{Images: s.reg, Files: noFiles{}, Open: s.tree.OpenBlob, Tags: func(string) []string { return nil },
		Unreached: func(string) string { return "" }}
}

type noFiles struct{}

func (noFiles) Resolve(context.Context, string) (fileserver.Info, string, error) {
	panic("nobody asks for files")
}

// TestCheckIndexes: what check says of indexes, by what is here of them and what was asked for.
func TestCheckIndexes(t *testing.T) {
	amd, arm, s390 := "linux/amd64", "linux/arm64", "linux/s390x"
	size := func(platform string) registry.WrongSize {
		return registry.WrongSize{Of: one, Digest: two, Says: 3, Has: 7, Platform: platform}
	}
	wrong := one + " states that " + two + " has 3 bytes, but it has 7: containerd refuses it"
	for _, c := range []struct {
		name      string
		found     registry.Resolution
		platforms []string
		want      *Finding
	}{
		{"whole", registry.Resolution{Platforms: []string{amd, arm}}, nil, nil},
		{"sparse", registry.Resolution{Platforms: []string{amd, two}, Absent: []string{arm}, Sparse: true}, nil,
			&Finding{Verdict: VerdictSparse, Detail: "other manifests that it lists are not stored",
				Platforms: []string{amd}}},
		{"sparse, and the platform is here", registry.Resolution{Platforms: []string{amd}, Absent: []string{arm},
			Sparse: true}, []string{amd}, nil},
		{"sparse, and it is not", registry.Resolution{Platforms: []string{amd}, Absent: []string{arm}, Sparse: true},
			[]string{arm}, &Finding{Verdict: VerdictPlatform, Detail: "not for linux/arm64", Platforms: []string{amd}}},
		{"a build cache", registry.Resolution{Platforms: []string{one, two}}, []string{amd}, nil},
		{"a build cache in part", registry.Resolution{Platforms: []string{one, two}, Absent: []string{three},
			Sparse: true},
			nil, &Finding{Verdict: VerdictSparse, Detail: "2 of the 3 that it lists are stored"}},
		{"the same for a platform", registry.Resolution{Platforms: []string{one, two}, Absent: []string{three},
			Sparse: true}, []string{amd}, &Finding{Verdict: VerdictSparse,
			Detail: "2 of the 3 that it lists are stored"}},
		{"a build cache of which nothing is here", registry.Resolution{Absent: []string{three}, Sparse: true},
			[]string{amd},
			&Finding{Verdict: VerdictMissing, Detail: "its index is stored, but none of its manifests"}},
		{"only attestations are here", registry.Resolution{Platforms: []string{one}, Absent: []string{amd},
			Sparse: true},
			[]string{amd}, &Finding{Verdict: VerdictPlatform, Detail: "not for linux/amd64"}},
		{"the same without a platform", registry.Resolution{Platforms: []string{one}, Absent: []string{amd},
			Sparse: true},
			nil, &Finding{Verdict: VerdictMissing, Detail: "its index is stored, but none of its platforms"}},
		{"an image without a layer", registry.Resolution{Platforms: []string{amd}, Missing: []string{two}},
			[]string{amd},
			&Finding{Verdict: VerdictMissing, Detail: "its manifest is stored without " + two}},
		{"a wrong size for all", registry.Resolution{Platforms: []string{amd}, Wrong: []registry.WrongSize{size(""),
			size("")}}, []string{amd}, &Finding{Verdict: VerdictSize, Detail: wrong + "; and 1 more"}},
		{"a wrong size for the platform", registry.Resolution{Platforms: []string{amd},
			Wrong: []registry.WrongSize{size(amd)}}, []string{amd}, &Finding{Verdict: VerdictSize, Detail: wrong}},
		{"a wrong size for another platform", registry.Resolution{Platforms: []string{amd, s390},
			Wrong: []registry.WrongSize{size(s390)}}, []string{amd}, nil},
		{"a wrong size for any platform", registry.Resolution{Platforms: []string{amd, s390},
			Wrong: []registry.WrongSize{size(s390)}}, nil, &Finding{Verdict: VerdictSize, Detail: wrong}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &shelf{t: t, images: map[string]registry.Resolution{"quay.io/x:1": c.found}}
			r, err := s.checker().Check(t.Context(),
				CheckRequest{Wanted: lists.Wanted{Images: []lists.Image{{Repository: "quay.io/x", Tag: "1",
					Where: "list:1"}}}, Platforms: c.platforms})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, c.want, "image", "quay.io/x:1")
		})
	}
}
