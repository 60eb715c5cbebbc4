package collect

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"casemate/bundle/digests"
	"casemate/bundle/lists"
)

// What a document is about is not fetched again by Collect, and a document is recorded only if it is wanted.
func TestDocuments(t *testing.T) {
	s := tree(t, map[string]string{"/Release": "release", "/index": "index", "/big": strings.Repeat("b", 100)})
	opt := s.options(t)
	ctx := context.Background()
	d, err := OpenDocuments(opt)
	if err != nil {
		t.Fatal(err)
	}
	b, digest, err := d.Document(ctx, s.URL+"/Release", 10)
	if err != nil || string(b) != "release" || digest != digests.SHA256([]byte("release")) {
		t.Fatalf("got %q, %s, %v", b, digest, err)
	}
	if _, _, err := d.Document(ctx, s.URL+"/gone", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: got %v", err)
	}
	if _, _, err := d.Document(ctx, s.URL+"/big", 99); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("too large: got %v", err)
	}
	if d.Last(s.URL+"/Release", 10) != nil {
		t.Error("a document was recorded before anybody verified it")
	}
	index := digests.SHA256([]byte("index"))
	r, err := d.Content(ctx, s.URL+"/index", index, 5)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "index" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	r.Close()
	for name, at := range map[string]string{"absent": "/gone", "other": "/big"} {
		_, err := d.Content(ctx, s.URL+at, digests.SHA256([]byte("x")), 5)
		if want := map[string]error{"absent": fs.ErrNotExist, "other": syscall.EBADMSG}[name]; !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	s.forget()
	w := &lists.Wanted{Files: []lists.File{
		{URL: s.URL + "/Release", Digest: digest, Size: 7}, {URL: s.URL + "/index", Digest: index, Size: 5},
	}}
	c := collect(t, w, opt)
	if got := contents(t, c); !slices.Equal(got, []string{s.URL + "/Release", s.URL + "/index"}) {
		t.Errorf("got %v", got)
	}
	c.Close()
	if got := s.requests; len(got) != 0 {
		t.Errorf("fetched again: %v", got)
	}
	if d, err = OpenDocuments(opt); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := d.Last(s.URL+"/Release", 10); string(got) != "release" {
		t.Errorf("the last one is %q", got)
	}
}

// A dry run, and a file that the far side holds, need no request if the lists have digest and size.
func TestKnownSizes(t *testing.T) {
	s := tree(t, nil)
	opt := s.options(t)
	opt.DryRun = true
	w := &lists.Wanted{Files: []lists.File{{URL: s.URL + "/a.deb", Digest: digests.SHA256([]byte("a")), Size: 1234}}}
	c := collect(t, w, opt)
	if c.Fetched != 1234 || c.Index.Files[0].Size != 1234 {
		t.Errorf("got %d, %v", c.Fetched, c.Index.Files)
	}
	c.Close()
	opt.DryRun, opt.Since = false, digests.SHA256([]byte("inventory"))
	opt.Have = func(string) bool { return true }
	c = collect(t, w, opt)
	if !c.Index.Blobs[0].Omitted || c.Index.Blobs[0].Size != 1234 {
		t.Errorf("got %v", c.Index.Blobs)
	}
	c.Close()
	if got := s.requests; len(got) != 0 {
		t.Errorf("asked for %v", got)
	}
}

// A file of another size than the lists say is an error, even before its digest is known to be wrong.
func TestWrongSize(t *testing.T) {
	s := tree(t, map[string]string{"/a.deb": "abc"})
	w := &lists.Wanted{Files: []lists.File{{URL: s.URL + "/a.deb", Digest: digests.SHA256([]byte("abc")), Size: 4}}}
	if _, err := Collect(context.Background(), w, s.options(t)); err == nil || !strings.Contains(err.Error(),
		"/a.deb") {
		t.Errorf("got %v", err)
	}
}

// Names that lists know to be unavailable fail like those that cannot be fetched.
func TestUnavailable(t *testing.T) {
	s := tree(t, map[string]string{"/a": "a"})
	w := wantFiles(s.URL + "/a")
	w.Unavailable = []lists.Unavailable{{Name: "package x", Where: "p.list:3", Err: errors.New("no source has it")}}
	opt := s.options(t)
	_, err := Collect(context.Background(), w, opt)
	if err == nil || !strings.Contains(err.Error(), "1 of 2 names could not be collected") ||
		!strings.Contains(err.Error(), "p.list:3: package x: no source has it") {
		t.Errorf("got %v", err)
	}
	opt.KeepGoing = true
	c := collect(t, w, opt)
	defer c.Close()
	if len(c.Absent) != 1 || len(c.Index.Absent) != 1 || c.Index.Absent[0].Name != "package x" {
		t.Errorf("got %v, %v", c.Absent, c.Index.Absent)
	}
}
