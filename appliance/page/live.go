package page

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"casemate/appliance/oidc"
	"casemate/cluster/share"
)

const (
	liveEvery = time.Second      // how often topics are looked at
	liveBeat  = 20 * time.Second // how often a waiting browser gets a line, so that a lost connection is noticed
	maxLive   = 1000             // browsers
	maxOfOne  = 200              // of them at one address (share.Of)
)

// live tells browsers which topics have changed, by server-sent events. It never sends content: each browser fetches
// its page again, as its own account. One goroutine looks at the topics, however many browsers wait, and none waits:
// none looks.
type live struct {
	topics map[string]func() uint64

	mu      sync.Mutex
	ctx     context.Context // of run; nil before
	waiting map[*watcher]bool
	wake    chan struct{} // has room for one
}

// watcher is a browser that waits.
type watcher struct {
	client  string // its address
	topics  map[string]bool
	changed chan string // has room for one: the browser fetches all of its page again
}

func newLive(topics map[string]func() uint64) *live {
	return &live{topics: topics, waiting: map[*watcher]bool{}, wake: make(chan struct{}, 1)}
}

// run looks for changes until ctx is done.
func (l *live) run(ctx context.Context) {
	l.mu.Lock()
	l.ctx = ctx
	l.mu.Unlock()
	last := map[string]uint64{}
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	for {
		if !l.any() {
			clear(last)
			select {
			case <-ctx.Done():
				return
			case <-l.wake:
			}
		}
		for name, version := range l.topics {
			v := version()
			if before, known := last[name]; known && before != v {
				l.tell(name)
			}
			last[name] = v
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *live) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0
}

func (l *live) tell(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.waiting {
		if w.topics[topic] {
			select {
			case w.changed <- topic:
			default: // it has not taken the one before
			}
		}
	}
}

// serveLive is GET /live?for=TOPIC,TOPIC. A stream of a session ends with the session, and does not prolong it.
func (p *Page) serveLive(w http.ResponseWriter, r *http.Request) {
	r.Header.Set(oidc.UnattendedHeader, "1")
	ended := func() bool { return false }
	if oidc.Session(r) != "" {
		ended = func() bool {
			c := &call{p: p, w: w, r: r}
			_, err := c.get("/v1/whoami", new(whoami))
			return is(err, http.StatusUnauthorized)
		}
	}
	p.live.serve(w, r, ended)
}

// of counts the browsers of a client. l.mu is held.
func (l *live) of(client string) (n int) {
	for w := range l.waiting {
		if w.client == client {
			n++
		}
	}
	return n
}

// serve sends an event for each change. Whether something has changed is no secret: what has is asked for with the
// account's rights. When ended is true, the event "ended" is the last.
func (l *live) serve(w http.ResponseWriter, r *http.Request, ended func() bool) {
	n := &watcher{client: share.OfText(r.RemoteAddr), topics: map[string]bool{}, changed: make(chan string, 1)}
	for name := range strings.SplitSeq(r.URL.Query().Get("for"), ",") {
		if l.topics[name] != nil {
			n.topics[name] = true
		}
	}
	l.mu.Lock()
	ctx := l.ctx
	full := len(l.waiting) >= maxLive || l.of(n.client) >= maxOfOne
	if ctx != nil && !full && len(n.topics) > 0 {
		l.waiting[n] = true
	}
	l.mu.Unlock()
	if ctx == nil || full || len(n.topics) == 0 {
		w.WriteHeader(http.StatusNoContent) // an EventSource does not come again
		return
	}
	defer func() {
		l.mu.Lock()
		delete(l.waiting, n)
		l.mu.Unlock()
	}()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	send := func(line string) bool {
		if _, err := fmt.Fprint(w, line); err != nil {
			return false
		}
		return flush.Flush() == nil
	}
	beat := time.NewTicker(liveBeat)
	defer beat.Stop()
	look := true // whether the session has ended, with each beat
	line := ": waiting\n\n"
	for {
		if look && ended() {
			send("event: ended\ndata: \n\n")
			return
		}
		if !send(line) {
			return
		}
		line, look = ": waiting\n\n", false
		select {
		case <-ctx.Done():
			return
		case <-r.Context().Done():
			return
		case topic := <-n.changed:
			line = "event: change\ndata: " + topic + "\n\n"
		case <-beat.C:
			look = true
		}
	}
}
