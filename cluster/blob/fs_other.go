//go:build !linux

package blob

import "errors"

// Allocate sets the size and reserves nothing: later writes may still find the disk full. A node runs on Linux;
// elsewhere the program only collects.
func (OS) Allocate(f File, size int64) error { return f.Truncate(size) }

// Syncer is not supported.
func (OS) Syncer(string) (Syncer, error) { return nil, errors.ErrUnsupported }

// Clone is not supported.
func (OS) Clone(File, Source, int64, int64) (int64, error) { return 0, errors.ErrUnsupported }

// Flush leaves it to the system when to write.
func (OS) Flush(File, int64, int64) {}

// Drop leaves it to the system what to keep in memory.
func (OS) Drop(File) {}
