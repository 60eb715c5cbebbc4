package foreign

import (
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
)

// Limits of what compressed archives may decompress to. A tar of images or files rarely has ten times its compressed
// size; zstd can produce a thousand times as much. The limits stop an import before it fills the disk or takes hours.
var (
	// freeExpansion is the number of bytes that all compressed archives of an import may decompress to whatever their
	// size, and maxExpansion is the multiple of their own size that is allowed in addition.
	freeExpansion int64 = 64 << 20
	maxExpansion  int64 = 100
	// The same for layers that are decompressed to compare them with their config. Nothing is written, and a layer with
	// a large empty file is not unusual: gzip itself cannot exceed 1032.
	freeVerified int64 = 1 << 30
	maxVerified  int64 = 1100
)

// expansion counts the input and the output of the decompressors of an import.
type expansion struct {
	in, out     atomic.Int64
	free, times int64
	stream      bool // something is read from a pipe: in grows during reading, and the final size is not known
}

// limit returns the maximum number of bytes of output.
func (x *expansion) limit() int64 { return x.free + x.times*x.in.Load() }

// add counts n more bytes of output; it returns an error if they exceed the limit.
func (x *expansion) add(n int64) error {
	if x.out.Add(n) > x.limit() {
		return x.errTooMuch()
	}
	return nil
}

// claim refuses a file of size bytes that cannot fit, before any of it is written.
func (x *expansion) claim(size int64) error {
	if !x.stream && size > x.limit()-x.out.Load() {
		return x.errTooMuch()
	}
	return nil
}

func (x *expansion) errTooMuch() error {
	return fmt.Errorf("it decompresses to more than %d MiB and %d times its size, "+
		"which archives of images or files do not do: if it is correct, decompress it first "+
		"(gunzip, unzstd, cp --sparse=never) and import the result: %w",
		x.free>>20, x.times, fs.ErrInvalid)
}

// reader returns r, the output of a decompressor, limited.
func (x *expansion) reader(r io.Reader) io.Reader { return &expanding{r, x} }

type expanding struct {
	io.Reader
	x *expansion
}

func (e *expanding) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if tooMuch := e.x.add(int64(n)); tooMuch != nil {
		return 0, tooMuch
	}
	return n, err
}
