package unpack

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

const (
	MaxExpanded   = 2 << 30   // bytes of one expanded index; Debian's main has 50 MB
	MaxRatio      = 200       // of expanded and compressed size, where a repository does not state the former
	maxDictionary = 128 << 20 // bytes of a decoder's window: xz -9 needs 64 MiB
)

// Reader expands an index by the suffix of its name. More than limit bytes are an error.
func Reader(r io.Reader, name string, limit int64) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	var out io.Reader
	var err error
	done := func() {}
	switch path.Ext(name) {
	case ".xz":
		if err = checkXZ(in); err == nil {
			out, err = xz.NewReader(in)
		}
	case ".lzma":
		out, err = lzma.ReaderConfig{DictCap: maxDictionary}.NewReader(in)
	case ".bz2":
		out = bzip2.NewReader(in)
	case ".gz":
		out, err = gzip.NewReader(in)
	case ".zst":
		var z *zstd.Decoder
		z, err = zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxDictionary), zstd.WithDecoderConcurrency(1))
		if err == nil {
			out, done = z, z.Close
		}
	default:
		out = in
	}
	if err != nil {
		return nil, fmt.Errorf("it cannot be decompressed: %w", err)
	}
	return &expanded{r: out, left: limit, done: done}, nil
}

// checkXZ looks at the first block's header: its dictionary is memory of the decoder (.xz file format 1.0.4, 3.1 and
// 5.3.1).
func checkXZ(in *bufio.Reader) error {
	head, _ := in.Peek(12 + 64)
	// Stream header (12), header size, block flags, sizes of variable length, filter ID 0x21, size of properties 1,
	// dictionary size.
	for i := 14; i+2 < len(head); i++ {
		if head[i] == 0x21 && head[i+1] == 1 {
			if bits := head[i+2] & 0x3f; bits > 30 { // 2^27 · 1 = 128 MiB is 30
				return errors.New("its dictionary is larger than 128 MiB")
			}
			return nil
		}
	}
	return nil // an empty stream has no block
}

// expanded reads at most left bytes, and fails if there are more.
type expanded struct {
	r    io.Reader
	left int64
	done func()
}

func (e *expanded) Read(p []byte) (int, error) {
	if int64(len(p)) > e.left+1 {
		p = p[:e.left+1]
	}
	n, err := e.r.Read(p)
	if int64(n) > e.left {
		return int(e.left), errors.New("it expands to more than its repository says")
	}
	e.left -= int64(n)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("it cannot be decompressed: %w", err)
	}
	return n, err
}

func (e *expanded) Close() error {
	e.done()
	return nil
}
