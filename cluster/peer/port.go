// Package peer is the one port for all that nodes say to each other: TLS 1.3 with certificates on both sides, and what
// is spoken chosen by ALPN.
//
// A Port authenticates whoever connects, bounds what outsiders may cost, finds the other members wherever they are, and
// hears from each of them several times a second whether it is up (Beat). What else is said is for others: streams are
// raft's, requests between members are answered by handlers that the owner registers, and so is a request to join.
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

// What is spoken on a connection.
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

// Members says who belongs to the cluster. Its methods return at once.
type Members interface {
	// Admit returns the node that a certificate belongs to. The error is ErrRemoved, with the name, for one that was a
	// member, and else ErrStranger.
	Admit(chain []*x509.Certificate) (node string, err error)
	// Removed reports that a node was a member and is one no more.
	Removed(node string) bool
	// Certificate is this node's; nil while there is none.
	Certificate() *tls.Certificate
	// Root is the certificate of the nodes' CA, DER; nil while there is none.
	Root() []byte
	// Others are the names of all members but this node.
	Others() []string
	// Expected are the nodes that this one was told of when it joined, as long as it knows of no others.
	Expected() []string
	// Address is where a member is by its record, host:port; known is false if there is no record.
	Address(node string) (addr string, known bool)
	// JoinAddress is where a member was when this node joined; "" if it was not told.
	JoinAddress(node string) string
	// Changed receives after the members have changed, until ctx is done. It need not tell of all changes.
	Changed(ctx context.Context) <-chan struct{}
}

// Host is the node behind the port.
type Host interface {
	// Beat is what this node has to tell another one now. With Stopped set it is the last one.
	Beat(to string) Beat
	// Heard takes what another node says of itself, and of this one.
	Heard(from string, b Beat)
	// CameUp takes a node that answers now and did not before.
	CameUp(node string)
	// WaitDurable returns when this node can show a log entry even after a power cut, or with the error of ctx.
	WaitDurable(ctx context.Context, index uint64) error
	// Done is closed when the node stops for good.
	Done() <-chan struct{}
	// Fail stops the node for good: the others have removed it.
	Fail(err error)
}

// Config says which node this is and where the others are. All fields must be set but where zero values are described.
type Config struct {
	Node    string // this node's name
	Cluster string // the cluster's identity
	Version string // of the program, for people
	Log     *slog.Logger
	Life    context.Context // ends with the node
	Now     func() time.Time

	// Listener is where other nodes connect. Close closes it.
	Listener net.Listener
	// Addr is what they dial, host:port.
	Addr string
	// Dial connects with another node's Addr.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Peers says where other nodes may be reached besides where they say themselves: host:port by name.
	Peers map[string]string
	// FS and AddressFile keep what TellAddress was told.
	FS          blob.FS
	AddressFile string
	// Stall is how long a connection of HTTP may wait for a byte.
	Stall time.Duration

	Members Members
	Host    Host
	// Handle registers what members may ask of this node.
	Handle func(*http.ServeMux)
	// Join answers a request to join; see Session.
	Join http.HandlerFunc
	// Handler answers what other nodes pass on by RoundTrip; nil answers 404. [From] says who asks.
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

	mu     sync.Mutex
	links  map[string]*link     // by node, to all other members
	conns  map[*streamConn]bool // which their users do not close at the node's end
	closed bool

	accepted sync.WaitGroup // those of conns that were accepted, whose goroutines nobody else waits for
}

// New takes the listener. Nothing is accepted before Serve.
func New(cfg Config) *Port {
	at := cfg.Listener.Addr()
	p := &Port{
		cfg: cfg, log: cfg.Log, streams: newChanListener(at), http: newChanListener(at), join: newChanListener(at),
		links: map[string]*link{}, conns: map[*streamConn]bool{},
	}
	p.addresses.open(cfg)
	p.limiter = share.New(share.Config{Max: maxOutside, PerClient: maxFromOne, Kept: keptForMembers, Known: p.memberAddr})
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
	p.joins.SetKeepAlivesEnabled(false) // one request, one handshake: which was charged
	return p
}

// alpn names a protocol within this cluster. Its identity is in the name because certificates alone do not tell a
// cluster from one that was recovered from a survivor of it, or restored from its backup: old members that come back
// must not be taken for new ones, nor elect a leader over them.
func (p *Port) alpn(kind string) string { return kind + p.cfg.Cluster }

type fromKey struct{}

