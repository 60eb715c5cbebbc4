package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
	"casemate/cluster/raftlog"
	"casemate/cluster/state"
)

// FS is the file system under a node; see blob.FS. Everything durable goes through it.
type FS = blob.FS

// Config is the node's identity, its place on the disk and its limits.
type Config struct {
	// Dir is the data directory. Other programs must not use it.
	Dir string
	// Node is this node's name, which never changes: 1 to 63 of A-Z a-z 0-9 . _ -.
	Node string
	// Log receives one line per change of state; nil is slog.Default().
	Log *slog.Logger
	// Reserve is how many bytes of the disk stay free. Uploads that would leave less are syscall.ENOSPC; names are
	// refused at half of it, so that deleting and collecting still work. 0 reserves nothing.
	Reserve int64
	// PinTime is how long a committed blob is kept before a name refers to it; 0 is one hour.
	PinTime time.Duration
	// LeaderWait is how long a write waits for a majority before it is syscall.EAGAIN; 0 is five seconds.
	LeaderWait time.Duration
	// ScratchAge is the age at which GC removes an abandoned upload; 0 is a day.
	ScratchAge time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// FS is the file system; nil is the operating system's. Tests use it to simulate power cuts.
	FS FS

	// Peer are the TCP listeners for the other nodes, which Open takes over. None: a cluster of one that no other node
	// can join.
	Peer []net.Listener
	// PeerAddrs are what the other nodes dial, host:port; nil is Peer's own addresses. The first 16 are used.
	PeerAddrs []string
	// AnyClock lets Join join although this machine's clock is far from the member's.
	AnyClock bool
	// Peers are additional addresses of other nodes, host:port by name, for the case that all nodes have moved.
	Peers map[string]string
	// Dial connects to one of another node's PeerAddrs; nil is the operating system's. Tests use it to cut networks.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Handler answers the requests that other nodes send by [Cluster.RoundTrip]; nil answers 404. [From] returns the
	// requesting node.
	Handler http.Handler
	// Version is the program's, for people.
	Version string
	// Advertise are the node's addresses for clients, which Join tells the member through which it joins. That one's
	// Advise returns sentences about them for the operator of the joining node; nil: none.
	Advertise []string
	Advise    func(node string, advertise []string) []string
	// CatchUp is the rate in bytes a second at which this node fetches missing blobs that no reader waits for; 0 is 64
	// MiB.
	CatchUp int64
	// Tallies are kinds of names in the tree that are counted as they come and go (see [Cluster.Tallies]): each
	// function reports whether a name is of its kind, and must not retain the name. They are called while entries are
	// applied.
	Tallies []func(name []byte) bool
	// Describe says what it means that a name is written or removed, for the log of events: what is done ("user.set")
	// to what. The verb "" is bookkeeping of the nodes, which makes no event. nil: each name is told as it is.
	Describe func(name string, removed bool) (verb, object string)
	// SegmentSize is the initial size of each file of the log, in bytes; 0 is 16 MiB.
	SegmentSize int

	snapshots   uint64        // log entries between two snapshots; 0 is 8192
	snapshotLog int64         // minimum bytes of log between two snapshots; 0 is 4 MiB
	entrySize   int           // largest encoded batch in one log entry; 0 is 256 KiB
	stall       time.Duration // 0 is peer.StallTime
	format      uint64        // initial format of a new cluster; 0 is maxFormat

	checkCSR func(*x509.CertificateRequest) error // checks that the sender has the key; nil is the standard library's
}

// complete checks the settings and fills in the zero values.
func (c Config) complete() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("data directory must be set, got \"\"")
	}
	if !peer.ValidNode(c.Node) {
		return c, fmt.Errorf("node must be 1 to 63 of A-Z a-z 0-9 . _ -, got %.100q", c.Node)
	}
	if c.Reserve < 0 || c.PinTime < 0 || c.LeaderWait < 0 || c.ScratchAge < 0 {
		return c, fmt.Errorf("reserve and times must not be negative, got %d, %s, %s and %s", c.Reserve, c.PinTime,
			c.LeaderWait, c.ScratchAge)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, err
	}
	c.Dir = dir
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.FS == nil {
		c.FS = blob.OS{}
	}
	setDefault(&c.PinTime, time.Hour)
	setDefault(&c.LeaderWait, 5*time.Second)
	setDefault(&c.ScratchAge, 24*time.Hour)
	setDefault(&c.CatchUp, 64<<20)
	if c.PeerAddrs == nil {
		for _, l := range c.Peer {
			c.PeerAddrs = append(c.PeerAddrs, l.Addr().String())
		}
	}
	c.PeerAddrs = c.PeerAddrs[:min(len(c.PeerAddrs), peer.MaxAddrs)]
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	if c.checkCSR == nil {
		c.checkCSR = (*x509.CertificateRequest).CheckSignature
	}
	setDefault(&c.stall, peer.StallTime)
	setDefault(&c.format, maxFormat)
	setDefault(&c.SegmentSize, 16<<20)
	setDefault(&c.snapshots, 8192)
	setDefault(&c.snapshotLog, 4<<20)
	setDefault(&c.entrySize, 256<<10)
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func raftConfig(cfg Config) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(cfg.Node)
	rc.Logger = raftlog.NewLogger(cfg.Log, "raft")
	rc.BatchApplyCh = true
	rc.MaxAppendEntries = 256
	rc.SnapshotThreshold = cfg.snapshots
	rc.TrailingLogs = cfg.snapshots + cfg.snapshots/4 // for nodes that are behind; see raftlog.Store.DeleteRange
	rc.NoSnapshotRestoreOnStart = true                // recover does it, and applies the committed log
	rc.NoLegacyTelemetry = true
	rc.HeartbeatTimeout, rc.ElectionTimeout = 500*time.Millisecond, 500*time.Millisecond
	rc.LeaderLeaseTimeout = 450 * time.Millisecond
	rc.CommitTimeout = commitTimeout
	return rc
}

// commitTimeout is how soon raft sends a follower a message when it has no entries for it, which also detects a
// follower that is behind. The commit index is sent at once (see followers).
const commitTimeout = time.Second

// alone sets the timeouts of the only voter: it need not wait for the responses of others.
func alone(rc *raft.Config) {
	const short = 20 * time.Millisecond
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = short, short, short
}

// raftTimeout bounds one exchange of raft between two nodes.
const raftTimeout = 5 * time.Second

// maxFormat is the newest format that this program supports; tests change it.
var maxFormat uint64 = state.MaxFormat

const readOnly = syscall.EROFS

// openWAL opens the log; with create, it makes an empty one where there is none. fatal may be nil.
func openWAL(cfg Config, create bool, fatal func(error)) (*raftlog.Log, error) {
	return raftlog.Open(raftlog.Config{
		FS: cfg.FS, Dir: filepath.Join(cfg.Dir, raftDir), SegmentSize: cfg.SegmentSize, Log: cfg.Log, Fatal: fatal,
	}, create)
}

func newSnapshots(cfg Config) *raftlog.Snapshots {
	return raftlog.NewSnapshots(cfg.FS, filepath.Join(cfg.Dir, snapshotDir))
}
