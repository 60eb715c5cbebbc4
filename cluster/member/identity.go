package member

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"casemate/cluster/disk"
	"casemate/cluster/peer"
)

// The data directory also holds the node's identity:
//
//	node.key   its private key, PKCS #8 in PEM, mode 0600; it never leaves the node
//	node.crt   its certificate and the cross certificates above it, PEM
//	seed.json  seed: the members as of the join, until the node's own state has them
const (
	nodeKeyFile  = "node.key"
	NodeCertFile = "node.crt"
	SeedFile     = "seed.json"
)

// seed is what a joiner received.
type seed struct {
	Root    []byte            `json:"root"` // the nodes' CA, DER
	Members map[string]Record `json:"members"`
}

// nodeID is this node's key and certificate. The key never changes.
type nodeID struct {
	key  *ecdsa.PrivateKey
	spki []byte
	seed seed

	renewing sync.Mutex // held while a new certificate is made, since only one goroutine may write its file

	mu   sync.Mutex
	cert *tls.Certificate // nil while there is none yet
}

func openNodeID(cfg Config) (*nodeID, error) {
	key, err := nodeKey(cfg)
	if err != nil {
		return nil, err
	}
	id := &nodeID{key: key}
	if id.spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, err
	}
	data, err := disk.ReadFile(cfg.FS, filepath.Join(cfg.Dir, SeedFile))
	if err == nil {
		err = json.Unmarshal(data, &id.seed)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the file %s is damaged: %w", SeedFile, err)
	}
	if data, err = disk.ReadFile(cfg.FS, filepath.Join(cfg.Dir, NodeCertFile)); err == nil {
		// An unreadable certificate is replaced later.
		id.cert, _ = id.certificate(pemBlocks(data, "CERTIFICATE"))
	}
	return id, nil
}

// nodeKey reads the node's key, or makes it.
func nodeKey(cfg Config) (*ecdsa.PrivateKey, error) {
	name := filepath.Join(cfg.Dir, nodeKeyFile)
	data, err := disk.ReadFile(cfg.FS, name)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, disk.WriteFile(cfg.FS, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, err
	}
	for _, der := range pemBlocks(data, "PRIVATE KEY") {
		key, err := x509.ParsePKCS8PrivateKey(der)
		if ec, ok := key.(*ecdsa.PrivateKey); err == nil && ok {
			return ec, nil
		}
	}
	return nil, fmt.Errorf("the file %s is damaged and this node can no longer prove its identity: remove it from "+
		"the cluster "+
		"and join anew under another name", nodeKeyFile)
}

func pemBlocks(data []byte, kind string) (list [][]byte) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == kind {
			list = append(list, block.Bytes)
		}
	}
	return list
}

// certificate checks that a chain belongs to this key.
func (id *nodeID) certificate(chain [][]byte) (*tls.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, id.spki) {
		return nil, errors.New("the certificate is for another key")
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: id.key, Leaf: leaf}, nil
}

func (id *nodeID) current() *tls.Certificate {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert
}

// Renew makes a new certificate if there is none, after two thirds of its lifetime, or when the CA has changed. It
// needs no other node.
func (ms *Members) Renew() error {
	id := ms.node
	id.renewing.Lock()
	defer id.renewing.Unlock()
	a, err := ms.authority()
	if a == nil || err != nil {
		return err
	}
	if old := id.current(); old != nil {
		leaf := old.Leaf
		root, err := x509.ParseCertificate(a.Root)
		if err != nil {
			return err
		}
		fresh := ms.cfg.Now().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2))
		if fresh && leaf.CheckSignatureFrom(root) == nil {
			return nil
		}
	}
	key, err := ms.authorityKey(a)
	if err != nil {
		return err
	}
	chain, err := ms.certify(a, key, ms.cfg.Node, &id.key.PublicKey)
	if err != nil {
		return err
	}
	cert, err := id.certificate(chain)
	if err != nil {
		return err
	}
	if err := writeCert(ms.cfg, chain); err != nil {
		return err
	}
	id.mu.Lock()
	id.cert = cert
	id.mu.Unlock()
	ms.log.Info("node certificate renewed", "node", ms.cfg.Node, "until", cert.Leaf.NotAfter.Format(time.RFC3339))
	return nil
}

func writeCert(cfg Config, chain [][]byte) error {
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, NodeCertFile), text, 0o640)
}

// Admit returns the node that a certificate belongs to. A member whose record this node has is recognised by its key,
// whatever the age of its certificate: a node that was down for a year returns and renews it. A member that this node
// does not know yet, because it was itself down meanwhile, must have a certificate of the CA that this node knows. With
// peer.ErrRemoved Admit also returns the name.
func (ms *Members) Admit(certs []*x509.Certificate) (string, error) {
	if err := cheapChain(certs); err != nil {
		return "", err
	}
	leaf := certs[0]
	name := leaf.Subject.CommonName
	if !peer.ValidNode(name) {
		return "", peer.ErrStranger
	}
	s := ms.cluster.View()
	if r, ok := recordOf[removal](s, removedDir+"/"+name); ok && bytes.Equal(r.Key, leaf.RawSubjectPublicKeyInfo) {
		return name, peer.ErrRemoved
	}
	m, ok := recordOf[Record](s, MembersDir+"/"+name)
	if !ok {
		m, ok = ms.node.seed.Members[name]
	}
	if ok {
		if !bytes.Equal(m.Key, leaf.RawSubjectPublicKeyInfo) {
			return "", fmt.Errorf("%q has another key: %w", name, peer.ErrStranger)
		}
		return name, nil
	}
	root := ms.node.seed.Root
	if a, err := ms.authority(); err == nil && a != nil {
		root = a.Root
	}
	anchor, err := x509.ParseCertificate(root)
	if err != nil {
		return "", peer.ErrStranger
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(anchor)
	for _, cert := range certs[1:] {
		between.AddCert(cert)
	}
	o := x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: ms.cfg.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	if _, err := leaf.Verify(o); err != nil {
		return "", fmt.Errorf("%q: %v: %w", name, err, peer.ErrStranger)
	}
	return name, nil
}

// maxNodeCert is the maximum size in bytes of a certificate of a node or CA; they have about 500.
const maxNodeCert = 2 << 10

// cheapChain rejects certificates that no node has, before any computation with their keys: chains that are too long,
// and keys other than P-256.
func cheapChain(certs []*x509.Certificate) error {
	if len(certs) == 0 || len(certs) > 1+maxCross {
		return fmt.Errorf("%d certificates: %w", len(certs), peer.ErrStranger)
	}
	for _, cert := range certs {
		if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() ||
			len(cert.Raw) > maxNodeCert {
			return fmt.Errorf("the certificate is not of the kind that nodes have: %w", peer.ErrStranger)
		}
	}
	return nil
}

// checkKeys checks that this node's sealing keys are the cluster's: a flipped bit would show only much later, as
// another error.
func (ms *Members) checkKeys() error {
	a, err := ms.authority()
	if a == nil || err != nil {
		return err
	}
	if _, err := ms.authorityKey(a); errors.Is(err, ErrSealed) {
		return fmt.Errorf("the file %s cannot open the cluster's sealed secrets, so it is damaged or another "+
			"cluster's: %s",
			KeyFile, KeyWayOut)
	}
	return nil
}
