package handover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"dl.k8s.io/release/v1/kubeadm", "dl.k8s.io/release/v1/kubectl", "github.com/a b/c#d",
		"top"} {
		write(t, filepath.Join(dir, name), "content of "+name)
	}
	d := newDaemon(t, func(s *Session) {
		in := s.Inputs()[0]
		err := fstest.TestFS(in.FS, "dl.k8s.io/release/v1/kubeadm", "dl.k8s.io/release/v1/kubectl",
			"github.com/a b/c#d", "top")
		if err == nil {
			// fstest wants to see links as such (fs.ReadLinkFS); here they are followed, so this one comes after it.
			if err := os.Symlink("release", dir+"/dl.k8s.io/stable"); err != nil {
				t.Error(err)
			}
			f, openErr := in.FS.Open("dl.k8s.io/stable/v1/kubectl")
			if openErr != nil {
				t.Error(openErr)
			} else {
				if _, ok := f.(*os.File); !ok {
					t.Errorf("a regular file is %T", f)
				}
				if got := readAll(t, f); got != "content of dl.k8s.io/release/v1/kubectl" {
					t.Errorf("got %q", got)
				}
				f.Close()
			}
		}
		s.Finish("done", err, 400)
	})
	if got, err := d.run(t.Context(), Request{}, dir); got != `"done"` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// No file outside of the directory is opened, and only regular files are; the error for a name that does not exist is
// fs.ErrNotExist.
func TestDirectoryKeepsInside(t *testing.T) {
	outside := write(t, t.TempDir()+"/secret", "secret")
	dir := t.TempDir()
	write(t, dir+"/sub/file", "x")
	os.Symlink(outside, dir+"/absolute")
	os.Symlink("../../../../../../etc/passwd", dir+"/sub/up")
	os.Symlink("loop", dir+"/loop")
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, func(s *Session) {
		tree := s.Inputs()[0].FS
		for _, c := range []struct {
			name string
			is   error
			says string
		}{
			{"absolute", nil, "path escapes"},
			{"sub/up", nil, "path escapes"},
			{"loop", nil, "too many"},
			{"fifo", nil, "neither a regular file nor a directory"},
			{"../x", fs.ErrInvalid, ""},
			{"/etc/passwd", fs.ErrInvalid, ""},
			{"sub//file", fs.ErrInvalid, ""},
			{"none", fs.ErrNotExist, "no such file"},
			{"sub/file/x", nil, "not a directory"},
		} {
			f, err := tree.Open(c.name)
			if err == nil {
				f.Close()
			}
			var p *fs.PathError
			if !errors.As(err, &p) || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) ||
				p.Path != filepath.Join(dir, c.name) {
				t.Errorf("open %s: %v", c.name, err)
			}
		}
		// A daemon that violates fs.ValidPath gets nothing either.
		for _, path := range []string{"../" + filepath.Base(filepath.Dir(outside)) + "/secret", outside, ""} {
			if a, err := s.ask(ask{Op: opOpen, Path: path}); err == nil {
				t.Errorf("the command opened %q: %+v", path, a)
			}
		}
		for _, bad := range []ask{{Op: opOpen, Input: 7, Path: "sub"}, {Op: opOpen, Input: -1, Path: "sub"}, {
			Op: "rm", Path: "sub"}, {Op: opEnd}, {Op: opReadDir, Dir: 99}, {Op: opCloseDir, Dir: 99}} {
			if _, err := s.ask(bad); err == nil {
				t.Errorf("%+v is answered", bad)
			}
		}
		list, err := fs.ReadDir(tree, ".")
		if got := fmt.Sprint(list); err != nil || got != "[L absolute p fifo L loop d sub/]" {
			t.Errorf("%s, %v", got, err)
		}
		s.Finish(nil, nil, 0)
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}

// A directory of any size is read page by page, and a name that is not UTF-8 is returned unchanged.
func TestHugeDirectory(t *testing.T) {
	dir := t.TempDir()
	const n = 3*pageSize + 7
	for i := range n - 1 {
		write(t, fmt.Sprintf("%s/f%05d", dir, i), "")
	}
	write(t, dir+"/\xff", "")
	d := newDaemon(t, func(s *Session) {
		defer s.Finish(nil, nil, 0)
		f, err := s.Inputs()[0].FS.Open(".")
		if err != nil {
			t.Error(err)
			return
		}
		seen := map[string]bool{}
		for {
			list, err := f.(fs.ReadDirFile).ReadDir(100)
			for _, e := range list {
				seen[e.Name()] = true
			}
			if page := f.(*dirFile).page; len(page) > pageSize {
				t.Errorf("%d entries are held", len(page))
			}
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		if len(seen) != n || !seen["\xff"] {
			t.Errorf("%d names of %d, %v", len(seen), n, seen["\xff"])
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.(fs.ReadDirFile).ReadDir(1); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}

func TestManyOpensAtOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		write(t, fmt.Sprintf("%s/%d", dir, i), fmt.Sprint("content ", i))
	}
	d := newDaemon(t, func(s *Session) {
		var wg sync.WaitGroup
		for w := range 40 {
			wg.Go(func() {
				for i := range 50 {
					i := (i + w) % 50
					text, err := fs.ReadFile(s.Inputs()[0].FS, fmt.Sprint(i))
					if err != nil || string(text) != fmt.Sprint("content ", i) {
						t.Errorf("%d: %q, %v", i, text, err)
						return
					}
				}
			})
		}
		wg.Wait()
		s.Finish(nil, nil, 0)
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}
