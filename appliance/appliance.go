// Package appliance is the composition root: it reads the config, binds the sockets, opens the tree, gives every
// service its part of it, and starts and stops them in order. It only wires.
//
// It promises: every socket is bound before anything is opened, so that a second daemon, a taken port or a typing error
// is found while nothing has been touched; services stop in the reverse order of their start, and downloads under way
// get time to finish; and a change of origins, names or settings, made here or on another node, is taken up without a
// restart.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"casemate/appliance/content"
	"casemate/appliance/missing"
	"casemate/appliance/user"
	"casemate/cluster"
	"casemate/cluster/lograte"
	"casemate/cluster/share"
	"casemate/dnssrv"
	"casemate/dnssrv/process"
	"casemate/fileserver"
	"casemate/pki"
	"casemate/registry"
)

// Version, Commit: what the binary says of itself; main sets them.
var Version, Commit = "unknown", "unknown"

// grace is how long a stop waits for requests under way, downloads above all. A unit's TimeoutStopSec must be longer.
// In its last part no new request is taken: then those who come wait in systemd's sockets for the next process, and a
// Go client gives a TLS handshake 10 s.
const (
	grace     = 30 * time.Second
	lastGrace = 6 // its last sixth
)

// Appliance is one open node.
type Appliance struct {
	cfg     Config
	log     *slog.Logger
	level   *slog.LevelVar // nil: not ours to change
	load    func() (Config, error)
	started time.Time
	grace   time.Duration
	stall   time.Duration

	// In the order in which they are opened; Close goes back.
	socks      *sockets
	executable *executable
	cluster    *cluster.Cluster
	tree       *cluster.Tree
	book       *missing.Book
	ca         *pki.CA
	registry   *registry.Registry

	imports *content.Engine
	users   *user.Users
	files   *fileserver.Server
	dns     *process.Link
	edge    *edge
	metrics *metrics
	luck    *luck
	places  *share.Places
	turns   *share.Turns
	lines   *lograte.Limit // of what clients cause
	flights flights

	dnsChild    *process.Child // nil: systemd runs the DNS process
	dnsHeld     []heldSocket   // of the DNS process that this one starts
	dnsNeeds    chan struct{}  // the DNS process wants everything: wakes the follower
	dnsNeedsAll atomic.Bool

	now      atomic.Pointer[view]
	hosts    atomic.Pointer[hosts]
	answers  answers
	peers    atomic.Pointer[http.Handler] // what other nodes pass on; nil until it can be answered
	sessions sync.WaitGroup               // imports' connections, which the server does not know any more
	change   sync.Mutex                   // one change of settings, origins or names at a time
	problems problems
	samples  samples
	stopping atomic.Bool
	closing  sync.Once
	closeErr error
}

// Options are what Open may be given besides the config.
type Options struct {
	// Log receives everything. nil: nothing is logged.
	Log *slog.Logger
	// Level is what Reload changes; nil: the level cannot be changed.
	Level *slog.LevelVar
	// Handed are the sockets that systemd handed over; nil: they are looked for in the environment.
	Handed []*os.File
	// Load reads the config again, for Reread; nil: there is none.
	Load func() (Config, error)
	// DNS is the path of the socket at which the DNS process waits that systemd runs. "": the daemon starts one, with
	// the sockets that it was handed or has bound.
	DNS string
}

