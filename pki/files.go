package pki

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
)

// files is certmagic's storage: the leaves on this node's disk. certmagic stores three values for a name, the key, the
// certificates and a note in JSON. Here they are one file of the directory, mode 0600, called after the name.
//
// A leaf is a cache that can be made again. So a file is written behind the handshake, which must not wait for a disk
// that is busy, and not synced; it is written in its place, since a torn one is found when it is read (the note is
// last). What the disk does not take stays in memory: a full disk must not stop handshakes. A file that is not whole is
// as good as absent. During a renewal it may hold the new key beside the old certificates, which is refused when it is
// used.
//
// There are no locks: the directory is this process's alone, and leaves works on one name once at a time.
type files struct {
	dir string
	log *slog.Logger

	// held while files change, so that none is written after it was deleted; mu is acquired after it
	changing sync.Mutex

	mu      sync.Mutex
	ram     map[string]values // by file; newer than the disk, and not there yet
	there   map[string]bool   // the files on the disk, so that asking for one that is not there does not wait for it
	late    []string          // the files that wait to be written, in their order; bounded by maxLeaves
	writing bool              // a goroutine writes them
	idle    sync.WaitGroup    // that goroutine; added to while mu is held
}

// values is what is stored for a name, by certmagic's file extension. It is never changed.
type values map[string][]byte

// certs is the directory of all keys.
var certs = certmagic.StorageKeys.CertsPrefix(issuerKey)

// order is that of the values in a file.
var order = [...]string{".key", ".crt", ".json"}

func openFiles(dir string, log *slog.Logger) *files {
	f := &files{dir: dir, log: log, ram: map[string]values{}, there: map[string]bool{}}
	// What cannot be listed is as good as absent.
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		f.there[e.Name()] = true
	}
	return f
}

// parse takes a key of certmagic's apart: certificates/ISSUER/NAME, or certificates/ISSUER/NAME/NAME.EXT. Names in
// keys are made safe by certmagic: none leaves the directory.
func parse(key string) (name, ext string) {
	parts := strings.Split(key, "/")
	if len(parts) < 3 {
		return "", ""
	}
	return parts[2], path.Ext(strings.Join(parts[3:], "/"))
}

// encode returns the file of what is stored for a name; nil if it is not complete.
func (v values) encode() []byte {
	var out []byte
	for _, ext := range order {
		if len(v[ext]) == 0 {
			return nil
		}
		out = append(out, v[ext]...)
	}
	return out
}

// decode is the reverse of encode. What the key and the certificates are worth is found when they are used.
func decode(file []byte) (values, error) {
	crt := bytes.Index(file, []byte("-----BEGIN CERTIFICATE"))
	note := bytes.LastIndex(file, []byte("\n{")) + 1
	if crt <= 0 || note <= crt {
		return nil, errors.New("key, certificates or note are missing")
	}
	if err := json.Unmarshal(file[note:], &certmagic.CertificateResource{}); err != nil {
		return nil, fmt.Errorf("note: %w", err)
	}
	return values{".key": file[:crt], ".crt": file[crt:note], ".json": file[note:]}, nil
}

// Lock implements certmagic.Locker.
func (f *files) Lock(context.Context, string) error { return nil }

// Unlock implements certmagic.Locker.
func (f *files) Unlock(context.Context, string) error { return nil }

// Store implements certmagic.Storage. The file is written soon after, if the name has all values.
func (f *files) Store(_ context.Context, key string, value []byte) error {
	name, ext := parse(key)
	v := maps.Clone(f.values(name))
	if v == nil {
		v = values{}
	}
	v[ext] = value
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ram[name] = v
	if len(v) < len(order) || slices.Contains(f.late, name) {
		return nil
	}
	f.late = append(f.late, name)
	if !f.writing {
		f.writing = true
		f.idle.Go(f.catchUp)
	}
	return nil
}

// catchUp writes what is late, and ends.
func (f *files) catchUp() {
	for f.writeNext() {
	}
}

func (f *files) writeNext() bool {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	if len(f.late) == 0 {
		f.writing, f.late = false, nil
		f.mu.Unlock()
		return false
	}
	name := f.late[0]
	f.late = f.late[1:]
	data := f.ram[name].encode()
	f.mu.Unlock()
	if data == nil {
		return true // deleted meanwhile
	}
	err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.log.Warn("certificate kept in memory only", "name", name, "err", err)
		return true
	}
	f.there[name] = true
	if !slices.Contains(f.late, name) {
		delete(f.ram, name)
	}
	return true
}

// flush waits until everything is written.
func (f *files) flush() { f.idle.Wait() }

// values returns what is stored for a name; nil if it is nothing or not whole.
func (f *files) values(name string) values {
	f.mu.Lock()
	v, newer := f.ram[name]
	there := f.there[name]
	f.mu.Unlock()
	if newer || !there {
		return v
	}
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err == nil {
		v, err = decode(data)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.log.Warn("stored certificate is damaged", "name", name, "err", err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.there, name)
	}
	return v
}

// Load implements certmagic.Storage.
func (f *files) Load(_ context.Context, key string) ([]byte, error) {
	name, ext := parse(key)
	if v, ok := f.values(name)[ext]; ok {
		return v, nil
	}
	return nil, fs.ErrNotExist
}

// Exists implements certmagic.Storage.
func (f *files) Exists(ctx context.Context, key string) bool {
	_, err := f.Load(ctx, key)
	return err == nil
}

// Stat implements certmagic.Storage.
func (f *files) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	v, err := f.Load(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key, Size: int64(len(v)), IsTerminal: true}, nil
}

// Delete implements certmagic.Storage. Without one of its values a name has none.
func (f *files) Delete(_ context.Context, key string) error {
	name, _ := parse(key)
	if name == "" {
		return fmt.Errorf("delete %q: not the certificate of one name", key)
	}
	f.changing.Lock()
	defer f.changing.Unlock()
	err := os.RemoveAll(filepath.Join(f.dir, name))
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ram, name)
	if err == nil {
		delete(f.there, name)
	}
	return err
}

// List implements certmagic.Storage. It does not look into the files.
func (f *files) List(_ context.Context, dir string, recursive bool) ([]string, error) {
	f.mu.Lock()
	names := slices.AppendSeq(slices.Collect(maps.Keys(f.there)), maps.Keys(f.ram))
	f.mu.Unlock()
	var keys []string
	for _, name := range names {
		for _, ext := range order {
			rest, below := strings.CutPrefix(path.Join(certs, name, name+ext), dir+"/")
			if !recursive {
				rest, _, _ = strings.Cut(rest, "/")
			}
			if below {
				keys = append(keys, path.Join(dir, rest))
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}
