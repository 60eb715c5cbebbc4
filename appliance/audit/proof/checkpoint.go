package proof

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"casemate/cluster/merkle"
)

// Checkpoint commits to the first Size events: no other list of events has the same Root. Its text is that of C2SP
// tlog-checkpoint: the origin, the size in decimal and the root in base64, a line each, signed as a note
// (golang.org/x/mod/sumdb/note, C2SP signed-note).
type Checkpoint struct {
	Origin string // the name of the log, "casemate.internal/audit"
	Size   uint64
	Root   merkle.Hash
}

// maxNote is the size limit of a signed checkpoint in bytes; witnesses may add signatures.
const maxNote = 16 << 10

var errForm = errors.New("a checkpoint has a line with the log's name, one with the number of events, one with a " +
	"hash, an empty line and signatures")

// text is the text that is signed.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// Read reads a signed checkpoint without checking its signatures.
func Read(signed []byte) (c Checkpoint, err error) {
	if len(signed) > maxNote {
		return c, fmt.Errorf("a checkpoint has at most %d bytes, got %d", maxNote, len(signed))
	}
	text, _, ok := strings.Cut(string(signed), "\n\n")
	lines := strings.Split(text, "\n")
	if !ok || len(lines) < 3 || lines[0] == "" {
		return c, errForm
	}
	c.Origin = lines[0]
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] {
		return c, errForm
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != merkle.HashSize {
		return c, errForm
	}
	c.Root = merkle.Hash(root)
	return c, nil
}

// Open reads a signed checkpoint whose signature by key is right. It may have other signatures, of witnesses.
func Open(signed []byte, key Key) (c Checkpoint, err error) {
	if c, err = Read(signed); err != nil {
		return c, err
	}
	n, err := note.Open(signed, note.VerifierList(key.verifier))
	if err != nil {
		return c, fmt.Errorf("the checkpoint of %d events has no right signature of %s", c.Size, key)
	}
	for _, s := range append(n.Sigs, n.UnverifiedSigs...) {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return c, errForm
		}
	}
	return c, nil
}

// Key is the public key of a log. Its text is that of package note: the log's name, a hash and the key, joined by "+".
type Key struct {
	text     string
	verifier note.Verifier
}

// String is the text of the key.
func (k Key) String() string { return k.text }

// ParseKey parses the text of a key, in its one form.
func ParseKey(text string) (k Key, err error) {
	wrong := fmt.Errorf("%.200q is not the public key of an audit log: casemate audit key prints it", text)
	name, rest, _ := strings.Cut(text, "+")
	_, encoded, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return k, wrong
	}
	again, err := note.NewEd25519VerifierKey(name, raw[1:])
	if err != nil || again != text {
		return k, wrong
	}
	k.text = text
	if k.verifier, err = note.NewVerifier(text); err != nil {
		return k, wrong
	}
	return k, nil
}

// Signer signs the checkpoints of a log.
type Signer struct {
	key     Key
	private ed25519.PrivateKey
}

// NewSigner returns the signer of the log called origin with the key of a seed of 32 bytes.
func NewSigner(origin string, seed []byte) (*Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the key of the audit log has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	s := &Signer{private: ed25519.NewKeyFromSeed(seed)}
	text, err := note.NewEd25519VerifierKey(origin, s.private.Public().(ed25519.PublicKey))
	if err == nil {
		s.key, err = ParseKey(text)
	}
	return s, err
}

// PublicKey is the key that verifies what is signed.
func (s *Signer) PublicKey() Key { return s.key }

// Name implements note.Signer.
func (s *Signer) Name() string { return s.key.verifier.Name() }

// KeyHash implements note.Signer.
func (s *Signer) KeyHash() uint32 { return s.key.verifier.KeyHash() }

// Sign implements note.Signer.
func (s *Signer) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.private, text), nil }

// Checkpoint returns the signed checkpoint of a tree.
func (s *Signer) Checkpoint(tree merkle.Frontier) ([]byte, error) {
	c := Checkpoint{s.Name(), tree.Size(), tree.Root()}
	return note.Sign(&note.Note{Text: c.text()}, s)
}
