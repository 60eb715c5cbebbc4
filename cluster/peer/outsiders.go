package peer

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
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
	maxOutside     = 512      // connections of outsiders at a time: in their handshake, or joining
	maxFromOne     = 128      // of them from one address
	keptForMembers = 128      // of them for addresses of members
	maxHandshake   = 16 << 10 // bytes that an outsider may send in a handshake; a member's are some 4 KiB
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

// BurstConnections is how many connections one address may make at once before it has to wait.
const BurstConnections = int(tollBurst / tollFloor)

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

// handshakeConn is a connection in its handshake. It bounds what the other side may send and knows for how long the
// handshake did not wait for it: that is processor time, or more on a busy machine, so outsiders get less when others
// need it.
type handshakeConn struct {
	net.Conn
	over   atomic.Bool   // the handshake is over: nothing is counted
	waited time.Duration // these two are the handshake's goroutine's
	read   int
}

var errHandshakeSize = fmt.Errorf("it sends more than the %d bytes of a handshake", maxHandshake)

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

// clientOf is what counts as one outsider.
func clientOf(from net.Addr) string {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		host = from.String()
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return share.Of(a)
	}
	return host
}

// setMemberAddrs takes the nodes whose addresses count as members', as clientOf gives them.
func (p *Port) setMemberAddrs(nodes map[string]bool) {
	addrs := map[string]bool{}
	for n := range nodes {
		addr, known := p.cfg.Members.Address(n)
		if !known {
			addr = p.cfg.Members.JoinAddress(n)
		}
		if host, _, err := net.SplitHostPort(addr); err == nil {
			if a, err := netip.ParseAddr(host); err == nil {
				host = share.Of(a)
			}
			addrs[host] = true
		}
	}
	p.memberAddrs.Store(&addrs)
}

// memberAddr reports the address of a member. Until its links are known a node takes nobody for one.
func (p *Port) memberAddr(client string) bool {
	addrs := p.memberAddrs.Load()
	return addrs != nil && (*addrs)[client]
}

// joinConn is a connection of an outsider that joins; it is counted until it is closed.
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

// ExportKeyingMaterial is that of crypto/tls (RFC 8446, section 7.5).
func (s Session) ExportKeyingMaterial(label string, length int) ([]byte, error) {
	cs := s.conn.Conn.(*tls.Conn).ConnectionState()
	return cs.ExportKeyingMaterial(label, nil, length)
}

// Trust says that the other side has shown a token: from then on its connection does not make room for others.
func (s Session) Trust() { s.conn.place.Begin() }

type sessionKey struct{}

// SessionOf returns the session of a request to Config.Join.
func SessionOf(r *http.Request) Session {
	conn, _ := r.Context().Value(sessionKey{}).(*joinConn)
	return Session{conn}
}

// serveJoin is the only thing on the port that answers who is no member.
func (p *Port) serveJoin(w http.ResponseWriter, r *http.Request) {
	s := SessionOf(r)
	if s.conn == nil || r.Method != http.MethodPost || r.URL.Path != "/join" {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	p.toll.charge(s.conn.from, tollFloor, p.memberAddr(s.conn.from))
	p.cfg.Join(w, r)
}
