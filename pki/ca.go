// Package pki is the cluster's certificate authority: an anchor that clients trust and whose key was destroyed, one
// root below it that cannot forge the bank's own names, one intermediate for the enabled names, and a leaf certificate
// for every name that a node answers for, made when a client first requests it.
//
// It promises:
//   - A private key of a CA is in the tree sealed only, and that of an anchor nowhere; a leaf's key never leaves its
//     node.
//   - Root and intermediate have critical name constraints for DNS names, addresses of both families, mail addresses
//     and URIs, in a form that every verifier enforces, and are for TLS servers only.
//   - Every change of the CA is one conditional batch: of two nodes that change it at once, one succeeds.
//   - A handshake never waits for the network or for a quorum: everything that it needs is in memory or on this node's
//     disk.
//   - No leaf outlives its intermediate, and no certificate is made for an unknown name.
package pki

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/tree"
)

// Config configures a CA. Tree, Sealer, Dir and Domain must be set.
type Config struct {
	Tree   Tree   // the pki subtree
	Sealer Sealer // seals the keys in it
	// Dir is a directory of this node alone, used by no other process: leaf certificates and their keys, mode 0600.
	Dir string
	// Domain is the cluster's own zone: clients that send no server name get its certificate.
	Domain string
	// Node is this node's name. With it, the node's addresses are stored in the tree, so that every new intermediate
	// permits them; "" stores none.
	Node string
	// Addrs are this node's advertised addresses.
	Addrs []netip.Addr
	// Known reports whether this node answers for a host name (lower case, no trailing dot) or address. It is called in
	// every handshake, must be quick, and must be true for a bounded number of names: each gets a certificate. Nil: no
	// name is known.
	Known func(name string) bool
	// Miss is called for host names that clients requested and that are unknown. It must not block. Nil: they are
	// dropped.
	Miss func(client netip.Addr, name string)
	// CRLURL is the directory of the revocation lists, e.g. "http://casemate.internal/crl/"; the appliance answers
	// CRLURL+ID+".crl" with CRL(ID). "": certificates name no revocation list.
	CRLURL string
	// Check is the interval at which certificates are checked for renewal; 0: ten minutes.
	Check time.Duration
	Log   *slog.Logger     // nil: slog.Default
	Now   func() time.Time // nil: time.Now
}

// CA is the authority on one node. All methods are safe for concurrent use.
type CA struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	domain string
	addrs  []netip.Addr
	snap   atomic.Pointer[snapshot]
	load   sync.Mutex // held while a snapshot is loaded
	leaves *leaves
	crls   crlCache
	kick   chan struct{} // capacity 1: after a failed handshake Run should check at once

	renewMu sync.Mutex
	renewed time.Time // when this node last renewed the intermediate; owned by renewMu
}

// snapshot is one state of the CA, read from the tree. What was read is never changed.
type snapshot struct {
	version uint64
	state   state
	root    *authority
	old     *authority // nil outside an overlap
	issuer  *issuer
	names   []string // that the issuer was made for
	sent    []byte   // sent after an intermediate, DER
	chain   []byte   // sent after a leaf, PEM

	mu       sync.Mutex
	verified map[[sha256.Size]byte]*above // chains, by their hashes; at most maxAbove
}

// Open reads the CA from the tree. fs.ErrNotExist: the tree has no CA yet. Close must be called.
func Open(ctx context.Context, cfg Config) (*CA, error) {
	c := &CA{cfg: cfg, log: cfg.Log, now: cfg.Now, addrs: unmapped(cfg.Addrs), kick: make(chan struct{}, 1)}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.cfg.Check <= 0 {
		c.cfg.Check = 10 * time.Minute
	}
	err := checkNode(cfg.Node)
	if err != nil {
		return nil, err
	}
	if c.domain, err = canonical(cfg.Domain); err != nil {
		return nil, fmt.Errorf("domain: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := c.current(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("this cluster has no CA, casemate init makes one: %w", err)
		}
		return nil, err
	}
	if c.leaves, err = openLeaves(c); err != nil {
		return nil, err
	}
	return c, nil
}

// checkNode refuses a node name that is invalid in a path; "" means none.
func checkNode(name string) error {
	if name != "" && (!fs.ValidPath(name) || name == "." || strings.Contains(name, "/")) {
		return mistakef("node name %q is not allowed in a path", name)
	}
	return nil
}

