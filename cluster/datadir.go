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
//	addresses.json addresses of other nodes that the operator set, if their records are wrong
//	raft/         the log's segments, meta (segments, term, vote), commit (lower bound of the commit index), boot
//	              (number of starts), whole (entry at which all blobs were here), floor (see floor)
//	snapshots/    the state at some log index, two of them
//	blobs/        package blob
//
// and nothing else.
const (
	formatFile     = "format"
	addressFile    = "addresses.json"
	incompleteFile = "incomplete"
	lockFile       = "lock"
	raftDir        = "raft"
	snapshotDir    = "snapshots"
	blobDir        = "blobs"
)

// diskFormat is the newest layout of the data directory that this program supports. The format of log entries has its
// own number (promise 8).
const diskFormat = 1

// identity is the content of the format file.
type identity struct {
	Format  int    `json:"format"`
	Cluster string `json:"cluster"` // random, the same on all nodes
	Node    string `json:"node"`
}

// Bootstrap creates the data directory of a cluster of one node: its identity, the sealing key and a log whose first
// entry makes the node the only voter. cfg.Dir must be empty (except for lost+found) or not exist. An interrupted
// Bootstrap can be repeated. Nothing stays open.
func Bootstrap(cfg Config) (err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return err
	}
	defer func() { err = describe("init", cfg.Dir, err) }()
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

// beginDir locks and clears a directory that becomes a data directory. Until endDir, a crash leaves a directory that is
// marked as incomplete and can be started over. A joiner's key is kept, because its token is bound to it.
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
	// From here to the format file, a crash leaves a directory that is marked as incomplete, and the next Bootstrap
	// starts over.
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

// endDir makes the directory valid.
func endDir(cfg Config, id identity) error {
	if err := writeIdentity(cfg, id); err != nil {
		return err
	}
	// if a crash restores it, the format file takes precedence
	return cfg.FS.Remove(filepath.Join(cfg.Dir, incompleteFile))
}

func bootstrapRaft(cfg Config) error {
	log, err := openWAL(cfg, true, nil)
	if err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Node))
	rc := raftConfig(cfg)
	err = raft.BootstrapCluster(rc, raftlog.PlainStore(log), log, newSnapshots(cfg), transport, raft.Configuration{
		// The address is the node's name, which is resolved when it is dialled, so that a node can move.
		Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(cfg.Node),
			Address: raft.ServerAddress(cfg.Node)}},
	})
	if err == nil && cfg.format > 1 {
		// A new cluster has no nodes of older versions. The only voter's log is committed.
		var cmd []byte
		c := state.Command{Time: cfg.Now().UnixNano(), Ops: []state.Op{&state.SetFormat{Version: cfg.format}}}
		if cmd, err = c.Encode(); err == nil {
			err = raftlog.PlainStore(log).StoreLog(&raft.Log{Index: 2, Term: 1, Type: raft.LogCommand, Data: cmd})
		}
	}
	return errors.Join(err, log.Close())
}

// ErrInUse reports that another process has the data directory open.
var ErrInUse = blob.ErrLocked

// ErrInitialised reports that the data directory is complete and belongs to this node.
var ErrInitialised = errors.New("already initialised, start it with `casemate serve`")

// readIdentity returns the identity of a data directory. It must be that of cfg.Node.
func readIdentity(cfg Config) (id identity, err error) {
	data, err := disk.ReadFile(cfg.FS, filepath.Join(cfg.Dir, formatFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return id, errors.New("not initialised, run `casemate init` first")
	case err != nil:
		return id, err
	}
	// The format number alone comes first: a newer program may have written the rest in another form.
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Format < 1 {
		return id, fmt.Errorf("the file %s is damaged: %s", formatFile, wayOut)
	}
	if head.Format > diskFormat {
		return id, fmt.Errorf("written by a newer casemate (format %d, this one supports up to %d), install that "+
			"version",
			head.Format, diskFormat)
	}
	if err := json.Unmarshal(data, &id); err != nil || id.Node == "" || id.Cluster == "" {
		return id, fmt.Errorf("the file %s is damaged: %s", formatFile, wayOut)
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
		err = fmt.Errorf("the file %s is missing: %s", member.KeyFile, member.KeyWayOut)
	case err == nil:
		if kerr := member.CheckKeys(key); kerr != nil {
			err = fmt.Errorf("the file %s is damaged: %s: %w", member.KeyFile, member.KeyWayOut, kerr)
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

// describe turns an error about a data directory into one sentence: the problem, then what to do.
func describe(what, dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrInUse):
		return inUse(fmt.Sprintf("%s: data directory %s: in use by another casemate process, stop that one first", what,
			dir))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, readOnly):
		return fmt.Errorf("%s: data directory %s: user %d may not write to it, change its owner to the user that "+
			"casemate runs as: %w",
			what, dir, os.Geteuid(), err)
	}
	return fmt.Errorf("%s: data directory %s: %w", what, dir, err)
}

// checkFresh rejects a directory unless it is new, empty, or left by an interrupted Bootstrap or Restore.
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

// clearData removes the files of an interrupted Bootstrap, Join or Restore.
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

// undoRestore removes the files of a failed Restore: first the format file, which would make the directory valid, last
// the file that marks it as incomplete.
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
