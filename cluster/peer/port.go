// Package peer is the one port for all traffic between nodes: TLS 1.3 with certificates on both sides; ALPN selects the
// protocol.
//
// A Port authenticates clients, bounds what outsiders may cost, dials the other members at whichever address answers,
// and receives beats (Beat) from each of them several times a second. The rest of the traffic is its users': raft uses
// streams; handlers that the owner registers answer requests of members and requests to join.
package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

	"casemate/cluster/blob"
	"casemate/cluster/share"
	"casemate/cluster/watch"
)

// The protocols of a connection.
const (
	alpnRaft = "casemate-raft/1/" // and the cluster's identity: a stream
	alpnPeer = "casemate-peer/1/" // and the cluster's identity; HTTP/1.1
	ALPNJoin = "casemate-join/1"  // HTTP/1.1; the only one for which the client needs no certificate
)

const (
	handshakeTime = 10 * time.Second
	// StallTime is the usual Config.Stall.
	StallTime = 30 * time.Second
)

// Members is who belongs to the cluster. Its methods return at once.
type Members interface {
	// Admit returns the node that a certificate belongs to. The error is ErrRemoved, together with the name, for a
	// former member, and ErrStranger for any other certificate.
	Admit(chain []*x509.Certificate) (node string, err error)
	// Removed reports whether a node was removed from the cluster.
	Removed(node string) bool
	// Certificate is this node's; nil while there is none.
	Certificate() *tls.Certificate
	// Root is the certificate of the nodes' CA, DER; nil while there is none.
	Root() []byte
	// Others are the names of all members but this node.
	Others() []string
	// Expected are the nodes that this one was told of when it joined, until it knows of others.
	Expected() []string
	// Addresses are those in a member's record, host:port; known is false if there is no record.
	Addresses(node string) (addrs []string, known bool)
	// JoinAddresses are those that a member had when this node joined; none if they are unknown.
	JoinAddresses(node string) []string
	// Changed receives after the members have changed, until ctx is done. It may miss changes.
	Changed(ctx context.Context) <-chan struct{}
}

// Host is the node behind the port.
type Host interface {
	// Beat is the state that this node reports to another one now. With Stopped set it is the last beat.
	Beat(to string) Beat
	// Heard receives the beat of another node.
	Heard(from string, b Beat)
	// CameUp reports that a node is up that was down before.
	CameUp(node string)
	// WaitDurable returns when this node can show a log entry even after a power cut, or the error of ctx.
	WaitDurable(ctx context.Context, index uint64) error
	// Done is closed when the node stops permanently.
	Done() <-chan struct{}
	// Fail stops the node permanently: the others have removed it.
	Fail(err error)
}

// Config is the node's identity and its connections. All fields must be set unless their zero value is described.
type Config struct {
	Node    string // this node's name
	Cluster string // the cluster's identity
	Version string // of the program, for people
	Log     *slog.Logger
	Life    context.Context // ends with the node
	Now     func() time.Time

	// Listeners are where other nodes connect, at least one. Close closes them.
	Listeners []net.Listener
	// Addrs are what they dial, host:port each.
	Addrs []string
	// Dial connects with one of another node's Addrs.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Peers are additional addresses of other nodes, host:port by name.
	Peers map[string]string
	// FS and AddressFile store what was passed to TellAddress.
	FS          blob.FS
	AddressFile string
	// Stall is how long an HTTP connection may wait for a byte.
	Stall time.Duration

	Members Members
	Host    Host
	// Handle registers the handlers of requests from members.
	Handle func(*http.ServeMux)
	// Join answers a request to join; see Session.
	Join http.HandlerFunc
	// Handler answers the requests that other nodes pass on by RoundTrip; nil answers 404. [From] returns the
	// requesting node.
	Handler http.Handler
}

// Port is this node's end of the connections with the others. It is safe for concurrent use.
type Port struct {
	cfg Config
	log *slog.Logger

	streams     *chanListener
	http        *chanListener
	join        *chanListener
	server      *http.Server
	joins       *http.Server
	client      *http.Client
	transport   *http.Transport
	limiter     *share.Places // of connections that are not a member's
	toll        toll
	memberAddrs atomic.Pointer[map[string]bool]
	wg          sync.WaitGroup
	addresses   addresses
	changes     watch.Hub // who is up
	instance    string    // of this process, see twins
	twins       twins

	mu     sync.Mutex
	links  map[string]*link     // by node, to all other members
	conns  map[*streamConn]bool // streams, which their users leave open when the node stops
	closed bool

	accepted sync.WaitGroup // accepted streams, until their users close them
}

