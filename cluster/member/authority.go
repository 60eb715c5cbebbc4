package member

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// The nodes trust each other through their own CA, which signs only nodes' certificates. It is separate from the CA
// that clients trust: that one may be an enterprise's, whose other certificates must not be accepted here, and its name
// constraints cover only the names that clients use.
//
// Its record is in the tree, with a sealed key. So every node can sign: for a joiner, which may ask any node, and for
// itself when its certificate gets old, even after it was down for a year. Removing a node replaces the CA, because the
// removed node could sign too.
const authorityName = "cluster/ca"

const (
	nodeLife      = 90 * 24 * time.Hour
	authorityLife = 20 * 365 * 24 * time.Hour
	backdate      = 24 * time.Hour // for clock skew
	maxCross      = 3
)

// authority is the record of the nodes' CA.
type authority struct {
	Root []byte `json:"root"` // certificate, DER
	Key  []byte `json:"key"`  // PKCS #8, sealed
	// Cross are the newest roots' keys, each certified by the root before it, newest first. Through them a node that
	// was down while a member was removed verifies the new root from the older one that it knows.
	Cross [][]byte `json:"cross,omitempty"`
}

// makeAuthority makes a CA; the CA before it, if any, certifies it.
func makeAuthority(
	before *authority, beforeKey *ecdsa.PrivateKey, seal func([]byte) ([]byte, error), now time.Time,
) (*authority, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "casemate nodes " + rand.Text()[:8]},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	sealed, err := seal(plain)
	if err != nil {
		return nil, nil, err
	}
	a := &authority{Root: der, Key: sealed}
	if before != nil {
		old, err := x509.ParseCertificate(before.Root)
		if err != nil {
			return nil, nil, err
		}
		t.SerialNumber = serial()
		cross, err := x509.CreateCertificate(rand.Reader, t, old, key.Public(), beforeKey)
		if err != nil {
			return nil, nil, err
		}
		a.Cross = append([][]byte{cross}, before.Cross[:min(len(before.Cross), maxCross-1)]...)
	}
	return a, key, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f // RFC 5280, 4.1.2.2: positive
	return new(big.Int).SetBytes(b)
}

// authority reads the CA from the state; nil if there is none yet.
func (ms *Members) authority() (*authority, error) {
	e, ok := ms.cluster.View().Get(authorityName)
	if !ok {
		return nil, nil
	}
	var a authority
	if err := json.Unmarshal([]byte(e.Data), &a); err != nil {
		return nil, fmt.Errorf("%s: %w", authorityName, err)
	}
	return &a, nil
}

func (ms *Members) authorityKey(a *authority) (*ecdsa.PrivateKey, error) {
	plain, err := ms.Unseal(a.Key)
	if err != nil {
		return nil, fmt.Errorf("key of the nodes' CA: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("key of the nodes' CA: %w", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("key of the nodes' CA: not an ECDSA key")
	}
	return ec, nil
}

// certify signs a node's certificate. The chain does not include the root.
func (ms *Members) certify(a *authority, key *ecdsa.PrivateKey, node string, pub *ecdsa.PublicKey) (chain [][]byte,
	err error) {
	root, err := x509.ParseCertificate(a.Root)
	if err != nil {
		return nil, err
	}
	now := ms.cfg.Now()
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: node}, DNSNames: []string{node},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(nodeLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, root, pub, key)
	if err != nil {
		return nil, err
	}
	return append([][]byte{leaf}, a.Cross...), nil
}
