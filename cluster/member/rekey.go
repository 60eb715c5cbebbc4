package member

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
	"casemate/cluster/tree"
)

// A removed node knows the sealing key and could sign node certificates. So a removal makes a new sealing key and a new
// CA, and everything sealed is sealed again, in one batch. The log carries the new key, wrapped for the public key of
// each remaining member (HPKE, RFC 9180). So a member that is down receives it too, and a reader of the log who is not
// a member learns nothing.
//
// KeysName is the name of the record rekey.
const KeysName = "cluster/keys"

// rekey is the record of the newest sealing key.
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

// TakeKeys adopts the newest sealing key from the state, if this node does not have it yet. The key is stored on this
// disk before it is used.
func (ms *Members) TakeKeys() error {
	if ms.node == nil {
		return nil
	}
	r, ok := recordOf[rekey](ms.cluster.View(), KeysName)
	wrapped, mine := r.Wraps[ms.cfg.Node]
	if !ok || !mine || r.Epoch <= ms.epoch.Load() {
		return nil
	}
	ms.keyMu.Lock()
	defer ms.keyMu.Unlock()
	if r.Epoch <= ms.epoch.Load() {
		return nil
	}
	key, err := unwrap(ms.node.key, wrapped)
	if err != nil {
		return fmt.Errorf("the cluster's sealing key %d cannot be used: %w", r.Epoch, err)
	}
	ring := ms.keys.Load()
	if !bytes.Equal(ring.newest(), key) {
		if ring, err = ring.with(key); err != nil {
			return err
		}
		if err := disk.WriteFile(ms.cfg.FS, filepath.Join(ms.cfg.Dir, KeyFile), ring.raw, 0o600); err != nil {
			return err
		}
		ms.keys.Store(ring)
		ms.log.Info("new sealing key in use", "epoch", r.Epoch)
	}
	ms.epoch.Store(r.Epoch)
	return nil
}

// Reseal removes the records of a member that has left and replaces all secrets that it knows, in one conditional
// batch.
func (ms *Members) Reseal(ctx context.Context, gone string) error {
	for range tries {
		err := ms.tryReseal(ctx, gone)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("remove %s: other changes interfered, try again: %w", gone, peer.ErrNoMajority)
}

func (ms *Members) tryReseal(ctx context.Context, gone string) error {
	if err := ms.TakeKeys(); err != nil {
		return err
	}
	s := ms.cluster.View()
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
	ring, err := ms.keys.Load().with(key)
	if err != nil {
		return err
	}
	old, err := ms.authority()
	if err != nil || old == nil {
		return errors.Join(err, peer.ErrNoMajority)
	}
	oldKey, err := ms.authorityKey(old)
	if err != nil {
		return err
	}
	next, _, err := makeAuthority(old, oldKey, func(plain []byte) ([]byte, error) {
		return ring.seal(plain), nil
	}, ms.cfg.Now())
	if err != nil {
		return err
	}
	put(authorityName, next)
	before, _ := recordOf[rekey](s, KeysName)
	r := rekey{Epoch: before.Epoch + 1, Wraps: map[string][]byte{}}
	for e := range s.ReadDir(MembersDir, "") {
		if e.Name == gone {
			continue
		}
		m, ok := recordOf[Record](s, MembersDir+"/"+e.Name)
		if !ok {
			continue
		}
		if r.Wraps[e.Name], err = wrap(m.Key, key); err != nil {
			return fmt.Errorf("member %s: %w", e.Name, err)
		}
	}
	put(KeysName, r)
	for name, e := range s.Walk(".", "") {
		if !strings.HasPrefix(e.Data, sealLabel) || name == authorityName {
			continue
		}
		plain, err := ms.Unseal([]byte(e.Data))
		if err != nil {
			return fmt.Errorf("%s cannot be sealed again: %w", name, err)
		}
		again := &state.Put{Name: name, Data: ring.seal(plain), Claim: e.Claim}
		ops = append(ops, &state.Expect{Name: name, Version: e.Version}, again)
	}
	if m, ok := recordOf[Record](s, MembersDir+"/"+gone); ok {
		put(removedDir+"/"+gone, removal{Key: m.Key, Time: ms.cfg.Now().UTC()})
	}
	if fail != nil {
		return fail
	}
	ops = append(ops, &state.Remove{Name: MembersDir + "/" + gone}, &state.Remove{Name: TokensDir})
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "member.remove", Object: gone})
	err = ms.cluster.Commit(ctx, ops)
	return err
}
