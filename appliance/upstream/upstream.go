// Package upstream fetches what an origin has and this cluster does not, from where it really is.
//
// It promises:
//
//   - Unless the setting upstream allows it, nothing is sent: every connection is made by one function, which counts.
//   - Many clients that ask for one thing cause one fetch on this node. They read it while it arrives, and its last
//     byte only once all bytes were found right.
//   - Nothing is visible in the tree before it is complete. What was begun is a scratch file, which no restart
//     keeps.
//   - Names are resolved by the operator's resolvers alone, and no connection is made to a bastion: no fetch comes
//     back.
//   - No header of a client is sent on.
//   - What an import or a person has put is never replaced by what an origin has.
//   - The number of fetches, of those that wait and of bytes on the disk is bounded, and clients take turns.
package upstream

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"casemate/bundle"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/cluster/share"
	"casemate/cluster/tree"
)

const (
	atOnce     = 8               // fetches of content from one origin, on one node
	maxFlights = 1024            // fetches that run or wait
	maxOfOne   = maxFlights / 4  // those that one client began
	maxOfHost  = maxFlights / 2  // those from one origin, which may be slow
	maxFailed  = 4096            // answers that are remembered
	maxStale   = 256             // names that could not be compared with their origin
	failedFor  = time.Minute     // how long an origin is not asked again for what it does not have
	maxOfPath  = 1000            // files whose addresses differ in their query alone, which no origin bounds
	maxQueries = 50_000          // files whose address has a query
	maxSigned  = 4096            // signed addresses of redirects
	maxLogins  = 256             // repositories that stay logged in
	maxParsed  = 4096            // records that are remembered
	keepFor    = 5 * time.Minute // how long a fetch waits for a majority to store what it has

	// maxMoved is how many redirects are recorded: each node reads all of them when one changes. A bundle has a place
	// for those of two rehearsals, and for those that are recorded at the same moment.
	maxMoved = bundle.MaxRedirects / 2
)

// Settings are those of the cluster. They are immutable.
type Settings struct {
	// On allows fetching: from every origin, or from those in Hosts if there are any.
	On    bool
	Hosts []string
	// Resolvers resolve the names of origins.
	Resolvers []netip.AddrPort
	// CA are roots that are trusted besides the system's, PEM.
	CA string
	// Fresh is how long an answer that may change is not compared with its origin again.
	Fresh time.Duration
}

// Images is where images are kept.
type Images interface {
	NewBlob() (tree.BlobWriter, error)
	KeepBlob(ctx context.Context, w tree.BlobWriter, repo, digest string) error
	KeepManifest(ctx context.Context, repo, reference, mediaType string, data []byte) error
	HasManifest(repo, digest string) bool
}

// Files is where files are kept.
type Files interface {
	NewFile() (tree.BlobWriter, error)
	KeepFile(ctx context.Context, w tree.BlobWriter, url string) (digest string, err error)
}

// Tree is this package's part of the tree: one record for each answer that may change, and sealed logins.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(tree.Batch) error) error
}

// Sealer encrypts records for the tree.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// Event is the end of a fetch: who asked for what, and what the origin answered.
type Event struct {
	Client string // who asked first, as share.Of names it
	Kind   string // "manifest", "blob", "file", "tags" or "referrers"
	Name   string // repository and reference, or URL
	Host   string // the origin
	Status int    // of the origin, 0 if it did not answer
	Target string // of a redirect
	Digest string // of the content, "" if it is the same as before
	Size   int64
	Err    error
}

// Config configures an Upstream. Functions may be called from any goroutine.
type Config struct {
	Settings func() *Settings
	// Canonical returns the enabled origin that a host is or is an alias of.
	Canonical func(host string) (string, bool)
	// Own returns the addresses of all bastions.
	Own func() []netip.Addr
	// Images and Files are where content is kept; they may be opened after New.
	Images func() Images
	Files  func() Files
	// Held returns the digest of the file at a URL, "" if it is not here.
	Held func(url string) (digest string)
	// Queries counts the files that have a query in their address: those at this path, and all.
	Queries func(url string) (path, all int)
	// Redirect records that a URL leads to another one; to "" removes that.
	Redirect func(ctx context.Context, from, to string) error
	// Redirects returns how many redirects are recorded.
	Redirects func() int
	Tree      Tree
	Sealer    Sealer
	// Free returns how many bytes can be stored without reaching the disk's reserve.
	Free func() int64
	// MaxUnsized bounds content whose length an origin does not tell, in bytes; 0: 16 GiB.
	MaxUnsized int64
	// Observe is called at the end of each fetch; nil: nothing is called.
	Observe func(Event)
	Log     *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Dial makes the connections; nil: a net.Dialer. Resolve asks a resolver for the addresses of a host; nil: by DNS.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Resolve func(ctx context.Context, resolver netip.AddrPort, host string) ([]netip.Addr, error)
	// Pause waits between attempts; nil: it sleeps.
	Pause func(ctx context.Context, d time.Duration) error
}

