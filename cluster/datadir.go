package cluster

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"golang.org/x/crypto/chacha20poly1305"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/member"
	"casemate/cluster/raftlog"
	"casemate/cluster/state"
)

// A data directory holds
//
//	format        what this is: JSON, see identity; written last by Bootstrap
//	lock          held while the node is open
//	sealing.key   32 bytes for each key, the newest first, mode 0600
//	addresses.json where the operator says that other nodes are, if their records are wrong
//	raft/         the log's segments, meta (segments, term, vote), commit (lower bound of what is committed), boot
//	              (number of starts), whole (entry at which all blobs were here), floor (what its log has had)
//	snapshots/    the state at some log index, two of them
//	blobs/        package blob
//
// and nothing that is not the cluster's.
const (
	formatFile     = "format"
	addressFile    = "addresses.json"
	incompleteFile = "incomplete"
	lockFile       = "lock"
	raftDir        = "raft"
	snapshotDir    = "snapshots"
	blobDir        = "blobs"
)

// diskFormat is the newest layout of the data directory that this program knows. The format of log entries is another
// number (promise 8).
const diskFormat = 1

// identity is what the format file says.
type identity struct {
	Format  int    `json:"format"`
	Cluster string `json:"cluster"` // random, the same on all nodes
	Node    string `json:"node"`
}

// Bootstrap creates the data directory of a cluster of one node: its identity, the sealing key and a log whose first
// entry makes the node the only voter. cfg.Dir must not exist or be empty (lost+found aside). A Bootstrap that was cut
// short is taken up again. Nothing stays open.
func Bootstrap(cfg Config) (err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return err
	}
	defer func() { err = tell("init", cfg.Dir, err) }()
	lock, err := beginDir(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, member.KeyFile), key, 0o600); err != nil {
		return err
	}
	if err := bootstrapRaft(cfg); err != nil {
		return err
	}
	return endDir(cfg, identity{Format: diskFormat, Cluster: newClusterID(), Node: cfg.Node})
}

// beginDir locks and clears a directory that is to become a data directory: from then on, until endDir, a crash leaves
// one that says itself that it is incomplete, and that can be begun again. A joiner's key stays, because its token is
// bound to it.
func beginDir(cfg Config) (_ io.Closer, err error) {
	list, err := cfg.FS.ReadDir(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = disk.MkdirAll(cfg.FS, cfg.Dir)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if slices.Contains(names, formatFile) {
		if _, err := readIdentity(cfg); err != nil {
			return nil, err
		}
		return nil, ErrInitialised
	}
	if !slices.Contains(names, incompleteFile) {
		for _, name := range names {
			if name != "lost+found" && name != lockFile && name != incompleteFile+".new" {
				return nil, fmt.Errorf("not empty (it has %q) and not made by casemate, choose another directory", name)
			}
		}
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.Dir, lockFile))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	// From here to the format file, a crash leaves a directory that says itself that it is incomplete, and the next
	// Bootstrap begins again.
	if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, incompleteFile), nil, 0o640); err != nil {
		return nil, err
	}
	if err := clearData(cfg); err != nil {
		return nil, err
	}
	for _, name := range []string{raftDir, snapshotDir, blobDir} {
		if err := disk.MkdirAll(cfg.FS, filepath.Join(cfg.Dir, name)); err != nil {
			return nil, err
		}
	}
	return lock, nil
}

// endDir makes the directory count.
func endDir(cfg Config, id identity) error {
	if err := writeIdentity(cfg, id); err != nil {
		return err
	}
	return cfg.FS.Remove(filepath.Join(cfg.Dir, incompleteFile)) // and if it comes back: format counts
}

func bootstrapRaft(cfg Config) error {
	log, err := openWAL(cfg, true, nil)
	if err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Node))
	rc := raftConfig(cfg)
	err = raft.BootstrapCluster(rc, raftlog.PlainStore(log), log, newSnapshots(cfg), transport, raft.Configuration{
		// The address is the node's name: what it stands for is looked up when it is dialled, so that a node may move.
		Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(cfg.Node), Address: raft.ServerAddress(cfg.Node)}},
	})
	if err == nil && cfg.format > 1 {
		// A new cluster has no older versions in it. The only voter's log is committed.
		var cmd []byte
		c := state.Command{Time: cfg.Now().UnixNano(), Ops: []state.Op{&state.SetFormat{Version: cfg.format}}}
		if cmd, err = c.Encode(); err == nil {
			err = raftlog.PlainStore(log).StoreLog(&raft.Log{Index: 2, Term: 1, Type: raft.LogCommand, Data: cmd})
		}
	}
	return errors.Join(err, log.Close())
}

