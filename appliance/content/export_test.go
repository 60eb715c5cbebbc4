package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/oci"
	"casemate/cluster"
)

// exported exports a selection and returns it as what another site imports.
func (s *site) exported(sel Selection) (*Exported, *pack) {
	s.t.Helper()
	out, err := s.Export(s.t.Context(), sel)
	if err != nil {
		s.t.Fatal(err)
	}
	p := newPack("copy.tar")
	p.index = out.Index
	for _, b := range out.Index.Blobs {
		r, err := s.tree.OpenBlob(s.t.Context(), b.Digest)
		if err != nil {
			s.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			s.t.Fatal(err)
		}
		if int64(len(data)) != b.Size {
			s.t.Errorf("%s has %d bytes and the index says %d", b.Digest, len(data), b.Size)
		}
		p.blobs[b.Digest], p.order = data, append(p.order, b.Digest)
	}
	return out, p
}

// everything is a pack with each kind of name: an index, a referrer, a cosign tag, a redirect, provenance.
func everything() *pack {
	p := sample("base.tar")
	subject := p.index.Images[len(p.index.Images)-1].Digest
	config := p.blob([]byte("{}"))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/sbom",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
		`"subject":{"mediaType":%q,"digest":%q,"size":1}}`, mediaManifest, config, mediaManifest, subject)
	p.manifest("quay.io/team/app", mediaManifest, text)
	p.image("quay.io/team/app:"+fileOf(subject)+".sig", []byte("signature"))
	p.index.Redirects = []bundle.Redirect{{From: "https://dl.k8s.io/stable", To: "https://dl.k8s.io/v1/kubeadm"}}
	p.index.Files[0].From, p.index.Files[0].On = "https://cdn.example/x", "2026-01-02"
	p.index.Images[0].On = "2026-01-01"
	p.index.Absent = []bundle.Absent{{Name: "quay.io/gone:1", Why: "it was not there"}}
	return p
}

// names lists the names of an index with their digests and provenance.
func namesIn(ix *bundle.Index) []string {
	list := []string{}
	for _, m := range ix.Images {
		list = append(list, fmt.Sprint(m.Ref(), " ", m.Digest, " ", m.MediaType, m.Provenance))
	}
	for _, f := range ix.Files {
		list = append(list, fmt.Sprint(f))
	}
	for _, r := range ix.Redirects {
		list = append(list, fmt.Sprint(r))
	}
	for _, a := range ix.Absent {
		list = append(list, fmt.Sprint(a))
	}
	slices.Sort(list)
	return list
}

func blobsIn(ix *bundle.Index) []string {
	list := []string{}
	for _, b := range ix.Blobs {
		list = append(list, fmt.Sprint(b))
	}
	slices.Sort(list)
	return list
}

