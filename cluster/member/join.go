package member

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

	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// joinRequest is the request of a joiner. In its TLS session the joiner has authenticated the server by the token's
// hash of the root, but not itself.
type joinRequest struct {
	Token     string `json:"token"` // its ID
	Signature []byte `json:"signature"`
	CSR       []byte `json:"csr"` // PKCS #10, DER; its key will be the node's
	Node      string `json:"node"`
	Addr      string `json:"addr"` // host:port of its peer port
	Version   string `json:"version"`
	Format    uint64 `json:"format"`

	// Older versions do not send the following fields.
	Addrs     []string `json:"addrs,omitempty"`     // all of its peer port; Addr is the first
	Advertise []string `json:"advertise,omitempty"` // its addresses for clients
	// Time is the joiner's clock. Zero: it is not compared.
	Time time.Time `json:"time,omitzero"`
}

// Answer has all that makes a node a member.
type Answer struct {
	Error   string            `json:"error,omitempty"`
	Retry   bool              `json:"retry,omitempty"` // the same request may succeed later
	Cluster string            `json:"cluster"`
	Keys    []byte            `json:"keys"`  // sealing keys
	Chain   [][]byte          `json:"chain"` // its certificate
	Root    []byte            `json:"root"`
	Members map[string]Record `json:"members"`
	Notes   []string          `json:"notes,omitempty"` // sentences for the operator
	Time    time.Time         `json:"time,omitzero"`   // the member's clock; older versions do not send it
}

const exporterLabel = "EXPORTER-casemate-join"

// Dial connects with an address, host:port.
type Dial func(ctx context.Context, addr string) (net.Conn, error)

// Join asks the member whose peer port is at addr to admit this node, and writes the files of cfg.Dir that make it a
// member. If it is interrupted, the same token may be used again. It returns the cluster's identity, and sentences for
// the operator.
func Join(
	ctx context.Context, cfg Config, dial Dial, addr string, token Token,
) (cluster string, notes []string, err error) {
	// The key comes first: with it, the token works again if a later step is interrupted.
	key, err := nodeKey(cfg)
	if err != nil {
		return "", nil, err
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cfg.Node}}
	csr, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return "", nil, err
	}
	a, err := Ask(ctx, cfg, dial, addr, token, csr)
	if err != nil {
		return "", nil, err
	}
	if err := CheckKeys(a.Keys); err != nil {
		return "", nil, fmt.Errorf("the answer of %s: %w", addr, err)
	}
	if apart := cfg.Now().Sub(a.Time); !a.Time.IsZero() && apart.Abs() > doubtfulClock {
		cfg.Log.Warn("the clock of this machine differs from the member's: synchronize both with one time server",
			"here", showClock(cfg.Now()), "there", showClock(a.Time))
	}
	seed, err := json.Marshal(seed{Root: a.Root, Members: a.Members})
	if err != nil {
		return "", nil, err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{{KeyFile, a.Keys, 0o600}, {SeedFile, seed, 0o640}} {
		if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, f.name), f.data, f.mode); err != nil {
			return "", nil, err
		}
	}
	return a.Cluster, a.Notes, writeCert(cfg, a.Chain)
}

// Ask asks to join with a certificate request, PKCS #10 in DER. It changes nothing on this node.
func Ask(ctx context.Context, cfg Config, dial Dial, addr string, token Token, csr []byte) (a Answer, err error) {
	raw, err := dial(ctx, addr)
	if err != nil {
		return a, fmt.Errorf("%s cannot be reached, it must be the peer address of a member that runs: %w", addr, err)
	}
	defer raw.Close()
	var stranger error
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{peer.ALPNJoin}, ServerName: "casemate",
		// VerifyConnection checks the hash in the token instead of roots and names.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			stranger = pinned(cs.PeerCertificates, token.Root, cfg.Now())
			return stranger
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		if stranger == nil {
			err = fmt.Errorf("the server does not answer like a member's peer port: %w", err)
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
	req := joinRequest{Token: token.ID, CSR: csr, Node: cfg.Node, Addr: cfg.addr(), Addrs: cfg.Addrs,
		Advertise: cfg.Advertise, Version: cfg.Version, Format: state.MaxFormat}
	if !cfg.AnyClock {
		req.Time = cfg.Now()
	}
	req.Signature = ed25519.Sign(ed25519.NewKeyFromSeed(token.Secret), proof(exporter, csr, req.Node, req.Addr))
	body, err := json.Marshal(req)
	if err != nil {
		return a, err
	}
	use := func(context.Context, string, string) (net.Conn, error) { return struct{ net.Conn }{conn}, nil }
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: use}}
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
		return a, fmt.Errorf("%s: the answer cannot be read: %w", addr, err)
	}
	if a.Error != "" {
		if a.Retry {
			return a, fmt.Errorf("%s says: %s: %w", addr, a.Error, peer.ErrNoMajority)
		}
		return a, fmt.Errorf("%s says: %s", addr, a.Error)
	}
	return a, nil
}

