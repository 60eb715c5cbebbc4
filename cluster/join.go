package cluster

import (
	"context"
	"errors"
	"time"

	"casemate/cluster/member"
)

// Token lets one node join.
type Token = member.Token

// ParseToken reads what Token.String wrote; anything else is fs.ErrInvalid.
func ParseToken(s string) (Token, error) { return member.ParseToken(s) }

// CreateToken makes a token that expires after ttl, and forgets those that have.
func (c *Cluster) CreateToken(ctx context.Context, ttl time.Duration) (Token, error) {
	return c.members.CreateToken(ctx, ttl)
}

// Join makes the data directory of a node that joins the cluster at addr (host:port of any member's peer port). cfg.Dir
// must not exist or be empty; a Join that was cut short is taken up again, and the same token may be used again for it.
// cfg.PeerAddr must be set. Nothing stays open; the node is a learner from then on, and becomes a voter some time after
// it was opened.
func Join(ctx context.Context, cfg Config, addr string, token Token) (err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return err
	}
	if cfg.PeerAddr == "" {
		return errors.New("join: the address at which the other nodes reach this one must be set")
	}
	defer func() { err = tell("join", cfg.Dir, err) }()
	lock, err := beginDir(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	cluster, err := member.Join(ctx, cfg.members(""), cfg.Dial, addr, token)
	if err != nil {
		return err
	}
	// An empty log: raft waits for the leader to fill it.
	log, err := openWAL(cfg, true, nil)
	if err == nil {
		err = log.Close()
	}
	if err != nil {
		return err
	}
	return endDir(cfg, identity{Format: diskFormat, Cluster: cluster, Node: cfg.Node})
}

// members is the configuration of the room of members.
func (cfg Config) members(cluster string) member.Config {
	return member.Config{
		Node: cfg.Node, Addr: cfg.PeerAddr, Cluster: cluster, Version: cfg.Version, Dir: cfg.Dir, FS: cfg.FS, Log: cfg.Log,
		Now: cfg.Now, CheckCSR: cfg.checkCSR,
	}
}

// ErrSealed is returned by Unseal for bytes that were not sealed under this cluster's key.
var ErrSealed = member.ErrSealed

// Seal encrypts and authenticates a secret under the cluster's newest sealing key (XChaCha20-Poly1305, random nonce),
// so that it can stand in the tree, in snapshots and in backups (promise 10). It is 58 bytes longer than plain. Sealing
// the same secret twice gives different bytes.
func (c *Cluster) Seal(plain []byte) ([]byte, error) { return c.members.Seal(plain) }

// Unseal returns what was given to Seal, on whichever node, else ErrSealed.
func (c *Cluster) Unseal(sealed []byte) ([]byte, error) { return c.members.Unseal(sealed) }
