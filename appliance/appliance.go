// Package appliance is the composition root: it reads the config, binds the sockets, opens the tree, gives every
// service its part of it, and starts and stops them in order. It contains only wiring.
//
// It promises: every socket is bound before anything is opened, so that a second daemon, a port in use or a typing
// error is found before anything is changed. Services stop in the reverse order of their start, and downloads in
// progress get time to finish. A change of origins, names or settings, made here or on another node, is applied
// without a restart.
package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"casemate/appliance/access"
	"casemate/appliance/admin"
	"casemate/appliance/audit"
	"casemate/appliance/change"
	"casemate/appliance/clientconn"
	"casemate/appliance/clients"
	"casemate/appliance/clock"
	"casemate/appliance/config"
	"casemate/appliance/content"
	"casemate/appliance/current"
	"casemate/appliance/directory"
	"casemate/appliance/edge"
	"casemate/appliance/egress"
	"casemate/appliance/forecast"
	"casemate/appliance/lookup"
	"casemate/appliance/metrics"
	"casemate/appliance/missing"
	"casemate/appliance/nodes"
	"casemate/appliance/oidc"
	"casemate/appliance/packages"
	"casemate/appliance/page"
	"casemate/appliance/pages"
	"casemate/appliance/parts"
	"casemate/appliance/pulls"
	"casemate/appliance/repositories"
	"casemate/appliance/resolver"
	"casemate/appliance/rotation"
	"casemate/appliance/routing"
	"casemate/appliance/search"
	"casemate/appliance/secret"
	"casemate/appliance/series"
	"casemate/appliance/setup"
	"casemate/appliance/sockets"
	"casemate/appliance/status"
	"casemate/appliance/totals"
	"casemate/appliance/upstream"
	"casemate/appliance/user"
	"casemate/cluster"
	"casemate/cluster/lograte"
	"casemate/cluster/share"
	"casemate/dnssrv/process"
	"casemate/fileserver"
	"casemate/pki"
	"casemate/registry"
)

// grace is how long a stop waits for requests in progress, mainly downloads. A unit's TimeoutStopSec must be longer.
// In its last part no new request is accepted: new clients then wait in systemd's sockets for the next process, and a
// Go client allows 10 s for a TLS handshake.
const (
	grace     = 30 * time.Second
	lastGrace = 6           // its last sixth
	freshWait = time.Second // how long it waits for the first request on a new connection
)

// Appliance is one open node.
type Appliance struct {
	cfg     config.Config
	opt     Options
	log     *slog.Logger
	started time.Time
	grace   time.Duration

	// In the order in which they are opened; Close closes them in reverse order.
	socks      *sockets.Set
	executable *pages.Executable
	cluster    *cluster.Cluster
	tree       *cluster.Tree
	book       *missing.Book
	egress     *egress.Book
	clients    *clients.Book
	pulls      *pulls.Book
	rotation   *rotation.Book // records which clients have fetched the new root of a rotation
	ca         *pki.CA
	rehearsal  *learner // nil: nothing is rehearsed
	upstream   *upstream.Upstream
	registry   *registry.Registry
	search     *search.Search
	dns        *resolver.Resolver
	totals     *totals.Totals

	current      *current.Reader
	users        *user.Users
	access       *access.Access
	directory    *directory.Directory
	oidc         *oidc.Provider
	files        *fileserver.Server
	imports      *content.Engine
	repositories *repositories.Index
	packages     *packages.Store
	changes      *change.Changes
	audit        *audit.Log
	journal      *audit.Journal
	forwarder    *audit.Forwarder
	lookup       *lookup.Lookup
	metrics      *metrics.Metrics
	series       *series.Series
	forecast     *forecast.Book
	edge         *edge.Edge
	samples      *pages.Samples
	clientNames  *clients.Names
	status       *status.Page
	admin        *admin.API
	remote       http.Handler // admin over https
	page         *page.Page

	places   *share.Places  // for client connections
	turns    *share.Turns   // for large responses
	lines    *lograte.Limit // for events that clients cause
	problems status.Problems
	luck     status.Luck
	clock    clock.Watch

	peers    atomic.Pointer[http.Handler]   // serves requests that other nodes forward; nil until it is ready
	advisor  atomic.Pointer[change.Changes] // changes, for nodes that join; nil until it is ready
	stopping atomic.Bool
	closing  sync.Once
	closeErr error
}

// Options are the options of Open besides the config.
type Options struct {
	// Version and Commit identify the program. Default: unknown.
	Version, Commit string
	// Log receives all log records. nil: nothing is logged.
	Log *slog.Logger
	// Level is the log level that Reload changes; nil: the level cannot be changed.
	Level *slog.LevelVar
	// Inherited are the sockets that systemd passed; nil: they are taken from the environment.
	Inherited []*os.File
	// Load reads the config again, for Reread; nil: not supported.
	Load func() (config.Config, error)
	// DNS is the path of the socket of a DNS process that systemd runs. "": the daemon starts one, with the sockets
	// that it inherited or has bound.
	DNS string
	// Now is the clock of certificates and of what status says of times; nil: time.Now.
	Now func() time.Time
	// Rehearsal is the file in which the questions of clients are recorded; names that they ask for become origins.
	// "": nothing is recorded.
	Rehearsal string
	// Watch is told each request and each fetch of a rehearsal, from any goroutine; it must not block. nil: nobody is.
	Watch func(Traffic)
	// Dial and Resolve replace the network that origins are fetched from, see upstream.Config.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Resolve func(ctx context.Context, resolver netip.AddrPort, host string) ([]netip.Addr, error)
}

// publishBooks is how often a node's books about its clients are copied into the tree; 0: as each book has it. Tests
// set it, as they count what is stored.
var publishBooks time.Duration

// startDNS replaces the DNS process by goroutines of this process; tests set it.
var startDNS func(log *slog.Logger, peer *os.File, files []*os.File, names []string) (process.Process, error)

