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

// A package's file that is not the one of its index, by its size, its sum or its signature, is a finding with the line
// of the list and the index that say otherwise.
func TestWrongPackage(t *testing.T) {
	right := "abc"
	for _, c := range []struct {
		name, served string
		size         int64
		check        func(io.Reader) error
		says         string
	}{
		{"a longer one", "abcd", 3, nil, "4 bytes"},
		{"a shorter one", "ab", 3, nil, "2 bytes"},
		{"nothing", "", 3, nil, "0 bytes"},
		{"the index lies about the size", right, 4, nil, "4"},
		{"another one of the same size", "abd", 3, nil, "the index of stable"},
		{"another one, of no known size", "abcd", -1, nil, "the index of stable"},
		{"a wrong signature", right, 3, func(io.Reader) error { return errors.New("it is not signed") },
			"it is not signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"/pool/a.deb", "/Packages/a.rpm"} {
				s := tree(t, map[string]string{name: c.served, "/good": "good"})
				w := wantFiles(s.URL + "/good")
				w.Files = append(w.Files, lists.File{URL: s.URL + name, Digest: digests.SHA256([]byte(right)),
					Known: "the index of stable", Size: c.size, Where: "p.list:3", Check: c.check})
				opt := s.options(t)
				_, err := Collect(context.Background(), w, opt)
				if err == nil || !strings.Contains(err.Error(), "p.list:3") || !strings.Contains(err.Error(), name) ||
					!strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want %q", err, c.says)
				}
				opt.KeepGoing = true
				part := collect(t, w, opt)
				if len(part.Index.Absent) != 1 || part.Index.Absent[0].Name != s.URL+name ||
					len(part.Index.Files) != 1 {
					t.Errorf("in the bundle: absent %v, files %v", part.Index.Absent, part.Index.Files)
				}
				part.Close()
			}
		})
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
