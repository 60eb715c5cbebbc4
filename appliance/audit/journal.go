package audit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"casemate/cluster"
	"casemate/cluster/share"
	"casemate/cluster/tree"
)

// Journal records what changes nothing, logins and refusals, in batches: one command a second at most, whoever tries
// how much. What is not recorded is counted, and the count is recorded.
type Journal struct {
	Cluster interface {
		Record(ctx context.Context, list []cluster.Occurrence) error
	}
	Now func() time.Time

	mu      sync.Mutex
	waiting []cluster.Occurrence
	// accounts are actors who have proved who they are, strangers the clients (share.Of) of those who have not. Each
	// has its own places and budget, so that strangers cannot keep the login of an account out of the log.
	accounts, strangers sources
	lost                int // of sources that have no place
}

type sources map[string]*source

// source is one actor, or one client.
type source struct {
	budget int // events that may still be recorded
	lost   int
	last   tree.Actor
}

// Bounds of the journal.
const (
	burst       = 10               // events of one source in
	refill      = 30 * time.Second // this time
	maxSources  = 1024             // of each of the two kinds
	flushEvery  = time.Second
	maxWaiting  = 4 * cluster.MaxOccurrences // half of it for strangers
	SuppressedV = "audit.suppressed"
)

// Note records an event soon. It does not block, and may be called from any goroutine.
func (j *Journal) Note(actor tree.Actor, e tree.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	in, key, most := &j.strangers, share.OfText(actor.From), maxWaiting/2
	if actor.How != "" {
		in, key, most = &j.accounts, actor.Name, maxWaiting
	}
	if *in == nil {
		*in = sources{}
	}
	s := (*in)[key]
	if s == nil {
		if len(*in) >= maxSources {
			j.lost++
			return
		}
		s = &source{budget: burst}
		(*in)[key] = s
	}
	s.last = actor
	if s.budget == 0 || len(j.waiting) >= most {
		s.lost++
		return
	}
	s.budget--
	j.waiting = append(j.waiting, cluster.Occurrence{Event: e, Actor: actor, Time: j.Now()})
}

// Run records what was noted until ctx is done, and then the rest.
func (j *Journal) Run(ctx context.Context) error {
	tick, fill := time.NewTicker(flushEvery), time.NewTicker(refill)
	defer tick.Stop()
	defer fill.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushEvery)
			defer cancel()
			j.renew()
			return j.flush(last)
		case <-fill.C:
			j.renew()
		case <-tick.C:
			j.flush(ctx) // what fails is tried again
		}
	}
}

// flush records what is waiting. After an error it waits on.
func (j *Journal) flush(ctx context.Context) error {
	for {
		j.mu.Lock()
		list := j.waiting[:min(len(j.waiting), cluster.MaxOccurrences)]
		j.mu.Unlock()
		if len(list) == 0 {
			return nil
		}
		if err := j.Cluster.Record(ctx, list); err != nil {
			return err
		}
		j.mu.Lock()
		j.waiting = append([]cluster.Occurrence(nil), j.waiting[len(list):]...)
		j.mu.Unlock()
	}
}

// renew gives every source its budget again, and notes how many events of it were not recorded.
func (j *Journal) renew() {
	j.mu.Lock()
	defer j.mu.Unlock()
	note := func(actor tree.Actor, object string, lost int) {
		j.waiting = append(j.waiting, cluster.Occurrence{
			Event: tree.Event{Verb: SuppressedV, Object: object, New: fmt.Sprintf("%d events were not recorded", lost)},
			Actor: actor, Time: j.Now(),
		})
	}
	for _, in := range []sources{j.accounts, j.strangers} {
		for key, s := range in {
			if s.lost > 0 {
				note(s.last, key, s.lost)
			}
		}
		clear(in)
	}
	if j.lost > 0 {
		note(tree.Actor{}, "other sources", j.lost)
	}
	j.lost = 0
}