// Open binds every socket and then opens the disk. Errors are one sentence: what is wrong with what, and what to do.
// No request is answered until Run. The config must be complete (config.Config.Complete).
func Open(cfg config.Config, opt Options) (_ *Appliance, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Inherited == nil {
		opt.Inherited = activation.Files(true)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	opt.Version, opt.Commit = cmp.Or(opt.Version, "unknown"), cmp.Or(opt.Commit, "unknown")
	if err := setup.Removed(cfg.Data); err != nil {
		return nil, err
	}
	handler, lines := lograte.Handler(opt.Log.Handler())
	a := &Appliance{cfg: cfg, opt: opt, log: slog.New(handler), lines: lines, started: time.Now(), grace: grace}
	if a.socks, err = sockets.Bind(&cfg, opt.Inherited, opt.DNS != ""); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if list := a.socks.Misplaced(&cfg, opt.Inherited); len(list) > 0 {
		a.problems.Set("sockets", list)
		a.log.Warn("sockets are not at the advertised addresses", "why", list)
	}
	a.executable = pages.OpenExecutable()
	for _, open := range []func() error{a.openTree, a.openServices, a.openDNS} {
		if err := open(); err != nil {
			return nil, err
		}
	}
	if err := a.wire(); err != nil {
		return nil, err
	}
	peers := a.edge.PassedOn()
	a.peers.Store(&peers)
	a.advisor.Store(a.changes)
	if err := a.dns.Refresh(); err != nil {
		return nil, err
	}
	return a, nil
}

// openTree opens the cluster and reads it, after waiting until this node knows enough to serve.
func (a *Appliance) openTree() (err error) {
	if there, err := setup.Initialised(a.cfg); err != nil {
		return err
	} else if !there {
		return fmt.Errorf("data directory %s is not initialised: "+
			"run casemate init for the first node of a cluster, casemate join for every other node", a.cfg.Data)
	}
	cc := setup.ClusterConfig(a.cfg, a.opt.Log.With("room", "cluster"))
	cc.Peer, cc.PeerAddrs, cc.Version = a.socks.Peer, a.peerAddrs(), a.opt.Version
	cc.Advise = a.adviseJoin
	cc.Peers = map[string]string{}
	for name, addr := range a.cfg.Peers {
		cc.Peers[name] = addr.String()
	}
	cc.Handler = http.HandlerFunc(a.servePeer)
	if a.cluster, err = cluster.Open(cc); err != nil {
		return err
	}
	a.tree = a.cluster.Tree()
	if err := a.awaitTree(); err != nil {
		return err
	}
	a.catchUp()
	a.book, err = missing.Open(missing.Config{
		File: filepath.Join(a.cfg.Data, setup.MissingFile), Node: a.cfg.Node, Tree: a.tree.Sub("missing"),
		Facts: a.missFacts(), Publish: publishBooks,
		Log: a.log.With("room", "missing"),
	})
	if err != nil {
		return err
	}
	if err := cmp.Or(a.openEgress(), a.openClients()); err != nil {
		return err
	}
	a.pulls, err = pulls.Open(pulls.Config{
		File: filepath.Join(a.cfg.Data, setup.PullsFile), Node: a.cfg.Node, Tree: a.tree.Sub("pulls"), Now: a.opt.Now,
		Publish: publishBooks, Log: a.log.With("room", "pulls"),
	})
	if err != nil {
		return err
	}
	a.current = &current.Reader{
		Tree: a.tree, Self: nodes.Node{Name: a.cfg.Node, Addrs: a.cfg.Advertise},
		Addrs: func() []netip.Addr { return a.socks.Reachable(a.cfg.Advertise) },
	}
	if err := a.current.Read(); err != nil {
		return err
	}
	return a.openRehearsal()
}

// openServices opens the services, each with its part of the tree.
func (a *Appliance) openServices() (err error) {
	a.openAudit()
	a.openAccess()
	set := a.current.State().Settings
	a.ca, err = pki.Open(context.Background(), pki.Config{
		Tree: a.tree.Sub("pki"), Sealer: a.cluster, Dir: filepath.Join(a.cfg.Data, setup.CertsDir),
		Domain: set.Domain, Node: a.cfg.Node, Addrs: a.cfg.Advertise,
		Known:  func(name string) bool { return a.current.State().CertNames[name] },
		Miss:   a.refusedTLS,
		CRLURL: set.RevocationURL(), Log: a.log.With("room", "pki"), Now: a.opt.Now,
	})
	if err != nil {
		return err
	}
	token, err := secret.Read(a.tree, a.cluster, secret.Token)
	if err != nil {
		return err
	}
	upload, err := secret.Read(a.tree, a.cluster, secret.Upload)
	if err != nil {
		return err
	}
	origins := func() []string { return a.current.State().OriginHosts }
	canonical := func(host string) (string, bool) { return a.current.State().Origins.Canonical(host) }
	a.upstream = upstream.New(a.upstreamConfig())
	a.registry, err = registry.Open(registry.Config{
		Upstream: a.upstream.Registry(),
		Tree:     a.tree.Sub("registry"), Origins: origins, Canonical: canonical, Domain: set.Domain,
		Authenticate: a.authenticate, Account: a.account, TokenKey: token, Secret: upload, Node: a.cfg.Node,
		PassOn: func(w http.ResponseWriter, r *http.Request, node string) bool {
			return a.edge.PassOn(w, r, node)
		},
		Anonymous:     func() bool { return a.current.State().Settings.Anonymous },
		LocalFallback: func() bool { return a.current.State().Settings.LocalFallback },
		Namesakes:     func() string { return a.current.State().Settings.Namesakes },
		Miss:          a.missed, Luck: a.lucky, Pulled: a.pulls.Pulled, Log: a.log.With("room", "registry"),
	})
	if err != nil {
		return err
	}
	a.search = search.New(search.Config{Tree: a.tree, Registry: a.registry})
	files := a.tree.Sub("files")
	a.repositories = repositories.New(files, a.log.With("room", "repositories"))
	a.files = fileserver.New(fileserver.Config{
		Upstream: a.upstream.FileServer(),
		Tree:     files, Claims: claimsIn(files), Origins: origins, Canonical: canonical,
		OwnIndex:  set.PackagesHost,
		Redirects: func() map[string]string { return a.current.State().Redirects },
		Defaults:  func() map[string]string { return a.current.State().Settings.Defaults },
		AliasArch: func() string { return a.current.State().Settings.AliasArch },
		Allow:     a.allowFile, Miss: a.missed, Luck: a.lucky, Pulled: a.pulls.Pulled,
		Log: a.log.With("room", "files"),
	})
	a.packages = packages.New(packages.Config{
		Tree: a.tree, Sealer: a.cluster, Host: set.PackagesHost(), Allow: a.allowFile, Now: a.opt.Now,
		Log: a.log.With("room", "packages"),
	})
	return nil
}

func (a *Appliance) openDNS() (err error) {
	cfg := resolver.Config{
		Tree: a.tree, Current: a.current, Up: a.cluster.Up,
		Process: a.opt.DNS, Sockets: a.socks, Listen: a.cfg.Units().DNS,
		Miss: func(client netip.Addr, name, qtype string) { a.miss(missing.DNS, name, qtype, client) },
		Noise: func(client netip.Addr, name, qtype string) {
			a.note(missing.Question{Kind: missing.DNS, Name: name, Detail: qtype, Client: client, Expanded: true})
		},
		Seen:     a.asked,
		Problems: func(list []string) { a.problems.Set("dns", list) },
		Version:  a.opt.Version, LogConfig: a.cfg.Log, Level: a.opt.Level, Log: a.log.With("room", "dns"),
	}
	if a.rehearsal != nil {
		cfg.Unknown = a.rehearsal.unknown.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	if startDNS != nil {
		cfg.Start = func(peer *os.File, files []*os.File, names []string) (process.Process, error) {
			return startDNS(cfg.Log, peer, files, names)
		}
	}
	a.dns, err = resolver.Open(cfg)
	return err
}

// wire connects the services with each other through functions.
func (a *Appliance) wire() error {
	hosts := func() *routing.Hosts { return a.current.State().Hosts }
	a.changes = &change.Changes{
		Tree: a.tree, CA: a.ca, Current: a.current, Refresh: a.dns.Refresh,
		DNSAddrs: func() []netip.AddrPort { return a.Addrs().DNS }, Log: a.log,
	}
	a.imports = a.newImports()
	a.lookup = &lookup.Lookup{
		Tree: a.tree, Current: a.current, Images: a.registry, Files: a.files, DNSHolds: a.dns.Holds,
		NotPermitted: a.changes.NotPermitted,
	}
	a.places = clientconn.NewPlaces(maxConnections(), func(client string) bool { return hosts().NodeAddrs[client] })
	a.turns = clientconn.NewTurns()
	a.metrics = metrics.New(metrics.Sources{
		Version: a.opt.Version, Commit: a.opt.Commit, Node: a.cfg.Node, Started: a.started,
		Ready: a.ready, Places: a.places,
		Book: a.book, DNS: a.dns, Cluster: a.cluster, Upstream: a.upstream, Imports: a.imports, CA: a.ca,
		Repositories: a.repositories,
	})
	if err := a.openTraffic(); err != nil {
		return err
	}
	a.rotation = rotation.Open(rotation.Config{
		Node: a.cfg.Node, Tree: a.tree.Sub("rotation"), Overlap: a.ca.Rotation, Log: a.log.With("room", "rotation"),
	})
	a.samples = &pages.Samples{
		Anonymous: func() bool { return a.current.State().Settings.Anonymous }, Hosts: hosts,
		Images: a.registry, Files: a.files, Age: pages.SampleAge,
	}
	a.openPage()
	a.edge = &edge.Edge{
		Hosts: hosts, Registry: a.registry.Serve, Files: a.files.Serve,
		Packages: a.packages.Write, Admin: http.HandlerFunc(a.serveAdmin), Login: a.oidc,
		Page: a.page, HTTPS: a.httpsPort,
		Pages: &pages.Pages{
			Roots: a.ca.Roots, Revocation: a.ca.CRL, Ready: a.ready, Metrics: a.metrics.Handler(),
			Site: a.site, Samples: a.samples, Executable: a.executable,
		},
		Miss: a.miss, Observe: a.requested, Unasked: a.unasked, Stall: clientconn.StallTimeout, Node: a.cfg.Node,
		Pass: a.cluster, MostFree: a.cluster.MostFree, Large: clientconn.NewLarge(clientconn.LargeAnswers),
		Log: a.log.With("room", "edge"),
	}
	if a.rehearsal != nil {
		a.edge.Answered = a.rehearsal.book.Record
	}
	a.status = &status.Page{
		Node: a.cfg.Node, Version: a.opt.Version, Started: a.started, Advertise: a.cfg.Advertise,
		Cluster: a.cluster, CA: a.ca, Registry: a.registry, Imports: a.imports, Book: a.book,
		Repositories: a.repositories,
		Rotation:     a.rotation, NotPermitted: a.changes.NotPermitted, UnpermittedAddrs: a.changes.UnpermittedAddrs,
		Current: a.current, Lookup: a.lookup, Problems: &a.problems, Luck: &a.luck, ClockJumps: a.clock.Sentences,
		DNSProblems: a.dns.Problems, DNSWarnings: a.dns.Warnings,
		UpstreamProblems: a.upstream.Problems, UpstreamWarnings: a.upstream.Warnings,
		Directory: a.directory.State, Forecast: a.forecast, Keys: a.access.Keys,
		Ready: a.ready, Now: a.opt.Now, Counts: func() (images, files int) { return setup.Counts(a.cluster) },
	}
	a.admin = &admin.API{
		Node: a.cfg.Node, Cluster: a.cluster, Tree: a.tree, CA: a.ca, Access: a.access,
		Directory: a.directory, OIDC: a.oidc,
		Registry: a.registry, Files: a.files, Imports: a.imports, Book: a.book, Egress: a.egress, Pulls: a.pulls,
		Clients: a.clients, ClientNames: a.clientNames,
		Search:       a.search,
		Rotation:     a.rotation,
		Repositories: a.repositories, Upstream: a.upstream, Packages: a.packages, Parts: parts.New(a.cfg.Node),
		Current:    a.current,
		Transcript: a.transcript(),
		Changes:    a.changes, Lookup: a.lookup, DNS: a.dns, Audit: a.audit, Forwarder: a.forwarder,
		Status: a.status, Series: a.series, Totals: a.totals, Executable: a.executable, Site: a.site,
		RefreshNames: a.dns.RefreshNames, Reload: a.Reread,
		PeerAddrs: a.peerAddrs, Log: a.log,
		MarkPassed: func(out, client *http.Request) { edge.MarkPassed(out, a.cfg.Node, client) },
	}
	a.remote = a.admin.Remote()
	a.edge.PassedParts = a.admin.PassedParts()
	return nil
}

// Addrs returns the addresses that are listened on.
func (a *Appliance) Addrs() sockets.Addrs {
	at := a.socks.Addrs()
	if len(at.DNS) == 0 { // systemd runs the DNS process
		at.DNS = a.dns.Addrs()
	}
	return at
}

// peerAddrs returns the addresses that other nodes dial for this one.
func (a *Appliance) peerAddrs() []string { return a.cfg.PeerDial(a.socks.Addrs().Peer) }

// adviseJoin returns what the operator of a joining node should know.
func (a *Appliance) adviseJoin(node string, advertise []string) []string {
	if c := a.advisor.Load(); c != nil {
		return c.AdviseJoin(node, advertise)
	}
	return nil
}

// Roots returns the root certificates that clients must trust, PEM.
func (a *Appliance) Roots() []byte { return a.ca.Roots() }

// maxConnections returns three quarters of the file descriptors that this process may open, the rest is for the disk;
// but at most 8192, since each connection costs up to 50 KiB of memory.
func maxConnections() int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 1024
	}
	return int(min(lim.Cur/4*3, 8192))
}

