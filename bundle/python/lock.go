package python

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"casemate/bundle/lists"
)

// A lock file names each file of each package with its URL and hash, so installers ask no index. Two formats are read:
// pylock.toml (packaging.python.org/en/latest/specifications/pylock-toml, PEP 751) and uv.lock.

// maxLock bounds a lock file, in bytes: it is in memory as a whole.
const maxLock = 16 << 20

// lockDocument has the fields of both formats.
type lockDocument struct {
	Packages []lockedPackage `toml:"packages"` // pylock.toml
	Package  []lockedPackage `toml:"package"`  // uv.lock
}

type lockedPackage struct {
	Name    string `toml:"name"`
	Version string `toml:"version"` // a package out of sources may have none
	// Source is uv's: where the package is from.
	Source struct {
		Registry string `toml:"registry"`
		URL      string `toml:"url"`
		Git      string `toml:"git"`
		Path     string `toml:"path"`
	} `toml:"source"`
	// VCS is pylock.toml's: the package is a commit of a repository.
	VCS     map[string]any `toml:"vcs"`
	Sdist   *lockedFile    `toml:"sdist"`
	Archive *lockedFile    `toml:"archive"`
	Wheels  []lockedFile   `toml:"wheels"`
}

type lockedFile struct {
	URL    string            `toml:"url"`
	Hash   string            `toml:"hash"`   // uv.lock: "sha256:…"
	Hashes map[string]string `toml:"hashes"` // pylock.toml: by algorithm
}

// exports are commands that write a file which is read here, by the name of a lock file that is not.
var exports = map[string]string{
	"poetry.lock":    "poetry export --output=pinned.txt",
	"pdm.lock":       "pdm export --output=pinned.txt",
	"Pipfile.lock":   "pipenv requirements --hash > pinned.txt",
	"pyproject.toml": "pip-compile --generate-hashes --output-file=pinned.txt pyproject.toml",
}

// isLock reports whether a file is a lock file by its name, as PEP 751 wants it.
func isLock(name string) bool {
	ext := path.Ext(path.Base(name))
	return ext == ".toml" || ext == ".lock"
}

// lock reads a lock file.
func (q *Requirements) lock(name string, r io.Reader) {
	if export, ok := exports[path.Base(name)]; ok {
		q.refuse(name, errors.New("it does not say where each file is: make a file that can be collected with "+export))
		return
	}
	text, err := io.ReadAll(io.LimitReader(r, maxLock+1))
	switch {
	case err != nil:
		q.refuse(name, fmt.Errorf("read: %w", err))
		return
	case len(text) > maxLock:
		q.refuse(name, fmt.Errorf("it is larger than %d MiB", maxLock>>20))
		return
	}
	var doc lockDocument
	if err := toml.Unmarshal(text, &doc); err != nil {
		where := name
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			where = fmt.Sprintf("%s:%d", name, line)
		}
		q.refuse(where, fmt.Errorf("it is no lock file, which is TOML: %w", err))
		return
	}
	all := append(doc.Packages, doc.Package...)
	if len(all) == 0 {
		q.refuse(name, errors.New("it has no packages: pylock.toml and uv.lock are read, and requirements files, "+
			"whose names end in .txt or .in"))
	}
	for i := range all {
		where := fmt.Sprintf("%s: %.100q", name, all[i].Name)
		found, err := all[i].requirement()
		if err != nil {
			q.refuse(where, err)
		} else if len(found.Files) > 0 {
			found.Where = where
			q.list = append(q.list, found)
		}
	}
}

// requirement returns what is to be fetched of a package: no files if it is a directory of sources, such as the locked
// project itself.
func (p *lockedPackage) requirement() (Requirement, error) {
	r := Requirement{Version: p.Version}
	var ok bool
	if r.Project, ok = Normalize(p.Name); !ok {
		return r, errors.New("this is not the name of a Python project")
	}
	switch {
	case p.VCS != nil || p.Source.Git != "":
		return r, errors.New("it is a commit of a repository of sources: build a wheel of it (pip wheel) and import " +
			"that")
	case p.Source.Path != "":
		return r, errors.New("it is a file on a disk: import the file")
	}
	files := p.Wheels
	for _, f := range []*lockedFile{p.Sdist, p.Archive} {
		if f != nil {
			files = append(files, *f)
		}
	}
	for _, f := range files {
		if f.URL == "" {
			f.URL = p.Source.URL
		}
		if f.URL == "" {
			return r, errors.New("a file of it has no URL: the lock file is for a directory of files, which import " +
				"reads")
		}
		digest := digestIn(f.Hashes)
		if h := strings.ToLower(f.Hash); hashForm.MatchString(h) {
			digest = h
		}
		if digest == "" {
			return r, fmt.Errorf("%.200q has no sha256 or sha512 hash: lock it again with hashes", f.URL)
		}
		d, err := direct(f.URL, digest)
		if err != nil {
			return r, err
		}
		r.Files = append(r.Files, d)
	}
	if len(files) == 0 && (p.Source.Registry != "" || p.Source.URL != "") {
		return r, errors.New("the lock file names no file of it: lock it again")
	}
	return r, nil
}

// direct returns a file that is fetched from its own URL, and keeps it.
func direct(raw, digest string) (Direct, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http":
		return Direct{}, fmt.Errorf("%.200q is not the URL of a file: build a wheel of it (pip wheel) and import that",
			redacted(raw))
	case u.User != nil:
		return Direct{}, fmt.Errorf("the URL of %.200q has a user name: remove it", path.Base(u.Path))
	}
	if _, err := lists.PlaceURL(raw); err != nil {
		return Direct{}, err
	}
	u.Fragment, u.RawFragment = "", ""
	return Direct{URL: u.String(), Digest: digest}, nil
}

// redacted is a URL without the part before its last @, which may be a password.
func redacted(raw string) string {
	if i := strings.LastIndexByte(raw, '@'); i >= 0 {
		return "…" + raw[i:]
	}
	return raw
}
