package foreign

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"casemate/bundle"
)

// headSize is the number of bytes that are read to find out what a file is: a block of zstd has at most 128 KiB, and
// only a whole block can be decompressed.
const headSize = 256 << 10

// maxWindow bounds zstd's memory; it is the window of --long=27, beyond which zstd itself requires an option.
const maxWindow = 128 << 20

// format is the format of a file according to its first bytes.
type format byte

const (
	otherFormat format = iota
	emptyFile
	plainTar
	gzipped
	zstandard
	xzFormat
	bzip2Format
	zipFormat
	jsonText // begins like a JSON object or array
)

func (f format) what() string {
	switch f {
	case emptyFile:
		return "empty"
	case xzFormat, bzip2Format:
		return "compressed in an unsupported format (decompress it first)"
	case zipFormat:
		return "a zip archive (unpack it and name the directory)"
	case jsonText:
		return "a JSON document"
	}
	return "no archive"
}

// sniff returns the format of a file that begins with head; 512 bytes are enough.
func sniff(head []byte) format {
	switch {
	case len(head) == 0:
		return emptyFile
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) > 3 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return zstandard // or a skippable frame
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xzFormat
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2Format
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return zipFormat
	case isTar(head):
		return plainTar
	}
	if text := bytes.TrimLeft(head, " \t\r\n"); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		return jsonText
	}
	return otherFormat
}

// isTar reports whether a tar begins with head: the checksum of its first header is right, or it is the end marker of
// an empty tar (an empty layer is one).
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	if len(bytes.Trim(head[:512], "\x00")) == 0 {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head[:512])).Next()
	return !errors.Is(err, tar.ErrHeader)
}

// decompress returns r without its compression. close releases the decompressor.
func decompress(r io.Reader, f format) (_ io.Reader, close func() error, err error) {
	switch f {
	case gzipped:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case zstandard:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, nil, err
		}
		return z, func() error { z.Close(); return nil }, nil
	}
	return r, noClose, nil
}

// File is the file of an Input, of which the beginning was read.
type File struct {
	fs.File
	Head   []byte // the first headSize bytes
	format format
	at     io.ReaderAt // of a regular file; nil for a pipe
	size   int64       // of a regular file
	claims int64       // the size that a pipe says it will have; 0 if it does not
	rest   io.Reader   // of a pipe: all of its content, including the head
}

// OpenFile reads the beginning of a file.
func OpenFile(in bundle.Input) (*File, error) {
	if in.File == nil {
		return nil, errors.New("neither a file nor a directory")
	}
	info, err := in.File.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("a directory that was passed as a file")
	}
	f := &File{File: in.File}
	var r io.Reader = in.File
	if at, ok := in.File.(io.ReaderAt); ok && info.Mode().IsRegular() {
		f.at, f.size = at, info.Size()
		r = f.reader()
	}
	f.Head = make([]byte, headSize)
	n, err := io.ReadFull(r, f.Head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	f.Head = f.Head[:n]
	if f.at == nil {
		f.claims = max(0, info.Size())
	}
	f.rest = bundle.Unread(f.Head, in.File)
	f.format = sniff(f.Head)
	return f, nil
}

// Whole returns the file with its head put back, for other readers.
func (f *File) Whole() fs.File {
	if f.at != nil {
		return f.File
	}
	if s, ok := f.rest.(bundle.Skipper); ok {
		return skipping{f, s}
	}
	return f
}

// skipping is the file of a pipe that is a bundle.Skipper.
type skipping struct {
	*File
	s bundle.Skipper
}

func (s skipping) Skip(n int64) error { return s.s.Skip(n) }

// Read reads a pipe from its beginning.
func (f *File) Read(p []byte) (int, error) { return f.rest.Read(p) }

// reader reads the file from its beginning.
func (f *File) reader() io.Reader {
	if f.at != nil {
		return io.NewSectionReader(f.at, 0, f.size)
	}
	return f.rest
}
