package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/share"
)

// Whoever reaches the peer port is an outsider until the handshake has shown a member's key. What outsiders may take is
// bounded: connections (share), bytes of a handshake, and processor time (toll). Members' addresses, and those from
// which a member has come, have a share of their own.
const (
	maxGuests    = 512      // connections of outsiders at a time: in their handshake, or joining
	maxFromOne   = 128      // of them from one address
	keptGuests   = 128      // of them for addresses of members
	maxHandshake = 16 << 10 // bytes that an outsider may send in a handshake; a member's are some 4 KiB
	maxNodeCert  = 2 << 10  // bytes of a node's certificate or of a CA's; ours have some 500
)

// The processor time that outsiders get. Members need next to none for their own handshakes, so theirs is generous.
const (
	tollFloor   = 500 * time.Microsecond // the least that a connection is charged
	tollEach    = 20                     // an address gets a 20th of a processor
	tollAll     = 5                      // all together a 5th
	tollMember  = 2                      // the address of a member a half
	tollBurst   = 500 * time.Millisecond // that an address may use at once; a member's eight times as much
	tollAllOnce = time.Second            // that all may use at once; twice as much for those that cost next to nothing
	maxTolled   = 4096                   // addresses whose debts are remembered
)

// toll keeps account of the processor time that outsiders cost. What is used is a debt that time pays off; while a debt
// is too high, new connections are closed before anything is done for them. Its zero value is ready.
type toll struct {
	now func() time.Time // nil: time.Now

	mu  sync.Mutex
	all debt
	by  map[string]*debt
}

// debt is processor time that was used and is not paid off. It is paid at one nth of real time.
type debt struct {
	owed time.Duration
	at   time.Time
}

func (d *debt) pay(now time.Time, nth time.Duration) {
	if !d.at.IsZero() {
		d.owed = max(0, d.owed-max(0, now.Sub(d.at))/nth)
	}
	d.at = now
}

func (t *toll) clock() time.Time {
	if t.now != nil {
		return t.now()
	}
	return time.Now()
}

// admit says whether an address may cost more now, and charges the least that a connection costs. member: it is the
// address of one.
func (t *toll) admit(from string, member bool) bool {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]*debt{}
	}
	t.all.pay(now, tollAll)
	d := t.by[from]
	if d == nil {
		if len(t.by) >= maxTolled {
			t.forget(now)
		}
		if len(t.by) >= maxTolled && !member {
			return false // each of so many has debts: there is nothing left to give
		}
		d = &debt{}
		t.by[from] = d
	}
	nth, most := time.Duration(tollEach), tollBurst
	if member {
		nth, most = tollMember, 8*tollBurst
	}
	d.pay(now, nth)
	all := tollAllOnce
	if d.owed < tollBurst/10 {
		all *= 2 // who has cost next to nothing is not refused for what others have cost, as long as that is possible
	}
	if d.owed >= most || !member && t.all.owed >= all {
		return false
	}
	t.add(d, tollFloor, member)
	return true
}

func (t *toll) add(d *debt, cost time.Duration, member bool) {
	d.owed = max(0, d.owed+cost)
	if !member {
		t.all.owed = max(0, t.all.owed+cost)
	}
}

// charge adds what something has cost; less than nothing is given back.
func (t *toll) charge(from string, cost time.Duration, member bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.by[from]; d != nil {
		t.add(d, cost, member)
	}
}

// forget drops those who have no debts any more. t.mu is held.
func (t *toll) forget(now time.Time) {
	for from, d := range t.by {
		if d.pay(now, tollEach); d.owed == 0 {
			delete(t.by, from)
		}
	}
}

// shaking is a connection in its handshake. It bounds what the other side may send and knows for how long the handshake
// did not wait for it: that is processor time, or more on a busy machine, so outsiders get less when others need it.
type shaking struct {
	net.Conn
	over   atomic.Bool   // the handshake is over: nothing is counted
	waited time.Duration // these two are the handshake's goroutine's
	read   int
}

var errHandshakeSize = fmt.Errorf("it sends more than the %d bytes of a handshake", maxHandshake)

func (s *shaking) Read(p []byte) (int, error) {
	if s.over.Load() {
		return s.Conn.Read(p)
	}
	if s.read >= maxHandshake {
		return 0, errHandshakeSize
	}
	start := time.Now()
	n, err := s.Conn.Read(p[:min(len(p), maxHandshake-s.read)])
	s.waited += time.Since(start)
	s.read += n
	return n, err
}

func (s *shaking) Write(p []byte) (int, error) {
	if s.over.Load() {
		return s.Conn.Write(p)
	}
	start := time.Now()
	n, err := s.Conn.Write(p)
	s.waited += time.Since(start)
	return n, err
}

// guestOf is what counts as one outsider.
func guestOf(from net.Addr) string {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		host = from.String()
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return share.Of(a)
	}
	return host
}

// homes are the addresses of members, as guestOf gives them.
func (p *peers) setHomes(members map[string]bool) {
	homes := map[string]bool{}
	for n := range members {
		m, ok := p.c.member(n)
		if !ok {
			m = p.id.seed.Members[n]
		}
		if host, _, err := net.SplitHostPort(m.Addr); err == nil {
			if a, err := netip.ParseAddr(host); err == nil {
				host = share.Of(a)
			}
			homes[host] = true
		}
	}
	p.homes.Store(&homes)
}

// home reports the address of a member. Until its links are known a node takes nobody for one.
func (p *peers) home(guest string) bool {
	homes := p.homes.Load()
	return homes != nil && (*homes)[guest]
}

// guest is a connection of an outsider that joins; it is counted until it is closed.
type guest struct {
	net.Conn
	place *share.Place
	from  string
}

func (g *guest) Close() error {
	g.place.Free()
	return g.Conn.Close()
}

// cheapChain refuses certificates that no node has, before anything is computed with their keys: chains that are too
// long, and keys that are not ours, which are P-256.
func cheapChain(certs []*x509.Certificate) error {
	if len(certs) == 0 || len(certs) > 1+maxCross {
		return fmt.Errorf("%d certificates: %w", len(certs), errStranger)
	}
	for _, cert := range certs {
		if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || len(cert.Raw) > maxNodeCert {
			return fmt.Errorf("its certificate is not of a kind that nodes have: %w", errStranger)
		}
	}
	return nil
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
	if !validNode(req.Node) {
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
