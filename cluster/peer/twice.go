package peer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A member's data may run twice: a virtual machine was copied, or a disk was restored while the first one still ran.
// Both prove the same identity. What differs is the process: each makes an instance id when it starts, and announces it
// to every other member again and again. A restart never returns to an id of before, so ids that return tell that both
// run.
const (
	instanceHeader = "Casemate-Instance"
	announceEvery  = 2 * time.Second
	announceTime   = 10 * time.Second
	maxInstance    = 64 // bytes

	heardIDs = 16 // announcements of a node that are remembered
	// returns is how many of them must be by another instance than the one before that was heard already. One answer of
	// a process that has ended may come late and look like two returns.
	returns = 3
	// silent is how many checks (lookEvery) without an announcement end what is known of a node.
	silent = 30
)

func newInstance() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Twice are nodes of which two processes run, and the addresses of these.
type Twice map[string][]string

// twins finds them. Its zero value is ready.
type twins struct {
	mu sync.Mutex
	by map[string]*announced
}

// announced are the last announcements of one node.
type announced struct {
	ids   []string // the newest last; at most heardIDs
	from  map[string]string
	quiet int // checks since the last announcement
	twice bool
}

// saw records an announcement, and reports whether it changed that the node runs twice.
func (t *twins) saw(node, id, from string) (twice, changed bool) {
	if id == "" || len(id) > maxInstance {
		return false, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]*announced{}
	}
	a := t.by[node]
	if a == nil {
		a = &announced{from: map[string]string{}}
		t.by[node] = a
	}
	a.quiet = 0
	if a.ids = append(a.ids, id); len(a.ids) > heardIDs {
		a.ids = a.ids[1:]
	}
	a.from[id] = from
	maps.DeleteFunc(a.from, func(id, _ string) bool { return !slices.Contains(a.ids, id) })
	was := a.twice
	a.twice = returned(a.ids) >= returns
	return a.twice, a.twice != was
}

// returned counts how often an id follows another one although it was there before that.
func returned(ids []string) (n int) {
	for i := 1; i < len(ids); i++ {
		if ids[i] != ids[i-1] && slices.Contains(ids[:i-1], ids[i]) {
			n++
		}
	}
	return n
}

// check forgets nodes that have been silent, and returns those that are not known to run twice any more.
func (t *twins) check() (ended []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, a := range t.by {
		if a.quiet++; a.quiet > silent {
			if a.twice {
				ended = append(ended, node)
			}
			delete(t.by, node)
		}
	}
	return ended
}

// list returns the nodes that run twice; nil if there are none.
func (t *twins) list() (out Twice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, a := range t.by {
		if !a.twice {
			continue
		}
		if out == nil {
			out = Twice{}
		}
		out[node] = slices.Compact(slices.Sorted(maps.Values(a.from)))
	}
	return out
}

// announce tells a node again and again which process this is, until ctx is done. Older versions do not know the
// request; what they answer does not matter.
func (p *Port) announce(ctx context.Context, node string) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		if p.Up(node) {
			p.announceOnce(ctx, node)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Port) announceOnce(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+node+"/announce", nil)
	if err != nil {
		return
	}
	req.Header.Set(instanceHeader, p.instance)
	req.Header[addressHeader] = p.cfg.Addrs
	if res, err := p.client.Do(req); err == nil {
		Finish(res)
	}
}

// serveAnnounce hears which process of a node asks.
func (p *Port) serveAnnounce(w http.ResponseWriter, r *http.Request) {
	node, from := From(r), r.RemoteAddr
	// The address that it has tells more than those that it was configured with, which a copy has as well.
	if host, _, err := net.SplitHostPort(from); err == nil {
		from = host
		for _, addr := range r.Header[addressHeader] {
			if own, _, err := net.SplitHostPort(addr); err == nil && own == host {
				from = addr
			}
		}
	}
	twice, changed := p.twins.saw(node, r.Header.Get(instanceHeader), from)
	if changed && twice {
		p.log.Error("a node runs twice, with the same identity: stop the copy", "peer", node, "addrs",
			p.twins.list()[node])
	} else if changed {
		p.log.Info("a node runs only once again", "peer", node)
	}
	Reply(w, Answer{})
}

// Twice returns the nodes, including this one, that run twice, as this node has noticed or the others report now.
func (p *Port) Twice() Twice {
	out := p.twins.list()
	for _, node := range p.UpNodes() {
		b, _, _ := p.Last(node)
		for name, addrs := range b.Twice {
			if out == nil {
				out = Twice{}
			}
			if len(out[name]) < 2 && ValidNode(name) {
				out[name] = addrs[:min(len(addrs), heardIDs)]
			}
		}
	}
	return out
}
