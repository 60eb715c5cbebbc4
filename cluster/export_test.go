package cluster

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/member"
	"casemate/cluster/raftlog"
	"casemate/cluster/replica"
	"casemate/cluster/state"
)

// What the tests of several nodes, which are in a package of their own, need of the inside.

// Seeds is how many histories the tests with random faults play.
func Seeds() int { return *seeds }

// ErrUnknown is in the error of a write that may or may not have happened.
var ErrUnknown = errUnknown

// Small makes everything small, so that segments roll over, snapshots matter, and batches do not fit into one entry.
func Small(c *Config) { c.SegmentSize, c.snapshots, c.entrySize = 32<<10, 40, 2<<10 }

// KeepLog lets raft never cut its log for a snapshot.
func KeepLog(c *Config) { c.snapshots, c.snapshotLog = 1<<30, 1<<40 }

// Snapshot has raft make one now.
func (c *Cluster) Snapshot() error { return c.raft.Snapshot().Error() }

// StateBytes is the whole state as a snapshot has it.
func (c *Cluster) StateBytes() []byte {
	var b bytes.Buffer
	c.machine.view.Load().WriteTo(&b)
	return b.Bytes()
}

// Look reads a name as Open does: a record's data, or a blob's digest, and the version. Of a miss sure says whether the
// leader has confirmed it.
func (t *Tree) Look(name string) (value string, version uint64, sure bool, err error) {
	_, i, e, sure, err := t.findSure("open", name)
	value = e.Data
	if e.Digest != "" {
		value = e.Digest.String()
	}
	return value, i.version, sure, err
}

// OnDisk lists the blobs of this disk.
func (c *Cluster) OnDisk() (digests []string, err error) {
	for e, err := range c.blobs.Scan() {
		if err != nil {
			return nil, err
		}
		digests = append(digests, e.Digest)
	}
	return digests, nil
}

// Knows reports whether the state that this node shows knows a blob.
func (c *Cluster) Knows(digest string) bool {
	d, err := state.ParseDigest(digest)
	if err != nil {
		return false
	}
	_, ok := c.machine.view.Load().Blob(d)
	return ok
}

// BeginAt has a new cluster begin at a format, as an older version would.
func BeginAt(c *Config, format uint64) { c.format = format }

// Impatient gives connections up after a time without a byte.
func Impatient(c *Config, d time.Duration) { c.stall = d }

// TakeCopy keeps bytes as those of another node's upload, and returns the index at which they were confirmed.
func (c *Cluster) TakeCopy(data []byte) (digest string, index uint64, err error) {
	w, err := c.blobs.Create("")
	if err != nil {
		return "", 0, err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return "", 0, err
	}
	if digest, _, err = w.Place(""); err != nil {
		return "", 0, err
	}
	if index, err = c.replica.Confirm(digest); err == nil {
		w.Done()
	}
	return digest, index, err
}

// Know makes blobs known that lie on the disks of a majority already.
func (c *Cluster) Know(ctx context.Context, digests []string, size int64) error {
	for chunk := range slices.Chunk(digests, 1000) {
		var ops []state.Op
		for _, text := range chunk {
			d, err := state.ParseDigest(text)
			if err != nil {
				return err
			}
			ops = append(ops, &state.AddBlob{Digest: d, Size: size, Confirmed: c.Index(),
				Until: c.cfg.Now().Add(time.Hour).UnixNano()})
		}
		if _, err := c.propose(ctx, ops...); err != nil {
			return err
		}
	}
	return nil
}

// FillTurns is how many blobs that nobody waits for are fetched at a time.
const FillTurns = replica.FetchTurns

// Missing is how many blobs are not on this disk; -1 while they are counted.
func (c *Cluster) Missing() int { return c.replica.Missing() }

// Confirm says at which index this node has a blob durably.
func (c *Cluster) Confirm(digest string) (uint64, error) { return c.replica.Confirm(digest) }

