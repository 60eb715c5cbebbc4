package bundle

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"casemate/bundle/canonical"
	"casemate/bundle/digests"
	"casemate/bundle/signing"
)

func sampleInventory() *Inventory {
	return &Inventory{
		Version: 1,
		Domain:  "bastion.example",
		Time:    time.Date(2026, 11, 24, 10, 0, 0, 5e8, time.FixedZone("", 3600)),
		Blobs:   []Blob{{Digest: digestB, Size: 7}, {Digest: digestA, Size: 3}},
	}
}

// TestInventoryWithCheckpoint: a checkpoint makes it version 2, and one without stays as older programs read it.
func TestInventoryWithCheckpoint(t *testing.T) {
	inv := sampleInventory()
	inv.Checkpoint, inv.Version = "bastion.example/audit\n7\nhash\n\n— signature\n", 2
	b, err := inv.Sign(seededKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := ReadInventory(b, nil)
	if err != nil || got.Checkpoint != inv.Checkpoint || got.Version != 2 || len(got.Blobs) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	inv.Version = 1
	if _, err := inv.Sign(seededKey(1)); err == nil {
		t.Error("a checkpoint in version 1")
	}
	inv.Version, inv.Checkpoint = 2, ""
	if _, err := inv.Sign(seededKey(1)); err == nil {
		t.Error("version 2 without a checkpoint")
	}
	inv.Checkpoint = strings.Repeat("x", maxCheckpoint+1)
	if _, err := inv.Sign(seededKey(1)); err == nil {
		t.Error("a checkpoint without bounds")
	}
}

func TestInventory(t *testing.T) {
	b, err := sampleInventory().Sign(seededKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]ed25519.PublicKey{nil, {publicHalf(seededKey(2)), publicHalf(seededKey(1))}} {
		inv, digest, err := ReadInventory(b, keys)
		if err != nil {
			t.Fatal(err)
		}
		if inv.Domain != "bastion.example" || !inv.Time.Equal(time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)) ||
			len(inv.Blobs) != 2 ||
			inv.Blobs[0].Digest != digestA {
			t.Errorf("read %+v", inv)
		}
		if digests.Check(digest) != nil {
			t.Errorf("its digest is %q", digest)
		}
	}
	if _, _, err := ReadInventory(b, []ed25519.PublicKey{publicHalf(seededKey(2))}); err == nil ||
		!strings.Contains(err.Error(), signing.KeyName(publicHalf(seededKey(1)))) {
		t.Errorf("another's key: %v", err)
	}
	for at := range b {
		b[at] ^= 1 << (at % 8)
		if inv, _, err := ReadInventory(b, nil); err == nil || inv != nil {
			t.Errorf("byte %d is wrong, and no error reports it", at)
		}
		b[at] ^= 1 << (at % 8)
		if _, _, err := ReadInventory(b[:at], nil); err == nil {
			t.Errorf("cut at %d", at)
		}
	}
	if _, _, err := ReadInventory(append(b, '\n'), nil); err == nil {
		t.Error("longer than it is")
	}
}

// TestSignaturesDiffer: a signature of an index document is none of an inventory.
func TestSignaturesDiffer(t *testing.T) {
	inv := sampleInventory()
	doc, err := inv.document()
	if err != nil {
		t.Fatal(err)
	}
	sig := signing.Sign(seededKey(1), signing.PurposeIndex, doc)
	if _, err := sig.Verify(signing.PurposeIndex, doc); err != nil {
		t.Fatal(err)
	}
	if _, err := sig.Verify(signing.PurposeInventory, doc); err == nil {
		t.Error("the signature of one purpose passes for another")
	}
}

func TestInventoryRefuses(t *testing.T) {
	for says, change := range map[string]func(inv *Inventory){
		"version":       func(inv *Inventory) { inv.Version = 0 },
		"not a domain":  func(inv *Inventory) { inv.Domain = `a"b` },
		"must not omit": func(inv *Inventory) { inv.Blobs[0].Omitted = true },
		"repeated":      func(inv *Inventory) { inv.Blobs[0] = inv.Blobs[1] },
		"lower-case":    func(inv *Inventory) { inv.Blobs[0].Digest = "sha256:x" },
	} {
		inv := sampleInventory()
		change(inv)
		if _, err := inv.Sign(seededKey(1)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// FuzzReadInventory: whatever is read is signed, and is what Sign would write.
func FuzzReadInventory(f *testing.F) {
	b, err := sampleInventory().Sign(seededKey(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, _, err := ReadInventory(b, []ed25519.PublicKey{publicHalf(seededKey(1))})
		if err != nil {
			return
		}
		if again, err := inv.Sign(seededKey(1)); err != nil || !bytes.Equal(again, b) {
			t.Errorf("read %q, would write %q (%v)", b, again, err)
		}
	})
}

// FuzzInventoryDocument is the same without the signature, which no fuzzer finds.
func FuzzInventoryDocument(f *testing.F) {
	b, err := sampleInventory().document()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &canonical.Cursor{Doc: b}
		inv, err := readInventoryDocument(c)
		if err != nil {
			return
		}
		if again, err := inv.document(); err != nil || !bytes.Equal(again, b[:c.Offset]) {
			t.Errorf("read %q, would write %q (%v)", b[:c.Offset], again, err)
		}
	})
}

// seededKey is a key that is the same in every run.
func seededKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicHalf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }
