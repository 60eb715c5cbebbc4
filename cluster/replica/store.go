// Package replica keeps a node's blobs on the other nodes too, and theirs on this one.
//
// A Store is one node's directory of blobs together with what it does for it: it copies uploads to the voters, fetches
// what the state knows and this disk does not have, removes what was collected, confirms to other nodes what is durable
// here, and reads every blob now and then to find rot. It knows the replicated state by looking at it, and never
// changes it: whoever proposes commands is above.
//
// Promises of the tree (package cluster) that are kept here: 1, 4, 5, 6 and 12, as far as bytes are concerned.
package replica

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
	"casemate/cluster/wake"
)

// State is what the room needs of the replicated state and of the cluster's membership. All methods but WaitDurable
// return at once.
type State interface {
	// View is the newest state that can be read on this node.
	View() *state.State
	// Durable is the newest log entry whose effect can be read here, and can again after a power cut.
	Durable() uint64
	// WaitDurable returns when Durable has reached index, or with the error of ctx.
	WaitDurable(ctx context.Context, index uint64) error
	// Voters are the names of the voters, for the caller to change, and how many of them are a majority.
	Voters() (voters map[string]bool, majority int)
	// Others are the names of all members but this node.
	Others() []string
}

// Peers are the other nodes as this one reaches them.
type Peers interface {
	// Up reports whether this node hears from the other now.
	Up(node string) bool
	// UpNodes are the other members that answer now.
	UpNodes() []string
	// Missing is how many blobs a node has yet to fetch, by its own account; -1 if that is not known.
	Missing(node string) int
	// Changes receives after Up of any node has changed, until ctx is done.
	Changes(ctx context.Context) <-chan struct{}
	// Alive returns a context that is done when the node is known to be down, or with ctx; false if it is down now.
	Alive(ctx context.Context, node string) (context.Context, context.CancelFunc, bool)
	// Do sends a request to the node that is its URL's host.
	Do(req *http.Request) (*http.Response, error)
	// Ask sends a request whose answer is a peer.Answer; Send does so with one that is already made. The error has
	// peer.ErrSent in it if the request may have been carried out.
	Ask(ctx context.Context, method, node, path string, body io.Reader) (peer.Answer, error)
	Send(req *http.Request) (peer.Answer, error)
}

// Tasks runs what the owner has to wait for when it ends.
type Tasks interface {
	// Background runs f in a goroutine that the owner waits for. Once the owner has begun to wait it does not, and
	// returns false.
	Background(f func()) bool
	// Stopped is the error for what cannot be done because the node has stopped.
	Stopped() error
}

// Config says which node this is and what it may use.
type Config struct {
	Node string
	// Dir is the directory of the blobs.
	Dir string
	// Options are those of that directory. Damaged and Repaired are the Store's.
	Options blob.Options
	Log     *slog.Logger
	State   State
	Tasks   Tasks
	// Life ends with the node.
	Life context.Context
	// Patience is how long a copy, or a fetch that somebody waits for, goes on without success.
	Patience time.Duration
	// CatchUp bounds the bytes a second at which blobs are fetched that nobody waits for.
	CatchUp int64
}

// Store is the blobs of one node. It is safe for concurrent use.
type Store struct {
	cfg    Config
	log    *slog.Logger
	life   context.Context
	state  State
	tasks  Tasks
	dir    *blob.Dir
	sweeps sweeps
	scrubs scrubs

	collecting chan struct{} // holds one element while a collection runs

	// Nil in a cluster that no other node can join.
	peers   Peers
	fetcher *fetcher
}

// Open opens the directory.
func Open(cfg Config) (s *Store, err error) {
	s = &Store{
		cfg: cfg, log: cfg.Log, life: cfg.Life, state: cfg.State, tasks: cfg.Tasks,
		sweeps: sweeps{due: map[state.Digest]uint64{}, wake: wake.NewFlag()}, collecting: make(chan struct{}, 1),
	}
	o := cfg.Options
	o.Damaged, o.Repaired = s.damaged, s.repaired
	s.dir, err = blob.Open(cfg.Dir, o)
	return s, err
}

// Connect lets the store use other nodes. completeFile keeps the newest log entry at which this disk held every blob.
// It must be called, if at all, before anything else is.
func (s *Store) Connect(peers Peers, completeFile string) error {
	complete, err := disk.OpenWatermark(s.cfg.Options.FS, completeFile, nil)
	if err != nil {
		return err
	}
	s.peers, s.fetcher = peers, newFetcher(s, complete)
	return nil
}

// Run sweeps and fetches until the node stops.
func (s *Store) Run() {
	s.tasks.Background(s.keepSwept)
	if s.fetcher != nil {
		s.tasks.Background(s.fetcher.run)
	}
}

// Close closes the directory: no upload goes on. What is open can still be read. It may be called twice.
func (s *Store) Close() { s.dir.Close() }

// Release closes what Connect has opened, once all goroutines have ended.
func (s *Store) Release() error {
	if s.fetcher == nil {
		return nil
	}
	return s.fetcher.complete.Close()
}

// Dir is the directory of this node's blobs.
func (s *Store) Dir() *blob.Dir { return s.dir }

// Added takes digests that become known with the entries that are being applied, before the new state can be seen. Like
// Collected it does not wait.
func (s *Store) Added(digests []state.Digest) {
	if s.fetcher != nil {
		s.fetcher.added(digests)
	}
}

// Collected takes digests that a collect at the log index has made unknown, before the new state can be seen.
func (s *Store) Collected(digests []state.Digest, index uint64) {
	s.sweeps.add(digests, index)
	if s.fetcher != nil {
		s.fetcher.forget(digests)
	}
}

// Published says that everybody can see what Added and Collected have reported.
func (s *Store) Published() {
	s.sweeps.wake.Raise()
	if s.fetcher != nil {
		s.fetcher.published()
	}
}

// Replaced says that the whole state is another one.
func (s *Store) Replaced() {
	if s.fetcher != nil {
		s.fetcher.recount()
	}
}

// Missing is how many blobs are not on this disk; -1 while they are counted, and where there is no other node to fetch
// them from.
func (s *Store) Missing() int {
	if s.fetcher == nil {
		return -1
	}
	return s.fetcher.count()
}

// Disappeared is how many blobs were on this disk before the start and were not at it.
func (s *Store) Disappeared() int {
	if s.fetcher == nil {
		return 0
	}
	return s.fetcher.disappeared()
}

// Collect returns when no other collection runs on this node; none begins until done is called.
func (s *Store) Collect(ctx context.Context) (done func(), err error) {
	select {
	case s.collecting <- struct{}{}:
		return func() { <-s.collecting }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.life.Done():
		return nil, s.tasks.Stopped()
	}
}

// Unknown is the error for a blob that the state does not know; also for what is no digest at all: no blob has such a
// name. It is fs.ErrNotExist.
func Unknown(digest string) error {
	if len(digest) > 160 {
		digest = digest[:160] + "…"
	}
	return fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
}