// HasFile reports whether a blob is on this disk.
func (c *Cluster) HasFile(digest string) bool {
	_, err := c.blobs.Stat(digest)
	return err == nil
}

// Fetching reports whether a blob is on its way to this disk.
func (c *Cluster) Fetching(digest string) bool { return c.replica.Fetching(digest) }

// CollectedAt is the index of the newest collect of a blob that is not known now.
func (c *Cluster) CollectedAt(digest string) uint64 {
	d, _ := state.ParseDigest(digest)
	return c.machine.view.Load().Tombstone(d)
}

// PatrolOnce reads the blobs that are due, as Patrol does periodically.
func (c *Cluster) PatrolOnce(ctx context.Context, every time.Duration) (ScrubReport, error) {
	return c.replica.PatrolOnce(ctx, every, func() time.Duration { return every })
}

// ForgetNames puts the names of this process's commands back, as a snapshot of a machine's memory does: the last ones,
// or all with 0.
func (c *Cluster) ForgetNames(last uint64) {
	c.seqs.mu.Lock()
	defer c.seqs.mu.Unlock()
	if last == 0 {
		last = c.seqs.next - 1
	}
	c.seqs.next -= last
	c.seqs.low = c.seqs.next - 1
	clear(c.seqs.open)
}

// Stopped is why another node stopped, as far as it could say so.
func (c *Cluster) Stopped(node string) string {
	b, _, _ := c.peers.Last(node)
	return b.Stopped
}

// Forge replaces bytes in the log of a node that is down, as if they had been written so: the checksums are right.
func Forge(cfg Config, old, new string) error {
	forged := false
	err := rewriteLog(cfg, func(l *raft.Log) *raft.Log {
		forged = forged || bytes.Contains(l.Data, []byte(old))
		l.Data = bytes.ReplaceAll(l.Data, []byte(old), []byte(new))
		return raftlog.WithChecksum(l)
	})
	if err == nil && !forged {
		err = fmt.Errorf("no entry has %q", old)
	}
	return err
}

// DropChecksums makes the log of a node that is down one of an earlier version.
func DropChecksums(cfg Config) error {
	return rewriteLog(cfg, func(l *raft.Log) *raft.Log { return l })
}

func rewriteLog(cfg Config, change func(*raft.Log) *raft.Log) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	log, err := openWAL(cfg, false, nil)
	if err != nil {
		return err
	}
	defer log.Close()
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	var logs []*raft.Log
	for i := first; i <= last; i++ {
		l := &raft.Log{}
		if err := raftlog.ReadEntry(log, i, l); err != nil {
			return err
		}
		logs = append(logs, change(l))
	}
	if err := log.DeleteRange(first, last); err != nil {
		return err
	}
	return log.StoreLogs(logs)
}

// CountCSRs counts how often the signature of a request for a certificate is verified.
func CountCSRs(c *Config, n *atomic.Int64) {
	c.checkCSR = func(csr *x509.CertificateRequest) error {
		n.Add(1)
		return csr.CheckSignature()
	}
}

// AskToJoin asks to join with a request for a certificate of the caller's own. cfg needs Dial, Node, PeerAddr.
func AskToJoin(ctx context.Context, cfg Config, addr string, token Token, csr []byte) error {
	cfg.Now = time.Now
	_, err := member.Ask(ctx, cfg.members(""), cfg.Dial, addr, token, csr)
	return err
}

// Receives says that a blob is being sent to this node until the function is called that it returns.
func (c *Cluster) Receives(digest string) func() { return c.replica.Receive(digest) }

// Term is raft's term.
func (c *Cluster) Term() uint64 { return c.raft.CurrentTerm() }

// ConfirmFor confirms a miss, on the leader, for a node that was in a term. It does not wait for as long as it takes a
// leader to lose its lease.
func (c *Cluster) ConfirmFor(node string, term uint64) error {
	ctx, cancel := context.WithTimeout(c.life, confirmTime/10)
	defer cancel()
	_, err := c.leaderIndex(ctx, node, term)
	return err
}
