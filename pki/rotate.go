package pki

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"
)

// ErrRotating means that the overlap of two roots has not been finished.
var ErrRotating = errors.New("the overlap of a root rotation is not finished")

// Change is the difference between the next root and the one in use. The zero Change copies the one in use.
type Change struct {
	// Permit and Exclude are added, in the forms of Spec.
	Permit, Exclude []string
	// Drop lists entries of the root in use, permitted or excluded, that the next one does not have.
	Drop []string
	// Own replaces an enterprise's CA certificate by a root of our own. So do Permit, Exclude and Drop, because only
	// the enterprise can sign another root below its certificate.
	Own bool
	// Abrupt continues where there can be no cross certificate: clients that trust only the root in use fail at once.
	Abrupt bool
}

func (g Change) empty() bool { return len(g.Permit)+len(g.Exclude)+len(g.Drop) == 0 && !g.Own }

// Rotate is RotateTo without a change.
func (c *CA) Rotate(ctx context.Context) error { return c.RotateTo(ctx, Change{}) }

// RotateTo makes a second root that permits what the first does (and the addresses of nodes that joined since), changed
// by change, and begins the overlap: Roots returns both, and the new root signs from now on. Its cross certificate,
// signed by the old root, is sent along, so that a client that trusts only one of the two verifies every handshake for
// the names that this one permits. When all clients trust the new root, FinishRotation ends the overlap. Until then
// Undo returns to the old root.
//
// An enabled name that the new root would not permit is ErrNotPermitted. A Change that changes nothing or contradicts
// itself or the root in use is fs.ErrInvalid. ErrRotating: an overlap is not finished.
//
// An enterprise's CA certificate can sign the cross certificate if four CA certificates may follow below our root below
// it. Otherwise Change.Abrupt must be set.
//
// An enterprise's CA certificate whose key was stored by an earlier version, and that has room for it, gets a root of
// ours below it if change is zero, and its key is destroyed: clients see no difference, and there is no overlap.
func (c *CA) RotateTo(ctx context.Context, change Change) error {
	s, err := c.current()
	if err == nil && change.empty() && s.root.ref.Enterprise && !s.root.ref.Below && s.root.room() >= roomForRoot {
		return c.confine(ctx)
	}
	return c.rotate(ctx, change)
}

// constraintsAfter returns the constraints of the root that follows the one in use.
func (c *CA) constraintsAfter(s *snapshot, change Change) (constraints, error) {
	if s.root.ref.Enterprise && change.empty() {
		return constraints{}, mistakef("the root is the enterprise's: casemate ca rotate --leave-issuer makes one of " +
			"our own")
	}
	if change.Own && !s.root.ref.Enterprise {
		return constraints{}, mistakef("the root is our own already: rotate without own")
	}
	from, err := c.inherited(s)
	if err != nil {
		return from, err
	}
	k := from.clone()
	for _, d := range change.Drop {
		if err := k.drop(d, c.domain); err != nil {
			return k, err
		}
	}
	if err := k.exclude(change.Exclude, c.domain); err != nil {
		return k, err
	}
	if err := k.permit(change.Permit, PublicZones()); err != nil {
		return k, err
	}
	k = k.tidy()
	if !change.empty() && !change.Own && !s.root.ref.Enterprise && k.equal(from.tidy()) {
		return k, mistakef("the root in use permits and excludes this already: there is nothing to rotate for")
	}
	addrs, err := c.nodeAddrs("")
	if err != nil {
		return k, err
	}
	for _, a := range addrs {
		for _, no := range k.noRanges {
			if no.Bits() > 0 && no.Contains(a) {
				return k, mistakef("exclude %s holds the address %s of a node: exclude less", no, a)
			}
		}
	}
	k.ranges = append(k.ranges, networks(addrs)...)
	k = k.tidy()
	for _, n := range s.names {
		if err := k.allows(n); err != nil {
			return k, fmt.Errorf("%s is enabled, remove that origin first (casemate origin remove): %w", n, err)
		}
	}
	return k, nil
}

// inherited are the constraints that a new root copies: those of the root in use; if that has no list of zones, which
// is an enterprise's whose key we have, what a new cluster would have and what is enabled.
func (c *CA) inherited(s *snapshot) (constraints, error) {
	k := s.root.constraints()
	if len(k.zones) > 0 {
		return k, nil
	}
	no := k
	k, err := (Spec{Domain: c.domain}).constraints()
	if err != nil {
		return k, err
	}
	k.noZones, k.noRanges = append(k.noZones, no.noZones...), append(k.noRanges, no.noRanges...)
	for _, n := range s.names {
		if _, err := netip.ParseAddr(n); err != nil {
			k.zones = append(k.zones, trimStar(n))
		}
	}
	return k, nil
}

