package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// joinRequest is what a joiner sends, in a TLS session in which it knows the other side by the token's hash of the root
// and has not shown who it is itself.
type joinRequest struct {
	Token     string `json:"token"` // its ID
	Signature []byte `json:"signature"`
	CSR       []byte `json:"csr"` // PKCS #10, DER; its key will be the node's
	Node      string `json:"node"`
	Addr      string `json:"addr"` // host:port at which the others will reach it
	Version   string `json:"version"`
	Format    uint64 `json:"format"`
}

// joinAnswer is all that makes a node a member.
type joinAnswer struct {
	Error   string            `json:"error,omitempty"`
	Retry   bool              `json:"retry,omitempty"` // the same again may succeed
	Cluster string            `json:"cluster"`
	Keys    []byte            `json:"keys"`  // sealing keys
	Chain   [][]byte          `json:"chain"` // its certificate
	Root    []byte            `json:"root"`
	Members map[string]member `json:"members"`
}

const exporterLabel = "EXPORTER-casemate-join"

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
	// The key first: with it, the token works again if what comes after is cut short.
	key, err := nodeKey(cfg)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cfg.Node}}, key)
	if err != nil {
		return err
	}
	a, err := askToJoin(ctx, cfg, addr, token, csr)
	if err != nil {
		return err
	}
	if _, err := newKeyring(a.Keys); err != nil {
		return fmt.Errorf("the answer of %s: %w", addr, err)
	}
	seed, err := json.Marshal(seed{Root: a.Root, Members: a.Members})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{{keyFile, a.Keys, 0o600}, {seedFile, seed, 0o640}} {
		if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	if err := writeCert(cfg, a.Chain); err != nil {
		return err
	}
	// An empty log: raft waits for the leader to fill it.
	log, err := openWAL(cfg, true, func(error) {})
	if err == nil {
		err = log.Close()
	}
	if err != nil {
		return err
	}
	return endDir(cfg, identity{Format: diskFormat, Cluster: a.Cluster, Node: cfg.Node})
}

// askToJoin speaks to a member.
func askToJoin(ctx context.Context, cfg Config, addr string, token Token, csr []byte) (a joinAnswer, err error) {
	raw, err := cfg.Dial(ctx, addr)
	if err != nil {
		return a, fmt.Errorf("%s cannot be reached, it must be the peer address of a member that runs: %w", addr, err)
	}
	defer raw.Close()
	var stranger error
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{peer.ALPNJoin}, ServerName: "casemate",
		// Verified against the hash in the token instead of against roots and names.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			stranger = pinned(cs.PeerCertificates, token.Root, cfg.Now())
			return stranger
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		if stranger == nil {
			err = fmt.Errorf("it does not answer as a member's peer port does: %w", err)
		}
		return a, fmt.Errorf("%s: %w", addr, err)
	}
	cs := conn.ConnectionState()
	if cs.NegotiatedProtocol != peer.ALPNJoin {
		return a, fmt.Errorf("%s is not the peer port of a casemate", addr)
	}
	exporter, err := cs.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return a, err
	}
	req := joinRequest{Token: token.ID, CSR: csr, Node: cfg.Node, Addr: cfg.PeerAddr, Version: cfg.Version, Format: state.MaxFormat}
	req.Signature = ed25519.Sign(ed25519.NewKeyFromSeed(token.Secret), proof(exporter, csr, req.Node, req.Addr))
	body, err := json.Marshal(req)
	if err != nil {
		return a, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return struct{ net.Conn }{conn}, nil }}}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://casemate/join", bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	res, err := client.Do(hr)
	if err != nil {
		return a, fmt.Errorf("%s: %w", addr, err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&a); err != nil {
		return a, fmt.Errorf("%s: its answer: %w", addr, err)
	}
	if a.Error != "" {
		if a.Retry {
			return a, fmt.Errorf("%s says: %s: %w", addr, a.Error, peer.ErrNoMajority)
		}
		return a, fmt.Errorf("%s says: %s", addr, a.Error)
	}
	return a, nil
}

