package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// A removed node knows the sealing key and could sign node certificates. So its removal makes a new sealing key and a
// new CA, and everything that is sealed is sealed again, all in one batch. The new key travels in the log, wrapped for
// the public key of each member that stays (HPKE, RFC 9180): so it reaches a member that is down as well, and whoever
// reads the log without being a member learns nothing.
const keysName = "cluster/keys"

// rekey is that record.
type rekey struct {
	Epoch uint64            `json:"epoch"`
	Wraps map[string][]byte `json:"wraps"` // by member: HPKE's encapsulated key and ciphertext
}

const wrapInfo = "casemate sealing key 1"

func wrap(spki, key []byte) ([]byte, error) {
	pub, err := publicKey(spki)
	if err != nil {
		return nil, err
	}
	ec, err := pub.ECDH()
	if err != nil {
		return nil, err
	}
	to, err := hpke.NewDHKEMPublicKey(ec)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(wrapInfo), key)
}

func unwrap(own *ecdsa.PrivateKey, wrapped []byte) ([]byte, error) {
	ec, err := own.ECDH()
	if err != nil {
		return nil, err
	}
	key, err := hpke.NewDHKEMPrivateKey(ec)
	if err != nil {
		return nil, err
	}
	return hpke.Open(key, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(wrapInfo), wrapped)
}

// takeKeys takes up the newest sealing key from the state, if this node does not have it yet. It is on this disk before
// it is used.
func (c *Cluster) takeKeys() error {
	if c.peers == nil {
		return nil
	}
	r, ok := recordOf[rekey](c.machine.view.Load(), keysName)
	wrapped, mine := r.Wraps[c.cfg.Node]
	if !ok || !mine || r.Epoch <= c.epoch.Load() {
		return nil
	}
	c.keyMu.Lock()
	defer c.keyMu.Unlock()
	if r.Epoch <= c.epoch.Load() {
		return nil
	}
	key, err := unwrap(c.node.key, wrapped)
	if err != nil {
		return fmt.Errorf("the cluster's sealing key %d cannot be taken up: %w", r.Epoch, err)
	}
	ring := c.keys.Load()
	if !bytes.Equal(ring.newest(), key) {
		if ring, err = ring.with(key); err != nil {
			return err
		}
		if err := disk.WriteFile(c.cfg.FS, filepath.Join(c.cfg.Dir, keyFile), ring.raw, 0o600); err != nil {
			return err
		}
		c.keys.Store(ring)
		c.log.Info("sealing key taken up", "epoch", r.Epoch)
	}
	c.epoch.Store(r.Epoch)
	return nil
}

// reseal removes what the tree knows of a member that has left, and makes worthless what that node knows: one
// conditional batch.
func (c *Cluster) reseal(ctx context.Context, gone string) error {
	for range tries {
		err := c.tryReseal(ctx, gone)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("remove %s: too much is changing, try again: %w", gone, peer.ErrNoMajority)
}

func (c *Cluster) tryReseal(ctx context.Context, gone string) error {
	if err := c.takeKeys(); err != nil {
		return err
	}
	s := c.machine.view.Load()
	var ops []state.Op
	var fail error
	put := func(name string, v any) {
		e, _ := s.Get(name)
		op, err := putRecord(name, v)
		if err != nil {
			fail = err
			return
		}
		ops = append(ops, &state.Expect{Name: name, Version: e.Version}, op)
	}
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	ring, err := c.keys.Load().with(key)
	if err != nil {
		return err
	}
	old, err := c.authority()
	if err != nil || old == nil {
		return errors.Join(err, peer.ErrNoMajority)
	}
	oldKey, err := c.authorityKey(old)
	if err != nil {
		return err
	}
	next, _, err := makeAuthority(old, oldKey, func(plain []byte) ([]byte, error) { return ring.seal(plain), nil }, c.cfg.Now())
	if err != nil {
		return err
	}
	put(authorityName, next)
	before, _ := recordOf[rekey](s, keysName)
	r := rekey{Epoch: before.Epoch + 1, Wraps: map[string][]byte{}}
	for e := range s.ReadDir(membersDir, "") {
		if e.Name == gone {
			continue
		}
		m, ok := recordOf[member](s, membersDir+"/"+e.Name)
		if !ok {
			continue
		}
		if r.Wraps[e.Name], err = wrap(m.Key, key); err != nil {
			return fmt.Errorf("member %s: %w", e.Name, err)
		}
	}
	put(keysName, r)
	for name, e := range s.Walk(".", "") {
		if !strings.HasPrefix(e.Data, sealLabel) || name == authorityName {
			continue
		}
		plain, err := c.Unseal([]byte(e.Data))
		if err != nil {
			return fmt.Errorf("%s cannot be sealed anew: %w", name, err)
		}
		ops = append(ops, &state.Expect{Name: name, Version: e.Version}, &state.Put{Name: name, Data: ring.seal(plain), Claim: e.Claim})
	}
	if m, ok := recordOf[member](s, membersDir+"/"+gone); ok {
		put(removedDir+"/"+gone, removal{Key: m.Key, Time: c.cfg.Now().UTC()})
	}
	if fail != nil {
		return fail
	}
	ops = append(ops, &state.Remove{Name: membersDir + "/" + gone}, &state.Remove{Name: tokensDir})
	_, err = c.commit(ctx, false, ops)
	return err
}
