package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"casemate/cluster/wake"
)

const (
	beatEvery = 400 * time.Millisecond // at least; a multiple of what raft's heartbeats have, to go out with them
	beatLeast = 2 * time.Millisecond   // between two
	beatLost  = 1 * time.Second        // without a beat, a node counts as down
	redial    = 200 * time.Millisecond
	lookEvery = time.Second // between two checks of the members
)

// Beat is the state that a node reports to the others continuously.
type Beat struct {
	Applied uint64 `json:"applied"` // newest log entry that is readable there, also after a power cut
	Missing int    `json:"lacks"`   // blobs still to come; -1 while it counts
	Free    int64  `json:"free"`
	Total   int64  `json:"total"`
	Format  uint64 `json:"format"`
	Version string `json:"version"`

	// Older versions do not send the following fields.
	At      uint64 `json:"at,omitempty"`      // newest entry in the state
	Sum     string `json:"sum,omitempty"`     // its running digest there
	Heard   uint64 `json:"heard,omitempty"`   // newest Applied that it has received from the listener
	Differs uint64 `json:"differs,omitempty"` // an entry at which its state differs from the listener's
	Older   *Older `json:"older,omitempty"`   // set if its disk was put back to an older state
	Leader  string `json:"leader,omitempty"`  // the leader as it knows it
	Stopped string `json:"stopped,omitempty"` // why the node is stopping
	// Addresses of nodes that differ from their records. Older versions read and send the first of each only.
	AllAddrs map[string][]string `json:"all_addrs,omitempty"`
	Addrs    map[string]string   `json:"addrs,omitempty"`
	Clock    time.Time           `json:"clock,omitzero"`    // the sender's, when it sent the beat
	Reserve  int64               `json:"reserve,omitempty"` // bytes of Free that stay free
	Twice    Twice               `json:"twice,omitempty"`   // nodes of which it has heard two processes
}

// now is a closed channel.
var now = func() <-chan time.Time { ch := make(chan time.Time); close(ch); return ch }()

// serveBeat streams beats without end.
func (p *Port) serveBeat(w http.ResponseWriter, r *http.Request) {
	node := From(r)
	p.hear(node, r.Header.Values(addressHeader))
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for {
		if p.cfg.Members.Removed(node) {
			return // its next request is answered with ErrRemoved
		}
		b := p.cfg.Host.Beat(node)
		b.AllAddrs, b.Addrs = p.gossip()
		b.Twice, b.Clock = p.twins.list(), p.cfg.Now()
		if enc.Encode(b) != nil || rc.Flush() != nil {
			return
		}
		if b.Stopped != "" {
			return
		}
		sent := time.Now()
		wait, cancel := context.WithTimeout(r.Context(), wake.Within(beatEvery))
		p.cfg.Host.WaitDurable(wait, b.Applied+1)
		cancel()
		// A write may wait for what the next beat says, so there is a pause only if the one before has just gone out.
		pause := now
		if rest := beatLeast - time.Since(sent); rest > 0 {
			pause = time.After(rest)
		}
		select {
		case <-r.Context().Done():
			return
		case <-p.cfg.Life.Done():
			return
		case <-p.cfg.Host.Done(): // the next beat gives the reason
		case <-pause:
		}
	}
}

// link is the stream of beats from another node.
type link struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	beat   Beat
	up     bool
	seen   time.Time
	moved  wake.Broadcast // a beat has come, or up has changed
	skew   skew
	slow   bool // was too slow once: writes do not wait for it until it has caught up
	cutoff context.CancelFunc
	alive  context.Context // done when the node is down; owned by mu
}