// Serve accepts connections and follows the other members, until Close or the end of the node's life.
func (p *Port) Serve() {
	p.wg.Go(func() { p.follow(p.cfg.Life) })
	p.wg.Go(func() { p.server.Serve(p.http) })
	p.wg.Go(func() { p.joins.Serve(p.join) })
	p.wg.Go(func() {
		for {
			conn, err := p.cfg.Listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				// Out of files, most likely: they come back.
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
	})
}

// take begins the handshake with who has connected, or says why not.
func (p *Port) take(raw net.Conn) (why string) {
	from := clientOf(raw.RemoteAddr())
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

// handshake hands a connection to who speaks what it is for. The place is freed when it is no longer one of an
// outsider.
func (p *Port) handshake(raw *handshakeConn, wire *bulk, from string, place *share.Place) {
	stays := false // an outsider's until it is closed
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
		if err != nil {
			// A member that was removed: it is told so, and nothing else.
			stays = true
			p.http.deliver(&stalling{Conn: &joinConn{conn, place, from}, time: p.cfg.Stall})
			return
		}
		// A member pays nothing: when many come back at once on a busy machine, each handshake seems to be dear.
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
		p.streams.deliver(p.keepStream(abrupt{conn, wire}, name, true))
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
		// The joiner knows the root by its hash only, so it is sent along.
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

// dial connects with a member, at whichever of its addresses it answers. What answers must be that member.
func (p *Port) dial(ctx context.Context, node, alpn string) (c abrupt, err error) {
	addrs := p.addressesOf(node)
	if len(addrs) == 0 {
		return c, fmt.Errorf("node %s: no address is known: %w", node, ErrDown)
	}
	cert := p.cfg.Members.Certificate()
	if cert == nil {
		return c, fmt.Errorf("this node has no certificate yet: %w", ErrDown)
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

func (p *Port) dialAt(ctx context.Context, node, addr, alpn string, cert *tls.Certificate) (net.Conn, error) {
	raw, err := p.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("node %s at %s: %w", node, addr, err)
	}
	wire := &bulk{Conn: raw}
	conn := tls.Client(wire, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{p.alpn(alpn)}, ServerName: node,
		// Records of 1.2 KiB, with which a connection would begin, are for browsers that show the first of them.
		DynamicRecordSizingDisabled: true,
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
		// Verified below, by the rule for members; the standard one knows names and roots only.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			name, err := p.cfg.Members.Admit(cs.PeerCertificates)
			if err == nil && name != node {
				err = fmt.Errorf("it is node %q, not %q: %w", name, node, ErrStranger)
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

// Close ends what Serve began and waits for it. Whoever uses Streams has ended before.
func (p *Port) Close() error {
	err := p.cfg.Listener.Close()
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

// streamConn is a connection of Streams that Close knows of.
type streamConn struct {
	net.Conn
	p        *Port
	node     string // "" is this one
	accepted bool
}

func (p *Port) keepStream(conn net.Conn, node string, accepted bool) net.Conn {
	k := &streamConn{conn, p, node, accepted}
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

// cutRemoved ends the streams with nodes that were removed. HTTP's are judged at each request.
func (p *Port) cutRemoved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.conns {
		if k.node != "" && p.cfg.Members.Removed(k.node) {
			k.Conn.Close()
		}
	}
}

// Close is the last thing that a goroutine does with a stream that it was given.
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
//	    x/…     Config.Handler. A client of another node has chosen what is below it: the rest is never asked with that.
//
// and what Config.Handle adds. Bodies are small JSON but for blobs and commands; answers are an Answer.
func (p *Port) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /beat", p.serveBeat)
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
			Reply(w, Answer{Kind: KindInvalid, Error: "the path is not clean"})
		case !passed:
			mux.ServeHTTP(w, r)
		case p.cfg.Handler == nil:
			Reply(w, Answer{Kind: KindNotExist, Error: "nothing is passed on to this node"})
		default:
			sub := *r
			sub.URL = &url.URL{Path: "/" + below, RawQuery: r.URL.RawQuery}
			p.cfg.Handler.ServeHTTP(w, &sub)
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

// ask sends a request to a node. The error tells whether it may have been carried out: ErrSent is in it if so.
func (p *Port) Ask(ctx context.Context, method, node, path string, body io.Reader) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node+path, body)
	if err != nil {
		return Answer{}, err
	}
	return p.Send(req)
}

func (p *Port) Send(req *http.Request) (a Answer, err error) {
	res, err := p.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrSent, err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&a); err != nil {
		return a, fmt.Errorf("%w: %w", ErrSent, err)
	}
	if a.Kind == KindRemoved {
		p.cfg.Host.Fail(ErrRemoved)
		return a, ErrRemoved
	}
	return a, nil
}

// Streams are connections of raft's: a listener for those of other nodes, and DialStream for ours.
func (p *Port) Streams() net.Listener { return p.streams }

// DialStream connects with a member for raft, or with this node itself, through a pipe.
func (p *Port) DialStream(ctx context.Context, node string) (net.Conn, error) {
	if node == p.cfg.Node {
		ours, theirs := net.Pipe()
		p.wg.Go(func() { p.streams.deliver(p.keepStream(theirs, "", true)) })
		return p.keepStream(ours, "", false), nil
	}
	conn, err := p.dial(ctx, node, alpnRaft)
	if err != nil {
		return nil, err
	}
	return p.keepStream(conn, node, false), nil
}

// RoundTrip asks another node's Config.Handler: the request's URL has the node's name as its host, and its path is the
// handler's. A path that has empty elements or dots is fs.ErrInvalid: it must mean the same to all who read it.
func (p *Port) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != cleanPath(req.URL.Path) || !ValidNode(req.URL.Host) {
		return nil, fmt.Errorf("a request for %.100q of node %.64q is not passed on: %w", req.URL.Path, req.URL.Host,
			fs.ErrInvalid)
	}
	r := req.Clone(req.Context())
	r.URL = &url.URL{Scheme: "http", Host: req.URL.Host, Path: passedPrefix + req.URL.Path[1:], RawQuery: req.URL.RawQuery}
	return p.transport.RoundTrip(r)
}

// Do sends a request to the node that is its URL's host.
func (p *Port) Do(req *http.Request) (*http.Response, error) { return p.client.Do(req) }
