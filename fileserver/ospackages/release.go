package ospackages

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

const (
	// MaxDocument is the maximum size of a Release file or a repomd.xml, in bytes. Debian's Release files have up to
	// 1.5 MiB.
	MaxDocument = 16 << 20
	maxFiles    = 200_000 // files that a document lists
	maxLine     = 64 << 10
)

// Release is what a Release or InRelease file says (https://wiki.debian.org/DebianRepository/Format).
type Release struct {
	Origin, Label, Suite, Codename string
	Date                           time.Time
	ValidUntil                     time.Time // zero: it never expires
	Architectures, Components      []string

	sums map[string]Sums   // by path below the Release file
	by   map[string]string // the path by directory and sum, "main/binary-amd64 SHA256 0a1b…"
}

// Sums are the checksums of one file that a Release file lists, in hex; "" where it lists none.
type Sums struct{ MD5, SHA1, SHA256, SHA512 string }

// sections are the fields with sums, which are also the names of the directories below by-hash.
var sections = map[string]struct {
	bytes int
	of    func(*Sums) *string
}{
	"MD5Sum": {16, func(s *Sums) *string { return &s.MD5 }},
	"SHA1":   {20, func(s *Sums) *string { return &s.SHA1 }},
	"SHA256": {32, func(s *Sums) *string { return &s.SHA256 }},
	"SHA512": {64, func(s *Sums) *string { return &s.SHA512 }},
}

// ParseRelease reads a Release file, or an InRelease file without looking at its signature.
func ParseRelease(r io.Reader) (*Release, error) {
	rel := &Release{sums: map[string]Sums{}, by: map[string]string{}}
	lines := bufio.NewScanner(io.LimitReader(r, MaxDocument))
	lines.Buffer(nil, maxLine)
	section, header := "", false
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "-----BEGIN PGP SIGNED MESSAGE"):
			header = true // up to an empty line
			continue
		case strings.HasPrefix(line, "-----"):
			return rel.checked(nil)
		case header:
			header = line != ""
			continue
		case line == "":
			continue
		case line[0] == ' ' || line[0] == '\t':
			if err := rel.list(section, strings.Fields(line)); err != nil {
				return nil, err
			}
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "- "), ":")
		if !ok {
			return nil, fmt.Errorf("not a Release file: the line %.60q has no field name", line)
		}
		section = name
		if err := rel.set(name, strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	return rel.checked(lines.Err())
}

func (rel *Release) checked(err error) (*Release, error) {
	if err != nil {
		return nil, fmt.Errorf("not a Release file: %w", err)
	}
	if rel.Date.IsZero() && rel.Suite == "" && rel.Codename == "" && len(rel.sums) == 0 {
		return nil, errors.New("not a Release file: it has neither a suite nor sums")
	}
	return rel, nil
}

// set takes a field of one line.
func (rel *Release) set(name, value string) (err error) {
	switch name {
	case "Origin":
		rel.Origin = value
	case "Label":
		rel.Label = value
	case "Suite":
		rel.Suite = value
	case "Codename":
		rel.Codename = value
	case "Architectures":
		rel.Architectures = strings.Fields(value)
	case "Components":
		rel.Components = strings.Fields(value)
	case "Date":
		rel.Date, err = parseDate(value)
	case "Valid-Until":
		rel.ValidUntil, err = parseDate(value)
	}
	if err != nil {
		return fmt.Errorf("not a Release file: %s: %w", name, err)
	}
	return nil
}

// list takes a line of a section of sums: SUM SIZE NAME. Lines of other forms are ignored.
func (rel *Release) list(section string, words []string) error {
	kind, ok := sections[section]
	if !ok || len(words) != 3 {
		return nil
	}
	sum, name := strings.ToLower(words[0]), path.Clean(words[2])
	if b, err := hex.DecodeString(sum); err != nil || len(b) != kind.bytes || !inside(name) {
		return nil
	}
	s, again := rel.sums[name]
	if !again && len(rel.sums) == maxFiles {
		return fmt.Errorf("a Release file lists at most %d files", maxFiles)
	}
	*kind.of(&s) = sum
	rel.sums[name] = s
	rel.by[path.Dir(name)+" "+section+" "+sum] = name
	return nil
}

// inside reports whether a clean path stays below its directory.
func inside(name string) bool {
	return name != "." && name != ".." && !strings.HasPrefix(name, "../") && !strings.HasPrefix(name, "/")
}

// Files is the number of files that the Release file lists.
func (rel *Release) Files() int { return len(rel.sums) }

// ByHash returns the file of a directory ("." for the Release file's own) that is listed with a sum: algorithm is
// MD5Sum, SHA1, SHA256 or SHA512. Sums are all of that file.
func (rel *Release) ByHash(dir, algorithm, sum string) (name string, sums Sums, ok bool) {
	name, ok = rel.by[dir+" "+algorithm+" "+sum]
	return name, rel.sums[name], ok
}

// parseDate reads a date of RFC 5322, as Release files have it: in UTC.
func parseDate(s string) (time.Time, error) {
	for _, zone := range []string{" UTC", " GMT", " Z"} {
		s = strings.TrimSuffix(s, zone)
	}
	for _, form := range []string{"Mon, _2 Jan 2006 15:04:05", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%.60q is not a date", s)
}
