package member

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"casemate/cluster/state"
)

// Raft's configuration determines the members. The tree holds what is known of them:
//
//	cluster/members/NAME   Record: its address, its public key
//	cluster/removed/NAME   removal: a name that must not be used again
//	cluster/tokens/ID      tokenRecord: permission to join
//	cluster/ca             authority
//	cluster/keys           rekey: the newest sealing key, wrapped for each member
const (
	MembersDir = "cluster/members" // a Record for each member
	removedDir = "cluster/removed"
	TokensDir  = "cluster/tokens" // the tokens that have not expired
)

// Record is the tree's record of a member.
type Record struct {
	Addr    string    `json:"addr"`            // host:port of its peer port, the first of Addrs
	Addrs   []string  `json:"addrs,omitempty"` // all of them; older versions write only Addr
	Key     []byte    `json:"key"`             // SubjectPublicKeyInfo of its certificate, DER; never changes
	Version string    `json:"version"`         // of its program, for people
	Format  uint64    `json:"format"`          // the newest format of commands that it understands
	Joined  time.Time `json:"joined"`
}

// Addresses are all addresses of the node's peer port.
func (r Record) Addresses() []string {
	if len(r.Addrs) == 0 && r.Addr != "" {
		return []string{r.Addr}
	}
	return r.Addrs
}

// removal is the record of a node that was removed.
type removal struct {
	Key  []byte    `json:"key"`
	Time time.Time `json:"time"`
}

func recordOf[T any](s *state.State, name string) (v T, ok bool) {
	e, ok := s.Get(name)
	if !ok || json.Unmarshal([]byte(e.Data), &v) != nil {
		return v, false
	}
	return v, true
}

func putRecord(name string, v any) (*state.Put, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &state.Put{Name: name, Data: data}, nil
}

// Record returns the record of a node.
func (ms *Members) Record(name string) (Record, bool) {
	return recordOf[Record](ms.cluster.View(), MembersDir+"/"+name)
}

// Removed reports whether a node was removed from the cluster.
func (ms *Members) Removed(node string) bool {
	_, gone := ms.cluster.View().Get(removedDir + "/" + node)
	return gone
}

// publicKey parses the key of a record.
func publicKey(spki []byte) (*ecdsa.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a %T, not an ECDSA key", pub)
	}
	return ec, nil
}

// PublishSelf writes this node's own record, if it has changed, and returns when it is applied here.
func (ms *Members) PublishSelf(ctx context.Context) error {
	m, there := ms.Record(ms.cfg.Node)
	want := ms.self()
	if there {
		want.Joined = m.Joined
	}
	if there && m.Addr == want.Addr && slices.Equal(m.Addrs, want.Addrs) && string(m.Key) == string(want.Key) &&
		m.Version == want.Version && m.Format == want.Format {
		return nil
	}
	put, err := putRecord(MembersDir+"/"+ms.cfg.Node, want)
	if err != nil {
		return err
	}
	err = ms.cluster.Propose(ctx, put)
	return err
}

// self is the current content of this node's own record.
func (ms *Members) self() Record {
	return Record{
		Addr: ms.cfg.addr(), Addrs: ms.cfg.Addrs, Key: ms.node.spki, Version: ms.cfg.Version,
		Format: state.MaxFormat, Joined: ms.cfg.Now().UTC().Truncate(time.Second),
	}
}

// Bootstrap makes the nodes' CA, if there is none, and in the same command the record of this node: its name is taken
// before other nodes can join.
func (ms *Members) Bootstrap(ctx context.Context) error {
	if a, err := ms.authority(); a != nil || err != nil {
		return err
	}
	a, _, err := makeAuthority(nil, nil, ms.Seal, ms.cfg.Now())
	if err != nil {
		return err
	}
	ca, err := putRecord(authorityName, a)
	if err != nil {
		return err
	}
	own, err := putRecord(MembersDir+"/"+ms.cfg.Node, ms.self())
	if err != nil {
		return err
	}
	err = ms.cluster.Propose(ctx, &state.Expect{Name: authorityName}, ca, own)
	if errors.Is(err, fs.ErrExist) {
		return nil // a previous leader has made one
	}
	return err
}
