package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/wake"
)

// Raft tells a follower that an entry is committed with the next entries that it sends or, if none follow, at the next
// CommitTimeout. Writes wait for the followers to show them, so every write waited for that, and a short CommitTimeout
// made an idle leader send each follower hundreds of useless messages a second.
//
// So the leader itself sends the commit index at once, in the message that raft would send at the next CommitTimeout:
// an AppendEntries without entries. The message is valid in raft's sense: a follower that has acknowledged entries up
// to an index in this term has the leader's log up to there, and the message reports only entries up to there as
// committed. A follower of an earlier version handles it like any other.

// followers is the leader's knowledge of the others' logs. Its zero value is ready.
type followers struct {
	mu  sync.Mutex
	by  map[raft.ServerID]*follower
	ask int            // number of callers that wait for raft to verify that this node leads
	now wake.Broadcast // ask has grown
}

// follower is the state of one follower. Owned by followers.mu.
type follower struct {
	id      raft.ServerID
	target  raft.ServerAddress
	header  raft.AppendEntriesRequest // of the newest acknowledged message: its term and sender
	index   uint64                    // up to here it has the leader's log of that term
	term    uint64                    // of the entry at index
	commits uint64                    // up to here it knows the log to be committed
	wake    wake.Flag                 // raised when index has grown, or more may be committed
	beaten  time.Time                 // when the newest heartbeat began
}

const (
	// commitRetry is how soon the leader checks again whether a follower's entries are committed if nothing reports it:
	// raft reports no commit of entries that are not commands.
	commitRetry = 10 * time.Millisecond
	// heartbeatEvery is the minimum time between two heartbeats that no caller waits for. Raft's own rate, ten per
	// HeartbeatTimeout, is several times what is needed to notice that a leader has failed. All followers get theirs at
	// the same moment, and the beats go with every second one of them.
	heartbeatEvery = 200 * time.Millisecond
)

// get returns the state of a follower, and whether this is its first use.
func (f *followers) get(id raft.ServerID) (k *follower, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[raft.ServerID]*follower{}
	}
	if k = f.by[id]; k != nil {
		return k, false
	}
	k = &follower{id: id, wake: wake.NewFlag()}
	f.by[id] = k
	return k, true
}

// isHeartbeat is raft's own rule (handleCommand): such a message carries no information about the log.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
}

// acknowledged records an acknowledgement by a follower. Only a success in the same term counts.
func (f *followers) acknowledged(
	k *follower, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) {
	if !resp.Success || resp.Term != args.Term {
		return
	}
	index, term := args.PrevLogEntry, args.PrevLogTerm
	if n := len(args.Entries); n > 0 {
		index, term = args.Entries[n-1].Index, args.Entries[n-1].Term
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if args.Term < k.header.Term {
		return
	}
	if args.Term > k.header.Term {
		k.index, k.commits = 0, 0
		k.header = *args
		k.header.PrevLogEntry, k.header.PrevLogTerm, k.header.Entries, k.header.LeaderCommitIndex = 0, 0, nil, 0
	}
	k.target = target
	if index > k.index {
		k.index, k.term = index, term
	}
	k.commits = max(k.commits, min(args.LeaderCommitIndex, index))
	if k.commits < k.index {
		k.wake.Raise()
	}
}

// committed reports that more may be committed.
func (f *followers) committed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.by {
		if k.commits < k.index {
			k.wake.Raise()
		}
	}
}

// next returns the message for a follower now, or nil, and its address; committed, last, leads and term are raft's.
// again reports that another message may be due soon.
func (f *followers) next(
	k *follower, committed, last uint64, leads bool, term uint64,
) (msg *raft.AppendEntriesRequest, at raft.ServerAddress, again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch upTo := min(committed, k.index); {
	case !leads || k.header.Term != term || k.commits >= k.index:
		return nil, "", false
	case last > k.index, upTo <= k.commits: // raft sends the rest, with the commit index; or nothing new is committed
		return nil, "", true
	default:
		m := k.header
		m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex = k.index, k.term, upTo
		return &m, k.target, true
	}
}

// restarted reports that a node may have lost the commit index that it was sent.
func (f *followers) restarted(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.by[raft.ServerID(node)]; k != nil && k.index > 0 {
		k.commits = 0
		k.wake.Raise()
	}
}

// verifying makes heartbeats go out at once until the returned function is called: a caller waits for the response to
// one that is sent from now on.
func (f *followers) verifying() (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask++
	f.now.Wake()
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ask--
	}
}

// pace delays a heartbeat until it is due, or a caller waits for it.
func (f *followers) pace(k *follower, ended ...<-chan struct{}) {
	f.mu.Lock()
	// By the clock that nobody sets, lest it hold a heartbeat back for longer.
	if wait := min(wake.Within(heartbeatEvery), heartbeatEvery-time.Since(k.beaten)); f.ask == 0 && wait > 0 {
		now := f.now.Next()
		f.mu.Unlock()
		due := time.NewTimer(wait)
		defer due.Stop()
		select {
		case <-due.C:
		case <-now:
		case <-ended[0]:
		case <-ended[1]:
		}
		f.mu.Lock()
	}
	k.beaten = time.Now()
	f.mu.Unlock()
}

// sendCommits sends the commit index to one follower until the node ends.
func (k *careful) sendCommits(to *follower) {
	wait := commitRetry
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-k.c.stop:
			return
		case <-to.wake:
			wait = commitRetry
		case <-retry.C:
			wait = min(2*wait, commitTimeout)
		}
		r := k.raft.Load()
		if r == nil {
			continue
		}
		// In this order: the message is valid only if the term in which the follower acknowledged its entries is still
		// this node's term after the commit index was read.
		committed, last := r.CommitIndex(), r.LastIndex()
		leads, term := r.State() == raft.Leader, r.CurrentTerm()
		msg, target, again := k.followers.next(to, committed, last, leads, term)
		if msg != nil && !k.c.watch.Hung() {
			var resp raft.AppendEntriesResponse
			// If this fails, raft sends the same at its own pace.
			if k.NetworkTransport.AppendEntries(to.id, target, msg, &resp) == nil {
				k.followers.acknowledged(to, target, msg, &resp)
			}
		}
		if again {
			retry.Reset(wait)
		}
	}
}
