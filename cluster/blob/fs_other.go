//go:build !linux

package blob

import "errors"

// Allocate sets the size and reserves nothing: later writes may still find the disk full. Nodes run on Linux; on other
// systems the program only makes bundles.
func (OS) Allocate(f File, size int64) error { return f.Truncate(size) }

// Syncer is not supported.
func (OS) Syncer(string) (Syncer, error) { return nil, errors.ErrUnsupported }

// Clone is not supported.
func (OS) Clone(File, Source, int64, int64) (int64, error) { return 0, errors.ErrUnsupported }

// Flush does nothing.
func (OS) Flush(File, int64, int64) {}

// Drop does nothing.
func (OS) Drop(File) {}
