package content

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/lists"
	"casemate/fileserver"
)

// hurt does something to every blob's file.
func (s *site) hurt(how func(path string) error) {
	s.t.Helper()
	dir := filepath.Join(s.cfg.Dir, "blobs", "sha256")
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return how(path)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("~~"), 0)
	return errors.Join(err, f.Close())
}

// whole returns how many of the pack's blobs are available.
func (s *site) whole(p *pack) (n int) {
	for _, d := range p.order {
		if _, err := s.tree.HasBlob(s.t.Context(), d); err == nil {
			n++
		}
	}
	return n
}

// Whatever happened to the bytes, importing the same content again repairs them, changes nothing else, and reports
// how many.
func TestImportRepairs(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(path string) error{
		"changed": overwrite,
		"cut":     func(path string) error { return os.Truncate(path, 0) },
		"removed": os.Remove,
	} {
		for _, kind := range []string{bundle.KindBundle, bundle.KindLayout, bundle.KindTree} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				p := sample("a.tar")
				p.kind = kind
				s.must("", p)
				before := s.world()
				s.hurt(how)
				if n := s.whole(p); n != 0 {
					t.Fatalf("%d blobs are whole", n)
				}
				dry, err := s.Import(t.Context(), Request{Inputs: []bundle.Input{{Name: p.file, File: p}},
					DryRun: true})
				if err != nil || dry.Need == 0 || dry.BytesNew != dry.Bytes {
					t.Errorf("dry run: %+v, %v", dry, err)
				}
				r := s.must("", p)
				if n := s.whole(p); r.State != Unchanged || n != len(p.order) {
					t.Errorf("%s: %d of %d blobs are whole: %s", r.State, n, len(p.order), r.Message)
				}
				// The import's own document is one more. What a tree's reader puts has no digest before it is read, and
				// is not counted.
				text := fmt.Sprint("; ", r.Repaired, " blobs that were damaged or lost here are restored")
				said := strings.Contains(r.Message, text)
				if kind != bundle.KindTree && (r.Repaired != len(p.order)+1 || !said) {
					t.Errorf("repaired %d: %s", r.Repaired, r.Message)
				}
				differ(t, s.world(), before)
				if r := s.must("", p); r.State != Unchanged || r.Repaired != 0 ||
					strings.Contains(r.Message, "restored") {
					t.Errorf("once more: %+v", r)
				}
			})
		}
	}
}

// Another import that has the bytes repairs them too.
func TestAnotherImportRepairs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, other := sample("a.tar"), sample("b.tar")
	other.addFile("https://dl.k8s.io/v1/more", []byte("more"))
	s.must("", p)
	s.hurt(overwrite)
	r := s.must("", other)
	n := s.whole(p)
	if r.State != Imported || n != len(p.order) || r.Repaired != n || !strings.Contains(r.Message, "restored") {
		t.Errorf("%+v; %d of %d are whole", r, n, len(p.order))
	}
}

// A bundle that left out blobs that are damaged here cannot bring them, and is refused before anything is read.
func TestDamagedIsNotPromised(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("a.tar")
	s.must("", p)
	later := sample("later.tar")
	later.addFile("https://dl.k8s.io/v1/more", []byte("more"))
	later.index.Since = "sha256:" + hexOf([]byte("inventory"))
	later.order = later.order[len(later.order)-1:]
	for i := range later.index.Blobs {
		later.index.Blobs[i].Omitted = i < len(later.index.Blobs)-1
	}
	s.hurt(overwrite)
	_, err := s.do("", later)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no longer has completely") {
		t.Errorf("%v", err)
	}
	s.must("", p)
	s.must("", later)
}

// Content of which only the name is stored does not count as present.
func TestCheckCountsBytes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("a.tar")
	s.must("", p)
	files := fileserver.New(fileserver.Config{Tree: s.node.Tree().Sub("files")})
	c := &Checker{
		Images: s.reg, Files: files, Open: s.tree.OpenBlob, Has: s.tree.HasBlob,
		Tags: func(string) []string { return nil }, Unreached: func(string) string { return "" },
	}
	req := CheckRequest{Wanted: lists.Wanted{
		Images: []lists.Image{
			{Repository: "docker.io/library/nginx", Tag: "1.29"}, {Repository: "quay.io/team/app", Tag: "2"},
		},
		Files: []lists.File{{URL: "https://dl.k8s.io/v1/kubeadm"}},
	}}
	check := func(when string, here int, platforms ...string) *Report {
		t.Helper()
		req.Platforms = platforms
		r, err := c.Check(t.Context(), req)
		if err != nil || r.Here != here || r.Missing != r.Asked-here {
			t.Errorf("%s: %+v, %v", when, r, err)
		}
		return r
	}
	path := func(text string) string {
		h := hexOf([]byte(text))
		return filepath.Join(s.cfg.Dir, "blobs", "sha256", h[:2], h)
	}
	check("whole", 3)
	if err := overwrite(path("kubeadm")); err != nil {
		t.Fatal(err)
	}
	r := check("a file is damaged", 2)
	if f := r.Findings[0]; f.Verdict != VerdictMissing || !strings.HasPrefix(f.Detail, lostDetail) {
		t.Errorf("%+v", f)
	}
	if err := overwrite(path("layer one")); err != nil {
		t.Fatal(err)
	}
	check("a layer of one platform is damaged", 1)
	req.Images = req.Images[:1]
	check("it was that platform", 0, "linux/a0")
	check("it was another platform", 1, "linux/a1")
	req.Images = append(req.Images, lists.Image{Repository: "quay.io/team/app", Tag: "2"})
	s.hurt(overwrite)
	check("everything is damaged", 0)
	s.must("", p)
	check("imported again", 3)
}
