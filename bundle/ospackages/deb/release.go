package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"casemate/bundle/digests"
)

const (
	// MaxRelease is the maximum size of a Release file, in bytes; Debian's have up to 1.5 MiB.
	MaxRelease = 16 << 20
	maxIndex   = 4 << 30 // bytes of one index, as Release states them
	maxSums    = 200_000 // files that a Release file lists
)

// Release is the part of a Release file (Debian's wiki, DebianRepository/Format) that says what a suite is and which
// indices it has.
type Release struct {
	Origin, Label, Suite, Codename string
	Date                           time.Time
	ValidUntil                     time.Time // zero: it never expires
	Architectures, Components      []string
	ByHash                         bool
	// NoSupportAll says that the indices of the other architectures have the packages for all of them too.
	NoSupportAll bool
	// NotAutomatic and ButAutomaticUpgrades lower the suite's priority (man 5 apt_preferences).
	NotAutomatic, ButAutomaticUpgrades bool
	sums                               map[string]Sum // by path below the Release file
}

// Sum is the checksum and the size of one file.
type Sum struct {
	Digest string // sha256:… or sha512:…
	Size   int64
}

// ParseRelease reads a Release file whose signature was checked.
func ParseRelease(b []byte) (*Release, error) {
	p := newParagraphs(bytes.NewReader(b), MaxRelease, false)
	f, _, err := p.next()
	if err == io.EOF {
		return nil, errors.New("the Release file is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("not a Release file: %w", err)
	}
	r := &Release{
		Origin: f["origin"], Label: f["label"], Suite: f["suite"], Codename: f["codename"],
		Architectures: strings.Fields(f["architectures"]), Components: strings.Fields(f["components"]),
		ByHash:               isTrue(f["acquire-by-hash"], false),
		NotAutomatic:         isTrue(f["notautomatic"], false),
		ButAutomaticUpgrades: isTrue(f["butautomaticupgrades"], false),
		NoSupportAll:         slices.Contains(strings.Fields(f["no-support-for-architecture-all"]), "Packages"),
	}
	if r.Date, err = parseDate(f["date"]); err != nil {
		return nil, fmt.Errorf("its Date: %w", err)
	}
	if r.ValidUntil, err = parseDate(f["valid-until"]); err != nil {
		return nil, fmt.Errorf("its Valid-Until: %w", err)
	}
	if err := r.readSums(f); err != nil {
		return nil, err
	}
	return r, nil
}

// readSums reads the strongest kind of sums that the cache can use for its names.
func (r *Release) readSums(f map[string]string) error {
	r.sums = map[string]Sum{}
	text, algorithm := f["sha256"], "sha256"
	if text == "" {
		text, algorithm = f["sha512"], "sha512"
	}
	if text == "" {
		if f["md5sum"]+f["sha1"] != "" {
			return errors.New("it has MD5 and SHA1 sums only, which do not protect the indices: the publisher must " +
				"add SHA256")
		}
		return errors.New("it lists no indices with SHA256 sums")
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 {
			return fmt.Errorf("its line of sums %.200q is not SUM SIZE NAME", line)
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		digest := algorithm + ":" + strings.ToLower(words[0])
		switch name := words[2]; {
		case err != nil || size < 0 || size > maxIndex:
			return fmt.Errorf("the size %.40q of %.200s is not possible", words[1], name)
		case digests.Check(digest) != nil:
			return fmt.Errorf("the sum %.200q of %.200s is no %s", words[0], name, strings.ToUpper(algorithm))
		case path.Clean(name) != strings.TrimPrefix(name, "./") || strings.HasPrefix(name, "/") ||
			strings.HasPrefix(name, "../") || name == "..":
			return fmt.Errorf("it lists %.200q, which leads out of the repository", name)
		case len(r.sums) >= maxSums:
			return fmt.Errorf("it lists more than %d files", maxSums)
		default:
			r.sums[strings.TrimPrefix(name, "./")] = Sum{digest, size}
		}
	}
	return nil
}

// parseDate reads a date as RFC 5322 has it, in UTC; zero for an empty text.
func parseDate(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, zone := range []string{" UTC", " GMT", " Z"} {
		s = strings.TrimSuffix(s, zone)
	}
	for _, form := range []string{"Mon, _2 Jan 2006 15:04:05", "Mon, 02 Jan 2006 15:04:05 -0700",
		"Mon, 2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%.60q is not a date", s)
}

// maxFuture is how far a Release file may be dated in the future: apt refuses more than 10 seconds, clocks differ.
const maxFuture = time.Hour

// errTime is an error about the date of a Release file.
type errTime struct{ text string }

func (e errTime) Error() string { return e.text }

// checkTime says whether nodes would accept the file now.
func (r *Release) checkTime(now time.Time, anyDate bool) error {
	switch {
	case r.Date.After(now.Add(maxFuture)):
		return errTime{fmt.Sprintf("its Release file is dated %s, which is in the future: check the clock of this "+
			"machine",
			r.Date.Format(time.RFC3339))}
	case !anyDate && !r.ValidUntil.IsZero() && now.After(r.ValidUntil):
		return errTime{fmt.Sprintf("its Release file expired on %s, so apt on nodes refuses it: use a mirror that is "+
			"up "+
			"to date, or set check-valid-until=no in the source here and on the nodes",
			r.ValidUntil.Format(time.RFC3339))}
	}
	return nil
}

// names reports whether a suite in a source can mean this Release file.
func (r *Release) names(suite string) bool {
	if r.Suite == "" && r.Codename == "" || strings.HasSuffix(suite, "/") {
		return true
	}
	base, _, _ := strings.Cut(suite, "/")
	return slices.Contains([]string{r.Suite, r.Codename}, suite) || slices.Contains([]string{r.Suite, r.Codename}, base)
}

// hasComponent reports whether the suite has a component. Security suites name theirs updates/main and list main.
func (r *Release) hasComponent(component string) bool {
	if len(r.Components) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Components, func(c string) bool {
		return c == component || strings.HasSuffix(c, "/"+component) || strings.HasSuffix(component, "/"+c)
	})
}

// priority is the priority that apt gives the suite's versions without pins.
func (r *Release) priority() int {
	switch {
	case r.NotAutomatic && r.ButAutomaticUpgrades:
		return 100
	case r.NotAutomatic:
		return 1
	}
	return 500
}
