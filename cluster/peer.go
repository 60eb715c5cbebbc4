package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/peer"
	"casemate/cluster/share"
)

// One port for all that nodes say to each other, TLS 1.3 with certificates on both sides, and what is spoken chosen by
// ALPN.
const (
	alpnRaft = "casemate-raft/1/" // and the cluster's identity
	alpnPeer = "casemate-peer/1/" // and the cluster's identity; HTTP/1.1
	alpnJoin = "casemate-join/1"  // HTTP/1.1; the only one for which the client needs no certificate
)

// alpn names a protocol within this cluster. Its identity is in the name because certificates alone do not tell a
// cluster from one that was recovered from a survivor of it, or restored from its backup: old members that come back
// must not be taken for new ones, nor elect a leader over them.
func (c *Cluster) alpn(kind string) string { return kind + c.id.Cluster }

const (
	handshakeTime  = 10 * time.Second
	stallTime      = 30 * time.Second // without a byte while one is waited for, an HTTP connection is given up; Config.stall in tests
	maxCommandSize = 16 << 20         // of a forwarded command; ours are at most about 300 KiB
)

// peers is this node's end of the connections with the others.
type peers struct {
	c  *Cluster
	id *nodeID

	l         net.Listener
	raft      *handed
	http      *handed
	join      *handed
	server    *http.Server
	joins     *http.Server
	client    *http.Client
	transport *http.Transport
	guests    *share.Places
	toll      toll
	homes     atomic.Pointer[map[string]bool]
	wg        sync.WaitGroup

	mu     sync.Mutex
	links  map[string]*link   // by node, to all other members
	conns  map[*raftConn]bool // raft's connections, which it does not close at its end
	closed bool

	accepted sync.WaitGroup // those of conns that raft has a goroutine for, which nobody else waits for
}

// newPeers takes the listener. Nothing is accepted before serve.
func newPeers(c *Cluster, id *nodeID) *peers {
	l := c.cfg.Peer
	p := &peers{c: c, id: id, l: l, raft: newHanded(l.Addr()), http: newHanded(l.Addr()), join: newHanded(l.Addr()), links: map[string]*link{}, conns: map[*raftConn]bool{}}
	p.guests = share.New(share.Config{Max: maxGuests, PerClient: maxFromOne, Kept: keptGuests, Known: p.home})
	p.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			conn, err := p.dial(ctx, node, alpnPeer)
			if err != nil {
				return nil, err
			}
			return &stalling{Conn: conn, wire: conn.wire, reads: true, time: c.cfg.stall}, nil
		},
		MaxIdleConnsPerHost: 128, IdleConnTimeout: c.cfg.stall - c.cfg.stall/6, DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 16 << 10,
	}
	p.client = &http.Client{Transport: p.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	quiet := slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)
	p.server = &http.Server{
		Handler: p.handler(), ReadHeaderTimeout: c.cfg.stall, IdleTimeout: c.cfg.stall, ErrorLog: quiet,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, fromKey{}, conn.(*stalling).node)
		},
	}
	p.joins = &http.Server{
		Handler: http.HandlerFunc(p.serveJoin), ReadHeaderTimeout: handshakeTime, ReadTimeout: handshakeTime, WriteTimeout: stallTime, IdleTimeout: time.Second, MaxHeaderBytes: 8 << 10, ErrorLog: quiet,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, conn.(*stalling).Conn.(*guest))
		},
	}
	p.joins.SetKeepAlivesEnabled(false) // one request, one handshake: which was charged
	return p
}

type (
	fromKey    struct{}
	sessionKey struct{}
)

