package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"casemate/cluster"
)

// removedFile is in the data directory of a node that was removed, from the moment that the node knows it: from then
// on the node does not start, even if no other node can be asked.
const removedFile = "removed"

// Removed returns an error that wraps cluster.ErrRemoved if the node whose data directory this is was removed from its
// cluster, nil if it was not, and another error if that cannot be known.
func Removed(data string) error {
	info, err := os.Stat(filepath.Join(data, removedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return unreadable(data, err)
	}
	return fmt.Errorf("stopped on %s (data directory %s): %w", info.ModTime().UTC().Format(time.RFC3339), data,
		cluster.ErrRemoved)
}

// MarkRemoved records that the node with this data directory was removed.
func MarkRemoved(data string) error {
	return os.WriteFile(filepath.Join(data, removedFile), nil, 0o640)
}

// unmarkRemoved is for a node that becomes a cluster of one with its previous data.
func unmarkRemoved(data string) error {
	if err := os.Remove(filepath.Join(data, removedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
