package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/wake"
)

// Raft tells a follower that an entry is committed with the next entries that it sends, and if none come, at the next
// CommitTimeout. A write waits for the followers to show it, so every write waited for that, and a short CommitTimeout
// made an idle leader ask each follower hundreds of times a second for nothing.
//
// So the leader passes on itself what is committed, at once: in the message that raft would have sent at the next
// CommitTimeout, an AppendEntries without entries. What it says is true in raft's sense: a follower that has
// acknowledged, in this term, entries up to an index has the leader's log up to there, and of that the part is
// committed that is. An earlier version at the other end sees nothing new.

// followers are what this node knows, as the leader, of the logs of the others. Its zero value is ready.
type followers struct {
	mu  sync.Mutex
	by  map[raft.ServerID]*follower
	ask int            // how many wait for raft to verify that this node leads
	now wake.Broadcast // one does
}

// follower is one of them. Owned by followers.mu.
type follower struct {
	id      raft.ServerID
	target  raft.ServerAddress
	header  raft.AppendEntriesRequest // the newest message that it acknowledged: its term and sender
	index   uint64                    // in that term it has the leader's log up to here
	term    uint64                    // of the entry there
	commits uint64                    // and knows that it is committed up to here
	wake    wake.Flag                 // index has grown, or more may be committed
	beaten  time.Time                 // when the newest heartbeat began
}

const (
	// commitRetry is how soon it is looked again whether what a follower has is committed, if nothing says so: raft
	// tells nobody of entries that are no commands.
	commitRetry = 10 * time.Millisecond
	// heartbeatEvery is the time between two heartbeats that nobody waits for, at most. Raft's own pace, a tenth of
	// HeartbeatTimeout, is several times what it takes to notice that a leader is gone. They go to all followers at the
	// same moment, and with every second one of them go the beats.
	heartbeatEvery = 200 * time.Millisecond
)

// get returns what is known of a follower, and whether that is the first time.
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

// isHeartbeat is raft's own rule (handleCommand): such a message says nothing of the log.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
}

// acknowledged notes what a follower has, which is new if it answered well.
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

// committed says that more may be committed.
func (f *followers) committed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.by {
		if k.commits < k.index {
			k.wake.Raise()
		}
	}
}

// next returns what is to be said to a follower now, nil for nothing, and where it is; committed, last, leads and term
// are raft's. again says that there may be something in a moment.
func (f *followers) next(
	k *follower, committed, last uint64, leads bool, term uint64,
) (msg *raft.AppendEntriesRequest, at raft.ServerAddress, again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch upTo := min(committed, k.index); {
	case !leads || k.header.Term != term || k.commits >= k.index:
		return nil, "", false
	case last > k.index, upTo <= k.commits: // raft sends it the rest, and with it what is committed; or nothing new is
		return nil, "", true
	default:
		m := k.header
		m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex = k.index, k.term, upTo
		return &m, k.target, true
	}
}

// restarted says that a node may have forgotten what it was told.
func (f *followers) restarted(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.by[raft.ServerID(node)]; k != nil && k.index > 0 {
		k.commits = 0
		k.wake.Raise()
	}
}

// verifying has heartbeats go out at once until the function that it returns is called: an answer to one that is sent
// from now on is waited for.
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

// pace holds a heartbeat back until it is due, or somebody waits for it.
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

// tell keeps one follower told of what is committed, until the node ends.
func (k *careful) tell(to *follower) {
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
		// In this order: only if the term in which the follower acknowledged its entries still is this node's after
		// what is committed was read, that is committed in the log that the follower has.
		committed, last := r.CommitIndex(), r.LastIndex()
		leads, term := r.State() == raft.Leader, r.CurrentTerm()
		msg, target, again := k.followers.next(to, committed, last, leads, term)
		if msg != nil && !k.c.watch.Hung() {
			var resp raft.AppendEntriesResponse
			// If this fails, raft says the same at its own pace.
			if k.NetworkTransport.AppendEntries(to.id, target, msg, &resp) == nil {
				k.followers.acknowledged(to, target, msg, &resp)
			}
		}
		if again {
			retry.Reset(wait)
		}
	}
}
