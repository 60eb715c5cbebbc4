package deb

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"pault.ag/go/debian/version"

	"casemate/bundle/ospackages/unpack"
)

const (
	maxControl        = 256 << 10 // bytes of a control file
	maxControlArchive = 64 << 20  // bytes of control.tar, expanded: it has the maintainer's scripts and file sums too
	maxMembers        = 16        // of the ar archive
	maxControlFiles   = 10_000    // of control.tar
)

// File is what a package's file says of itself.
type File struct {
	Name, Version, Arch string
	// Control is its control paragraph, with a line feed at the end. It has none of the fields that an index adds.
	Control string
}

// The forms of names (Debian policy, 5.6.1, 5.6.8 and 5.6.12).
var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,199}$`)
	versionForm = regexp.MustCompile(`^([0-9]{1,9}:)?[0-9]([A-Za-z0-9.+~-]{0,198}[A-Za-z0-9.+~])?$`)
	archForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	fieldForm   = regexp.MustCompile(`^[!-9;-~]{1,200}$`) // 5.1
)

// ofIndices are fields that an index adds to a package: a package that brings its own would speak for the index.
var ofIndices = []string{"filename", "size", "md5sum", "sha1", "sha256", "sha512", "description-md5"}

// ReadFile reads a binary package (deb(5), deb-control(5)) to its end. An error is about the file, or one of r.
func ReadFile(r io.Reader) (*File, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, notEnd(err, errors.New("it is not a DEB package"))
	}
	var f *File
	for n := 0; ; n++ {
		name, size, err := nextMember(in)
		switch {
		case err == io.EOF && n >= 3:
			return f, nil
		case err != nil:
			return nil, notEnd(err, errShort)
		}
		body := &io.LimitedReader{R: in, N: size}
		switch {
		case n == maxMembers:
			return nil, fmt.Errorf("it has more than %d members", maxMembers)
		case n == 0:
			err = checkFormat(name, body)
		case n == 1:
			f, err = readControlArchive(name, body)
		case n == 2 && !strings.HasPrefix(name, "data.tar"):
			err = fmt.Errorf("its third member is %q, not data.tar", name)
		}
		if err != nil {
			return nil, err
		}
		if err := skip(in, body.N+size%2, size%2 == 1); err != nil {
			return nil, err
		}
	}
}

// notEnd returns an error of reading that is not the end of the file, else what that end means.
func notEnd(err, meaning error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return meaning
	}
	return err
}

var errShort = errors.New("it is not complete: the file ends in a member")

// nextMember reads the header of a member of an ar archive. io.EOF: there is no further one.
func nextMember(in io.Reader) (name string, size int64, err error) {
	var h [60]byte
	switch _, err := io.ReadFull(in, h[:]); {
	case err == io.EOF:
		return "", 0, io.EOF
	case err != nil:
		return "", 0, err
	}
	name = strings.TrimRight(strings.TrimRight(string(h[:16]), " "), "/")
	size, err = strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 || string(h[58:]) != "`\n" {
		return "", 0, errors.New("it is not a DEB package: a member has no valid header")
	}
	return name, size, nil
}

// skip reads n bytes; the last one is only padding, which may be missing at the end of the file.
func skip(in io.Reader, n int64, padded bool) error {
	got, err := io.CopyN(io.Discard, in, n)
	if err == nil || err == io.EOF && padded && got == n-1 {
		return nil
	}
	return notEnd(err, errShort)
}

func checkFormat(name string, body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, 64))
	if err != nil {
		return err
	}
	if name != "debian-binary" || !bytes.HasPrefix(text, []byte("2.")) {
		return errors.New("it is not a DEB package of format 2")
	}
	return nil
}

// readControlArchive reads control.tar, with any compression.
func readControlArchive(name string, body io.Reader) (*File, error) {
	suffix, ok := strings.CutPrefix(name, "control.tar")
	if !ok || !slices.Contains([]string{"", ".gz", ".xz", ".zst"}, suffix) {
		return nil, fmt.Errorf("its second member is %q, not control.tar, .gz, .xz or .zst", name)
	}
	out, err := unpack.Reader(body, name, maxControlArchive)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer out.Close()
	archive := tar.NewReader(out)
	var f *File
	for range maxControlFiles {
		h, err := archive.Next()
		switch {
		case err == io.EOF && f == nil:
			return nil, fmt.Errorf("%s has no control file", name)
		case err == io.EOF:
			return f, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", name, err)
		}
		if path.Clean(h.Name) != "control" {
			continue
		}
		if f != nil { // dpkg takes the last one
			return nil, fmt.Errorf("%s has two control files", name)
		}
		if h.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("control in %s is not a file", name)
		}
		if h.Size > maxControl {
			return nil, fmt.Errorf("its control file has %d bytes, more than %d", h.Size, maxControl)
		}
		text, err := io.ReadAll(io.LimitReader(archive, maxControl))
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", name, err)
		}
		if f, err = readControl(string(text)); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s has more than %d files", name, maxControlFiles)
}

// readControl checks the control file of a package. What it accepts is one paragraph of an index.
func readControl(text string) (*File, error) {
	text = strings.Trim(text, "\n") + "\n"
	if !utf8.ValidString(text) {
		return nil, errors.New("its control file is not UTF-8")
	}
	bad := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if i := strings.IndexFunc(text, bad); i >= 0 {
		return nil, fmt.Errorf("its control file has the control character %q", text[i])
	}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		switch {
		case strings.TrimSpace(line) == "":
			return nil, errors.New("its control file has an empty line: only one paragraph is allowed")
		case line[0] == ' ' || line[0] == '\t':
			if len(seen) == 0 {
				return nil, errors.New("its control file begins with a continuation line")
			}
			continue
		}
		name, _, _ := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		field := strings.ToLower(name)
		switch {
		case !fieldForm.MatchString(name):
			return nil, fmt.Errorf("its control file has %.100q, which is not a field: write NAME: VALUE", line)
		case slices.Contains(ofIndices, field):
			return nil, fmt.Errorf("its control file has the field %s, which only an index may have", name)
		case seen[field]:
			return nil, fmt.Errorf("its control file has the field %.100q twice", name)
		}
		seen[field] = true
	}
	in := newParagraphs(strings.NewReader(text), maxControl+1, false)
	fields, _, err := in.next()
	if err != nil {
		return nil, fmt.Errorf("its control file: %w", err)
	}
	f := &File{Name: fields["package"], Version: fields["version"], Arch: fields["architecture"], Control: text}
	switch {
	case !nameForm.MatchString(f.Name):
		return nil, fmt.Errorf("its control file has the field Package: %.100q, which is not a package's name", f.Name)
	case !versionForm.MatchString(f.Version):
		return nil, fmt.Errorf("its control file has the field Version: %.100q, which is not a version", f.Version)
	case !archForm.MatchString(f.Arch) || f.Arch == "any" || f.Arch == "source":
		return nil, fmt.Errorf("its control file has the field Architecture: %.100q, which is not one of a binary "+
			"package", f.Arch)
	}
	if _, err := version.Parse(f.Version); err != nil {
		return nil, fmt.Errorf("its control file has the field Version: %.100q: %w", f.Version, err)
	}
	return f, checkFields(fields)
}