// Close ends the background work and waits for it. Later handshakes fail.
func (c *CA) Close() error {
	c.leaves.close()
	return nil
}

// Run watches the tree and keeps certificates fresh until ctx is done: the intermediate, this node's leaves, expired
// records. It returns nil.
func (c *CA) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := c.cfg.Tree.Watch(ctx, ".")
	tick := time.NewTicker(c.cfg.Check)
	defer tick.Stop()
	last := ""
	for {
		err := c.maintain(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// An error is logged when it changes, not at every tick.
		if err != nil && err.Error() != last {
			c.log.Warn("certificates not maintained", "err", err)
			last = err.Error()
		} else if err == nil && last != "" {
			c.log.Info("certificates maintained again")
			last = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-c.kick:
		case <-tick.C:
		}
	}
}

// maintain does one round of Run.
func (c *CA) maintain(ctx context.Context) error {
	err := c.renewIssuer(ctx)
	return errors.Join(err, c.refreshRootList(ctx), c.leaves.maintain(ctx), c.prune(ctx))
}

// current returns the newest state of the CA in the tree. It reads the tree only if something changed.
func (c *CA) current() (*snapshot, error) {
	if info, err := c.cfg.Tree.Stat(stateName); err == nil {
		if s := c.snap.Load(); s != nil && s.version == tree.VersionOf(info) {
			return s, nil
		}
	}
	c.load.Lock()
	defer c.load.Unlock()
	var err error
	for range 5 {
		var s *snapshot
		if s, err = c.read(); err == nil {
			if prev := c.snap.Swap(s); prev != nil && prev.version != s.version {
				c.log.Info("CA changed", "root", s.state.Root.ID, "issuer", s.state.Issuer, "names", len(s.names),
					"rotating", s.old != nil)
			}
			return s, nil
		}
		// A record of the state is missing: the state changed while it was read, unless it is still the same.
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, err
}

func (c *CA) read() (*snapshot, error) {
	t := c.cfg.Tree
	st, version, err := readState(t)
	if err != nil {
		return nil, err
	}
	s := &snapshot{version: version, state: st}
	if s.root, err = readAuthority(t, st.Root); err != nil {
		return nil, err
	}
	if st.Old != nil {
		if s.old, err = readAuthority(t, *st.Old); err != nil {
			return nil, err
		}
	}
	if s.issuer, err = readIssuer(t, c.cfg.Sealer, st.Issuer); err != nil {
		return nil, err
	}
	s.issuer.under(s.root)
	s.sent = concat(s.root.sent())
	s.chain = pemOf(s.issuer.chain...)
	if s.names, err = readNames(t, st.Issuer); err != nil {
		return nil, err
	}
	return s, nil
}

// anchors are the roots for clients, the newest first.
func (s *snapshot) anchors() []*x509.Certificate {
	list := []*x509.Certificate{s.root.anchor}
	if s.old != nil {
		list = append(list, s.old.anchor)
	}
	return list
}

// Roots returns the root certificates that clients must trust, PEM: one, and two during the overlap of a rotation, the
// newer first.
func (c *CA) Roots() []byte {
	s, err := c.current()
	if err != nil {
		// An unreadable tree does not change what clients must trust.
		s = c.snap.Load()
	}
	return pemOf(s.anchors()...)
}

func pemOf(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return out.Bytes()
}

// Permits returns nil if the root permits certificates for this host name or address. Otherwise the error is
// ErrNotPermitted, with the command that makes a root that does, or says why the name is invalid.
func (c *CA) Permits(name string) error {
	s, err := c.current()
	if err != nil {
		return err
	}
	n, err := canonical(name)
	if err != nil {
		return err
	}
	return s.cured(s.root.allows(n), n)
}

// nodeAddrs returns the stored addresses of all nodes except the node without, and this node's.
func (c *CA) nodeAddrs(without string) ([]netip.Addr, error) {
	addrs := unmapped(c.addrs)
	list, err := c.cfg.Tree.ReadDir("node")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range list {
		if e.Name() == c.cfg.Node || e.Name() == without {
			continue
		}
		a, err := readAddrs(c.cfg.Tree, path.Join("node", e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a...)
	}
	return unmapped(addrs), nil
}