// ErrInUse: another process has the data directory open.
var ErrInUse = blob.ErrLocked

// ErrInitialised: the data directory is whole already, and this node's.
var ErrInitialised = errors.New("already initialised, start it with `casemate serve`")

// readIdentity returns whose data directory it is, if it is that of cfg.Node.
func readIdentity(cfg Config) (id identity, err error) {
	data, err := disk.ReadFile(cfg.FS, filepath.Join(cfg.Dir, formatFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return id, errors.New("not initialised, run `casemate init` first")
	case err != nil:
		return id, err
	}
	// Only the number, first: what else stands there is the business of the program that wrote it.
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Format < 1 {
		return id, fmt.Errorf("its file %s is damaged: %s", formatFile, wayOut)
	}
	if head.Format > diskFormat {
		return id, fmt.Errorf("written by a newer casemate (format %d, this one knows up to %d), install that version",
			head.Format, diskFormat)
	}
	if err := json.Unmarshal(data, &id); err != nil || id.Node == "" || id.Cluster == "" {
		return id, fmt.Errorf("its file %s is damaged: %s", formatFile, wayOut)
	}
	if id.Node != cfg.Node {
		return id, fmt.Errorf("belongs to node %q, not %q, set `node: %s` in the config", id.Node, cfg.Node, id.Node)
	}
	return id, nil
}

// openDir checks and locks a data directory. The caller closes the lock.
func openDir(cfg Config) (lock io.Closer, id identity, key []byte, err error) {
	if id, err = readIdentity(cfg); err != nil {
		return nil, id, nil, err
	}
	lock, err = cfg.FS.Lock(filepath.Join(cfg.Dir, lockFile))
	if err != nil {
		return nil, id, nil, err
	}
	key, err = disk.ReadFile(cfg.FS, filepath.Join(cfg.Dir, member.KeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("its file %s is missing: %s", member.KeyFile, member.KeyWayOut)
	case err == nil:
		if kerr := member.CheckKeys(key); kerr != nil {
			err = fmt.Errorf("its file %s is damaged: %s: %w", member.KeyFile, member.KeyWayOut, kerr)
		}
	}
	if err != nil {
		lock.Close()
		return nil, id, nil, err
	}
	return lock, id, key, nil
}

// inUse is ErrInUse in a sentence.
type inUse string

func (s inUse) Error() string      { return string(s) }
func (inUse) Is(target error) bool { return target == ErrInUse }

// tell makes one sentence of an error with a data directory: the thing first, then the way out.
func tell(what, dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrInUse):
		return inUse(fmt.Sprintf("%s: data directory %s: in use by another casemate process, stop that one first", what,
			dir))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, readOnly):
		return fmt.Errorf("%s: data directory %s: user %d may not write there, give it to the user casemate runs as: %w",
			what, dir, os.Geteuid(), err)
	}
	return fmt.Errorf("%s: data directory %s: %w", what, dir, err)
}

// checkFresh refuses a directory that is anything but new, empty, or left by a Bootstrap or Restore that was cut short.
func checkFresh(cfg Config) error {
	list, err := cfg.FS.ReadDir(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if slices.Contains(names, formatFile) {
		return errors.New("already initialised, restore into a new directory")
	}
	if slices.Contains(names, incompleteFile) {
		return nil
	}
	for _, name := range names {
		if name != "lost+found" && name != lockFile && name != incompleteFile+".new" {
			return fmt.Errorf("not empty (it has %q), restore into a new directory", name)
		}
	}
	return nil
}

// clearData removes what a Restore that was cut short has made.
func clearData(cfg Config) error {
	for _, name := range []string{
		raftDir, snapshotDir, blobDir, member.KeyFile, member.KeyFile + ".new", formatFile + ".new", member.SeedFile,
		member.NodeCertFile,
	} {
		if err := disk.RemoveAll(cfg.FS, filepath.Join(cfg.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// undoRestore clears away what a Restore that failed has made: first what would count, last what says that the rest
// does not.
func undoRestore(cfg Config) error {
	if err := disk.RemoveAll(cfg.FS, filepath.Join(cfg.Dir, formatFile)); err != nil {
		return err
	}
	if err := cfg.FS.SyncDir(cfg.Dir); err != nil {
		return err
	}
	if err := clearData(cfg); err != nil {
		return err
	}
	return cfg.FS.Remove(filepath.Join(cfg.Dir, incompleteFile))
}

func newClusterID() string { return strings.ToLower(rand.Text()) }

func writeIdentity(cfg Config, id identity) error {
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, formatFile), append(data, '\n'), 0o640)
}
