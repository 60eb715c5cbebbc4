package python

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Requirement is one line of a requirements file: a project of which exactly one version is wanted, in one of some
// files.
type Requirement struct {
	Project string // normalised
	Version string
	// Files are those that a line ("name @ URL") or a lock file names itself; then no index is asked.
	Files []Direct
	// Hashes are the digests that the files may have, "sha256:…" and "sha512:…".
	Hashes []string
	Where  string // FILE:LINE
	// Indices are those that the file names, in its order, each with a slash at the end.
	Indices []string
}

// Direct is a file at a URL of its own.
type Direct struct {
	URL    string
	Digest string // "sha256:…" or "sha512:…"
}

// Limits of requirements files.
const (
	maxRequirements = 64 << 20 // bytes of one file
	maxIncludes     = 100      // files that are read, with those that others include
	maxBad          = 100      // errors that are reported
	maxLine         = 1 << 20  // bytes of a line with its continuations: a package can have hundreds of files
)

// HowToPin is the command that makes a requirements file that can be collected.
const HowToPin = "pip-compile --generate-hashes --output-file=pinned.txt requirements.in"

// Requirements reads files of requirements as pip-compile --generate-hashes writes them. The zero value is ready but
// for Open.
type Requirements struct {
	// Open opens a file that another one includes, by its name relative to that one.
	Open func(name string) (io.ReadCloser, error)

	list  []Requirement
	bad   []error
	files int
	more  int
	// unpinned says that a line has no version or no hash.
	unpinned bool
}

// Err returns the errors of all files, nil if there are none.
func (q *Requirements) Err() error {
	if len(q.bad) == 0 {
		return nil
	}
	list := slices.Clone(q.bad)
	if q.more > 0 {
		list = append(list, fmt.Errorf("and %d more", q.more))
	}
	if q.unpinned {
		list = append(list, errors.New("only what is pinned with hashes is collected; this makes such a file: "+
			HowToPin))
	}
	return errors.Join(list...)
}

// List returns the requirements of all files.
func (q *Requirements) List() []Requirement { return q.list }

// Read reads a file. name is its name in messages, and the one that included files are relative to.
func (q *Requirements) Read(name string, r io.Reader) {
	var indices []string
	q.read(name, r, &indices, false)
}

func (q *Requirements) refuse(where string, err error) {
	if len(q.bad) == maxBad {
		q.more++
		return
	}
	q.bad = append(q.bad, fmt.Errorf("%s: %w", where, err))
}

