package replica

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"casemate/cluster/state"
)

func digestOf(i int) state.Digest { return state.Digest(fmt.Sprintf("\x01%032d", i)) }

// takeAll fetches everything that can be had now, one after another, and returns how many that were of small ones and
// of all.
func takeAll(b *backlog, now time.Time, come bool) (small, all int) {
	for l := b.take(now, FetchTurns); l != nil; l = b.take(now, FetchTurns) {
		b.began(l)
		b.ended(l)
		if all++; !l.large {
			small++
		}
		if !come {
			b.failed(l, now)
			continue
		}
		b.succeeded(l)
		b.drop(l)
	}
	return small, all
}

// The newest blob comes first, in whatever order they were found; failed ones come after all others.
func TestBacklogOrder(t *testing.T) {
	b, now := newBacklog(), time.Now()
	const n = 20_000
	for _, i := range rand.Perm(n) {
		b.add(digestOf(i), int64(i%2)*largeFrom, uint64(i))
	}
	failed := map[uint64]bool{}
	for i := range n {
		l := b.take(now, FetchTurns)
		if l == nil || l.born != uint64(n-1-i) {
			t.Fatalf("turn %d: %+v", i, l)
		}
		if i%1000 == 0 {
			failed[l.born] = true
			b.failed(l, now)
			continue
		}
		b.drop(l)
	}
	last := uint64(n)
	for range failed {
		l := b.take(now, FetchTurns)
		if l == nil || !failed[l.born] || l.born >= last {
			t.Fatalf("after the others: %+v", l)
		}
		last = l.born
		b.drop(l)
	}
	if len(b.all) > 0 || b.waits(now) != 0 {
		t.Errorf("%d left", len(b.all))
	}
}

// Turns are few, fewer for large blobs, and these do not keep small ones from theirs.
func TestBacklogTurns(t *testing.T) {
	b, now := newBacklog(), time.Now()
	for i := range 100 {
		b.add(digestOf(i), 1, uint64(i))
		b.add(digestOf(100+i), largeFrom, uint64(100+i)) // newer
	}
	var large, small []*missingBlob
	for l := b.take(now, FetchTurns); l != nil; l = b.take(now, FetchTurns) {
		b.began(l)
		if l.large {
			large = append(large, l)
		} else {
			small = append(small, l)
		}
	}
	if len(large) != largeTurns || len(small) != FetchTurns-largeTurns {
		t.Errorf("%d large, %d small", len(large), len(small))
	}
	b.ended(large[0])
	b.drop(large[0])
	if l := b.take(now, 1); l != nil {
		t.Errorf("more than there are turns: %+v", l)
	}
	if l := b.take(now, FetchTurns); l == nil || l.born != 197 {
		t.Errorf("after a large one: %+v", l)
	}
}

// What fails again and again is not tried without an end, and as soon as something of it succeeds all of it is.
func TestBacklogBackoff(t *testing.T) {
	b, now := newBacklog(), time.Now()
	const n = 1000
	for i := range n {
		b.add(digestOf(i), 1, uint64(i))
		b.add(digestOf(n+i), largeFrom, uint64(i))
	}
	for range 2 * n {
		b.failed(b.take(now, FetchTurns), now) // each failed once
	}
	tries := 0
	for end := now.Add(time.Minute); now.Before(end); now = now.Add(b.waits(now)) {
		_, all := takeAll(&b, now, false)
		tries += all
	}
	if tries < 100 || tries > 150 {
		t.Errorf("%d tries in a minute, one a second of each kind was to be", tries)
	}
	fresh := digestOf(3 * n)
	b.add(fresh, 1, 1)
	if l := b.take(now, FetchTurns); l == nil || l.d != fresh {
		t.Errorf("what has not failed waits behind what has: %+v", l)
	} else {
		b.drop(l)
	}
	b.resetBackoff()
	small, _ := takeAll(&b, now, true)
	if small != n || len(b.all) != 0 {
		t.Errorf("%d of %d came, %d left", small, n, len(b.all))
	}
}

// A blob that is found to be lacking while it is being looked at, is looked at again; one that is known no more is
// forgotten.
func TestBacklogAgain(t *testing.T) {
	b, now := newBacklog(), time.Now()
	b.add(digestOf(1), 1, 1)
	l := b.take(now, FetchTurns)
	b.add(digestOf(1), 1, 9)
	b.drop(l)
	if l := b.take(now, FetchTurns); l == nil || l.born != 9 {
		t.Fatalf("lost: %+v", l)
	}
	if b.forget(digestOf(1)) {
		t.Error("forgotten while it is out of the queue")
	}
	b.drop(l)
	b.add(digestOf(2), largeFrom, 1)
	b.add(digestOf(3), largeFrom, 2)
	if !b.forget(digestOf(3)) || b.forget(digestOf(1)) {
		t.Error("not forgotten")
	}
	if l := b.take(now, FetchTurns); l == nil || l.d != digestOf(2) || len(b.all) != 1 {
		t.Errorf("%+v, %d", l, len(b.all))
	}
}

// BenchmarkBacklog is one step of a node that is missing that many blobs: one is taken and one is added.
func BenchmarkBacklog(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, now := newBacklog(), time.Now()
			for i := range n {
				l.add(digestOf(i), 1, uint64(i))
			}
			for i := n; b.Loop(); i++ {
				l.drop(l.take(now, FetchTurns))
				l.add(digestOf(i), 1, uint64(i%n))
			}
		})
	}
}
