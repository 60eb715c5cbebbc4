package foreign

import (
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
)

// What compressed archives may decompress to. A tar of images or files rarely comes to ten times its compressed size;
// zstd can write a thousand times as much again. So an import is stopped before it fills the disk or burns hours, and
// not when it is found to be damaged behind that.
var (
	// freeExpansion is what all compressed archives of an import may decompress to however small they are, in bytes,
	// and maxExpansion the multiple of their own size that they may have besides.
	freeExpansion int64 = 64 << 20
	maxExpansion  int64 = 100
	// The same for layers that are decompressed to compare them with their config. Nothing is written then, and a
	// single layer that has a large empty file in it is nothing strange: gzip itself ends at 1032.
	freeVerified int64 = 1 << 30
	maxVerified  int64 = 1100
)

// expansion counts what went into the decompressors of an import and what came out.
type expansion struct {
	in, out     atomic.Int64
	free, times int64
	stream      bool // something is read from a pipe: in grows while it is read, and what is to come is not known
}

// limit is how much may come out.
func (x *expansion) limit() int64 { return x.free + x.times*x.in.Load() }

// add counts n more bytes that come out; an error if they are too many.
func (x *expansion) add(n int64) error {
	if x.out.Add(n) > x.limit() {
		return x.errTooMuch()
	}
	return nil
}

// claim refuses a file of size bytes that cannot fit, before the first of them is written.
func (x *expansion) claim(size int64) error {
	if !x.stream && size > x.limit()-x.out.Load() {
		return x.errTooMuch()
	}
	return nil
}

func (x *expansion) errTooMuch() error {
	return fmt.Errorf("it decompresses to more than %d MiB and %d times its size, "+
		"which no archive of images or files does: if it is right all the same, decompress it first "+
		"(gunzip, unzstd, cp --sparse=never) and import the result: %w",
		x.free>>20, x.times, fs.ErrInvalid)
}

// reader is r, the output of a decompressor, which ends with an error when it is too long.
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
