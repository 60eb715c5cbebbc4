package packages

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"

	"casemate/appliance/usage"
	"casemate/cluster/tree"
)

const (
	maxPackages = 50_000    // of a repository
	maxState    = 512 << 20 // bytes of a repository's state, expanded
	maxLine     = 64 << 20  // bytes of one package in it: more than twice those of its metadata

	// keptGenerations are the newest sets of indices that are served by names that change with their content, so that
	// a client finds what the metadata that it has just read lists.
	keptGenerations = 3
)

// repository is the state of a repository. Its form in the tree is one JSON document on a line, then one on a line for
// each package, compressed by gzip: every index is written from it, and no package is read again.
type repository struct {
	Format  string    `json:"format"`
	Date    time.Time `json:"date"`    // of its metadata
	Signers []string  `json:"signers"` // fingerprints of the keys that have signed it
	// Files are the served files that are no packages: the digests by path.
	Files map[string]string `json:"files"`
	// Generations are the paths of indices that change with their content, the newest first.
	Generations [][]string `json:"generations"`
	// Replaced are the files of replaced packages that those generations list.
	Replaced []replaced `json:"replaced,omitempty"`

	packages []entry
	before   []entry // files in the tree
	version  uint64  // in the tree; 0: it is new
}

// entry is a package of a repository.
type entry struct {
	Name    string    `json:"name"`
	Version string    `json:"version"` // as its format writes it, with the epoch
	Arch    string    `json:"arch"`
	File    string    `json:"file"`   // below the repository's URL, not escaped
	Digest  string    `json:"digest"` // sha256:…
	Size    int64     `json:"size"`
	Time    time.Time `json:"time"` // when it was put
	// Metadata is what the indices say of it: one paragraph, or an element of each of the three documents.
	Metadata []string `json:"metadata"`
}

// replaced is a package that was replaced by one with other content. Its file is served as long as the indices that
// list it. What is removed is not kept: it is removed so that nobody gets it any more, or to free the disk.
type replaced struct {
	entry
	Changes int `json:"changes"` // of the indices, until it goes
}

func (e *entry) same(f *entry) bool {
	return e.Name == f.Name && e.Version == f.Version && e.Arch == f.Arch
}

// label names a package in sentences.
func (e *entry) label() string { return e.Name + " " + e.Version + " " + e.Arch }

func (e *entry) compare(f *entry) int {
	return Compare(Package{Name: e.Name, Time: e.Time, Version: e.Version, Arch: e.Arch},
		Package{Name: f.Name, Time: f.Time, Version: f.Version, Arch: f.Arch})
}

// load reads the state of a repository.
func (s *Store) load(ctx context.Context, name string) (*repository, error) {
	if _, err := s.Get(name); err != nil {
		return nil, err
	}
	fi, err := s.cfg.Tree.Stat(indexOf(name))
	if err != nil {
		return nil, err
	}
	blob, err := s.cfg.Tree.OpenBlob(ctx, tree.DigestOf(fi))
	if err != nil {
		return nil, fmt.Errorf("the repository %s cannot be read: %w", name, err)
	}
	defer blob.Close()
	r := &repository{version: tree.VersionOf(fi)}
	if err := r.decode(blob); err != nil {
		return nil, fmt.Errorf("the repository %s cannot be read: %w", name, err)
	}
	r.before = r.files()
	return r, nil
}

// files are the packages whose files are served.
func (r *repository) files() []entry {
	list := slices.Clone(r.packages)
	for i := range r.Replaced {
		list = append(list, r.Replaced[i].entry)
	}
	return list
}

func (r *repository) decode(in io.Reader) error {
	z, err := gzip.NewReader(bufio.NewReaderSize(in, 64<<10))
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(io.LimitReader(z, maxState+1))
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	if !lines.Scan() {
		return errors.Join(errors.New("its state is empty"), lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), r); err != nil {
		return err
	}
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		r.packages = append(r.packages, e)
	}
	return lines.Err()
}

var errLarge = usage.Errorf("the repository's metadata has more than %d MiB: use another repository", maxState>>20)

func (r *repository) encode() ([]byte, error) {
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false) // XML would get five times as long
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	for i := range r.packages {
		if err := enc.Encode(&r.packages[i]); err != nil {
			return nil, err
		}
		if plain.Len() > maxState {
			return nil, errLarge
		}
	}
	return compressed(plain.Bytes())
}

// compressed is data as gzip, the same bytes each time.
func compressed(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, 5)
	if err == nil {
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
	}
	return b.Bytes(), err
}