// serve accepts until close.
func (p *peers) serve() {
	p.wg.Go(func() { p.server.Serve(p.http) })
	p.wg.Go(func() { p.joins.Serve(p.join) })
	p.wg.Go(func() {
		for {
			conn, err := p.l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				// Out of files, most likely: they come back.
				select {
				case <-p.c.stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
			if why := p.take(conn); why != "" {
				p.c.log.Info("a connection of an outsider was refused", "client", conn.RemoteAddr(), "why", why)
				conn.Close()
			}
		}
	})
}

// take begins the handshake with who has connected, or says why not.
func (p *peers) take(raw net.Conn) (why string) {
	from := guestOf(raw.RemoteAddr())
	if !p.toll.admit(from, p.home(from)) {
		return "too much processor time was spent on it, or on all outsiders"
	}
	place, ok := p.guests.Take(from, func() { raw.Close() })
	if !ok {
		return "too many connections of outsiders"
	}
	p.wg.Go(func() { wire := &bulk{Conn: raw}; p.shake(&shaking{Conn: wire}, wire, from, place) })
	return ""
}

// shake hands a connection to who speaks what it is for. The place is freed when it is no longer one of an outsider.
func (p *peers) shake(raw *shaking, wire *bulk, from string, place *share.Place) {
	stays := false // an outsider's until it is closed
	defer func() {
		if !stays {
			place.Free()
		}
	}()
	conn := tls.Server(raw, &tls.Config{GetConfigForClient: p.configFor, MinVersion: tls.VersionTLS13})
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	stop := context.AfterFunc(p.c.life, cancel)
	defer stop()
	start := time.Now()
	err := conn.HandshakeContext(ctx)
	cost := max(0, time.Since(start)-raw.waited-tollFloor)
	defer func() { p.toll.charge(from, cost, p.home(from)) }()
	if err != nil {
		p.c.log.Debug("peer port", "client", raw.RemoteAddr(), "err", err)
		raw.Close()
		return
	}
	raw.over.Store(true)
	cs := conn.ConnectionState()
	switch cs.NegotiatedProtocol {
	case alpnJoin:
		stays = true
		p.join.give(&stalling{Conn: &guest{conn, place, from}, time: p.c.cfg.stall})
	case p.c.alpn(alpnPeer):
		name, err := p.c.admit(cs.PeerCertificates)
		if err != nil {
			// A member that was removed: it is told so, and nothing else.
			stays = true
			p.http.give(&stalling{Conn: &guest{conn, place, from}, time: p.c.cfg.stall})
			return
		}
		// A member pays nothing: when many come back at once on a busy machine, each handshake seems to be dear.
		cost = -tollFloor
		place.End(true)
		wire.member.Store(true)
		p.http.give(&stalling{Conn: abrupt{conn, wire}, wire: wire, node: name, time: p.c.cfg.stall})
	case p.c.alpn(alpnRaft):
		name, err := p.c.admit(cs.PeerCertificates)
		if err != nil {
			conn.Close()
			return
		}
		cost = -tollFloor
		place.End(true)
		p.raft.give(p.keepConn(abrupt{conn, wire}, name, true))
	default:
		conn.Close()
	}
}

func (p *peers) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	cert := p.id.current()
	if cert == nil {
		return nil, errors.New("this node has no certificate yet")
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
	}
	if slices.Contains(hello.SupportedProtos, alpnJoin) {
		// The joiner knows the root by its hash only, so it is sent along.
		a, err := p.c.authority()
		if err != nil || a == nil {
			return nil, errors.New("this node has no CA yet")
		}
		with := *cert
		with.Certificate = append(slices.Clone(cert.Certificate), a.Root)
		cfg.Certificates, cfg.NextProtos = []tls.Certificate{with}, []string{alpnJoin}
		return cfg, nil
	}
	cfg.NextProtos, cfg.ClientAuth = []string{p.c.alpn(alpnRaft), p.c.alpn(alpnPeer)}, tls.RequireAnyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.NegotiatedProtocol) == 0 {
			return errStranger
		}
		_, err := p.c.admit(cs.PeerCertificates)
		if errors.Is(err, errRemoved) && cs.NegotiatedProtocol == p.c.alpn(alpnPeer) {
			return nil
		}
		return err
	}
	return cfg, nil
}

// dial connects with a member, at whichever of its addresses it answers. What answers must be that member.
func (p *peers) dial(ctx context.Context, node, alpn string) (c abrupt, err error) {
	addrs := p.c.addressesOf(node)
	if len(addrs) == 0 {
		return c, fmt.Errorf("node %s: no address is known: %w", node, peer.ErrDown)
	}
	cert := p.id.current()
	if cert == nil {
		return c, fmt.Errorf("this node has no certificate yet: %w", peer.ErrDown)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn, err := first(ctx, addrs, func(ctx context.Context, addr string) (net.Conn, error) {
		return p.dialAt(ctx, node, addr, alpn, cert)
	})
	if err != nil {
		return c, err
	}
	return conn.(abrupt), nil
}

func (p *peers) dialAt(ctx context.Context, node, addr, alpn string, cert *tls.Certificate) (net.Conn, error) {
	raw, err := p.c.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("node %s at %s: %w", node, addr, err)
	}
	wire := &bulk{Conn: raw}
	conn := tls.Client(wire, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{p.c.alpn(alpn)}, ServerName: node,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
		// Verified below, by the rule for members; the standard one knows names and roots only.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			name, err := p.c.admit(cs.PeerCertificates)
			if err == nil && name != node {
				err = fmt.Errorf("it is node %q, not %q: %w", name, node, errStranger)
			}
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("node %s at %s: %w", node, addr, err)
	}
	wire.member.Store(true)
	return abrupt{conn, wire}, nil
}

