package rpm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"
)

// Tags of headers that only the metadata of a repository needs (rpm's manual, Tags).
const (
	tagSummary, tagDescription, tagBuildTime, tagBuildHost = 1004, 1005, 1006, 1007
	tagSize, tagVendor, tagLicense, tagPackager            = 1009, 1011, 1014, 1015
	tagGroup, tagURL, tagArch, tagOldFileNames             = 1016, 1020, 1022, 1027
	tagFileModes, tagFileFlags, tagSourceRPM               = 1030, 1037, 1044
	tagChangeTime, tagChangeName, tagChangeText            = 1080, 1081, 1082
	tagSourcePackage                                       = 1106
	tagDirIndexes, tagBaseNames, tagDirNames               = 1116, 1117, 1118
	tagLongSize                                            = 5009

	// Of the signature header.
	tagLongArchiveSize, tagHeaderSHA256, tagArchiveSize = 271, 273, 1007
)

// Types of values that only these tags have.
const typeInt16, typeInt64, typeI18N = 3, 5, 9

const (
	maxFiles      = 1_000_000 // of one package
	maxFileNames  = 16 << 20  // bytes of all its files' names
	maxValues     = maxFiles  // of one tag
	maxChangelogs = 10        // as createrepo_c writes them by default
)

// File is what a package's file says of itself.
type File struct {
	Name, Arch string
	evr        evr
	main       *header
	archive    int64 // bytes of its content, expanded
	start, end int64 // where its main header is
	files      []fileEntry
}

// fileEntry is a file of a package.
type fileEntry struct {
	name string
	kind string // dir, ghost or ""
}

// EVR is its version as index files write it: [EPOCH:]VERSION-RELEASE.
func (f *File) EVR() string { return f.evr.String() }

// Base is the usual name of its file.
func (f *File) Base() string {
	return f.Name + "-" + f.evr.version + "-" + f.evr.release + "." + f.Arch + ".rpm"
}

var (
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}$`)
	versionForm = regexp.MustCompile(`^[A-Za-z0-9._+~^]{1,100}$`)
	archForm    = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)
)

// ReadFile reads a binary package (rpm's manual, Package Format) to its end, and compares what it has with the digests
// in its headers. It verifies no signature. An error is about the file, or one of r.
func ReadFile(in io.Reader) (*File, error) {
	r := bufio.NewReaderSize(in, 64<<10)
	lead := make([]byte, leadSize)
	if _, err := io.ReadFull(r, lead); err != nil || !bytes.Equal(lead[:4], []byte{0xed, 0xab, 0xee, 0xdb}) {
		return nil, errors.New("it is not an RPM package")
	}
	sig, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	pad := (8 - len(sig.data)%8) % 8
	if _, err := r.Discard(pad); err != nil {
		return nil, errors.New("it ends in its signature")
	}
	main, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	f := &File{Name: main.text(tagName), Arch: main.text(tagArch), main: main,
		evr: evr{main.number(tagEpoch), main.text(tagVersion), main.text(tagRelease)}}
	f.start = int64(leadSize + len(sig.raw) + pad)
	f.end = f.start + int64(len(main.raw))
	f.archive = max(first(sig.integers(tagLongArchiveSize)), first(sig.integers(tagArchiveSize)))
	switch {
	case !nameForm.MatchString(f.Name):
		return nil, fmt.Errorf("its header has the name %.100q, which is not a package's name", f.Name)
	case !versionForm.MatchString(f.evr.version) || !versionForm.MatchString(f.evr.release) || f.evr.epoch < 0:
		return nil, fmt.Errorf("its header has the version %.200q, which is not a version", f.evr)
	case !archForm.MatchString(f.Arch):
		return nil, fmt.Errorf("its header has the architecture %.100q", f.Arch)
	case main.text(tagSourceRPM) == "" || main.number(tagSourcePackage) == 1:
		return nil, errors.New("it is a source package: only binary packages can be installed")
	}
	if sum := sig.text(tagHeaderSHA256); sum != "" && sum != fmt.Sprintf("%x", sha256.Sum256(main.raw)) {
		return nil, errors.New("its header does not have the digest that the file says")
	}
	if f.files, err = main.files(); err != nil {
		return nil, err
	}
	if err := main.checkPayload(r); err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, r)
	return f, err
}

func first(list []int64) int64 {
	if len(list) == 0 {
		return 0
	}
	return list[0]
}

// integers are the values of a tag, of any width; nil if it is absent, not complete, or has more than maxValues.
func (h *header) integers(tag uint32) []int64 {
	e := h.entries[tag]
	width := map[uint32]int64{typeInt16: 2, typeInt32: 4, typeInt64: 8}[e.kind]
	if width == 0 || e.count > maxValues || int64(e.offset)+int64(e.count)*width > int64(len(h.data)) {
		return nil
	}
	list := make([]int64, e.count)
	for i := range list {
		at := h.data[int64(e.offset)+int64(i)*width:]
		switch width {
		case 2:
			list[i] = int64(binary.BigEndian.Uint16(at))
		case 4:
			list[i] = int64(binary.BigEndian.Uint32(at))
		default:
			list[i] = int64(binary.BigEndian.Uint64(at) & (1<<63 - 1))
		}
	}
	return list
}

// all are the strings of a tag; nil if it has more than maxValues. An array that is not complete is cut off.
func (h *header) all(tag uint32) (list []string) {
	e := h.entries[tag]
	if e.kind != typeStrings && e.kind != typeI18N && e.kind != typeString || e.count > maxValues ||
		int64(e.offset) >= int64(len(h.data)) {
		return nil
	}
	rest := h.data[e.offset:]
	for range e.count {
		s, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			break
		}
		list, rest = append(list, string(s)), after
	}
	return list
}

// english is the first string of a tag: that of the locale C.
func (h *header) english(tag uint32) string {
	if list := h.all(tag); len(list) > 0 {
		return list[0]
	}
	return ""
}

// files lists the files of a package.
func (h *header) files() ([]fileEntry, error) {
	names := h.all(tagOldFileNames)
	bases, dirs, in := h.all(tagBaseNames), h.all(tagDirNames), h.integers(tagDirIndexes)
	if len(bases) != len(in) || len(bases) == 0 && h.entries[tagBaseNames].count > 0 ||
		len(names) == 0 && h.entries[tagOldFileNames].count > 0 {
		return nil, errors.New("its header lists files in a way that cannot be read")
	}
	size := 0
	for i, base := range bases {
		if in[i] >= int64(len(dirs)) {
			return nil, errors.New("its header lists a file in a directory that it does not list")
		}
		// A directory may be named by many files: what this expands to is bounded.
		if size += len(dirs[in[i]]) + len(base); size > maxFileNames {
			return nil, fmt.Errorf("the names of its files have more than %d MiB", maxFileNames>>20)
		}
		names = append(names, dirs[in[i]]+base)
	}
	modes, flags := h.integers(tagFileModes), h.integers(tagFileFlags)
	list := make([]fileEntry, len(names))
	for i, name := range names {
		list[i].name = name
		switch {
		case i < len(modes) && modes[i]&0o170000 == 0o040000:
			list[i].kind = "dir"
		case i < len(flags) && flags[i]&(1<<6) != 0:
			list[i].kind = "ghost"
		}
	}
	return list, nil
}

// built is when the package was built.
func (f *File) built() time.Time { return time.Unix(first(f.main.integers(tagBuildTime)), 0) }

func number(n int64) string { return strconv.FormatInt(n, 10) }