const (
	// wrongClock is how far the clock of a machine that joins may be from a member's. Certificates are dated back by a
	// day; a clock that is hours off is usually set to another zone's time.
	wrongClock = time.Hour
	// doubtfulClock is how far they may be apart without a word, and more than a request takes.
	doubtfulClock = 10 * time.Second
)

func showClock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// clocksAgree compares the clock of a machine that joins with this node's.
func clocksAgree(there, here time.Time) error {
	if there.IsZero() || here.Sub(there).Abs() <= wrongClock {
		return nil
	}
	return fmt.Errorf("its clock shows %s and that of the machine that joins shows %s: set the one that is wrong "+
		"(timedatectl) and join again with the same token; to join all the same, add --clock-is-right", showClock(here),
		showClock(there))
}

// pinned checks a chain that ends in the root with this hash.
func pinned(certs []*x509.Certificate, hash []byte, now time.Time) error {
	if len(certs) < 2 {
		return errors.New("the server sent no CA, so this is not the peer port of a casemate")
	}
	root := certs[len(certs)-1]
	if sum := sha256.Sum256(root.Raw); !bytes.Equal(sum[:], hash) {
		return errors.New("the server's CA is not the one in the token: it is another cluster, someone in between, " +
			"or a token from before a member was removed")
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("the clock of this machine shows %s, but the certificate of the member's %s is valid from "+
			"%s to %s: set the clock that is wrong (timedatectl)", showClock(now), invalid.Cert.Subject.CommonName,
			showClock(invalid.Cert.NotBefore), showClock(invalid.Cert.NotAfter))
	}
	return err
}

// ServeJoin handles requests to join.
func (ms *Members) ServeJoin(w http.ResponseWriter, r *http.Request) {
	session := peer.SessionOf(r)
	var req joinRequest
	// The body is read to its end: from then on the server notices when the client hangs up, and cancels r.Context().
	body, err := io.ReadAll(io.LimitReader(r.Body, maxJoin+1))
	if len(body) > maxJoin {
		err = fmt.Errorf("it has more than %d bytes", maxJoin)
	}
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	var a Answer
	if err != nil {
		err = fmt.Errorf("the request: %w", err)
	} else {
		a, err = ms.admit(r.Context(), session, req)
	}
	if err != nil {
		ms.log.Warn("a request to join was refused", "client", r.RemoteAddr, "node", fmt.Sprintf("%.63q", req.Node),
			"err", err)
		a = Answer{Error: err.Error(), Retry: errors.Is(err, peer.ErrNoMajority)}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a)
}

// Limits of a request to join, in bytes.
const (
	maxJoin     = 16 << 10 // the body; usually under 1 KiB
	maxRequest  = 2 << 10  // the certificate request; usually about 250
	maxClientAt = 64       // addresses for clients
)

// check makes the cheap checks and parses the certificate request. It computes nothing with the request's key, since
// the sender may have chosen an RSA key of any size.
func (req *joinRequest) check() (*x509.CertificateRequest, error) {
	if !peer.ValidNode(req.Node) {
		return nil, fmt.Errorf("node must be 1 to 63 of A-Z a-z 0-9 . _ -, got %.100q", req.Node)
	}
	if len(req.Addrs) == 0 { // an older version
		req.Addrs = []string{req.Addr}
	}
	if len(req.Addrs) > peer.MaxAddrs || len(req.Advertise) > maxClientAt {
		return nil, fmt.Errorf("a node must have at most %d addresses for other nodes and %d for clients, got %d and "+
			"%d", peer.MaxAddrs, maxClientAt, len(req.Addrs), len(req.Advertise))
	}
	for _, addr := range append([]string{req.Addr}, req.Addrs...) {
		if err := peer.CheckAddress(addr); err != nil {
			return nil, err
		}
	}
	if len(req.CSR) > maxRequest {
		return nil, fmt.Errorf("the certificate request must have at most %d bytes, got %d", maxRequest, len(req.CSR))
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return nil, fmt.Errorf("the certificate request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the certificate request: the key must be ECDSA P-256")
	}
	return csr, nil
}