// Upstream fetches. Its methods are safe for concurrent use. Close must be called.
type Upstream struct {
	cfg     Config
	ctx     context.Context // of all fetches; they do not end with a client's request
	stop    context.CancelFunc
	dials   atomic.Uint64
	servers circuit

	parsedMu sync.Mutex            // guards parsed; it is taken with mu held, and never the other way round
	parsed   *share.Recent[parsed] // records, by name

	mu      sync.Mutex
	closed  bool
	wg      sync.WaitGroup
	link    *link
	flights map[string]*flight
	turns   map[string]*share.Turns   // by origin
	failed  *share.Recent[failure]    // by what was asked
	stale   *share.Recent[stale]      // by name
	signed  *share.Recent[string]     // addresses of redirects with their credentials, by the same without
	tags    *share.Recent[tagList]    // by repository
	stats   map[string]*Stat          // by origin
	outside map[string]time.Time      // origins that had only public addresses, and when
	loops   map[netip.AddrPort]string // resolvers that give our own answers, with the reason
	waiting int64                     // bytes that running fetches have still to store
	// in order of arrival: what is remembered is not enumerable
	failedKeys, staleNames []string
}

// link sends requests.
type link struct {
	ca     string // of the settings
	base   *http.Transport
	once   http.RoundTripper // returns bad answers at once
	remote *remote.Registries
}

// failure is what an origin answered, and until when it is not asked again.
type failure struct {
	err   error
	until time.Time
}

// stale is a name that is served although it could not be compared with its origin.
type stale struct {
	checked, next time.Time // when it was, and when that is tried again
	err           error
}

// New makes an Upstream; it sends nothing.
func New(cfg Config) *Upstream {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.MaxUnsized = cmp.Or(cfg.MaxUnsized, 16<<30)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Event) {}
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	u := &Upstream{
		cfg: cfg, flights: map[string]*flight{}, turns: map[string]*share.Turns{},
		failed: share.NewRecent[failure](maxFailed, nil), stale: share.NewRecent[stale](maxStale, nil),
		signed: share.NewRecent[string](maxSigned, nil), tags: share.NewRecent[tagList](maxTagLists, nil),
		parsed: share.NewRecent[parsed](maxParsed, nil),
		stats:  map[string]*Stat{}, loops: map[netip.AddrPort]string{},
		outside: map[string]time.Time{}, servers: circuit{now: cfg.Now},
	}
	u.ctx, u.stop = context.WithCancel(context.Background())
	if u.cfg.Resolve == nil {
		u.cfg.Resolve = u.resolve
	}
	return u
}

// Close ends all fetches.
func (u *Upstream) Close() error {
	u.mu.Lock()
	u.closed = true
	link := u.link
	u.mu.Unlock()
	u.stop()
	u.wg.Wait()
	if link != nil {
		link.base.CloseIdleConnections()
	}
	return nil
}

// For reports whether content of a host is fetched.
func (u *Upstream) For(host string) bool {
	set := u.cfg.Settings()
	if !set.On {
		return false
	}
	origin, ok := u.cfg.Canonical(host)
	if !ok || len(set.Hosts) == 0 {
		return ok
	}
	for _, h := range set.Hosts {
		if of, ok := u.cfg.Canonical(h); ok && of == origin {
			return true
		}
	}
	return false
}

// current returns the link for the current settings.
func (u *Upstream) current() (*link, error) {
	set := u.cfg.Settings()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.link != nil && u.link.ca == set.CA {
		return u.link, nil
	}
	base, err := u.transport(set)
	if err != nil {
		return nil, err
	}
	if u.link != nil {
		u.link.base.CloseIdleConnections()
	}
	once := &transport.Retrying{Inner: guarded{u, base}, Once: true, Clock: u.cfg.Now, Retry: u.retry()}
	u.link = &link{ca: set.CA, base: base, once: once}
	u.link.remote = &remote.Registries{Transport: once, Login: u.login, Retry: u.retry(), Most: maxLogins}
	u.link.remote.Trusted = func(host string) bool {
		_, named := u.cfg.Canonical(host)
		return named
	}
	return u.link, nil
}

func (u *Upstream) retry() transport.Retry { return transport.Retry{Wait: u.cfg.Pause, Log: u.cfg.Log} }

// take waits until a client may fetch from an origin. free must be called.
func (u *Upstream) take(host, client string) (free func()) {
	u.mu.Lock()
	turns := u.turns[host]
	if turns == nil {
		turns = share.NewTurns(atOnce)
		u.turns[host] = turns
	}
	u.mu.Unlock()
	turns.Take(client)
	return turns.Free
}

// known returns why something was not delivered a moment ago.
func (u *Upstream) known(key string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	f, ok := u.failed.See(key)
	if !ok {
		return nil
	}
	if !u.cfg.Now().Before(f.until) {
		u.failed.Forget(key)
		return nil
	}
	return f.err
}

// remember remembers an answer of an origin that would be the same again.
func (u *Upstream) remember(key string, err error) {
	d := failedFor
	var no *refusal
	switch {
	case errors.As(err, &no) && no.status == http.StatusTooManyRequests:
		d = no.after
	case errors.As(err, &no) && no.status == http.StatusForbidden, errors.Is(err, fs.ErrNotExist):
	default:
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed.Add(key, failure{err, u.cfg.Now().Add(d)})
	u.failedKeys = append(u.failedKeys[max(0, len(u.failedKeys)-maxFailed+1):], key)
}