// Open binds every socket and then opens the disk. Errors are one sentence: what is wrong with what, and what to do.
// Until Run nobody is answered. The config must be complete (Config.Complete).
func Open(cfg Config, opt Options) (_ *Appliance, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Handed == nil {
		opt.Handed = activation.Files(true)
	}
	handler, lines := lograte.Handler(opt.Log.Handler())
	a := &Appliance{cfg: cfg, log: slog.New(handler), lines: lines, level: opt.Level,
		load: opt.Load, started: time.Now(), grace: grace, stall: stallTimeout, luck: newLuck()}
	if a.socks, err = bind(&cfg, opt.Handed, opt.DNS != ""); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if list := a.socks.elsewhere(&cfg, opt.Handed); len(list) > 0 {
		a.problems.set("sockets", list)
		a.log.Warn("sockets are not where clients are told", "why", list)
	}
	a.executable = openExecutable()
	cc := clusterConfig(cfg, opt.Log.With("room", "cluster"))
	if !exists(filepath.Join(cc.Dir, "format")) && !exists(filepath.Join(cc.Dir, "incomplete")) {
		return nil, fmt.Errorf("data directory %s is not initialised: casemate init makes the first node of a cluster there, casemate join every other", cfg.Data)
	}
	cc.Peer, cc.PeerAddr, cc.Version = a.socks.peer, cfg.dialled(a.socks.addrs().Peer), Version
	cc.Peers = map[string]string{}
	for name, addr := range cfg.Peers {
		cc.Peers[name] = addr.String()
	}
	cc.Handler = http.HandlerFunc(a.servePeer)
	if a.cluster, err = cluster.Open(cc); err != nil {
		return nil, err
	}
	a.tree = a.cluster.Tree()
	if err := a.awaitTree(); err != nil {
		return nil, err
	}
	a.catchUp()
	if a.book, err = missing.Open(missing.Config{File: filepath.Join(cfg.Data, missingFile), Node: cfg.Node, Tree: a.tree.Sub("missing"), Log: a.log.With("room", "missing")}); err != nil {
		return nil, err
	}
	a.users = user.New(a.tree.Sub("users"))
	a.users.Sealer, a.users.MaySeal = a.cluster, a.oneVersion
	a.users.Log = a.log.With("room", "users")
	if err := a.readView(); err != nil {
		return nil, err
	}
	domain := a.now.Load().settings.Domain
	a.ca, err = pki.Open(context.Background(), pki.Config{
		Tree: a.tree.Sub("pki"), Sealer: a.cluster, Dir: filepath.Join(cfg.Data, certsDir), Domain: domain, Node: cfg.Node, Addrs: cfg.Advertise,
		Known:  func(name string) bool { return a.now.Load().known[name] },
		Miss:   func(client netip.Addr, name string) { a.miss(missing.TLS, name, "", client) },
		CRLURL: listsURL(domain), Log: a.log.With("room", "pki"),
	})
	if err != nil {
		return nil, err
	}
	token, err := a.secret(secretToken)
	if err != nil {
		return nil, err
	}
	upload, err := a.secret(secretUpload)
	if err != nil {
		return nil, err
	}
	origins := func() []string { return a.now.Load().hostList }
	canonical := func(host string) (string, bool) { return a.now.Load().origins.Canonical(host) }
	missed := func(r *http.Request, kind, name, detail string) { a.miss(kind, name, detail, clientOf(r)) }
	a.registry, err = registry.Open(registry.Config{
		Tree: a.tree.Sub("registry"), Origins: origins, Canonical: canonical, Domain: domain, Authenticate: a.users.Authenticate,
		TokenKey: token, Secret: upload, Node: cfg.Node,
		PassOn:        func(w http.ResponseWriter, r *http.Request, node string) bool { return a.edge.passOn(w, r, node) },
		Anonymous:     func() bool { return a.now.Load().settings.Anonymous },
		LocalFallback: func() bool { return a.now.Load().settings.LocalFallback },
		Namesakes:     func() string { return a.now.Load().settings.Namesakes },
		Miss:          missed, Luck: a.lucky, Log: a.log.With("room", "registry"),
	})
	if err != nil {
		return nil, err
	}
	a.files = fileserver.New(fileserver.Config{
		Tree: a.tree.Sub("files"), Origins: origins, Canonical: canonical,
		Redirects:    func() map[string]string { return a.now.Load().settings.Redirects },
		Defaults:     func() map[string]string { return a.now.Load().settings.Defaults },
		AliasArch:    func() string { return a.now.Load().settings.AliasArch },
		Authenticate: a.users.Authenticate, Miss: missed, Luck: a.lucky, Log: a.log.With("room", "files"),
	})
	a.imports = a.newImports()
	if err := a.openDNS(opt); err != nil {
		return nil, err
	}
	a.places = newPlaces(maxConnections(), func(client string) bool { return a.hosts.Load().homes[client] })
	a.turns = newTurns()
	a.metrics = newMetrics(a)
	a.edge = &edge{
		hosts: &a.hosts, registry: a.registry.Serve, files: a.files.Serve,
		pages: &pages{roots: a.ca.Roots, crl: a.ca.CRL, ready: a.ready, metrics: a.metrics.handler(), front: a.front, site: a.serveSite, sample: a.serveSample, binary: a.executable, enroll: a.serveEnroll},
		miss:  a.miss, seen: a.metrics.request, stall: a.stall, node: cfg.Node, pass: a.cluster, roomier: a.cluster.MostFree,
		large: newLarge(largeAnswers), log: a.log.With("room", "edge"),
	}
	peers := a.edge.passedOn()
	a.peers.Store(&peers)
	a.followNames()
	if err := a.refresh(); err != nil {
		return nil, err
	}
	return a, nil
}