// pinned checks a chain that ends in the root with this hash.
func pinned(certs []*x509.Certificate, hash []byte, now time.Time) error {
	if len(certs) < 2 {
		return errors.New("it shows no CA: not the peer port of a casemate")
	}
	root := certs[len(certs)-1]
	if sum := sha256.Sum256(root.Raw); !bytes.Equal(sum[:], hash) {
		return errors.New("its CA is not the one that the token names: another cluster, someone in between, or a token from before a member was removed")
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// serveJoin answers who asks to join.
func (c *Cluster) serveJoin(w http.ResponseWriter, r *http.Request) {
	session := peer.SessionOf(r)
	var req joinRequest
	// The body is read to its end: from then on the server notices when the other side hangs up, and ends r.Context().
	body, err := io.ReadAll(io.LimitReader(r.Body, maxJoin+1))
	if len(body) > maxJoin {
		err = fmt.Errorf("it has more than %d bytes", maxJoin)
	}
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	var a joinAnswer
	if err != nil {
		err = fmt.Errorf("the request: %w", err)
	} else {
		a, err = c.letIn(r.Context(), session, req)
	}
	if err != nil {
		c.log.Warn("a node was not let in", "client", r.RemoteAddr, "node", fmt.Sprintf("%.63q", req.Node), "err", err)
		a = joinAnswer{Error: err.Error(), Retry: errors.Is(err, peer.ErrNoMajority)}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a)
}

// A request to join, in bytes.
const (
	maxJoin     = 16 << 10 // the body; ours are under 1 KiB
	maxRequest  = 2 << 10  // its request for a certificate; ours have some 250
	maxJoinAddr = 300
)

// check looks at what costs nothing to look at, and parses the request for a certificate. Nothing is computed with its
// key: that of an RSA key is whatever its sender likes.
func (req *joinRequest) check() (*x509.CertificateRequest, error) {
	if !peer.ValidNode(req.Node) {
		return nil, fmt.Errorf("node must be 1 to 63 of A-Z a-z 0-9 . _ -, got %.100q", req.Node)
	}
	host, port, err := net.SplitHostPort(req.Addr)
	if err != nil || host == "" || port == "" || len(req.Addr) > maxJoinAddr {
		return nil, fmt.Errorf("the address at which the node is reached must be host:port, got %.300q", req.Addr)
	}
	if len(req.CSR) > maxRequest {
		return nil, fmt.Errorf("the certificate request has %d bytes, the most is %d", len(req.CSR), maxRequest)
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, fmt.Errorf("the certificate request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the certificate request: a node's key is ECDSA P-256")
	}
	return csr, nil
}

// letIn makes a node a learner: the token first, then raft, then the record. Cut short anywhere, the same request again
// goes on.
//
// Until the token has proved to be good this is work for anybody who asks, so what is cheap comes first: sizes and the
// kind of key, then the token, whose public key is ours, and only then is anything computed with a key that the other
// side has chosen.
func (c *Cluster) letIn(ctx context.Context, session peer.Session, req joinRequest) (a joinAnswer, err error) {
	csr, err := req.check()
	if err != nil {
		return a, err
	}
	exporter, err := session.ExportKeyingMaterial(exporterLabel, 32)
	if err != nil {
		return a, err
	}
	signed := proof(exporter, req.CSR, req.Node, req.Addr)
	if err := c.knowsToken(req.Token, signed, req.Signature); err != nil {
		return a, err
	}
	session.Trust()
	if err := ctx.Err(); err != nil {
		return a, err
	}
	if err := c.cfg.checkCSR(csr); err != nil {
		return a, fmt.Errorf("the certificate request: %w", err)
	}
	pub, err := publicKey(csr.RawSubjectPublicKeyInfo)
	if err != nil {
		return a, fmt.Errorf("the certificate request: %w", err)
	}
	var s *state.State // in which nothing was against it
	if err := c.useToken(ctx, req.Token, signed, req.Signature, req.Node, csr, func(now *state.State) error {
		s = now
		if _, gone := recordOf[removal](s, removedDir+"/"+req.Node); gone {
			return fmt.Errorf("a node called %s was removed from this cluster, and its name does not come back: join under another", req.Node)
		}
		m, there := recordOf[member](s, membersDir+"/"+req.Node)
		voters, _ := c.voters()
		if there && !bytes.Equal(m.Key, csr.RawSubjectPublicKeyInfo) || !there && voters[req.Node] {
			return fmt.Errorf("there is a node called %s already: join under another name", req.Node)
		}
		if f := s.Format(); req.Format < f {
			return fmt.Errorf("the cluster is at format %d and this casemate understands up to %d: install the version that the members have", f, req.Format)
		}
		return nil
	}); err != nil {
		return a, err
	}
	// The address is the name, and where that is says the record. Until there is one the leader dials in vain.
	if err := c.changeMembership(ctx, membershipChange{Op: addMember, Node: req.Node}); err != nil {
		return a, err
	}
	put, err := putRecord(membersDir+"/"+req.Node, member{
		Addr: req.Addr, Key: csr.RawSubjectPublicKeyInfo, Version: fmt.Sprintf("%.64s", req.Version), Format: req.Format, Joined: c.cfg.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		return a, err
	}
	seen, _ := s.Get(membersDir + "/" + req.Node)
	switch _, err := c.propose(ctx, &state.Expect{Name: membersDir + "/" + req.Node, Version: seen.Version}, put); {
	case errors.Is(err, fs.ErrExist):
		return a, fmt.Errorf("another node joins under this name right now: %w", peer.ErrNoMajority)
	case err != nil:
		return a, err
	}
	if err := c.takeKeys(); err != nil {
		return a, err
	}
	ca, err := c.authority()
	if err != nil {
		return a, err
	}
	key, err := c.authorityKey(ca)
	if err != nil {
		return a, err
	}
	a = joinAnswer{Cluster: c.id.Cluster, Root: ca.Root, Members: map[string]member{}, Keys: c.keys.Load().raw}
	if a.Chain, err = c.certify(ca, key, req.Node, pub); err != nil {
		return a, err
	}
	s = c.machine.view.Load()
	for e := range s.ReadDir(membersDir, "") {
		if m, ok := recordOf[member](s, membersDir+"/"+e.Name); ok {
			a.Members[e.Name] = m
		}
	}
	c.log.Info("node joins", "peer", req.Node, "addr", req.Addr)
	return a, nil
}

// membershipChange is a change of raft's configuration, which only the leader can make.
type membershipChange struct {
	Op    string `json:"op"`
	Node  string `json:"node"`
	Force bool   `json:"force,omitempty"`
}

const (
	addMember    = "add"    // as a learner; nothing if it is there
	removeMember = "remove" // nothing if it is not there

	maxMembershipChange = 64 << 10 // bytes
)

// changeMembership has the leader carry it out, whoever that is.
func (c *Cluster) changeMembership(ctx context.Context, o membershipChange) error {
	deadline := time.NewTimer(2 * c.cfg.LeaderWait)
	defer deadline.Stop()
	end := time.Now().Add(2 * c.cfg.LeaderWait)
	for first := true; ; first = false {
		leader, err := c.ready(ctx, deadline.C)
		if err == nil && !first {
			err = timeUp(ctx, end)
		}
		if err != nil {
			return err
		}
		if leader == c.cfg.Node {
			err = c.applyMembershipChange(ctx, o)
		} else {
			err = c.forwardMembershipChange(ctx, leader, o)
		}
		if !errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrLeadershipLost) && !errors.Is(err, raft.ErrLeadershipTransferInProgress) && !errors.Is(err, peer.ErrSent) {
			return err
		}
		c.settle(ctx, deadline, leader)
	}
}

func (c *Cluster) forwardMembershipChange(ctx context.Context, leader string, o membershipChange) error {
	ctx, cancel, ok := c.peers.Alive(ctx, leader)
	if !ok {
		return raft.ErrNotLeader
	}
	defer cancel()
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	a, err := c.peers.Ask(ctx, http.MethodPost, leader, "/member", bytes.NewReader(body))
	switch {
	case err != nil:
		return err
	case a.Kind == peer.KindNotLeader:
		return raft.ErrNotLeader
	case a.Kind == peer.KindExist:
		return fmt.Errorf("%s: %w", a.Error, ErrUnsafe)
	case a.Kind == peer.KindNotExist:
		return fmt.Errorf("%s: %w", a.Error, fs.ErrNotExist)
	case a.Kind != "":
		return errors.New(a.Error)
	}
	return nil
}

func (c *Cluster) serveMembershipChange(w http.ResponseWriter, r *http.Request) {
	var o membershipChange
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMembershipChange)).Decode(&o); err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: err.Error()})
		return
	}
	err := c.applyMembershipChange(r.Context(), o)
	switch {
	case err == nil:
		peer.Reply(w, peer.Answer{})
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		peer.Reply(w, c.notLeader(err))
	case errors.Is(err, ErrUnsafe):
		peer.Reply(w, peer.Answer{Kind: peer.KindExist, Error: err.Error()})
	case errors.Is(err, fs.ErrNotExist):
		peer.Reply(w, peer.Answer{Kind: peer.KindNotExist, Error: err.Error()})
	default:
		peer.Reply(w, peer.Answer{Kind: peer.KindFailed, Error: err.Error()})
	}
}
