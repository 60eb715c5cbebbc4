package pki

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"casemate/cluster/tree"
)

// The layout of the pki subtree:
//
//	state                    which root and which issuer are in use: every change of the CA is conditional on its
//	version root/ID/cert/NN          the anchor that clients trust, DER
//	root/ID/above/NN         the CA certificates between our intermediates and the anchor, the signer first
//	root/ID/cross/NN         in an overlap, the cross certificate and those above it below the old anchor
//	root/ID/key              the key that signs intermediates, sealed; of an old root until the overlap is finished
//	root/ID/back/NN          of the old root of a finished overlap, while that can be undone: the new root's "cross"
//	root/ID/crl/NN           the newest revocation list that the key signed, DER; it outlives the root, until it ends
//	issuer/ID/chain/NN       an intermediate and the certificates sent after it, DER, concatenated (for one that
//	signed a
//	                         listed certificate alone: the intermediate only)
//	issuer/ID/names/NN       the names that it was made for (only while it is in use)
//	issuer/ID/key            its key, sealed: while it is in use, or while a listed certificate of its own has not
//	expired crl/ID                   the last CRL of a CA whose key was destroyed (intermediates, those above a root),
//	DER retired/ID               an intermediate whose key was destroyed, and when it is revoked (only while it has
//	not ended) node/NAME                the addresses of a node
//	issued/SERIAL            a certificate that was issued for another service, and whether it is revoked
//
// An ID is the first 16 hex digits of the SHA-256 of a public key. Records under an ID never change, except for lists,
// and for "cross" and "chain", from which the cross certificate is removed when an overlap ends, and to which it is
// restored when that is undone. Where a root has no constrained root below its anchor (rootRef.Below), "above" holds
// the cross certificate itself.
const (
	stateName = "state"
	maxRecord = 4096
	maxChunks = 100
)

// Batch collects edits, rooted at the pki subtree.
type Batch = tree.Batch

// Tree is the part of the replicated tree that the CA uses: local reads, one conditional write, and notification of
// changes. Names are relative to the CA's own subtree. fs.FileInfo of Stat and ReadDir has a method Version() uint64.
// Update commits all edits or none; an Expect that does not hold is fs.ErrExist. It may also fail although it happened.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(Batch) error) error
	Watch(ctx context.Context, dir string) <-chan struct{}
}

// Sealer encrypts and authenticates private keys for the tree (promise 10). *cluster.Cluster is one. The sealed text
// need not be bound to its place: every key that is read is compared with its certificate.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// rootRef refers to a root in the state.
type rootRef struct {
	ID string `json:"id"`
	// Below means that our key is that of a constrained root below an anchor whose key was never stored. Without it our
	// key is that of the anchor, or of an enterprise's CA certificate, and signs our intermediates itself.
	Below bool `json:"below,omitempty"`
	// Enterprise means that the anchor is an enterprise's.
	Enterprise bool `json:"enterprise,omitempty"`
}

type state struct {
	Root  rootRef  `json:"root"`
	Old   *rootRef `json:"old,omitempty"` // during an overlap: the root that is being replaced
	Since int64    `json:"since,omitempty"`
	// Done is the old root of an overlap that ended at Finished, as long as that can be undone. Seconds since 1970.
	Done     *rootRef `json:"done,omitempty"`
	Finished int64    `json:"finished,omitempty"`
	Issuer   string   `json:"issuer"`
}

// readState returns the state and its version. fs.ErrNotExist: there is no CA in this tree.
func readState(t Tree) (state, uint64, error) {
	var s state
	for {
		info, err := t.Stat(stateName)
		if err != nil {
			return s, 0, err
		}
		data, err := t.ReadFile(stateName)
		if err != nil {
			return s, 0, err
		}
		// The version and the bytes are two reads: use them only if nothing changed in between.
		again, err := t.Stat(stateName)
		if err != nil {
			return s, 0, err
		}
		if tree.VersionOf(info) != tree.VersionOf(again) {
			continue
		}
		if err := json.Unmarshal(data, &s); err != nil {
			return s, 0, fmt.Errorf("record pki/%s is damaged: %w", stateName, err)
		}
		return s, tree.VersionOf(info), nil
	}
}

func putState(b Batch, s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b.Put(stateName, data)
	return nil
}

// putChunks writes data of any size as records, replacing earlier ones.
func putChunks(b Batch, dir string, data []byte) error {
	b.Remove(dir)
	for i := 0; len(data) > 0; i++ {
		if i == maxChunks {
			return mistakef("pki/%s would have more than %d bytes: enable fewer names", dir, maxChunks*maxRecord)
		}
		n := min(maxRecord, len(data))
		b.Put(fmt.Sprintf("%s/%02d", dir, i), data[:n])
		data = data[n:]
	}
	return nil
}

// readChunks reads the data that putChunks wrote; without any it returns no error.
func readChunks(t Tree, dir string) ([]byte, error) {
	list, err := t.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, e := range list {
		part, err := t.ReadFile(path.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		data = append(data, part...)
	}
	return data, nil
}

func putSealed(b Batch, s Sealer, name string, plain []byte) error {
	sealed, err := s.Seal(plain)
	if err != nil {
		return fmt.Errorf("seal pki/%s: %w", name, err)
	}
	if len(sealed) > maxRecord {
		return mistakef("pki/%s: the sealed key has %d bytes, a record has at most %d: use an ECDSA key", name,
			len(sealed), maxRecord)
	}
	b.Put(name, sealed)
	return nil
}

func readSealed(t Tree, s Sealer, name string) ([]byte, error) {
	sealed, err := t.ReadFile(name)
	if err != nil {
		return nil, err
	}
	plain, err := s.Unseal(sealed)
	if err != nil {
		return nil, fmt.Errorf("unseal pki/%s (is this the cluster's key?): %w", name, err)
	}
	return plain, nil
}

func concat(certs []*x509.Certificate) []byte {
	var der []byte
	for _, c := range certs {
		der = append(der, c.Raw...)
	}
	return der
}

func putJSON(b Batch, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxRecord {
		return mistakef("pki/%s would have %d bytes, a record has at most %d: use fewer names", name, len(data),
			maxRecord)
	}
	b.Put(name, data)
	return nil
}