// abrupt is a TLS connection that is closed without the alert that tells the other side (RFC 8446, section 6.1). To
// send it, crypto/tls waits up to 5 s for a wire that does not move, and net/http does so with a lock held. All
// protocols between nodes are framed: none of them takes a connection's end for the end of a message.
type abrupt struct {
	*tls.Conn
	wire *bulk
}

func (c abrupt) Close() error { return c.NetConn().Close() }

// close ends what serve began and waits for it. Raft has ended before.
func (p *peers) close() error {
	err := p.l.Close()
	p.raft.Close()
	p.mu.Lock()
	p.closed = true
	for k := range p.conns {
		k.Conn.Close()
	}
	p.mu.Unlock()
	p.server.Close()
	p.joins.Close()
	p.wg.Wait()
	p.accepted.Wait()
	p.transport.CloseIdleConnections()
	return err
}

// stalling is an HTTP connection between nodes: a read or a write that waits too long ends it.
//
// Reads are bounded here at the client's end only, and by writes too: whoever sends a large blob gets no byte back
// before the last one has gone. The server reads even while a handler runs, to hear that the client has gone, and where
// nothing is to come that read must wait for ever: were it to end, every request of this connection would be given up,
// the beats first. So it bounds reads itself: of headers, and of bodies by stallingBody.
type stalling struct {
	net.Conn
	wire  *bulk // below it; nil for an outsider
	node  string
	reads bool
	time  time.Duration
}

func (s *stalling) Read(p []byte) (int, error) {
	if s.reads {
		s.SetReadDeadline(time.Now().Add(s.time))
	}
	return s.Conn.Read(p)
}

func (s *stalling) Write(p []byte) (int, error) {
	s.SetWriteDeadline(time.Now().Add(s.time))
	large := s.wire != nil && len(p) > 16<<10 // more than one record
	if large {
		s.wire.cork()
	}
	n, err := s.Conn.Write(p)
	if large {
		if sent := s.wire.uncork(); err == nil && sent != nil {
			n, err = 0, sent
		}
	}
	if s.reads {
		s.SetReadDeadline(time.Now().Add(s.time))
	}
	return n, err
}

// stallingBody is a request's body whose reads do not wait too long.
type stallingBody struct {
	io.ReadCloser
	conn *http.ResponseController
	time time.Duration
	set  time.Time // when the deadline was set
}

func (b *stallingBody) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(b.set) > b.time/16 { // not for each piece
		b.set = now
		b.conn.SetReadDeadline(now.Add(b.time))
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil { // at the end the server's own read has begun
		b.conn.SetReadDeadline(time.Time{})
		b.set = time.Time{}
	}
	return n, err
}

// handed is a listener of connections that somebody else has accepted.
type handed struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHanded(addr net.Addr) *handed {
	return &handed{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handed) give(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.closed:
		conn.Close()
	}
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handed) Addr() net.Addr { return h.addr }

// stream is raft's way to the others: addresses are nodes' names.
type stream struct {
	*handed
	p *peers
}

var _ raft.StreamLayer = stream{}

// Dial implements raft.StreamLayer. To itself a node speaks through a pipe: see [Cluster.standAlone].
func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if string(address) == s.p.c.cfg.Node {
		ours, theirs := net.Pipe()
		s.p.wg.Go(func() { s.give(s.p.keepConn(theirs, "", true)) })
		return s.p.keepConn(ours, "", false), nil
	}
	s.p.awaitUp(string(address))
	ctx, cancel := context.WithTimeout(s.p.c.life, timeout)
	defer cancel()
	conn, err := s.p.dial(ctx, string(address), alpnRaft)
	if err != nil {
		return nil, err
	}
	return s.p.keepConn(conn, string(address), false), nil
}

// awaitUp keeps the leader from dialling a node in vain: after each failure raft waits twice as long as before, up to
// ten seconds, and a node that comes back would be without its log for that time. Whoever does not lead dials at once,
// since that is an election.
func (p *peers) awaitUp(node string) {
	ctx, done := context.WithCancel(p.c.life)
	defer done()
	changed := p.c.health.Watch(ctx, ".")
	for p.c.life.Err() == nil {
		leader, change := p.c.lead.get()
		p.mu.Lock()
		_, known := p.links[node]
		p.mu.Unlock()
		if leader != p.c.cfg.Node || !known || p.c.Up(node) {
			return
		}
		select {
		case <-changed:
		case <-change:
		case <-p.c.life.Done():
		}
	}
}

// raftConn is a connection of raft's that close knows of.
type raftConn struct {
	net.Conn
	p        *peers
	node     string // "" is this one
	accepted bool
}

