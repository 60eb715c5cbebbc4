package peer

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/share"
)

// Every client of the peer port is an outsider until the handshake has proved a member's key. Outsiders are bounded in
// connections (share), in bytes of a handshake, and in processor time (toll). The addresses of members, and those from
// which a member has connected, have their own share.
const (
	maxOutside     = 512      // concurrent connections of outsiders: in their handshake, or joining
	maxFromOne     = 128      // of them from one address
	keptForMembers = 128      // of them for addresses of members
	maxHandshake   = 16 << 10 // bytes that an outsider may send in a handshake; a member's are some 4 KiB
)

// The processor time that outsiders get. Members need little for their own handshakes, so outsiders' share is generous.
const (
	tollFloor   = 500 * time.Microsecond // the least that a connection is charged
	tollEach    = 20                     // an address gets a 20th of a processor
	tollAll     = 5                      // all outsiders together get a 5th
	tollMember  = 2                      // a member's address gets a half
	tollBurst   = 500 * time.Millisecond // that an address may use at once; a member's eight times as much
	tollAllOnce = time.Second            // that all may use at once; twice as much if the client has cost little
	maxTolled   = 4096                   // addresses whose debts are remembered
)

// BurstConnections is how many connections one address may make at once before it has to wait.
const BurstConnections = int(tollBurst / tollFloor)

// toll accounts for the processor time that outsiders cost. Used time is a debt that is paid off over time; while a
// debt is too high, new connections are closed before any work is done for them. Unlike DNS's response rates (dnssrv),
// which count answers, it learns the cost of a handshake only afterwards, so accounts are exact. Its zero value is
// ready.
type toll struct {
	now func() time.Time // nil: time.Now

	mu  sync.Mutex
	all debt
	by  *share.Recent[*debt] // nil: nobody has cost anything
}

// debt is processor time that was used and not paid off yet. It is paid off at 1/nth of real time.
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

// admit reports whether an address may cost more now, and if so charges the minimum for a connection. member tells
// whether it is a member's address.
func (t *toll) admit(from string, member bool) bool {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.pay(now, tollAll)
	d, known := t.accounts().See(from)
	if !known {
		d = &debt{}
		if !t.by.Add(from, d) && !member {
			return false // all accounts are in debt: no time is left for another one
		}
	}
	nth, most := time.Duration(tollEach), tollBurst
	if member {
		nth, most = tollMember, 8*tollBurst
	}
	d.pay(now, nth)
	all := tollAllOnce
	if d.owed < tollBurst/10 {
		all *= 2 // a client that has cost little should not be refused for the cost of others
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

// charge adds a cost to an account; a negative cost is a refund.
func (t *toll) charge(from string, cost time.Duration, member bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d, ok := t.accounts().See(from); ok {
		t.add(d, cost, member)
	}
}

// accounts returns the debts of addresses; only one that is paid off is forgotten. t.mu is held.
func (t *toll) accounts() *share.Recent[*debt] {
	if t.by == nil {
		t.by = share.NewRecent(maxTolled, func(d *debt) bool {
			d.pay(t.clock(), tollEach)
			return d.owed == 0
		})
	}
	return t.by
}

// handshakeConn is a connection in its handshake. It bounds how much the other side may send, and measures for how long
// the handshake waited for the other side. The rest counts as processor time; on a busy machine that is more than was
// used, so outsiders get less when others need it.
type handshakeConn struct {
	net.Conn
	over   atomic.Bool   // the handshake is over: counting has ended
	waited time.Duration // waited and read are owned by the handshake's goroutine
	read   int
}

var errHandshakeSize = fmt.Errorf("the client sent more than the %d bytes that a handshake may have", maxHandshake)

func (s *handshakeConn) Read(p []byte) (int, error) {
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

func (s *handshakeConn) Write(p []byte) (int, error) {
	if s.over.Load() {
		return s.Conn.Write(p)
	}
	start := time.Now()
	n, err := s.Conn.Write(p)
	s.waited += time.Since(start)
	return n, err
}

// setMemberAddrs sets the nodes whose addresses count as members', in the form of share.OfText.
func (p *Port) setMemberAddrs(nodes map[string]bool) {
	addrs := map[string]bool{}
	for n := range nodes {
		list, known := p.cfg.Members.Addresses(n)
		if !known {
			list = p.cfg.Members.JoinAddresses(n)
		}
		for _, addr := range list {
			addrs[share.OfText(addr)] = true
		}
	}
	p.memberAddrs.Store(&addrs)
}

// memberAddr reports whether an address is a member's. Until a node knows its links, no address is.
func (p *Port) memberAddr(client string) bool {
	addrs := p.memberAddrs.Load()
	return addrs != nil && (*addrs)[client]
}

// joinConn is a connection of an outsider that joins; it counts against the limits until it is closed.
type joinConn struct {
	net.Conn
	place *share.Place
	from  string
}

func (c *joinConn) Close() error {
	c.place.Free()
	return c.Conn.Close()
}

// Session is the TLS session in which a node asks to join.
type Session struct{ conn *joinConn }

// ExportKeyingMaterial is the exporter of TLS (RFC 8446, section 7.5).
func (s Session) ExportKeyingMaterial(label string, length int) ([]byte, error) {
	cs := s.conn.Conn.(*tls.Conn).ConnectionState()
	return cs.ExportKeyingMaterial(label, nil, length)
}

// Trust reports that the client has proved a token: its connection is no longer closed to make room for others.
func (s Session) Trust() { s.conn.place.Begin() }

type sessionKey struct{}

// SessionOf returns the session of a request to Config.Join.
func SessionOf(r *http.Request) Session {
	conn, _ := r.Context().Value(sessionKey{}).(*joinConn)
	return Session{conn}
}

// serveJoin is the only handler on the port for clients that are not members.
func (p *Port) serveJoin(w http.ResponseWriter, r *http.Request) {
	s := SessionOf(r)
	if s.conn == nil || r.Method != http.MethodPost || r.URL.Path != "/join" {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	p.toll.charge(s.conn.from, tollFloor, p.memberAddr(s.conn.from))
	p.cfg.Join(w, r)
}
