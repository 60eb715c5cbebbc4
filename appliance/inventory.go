package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"time"

	"casemate/appliance/content"
	"casemate/cluster"
)

// secretInventory is the seed of the ed25519 key that signs inventories. Unlike the other secrets it is made at its
// first use.
const secretInventory = "inventory"

func (a *Appliance) getInventory(w http.ResponseWriter, r *http.Request) {
	key, err := a.inventoryKey(r.Context())
	var doc []byte
	if err == nil {
		doc, err = content.SignInventory(a.held(r.Context()), a.now.Load().settings.Domain, time.Now(), key)
	}
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	send(w, r, "application/json", doc)
}

// held yields what an inventory may promise: what a name keeps and whose bytes can be had, since a bundle made with it
// leaves them out. Where that cannot be said now, it is not
// promised.
func (a *Appliance) held(ctx context.Context) iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		for digest, size := range a.tree.Kept() {
			if _, err := a.tree.HasBlob(ctx, digest); err != nil {
				continue
			}
			if !yield(digest, size) {
				return
			}
		}
	}
}

func (a *Appliance) getInventoryKey(w http.ResponseWriter, r *http.Request) {
	key, err := a.inventoryKey(r.Context())
	var der []byte
	if err == nil {
		der, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	send(w, r, "application/x-pem-file", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// inventoryKey returns the cluster's key for inventories, which the node that is asked for it first makes.
func (a *Appliance) inventoryKey(ctx context.Context) (ed25519.PrivateKey, error) {
	if _, err := a.tree.Stat("secrets/" + secretInventory); errors.Is(err, fs.ErrNotExist) {
		if err := a.makeInventoryKey(ctx); err != nil {
			return nil, fmt.Errorf("the key for inventories cannot be made: %w", err)
		}
	}
	seed, err := a.secret(secretInventory)
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the cluster's secret %s has %d bytes, want %d", secretInventory, len(seed), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// makeInventoryKey makes the key unless there is one: several nodes may be asked at once, and all of them end with the
// first one's.
func (a *Appliance) makeInventoryKey(ctx context.Context) error {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	sealed, err := a.cluster.Seal(seed)
	if err != nil {
		return err
	}
	err = a.tree.Update(ctx, func(b cluster.Batch) error {
		b.Expect("secrets/"+secretInventory, 0)
		b.Put("secrets/"+secretInventory, sealed)
		return nil
	})
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