// Addrs are the addresses that are listened on.
func (a *Appliance) Addrs() Addrs {
	at := a.socks.addrs()
	if len(at.DNS) == 0 { // systemd runs the DNS process
		if at.DNS = a.dns.Addrs(); at.DNS == nil {
			at.DNS = a.cfg.units().DNS
		}
	}
	return at
}

// Roots are the root certificates that clients must trust, PEM.
func (a *Appliance) Roots() []byte { return a.ca.Roots() }

func (a *Appliance) secret(name string) ([]byte, error) {
	data, err := a.tree.ReadFile("secrets/" + name)
	if err == nil {
		data, err = a.cluster.Unseal(data)
	}
	if err != nil {
		return nil, fmt.Errorf("the cluster's secret %s cannot be read, casemate init has not finished or %s is another cluster's sealing key: %w", name, a.cfg.Data, err)
	}
	return data, nil
}

// maxConnections is three quarters of the files that this process may open, the rest is for the disk; but not more than
// 8192, since each costs up to 50 KiB of memory.
func maxConnections() int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 1024
	}
	return int(min(lim.Cur/4*3, 8192))
}

func (a *Appliance) miss(kind, name, detail string, client netip.Addr) {
	a.metrics.miss(kind)
	a.book.Add(kind, name, detail, client)
}

func (a *Appliance) lucky(_ *http.Request, asked, served string) {
	a.metrics.lucky()
	a.luck.add(asked, served)
}

// ready says why this node does not serve; nil when it does. Losing the majority is no reason: pulls go on.
func (a *Appliance) ready() error {
	if err := a.cluster.Err(); err != nil {
		return fmt.Errorf("the tree has stopped: %w", err)
	}
	if a.stopping.Load() {
		return errors.New("this node is stopping")
	}
	return a.dnsReady()
}

func (a *Appliance) front() frontPage {
	v := a.now.Load()
	p := frontPage{Node: a.cfg.Node, Domain: v.settings.Domain, Origins: v.hostList}
	nodes, err := a.nodes() // this one first
	if err != nil {
		a.log.Warn("the front page names this node alone", "error", err)
		nodes = []dnssrv.Node{{Addrs: a.cfg.Advertise}}
	}
	for _, n := range nodes {
		for _, addr := range n.Addrs {
			p.Resolvers = append(p.Resolvers, addr.String())
		}
	}
	return p
}

