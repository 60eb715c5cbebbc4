package cluster

import (
	"bufio"
	"casemate/cluster/peer"
	"casemate/cluster/wake"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	beatEvery = 333 * time.Millisecond // at least
	beatLeast = 2 * time.Millisecond   // between two
	beatLost  = 1 * time.Second        // without one a node counts as down
	redial    = 200 * time.Millisecond
)

// beat is what a node tells the others of itself, all the time.
type beat struct {
	Applied uint64 `json:"applied"` // newest log entry whose effect can be read there, and will be after a power cut
	Lacks   int    `json:"lacks"`   // blobs still to come; -1 while it counts
	Free    int64  `json:"free"`
	Total   int64  `json:"total"`
	Format  uint64 `json:"format"`
	Version string `json:"version"`

	// Older versions say nothing of the following.
	At      uint64            `json:"at,omitempty"`      // newest entry in the state
	Sum     string            `json:"sum,omitempty"`     // its running digest there
	Heard   uint64            `json:"heard,omitempty"`   // the newest Applied that it has heard from who listens
	Differs uint64            `json:"differs,omitempty"` // an entry at which it differs from who listens
	Older   *Older            `json:"older,omitempty"`   // what it knows of having come back older
	Leader  string            `json:"leader,omitempty"`  // whom it takes for the leader
	Addrs   map[string]string `json:"addrs,omitempty"`   // of nodes that are not where their records say
	Stopped string            `json:"stopped,omitempty"` // why it stops now
}

func (c *Cluster) beat() beat {
	s := c.machine.view.Load()
	b := beat{Applied: c.shown(), Lacks: c.replica.Missing(), Version: c.cfg.Version, Format: maxFormat, At: s.Index(), Sum: s.Sum().String()}
	b.Leader, _ = c.lead.get()
	if c.peers != nil {
		b.Addrs = c.gossip()
	}
	b.Older = c.neighbours.self(c.cfg.Node)
	b.Free, b.Total, _ = c.blobs.Free()
	return b
}

// now is a channel that has come.
var now = func() <-chan time.Time { ch := make(chan time.Time); close(ch); return ch }()

// serveBeat is a stream without an end.
func (p *peers) serveBeat(w http.ResponseWriter, r *http.Request) {
	c := p.c
	c.hear(From(r), r.Header.Get(addressHeader))
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for {
		if c.removed(From(r)) {
			return // it asks again, and is told
		}
		b := c.beat()
		b.Heard, b.Differs = c.neighbours.of(From(r))
		if err := c.Err(); err != nil {
			b.Stopped = err.Error()
		}
		if enc.Encode(b) != nil || rc.Flush() != nil {
			return
		}
		if b.Stopped != "" {
			return
		}
		wait, cancel := context.WithTimeout(r.Context(), beatEvery)
		moved := c.marked.wait(wait, b.Applied+1) == nil
		cancel()
		pause := now
		if moved { // else it was long enough
			pause = time.After(beatLeast)
		}
		select {
		case <-r.Context().Done():
			return
		case <-c.stop:
			return
		case <-c.done: // it says why
		case <-pause:
		}
	}
}

// link is what this node hears from another.
type link struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	beat   beat
	up     bool
	seen   time.Time
	moved  wake.Broadcast // there is another beat, or up has changed
	slow   bool           // did not apply within the time that writes wait: they do not wait for it until it has caught up
	cutoff context.CancelFunc
	alive  context.Context // done when the node is down; owned by mu
}

// last returns what was last heard of a node and whether it is up.
func (p *peers) Last(node string) (b beat, up bool, seen time.Time) {
	p.mu.Lock()
	l := p.links[node]
	p.mu.Unlock()
	if l == nil {
		return beat{Lacks: -1}, false, time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.beat, l.up, l.seen
}

// alive returns a context that is done when the node is known to be down, or with ctx; not ok if it is down now.
func (p *peers) Alive(ctx context.Context, node string) (context.Context, context.CancelFunc, bool) {
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

// upNodes are the other members that answer now.
func (p *peers) UpNodes() (names []string) {
	for _, n := range p.c.others() {
		if _, up, _ := p.Last(n); up {
			names = append(names, n)
		}
	}
	return names
}

// keep follows every other member, and stops following those that have left.
func (p *peers) keep(ctx context.Context) {
	changed := p.c.machine.hub.Watch(ctx, membersDir) // a removal changes it too
	tick := time.NewTicker(upkeepEvery)
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
		want := map[string]bool{}
		for _, n := range p.c.others() {
			want[n] = true
		}
		for n := range p.id.seed.Members { // before the first entries of the log have come
			if n != p.c.cfg.Node && p.c.machine.view.Load().Index() == 0 {
				want[n] = true
			}
		}
		p.setHomes(want)
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
				l := &link{cancel: cancel, done: make(chan struct{}), beat: beat{Lacks: -1}}
				p.links[n] = l
				p.c.health.NotifyAll()
				go func() {
					defer close(l.done)
					p.follow(lctx, n, l)
				}()
			}
		}
		p.mu.Unlock()
		for _, l := range gone {
			l.cancel()
			<-l.done
			p.c.health.NotifyAll()
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C: // raft's configuration changes without a word to the tree
		}
	}
}

// follow listens to one node until ctx is done.
func (p *peers) follow(ctx context.Context, node string, l *link) {
	for ctx.Err() == nil {
		err := p.listen(ctx, node, l)
		if l.set(false, beat{}) {
			p.c.log.Warn("node is down", "peer", node, "err", err)
			p.c.health.NotifyAll()
		}
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

func (p *peers) listen(ctx context.Context, node string, l *link) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(beatLost, cancel)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/beat", nil)
	if err != nil {
		return err
	}
	req.Header.Set(addressHeader, p.c.cfg.PeerAddr)
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusGone {
		p.c.fail(errRemoved)
		return errRemoved
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		var b beat
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			return err
		}
		watchdog.Reset(beatLost)
		p.c.judge(node, b)
		p.c.listenTo(b.Addrs)
		if l.set(true, b) {
			p.c.log.Info("node is up", "peer", node, "applied", b.Applied, "lacks", b.Lacks)
			p.c.followers.restarted(node)
			p.c.health.NotifyAll()
		}
	}
	return errors.Join(lines.Err(), peer.ErrDown)
}

// set takes a beat, or that there are none, and reports whether up has changed.
func (l *link) set(up bool, b beat) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = l.up != up
	l.up = up
	if up {
		l.beat, l.seen = b, time.Now()
		if changed {
			l.alive, l.cutoff = context.WithCancel(context.Background())
		}
	} else if changed {
		l.cutoff()
	}
	l.moved.Wake()
	return changed
}

// shareTime is how long a write waits for the nodes that are connected: so that a client that goes on to another node
// finds there what was answered here.
const shareTime = 100 * time.Millisecond

// shared waits until the connected nodes have applied an entry too; briefly and not longer, and not again for one that
// was too slow until it has caught up.
func (p *peers) shared(ctx context.Context, index uint64) {
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

// Up reports whether this node hears from another one now.
func (p *peers) Up(node string) bool { return p.c.Up(node) }

// Missing is how many blobs a node has yet to fetch, by its own account; -1 if that is not known.
func (p *peers) Missing(node string) int {
	b, _, _ := p.Last(node)
	return b.Lacks
}

// Changes receives after Up of any node has changed, until ctx is done.
func (p *peers) Changes(ctx context.Context) <-chan struct{} { return p.c.Changes(ctx) }

// Do sends a request to the node that is its URL's host.
func (p *peers) Do(req *http.Request) (*http.Response, error) { return p.client.Do(req) }
