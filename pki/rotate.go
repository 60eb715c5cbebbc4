package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ErrRotating says that the overlap of two roots has not been finished.
var ErrRotating = errors.New("the overlap of a root rotation is not finished")

// Rotate makes a second root with the constraints of the first (and the addresses of nodes that joined since), and
// begins the overlap: Roots returns both, and the new root signs from now on. Its cross certificate, signed by the old
// root, is sent along, so that a client that trusts only one of the two, whichever, verifies every handshake. The old
// root's key is destroyed. When all clients trust the new root, FinishRotation ends the overlap.
//
// An enterprise's CA certificate whose key was kept by a version of before, and that has room for it, gets a root
// of ours below it, and its key is destroyed: clients see no difference, and there is no overlap.
func (c *CA) Rotate(ctx context.Context) error {
	if s, err := c.current(); err == nil && s.root.ref.Enterprise && !s.root.ref.Below && s.root.room() >= roomForRoot {
		return c.confine(ctx)
	}
	return c.rotate(ctx, func(s *snapshot) (constraints, error) {
		if s.root.ref.Enterprise {
			return constraints{}, mistakef("the root is the enterprise's: to leave it, give the zones of a new root of our own")
		}
		addrs, err := c.nodeAddrs("")
		if err != nil {
			return constraints{}, err
		}
		k := s.root.constraints()
		k.ranges = append(k.ranges, singles(addrs)...)
		return k.tidy(), nil
	})
}

// RotateTo is Rotate to a root that permits what spec says: the way to widen or narrow what the cluster may ever
// enable, and to come back from an enterprise's root (then without a cross certificate: clients must trust the new root
// first). A client that trusts only the old root accepts what both permit. Names that are enabled and not permitted by
// spec are ErrNotPermitted.
func (c *CA) RotateTo(ctx context.Context, spec Spec) error {
	return c.rotate(ctx, func(*snapshot) (constraints, error) {
		domain, err := canonical(spec.Domain)
		if err != nil || domain != c.domain {
			return constraints{}, mistakef("domain must stay %s, got %q", c.domain, spec.Domain)
		}
		addrs, err := c.nodeAddrs("")
		if err != nil {
			return constraints{}, err
		}
		spec.Addrs = append(addrs, spec.Addrs...)
		return spec.constraints()
	})
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

func (c *CA) rotate(ctx context.Context, constrain func(*snapshot) (constraints, error)) error {
	err := c.retry(func(s *snapshot) error {
		if s.old != nil {
			return fmt.Errorf("begun on %s: %w", time.Unix(s.state.Since, 0).UTC().Format(time.DateOnly), ErrRotating)
		}
		k, err := constrain(s)
		if err != nil {
			return err
		}
		now := c.now()
		next, key, err := makeRoot(k, c.domain, c.cfg.CRLURL, now)
		if err != nil {
			return err
		}
		// A root that has ended is trusted by nobody, and an enterprise's may not sign ours.
		if !s.root.ref.Enterprise && s.root.anchor.NotAfter.After(now) {
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

// replaceRoot writes next as the root in use, with an intermediate, and begins an overlap with the one in use now.
func (c *CA) replaceRoot(ctx context.Context, s *snapshot, next *authority, key crypto.Signer) error {
	ch := &change{base: s, next: s.state}
	ch.next.Root = next.ref
	ch.add(func(b Batch) error { return next.put(b, c.cfg.Sealer, key) })
	if next.anchor.Equal(s.root.anchor) {
		// An enterprise's CA certificate was replaced by another below the same root: clients see no difference.
		ch.add(func(b Batch) error { b.Remove("root/" + s.root.ref.ID); return nil })
		c.planLastRootList(ch, s.root)
	} else {
		ch.next.Old, ch.next.Since = &s.root.ref, c.now().Unix()
		ch.add(func(b Batch) error { b.Remove("root/" + s.root.ref.ID + "/key"); return nil })
		c.planLastRootList(ch, s.root)
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

// FinishRotation ends the overlap: the old root is not handed out and its cross certificate is not sent any more.
// Clients that trust only the old root fail from now on.
func (c *CA) FinishRotation(ctx context.Context) error {
	err := c.retry(func(s *snapshot) error {
		if s.old == nil {
			return mistakef("no rotation is under way: casemate ca rotate begins one")
		}
		ch := &change{base: s, next: s.state}
		ch.next.Old, ch.next.Since = nil, 0
		// Its last list stays as long as certificates name it.
		list, err := readChunks(c.cfg.Tree, rootListDir(s.old.ref.ID))
		if err != nil {
			return err
		}
		ch.add(func(b Batch) error {
			b.Remove("root/" + s.old.ref.ID)
			return putChunks(b, rootListDir(s.old.ref.ID), list)
		})
		if len(s.root.cross) > 0 {
			kept := *s.root
			kept.cross = nil
			ch.add(func(b Batch) error {
				dir := "root/" + s.root.ref.ID
				b.Remove(dir + "/cross")
				if !s.root.ref.Below {
					b.Remove(dir + "/above")
				}
				chain := append([]*x509.Certificate{s.issuer.cert}, kept.sent()...)
				return putChunks(b, "issuer/"+s.issuer.id+"/chain", concat(chain))
			})
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
