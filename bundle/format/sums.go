package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"casemate/bundle"
)

// checksumFile is the list of checksums of the bundle's files during writing. It is also the lock that prevents two
// runs from writing the same bundle.
type checksumFile struct {
	f   *os.File
	sum map[string]string // hex of the sha256 by file name without directory
}

// openChecksumFile opens the list, empty or as an interrupted run left it.
func openChecksumFile(name string) (*checksumFile, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		s := &checksumFile{f: f, sum: map[string]string{}}
		ok, err := s.lock()
		if err == nil && ok {
			err = s.load()
		}
		if err == nil && ok {
			return s, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// lock takes the lock. It returns false if the previous holder renamed the file.
func (s *checksumFile) lock() (bool, error) {
	switch err := syscall.Flock(int(s.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, fmt.Errorf("%s: another run is writing this bundle", s.f.Name())
	case err != nil && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOLCK) && !errors.Is(err,
		syscall.ENOSYS):
		return false, fmt.Errorf("lock %s: %w", s.f.Name(), err)
	}
	mine, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(s.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, named), err
}

func (s *checksumFile) load() error {
	b, err := io.ReadAll(io.LimitReader(s.f, maxPartDoc))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if ok && len(sum) == 64 && strings.HasSuffix(line, "\n") {
			s.sum[name] = sum
		}
	}
	return nil
}

// save writes the known checksums of the named files, durably.
func (s *checksumFile) save(names []string) error {
	var b bytes.Buffer
	for _, n := range names {
		if sum, ok := s.sum[n]; ok {
			fmt.Fprintf(&b, "%s  %s\n", sum, n)
		}
	}
	if err := s.f.Truncate(0); err != nil {
		return err
	}
	if _, err := s.f.WriteAt(b.Bytes(), 0); err != nil {
		return err
	}
	return s.f.Sync()
}

func (s *checksumFile) close() error { return s.f.Close() }

// publish gives the complete files their final names. After a crash in between, the next run finds every part complete
// under one name or the other and renames the rest.
func (w *writer) publish() (files []string, err error) {
	// A caller that gets an error must not find a result: renamed files get their partial names back.
	defer func() {
		if err != nil {
			for _, name := range files {
				err = errors.Join(err, os.Rename(name, name+partialSuffix))
			}
			files = nil
		}
	}()
	for n := range w.partition.parts {
		name := w.file(n + 1)
		err := os.Rename(name+partialSuffix, name)
		if err != nil && !(w.complete[n+1] && errors.Is(err, fs.ErrNotExist)) {
			return files, err
		}
		files = append(files, name)
	}
	if err := w.removeStale(); err != nil {
		return files, err
	}
	if err := os.Rename(w.checksums.f.Name(), w.path+".sha256"); err != nil {
		return files, err
	}
	return files, syncDir(filepath.Dir(w.path))
}

// ExistingFile returns the complete file that writing a bundle to path would overwrite, or "". Files that an
// interrupted run has renamed already do not count, and neither do the parts of a bundle of which others are missing:
// the same call writes those again.
func ExistingFile(path string, split bool) (string, error) {
	names := []string{path}
	if split {
		names = []string{path + ".001", path + ".sha256"}
	}
	begun := readChecksums(path + ".sha256" + partialSuffix)
	for name := range readChecksums(path + ".sha256") {
		if _, err := os.Lstat(filepath.Join(filepath.Dir(path), name)); split && errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
	}
	for _, name := range names {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return "", err
		}
		if _, err := os.Lstat(name + partialSuffix); begun[filepath.Base(name)] == "" || err == nil {
			return name, nil
		}
	}
	return "", nil
}

// readChecksums reads a list of checksums; an unreadable list is empty.
func readChecksums(name string) map[string]string {
	s := &checksumFile{sum: map[string]string{}}
	if f, err := os.Open(name); err == nil {
		s.f = f
		_ = s.load()
		_ = s.close()
	}
	return s.sum
}

// removeStale removes the parts of an older bundle of the same name that had more parts: nobody could tell them from
// the parts of this one.
func (w *writer) removeStale() error {
	if w.split == 0 {
		return nil
	}
	for n := len(w.partition.parts) + 1; n <= maxParts; n++ {
		found := false
		for _, name := range []string{w.file(n), w.file(n) + partialSuffix} {
			head := make([]byte, tarBlock)
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			_, err = io.ReadFull(f, head)
			_ = f.Close() // opened for reading only
			if err == nil && bundle.IsBundle(head) {
				found = true
				if err := os.Remove(name); err != nil {
					return err
				}
			}
		}
		if !found {
			return nil
		}
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // the file system does not support it
	}
	return errors.Join(err, d.Close())
}