// read reads a file with those that it includes. Options about indices count for every line of them, as they do for
// pip. constraints are only versions of what others require.
func (q *Requirements) read(name string, r io.Reader, indices *[]string, constraints bool) {
	if q.files++; q.files > maxIncludes {
		if q.files == maxIncludes+1 {
			q.refuse(name, fmt.Errorf("more than %d files include each other", maxIncludes))
		}
		return
	}
	if isLock(name) {
		q.lock(name, r)
		return
	}
	first := len(q.list)
	limited := &io.LimitedReader{R: r, N: maxRequirements + 1}
	in := bufio.NewScanner(limited)
	in.Buffer(nil, maxLine)
	line, where := "", ""
	for n := 1; in.Scan(); n++ {
		text := strings.TrimPrefix(strings.TrimRight(in.Text(), "\r"), "\ufeff")
		if where == "" {
			where = fmt.Sprintf("%s:%d", name, n)
		}
		if comment := strings.TrimLeft(text, " \t"); strings.HasPrefix(comment, "#") {
			text = "" // also between continued lines, where pip-compile writes who requires it
			if line != "" {
				continue
			}
		}
		if i := strings.Index(text, " #"); i >= 0 {
			text = text[:i]
		}
		part, continued := strings.CutSuffix(text, `\`)
		if line += part; len(line) > maxLine {
			q.refuse(where, errors.New("the line is too long"))
			line, where = "", ""
			continue
		}
		if continued {
			line += " "
			continue
		}
		q.line(name, where, line, indices, constraints)
		line, where = "", ""
	}
	q.line(name, where, line, indices, constraints)
	if err := in.Err(); err != nil {
		q.refuse(name, fmt.Errorf("read: %w", err))
	} else if limited.N == 0 {
		q.refuse(name, fmt.Errorf("it is larger than %d MiB", maxRequirements>>20))
	}
	for i := first; i < len(q.list); i++ {
		q.list[i].Indices = *indices
	}
}

func (q *Requirements) line(name, where, line string, indices *[]string, constraints bool) {
	line = strings.TrimSpace(line)
	switch {
	case line == "":
	case !utf8.ValidString(line):
		q.refuse(where, errors.New("the line is not UTF-8: save the file as UTF-8 text"))
	case strings.HasPrefix(line, "-"):
		if err := q.option(name, line, indices); err != nil {
			q.refuse(where, err)
		}
	case constraints:
	default:
		r, err := parseRequirement(line)
		if err != nil {
			q.unpinned = q.unpinned || errors.Is(err, errUnpinned)
			q.refuse(where, err)
			return
		}
		r.Where = where
		q.list = append(q.list, r)
	}
}

// option reads a line that begins with an option.
func (q *Requirements) option(name, line string, indices *[]string) error {
	option, value, joined := strings.Cut(line, "=")
	if !joined || strings.ContainsAny(option, " \t") {
		option, value, _ = strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	}
	value = strings.Trim(strings.TrimSpace(value), `"'`)
	if len(option) > 2 && option[1] != '-' { // -rFILE
		option, value = option[:2], strings.TrimSpace(line[2:])
	}
	switch option {
	case "-i", "--index-url", "--pypi-url":
		index, err := CheckIndex(value)
		if err == nil {
			*indices = append([]string{index}, *indices...)
		}
		return err
	case "--extra-index-url":
		index, err := CheckIndex(value)
		if err == nil {
			*indices = append(*indices, index)
		}
		return err
	case "-r", "--requirement", "-c", "--constraint":
		if strings.Contains(value, "://") {
			return fmt.Errorf("%.200q is at a URL: fetch it and include the file", value)
		}
		if !path.IsAbs(value) {
			value = path.Join(path.Dir(name), value)
		}
		if q.Open == nil {
			return fmt.Errorf("%.200q cannot be included here", value)
		}
		f, err := q.Open(value)
		if err != nil {
			return err
		}
		defer f.Close()
		q.read(value, f, indices, option == "-c" || option == "--constraint")
		return nil
	case "--trusted-host", "--pre", "--prefer-binary", "--require-hashes", "--no-binary", "--only-binary",
		"--use-feature":
		return nil // says what pip takes of what is there
	case "--no-index":
		*indices = nil
		return nil
	case "-e", "--editable":
		return fmt.Errorf("%.200q is a directory of sources, not a package with a hash: build a wheel of it (pip "+
			"wheel) and import that", value)
	case "-f", "--find-links":
		return fmt.Errorf("packages at %.200q cannot be collected, since it is no index: import the files", value)
	}
	return fmt.Errorf("%.100q is not an option of requirements files that is known here", option)
}

var (
	errUnpinned = errors.New("")
	// requirementForm is NAME[EXTRAS] and the rest.
	requirementForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[A-Za-z0-9._,\s-]*\])?\s*(.*)$`)
	pinForm         = regexp.MustCompile(`^\(?\s*(===?)\s*([^\s;,()]+)\s*\)?\s*(?:;.*)?$`)
	hashForm        = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
)

// unpinned is an error of a line that pip-compile can repair.
type unpinned string

func (u unpinned) Error() string        { return string(u) }
func (u unpinned) Is(target error) bool { return target == errUnpinned }

func parseRequirement(line string) (Requirement, error) {
	var r Requirement
	spec, options, _ := strings.Cut(strings.ReplaceAll(line, "\t", " ")+" ", " --")
	if options != "" {
		for _, option := range strings.Split(options, " --") {
			option = strings.TrimSpace(option)
			name, value, ok := strings.Cut(option, "=")
			if !ok {
				name, value, _ = strings.Cut(option, " ")
			}
			if strings.TrimSpace(name) != "hash" {
				continue // build options of pip
			}
			value = strings.ToLower(strings.Trim(strings.TrimSpace(value), `"'`))
			if strings.HasPrefix(value, "sha384:") {
				continue
			}
			if !hashForm.MatchString(value) {
				return r, fmt.Errorf("%.200q is not a hash: sha256: and 64 hex digits, or sha512: and 128", value)
			}
			if !slices.Contains(r.Hashes, value) {
				r.Hashes = append(r.Hashes, value)
			}
		}
	}
	spec = strings.TrimSpace(spec)
	if strings.HasPrefix(spec, "https://") || strings.HasPrefix(spec, "http://") {
		return parseDirect(r, spec)
	}
	m := requirementForm.FindStringSubmatch(spec)
	if m == nil || strings.HasPrefix(m[3], "/") || strings.Contains(m[1], "://") || strings.HasPrefix(m[3], "://") ||
		strings.HasPrefix(m[3], "+") {
		return r, fmt.Errorf("%.200q is not a project of an index: write NAME==VERSION with its hashes, or import the "+
			"file", spec)
	}
	var ok bool
	if r.Project, ok = Normalize(m[1]); !ok {
		return r, fmt.Errorf("%.200q is not the name of a Python project", m[1])
	}
	if at, isURL := strings.CutPrefix(m[3], "@"); isURL {
		return parseDirect(r, strings.TrimSpace(at))
	}
	pin := pinForm.FindStringSubmatch(m[3])
	switch {
	case pin == nil, strings.Contains(pin[2], "*"):
		return r, unpinned(fmt.Sprintf("%.200q does not say one version", spec))
	case !versionForm.MatchString(pin[2]):
		return r, fmt.Errorf("%.200q is not a version", pin[2])
	case len(r.Hashes) == 0:
		return r, unpinned(fmt.Sprintf("%s==%s has no sha256 or sha512 hash", r.Project, pin[2]))
	}
	r.Version = pin[2]
	return r, nil
}

// parseDirect reads what follows the @ of a requirement: the URL of a file.
func parseDirect(r Requirement, at string) (Requirement, error) {
	at, _, _ = strings.Cut(at, " ;")
	at, fragment, _ := strings.Cut(strings.TrimSpace(at), "#")
	for _, part := range strings.Split(fragment, "&") {
		h := strings.ToLower(strings.Replace(part, "=", ":", 1))
		if hashForm.MatchString(h) && !slices.Contains(r.Hashes, h) {
			r.Hashes = append(r.Hashes, h)
		}
	}
	digest := ""
	if len(r.Hashes) == 1 {
		digest = r.Hashes[0]
	}
	f, err := direct(at, digest)
	if err == nil && digest == "" {
		err = unpinned(fmt.Sprintf("%.200q needs one hash, that of the file", at))
	}
	r.Files = []Direct{f}
	return r, err
}