func (p *peers) keepConn(conn net.Conn, node string, accepted bool) net.Conn {
	k := &raftConn{conn, p, node, accepted}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return k
	}
	p.conns[k] = true
	if accepted {
		p.accepted.Add(1)
	}
	return k
}

// cutRemoved ends raft's connections with nodes that were removed. HTTP's are judged at each request.
func (p *peers) cutRemoved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.conns {
		if k.node != "" && p.c.removed(k.node) {
			k.Conn.Close()
		}
	}
}

// Close is the last thing that raft's goroutine does with a connection that it was given.
func (k *raftConn) Close() error {
	k.p.mu.Lock()
	known := k.p.conns[k]
	delete(k.p.conns, k)
	k.p.mu.Unlock()
	err := k.Conn.Close()
	if known && k.accepted {
		k.p.accepted.Done()
	}
	return err
}

// What nodes ask of each other. All bodies are small JSON but for blobs and commands.
//
//	GET  beat                     a line of JSON whenever something changes, and at least every beatEvery
//	POST propose                  an encoded command → answer; the leader only
//	GET  index                    → answer: an index at which the state holds all that was committed before; the leader only
//	POST member                   order → answer; the leader only
//	     blob, confirm, doubt     see replica.Store
//	     x/…                      Config.Handler. A client of another node has chosen what is below it: the others are
//	                              never asked with that.
func (p *peers) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /beat", p.serveBeat)
	mux.HandleFunc("POST /propose", p.servePropose)
	mux.HandleFunc("GET /index", p.serveIndex)
	mux.HandleFunc("POST /member", p.serveOrder)
	p.c.replica.Handle(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := From(r); name == "" || p.c.removed(name) {
			peer.Reply(w, peer.Answer{Error: errRemoved.Error(), Kind: peer.KindRemoved})
			return
		}
		if r.Body != http.NoBody {
			body := &stallingBody{ReadCloser: r.Body, conn: http.NewResponseController(w), time: p.c.cfg.stall}
			defer body.conn.SetReadDeadline(time.Time{})
			r.Body = body
		}
		switch below, passed := strings.CutPrefix(r.URL.Path, passedPrefix); {
		case r.URL.Path != cleanPath(r.URL.Path) || r.URL.RawPath != "":
			// ServeMux would redirect to another path.
			peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: "the path is not clean"})
		case !passed:
			mux.ServeHTTP(w, r)
		case p.c.cfg.Handler == nil:
			peer.Reply(w, peer.Answer{Kind: peer.KindNotExist, Error: "nothing is passed on to this node"})
		default:
			sub := *r
			sub.URL = &url.URL{Path: "/" + below, RawQuery: r.URL.RawQuery}
			p.c.cfg.Handler.ServeHTTP(w, &sub)
		}
	})
}

// passedPrefix is where Config.Handler is.
const passedPrefix = "/x/"

// cleanPath is the one way to write a path: without empty elements and dots.
func cleanPath(p string) string {
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// From returns the node that a request to Config.Handler came from.
func From(r *http.Request) string {
	name, _ := r.Context().Value(fromKey{}).(string)
	return name
}

// ask sends a request to a node. The error tells whether it may have been carried out: peer.ErrSent is in it if so.
func (p *peers) Ask(ctx context.Context, method, node, path string, body io.Reader) (peer.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node+path, body)
	if err != nil {
		return peer.Answer{}, err
	}
	return p.Send(req)
}

func (p *peers) Send(req *http.Request) (a peer.Answer, err error) {
	res, err := p.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("%w: %w", peer.ErrSent, err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&a); err != nil {
		return a, fmt.Errorf("%w: %w", peer.ErrSent, err)
	}
	if a.Kind == peer.KindRemoved {
		p.c.fail(errRemoved)
		return a, errRemoved
	}
	return a, nil
}

// RoundTrip asks another node's Config.Handler: the request's URL has the node's name as its host, and its path is the
// handler's. A path that has empty elements or dots is fs.ErrInvalid: it must mean the same to all who read it.
func (c *Cluster) RoundTrip(req *http.Request) (*http.Response, error) {
	if c.peers == nil {
		return nil, fmt.Errorf("node %s: %w", req.URL.Host, peer.ErrDown)
	}
	if req.URL.Path != cleanPath(req.URL.Path) || !validNode(req.URL.Host) {
		return nil, fmt.Errorf("a request for %.100q of node %.64q is not passed on: %w", req.URL.Path, req.URL.Host,
			fs.ErrInvalid)
	}
	r := req.Clone(req.Context())
	r.URL = &url.URL{Scheme: "http", Host: req.URL.Host, Path: passedPrefix + req.URL.Path[1:], RawQuery: req.URL.RawQuery}
	return c.peers.transport.RoundTrip(r)
}