// Last returns the last beat of a node, whether the node is up, and when the beat came.
func (p *Port) Last(node string) (b Beat, up bool, seen time.Time) {
	p.mu.Lock()
	l := p.links[node]
	p.mu.Unlock()
	if l == nil {
		return Beat{Missing: -1}, false, time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.beat, l.up, l.seen
}

// Alive returns a context that is done when the node is known to be down, or with ctx; not ok if it is down now.
func (p *Port) Alive(ctx context.Context, node string) (context.Context, context.CancelFunc, bool) {
	p.mu.Lock()
	l := p.links[node]
	p.mu.Unlock()
	if l == nil {
		return nil, nil, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.alive, cancel)
	return ctx, func() { stop(); cancel() }, true
}

// UpNodes are the other members that are up now.
func (p *Port) UpNodes() (names []string) {
	for _, n := range p.cfg.Members.Others() {
		if _, up, _ := p.Last(n); up {
			names = append(names, n)
		}
	}
	return names
}

// follow listens to every other member, and stops listening to those that have left.
func (p *Port) follow(ctx context.Context) {
	changed := p.cfg.Members.Changed(ctx)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defer func() {
		p.mu.Lock()
		links := p.links
		p.links = map[string]*link{}
		p.mu.Unlock()
		for _, l := range links {
			l.cancel()
			<-l.done
		}
	}()
	for {
		p.cutRemoved()
		for _, n := range p.twins.check() {
			p.log.Info("a node runs only once again", "peer", n)
		}
		want := map[string]bool{}
		for _, n := range p.cfg.Members.Others() {
			want[n] = true
		}
		for _, n := range p.cfg.Members.Expected() {
			want[n] = true
		}
		p.setMemberAddrs(want)
		p.mu.Lock()
		var gone []*link
		for n, l := range p.links {
			if !want[n] {
				gone = append(gone, l)
				delete(p.links, n)
			}
		}
		for n := range want {
			if p.links[n] == nil {
				lctx, cancel := context.WithCancel(ctx)
				l := &link{cancel: cancel, done: make(chan struct{}), beat: Beat{Missing: -1}}
				p.links[n] = l
				p.changes.NotifyAll()
				go func() {
					defer close(l.done)
					var announcing sync.WaitGroup
					announcing.Go(func() { p.announce(lctx, n) })
					p.followOne(lctx, n, l)
					announcing.Wait()
				}()
			}
		}
		p.mu.Unlock()
		for _, l := range gone {
			l.cancel()
			<-l.done
			p.changes.NotifyAll()
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// followOne listens to one node until ctx is done.
func (p *Port) followOne(ctx context.Context, node string, l *link) {
	for ctx.Err() == nil {
		err := p.listen(ctx, node, l)
		if l.set(false, Beat{}, time.Time{}) {
			p.log.Warn("node is down", "peer", node, "err", err)
			// The next attempt must not use one that leads the same way as the lost one.
			p.transport.CloseIdleConnections()
			p.changes.NotifyAll()
		}
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

func (p *Port) listen(ctx context.Context, node string, l *link) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(beatLost, cancel)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/beat", nil)
	if err != nil {
		return err
	}
	req.Header[addressHeader] = p.cfg.Addrs
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusGone {
		p.cfg.Host.Fail(ErrRemoved)
		return ErrRemoved
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		var b Beat
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			return err
		}
		watchdog.Reset(beatLost)
		p.cfg.Host.Heard(node, b)
		p.listenTo(b.AllAddrs, b.Addrs)
		if l.set(true, b, p.cfg.Now()) {
			p.log.Info("node is up", "peer", node, "applied", b.Applied, "missing", b.Missing)
			p.cfg.Host.CameUp(node)
			p.changes.NotifyAll()
		}
	}
	return errors.Join(lines.Err(), ErrDown)
}

// set records a beat and what this node's clock shows, or with up false the loss of the stream, and reports whether up
// has changed.
func (l *link) set(up bool, b Beat, here time.Time) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = l.up != up
	l.up = up
	if up {
		l.beat, l.seen = b, time.Now()
		if changed {
			l.skew = skew{}
		}
		l.skew.add(b.Clock, here)
		if changed {
			l.alive, l.cutoff = context.WithCancel(context.Background())
		}
	} else if changed {
		l.cutoff()
	}
	l.moved.Wake()
	return changed
}

// shareTime is how long a write waits for the connected nodes, so that a client that continues at another node finds
// there what was acknowledged here.
const shareTime = 100 * time.Millisecond

// WaitShown waits until the connected nodes have applied an entry, at most shareTime. A node that was too slow is not
// waited for again until it has caught up.
func (p *Port) WaitShown(ctx context.Context, index uint64) {
	deadline := time.NewTimer(shareTime)
	defer deadline.Stop()
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for _, l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		for {
			l.mu.Lock()
			if l.slow && l.up && l.beat.Applied >= index {
				l.slow = false
			}
			if !l.up || l.slow || l.beat.Applied >= index {
				l.mu.Unlock()
				break
			}
			moved := l.moved.Next()
			l.mu.Unlock()
			select {
			case <-moved:
				continue
			case <-deadline.C:
				deadline.Reset(0)
				l.mu.Lock()
				l.slow = true
				l.mu.Unlock()
			case <-ctx.Done():
				return
			}
			break
		}
	}
}

// Up reports whether this node receives beats from another one now.
func (p *Port) Up(node string) bool {
	_, up, _ := p.Last(node)
	return up
}

// Follows reports whether this node listens to another one.
func (p *Port) Follows(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[node] != nil
}

// Missing is how many blobs a node has yet to fetch, by its own report; -1 if that is unknown.
func (p *Port) Missing(node string) int {
	b, _, _ := p.Last(node)
	return b.Missing
}

// Changes receives (capacity 1) after Up of any node has changed, until ctx is done; then it is closed.
func (p *Port) Changes(ctx context.Context) <-chan struct{} { return p.changes.Watch(ctx, ".") }

// Older reports a node that came back with less of the log than it had shown before.
type Older struct {
	Node string    `json:"node"`
	Was  uint64    `json:"was"` // newest entry that it had shown
	Is   uint64    `json:"is"`  // newest entry that it came back with
	Time time.Time `json:"time"`
}
