package bundle

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"casemate/bundle/canonical"
	"casemate/bundle/digests"
	"casemate/bundle/signing"
)

// InventoryVersion is the newest version of the inventory document that this program reads. Version 2 has a checkpoint;
// version 1, which older programs read, is written without one.
const InventoryVersion = 2

// Inventory lists the blobs of a cluster; "bundle create --since" omits them.
type Inventory struct {
	Version int       `json:"version"`
	Domain  string    `json:"domain"` // of the cluster
	Time    time.Time `json:"time"`   // when it was made, in seconds
	Blobs   []Blob    `json:"blobs"`  // Omitted is not used
	// Checkpoint is a signed checkpoint of the cluster's audit log, which leaves the gap with the inventory; "" for
	// none.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// maxCheckpoint is the size limit of a checkpoint in bytes.
const maxCheckpoint = 16 << 10

func (inv *Inventory) version() int {
	if inv.Checkpoint != "" {
		return 2
	}
	return 1
}

var domainForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,253}$`)

// document writes the inventory in its canonical form.
func (inv *Inventory) document() ([]byte, error) {
	slices.SortFunc(inv.Blobs, func(a, b Blob) int { return cmp.Compare(a.Digest, b.Digest) })
	if want := inv.version(); inv.Version != want {
		return nil, fmt.Errorf("inventory: version must be %d, got %d", want, inv.Version)
	}
	if len(inv.Checkpoint) > maxCheckpoint {
		return nil, fmt.Errorf("inventory: the checkpoint has %d bytes, more than %d", len(inv.Checkpoint),
			maxCheckpoint)
	}
	if !domainForm.MatchString(inv.Domain) {
		return nil, fmt.Errorf("inventory: %.260q is not a domain", inv.Domain)
	}
	for i := range inv.Blobs {
		if err := checkInventoryBlob(previous(inv.Blobs, i), &inv.Blobs[i]); err != nil {
			return nil, fmt.Errorf("inventory: %w", err)
		}
	}
	var l canonical.Buffer
	fmt.Fprintf(
		&l,
		`{"version":%d,"domain":"%s","time":"%s"`,
		inv.Version,
		inv.Domain,
		inv.Time.UTC().Format(time.RFC3339),
	)
	if inv.Checkpoint != "" {
		text, err := canonical.Encode(inv.Checkpoint)
		if err != nil {
			return nil, err
		}
		l.WriteString(`,"checkpoint":`)
		l.Write(text)
	}
	if err := canonical.WriteList(&l, `,"blobs":`, inv.Blobs); err != nil {
		return nil, err
	}
	l.WriteByte('}')
	if l.Len() > canonical.MaxDocument {
		return nil, fmt.Errorf("inventory: %d bytes long, more than %d", l.Len(), canonical.MaxDocument)
	}
	return l.Bytes(), nil
}

func checkInventoryBlob(prev, b *Blob) error {
	if b.Omitted {
		return fmt.Errorf("blob %s: an inventory must not omit blobs", b.Digest)
	}
	return checkBlob(prev, b)
}

// Sign returns the inventory as a signed file: one JSON document with the inventory, the public key and the signature.
func (inv *Inventory) Sign(key ed25519.PrivateKey) ([]byte, error) {
	doc, err := inv.document()
	if err != nil {
		return nil, err
	}
	sig, err := canonical.Encode(signing.Sign(key, signing.PurposeInventory, doc))
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(`{"inventory":`), doc, []byte(`,"signed":`), sig, []byte("}\n")), nil
}

// ReadInventory reads a signed inventory and verifies its signature. If keys are given, one of them must have signed
// it. digest is that of the document, by which a bundle names it.
func ReadInventory(data []byte, keys []ed25519.PublicKey) (inv *Inventory, digest string, err error) {
	inv, digest, err = readInventory(data, keys)
	if err != nil {
		return nil, "", fmt.Errorf("inventory: %w", err)
	}
	return inv, digest, nil
}

func readInventory(data []byte, keys []ed25519.PublicKey) (*Inventory, string, error) {
	if len(data) > canonical.MaxDocument+signing.MaxSize {
		return nil, "", fmt.Errorf("%d bytes long, more than %d", len(data), canonical.MaxDocument)
	}
	c := &canonical.Cursor{Doc: data}
	if err := c.Expect(`{"inventory":`); err != nil {
		return nil, "", err
	}
	start := c.Offset
	inv, err := readInventoryDocument(c)
	if err != nil {
		return nil, "", err
	}
	doc := data[start:c.Offset]
	if err := c.Expect(`,"signed":`); err != nil {
		return nil, "", err
	}
	rest, ok := strings.CutSuffix(string(c.Rest()[:min(len(c.Rest()), signing.MaxSize)]), "}\n")
	if !ok {
		return nil, "", errors.New("its end is missing")
	}
	var sig signing.Signature
	if err := canonical.Decode([]byte(rest), &sig); err != nil {
		return nil, "", fmt.Errorf("signature: %w", err)
	}
	signer, err := sig.Verify(signing.PurposeInventory, doc)
	if err != nil {
		return nil, "", fmt.Errorf("the signature is wrong: %w", err)
	}
	if len(keys) > 0 && !signing.Trusted(signer, keys) {
		return nil, "", fmt.Errorf(
			"it is signed by %s, and a signature by %s is required",
			signing.KeyName(signer),
			signing.KeyNames(keys),
		)
	}
	return inv, digests.SHA256(doc), nil
}

// readInventoryDocument reads the document that document writes.
func readInventoryDocument(c *canonical.Cursor) (*Inventory, error) {
	start := c.Offset + len(`{"version":`)
	if err := c.Version("the inventory", InventoryVersion); err != nil {
		return nil, err
	}
	inv := &Inventory{Version: 1}
	if string(c.Doc[start:c.Offset]) == "2" {
		inv.Version = 2
	}
	if err := c.Expect(`,"domain":`); err != nil {
		return nil, err
	}
	var err error
	if inv.Domain, err = c.String(); err != nil {
		return nil, err
	}
	if !domainForm.MatchString(inv.Domain) {
		return nil, fmt.Errorf("%.260q is not a domain", inv.Domain)
	}
	if err := c.Expect(`,"time":`); err != nil {
		return nil, err
	}
	stamp, err := c.String()
	if err != nil {
		return nil, err
	}
	inv.Time, err = time.Parse(time.RFC3339, stamp)
	if err != nil || inv.Time.UTC().Format(time.RFC3339) != stamp {
		return nil, fmt.Errorf("time must be like 2006-01-02T15:04:05Z, got %.40q", stamp)
	}
	if c.Skip(`,"checkpoint":`) {
		if inv.Checkpoint, err = c.String(); err != nil {
			return nil, err
		}
		if inv.Checkpoint == "" || len(inv.Checkpoint) > maxCheckpoint {
			return nil, fmt.Errorf("a checkpoint of %d bytes", len(inv.Checkpoint))
		}
	}
	if inv.Version != inv.version() {
		return nil, fmt.Errorf("version %d has no checkpoint, or is without one", inv.Version)
	}
	if inv.Blobs, err = canonical.ReadList(c, `,"blobs":`, checkInventoryBlob); err != nil {
		return nil, err
	}
	return inv, c.Expect("}")
}