// New takes over the listener. It accepts no connection before Serve.
func New(cfg Config) *Port {
	at := cfg.Listeners[0].Addr()
	p := &Port{
		cfg: cfg, log: cfg.Log, streams: newChanListener(at), http: newChanListener(at), join: newChanListener(at),
		links: map[string]*link{}, conns: map[*streamConn]bool{}, instance: newInstance(),
	}
	p.addresses.open(cfg)
	p.limiter = share.New(share.Config{Max: maxOutside, PerClient: maxFromOne, Kept: keptForMembers,
		Known: p.memberAddr})
	p.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			conn, _, err := p.dial(ctx, node, alpnPeer)
			if err != nil {
				return nil, err
			}
			return &stalling{Conn: conn, wire: conn.wire, reads: true, time: cfg.Stall}, nil
		},
		MaxIdleConnsPerHost: 128, IdleConnTimeout: cfg.Stall - cfg.Stall/6, DisableCompression: true,
		WriteBufferSize: 64 << 10, ReadBufferSize: 16 << 10,
	}
	noRedirects := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p.client = &http.Client{Transport: p.transport, CheckRedirect: noRedirects}
	quiet := slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug)
	p.server = &http.Server{
		Handler: p.handler(), ReadHeaderTimeout: cfg.Stall, IdleTimeout: cfg.Stall, ErrorLog: quiet,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, fromKey{}, conn.(*stalling).node)
		},
	}
	p.joins = &http.Server{
		Handler: http.HandlerFunc(p.serveJoin), ReadHeaderTimeout: handshakeTime, ReadTimeout: handshakeTime,
		WriteTimeout: StallTime, IdleTimeout: time.Second, MaxHeaderBytes: 8 << 10, ErrorLog: quiet,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, conn.(*stalling).Conn.(*joinConn))
		},
	}
	p.joins.SetKeepAlivesEnabled(false) // each request costs a handshake, which is charged
	return p
}

// alpn is the name of a protocol within this cluster. The cluster's identity is part of it, because certificates alone
// do not distinguish a cluster from one that was recovered from a survivor of it, or restored from its backup: old
// members that return must not be accepted as new ones, nor elect a leader over them.
func (p *Port) alpn(kind string) string { return kind + p.cfg.Cluster }

type fromKey struct{}

// Serve accepts connections and listens to the other members, until Close or the end of the node's life.
func (p *Port) Serve() {
	p.wg.Go(func() { p.follow(p.cfg.Life) })
	p.wg.Go(func() { p.server.Serve(p.http) })
	p.wg.Go(func() { p.joins.Serve(p.join) })
	for _, l := range p.cfg.Listeners {
		p.wg.Go(func() { p.accept(l) })
	}
}

// accept takes the connections of a listener until it is closed.
func (p *Port) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Most likely the process is out of file descriptors, which is temporary.
			select {
			case <-p.cfg.Life.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if why := p.take(conn); why != "" {
			p.log.Info("a connection of an outsider was refused", "client", conn.RemoteAddr(), "why", why)
			conn.Close()
		}
	}
}

// take begins the handshake of a new connection, or returns why it was refused.
func (p *Port) take(raw net.Conn) (why string) {
	from := share.OfText(raw.RemoteAddr().String())
	if !p.toll.admit(from, p.memberAddr(from)) {
		return "too much processor time was spent on it, or on all outsiders"
	}
	place, ok := p.limiter.Take(from, func() { raw.Close() })
	if !ok {
		return "too many connections of outsiders"
	}
	p.wg.Go(func() { wire := &bulk{Conn: raw}; p.handshake(&handshakeConn{Conn: wire}, wire, from, place) })
	return ""
}

// handshake delivers a connection to the server of its protocol. The place is freed as soon as the connection is not an
// outsider's.
func (p *Port) handshake(raw *handshakeConn, wire *bulk, from string, place *share.Place) {
	stays := false // the connection remains an outsider's
	defer func() {
		if !stays {
			place.Free()
		}
	}()
	conn := tls.Server(raw, &tls.Config{GetConfigForClient: p.configFor, MinVersion: tls.VersionTLS13})
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	stop := context.AfterFunc(p.cfg.Life, cancel)
	defer stop()
	start := time.Now()
	err := conn.HandshakeContext(ctx)
	cost := max(0, time.Since(start)-raw.waited-tollFloor)
	defer func() { p.toll.charge(from, cost, p.memberAddr(from)) }()
	if err != nil {
		p.log.Debug("peer port", "client", raw.RemoteAddr(), "err", err)
		raw.Close()
		return
	}
	raw.over.Store(true)
	cs := conn.ConnectionState()
	switch cs.NegotiatedProtocol {
	case ALPNJoin:
		stays = true
		p.join.deliver(&stalling{Conn: &joinConn{conn, place, from}, time: p.cfg.Stall})
	case p.alpn(alpnPeer):
		name, err := p.cfg.Members.Admit(cs.PeerCertificates)
		if err != nil && !errors.Is(err, ErrRemoved) {
			// What this node knows of members has changed since VerifyConnection. The other node dials again.
			p.log.Info("a node was refused", "client", raw.RemoteAddr(), "err", err)
			conn.Close()
			return
		}
		if err != nil { // it learns that it was removed, and no more
			stays = true
			p.http.deliver(&stalling{Conn: &joinConn{conn, place, from}, time: p.cfg.Stall})
			return
		}
		// Members are not charged: when many reconnect at once to a busy machine, each handshake seems to be expensive.
		cost = -tollFloor
		place.End(true)
		wire.member.Store(true)
		p.http.deliver(&stalling{Conn: abrupt{conn, wire}, wire: wire, node: name, time: p.cfg.Stall})
	case p.alpn(alpnRaft):
		name, err := p.cfg.Members.Admit(cs.PeerCertificates)
		if err != nil {
			conn.Close()
			return
		}
		cost = -tollFloor
		place.End(true)
		p.streams.deliver(p.keepStream(abrupt{conn, wire}, name, "", true))
	default:
		conn.Close()
	}
}

