package content

import (
	"crypto/ed25519"
	"iter"
	"time"

	"casemate/bundle"
)

// SignInventory returns the signed document that lists the blobs in kept: those that a name refers to. A bundle made
// with it leaves them out. checkpoint is that of the audit log, "" for none.
func SignInventory(
	kept iter.Seq2[string, int64], domain, checkpoint string, now time.Time, key ed25519.PrivateKey,
) ([]byte, error) {
	inv := bundle.Inventory{Version: 1, Domain: domain, Time: now.UTC().Truncate(time.Second), Checkpoint: checkpoint}
	if checkpoint != "" {
		inv.Version = bundle.InventoryVersion
	}
	for digest, size := range kept {
		inv.Blobs = append(inv.Blobs, bundle.Blob{Digest: digest, Size: size})
	}
	return inv.Sign(key)
}
