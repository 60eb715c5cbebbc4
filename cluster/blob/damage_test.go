package blob_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/blob"
)

// After any change of a blob's file it is not opened as intact, a second process detects the change too, and placing
// the bytes again repairs it.
func TestDamage(t *testing.T) {
	t.Parallel()
	data := random(70_000)
	flip := func(path string) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte{^data[4000]}, 4000)
		return err
	}
	for name, tc := range map[string]struct {
		hurt func(path string) error
		rot  bool   // only reading all of it can tell
		why  string // "": it is not there
	}{
		"a byte changed":            {flip, false, "have the digest"},
		"a byte changed, time kept": {timeKept(flip), true, "have the digest"},
		"cut":                       {to(69_999), false, "its 69999 bytes"},
		"cut, time kept":            {timeKept(to(4096)), false, "its 4096 bytes"},
		"empty":                     {timeKept(to(0)), false, "its 0 bytes"},
		"longer":                    {timeKept(to(70_001)), false, "its 70001 bytes"},
		"another file renamed over it": {func(path string) error {
			return os.Rename(write(path+"x", data[1:]), path)
		}, false, "have the digest"},
		"removed":               {os.Remove, false, ""},
		"its directory removed": {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, false, ""},
		"a directory": {func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o750), os.WriteFile(path+"/x", nil, 0o600))
		}, false, "a directory"},
		"a file in place of its directory": {func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		}, false, "cannot be looked at"},
		"a pipe": {func(path string) error {
			return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
		}, false, "something else"},
		"a link to nothing": {func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("none", path))
		}, false, ""},
		"a link to itself": {func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink(path, path))
		}, false, "cannot be looked at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var told []blob.Damage
			d := open(t, dir, blob.Options{Damaged: func(x *blob.Damage) { told = append(told, *x) }})
			digest := place(t, d, data)
			if v, err := d.Verified(digest); err != nil || time.Since(v) > 3*time.Hour {
				t.Fatalf("a blob that was just placed was verified at %v, %v", v, err)
			}
			path := filepath.Join(dir, "sha256", digest[7:9], digest[7:])
			if err := tc.hurt(path); err != nil {
				t.Fatal(err)
			}
			refused := func(d *blob.Dir, err error) {
				t.Helper()
				switch {
				case tc.why == "" && errors.Is(err, fs.ErrNotExist):
				case tc.why == "" || !errors.Is(err, blob.ErrDamaged) || !errors.Is(err, syscall.EIO):
					t.Errorf("got %v", err)
				case strings.Contains(err.Error(), tc.why):
					if list := d.Damaged(); len(list) != 1 || list[0].Digest != digest ||
						!strings.Contains(list[0].Why, tc.why) {
						t.Errorf("known to be damaged: %+v", list)
					}
				default:
					t.Errorf("got %v", err)
				}
			}
			if tc.rot {
				if f, err := d.Open(digest); err != nil {
					t.Errorf("it is not supposed to be seen: %v", err)
				} else {
					f.Close()
				}
				refused(d, d.Verify(context.Background(), digest))
			}
			_, err := d.Open(digest)
			refused(d, err)
			_, err = d.Stat(digest)
			refused(d, err)
			_, err = d.Durable(digest)
			refused(d, err)
			if want := min(len(tc.why), 1); len(told) != want {
				t.Errorf("told %d times: %+v", len(told), told)
			}
			again := open(t, dir, blob.Options{})
			_, err = again.Durable(digest)
			refused(again, err)
			for _, d := range []*blob.Dir{d, again} {
				place(t, d, data)
				f, err := d.Open(digest)
				if err != nil {
					t.Fatalf("after it was placed again: %v", err)
				}
				got, err := io.ReadAll(f)
				f.Close()
				if err != nil || string(got) != string(data) || len(d.Damaged()) != 0 {
					t.Errorf("after it was placed again: %d bytes, %v, damaged %v", len(got), err, d.Damaged())
				}
			}
			if swept, err := d.Sweep(digest, func() bool { return true }); !swept || err != nil {
				t.Errorf("Sweep: %v, %v", swept, err)
			}
		})
	}
}

