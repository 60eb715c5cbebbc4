package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"casemate/cluster"
)

// ErrRemoved is a node that was removed from its cluster: it must not be started again. Open and Run wrap it.
var ErrRemoved = cluster.ErrRemoved

// removedFile stands in the data directory of a node that was removed, from the moment that it hears of it: from then on
// it starts nothing, also while no other node can be asked.
const removedFile = "removed"

// Removed returns an error that wraps ErrRemoved if the node whose data directory this is was removed from its cluster,
// and nil if it was not or the directory cannot be read.
func Removed(data string) error {
	info, err := os.Stat(filepath.Join(data, removedFile))
	if err != nil {
		return nil
	}
	return fmt.Errorf("stopped on %s (data directory %s): %w", info.ModTime().UTC().Format(time.RFC3339), data, ErrRemoved)
}

// markRemoved is called when a node hears that it was removed.
func (a *Appliance) markRemoved() {
	if err := os.WriteFile(filepath.Join(a.cfg.Data, removedFile), nil, 0o640); err != nil {
		a.log.Warn("that this node was removed cannot be kept on its disk, it asks the others again at its next start", "error", err)
	}
}

// unmarkRemoved is for a node that becomes a cluster of one with the data of before.
func unmarkRemoved(data string) error {
	if err := os.Remove(filepath.Join(data, removedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
