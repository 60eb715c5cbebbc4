package admin

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"iter"
	"net/http"
	"time"

	"casemate/appliance/audit"
	"casemate/appliance/content"
	"casemate/appliance/reply"
	"casemate/appliance/secret"
)

func (a *API) getInventory(w http.ResponseWriter, r *http.Request) {
	key, err := a.inventoryKey(r.Context())
	var doc []byte
	if err == nil {
		var c audit.Checkpoint
		if c, err = a.Audit.Checkpoint(r.Context()); err == nil && c.Size == 0 {
			c.Checkpoint = "" // before format 3
		}
		if err == nil {
			doc, err = content.SignInventory(a.held(r.Context()), a.Current.State().Settings.Domain, c.Checkpoint,
				time.Now(), key)
		}
	}
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	reply.Send(w, r, "application/json", doc)
}

// held yields the blobs that an inventory may list: those that a name refers to and whose bytes are available, since
// a bundle made with it leaves them out. A blob whose state is unknown is not listed.
func (a *API) held(ctx context.Context) iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		for digest, size := range a.Tree.Kept() {
			if _, err := a.Tree.HasBlob(ctx, digest); err != nil {
				continue
			}
			if !yield(digest, size) {
				return
			}
		}
	}
}

func (a *API) getInventoryKey(w http.ResponseWriter, r *http.Request) {
	key, err := a.inventoryKey(r.Context())
	var der []byte
	if err == nil {
		der, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	reply.Send(w, r, "application/x-pem-file", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// inventoryKey returns the cluster's key for inventories; the first node that needs it creates it.
func (a *API) inventoryKey(ctx context.Context) (ed25519.PrivateKey, error) {
	seed, err := secret.ReadOrMake(ctx, a.Tree, a.Cluster, secret.Inventory)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