// TestExportOfAnImport: what an import brought is a bundle again, and a second cluster that imports it has the same
// names and the same inventory.
func TestExportOfAnImport(t *testing.T) {
	t.Parallel()
	a, b := newSite(t), newSite(t)
	p := everything()
	a.must("base", p)
	out, copied := a.exported(Selection{Imports: []string{"base"}})
	if got, want := namesIn(out.Index), namesIn(p.index); !slices.Equal(got, want) {
		t.Errorf("names\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, want := blobsIn(out.Index), blobsIn(p.index); !slices.Equal(got, want) {
		t.Errorf("blobs\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(out.Findings) > 0 || len(out.Notes) > 0 {
		t.Errorf("findings %v, notes %v", out.Findings, out.Notes)
	}
	b.must("base", copied)
	kept := func(s *site) map[string]int64 {
		index := map[string]bool{}
		for name, info := range s.tree.Walk(importsDir, "") {
			if strings.HasSuffix(name, "/index") {
				index[info.(interface{ Digest() string }).Digest()] = true
			}
		}
		m := maps.Collect(s.tree.Kept())
		maps.DeleteFunc(m, func(d string, _ int64) bool { return index[d] })
		return m
	}
	if got, want := kept(b), kept(a); !maps.Equal(got, want) {
		t.Errorf("the inventory is %v, want %v", got, want)
	}
	if got, want := b.sees(p), wanted(p); !maps.Equal(got, want) {
		t.Errorf("clients get %v, want %v", got, want)
	}
	again, _ := b.exported(Selection{Imports: []string{"base"}})
	if got, want := must(again.Index.Encode()), must(out.Index.Encode()); string(got) != string(want) {
		t.Errorf("the second copy differs:\n%s\nwant\n%s", got, want)
	}
	all, _ := b.exported(Selection{Everything: true})
	all.Index.Absent = out.Index.Absent
	if got, want := must(all.Index.Encode()), must(out.Index.Encode()); string(got) != string(want) {
		t.Errorf("everything differs from the only import:\n%s\nwant\n%s", got, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestExportOfClaims: an import is exported as it was, even where newer content hides it; of two the newer counts; and
// everything is what clients get.
func TestExportOfClaims(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old, fresh := newPack("old.tar"), newPack("new.tar")
	oldImage, newImage := old.image("quay.io/app:1", []byte("old")), fresh.image("quay.io/app:1", []byte("new"))
	oldFile := old.addFile("https://dl.k8s.io/f", []byte("old file"))
	newFile := fresh.addFile("https://dl.k8s.io/f", []byte("new file"))
	old.addFile("https://dl.k8s.io/only", []byte("only old"))
	s.must("old", old)
	s.pass(1)
	s.must("new", fresh)
	byHand := old.addFile("https://dl.k8s.io/hand", []byte("only old")) // a digest that is stored
	if err := s.tree.Update(t.Context(), func(b cluster.Batch) error {
		b.Link("files/dl.k8s.io/hand?", byHand)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		sel         Selection
		image, file string
		files       int
	}{
		{"the hidden one", Selection{Imports: []string{"old"}}, oldImage, oldFile, 2},
		{"the visible one", Selection{Imports: []string{"new"}}, newImage, newFile, 1},
		{"both", Selection{Imports: []string{"old", "new"}}, newImage, newFile, 2},
		{"both, in the other order", Selection{Imports: []string{"new", "old"}}, newImage, newFile, 2},
		{"everything", Selection{Everything: true}, newImage, newFile, 3},
	} {
		out, _ := s.exported(tt.sel)
		got := map[string]string{}
		for _, m := range out.Index.Images {
			got[m.Ref()] = m.Digest
		}
		for _, f := range out.Index.Files {
			got[f.URL] = f.Digest
		}
		if got["quay.io/app:1"] != tt.image || got["https://dl.k8s.io/f"] != tt.file ||
			len(out.Index.Files) != tt.files {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	for name, want := range map[string]error{"nothing": fs.ErrNotExist, "No Name": fs.ErrInvalid} {
		if _, err := s.Export(t.Context(), Selection{Imports: []string{name}}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	parts := sample("half.tar").split(2)
	s.must("half", parts[0])
	if _, err := s.Export(t.Context(), Selection{Imports: []string{"half"}}); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "not complete") {
		t.Errorf("an incomplete import: %v", err)
	}
}

// TestExportOfNames: an image of a list comes with what it lists for the platforms and with what is attached to it,
// and with nothing else of its repository.
func TestExportOfNames(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := everything()
	p.image("quay.io/team/app:3", []byte("another"))
	s.must("base", p)
	const tags = "registry/repositories/%s/_manifests/tags/%s/current/link"
	for _, tt := range []struct {
		name      string
		path      string
		platforms []oci.Platform
		images    int
		sparse    bool
	}{
		{"an index", fmt.Sprintf(tags, "docker.io/library/nginx", "1.29"), nil, 3, false},
		{"one platform", fmt.Sprintf(tags, "docker.io/library/nginx", "1.29"),
			[]oci.Platform{{OS: "linux", Architecture: "a1"}}, 2, true},
		{"with its referrer and its signature", fmt.Sprintf(tags, "quay.io/team/app", "2"), nil, 3, false},
		{"alone", fmt.Sprintf(tags, "quay.io/team/app", "3"), nil, 1, false},
		{"deleted meanwhile", fmt.Sprintf(tags, "quay.io/team/app", "4"), nil, 0, false},
		{"no name of a client", "imports/base/record", nil, 0, false},
	} {
		out, _ := s.exported(Selection{Names: []string{tt.path}, Platforms: tt.platforms})
		sparse := slices.ContainsFunc(out.Index.Images, func(m bundle.Image) bool { return m.Sparse })
		if len(out.Index.Images) != tt.images || sparse != tt.sparse || len(out.Findings) > 0 {
			t.Errorf("%s: %v, findings %v", tt.name, namesIn(out.Index), out.Findings)
		}
	}
}

// TestExportOfLostBytes: a name whose bytes are lost is a finding, and the others are exported.
func TestExportOfLostBytes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPack("a.tar")
	p.image("quay.io/app:1", []byte("layer of one"))
	p.image("quay.io/app:2", []byte("layer of two"))
	p.addFile("https://dl.k8s.io/f", []byte("lost file"))
	p.addFile("https://dl.k8s.io/g", []byte("file"))
	s.must("a", p)
	lost := map[string]bool{hexOf([]byte("layer of two")): true, hexOf([]byte("lost file")): true}
	found := 0
	if err := filepath.WalkDir(s.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if lost[d.Name()] {
			found++
			return os.Remove(path)
		}
		return err
	}); err != nil || found != len(lost) {
		t.Fatal(found, err)
	}
	for range 2 { // the first read of the bytes notices that they are lost
		for d := range lost {
			if r, err := s.tree.OpenBlob(t.Context(), "sha256:"+d); err == nil {
				io.Copy(io.Discard, r)
				r.Close()
			}
		}
	}
	out, err := s.Export(t.Context(), Selection{Everything: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range out.Findings {
		names = append(names, f.Kind+" "+f.Name)
	}
	if want := []string{"file https://dl.k8s.io/f", "image quay.io/app:2"}; !slices.Equal(names, want) ||
		len(out.Index.Images) != 1 || len(out.Index.Files) != 1 {
		t.Errorf("findings %v, want %v; %v", names, want, namesIn(out.Index))
	}

	// What an image needs is fetched if that is possible, and otherwise the finding says why not.
	for _, why := range []error{errors.New("the origin is gone"), nil} {
		out, err := s.Export(t.Context(), Selection{Everything: true, Fetch: func(ctx context.Context, repository,
			digest string) error {
			if repository != "quay.io/app" || !lost[strings.TrimPrefix(digest, "sha256:")] {
				t.Errorf("asked for %s of %s", digest, repository)
			}
			if why != nil {
				return why
			}
			w, err := s.tree.CreateBlob("")
			if err == nil {
				defer w.Close()
				if _, err = io.WriteString(w, "layer of two"); err == nil {
					_, err = w.Commit(ctx, digest)
				}
			}
			return err
		}})
		if err != nil {
			t.Fatal(err)
		}
		if f := out.Findings[len(out.Findings)-1]; (len(out.Index.Images) == 2) != (why == nil) ||
			why != nil && !strings.Contains(f.Detail, why.Error()) {
			t.Errorf("%v: %v, findings %v", why, namesIn(out.Index), out.Findings)
		}
	}
}