func (p *Port) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	cert := p.cfg.Members.Certificate()
	if cert == nil {
		return nil, errors.New("this node has no certificate yet")
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		DynamicRecordSizingDisabled: true,
	}
	if slices.Contains(hello.SupportedProtos, ALPNJoin) {
		// The joiner knows the root only by its hash, so it gets the certificate.
		root := p.cfg.Members.Root()
		if root == nil {
			return nil, errors.New("this node has no CA yet")
		}
		with := *cert
		with.Certificate = append(slices.Clone(cert.Certificate), root)
		cfg.Certificates, cfg.NextProtos = []tls.Certificate{with}, []string{ALPNJoin}
		return cfg, nil
	}
	cfg.NextProtos, cfg.ClientAuth = []string{p.alpn(alpnRaft), p.alpn(alpnPeer)}, tls.RequireAnyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.NegotiatedProtocol) == 0 {
			return ErrStranger
		}
		_, err := p.cfg.Members.Admit(cs.PeerCertificates)
		if errors.Is(err, ErrRemoved) && cs.NegotiatedProtocol == p.alpn(alpnPeer) {
			return nil
		}
		return err
	}
	return cfg, nil
}

// dial connects to a member at any of its addresses, and returns at which. The node that answers must be that member.
func (p *Port) dial(ctx context.Context, node, alpn string) (c abrupt, at string, err error) {
	addrs := p.addressesOf(node)
	if len(addrs) == 0 {
		return c, "", fmt.Errorf("node %s: no address is known: %w", node, ErrDown)
	}
	cert := p.cfg.Members.Certificate()
	if cert == nil {
		return c, "", fmt.Errorf("this node has no certificate yet: %w", ErrDown)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn, at, err := first(ctx, addrs, func(ctx context.Context, addr string) (net.Conn, error) {
		return p.dialAt(ctx, node, addr, alpn, cert)
	})
	if err != nil {
		return c, "", err
	}
	p.answered(node, at)
	if !p.Up(node) {
		p.leave(node, at)
	}
	return conn.(abrupt), at, nil
}

func (p *Port) dialAt(ctx context.Context, node, addr, alpn string, cert *tls.Certificate) (net.Conn, error) {
	raw, err := p.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("node %s at %s: %w", node, addr, err)
	}
	wire := &bulk{Conn: raw}
	conn := tls.Client(wire, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{p.alpn(alpn)}, ServerName: node,
		// Records of 1.2 KiB, with which a connection would begin, are for browsers that render the first of them.
		DynamicRecordSizingDisabled: true,
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
		// VerifyConnection below applies the rule for members; the standard check knows only names and roots.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			name, err := p.cfg.Members.Admit(cs.PeerCertificates)
			if err == nil && name != node {
				err = fmt.Errorf("the certificate is that of node %q, not %q: %w", name, node, ErrStranger)
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

// Close ends what Serve began and waits for it. The users of Streams must have ended.
func (p *Port) Close() error {
	var err error
	for _, l := range p.cfg.Listeners {
		err = errors.Join(err, l.Close())
	}
	p.streams.Close()
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

// streamConn is a connection of Streams that Close can close.
type streamConn struct {
	net.Conn
	p        *Port
	node     string // "" is this one
	addr     string // that was dialed
	accepted bool
}

func (p *Port) keepStream(conn net.Conn, node, addr string, accepted bool) net.Conn {
	k := &streamConn{conn, p, node, addr, accepted}
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

// cutRemoved closes the streams of removed nodes. HTTP checks membership at each request.
func (p *Port) cutRemoved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.conns {
		if k.node != "" && p.cfg.Members.Removed(k.node) {
			k.Conn.Close()
		}
	}
}

// leave closes the streams to a node that was down and now answers at addr, if they lead to another address: the way
// there may be dead, and raft would wait for its timeout before it makes another one.
func (p *Port) leave(node, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.conns {
		if k.node == node && !k.accepted && k.addr != addr {
			k.Conn.Close()
		}
	}
}

// Close must be the last use of a stream by the goroutine that owns it.
func (k *streamConn) Close() error {
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

// handler answers other members:
//
//	GET beat    a line of JSON whenever something changes, and at least every beatEvery: Beat
//	POST announce  which process of the node asks
//	    x/…     Config.Handler. Clients choose the path below it, so no other handler may be reachable by it.
//
// and the handlers of Config.Handle. Bodies are small JSON except for blobs and commands; replies are an Answer.
func (p *Port) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /beat", p.serveBeat)
	mux.HandleFunc("POST /announce", p.serveAnnounce)
	p.cfg.Handle(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := From(r); name == "" || p.cfg.Members.Removed(name) {
			Reply(w, Answer{Error: ErrRemoved.Error(), Kind: KindRemoved})
			return
		}
		if r.Body != http.NoBody {
			body := &stallingBody{ReadCloser: r.Body, conn: http.NewResponseController(w), time: p.cfg.Stall}
			defer body.conn.SetReadDeadline(time.Time{})
			r.Body = body
		}
		switch below, passed := strings.CutPrefix(r.URL.Path, passedPrefix); {
		case r.URL.Path != cleanPath(r.URL.Path) || r.URL.RawPath != "":
			// ServeMux would redirect to another path.
			Reply(w, Answer{Kind: KindInvalid, Error: "the path has empty elements or dots"})
		case !passed:
			mux.ServeHTTP(w, r)
		case p.cfg.Handler == nil:
			Reply(w, Answer{Kind: KindNotExist, Error: "this node does not take requests from other nodes"})
		default:
			sub := *r
			sub.URL = &url.URL{Path: "/" + below, RawQuery: r.URL.RawQuery}
			p.cfg.Handler.ServeHTTP(w, &sub)
		}
	})
}

// passedPrefix is the path of Config.Handler.
const passedPrefix = "/x/"

// cleanPath returns the canonical form of a path: without empty elements and dots.
func cleanPath(p string) string {
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// From returns the node that sent a request to Config.Handler.
func From(r *http.Request) string {
	name, _ := r.Context().Value(fromKey{}).(string)
	return name
}

// Ask sends a request to a node. If the request may have been carried out, the error wraps ErrSent.
func (p *Port) Ask(ctx context.Context, method, node, path string, body io.Reader) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node+path, body)
	if err != nil {
		return Answer{}, err
	}
	return p.Send(req)
}

// Send is Ask with a request that is already made.
func (p *Port) Send(req *http.Request) (a Answer, err error) {
	res, err := p.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrSent, err)
	}
	defer Finish(res)
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&a); err != nil {
		return a, fmt.Errorf("%w: %w", ErrSent, err)
	}
	if a.Kind == KindRemoved {
		p.cfg.Host.Fail(ErrRemoved)
		return a, ErrRemoved
	}
	return a, nil
}

