package signing

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// The signed message is one of these lines followed by the document, so that a signature of one kind of document is not
// valid for the other.
const (
	PurposeIndex     = "casemate bundle index v1\n"
	PurposeInventory = "casemate inventory v1\n"
)

const signatureAlgorithm = "ed25519"

// MaxSize is the maximum length of a signature document.
const MaxSize = 4 << 10

// Signature is the document casemate/signature.json.
type Signature struct {
	Algorithm string `json:"algorithm"`
	Key       string `json:"key"`       // base64 of the 32 bytes
	Signature string `json:"signature"` // base64 of the 64 bytes
}

func Sign(key ed25519.PrivateKey, purpose string, doc []byte) Signature {
	return Signature{
		Algorithm: signatureAlgorithm,
		Key:       KeyName(key.Public().(ed25519.PublicKey)),
		Signature: base64.StdEncoding.EncodeToString(ed25519.Sign(key, append([]byte(purpose), doc...))),
	}
}

// Verify checks the signature with the key that it names, and returns that key.
func (s *Signature) Verify(purpose string, doc []byte) (ed25519.PublicKey, error) {
	if s.Algorithm != signatureAlgorithm {
		return nil, fmt.Errorf("algorithm must be %s, got %.40q", signatureAlgorithm, s.Algorithm)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(s.Key)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, errors.New("its key is not base64 of 32 bytes")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(s.Signature)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, errors.New("it is not base64 of 64 bytes")
	}
	if !ed25519.Verify(key, append([]byte(purpose), doc...), sig) {
		return nil, fmt.Errorf("it was not made by key %s for this document", s.Key)
	}
	return key, nil
}

// Trusted reports whether key is one of keys.
func Trusted(key ed25519.PublicKey, keys []ed25519.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return k.Equal(key) })
}

func KeyNames(keys []ed25519.PublicKey) string {
	var names []string
	for _, k := range keys {
		names = append(names, KeyName(k))
	}
	return strings.Join(names, ", ")
}

// KeyName is the short printable form of a public key: base64 of its 32 bytes.
func KeyName(pub ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(pub) }

// GenerateKey makes a key pair for signing bundles.
func GenerateKey() (ed25519.PublicKey, ed25519.PrivateKey, error) {
	return ed25519.GenerateKey(rand.Reader)
}

// PEM block types, as "openssl genpkey -algorithm ed25519" and "openssl pkey -pubout" write them.
const (
	pemPrivate = "PRIVATE KEY" // PKCS#8
	pemPublic  = "PUBLIC KEY"  // PKIX
)

// ReadPrivateKey reads a PEM file with an ed25519 key in PKCS#8, as "openssl genpkey -algorithm ed25519" makes it.
func ReadPrivateKey(data []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("signing key: not a PEM file; \"casemate bundle keygen\" creates a key")
	case block.Type == pemPublic:
		return nil, errors.New("signing key: this is the public key; signing needs the private one")
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New(
			"signing key: it is encrypted; decrypt it first with \"openssl pkey -in KEY -out PLAIN\"",
		)
	case block.Type != pemPrivate:
		return nil, fmt.Errorf("signing key: want a PEM block %q, got %.40q", pemPrivate, block.Type)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key: want an ed25519 key, got %T", k)
	}
	return key, nil
}

// ReadPublicKey reads a PEM file with an ed25519 key in PKIX, or its KeyName.
func ReadPublicKey(data []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(data)))
		if err != nil || len(b) != ed25519.PublicKeySize {
			return nil, errors.New("public key: neither a PEM file nor base64 of 32 bytes")
		}
		return b, nil
	}
	switch block.Type {
	case pemPublic:
	case pemPrivate:
		return nil, errors.New(
			"public key: this is the private key; keep it on the side that signs and give the public one",
		)
	default:
		return nil, fmt.Errorf("public key: want a PEM block %q, got %.40q", pemPublic, block.Type)
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key: want an ed25519 key, got %T", k)
	}
	return key, nil
}

// WriteKeyPair makes a key pair and writes it to base+".key" (mode 0600) and base+".pub". It never overwrites a file.
func WriteKeyPair(base string) (private, public string, err error) {
	pub, key, err := GenerateKey()
	if err != nil {
		return "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", "", err
	}
	private, public = base+".key", base+".pub"
	if err := writeNew(private, 0o600, pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: keyDER})); err != nil {
		return "", "", err
	}
	if err := writeNew(public, 0o644, pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: pubDER})); err != nil {
		// A private key without its public half is useless and would make the next attempt fail.
		return "", "", errors.Join(err, os.Remove(private))
	}
	return private, public, nil
}

// writeNew writes a file that must not exist yet, durably.
func writeNew(name string, mode os.FileMode, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