// admit makes a node a learner: it checks the token first, then changes raft's configuration, then writes the record.
// After an interruption at any point, the same request continues.
//
// Until the token is verified, anyone can cause this work, so cheap checks come first: sizes and the kind of key, then
// the token, whose public key is in the tree. Only then is anything computed with a key that the client has chosen.
func (ms *Members) admit(ctx context.Context, session peer.Session, req joinRequest) (a Answer, err error) {
	csr, err := req.check()
	if err != nil {
		return a, err
	}
	exporter, err := session.ExportKeyingMaterial(exporterLabel, 32)
	if err != nil {
		return a, err
	}
	signed := proof(exporter, req.CSR, req.Node, req.Addr)
	if err := ms.knowsToken(req.Token, signed, req.Signature); err != nil {
		return a, err
	}
	session.Trust()
	if err := clocksAgree(req.Time, ms.cfg.Now()); err != nil {
		return a, err
	}
	if err := ctx.Err(); err != nil {
		return a, err
	}
	if err := ms.cfg.CheckCSR(csr); err != nil {
		return a, fmt.Errorf("the certificate request: %w", err)
	}
	pub, err := publicKey(csr.RawSubjectPublicKeyInfo)
	if err != nil {
		return a, fmt.Errorf("the certificate request: %w", err)
	}
	var s *state.State // in which no objection was found
	if err := ms.useToken(ctx, req.Token, signed, req.Signature, req.Node, csr, func(now *state.State) error {
		s = now
		if _, gone := recordOf[removal](s, removedDir+"/"+req.Node); gone {
			return fmt.Errorf("a node named %s was removed from this cluster, and its name cannot be used again: "+
				"join under another name",
				req.Node)
		}
		m, there := recordOf[Record](s, MembersDir+"/"+req.Node)
		voters, _ := ms.cluster.Voters()
		if there && !bytes.Equal(m.Key, csr.RawSubjectPublicKeyInfo) || !there && voters[req.Node] {
			return fmt.Errorf("there is already a node named %s: join under another name", req.Node)
		}
		if f := s.Format(); req.Format < f {
			return fmt.Errorf("the cluster is at format %d and this casemate understands up to %d: install the "+
				"version that "+
				"the members have", f, req.Format)
		}
		return nil
	}); err != nil {
		return a, err
	}
	// Raft's address is the node's name; the record maps it to an address. Until the record exists, the leader cannot
	// dial the node.
	if err := ms.cluster.AddLearner(ctx, req.Node); err != nil {
		return a, err
	}
	put, err := putRecord(MembersDir+"/"+req.Node, Record{
		Addr: req.Addr, Addrs: req.Addrs, Key: csr.RawSubjectPublicKeyInfo, Version: fmt.Sprintf("%.64s", req.Version),
		Format: req.Format,
		Joined: ms.cfg.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		return a, err
	}
	seen, _ := s.Get(MembersDir + "/" + req.Node)
	switch err := ms.cluster.Propose(ctx, &state.Expect{Name: MembersDir + "/" + req.Node, Version: seen.Version},
		put); {
	case errors.Is(err, fs.ErrExist):
		return a, fmt.Errorf("another node is joining under this name: %w", peer.ErrNoMajority)
	case err != nil:
		return a, err
	}
	if err := ms.TakeKeys(); err != nil {
		return a, err
	}
	ca, err := ms.authority()
	if err != nil {
		return a, err
	}
	key, err := ms.authorityKey(ca)
	if err != nil {
		return a, err
	}
	a = Answer{Cluster: ms.cfg.Cluster, Root: ca.Root, Members: map[string]Record{}, Keys: ms.keys.Load().raw,
		Time: ms.cfg.Now()}
	if a.Chain, err = ms.certify(ca, key, req.Node, pub); err != nil {
		return a, err
	}
	s = ms.cluster.View()
	for e := range s.ReadDir(MembersDir, "") {
		if m, ok := recordOf[Record](s, MembersDir+"/"+e.Name); ok {
			a.Members[e.Name] = m
		}
	}
	if ms.cfg.Advise != nil {
		a.Notes = ms.cfg.Advise(req.Node, req.Advertise)
	}
	ms.log.Info("node joins", "peer", req.Node, "addrs", req.Addrs)
	return a, nil
}