// A damaged blob can be swept. Anything in its place that is not a file is not deleted.
func TestSweepDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	digest := place(t, d, []byte("x"))
	path := filepath.Join(dir, "sha256", digest[7:9], digest[7:])
	err := errors.Join(os.Remove(path), os.Mkdir(path, 0o750), os.WriteFile(path+"/theirs", []byte("theirs"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(digest); !errors.Is(err, blob.ErrDamaged) {
		t.Fatal(err)
	}
	if swept, err := d.Sweep(digest, func() bool { return true }); !swept || err != nil || len(d.Damaged()) != 0 {
		t.Fatalf("Sweep: %v, %v, damaged %v", swept, err, d.Damaged())
	}
	if list, err := filepath.Glob(dir + "/aside/*/theirs"); err != nil || len(list) != 1 {
		t.Errorf("what stood there: %v, %v", list, err)
	}
}

// A file that only looks changed is hashed once, and is whole; so is one that a person has put right.
func TestSuspicion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	reads := &counting{FS: blob.OS{}}
	now := time.Now()
	d := open(t, dir, blob.Options{FS: reads, Now: func() time.Time { return now }})
	data := random(300_000)
	digest := place(t, d, data)
	path := filepath.Join(dir, "sha256", digest[7:9], digest[7:])
	opens := func(want int, what string) {
		t.Helper()
		reads.n = 0
		for range 2 {
			f, err := d.Open(digest)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			f.Close()
		}
		if reads.n != want {
			t.Errorf("%s: %d bytes were read, want %d", what, reads.n, want)
		}
	}
	opens(0, "placed")
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	opens(len(data), "touched")
	if err := os.WriteFile(path, data[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(digest); !errors.Is(err, blob.ErrDamaged) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	opens(len(data), "put right")
	now = time.Unix(5, 0) // no battery
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
	opens(len(data), "touched in 1970")
	reads.noTimes = true
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	opens(len(data), "where it cannot be sealed")
}

// counting counts the bytes that are read, and can fail.
type counting struct {
	blob.FS
	n       int
	noTimes bool
	open    error
	read    func() error
}

func (c *counting) Chtimes(name string, mod time.Time) error {
	if c.noTimes {
		return fs.ErrPermission
	}
	return c.FS.Chtimes(name, mod)
}

func (c *counting) OpenFile(name string, flag int, perm fs.FileMode) (blob.File, error) {
	if c.open != nil && flag == os.O_RDONLY {
		return nil, &fs.PathError{Op: "open", Path: name, Err: c.open}
	}
	f, err := c.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return countingFile{f, c}, nil
}

type countingFile struct {
	blob.File
	c *counting
}

func (f countingFile) Read(p []byte) (int, error) {
	if f.c.read != nil {
		if err := f.c.read(); err != nil {
			return 0, &fs.PathError{Op: "read", Path: "x", Err: err}
		}
	}
	n, err := f.File.Read(p)
	f.c.n += n
	return n, err
}

// What cannot be read is damaged as long as that lasts; that there is no room for one more open file says nothing of a
// blob.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := &counting{FS: blob.OS{}}
	d := open(t, dir, blob.Options{FS: disk})
	digest := place(t, d, random(1000))
	try := func(want error) {
		t.Helper()
		f, err := d.Open(digest)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("got %v, want %v", err, want)
		}
		if damaged := want == blob.ErrDamaged; damaged != (len(d.Damaged()) == 1) {
			t.Errorf("damaged: %v", d.Damaged())
		}
	}
	for _, disk.open = range []error{syscall.EACCES, syscall.EPERM, syscall.EIO, syscall.EISDIR} {
		try(blob.ErrDamaged)
	}
	disk.open = nil
	try(nil)
	for _, disk.open = range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		try(disk.open)
	}
	disk.open = nil
	disk.read = func() error { return syscall.EIO }
	if err := d.Verify(context.Background(), digest); !errors.Is(err, blob.ErrDamaged) {
		t.Fatal(err)
	}
	try(blob.ErrDamaged) // and is not read again for each who asks
	disk.read = func() error { return syscall.ENOMEM }
	if err := d.Verify(context.Background(), digest); !errors.Is(err, syscall.ENOMEM) ||
		errors.Is(err, blob.ErrDamaged) {
		t.Fatal(err)
	}
	disk.read = nil
	if err := d.Verify(context.Background(), digest); err != nil {
		t.Fatal(err)
	}
	try(nil)
}

// Who needs a blob does not wait for a slow verification of it, and one that reads an old file does not judge a new
// one.
func TestVerifyTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir, blob.Options{})
	data := random(400_000)
	digest := place(t, d, data)
	path := filepath.Join(dir, "sha256", digest[7:9], digest[7:])
	began := make(chan bool)
	slowly := func() (wait func() error) {
		var once sync.Once
		result := make(chan error, 1)
		go func() {
			result <- d.VerifySlowly(context.Background(), digest,
				func(_ context.Context, n int, hurry <-chan struct{}) {
					once.Do(func() { began <- true })
					<-hurry // for ever, unless somebody waits
				})
		}()
		<-began
		return func() error { return <-result }
	}
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	wait := slowly()
	f, err := d.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := wait(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(path, data[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	wait = slowly()
	place(t, d, data)
	if err := d.Verify(context.Background(), digest); err != nil { // hurries the one under way, or is the next
		t.Error(err)
	}
	if err := wait(); err != nil {
		t.Errorf("the file before was damaged and is no more: %v", err)
	}
	if list := d.Damaged(); len(list) != 0 {
		t.Errorf("damaged: %v", list)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Verify(ctx, digest); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	d.Close()
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(digest); !errors.Is(err, context.Canceled) {
		t.Errorf("a suspect blob of a closed directory: %v", err)
	}
}

func write(path string, data []byte) string {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		panic(err)
	}
	return path
}

// to cuts a file, or makes it longer.
func to(size int64) func(path string) error {
	return func(path string) error { return os.Truncate(path, size) }
}

// timeKept does something to a file that its modification time does not tell of.
func timeKept(do func(path string) error) func(path string) error {
	return func(path string) error {
		i, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(do(path), os.Chtimes(path, i.ModTime(), i.ModTime()))
	}
}
