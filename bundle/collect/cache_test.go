package collect

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"casemate/bundle/collect/cache"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
)

func TestCacheIsForOneRun(t *testing.T) {
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	opt := quick(t)
	opt.Cache = dir
	if _, err := Collect(t.Context(), &lists.Wanted{}, opt); err == nil ||
		!strings.Contains(err.Error(), "used by another run") {
		t.Errorf("got %v", err)
	}
	c.Close()
	collect(t, &lists.Wanted{}, opt)
}

func TestDamagedBlobsAreFetchedAgain(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "layer")
	opt := quick(t)
	w := wantImages(u.host + "/x:v1")
	digest := digests.SHA256([]byte("layer"))
	for _, damage := range []string{"lAyer", "lay", "layer and more"} {
		c := collect(t, w, opt)
		if err := os.WriteFile(c.cache.BlobPath(digest), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		if len(damage) == len("layer") {
			// The reader of exactly the size sees it too.
			r, err := c.Open(digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
				t.Errorf("the first bytes: %v", err)
			}
			if n, err := r.Read(make([]byte, 2)); !errors.Is(err, syscall.EBADMSG) {
				t.Errorf("the last bytes: %d, %v", n, err)
			}
			r.Close()
			if _, err := c.Open(digest); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
		}
		c.Close()
		u.forget()
		c = collect(t, w, opt)
		contents(t, c)
		if n := u.count("GET", "/blobs/"); n != 1 {
			t.Errorf("%q: fetched %d times", damage, n)
		}
		c.Close()
	}
}

func TestDamagedRecordsAndManifests(t *testing.T) {
	u := newUpstream(t)
	d := u.picture(t, "x", "v1", "linux/amd64", "layer")
	s := tree(t, map[string]string{"/f.txt": "F"})
	opt := s.options(t)
	w := wantImages(u.host + "/x:v1")
	w.Files = wantFiles(s.URL + "/f.txt").Files
	c := collect(t, w, opt)
	if err := os.WriteFile(c.cache.BlobPath(d.Digest), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"urls", "names"} {
		list, err := os.ReadDir(opt.Cache + "/" + dir)
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: %d, %v", dir, len(list), err)
		}
		for _, e := range list {
			if err := os.WriteFile(opt.Cache+"/"+dir+"/"+e.Name(), []byte(`{"digest":"../../x"`), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Close()
	contents(t, collect(t, w, opt))
}

func TestFullDiskEndsTheRun(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err) // not on macOS
	}
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "layer")
	opt := quick(t)
	c, err := cache.Open(opt.Cache)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	// A part that is a device without room.
	if err := os.Symlink("/dev/full", opt.Cache+"/parts/"+cache.FileName(digests.SHA256([]byte("layer")))); err != nil {
		t.Fatal(err)
	}
	_, err = Collect(t.Context(), wantImages(u.host+"/x:v1"), opt)
	var (
		local cache.DiskError
		names *Error
	)
	if !errors.As(err, &local) || errors.As(err, &names) {
		t.Errorf("got %v", err)
	}
}
