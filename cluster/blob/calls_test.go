package blob

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// spaceFS counts how often the free space is asked for, and answers with free.
type spaceFS struct {
	OS
	free, asked int64
}

func (f *spaceFS) Free(string) (free, total int64, err error) {
	f.asked++
	return f.free, 1 << 40, nil
}

// A small blob asks for the free space once. Near the reserve each piece is checked before it is written.
func TestSmallBlobAsksForSpaceOnce(t *testing.T) {
	const reserve = 1 << 20
	for _, c := range []struct {
		free, write int64
		asked       int64
		err         error
	}{
		{free: 1 << 30, write: 100, asked: 1},
		{free: 1 << 30, write: roomStep, asked: 1},
		{free: 1 << 30, write: roomStep + 1, asked: 2},
		{free: reserve + 1000, write: 100, asked: 3},
		{free: reserve + 1000, write: 1001, asked: 3, err: syscall.ENOSPC},
	} {
		f := &spaceFS{free: c.free}
		d, err := Open(filepath.Join(t.TempDir(), "blobs"), Options{FS: f, Reserve: reserve})
		if err != nil {
			t.Fatal(err)
		}
		f.asked = 0
		w, err := d.Create("")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = w.Write(make([]byte, c.write)); (err == nil) != (c.err == nil) || f.asked != c.asked {
			t.Errorf("%+v: asked %d times, %v", c, f.asked, err)
		}
		w.Close()
		d.Close()
	}
}

// OpenFile and Rename keep the errors of package os.
func TestErrorsOfOS(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none")
	if _, err := (OS{}).OpenFile(none, syscall.O_RDONLY, 0); !isNotExist(err, "open "+none) {
		t.Errorf("open: %v", err)
	}
	if err := (OS{}).Rename(none, none+"2"); !isNotExist(err, "rename "+none+" "+none+"2") {
		t.Errorf("rename: %v", err)
	}
	f, err := OS{}.OpenFile(none, syscall.O_RDWR|syscall.O_CREAT, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if i, err := f.Stat(); err != nil || i.Mode()&^0o640 != 0 {
		t.Errorf("%v, %v", i, err)
	}
	if err := (OS{}).Rename(none, dir); err == nil {
		t.Error("a file took the place of a directory")
	}
}

func isNotExist(err error, prefix string) bool {
	return errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(err.Error(), prefix)
}