// Run serves until ctx is done, or until this node cannot go on, and stops: first no new request is taken, then those
// under way get the grace period, then everything else ends in the reverse order of its start. It returns nil after a
// stop that was asked for. Close comes after it.
func (a *Appliance) Run(ctx context.Context) error {
	fail := make(chan error, 16)
	var stops []func() // in the order of starts
	stop := func() {
		for _, s := range slices.Backward(stops) {
			s()
		}
	}
	// start runs f until its context is done and waits for it at the stop.
	start := func(name string, f func(ctx context.Context) error) {
		own, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := f(own); err != nil && own.Err() == nil {
				fail <- fmt.Errorf("%s: %w", name, err)
			}
		}()
		stops = append(stops, func() { cancel(); <-done })
	}
	start("view", a.follow)
	start("missing book", func(ctx context.Context) error { a.book.Run(ctx); return nil })
	start("pki", a.ca.Run)
	start("users", a.sealUsers)
	start("dns", a.runDNS)
	a.awaitDNS(ctx) // who finds us by name should find names
	secure, plain := a.server(false), a.server(true)
	secure.TLSConfig = a.ca.TLSConfig()
	serve := func(s *http.Server, listeners []net.Listener, tls bool) {
		for _, l := range listeners {
			l = &limitListener{Listener: l, places: a.places, turns: a.turns, stall: a.stall, log: a.log.With("room", "http")}
			start("http", func(context.Context) error {
				var err error
				if tls {
					err = s.ServeTLS(l, "", "")
				} else {
					err = s.Serve(l)
				}
				if errors.Is(err, http.ErrServerClosed) {
					return nil
				}
				return err
			})
		}
	}
	serve(secure, a.socks.https, true)
	serve(plain, a.socks.http, false)
	stops = append(stops, func() {
		a.flights.drain(a.grace - a.grace/lastGrace)
		a.shutdown(a.grace/lastGrace, secure, plain)
	})
	admin := &http.Server{Handler: a.admin(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	serveAdmin := func(context.Context) error {
		if err := admin.Serve(a.socks.admin); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
	start("admin", serveAdmin)
	// An import ends at once and goes on after the restart. When the server takes no new ones, the answers to their
	// commands are waited for.
	stops = append(stops, a.sessions.Wait, func() { a.shutdown(a.grace, admin) }, a.imports.Close)
	start("upkeep", a.upkeep)
	start("scrub", func(ctx context.Context) error { a.cluster.Patrol(ctx, a.scrubInterval); return nil })
	start("watchdog", a.watchdog)
	addrs := a.Addrs()
	a.log.Info("serving", "node", a.cfg.Node, "version", Version, "http", join(addrs.HTTP), "https", join(addrs.HTTPS), "dns", join(addrs.DNS), "admin", addrs.Admin)
	a.notify("READY=1\nSTATUS=serving")
	var err error
	select {
	case <-ctx.Done():
	case err = <-fail:
	case <-a.cluster.Done():
		err = a.cluster.Err()
	}
	if errors.Is(err, cluster.ErrRemoved) {
		a.stopDNS()
	}
	a.stopping.Store(true)
	a.notify("STOPPING=1\nSTATUS=stopping, waiting for requests under way")
	a.log.Info("stopping", "node", a.cfg.Node, "reason", reason(err))
	stop()
	return err
}

// oneVersion reports whether all nodes run this program's version.
func (a *Appliance) oneVersion() bool {
	other := func(m cluster.Member) bool { return !m.Self && m.Version != Version }
	return !slices.ContainsFunc(a.cluster.Members(), other)
}

// sealUsersEvery is how often records of users are looked at that a version of before wrote.
const sealUsersEvery = time.Minute

// sealUsers seals the records of users that a version of before wrote, as soon as every node understands sealed ones.
func (a *Appliance) sealUsers(ctx context.Context) error {
	tick := time.NewTicker(sealUsersEvery)
	defer tick.Stop()
	for said := false; ; {
		left, err := a.users.SealAll(ctx)
		if err != nil && ctx.Err() == nil && !said {
			a.log.Warn("password hashes could not be sealed, it is tried again", "in", sealUsersEvery, "error", err)
		} else if left > 0 && !said {
			a.log.Info("password hashes are not sealed until every node runs this version",
				"version", Version, "users", left)
		}
		said = err != nil || left > 0
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// upkeepEvery is how often a node collects by itself what nothing names: what deleted images held, pushes that were
// given up, uploads idle for a day. `casemate gc` does the same at once.
const upkeepEvery = 6 * time.Hour

func (a *Appliance) upkeep(ctx context.Context) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.imports.Upkeep(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("old imports that are not complete could not be dropped, it is tried again", "in", upkeepEvery, "error", err)
		}
		if r, err := a.cluster.GC(ctx, false); err != nil && ctx.Err() == nil {
			a.log.Warn("collecting failed, it is tried again", "in", upkeepEvery, "error", err)
		} else if r.Blobs > 0 {
			a.log.Info("collected what nothing names", "blobs", r.Blobs, "bytes", r.RemovedBytes)
		}
	}
}

func reason(err error) string {
	if err == nil {
		return "asked to"
	}
	return err.Error()
}

// Reread reads the config again and takes up what it can; the notes say what needs a restart. A config with a mistake
// changes nothing.
func (a *Appliance) Reread() (notes []string, err error) {
	if a.load == nil {
		return nil, usage("this daemon was not started from a config file")
	}
	cfg, err := a.load()
	if err != nil {
		a.log.Error("the config cannot be reloaded, the one before stays in use", "error", err)
		return nil, err
	}
	return a.Reload(cfg), nil
}

// Reload takes up what of a config can be changed while running (log.level) and returns a sentence for each key that
// needs a restart.
func (a *Appliance) Reload(cfg Config) (notes []string) {
	a.notifyReloading()
	defer func() { a.notify("READY=1\nSTATUS=serving") }()
	if a.level != nil && a.level.Level() != cfg.Log.Level {
		a.level.Set(cfg.Log.Level)
		a.log.Info("log level changed", "level", cfg.Log.Level)
	}
	for _, k := range []struct {
		key  string
		same bool
	}{
		{"node", cfg.Node == a.cfg.Node},
		{"data", cfg.Data == a.cfg.Data},
		{"advertise", slices.Equal(cfg.Advertise, a.cfg.Advertise)},
		{"listen", slices.Equal(cfg.Listen.HTTP, a.cfg.Listen.HTTP) && slices.Equal(cfg.Listen.HTTPS, a.cfg.Listen.HTTPS) &&
			slices.Equal(cfg.Listen.DNS, a.cfg.Listen.DNS) && cfg.Listen.Peer == a.cfg.Listen.Peer && cfg.Listen.Admin == a.cfg.Listen.Admin},
		{"peers", maps.Equal(cfg.Peers, a.cfg.Peers)},
		{"log.format", cfg.Log.Format == a.cfg.Log.Format},
	} {
		if !k.same {
			note := k.key + " has changed in the config and needs a restart"
			notes = append(notes, note)
			a.log.Warn("not reloaded", "key", k.key, "why", "needs a restart")
		}
	}
	if err := a.refresh(); err != nil {
		notes = append(notes, err.Error())
	}
	return notes
}

// Close closes the disk and what is left of the sockets. It is safe to call it more than once.
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
		if a.answers.stop != nil {
			a.answers.stop()
		}
		closeIf(a.registry, a.registry != nil)
		closeIf(a.ca, a.ca != nil)
		closeIf(a.cluster, a.cluster != nil)
		closeIf(a.executable, a.executable != nil)
		a.socks.close()
		a.releaseDNS()
		a.lines.Close()
		a.closeErr = errors.Join(errs...)
	})
	return a.closeErr
}

