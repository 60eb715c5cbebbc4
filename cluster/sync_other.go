//go:build !linux

package cluster

import "casemate/cluster/blob"

// syncData makes a file's bytes, and its size, durable.
func syncData(f blob.File) error { return f.Sync() }
