package python

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Limits of packages.
const (
	maxMetadata = 4 << 20   // bytes of a METADATA or PKG-INFO file; some have a whole manual
	maxMembers  = 0xfffe    // files of a wheel: more need zip64
	maxDirs     = 32 << 20  // bytes of a zip's directory
	maxExpanded = 256 << 20 // decompressed bytes that are read of a source distribution, to find its PKG-INFO
)

// Metadata reads what a package says of itself: METADATA of a wheel, PKG-INFO of a source distribution. It must name
// the project of the file's name; the result has the project and the version that the metadata name.
func Metadata(name string, r io.ReaderAt, size int64) (File, []byte, error) {
	f, err := ParseFile(name)
	if err != nil {
		return f, nil, err
	}
	var b []byte
	switch {
	case f.Wheel() || strings.HasSuffix(name, ".zip"):
		b, err = zipMetadata(f, r, size)
	case strings.HasSuffix(name, ".tar.bz2"):
		b, err = tarMetadata(bzip2.NewReader(io.NewSectionReader(r, 0, size)))
	default:
		var z *gzip.Reader
		if z, err = gzip.NewReader(io.NewSectionReader(r, 0, size)); err == nil {
			b, err = tarMetadata(z)
		}
	}
	if err != nil {
		return f, nil, fmt.Errorf("%s: %w", name, err)
	}
	project, ok := Normalize(Header(b, "Name"))
	switch {
	case !ok:
		return f, nil, fmt.Errorf("%s: its metadata have no name of a project", name)
	case f.Wheel() && project != f.Project:
		return f, nil, fmt.Errorf("%s: its metadata are those of another project, %s", name, project)
	case f.Wheel():
		return f, b, nil
	}
	version := Header(b, "Version")
	if !versionForm.MatchString(version) || !strings.HasPrefix(normalStem(name), project+"-") {
		return f, nil, fmt.Errorf("%s: its metadata are those of %.100q %.100q", name, project, version)
	}
	f.Project, f.Version = project, version
	return f, b, nil
}

// normalStem is the name of a source distribution with one kind of separator.
func normalStem(name string) string { return strings.ToLower(separators.ReplaceAllString(name, "-")) }

// Header returns the value of a field of metadata, "" if it is missing. Fields end at the first empty line (core
// metadata: RFC 822).
func Header(metadata []byte, field string) string {
	in := bufio.NewReader(bytes.NewReader(metadata))
	for {
		line, err := in.ReadString('\n')
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, field) {
			return strings.TrimSpace(value)
		}
		if err != nil || strings.TrimRight(line, "\r\n") == "" {
			return ""
		}
	}
}

var errNoMetadata = errors.New("it is no Python package: it has no metadata")

func zipMetadata(f File, r io.ReaderAt, size int64) ([]byte, error) {
	if err := checkZip(r, size); err != nil {
		return nil, err
	}
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	var found *zip.File
	for _, m := range z.File {
		dir, base := path.Split(m.Name)
		dir = strings.TrimSuffix(dir, "/")
		if strings.Contains(dir, "/") || dir == "" {
			continue
		}
		of, _, _ := strings.Cut(strings.TrimSuffix(dir, ".dist-info"), "-")
		project, _ := Normalize(of)
		wheel := f.Wheel() && base == "METADATA" && strings.HasSuffix(dir, ".dist-info") && project == f.Project
		if !wheel && (f.Wheel() || base != "PKG-INFO") {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("it has metadata twice: %.200q and %.200q", found.Name, m.Name)
		}
		found = m
	}
	if found == nil {
		return nil, errNoMetadata
	}
	content, err := found.Open()
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	defer content.Close()
	return limited(content)
}

// checkZip refuses a zip whose directory would take much memory (APPNOTE.TXT, 4.3.16).
func checkZip(r io.ReaderAt, size int64) error {
	tail := make([]byte, min(size, 22+0xffff))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	at := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	if at < 0 || len(tail)-at < 22 {
		return errors.New("it is no zip archive, or it is truncated")
	}
	entries := binary.LittleEndian.Uint16(tail[at+10:])
	if n := binary.LittleEndian.Uint32(tail[at+12:]); entries > maxMembers || n > maxDirs {
		return fmt.Errorf("it has more than %d files, or a directory of more than %d MiB", maxMembers, maxDirs>>20)
	}
	return nil
}

// tarMetadata finds DIR/PKG-INFO.
func tarMetadata(r io.Reader) ([]byte, error) {
	in := tar.NewReader(io.LimitReader(r, maxExpanded))
	for {
		h, err := in.Next()
		switch {
		case err == io.EOF:
			return nil, errNoMetadata
		case err != nil:
			return nil, fmt.Errorf("its metadata cannot be read: %w", err)
		}
		dir, base, _ := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		if h.Typeflag == tar.TypeReg && dir != "" && base == "PKG-INFO" {
			return limited(in)
		}
	}
}

func limited(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxMetadata+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("its metadata cannot be read: %w", err)
	case len(b) > maxMetadata:
		return nil, fmt.Errorf("its metadata have more than %d MiB", maxMetadata>>20)
	}
	return b, nil
}
