package content

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Names of imports in the tree.
const (
	importsDir = "imports"
	pendingDir = importsDir + "/pending"
)

func recordName(name string) string { return importsDir + "/" + name + "/record" }
func indexName(name string) string  { return importsDir + "/" + name + "/index" }

// Record describes an import. Its JSON has at most maxRecord bytes: lists are cut.
type Record struct {
	Name string `json:"name"`
	// Kind is the kind of the inputs: one of bundle's kinds.
	Kind string `json:"kind"`
	// ID is the content's digest: of the index document of a bundle, else of its names.
	ID string `json:"id"`
	// Sources are the names of the inputs, as the operator wrote them.
	Sources []string `json:"sources"`
	// Signer is the public key whose signature was verified, base64; "" if nothing was signed.
	Signer string    `json:"signer,omitempty"`
	Time   time.Time `json:"time"` // when its names were published
	Node   string    `json:"node,omitempty"`
	// Maker is who has imported it, Approver who has approved it, if it was staged.
	Maker    string `json:"maker,omitempty"`
	Approver string `json:"approver,omitempty"`
	// KeyBy is who has created the API key that is the Maker: as much the maker as the key is.
	KeyBy string `json:"key_by,omitempty"`

	Images int `json:"images"` // tags
	// Manifests counts those without a tag in it: children of indexes, referrers, images that are pulled by digest
	// only.
	Manifests int `json:"manifests,omitempty"`
	Files     int `json:"files"`
	// Redirects counts URLs that redirect elsewhere.
	Redirects int `json:"redirects,omitempty"`
	// New, Changed and Unchanged count the names of all kinds that did not exist before, had another digest before,
	// and had the same digest.
	New       int `json:"new"`
	Changed   int `json:"changed"`
	Unchanged int `json:"unchanged"`
	// Blobs and Bytes count everything that the names need; BytesNew only what was not stored before.
	Blobs    int   `json:"blobs"`
	Bytes    int64 `json:"bytes"`
	BytesNew int64 `json:"bytes_new"`

	Origins Origins  `json:"origins"`
	Notes   []string `json:"notes,omitempty"`

	// Claims is how many names of the tree have the import's claim, including record and index; fewer exist if some
	// were deleted by hand.
	Claims int `json:"claims"`
	// Cut is how many list elements were left out to fit the record's size limit.
	Cut int `json:"cut,omitempty"`
}

// maxRecord is the size limit of a record in the tree, in bytes.
const maxRecord = 4096

// encode encodes the record, cutting its longest lists until it fits.
func (r Record) encode() ([]byte, error) {
	r.Sources, r.Notes = slices.Clone(r.Sources), slices.Clone(r.Notes)
	for _, list := range [][]string{r.Sources, r.Notes} {
		for i, s := range list {
			if len(s) > 512 {
				list[i] = strings.ToValidUTF8(s[:512], "") + "…"
			}
		}
	}
	for {
		data, err := json.Marshal(r)
		if err != nil || len(data) <= maxRecord {
			return data, err
		}
		longest, most := (*[]string)(nil), 0
		for _, list := range []*[]string{&r.Notes, &r.Sources, &r.Origins.Enabled, &r.Origins.NotPermitted,
			&r.Origins.Removed, &r.Origins.Refused} {
			if n := size(*list); n > most {
				longest, most = list, n
			}
		}
		if longest == nil {
			return nil, fmt.Errorf("import %s: its record has %d bytes, more than %d: %w", r.Name, len(data), maxRecord,
				fs.ErrInvalid)
		}
		*longest = slices.Clone((*longest)[:len(*longest)-1])
		r.Cut++
	}
}

func size(list []string) (n int) {
	for _, s := range list {
		n += len(s) + 3
	}
	return n
}

// readRecord reads the record of an import; fs.ErrNotExist if there is no such import.
func (e *Engine) readRecord(name string) (Record, error) {
	var r Record
	data, err := e.cfg.Tree.ReadFile(recordName(name))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("there is no import %s: %w", name, fs.ErrNotExist)
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("import %s: its record cannot be read, remove the import and import it again: %w",
			name, err)
	}
	return r, nil
}

// records returns those of all complete imports, by name. One that cannot be read has its name only.
func (e *Engine) records() (map[string]Record, error) {
	entries, err := e.cfg.Tree.ReadDir(importsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list := map[string]Record{}
	for _, entry := range entries {
		if importsDir+"/"+entry.Name() == pendingDir {
			continue
		}
		r, err := e.readRecord(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			r = Record{Name: entry.Name(), Notes: []string{err.Error()}}
		}
		list[entry.Name()] = r
	}
	return list, nil
}

// intact reports whether everything that the import brought still has its claim.
func (e *Engine) intact(r Record) bool {
	for claim, n := range e.cfg.Tree.Claims() {
		if claim == r.Name {
			return n == r.Claims
		}
	}
	return false
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	// extensions and part numbers are stripped from default names.
	extensions = regexp.MustCompile(
		`(?i)(\.(tar|tgz|gz|zst|zstd|xz|bz2|casemate|bundle|oci|haul|json)|[._-]part[._-]?[0-9]+([._-]?of[._-]?[0-9]+)?|[._-][0-9]+[._-]?of[._-]?[0-9]+|\.[0-9]{3,4})$`)
)

// CheckName returns why an import cannot have this name.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || name == path.Base(pendingDir) {
		return fmt.Errorf("the name of an import must have 1 to 63 characters of a-z 0-9 . _ -, must begin with a "+
			"letter or digit and must not be %s, got %.80q: %w", path.Base(pendingDir), name, fs.ErrInvalid)
	}
	return nil
}

// reserved are names that mean something else in the paths of the admin API.
var reserved = []string{"parts", "form"}

// CheckNewName is CheckName for an import that does not exist yet.
func CheckNewName(name string) error {
	if slices.Contains(reserved, name) {
		return fmt.Errorf("no import can have one of the names %s: %w", strings.Join(reserved, ", "), fs.ErrInvalid)
	}
	return CheckName(name)
}

// defaultName derives an import's name from an input's name.
func defaultName(source string) string {
	s := strings.ToLower(path.Base(strings.TrimRight(strings.ReplaceAll(source, "\\", "/"), "/")))
	for {
		cut := extensions.ReplaceAllString(s, "")
		if cut == s || cut == "" {
			break
		}
		s = cut
	}
	s = strings.Map(func(r rune) rune {
		if r < 0x80 && strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-", r) {
			return r
		}
		return '-'
	}, s)
	s = strings.Trim(s, "._-")
	if s = s[:min(len(s), 56)]; CheckNewName(s) != nil { // leaves room for a number
		return "import"
	}
	return s
}
