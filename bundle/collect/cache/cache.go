package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"casemate/bundle/credentials"
	"casemate/bundle/digests"
)

// Cache stores what was fetched, so that the next run fetches only what is new. It is a directory:
//
//	lock                    held by the run that uses the cache
//	blobs/sha256/ab/HEX     content by its digest, complete
//	parts/HEX, HEX.json     an incomplete download and its state; HEX is the sha256 of the digest or URL
//	urls/HEX.json           the last answer of a URL (URLRecord); HEX is the sha256 of the URL
//	names/HEX.json          when a name first had a digest (nameRecord)
//	git/HEX                 a bare Git repository; HEX is the sha256 of its URL
//
// It may be deleted when no run uses it. Its methods are safe for concurrent use as long as no two work on the same
// part.
type Cache struct {
	dir  string
	lock *os.File
}

// URLRecord is the last answer of a URL.
type URLRecord struct {
	URL          string `json:"url"`
	Digest       string `json:"digest"` // sha256
	SHA512       string `json:"sha512,omitempty"`
	Size         int64  `json:"size"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	From         string `json:"from,omitempty"` // as in Provenance
	On           string `json:"on"`             // the day on which this content was fetched first
	Sums         string `json:"sums,omitempty"` // URL of the checksum file beside it
}

// nameRecord is an image's name and its digest.
type nameRecord struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	On     string `json:"on"` // the day on which the name first had this digest
}

// Open locks dir, and creates it if it does not exist.
func Open(dir string) (*Cache, error) {
	if dir == "" {
		d, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no directory for the cache, name one with --cache: %w", err)
		}
		dir = filepath.Join(d, "casemate")
	}
	for _, d := range []string{"blobs", "parts", "urls", "names", "git"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf(
				"cache %s is used by another run: wait for it, or name another directory with --cache",
				dir,
			)
		}
		return nil, fmt.Errorf("cache: lock %s: %w", f.Name(), err)
	}
	return &Cache{dir: dir, lock: f}, nil
}

// Close releases the cache for the next run.
func (c *Cache) Close() error { return c.lock.Close() }

func (c *Cache) BlobPath(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(c.dir, "blobs", algorithm, hex[:2], hex)
}

// Repository returns the directory of the Git repository of a URL, which need not exist.
func (c *Cache) Repository(url string) string { return filepath.Join(c.dir, "git", FileName(url)) }

// Stat returns the size of a cached blob.
func (c *Cache) Stat(digest string) (int64, bool) {
	if digests.Check(digest) != nil {
		return 0, false
	}
	fi, err := os.Stat(c.BlobPath(digest))
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

// Has reports whether a blob of this size is cached. A blob of another size is damaged and gets removed, or its
// descriptor is wrong: the digest decides.
func (c *Cache) Has(digest string, size int64) bool {
	n, ok := c.Stat(digest)
	if !ok || n == size {
		return ok
	}
	r, err := c.Open(digest)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // removes a damaged blob
		err = errors.Join(err, r.Close())
	}
	return err == nil
}

// Open returns the content of a blob. The read of the last bytes fails with syscall.EBADMSG if the content does not
// have the digest; then the blob is removed, and the next run fetches it again.
func (c *Cache) Open(digest string) (io.ReadCloser, error) {
	if err := digests.Check(digest); err != nil {
		return nil, err
	}
	f, err := os.Open(c.BlobPath(digest))
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &checkedFile{file: f, content: digests.NewSizedReader(f, digest, fi.Size()), digest: digest}, nil
}

// checkedFile reads a file that must have a digest.
type checkedFile struct {
	file    *os.File
	content *digests.Reader
	digest  string
}

func (f *checkedFile) Read(p []byte) (int, error) {
	n, err := f.content.Read(p)
	if errors.Is(err, syscall.EBADMSG) {
		_ = os.Remove(f.file.Name())
		return n, fmt.Errorf(
			"cache: %s is damaged and was removed, run again to fetch it: %w",
			f.digest,
			syscall.EBADMSG,
		)
	}
	return n, err
}

func (f *checkedFile) Close() error { return f.file.Close() }

// Read returns a blob of at most limit bytes, verified. A damaged one is fs.ErrNotExist.
func (c *Cache) Read(digest string, limit int64) ([]byte, error) {
	r, err := c.Open(digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if errors.Is(err, syscall.EBADMSG) {
		return nil, fs.ErrNotExist
	}
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", digest, limit)
	}
	return b, err
}

// Put stores content whose digest was verified.
func (c *Cache) Put(digest string, b []byte) error {
	path := c.BlobPath(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return DiskError{Err: err}
	}
	return writeWhole(path, b)
}

// Commit turns a complete part into the blob of its digest. The content is durable before the name is: after a crash a
// blob is complete or does not exist.
func (c *Cache) Commit(part *os.File, digest string) error {
	if err := part.Sync(); err != nil {
		return DiskError{Err: err}
	}
	path := c.BlobPath(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return DiskError{Err: err}
	}
	if err := os.Rename(part.Name(), path); err != nil {
		return DiskError{Err: err}
	}
	_ = os.Remove(part.Name() + ".json")
	return nil
}

// Part opens the incomplete download of key: a digest or a URL.
func (c *Cache) Part(key string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "parts", FileName(key)), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, DiskError{Err: err}
	}
	return f, nil
}

// Discard removes a part.
func (c *Cache) Discard(part *os.File) {
	_ = os.Remove(part.Name())
	_ = os.Remove(part.Name() + ".json")
}

// URL returns the record of a URL. Credentials in it do not count, and are not written.
func (c *Cache) URL(url string) (r URLRecord, ok bool) {
	clean := credentials.Strip(url)
	ok = ReadRecord(filepath.Join(c.dir, "urls", FileName(clean)+".json"), &r)
	ok = ok && r.URL == clean
	r.URL = url
	return r, ok
}

// PutURL writes the record of a URL.
func (c *Cache) PutURL(r URLRecord) error {
	r.URL = credentials.Strip(r.URL)
	return writeRecord(filepath.Join(c.dir, "urls", FileName(r.URL)+".json"), r)
}

// FirstSeen returns the day on which ref first had digest. Without a record it is today, which it records.
func (c *Cache) FirstSeen(ref, digest, today string) (string, error) {
	path := filepath.Join(c.dir, "names", FileName(ref+" "+digest)+".json")
	var r nameRecord
	if ReadRecord(path, &r) && r.Ref == ref && r.Digest == digest && r.On != "" {
		return r.On, nil
	}
	return today, writeRecord(path, nameRecord{Ref: ref, Digest: digest, On: today})
}

// ReadRecord reads a record. It returns false for an unreadable one.
func ReadRecord(path string, v any) bool {
	b, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(b, v) == nil
}

func writeRecord(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeWhole(path, b)
}

// writeWhole writes a file that is complete or does not exist, unless the power fails: records and manifests are
// verified when they are read, so they are not synced.
func writeWhole(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return DiskError{Err: err}
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return DiskError{Err: err}
	}
	return nil
}

// DiskError is an error of this machine's disk. It ends the run, because everything else would fail too.
type DiskError struct{ Err error }

func (e DiskError) Error() string { return "cache: " + e.Err.Error() }
func (e DiskError) Unwrap() error { return e.Err }

func FileName(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
