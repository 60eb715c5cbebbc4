package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"
)

// change is a change of the CA that is computed but not yet written.
type change struct {
	base  *snapshot
	next  state
	edits []func(Batch) error
}

// write adds the change to a batch. The condition comes first: it prevents concurrent changes.
func (ch *change) write(b Batch) error {
	b.Expect(stateName, ch.base.version)
	for _, edit := range ch.edits {
		if err := edit(b); err != nil {
			return err
		}
	}
	return putState(b, ch.next)
}

func (ch *change) add(edit func(Batch) error) { ch.edits = append(ch.edits, edit) }

// commit writes the change as a separate batch. fs.ErrExist: the CA changed since.
func (c *CA) commit(ctx context.Context, ch *change) error {
	err := c.cfg.Tree.Update(ctx, ch.write)
	if err == nil {
		return nil
	}
	// The update may have failed and happened nevertheless: IDs are derived from new keys, so a state with ours is the
	// one that we wrote.
	same := func(s state) bool {
		return s.Issuer == ch.next.Issuer && s.Root == ch.next.Root && (s.Old == nil) == (ch.next.Old == nil)
	}
	if s, _, serr := readState(c.cfg.Tree); serr == nil && same(s) && !same(ch.base.state) {
		return nil
	}
	return err
}

// retry runs try on the newest state until no other change interferes.
func (c *CA) retry(try func(*snapshot) error) error {
	var err error
	for range 10 {
		var s *snapshot
		if s, err = c.current(); err != nil {
			return err
		}
		if err = try(s); err == nil {
			return nil
		}
		// An interfering change shows as a condition that does not hold, or as a record that is missing.
		now, nerr := c.current()
		gone := errors.Is(err, fs.ErrNotExist) && nerr == nil && now.version != s.version
		if !errors.Is(err, fs.ErrExist) && !gone {
			return err
		}
	}
	return err
}

// Constrain plans a new intermediate for these names (beside the domain and the nodes' addresses). It returns what must
// be written in the caller's batch, into the part rooted at the CA's subtree, together with the record that makes the
// names enabled: then enabling is one conditional batch. That batch is refused with fs.ErrExist if the CA changed
// since: call Constrain again. A name that the root does not permit is ErrNotPermitted. If the intermediate in use is
// for these names already, only the condition is written.
func (c *CA) Constrain(names []string) (write func(Batch) error, err error) {
	list, err := canonicals(names)
	if err != nil {
		return nil, err
	}
	err = c.retry(func(s *snapshot) error {
		if slices.Equal(list, s.names) {
			write = func(b Batch) error { b.Expect(stateName, s.version); return nil }
			return nil
		}
		ch := &change{base: s, next: s.state}
		write = ch.write
		_, err := c.planIssuer(ch, s.root, nil, list)
		return s.cured(err, list...)
	})
	if err != nil {
		return nil, err
	}
	return write, nil
}

// planIssuer adds to ch a new intermediate under root for names. If rootKey is nil, it is read from the tree. It
// returns the intermediate that will be in use.
func (c *CA) planIssuer(ch *change, root *authority, rootKey crypto.Signer, names []string) (*issuer, error) {
	return c.planIssuerWithout(ch, root, rootKey, names, "")
}

// planOwnIssuer adds to ch an intermediate under root for names that Issue is about to certify and that the one in use
// does not permit. It signs only that certificate and its revocation list: the key that all nodes have in memory must
// not be valid for these names.
func (c *CA) planOwnIssuer(ch *change, root *authority, names []string) (*issuer, error) {
	for _, n := range names {
		if err := root.allows(n); err != nil {
			return nil, err
		}
	}
	k, err := issuerConstraints(root.constraints(), names, nil)
	if err != nil {
		return nil, err
	}
	key, err := c.rootKey(root, nil)
	if err != nil {
		return nil, err
	}
	own, err := makeIssuer(root, key, k, c.domain, c.cfg.CRLURL, c.now())
	if err != nil {
		return nil, err
	}
	if err := c.planRootList(ch, root, key, false); err != nil {
		return nil, err
	}
	ch.add(func(b Batch) error { return own.putAlone(b, c.cfg.Sealer) })
	return own, nil
}