// documents are the files that describe a repository.
type documents struct {
	indices map[string][]byte // by names that change with the content
	rest    map[string][]byte // by names that stay
}

// publish writes a repository with signed metadata, and replaces the state that it was loaded from. fs.ErrExist:
// that is not the state of the tree any more. Nothing is served before the last step, which is one log entry.
func (s *Store) publish(ctx context.Context, name string, r *repository) error {
	if len(r.packages) > maxPackages {
		return usage.Errorf("the repository %s would have %d packages, more than %d: use another repository", name,
			len(r.packages), maxPackages)
	}
	size := 0
	for i := range r.packages {
		for _, text := range r.packages[i].Metadata {
			size += len(text)
		}
	}
	if size > maxState {
		return errLarge
	}
	keys, err := s.keys()
	if err != nil {
		return err
	}
	// apt ignores a Release file that is older than the one it has.
	if now := s.cfg.Now().UTC().Truncate(time.Second); now.After(r.Date) {
		r.Date = now
	}
	slices.SortFunc(r.packages, func(a, b entry) int { return a.compare(&b) })
	write := s.writeDEB
	if r.Format == RPM {
		write = s.writeRPM
	}
	docs, err := write(name, r, keys)
	if err != nil {
		return err
	}
	if docs.rest["key.asc"], err = armored(keys); err != nil {
		return err
	}
	r.Signers = fingerprints(keys)
	before := maps.Clone(r.Files)
	if err := s.store(ctx, r, docs); err != nil {
		return err
	}
	state, err := r.encode()
	if err != nil {
		return err
	}
	stateDigest, err := s.blob(ctx, state)
	if err != nil {
		return err
	}
	edits, err := s.edits(name, r, before)
	if err != nil {
		return err
	}
	return s.cfg.Tree.Update(ctx, func(b tree.Batch) error {
		b.Expect(indexOf(name), r.version)
		if r.version == 0 {
			b.Put(aboutOf(name), []byte(r.Format))
		}
		b.Link(indexOf(name), stateDigest)
		for key, digest := range edits {
			if digest == "" {
				b.Remove(key)
			} else {
				b.Link(key, digest)
			}
		}
		return nil
	})
}

// store makes blobs of the documents, and updates which files the repository has.
func (s *Store) store(ctx context.Context, r *repository, docs documents) error {
	names := slices.Sorted(maps.Keys(docs.indices))
	if len(r.Generations) == 0 || !slices.Equal(r.Generations[0], names) {
		r.Generations = slices.Insert(r.Generations, 0, names)
		r.Replaced = slices.DeleteFunc(r.Replaced, func(p replaced) bool { return p.Changes <= 1 })
		for i := range r.Replaced {
			r.Replaced[i].Changes--
		}
	}
	r.Generations = r.Generations[:min(len(r.Generations), keptGenerations)]
	files := map[string]string{}
	for _, generation := range r.Generations {
		for _, file := range generation {
			if digest, ok := r.Files[file]; ok {
				files[file] = digest
			}
		}
	}
	for _, list := range []map[string][]byte{docs.indices, docs.rest} {
		for file, data := range list {
			digest := tree.Sum(data, "")
			if r.Files[file] != digest {
				if _, err := s.blob(ctx, data); err != nil {
					return err
				}
			}
			files[file] = digest
		}
	}
	r.Files = files
	return nil
}

// blob stores bytes, for an hour or until a name refers to them.
func (s *Store) blob(ctx context.Context, data []byte) (string, error) {
	w, err := s.cfg.Tree.CreateBlob("")
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	return w.Commit(ctx, "")
}

// edits are the changes of served files: digests by their names in the tree, "" for a file that goes.
func (s *Store) edits(name string, r *repository, before map[string]string) (map[string]string, error) {
	was, is := maps.Clone(before), maps.Clone(r.Files)
	for i := range r.before {
		was[r.before[i].File] = r.before[i].Digest
	}
	for _, e := range r.files() {
		is[e.File] = e.Digest
	}
	edits := map[string]string{}
	for _, files := range []map[string]string{was, is} {
		for file := range files {
			if was[file] == is[file] {
				continue
			}
			key, err := s.key(name, file)
			if err != nil {
				return nil, err
			}
			edits[key] = is[file]
		}
	}
	return edits, nil
}

// escaped is the path of a URL.
func escaped(file string) string { return (&url.URL{Path: file}).EscapedPath() }

// notExist is an error that says which package is not there.
func notExist(repository, what string) error {
	return fmt.Errorf("the repository %s has no package %.200s, see casemate package list %s: %w", repository, what,
		repository, fs.ErrNotExist)
}