// problems are sentences for status, by who found them.
type problems struct {
	mu sync.Mutex
	by map[string][]string
}

func (p *problems) set(who string, sentences []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string][]string{}
	}
	p.by[who] = sentences
}

func (p *problems) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, who := range slices.Sorted(maps.Keys(p.by)) {
		all = append(all, p.by[who]...)
	}
	return all
}

// luck counts by which tolerance what was answered. It is bounded: when it is full, new pairs are only counted in the
// metrics.
type luck struct {
	mu sync.Mutex
	by map[[2]string]uint64
}

func newLuck() *luck { return &luck{by: map[[2]string]uint64{}} }

func (l *luck) add(asked, served string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := [2]string{strings.Clone(asked), strings.Clone(served)}
	if _, ok := l.by[k]; ok || len(l.by) < 1000 {
		l.by[k]++
	}
}

// sentences are the pairs, the most used first, at most n.
func (l *luck) sentences(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	type pair struct {
		k [2]string
		n uint64
	}
	var list []pair
	for k, n := range l.by {
		list = append(list, pair{k, n})
	}
	slices.SortFunc(list, func(x, y pair) int {
		if x.n != y.n {
			return int(min(y.n, 1<<30)) - int(min(x.n, 1<<30))
		}
		return strings.Compare(x.k[0], y.k[0])
	})
	var out []string
	for _, p := range list[:min(n, len(list))] {
		times := "once"
		if p.n > 1 {
			times = fmt.Sprintf("%d times", p.n)
		}
		out = append(out, fmt.Sprintf("works by luck: %s answered by %s, %s", p.k[0], p.k[1], times))
	}
	return out
}
