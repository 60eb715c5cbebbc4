package handover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// After a file of a directory was opened, every other path in it is what it was before: links lead where they lead,
// inside and not outside, and what is no regular file is refused.
func TestDirectoryThatIsKeptOpen(t *testing.T) {
	outside := write(t, t.TempDir()+"/secret", "secret")
	dir := t.TempDir()
	write(t, dir+"/a/b/file", "file")
	write(t, dir+"/other/file", "other")
	write(t, dir+"/top", "top")
	os.Symlink("../../other/file", dir+"/a/b/up")
	os.Symlink("file", dir+"/a/b/beside")
	os.Symlink(outside, dir+"/a/b/out")
	os.Symlink("a", dir+"/linked")
	os.Symlink("../..", dir+"/a/b/root")
	d := newDaemon(t, func(s *Session) {
		defer s.Finish(nil, nil, 0)
		tree := s.Inputs()[0].FS
		for _, c := range []struct{ first, name, want string }{
			{"a/b/file", "a/b/file", "file"},
			{"a/b/file", "a/b/beside", "file"},
			{"a/b/file", "a/b/up", "other"},
			{"a/b/file", "a/b/out", "path escapes"},
			{"a/b/file", "a/b/none", "no such file"},
			{"a/b/file", "a/b/root", "is a directory"},
			{"a/b/file", "a/b/root/top", "top"},
			{"a/b/file", "a/file", "no such file"},
			{"linked/b/file", "linked/b/file", "file"},
			{"linked/b/file", "linked/b/up", "other"},
			{"linked/b/file", "linked/b/out", "path escapes"},
			{"top", "top", "top"},
			{"top", "a", "is a directory"},
		} {
			for _, name := range []string{c.first, c.name} {
				f, err := tree.Open(name)
				if err == nil && name != c.name {
					f.Close()
				}
				if name != c.name {
					continue
				}
				if err == nil && strings.HasPrefix(c.want, "is a") {
					st, _ := f.Stat()
					if !st.IsDir() {
						t.Errorf("%s is no directory", name)
					}
				} else if err == nil {
					if got := readAll(t, f); got != c.want {
						t.Errorf("%s after %s: %q", name, c.first, got)
					}
				} else if !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s after %s: %v", name, c.first, err)
				}
				if err == nil {
					f.Close()
				}
			}
		}
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}

// Files of many directories are opened at once, while each closes the directory that another one uses.
func TestManyDirectoriesAtOnce(t *testing.T) {
	dir := t.TempDir()
	const dirs, files = 5, 40
	for i := range dirs * files {
		write(t, filepath.Join(dir, fmt.Sprint(i%dirs), fmt.Sprint(i)), fmt.Sprint(i))
	}
	d := newDaemon(t, func(s *Session) {
		defer s.Finish(nil, nil, 0)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range dirs * files {
					i = (i + w) % (dirs * files)
					f, err := s.Inputs()[0].FS.Open(fmt.Sprintf("%d/%d", i%dirs, i))
					if err != nil {
						t.Error(err)
						return
					}
					if got := readAll(t, f); got != fmt.Sprint(i) {
						t.Errorf("%d: %q", i, got)
					}
					f.Close()
				}
			})
		}
		wg.Wait()
	})
	if _, err := d.run(t.Context(), Request{}, dir); err != nil {
		t.Error(err)
	}
}
