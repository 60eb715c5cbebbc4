package pki

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// files are the leaves on this node's disk, a file for each name: its key and its chain, PEM, mode 0600. They are
// written behind the handshakes, which must not wait for a disk that is busy, and what the disk does not take stays in
// memory: a full disk must not stop handshakes. Nothing is synced, and a file is written in its place: what a power cut
// leaves absent or torn is found when it is read.
type files struct {
	dir    string
	log    *slog.Logger
	encode func(name string) []byte // what a file should hold now; nil: it should not be there

	changing sync.Mutex // held while files change, so that none is written after it was removed; before mu

	mu      sync.Mutex
	there   map[string]bool // the files on the disk, so that asking for one that is not there does not wait for it
	late    []string        // names whose files are not written yet, in their order; bounded by maxLeaves
	writing bool            // a goroutine writes them
	idle    sync.WaitGroup  // that goroutine; added to under mu
}

func openFiles(dir string, log *slog.Logger, encode func(name string) []byte) *files {
	f := &files{dir: dir, log: log, encode: encode, there: map[string]bool{}}
	// What cannot be listed is as good as absent.
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		f.there[e.Name()] = true
	}
	return f
}

// file is where the leaf of a name is kept. Names are host names and addresses in canonical form: none leaves the
// directory.
func (f *files) file(name string) string { return filepath.Join(f.dir, name) }

// save has the file of a name written soon.
func (f *files) save(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.late, name) {
		return
	}
	f.late = append(f.late, name)
	if !f.writing {
		f.writing = true
		f.idle.Go(f.catchUp)
	}
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
	f.mu.Unlock()
	data := f.encode(name)
	if data == nil {
		return true // forgotten meanwhile
	}
	err := os.WriteFile(f.file(name), data, 0o600)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.log.Warn("certificate kept in memory only", "name", name, "err", err)
		return true
	}
	f.there[name] = true
	return true
}

// flush waits until everything is written.
func (f *files) flush() { f.idle.Wait() }

// load returns what the file of a name holds. fs.ErrNotExist: there is none.
func (f *files) load(name string) ([]byte, error) {
	f.mu.Lock()
	there := f.there[name]
	f.mu.Unlock()
	if !there {
		return nil, fs.ErrNotExist
	}
	data, err := os.ReadFile(f.file(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("certificate file cannot be read", "name", name, "err", err)
	}
	return data, err
}

// remove removes the file of a name.
func (f *files) remove(name string) {
	f.changing.Lock()
	defer f.changing.Unlock()
	if err := os.RemoveAll(f.file(name)); err != nil {
		return // another try comes with the next sweep
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.there, name)
}

// names are those that have files.
func (f *files) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.there))
}
