//go:build !linux

package disk

import "casemate/cluster/blob"

// SyncData makes a file's bytes and its size durable.
func SyncData(f blob.File) error { return f.Sync() }
