// Package replica stores a node's blobs on the other nodes too, and theirs on this one.
//
// A Store is one node's directory of blobs with the work on it: it copies uploads to the voters, fetches blobs that the
// state knows and this disk does not have, removes collected blobs, confirms to other nodes what is durable here, and
// reads every blob periodically to find rot. It reads the replicated state and never changes it; package cluster
// proposes commands.
//
// It implements the promises 1, 4, 5, 6 and 12 of the tree (package cluster), as far as they concern bytes.
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

// State is the part of the replicated state and of the membership that this room needs. All methods but WaitDurable
// return at once.
type State interface {
	// View is the newest state that is readable on this node.
	View() *state.State
	// Durable is the newest log entry whose effect is readable here, also after a power cut.
	Durable() uint64
	// WaitDurable returns when Durable has reached index, or the error of ctx.
	WaitDurable(ctx context.Context, index uint64) error
	// Voters returns the names of the voters, which the caller may modify, and how many of them are a majority.
	Voters() (voters map[string]bool, majority int)
	// Others are the names of all members but this node.
	Others() []string
}

// Peers are the connections to the other nodes.
type Peers interface {
	// Up reports whether this node receives beats from the other now.
	Up(node string) bool
	// UpNodes are the other members that are up now.
	UpNodes() []string
	// Missing is how many blobs a node has yet to fetch, by its own report; -1 if that is unknown.
	Missing(node string) int
	// Changes receives after Up of any node has changed, until ctx is done.
	Changes(ctx context.Context) <-chan struct{}
	// Alive returns a context that is done when the node is known to be down, or with ctx; false if it is down now.
	Alive(ctx context.Context, node string) (context.Context, context.CancelFunc, bool)
	// Do sends a request to the node that is the host of its URL.
	Do(req *http.Request) (*http.Response, error)
	// Ask sends a request whose reply is a peer.Answer; Send does the same with an existing request. If the request may
	// have been carried out, the error wraps peer.ErrSent.
	Ask(ctx context.Context, method, node, path string, body io.Reader) (peer.Answer, error)
	Send(req *http.Request) (peer.Answer, error)
}

// Tasks runs goroutines that the owner waits for when it ends.
type Tasks interface {
	// Background runs f in a goroutine that the owner waits for. Once the owner has begun to wait, it does not run f
	// and returns false.
	Background(f func()) bool
	// Stopped is the error for work that is impossible because the node has stopped.
	Stopped() error
}

// Config is the node's identity and the parts that the Store uses.
type Config struct {
	Node string
	// Dir is the directory of the blobs.
	Dir string
	// Options are those of the directory. The Store sets Damaged and Repaired.
	Options blob.Options
	Log     *slog.Logger
	State   State
	Tasks   Tasks
	// Life ends with the node.
	Life context.Context
	// Patience is how long a copy, or a fetch with a reader, is retried without success.
	Patience time.Duration
	// CatchUp is the rate in bytes a second at which blobs without a reader are fetched.
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

// Connect lets the store use other nodes. completeFile stores the newest log entry at which this disk held every blob.
// If Connect is called, it must be the first call.
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

// Close closes the directory, which ends all uploads. Open blobs can still be read. It may be called twice.
func (s *Store) Close() { s.dir.Close() }

// Release closes what Connect opened, after all goroutines have ended.
func (s *Store) Release() error {
	if s.fetcher == nil {
		return nil
	}
	return s.fetcher.complete.Close()
}

// Dir is the directory of this node's blobs.
func (s *Store) Dir() *blob.Dir { return s.dir }

// Added records digests that become known by the entries that are being applied, before the new state is visible. Like
// Collected it does not block.
func (s *Store) Added(digests []state.Digest) {
	if s.fetcher != nil {
		s.fetcher.added(digests)
	}
}

// Collected records digests that a collect at the log index has made unknown, before the new state is visible.
func (s *Store) Collected(digests []state.Digest, index uint64) {
	s.sweeps.add(digests, index)
	if s.fetcher != nil {
		s.fetcher.forget(digests)
	}
}

// Published reports that the changes given to Added and Collected are visible.
func (s *Store) Published() {
	s.sweeps.wake.Raise()
	if s.fetcher != nil {
		s.fetcher.published()
	}
}

// Replaced reports that the whole state was replaced.
func (s *Store) Replaced() {
	if s.fetcher != nil {
		s.fetcher.recount()
	}
}

// Missing is the number of blobs that are not on this disk; -1 while they are counted, and if the cluster cannot have
// other nodes.
func (s *Store) Missing() int {
	if s.fetcher == nil {
		return -1
	}
	return s.fetcher.count()
}

// Disappeared is the number of blobs that disappeared from this disk before the start.
func (s *Store) Disappeared() int {
	if s.fetcher == nil {
		return 0
	}
	return s.fetcher.disappeared()
}

// Collect waits until no other collection runs on this node; no other begins until done is called.
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

// Unknown is the error for a blob that the state does not know, and for a text that is not a digest. It is
// fs.ErrNotExist.
func Unknown(digest string) error {
	if len(digest) > 160 {
		digest = digest[:160] + "…"
	}
	return fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
}