// Streams is the listener for raft's connections from other nodes; DialStream makes those of this node.
func (p *Port) Streams() net.Listener { return p.streams }

// DialStream connects to a member for raft; to this node itself through a pipe.
func (p *Port) DialStream(ctx context.Context, node string) (net.Conn, error) {
	if node == p.cfg.Node {
		ours, theirs := net.Pipe()
		p.wg.Go(func() { p.streams.deliver(p.keepStream(theirs, "", "", true)) })
		return p.keepStream(ours, "", "", false), nil
	}
	conn, at, err := p.dial(ctx, node, alpnRaft)
	if err != nil {
		return nil, err
	}
	return p.keepStream(conn, node, at, false), nil
}

// RoundTrip sends a request to another node's Config.Handler: the host of the request's URL is the node's name, its
// path is the handler's. A path with empty elements or dots is fs.ErrInvalid: all that read it must interpret it the
// same.
func (p *Port) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != cleanPath(req.URL.Path) || !ValidNode(req.URL.Host) {
		return nil, fmt.Errorf("a request for %.100q of node %.64q is not passed on: %w", req.URL.Path, req.URL.Host,
			fs.ErrInvalid)
	}
	r := req.Clone(req.Context())
	r.URL = &url.URL{Scheme: "http", Host: req.URL.Host, Path: passedPrefix + req.URL.Path[1:],
		RawQuery: req.URL.RawQuery}
	return p.transport.RoundTrip(r)
}

// Do sends a request to the node that is the host of its URL.
func (p *Port) Do(req *http.Request) (*http.Response, error) { return p.client.Do(req) }