// planIssuerWithout is planIssuer that leaves out the addresses of a node.
func (c *CA) planIssuerWithout(
	ch *change, root *authority, rootKey crypto.Signer, names []string, without string,
) (*issuer, error) {
	old := ch.base.issuer
	for _, n := range names {
		if err := root.allows(n); err != nil {
			return nil, err
		}
	}
	if root.direct() && root.ref == ch.base.root.ref {
		// There is no intermediate of ours: only the names are stored.
		ch.add(func(b Batch) error { return putNames(b, old.id, names) })
		return old, nil
	}
	live, err := c.liveIssued()
	if err != nil {
		return nil, err
	}
	addrs, err := c.nodeAddrs(without)
	if err != nil {
		return nil, err
	}
	// An address that the root does not permit cannot be served until the root is rotated. It must not block everything
	// else.
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return root.allows(a.String()) != nil })
	var next *issuer
	if root.direct() {
		key, err := c.rootKey(root, rootKey)
		if err != nil {
			return nil, err
		}
		_, id, err := keyID(key.Public())
		if err != nil {
			return nil, err
		}
		next = (&issuer{id: id, cert: root.signer, chain: root.above, key: key}).under(root)
	} else {
		k, err := issuerConstraints(root.constraints(), append([]string{c.domain}, names...), addrs)
		if err != nil {
			return nil, err
		}
		key, err := c.rootKey(root, rootKey)
		if err != nil {
			return nil, err
		}
		if next, err = makeIssuer(root, key, k, c.domain, c.cfg.CRLURL, c.now()); err != nil {
			return nil, err
		}
		if err := c.planRootList(ch, root, key, false); err != nil {
			return nil, err
		}
	}
	ch.add(func(b Batch) error { return next.put(b, c.cfg.Sealer, names) })
	if c.cfg.Node != "" {
		ch.add(func(b Batch) error { return putJSON(b, "node/"+c.cfg.Node, c.addrs) })
	}
	ch.next.Issuer = next.id
	if next.id == old.id {
		return next, nil // an enterprise's CA certificate was renewed with its key
	}
	keep := slices.ContainsFunc(live, func(r record) bool { return r.Issuer == old.id })
	if err := c.planRetire(ch, old, keep); err != nil {
		return nil, err
	}
	return next, nil
}

// planRetire destroys the key of an intermediate that is replaced, unless certificates that it issued may still have to
// be revoked. Leaves below it stay valid: their chain is stored with them. When they have ended, the root's list
// revokes the intermediate.
func (c *CA) planRetire(ch *change, old *issuer, keep bool) error {
	if keep {
		ch.add(func(b Batch) error { b.Remove("issuer/" + old.id + "/names"); return nil })
		return nil
	}
	crl, err := c.lastCRL(old)
	if err != nil {
		return err
	}
	ch.add(func(b Batch) error {
		b.Remove("issuer/" + old.id)
		if crl != nil {
			b.Put("crl/"+old.id, crl)
		}
		return nil
	})
	root := ch.base.root
	at := c.now().Add(retiredLife)
	// A root that is itself replaced signs its last list now.
	if ch.next.Root != root.ref || !c.hasList(root) ||
		!bytes.Equal(old.cert.AuthorityKeyId, root.signer.SubjectKeyId) || at.After(old.cert.NotAfter) {
		return nil
	}
	r := retired{Serial: serialText(old.cert.SerialNumber), Root: root.ref.ID, At: at.Unix(),
		To: old.cert.NotAfter.Unix()}
	ch.add(func(b Batch) error { return putJSON(b, "retired/"+old.id, r) })
	return nil
}

