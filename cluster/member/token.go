package member

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"casemate/cluster/peer"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// Token lets one node join. It is printed once; no node stores it:
//
//	casemate1.ID.SECRET.ROOT, each in base64url without padding
//
// SECRET is the seed of an ed25519 key. The tree stores only the public key, so neither the log nor a backup nor a
// member can use the token. ROOT is the SHA-256 of the certificate of the nodes' CA: with it the joiner authenticates
// the server before it sends anything.
type Token struct {
	ID     string
	Secret []byte // 32 bytes
	Root   []byte // 32 bytes
}

const tokenLabel = "casemate1"

func (t Token) String() string {
	enc := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{tokenLabel, t.ID, enc(t.Secret), enc(t.Root)}, ".")
}

// ParseToken parses the output of String; any other text is fs.ErrInvalid.
func ParseToken(s string) (t Token, err error) {
	f := strings.Split(strings.TrimSpace(s), ".")
	if len(f) == 4 && f[0] == tokenLabel && len(f[1]) > 0 && validTokenID(f[1]) {
		t.ID = f[1]
		var err1, err2 error
		t.Secret, err1 = base64.RawURLEncoding.DecodeString(f[2])
		t.Root, err2 = base64.RawURLEncoding.DecodeString(f[3])
		if err1 == nil && err2 == nil && len(t.Secret) == ed25519.SeedSize && len(t.Root) == sha256.Size {
			return t, nil
		}
	}
	return Token{}, fmt.Errorf("this is no join token, `casemate token create` on a member prints one: %w",
		fs.ErrInvalid)
}

// validTokenID reports whether an ID may be part of a name in the tree.
func validTokenID(id string) bool {
	return len(id) <= 32 && state.ValidID(id) && !strings.ContainsAny(id, "/\\")
}

// tokenRecord is the tree's record of a token.
type tokenRecord struct {
	Public  []byte    `json:"public"`
	Expires time.Time `json:"expires"`
	// Node and Key are those of the node that has used the token. The same node with the same key may use it again
	// until it expires, since an answer can be lost; another node may not.
	Node string `json:"node,omitempty"`
	Key  []byte `json:"key,omitempty"`
}

// CreateToken makes a token that expires after ttl, and deletes expired tokens.
func (ms *Members) CreateToken(ctx context.Context, ttl time.Duration) (Token, error) {
	if ms.node == nil {
		return Token{}, fmt.Errorf("this node has no peer port (listen.peer), so no other can join: %w", fs.ErrInvalid)
	}
	if ttl < time.Minute || ttl > 30*24*time.Hour {
		return Token{}, fmt.Errorf("a token's lifetime must be between 1m and 720h, got %s: %w", ttl, fs.ErrInvalid)
	}
	// On a node that was started for the first time just now, these may not have run yet.
	if err := errors.Join(ms.Bootstrap(ctx), ms.Renew()); err != nil {
		return Token{}, err
	}
	a, err := ms.authority()
	if err != nil || a == nil {
		return Token{}, errors.Join(err, peer.ErrNoMajority)
	}
	root := sha256.Sum256(a.Root)
	t := Token{ID: strings.ToLower(rand.Text()[:10]), Secret: make([]byte, ed25519.SeedSize), Root: root[:]}
	rand.Read(t.Secret)
	public := ed25519.NewKeyFromSeed(t.Secret).Public().(ed25519.PublicKey)
	put, err := putRecord(TokensDir+"/"+t.ID, tokenRecord{Public: public, Expires: ms.cfg.Now().Add(ttl).UTC()})
	if err != nil {
		return Token{}, err
	}
	ops := []state.Op{put}
	s := ms.cluster.View()
	for e := range s.ReadDir(TokensDir, "") {
		if old, ok := recordOf[tokenRecord](s, TokensDir+"/"+e.Name); !ok || !ms.cfg.Now().Before(old.Expires) {
			ops = append(ops, &state.Remove{Name: TokensDir + "/" + e.Name})
		}
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "token.create", New: "for " + ttl.String()})
	err = ms.cluster.Commit(ctx, ops)
	return t, err
}

// OpenToken is a token that a node can still join with, without its secret.
type OpenToken struct {
	ID      string
	Expires time.Time
}

// OpenTokens returns the tokens that no node has used and that have not expired, sorted by ID.
func (ms *Members) OpenTokens() (list []OpenToken) {
	s := ms.cluster.View()
	for e := range s.ReadDir(TokensDir, "") {
		r, ok := recordOf[tokenRecord](s, TokensDir+"/"+e.Name)
		if ok && r.Node == "" && ms.cfg.Now().Before(r.Expires) {
			list = append(list, OpenToken{e.Name, r.Expires})
		}
	}
	return list
}

// proofLabel separates signatures of tokens from any other use of the key.
const proofLabel = "casemate join 1\n"

// proof is the text that a joiner signs: this TLS session, by its exporter (RFC 8446, 7.5), and its request.
func proof(exporter, csr []byte, node, addr string) []byte {
	sum := sha256.Sum256(csr)
	return fmt.Appendf([]byte(proofLabel), "%x\n%x\n%q\n%q\n", exporter, sum, node, addr)
}

var errToken = fmt.Errorf("the token is unknown or has expired, `casemate token create` makes another: %w",
	fs.ErrPermission)

// knowsToken checks that a request was signed with an existing token that has not expired.
func (ms *Members) knowsToken(id string, signed, signature []byte) error {
	if !validTokenID(id) || len(signature) != ed25519.SignatureSize {
		return errToken
	}
	ms.cluster.CaughtUp()
	_, err := ms.token(ms.cluster.View(), id, signed, signature)
	return err
}

// token returns a token's record if the token is valid and the signature is right.
func (ms *Members) token(s *state.State, id string, signed, signature []byte) (tokenRecord, error) {
	r, ok := recordOf[tokenRecord](s, TokensDir+"/"+id)
	if !ok || !ms.cfg.Now().Before(r.Expires) || len(r.Public) != ed25519.PublicKeySize ||
		!ed25519.Verify(r.Public, signed, signature) {
		return r, errToken
	}
	return r, nil
}

// useToken checks a token's signature and marks the token as used by this node, unless against returns an objection to
// the node. A refused request does not use up the token, and a client without a token learns nothing about the
// cluster's nodes. knowsToken must have been called before.
func (ms *Members) useToken(
	ctx context.Context, id string, signed, signature []byte, node string, csr *x509.CertificateRequest,
	against func(*state.State) error,
) error {
	name := TokensDir + "/" + id
	for range tries {
		ms.cluster.CaughtUp()
		s := ms.cluster.View()
		r, err := ms.token(s, id, signed, signature)
		if err != nil {
			return err
		}
		if r.Node != "" {
			if r.Node != node || !bytes.Equal(r.Key, csr.RawSubjectPublicKeyInfo) {
				return fmt.Errorf("the token was already used by node %s, `casemate token create` makes another: %w",
					r.Node, fs.ErrPermission)
			}
			return against(s)
		}
		if err := against(s); err != nil {
			return err
		}
		e, _ := s.Get(name)
		r.Node, r.Key = node, csr.RawSubjectPublicKeyInfo
		put, err := putRecord(name, r)
		if err != nil {
			return err
		}
		if err = ms.cluster.Propose(ctx, &state.Expect{Name: name, Version: e.Version}, put); !errors.Is(err,
			fs.ErrExist) {
			return err
		}
	}
	return peer.ErrNoMajority
}