// confine puts a root of ours below the enterprise's CA certificate in use.
func (c *CA) confine(ctx context.Context) error {
	err := c.retry(func(s *snapshot) error {
		if !s.root.ref.Enterprise || s.root.ref.Below {
			return nil
		}
		upKey, err := s.root.readKey(c.cfg.Tree, c.cfg.Sealer)
		if err != nil {
			return err
		}
		next, key, err := c.belowEnterprise(s, s.root, upKey)
		if err != nil {
			return err
		}
		return c.replaceRoot(ctx, s, next, key)
	})
	if err != nil {
		return fmt.Errorf("rotate the root: %w", err)
	}
	return nil
}

func (c *CA) rotate(ctx context.Context, change Change) error {
	err := c.retry(func(s *snapshot) error {
		if s.old != nil {
			return fmt.Errorf("begun on %s: %w", time.Unix(s.state.Since, 0).UTC().Format(time.DateOnly), ErrRotating)
		}
		k, err := c.constraintsAfter(s, change)
		if err != nil {
			return err
		}
		now := c.now()
		next, key, err := makeRoot(k, c.domain, c.cfg.CRLURL, now)
		if err != nil {
			return err
		}
		// A root that has ended is trusted by nobody.
		ended := !s.root.anchor.NotAfter.After(now)
		crosses := !s.root.ref.Enterprise || s.root.ref.Below && s.root.room() >= rootPathLen
		if !ended && !crosses && !change.Abrupt {
			return mistakef("the enterprise's CA certificate leaves no room for a cross certificate: clients that " +
				"trust only the enterprise's root would fail from now on, until they trust the new one; " +
				"to go on all the same: --yes")
		}
		if !ended && crosses {
			oldKey, err := s.root.readKey(c.cfg.Tree, c.cfg.Sealer)
			if err != nil {
				return err
			}
			if next.cross, err = crossSign(next, s.root, oldKey, c.cfg.CRLURL, now); err != nil {
				return err
			}
		}
		return c.replaceRoot(ctx, s, next, key)
	})
	if err != nil {
		return fmt.Errorf("rotate the root: %w", err)
	}
	return nil
}

// replaceRoot writes next as the root in use, with an intermediate, and begins an overlap with the current one.
func (c *CA) replaceRoot(ctx context.Context, s *snapshot, next *authority, key crypto.Signer) error {
	ch := &change{base: s, next: s.state}
	ch.next.Root = next.ref
	ch.add(func(b Batch) error { return next.put(b, c.cfg.Sealer, key) })
	if next.anchor.Equal(s.root.anchor) {
		// An enterprise's CA certificate was replaced by another below the same root: clients see no difference.
		ch.add(func(b Batch) error { b.Remove("root/" + s.root.ref.ID); return nil })
		c.planLastRootList(ch, s.root)
	} else {
		// The old root's key stays until the overlap is finished: Undo signs an intermediate with it.
		ch.next.Old, ch.next.Since = &s.root.ref, c.now().Unix()
		c.planLastRootList(ch, s.root)
		c.planForget(ch, s.state.Done)
		ch.next.Done, ch.next.Finished = nil, 0
	}
	if _, err := c.planIssuer(ch, next, key, s.names); err != nil {
		return err
	}
	if err := c.commit(ctx, ch); err != nil {
		return err
	}
	c.log.Info("root replaced", "old", s.root.ref.ID, "new", next.ref.ID, "until", next.anchor.NotAfter)
	return nil
}

// Rotation reports whether two roots overlap, and since when.
func (c *CA) Rotation() (since time.Time, overlap bool) {
	s, err := c.current()
	if err != nil || s.old == nil {
		return time.Time{}, false
	}
	return time.Unix(s.state.Since, 0).UTC(), true
}

// FinishDrops returns the SHA-256 fingerprint, in hex, of the root that FinishRotation would drop. It is an error if no
// rotation is under way.
func (c *CA) FinishDrops() (fingerprint string, err error) {
	s, err := c.current()
	if err != nil {
		return "", err
	}
	if s.old == nil {
		return "", errNoRotation()
	}
	return fmt.Sprintf("%x", sha256.Sum256(s.old.anchor.Raw)), nil
}

func errNoRotation() error {
	return mistakef("no rotation is under way: casemate ca rotate begins one")
}

