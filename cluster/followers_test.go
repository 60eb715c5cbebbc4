package cluster

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestFollowersAreToldTheTruth: a follower is told only of committed entries that it has acknowledged in the term in
// which this node leads.
func TestFollowersAreToldTheTruth(t *testing.T) {
	entry := func(index, term uint64) *raft.Log { return &raft.Log{Index: index, Term: term} }
	acknowledged := func(term, prev, prevTerm, commit uint64, entries ...*raft.Log) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm,
			LeaderCommitIndex: commit, Entries: entries}
	}
	ten := acknowledged(3, 8, 2, 8, entry(9, 3), entry(10, 3))
	for name, c := range map[string]struct {
		acks            []*raft.AppendEntriesRequest
		refused         bool
		committed, last uint64
		follows         bool
		term            uint64
		want            uint64 // 0: it is told nothing
		again           bool
	}{
		"nothing is known of it": {committed: 10, last: 10, term: 3},
		"it has what is committed": {acks: []*raft.AppendEntriesRequest{ten}, committed: 10, last: 10, term: 3,
			want: 10, again: true},
		"part of what it has is": {acks: []*raft.AppendEntriesRequest{ten}, committed: 9, last: 10, term: 3,
			want: 9, again: true},
		"nothing new is": {acks: []*raft.AppendEntriesRequest{ten}, committed: 8, last: 10, term: 3,
			again: true},
		"more is committed than it has": {acks: []*raft.AppendEntriesRequest{ten}, committed: 12, last: 10, term: 3,
			want: 10, again: true},
		"raft has more for it": {acks: []*raft.AppendEntriesRequest{ten}, committed: 10, last: 12, term: 3,
			again: true},
		"it knows": {acks: []*raft.AppendEntriesRequest{ten, acknowledged(3, 10, 3, 10)},
			committed: 10, last: 10, term: 3},
		"it refused": {acks: []*raft.AppendEntriesRequest{ten}, refused: true, committed: 10,
			last: 10, term: 3},
		"this node does not lead": {acks: []*raft.AppendEntriesRequest{ten}, committed: 10, last: 10,
			follows: true, term: 3},
		"it was acknowledged another time": {acks: []*raft.AppendEntriesRequest{ten}, committed: 10, last: 10,
			term: 5},
		"an old acknowledgement comes late": {acks: []*raft.AppendEntriesRequest{acknowledged(5, 6, 2, 6), ten},
			committed: 10, last: 6, term: 5},
		"a new term begins lower": {acks: []*raft.AppendEntriesRequest{ten, acknowledged(5, 6, 2, 5)}, committed: 7,
			last: 6, term: 5, want: 6, again: true},
	} {
		var f followers
		k, _ := f.get("n2")
		for _, args := range c.acks {
			f.acknowledged(k, "n2", args, &raft.AppendEntriesResponse{Term: args.Term, Success: !c.refused})
		}
		msg, at, again := f.next(k, c.committed, c.last, !c.follows, c.term)
		switch {
		case again != c.again:
			t.Errorf("%s: again is %v", name, again)
		case msg == nil && c.want == 0:
		case msg == nil || msg.LeaderCommitIndex != c.want || msg.PrevLogEntry < c.want || at != "n2" ||
			msg.Term != c.term || isHeartbeat(msg):
			t.Errorf("%s: at %q, %+v", name, at, msg)
		}
	}
}

// TestPaceOfHeartbeats: heartbeats wait for each other, but not while a caller wants to know whether this node leads.
func TestPaceOfHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f followers
		k, _ := f.get("n2")
		never := make(chan struct{})
		waited := func() time.Duration {
			began := time.Now()
			f.pace(k, never, never)
			return time.Since(began)
		}
		if d := waited(); d != 0 {
			t.Errorf("the first has waited for %s", d)
		}
		if d := waited(); d != heartbeatEvery {
			t.Errorf("the second has waited for %s", d)
		}
		// Those to several followers go out at the same moment.
		k3, _ := f.get("n3")
		time.Sleep(heartbeatEvery / 3)
		f.pace(k3, never, never)
		began := time.Now()
		var both sync.WaitGroup
		for _, to := range []*follower{k, k3} {
			both.Go(func() {
				f.pace(to, never, never)
				if d := time.Since(began); d != heartbeatEvery-heartbeatEvery/3 {
					t.Errorf("the one to %s has waited for %s", to.id, d)
				}
			})
		}
		both.Wait()
		done := f.verifying()
		for range 3 {
			if d := waited(); d != 0 {
				t.Errorf("one that is waited for has waited for %s", d)
			}
		}
		done()
		go func() {
			time.Sleep(heartbeatEvery / 4)
			f.verifying()
		}()
		if d := waited(); d != heartbeatEvery/4 {
			t.Errorf("one that somebody came to wait for has waited for %s", d)
		}
	})
}