func (c *CA) rootKey(root *authority, key crypto.Signer) (crypto.Signer, error) {
	if key != nil {
		return key, nil
	}
	return root.readKey(c.cfg.Tree, c.cfg.Sealer)
}

// renewIssuer makes a new intermediate when two thirds of the present one's lifetime are over, when a jump of the clock
// made it invalid, and when this node's addresses changed. It does so once an hour at most: nodes whose clocks differ
// widely must not keep replacing each other's.
func (c *CA) renewIssuer(ctx context.Context) error {
	now := c.now()
	c.renewMu.Lock()
	defer c.renewMu.Unlock()
	if !c.renewed.IsZero() && now.Sub(c.renewed).Abs() < time.Hour {
		return nil
	}
	err := c.retry(func(s *snapshot) error {
		why := c.issuerDue(s)
		if why == "" {
			return nil
		}
		ch := &change{base: s, next: s.state}
		names := slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return s.root.allows(n) != nil })
		next, err := c.planIssuer(ch, s.root, nil, names)
		if err != nil {
			return err
		}
		if err := c.commit(ctx, ch); err != nil {
			return err
		}
		c.renewed = now
		c.log.Info("intermediate renewed", "why", why, "issuer", next.id, "until", next.end)
		for _, a := range c.addrs {
			if s.root.allows(a.String()) != nil {
				c.log.Warn("this node's address is not permitted by the root: clients that connect to it by number "+
					"do not trust it until the root is rotated", "address", a)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("renew the intermediate: %w", err)
	}
	return nil
}

// issuerDue returns why the intermediate must be replaced; "" if it need not or cannot be.
func (c *CA) issuerDue(s *snapshot) string {
	if s.root.direct() {
		return ""
	}
	now, cert := c.now(), s.issuer.cert
	switch {
	case now.Before(cert.NotBefore):
		return "it is not valid yet: a clock was ahead when it was made"
	case due(cert.NotBefore, cert.NotAfter, now) && s.root.end().After(cert.NotAfter):
		return "two thirds of its life are over"
	case len(cert.CRLDistributionPoints) == 0 && c.hasList(s.root):
		return "it does not say where its revocation list is"
	case len(cert.PermittedURIDomains) == 0 || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return "it was made before mail addresses, URIs and clients were forbidden"
	}
	if c.cfg.Node == "" {
		return ""
	}
	if kept, err := readAddrs(c.cfg.Tree, "node/"+c.cfg.Node); errors.Is(err, fs.ErrNotExist) || err == nil &&
		!slices.Equal(kept, c.addrs) {
		return "this node's addresses changed"
	}
	return ""
}

// ForgetNode removes the addresses of a node that has left the cluster: a new intermediate does not permit them any
// more.
func (c *CA) ForgetNode(ctx context.Context, node string) error {
	if err := checkNode(node); err != nil {
		return err
	}
	if node == "" || node == c.cfg.Node {
		return mistakef("node %q cannot forget itself", node)
	}
	err := c.retry(func(s *snapshot) error {
		if _, err := c.cfg.Tree.Stat("node/" + node); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		ch := &change{base: s, next: s.state}
		ch.add(func(b Batch) error { b.Remove("node/" + node); return nil })
		if _, err := c.planIssuerWithout(ch, s.root, nil, s.names, node); err != nil {
			return err
		}
		return c.commit(ctx, ch)
	})
	if err != nil {
		return fmt.Errorf("forget node %s: %w", node, err)
	}
	return nil
}

func putNames(b Batch, id string, names []string) error {
	data, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return putChunks(b, "issuer/"+id+"/names", data)
}

func readAddrs(t Tree, name string) ([]netip.Addr, error) {
	data, err := t.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	if err := json.Unmarshal(data, &addrs); err != nil {
		return nil, fmt.Errorf("record pki/%s is damaged: %w", name, err)
	}
	return addrs, nil
}