// FinishRotation ends the overlap: the old root is not distributed any more, its cross certificate is not sent any
// more, and its key is destroyed. Clients that trust only the old root fail from now on, unless Undo begins the overlap
// again.
func (c *CA) FinishRotation(ctx context.Context) error {
	err := c.retry(func(s *snapshot) error {
		if s.old == nil {
			return errNoRotation()
		}
		ch := &change{base: s, next: s.state}
		ch.next.Old, ch.next.Done, ch.next.Finished = nil, s.state.Old, c.now().Unix()
		ch.add(func(b Batch) error {
			b.Remove("root/" + s.old.ref.ID + "/key")
			return putChunks(b, "root/"+s.old.ref.ID+"/back", concat(s.root.cross))
		})
		if len(s.root.cross) > 0 {
			kept := *s.root
			kept.cross = nil
			c.planCross(ch, s, &kept)
		}
		if err := c.commit(ctx, ch); err != nil {
			return err
		}
		c.log.Info("root rotation finished", "gone", s.old.ref.ID, "root", s.root.ref.ID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("finish the rotation: %w", err)
	}
	return nil
}

// planCross adds to ch the root in use with another cross certificate, or none.
func (c *CA) planCross(ch *change, s *snapshot, root *authority) {
	ch.add(func(b Batch) error {
		name := "root/" + root.ref.ID + "/cross"
		if !root.ref.Below && !root.ref.Enterprise {
			name = "root/" + root.ref.ID + "/above"
		}
		if err := putChunks(b, name, concat(root.cross)); err != nil {
			return err
		}
		if s.issuer.cert.Equal(root.signer) {
			return nil // an enterprise's that signs leaves itself
		}
		chain := append([]*x509.Certificate{s.issuer.cert}, root.sent()...)
		return putChunks(b, "issuer/"+s.issuer.id+"/chain", concat(chain))
	})
}

// undoLife is how long a finish can be undone: as long as leaves from before the rotation may have been valid.
const undoLife = leafLife

// Undone is the step that Undo has undone.
type Undone string

// Steps that can be undone.
const (
	UndoneFinish   Undone = "finish"   // the overlap continues, both roots are distributed
	UndoneRotation Undone = "rotation" // the old root signs again, the new one is gone
)

// Undo undoes the last step of a rotation. After FinishRotation, for 30 days, it begins the overlap again, with the
// previous cross certificate: clients that trust only the old root are served again. In an overlap that has not been
// finished it returns to the old root and forgets the new one, which then must not be the only trusted one on any
// client. A name that was enabled since and that the old root does not permit is ErrNotPermitted.
func (c *CA) Undo(ctx context.Context) (what Undone, err error) {
	err = c.retry(func(s *snapshot) error {
		if s.old != nil {
			what = UndoneRotation
			return c.undoRotation(ctx, s)
		}
		what = UndoneFinish
		return c.undoFinish(ctx, s)
	})
	if err != nil {
		return "", fmt.Errorf("undo the rotation: %w", err)
	}
	return what, nil
}

func (c *CA) undoFinish(ctx context.Context, s *snapshot) error {
	done := s.state.Done
	if done == nil {
		return mistakef("there is no rotation to undo")
	}
	if end := time.Unix(s.state.Finished, 0).Add(undoLife); c.now().After(end) {
		return mistakef("the rotation was finished too long ago, it could be undone until %s: casemate ca rotate "+
			"begins another",
			end.UTC().Format(time.DateOnly))
	}
	old, err := readAuthority(c.cfg.Tree, *done)
	if err != nil {
		return err
	}
	der, err := readChunks(c.cfg.Tree, "root/"+done.ID+"/back")
	if err != nil {
		return err
	}
	again := *s.root
	if again.cross, err = x509.ParseCertificates(der); err != nil {
		return fmt.Errorf("record pki/root/%s/back is damaged: %w", done.ID, err)
	}
	ch := &change{base: s, next: s.state}
	ch.next.Old, ch.next.Done, ch.next.Finished = done, nil, 0
	ch.add(func(b Batch) error { b.Remove("root/" + done.ID + "/back"); return nil })
	if len(again.cross) > 0 {
		c.planCross(ch, s, &again)
	}
	if err := c.commit(ctx, ch); err != nil {
		return err
	}
	c.log.Info("finish of the root rotation undone", "old", old.ref.ID, "root", s.root.ref.ID)
	return nil
}

func (c *CA) undoRotation(ctx context.Context, s *snapshot) error {
	key, err := s.old.readKey(c.cfg.Tree, c.cfg.Sealer)
	if errors.Is(err, fs.ErrNotExist) {
		return mistakef("the old root's key was destroyed when the rotation was finished once: " +
			"finish it again when every node trusts the new root")
	}
	if err != nil {
		return err
	}
	for _, n := range s.names {
		if err := s.old.allows(n); err != nil {
			return fmt.Errorf("%s is enabled, remove that origin first (casemate origin remove): %w", n, err)
		}
	}
	ch := &change{base: s, next: s.state}
	ch.next.Root, ch.next.Old, ch.next.Since = s.old.ref, nil, 0
	c.planLastRootList(ch, s.root)
	c.planForget(ch, &s.root.ref)
	if _, err := c.planIssuer(ch, s.old, key, s.names); err != nil {
		return err
	}
	if err := c.commit(ctx, ch); err != nil {
		return err
	}
	c.log.Info("root rotation undone", "gone", s.root.ref.ID, "root", s.old.ref.ID)
	return nil
}

// planForget adds to ch the removal of everything of a root but its last list, which certificates refer to. nil is no
// root.
func (c *CA) planForget(ch *change, ref *rootRef) {
	if ref == nil {
		return
	}
	dir := "root/" + ref.ID
	ch.add(func(b Batch) error {
		for _, part := range []string{"cert", "above", "cross", "back", "key"} {
			b.Remove(dir + "/" + part)
		}
		return nil
	})
}