// requested is called for every request.
func (a *Appliance) requested(service string, r *http.Request, status int, bytes int64, took time.Duration) {
	a.metrics.Request(service, r, status, bytes, took)
	a.used(service, r)
	a.client(service, r, status)
	a.rehearsal.answered(service, r, status, bytes)
	if r.TLS != nil {
		a.rotation.Seen(clientconn.AddrOf(r))
	}
	if enrols(service, r, status) {
		a.rotation.Fetched(clientconn.AddrOf(r))
	}
}

func (a *Appliance) lucky(_ *http.Request, asked, served string) {
	a.metrics.Lucky()
	a.luck.Add(asked, served)
}

// ready returns why this node does not serve; nil when it does. Losing the majority is not a reason: pulls continue.
func (a *Appliance) ready() error {
	if err := a.cluster.Err(); err != nil {
		return fmt.Errorf("the tree has stopped: %w", err)
	}
	if a.stopping.Load() {
		return errors.New("this node is stopping")
	}
	if err := a.dns.Err(); err != nil {
		return err
	}
	return a.ca.Serves()
}

// Close closes the disk and the remaining sockets. It is safe to call it more than once.
func (a *Appliance) Close() error {
	a.closing.Do(func() {
		var errs []error
		closeIf := func(c io.Closer, there bool) {
			if there {
				errs = append(errs, c.Close())
			}
		}
		if a.imports != nil {
			a.imports.Close()
		}
		closeIf(a.totals, a.totals != nil)
		closeIf(a.dns, a.dns != nil)
		closeIf(a.upstream, a.upstream != nil)
		if a.search != nil {
			a.search.Close()
		}
		closeIf(a.registry, a.registry != nil)
		closeIf(a.ca, a.ca != nil)
		if a.rehearsal != nil {
			errs = append(errs, a.rehearsal.book.Close())
			a.rehearsal.unknown.Close()
		}
		closeIf(a.cluster, a.cluster != nil)
		closeIf(a.executable, a.executable != nil)
		a.socks.Close()
		a.lines.Close()
		a.closeErr = errors.Join(errs...)
	})
	return a.closeErr
}

// ErrRemoved means that the node was removed from its cluster: it must not be started again. Open and Run wrap it.
var ErrRemoved = cluster.ErrRemoved
