package cluster

import (
	"context"
	"errors"
	"time"

	"casemate/cluster/member"
)

// Token lets one node join.
type Token = member.Token

// ParseToken parses the output of Token.String; any other text is fs.ErrInvalid.
func ParseToken(s string) (Token, error) { return member.ParseToken(s) }

// CreateToken makes a token that expires after ttl, and deletes expired tokens.
func (c *Cluster) CreateToken(ctx context.Context, ttl time.Duration) (Token, error) {
	return c.members.CreateToken(ctx, ttl)
}

// OpenToken is a token that a node can still join with, without its secret.
type OpenToken = member.OpenToken

// OpenTokens returns the tokens that no node has used and that have not expired, sorted by ID.
func (c *Cluster) OpenTokens() []OpenToken { return c.members.OpenTokens() }

// Join makes the data directory of a node that joins the cluster at addr (host:port of any member's peer port). cfg.Dir
// must be empty or not exist; an interrupted Join can be repeated, with the same token. cfg.PeerAddrs must be set.
// Nothing stays open. The node is then a learner, and becomes a voter some time after it was opened. It returns the
// member's sentences for the operator (Config.Advise).
func Join(ctx context.Context, cfg Config, addr string, token Token) (notes []string, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return nil, err
	}
	if len(cfg.PeerAddrs) == 0 {
		return nil, errors.New("join: the addresses of this node's peer port must be set")
	}
	defer func() { err = describe("join", cfg.Dir, err) }()
	lock, err := beginDir(cfg)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	cluster, notes, err := member.Join(ctx, cfg.members(""), cfg.Dial, addr, token)
	if err != nil {
		return nil, err
	}
	// An empty log: raft waits for the leader to fill it.
	log, err := openWAL(cfg, true, nil)
	if err == nil {
		err = log.Close()
	}
	if err != nil {
		return nil, err
	}
	return notes, endDir(cfg, identity{Format: diskFormat, Cluster: cluster, Node: cfg.Node})
}

// members returns the configuration of package member.
func (cfg Config) members(cluster string) member.Config {
	return member.Config{
		Node: cfg.Node, Addrs: cfg.PeerAddrs, Cluster: cluster, Version: cfg.Version, Dir: cfg.Dir, FS: cfg.FS,
		Log: cfg.Log, Now: cfg.Now, AnyClock: cfg.AnyClock, CheckCSR: cfg.checkCSR, Advertise: cfg.Advertise,
		Advise: cfg.Advise,
	}
}

// ErrSealed is returned by Unseal for bytes that were not sealed under this cluster's key.
var ErrSealed = member.ErrSealed

// Seal encrypts and authenticates a secret under the cluster's newest sealing key (XChaCha20-Poly1305, random nonce),
// so that it can be stored in the tree, in snapshots and in backups (promise 10). The result is 58 bytes longer than
// plain. Sealing the same secret twice gives different bytes.
func (c *Cluster) Seal(plain []byte) ([]byte, error) { return c.members.Seal(plain) }

// Unseal returns the plain text of what Seal returned on any node; otherwise the error is ErrSealed.
func (c *Cluster) Unseal(sealed []byte) ([]byte, error) { return c.members.Unseal(sealed) }
