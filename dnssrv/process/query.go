package process

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"casemate/dnssrv"
)

// The daemon sends queries, and the process replies to each of them, in any order. A process of a version without
// queries says so in its hello: it would ignore them.
const (
	// maxQueries is how many queries a process works on at the same time; it refuses further ones.
	maxQueries = 8
	// queryWait is how long the daemon waits for a reply: longer than a process waits for resolvers.
	queryWait = 5 * time.Second
)

// ErrNoQueries is returned for a process of an older version.
var ErrNoQueries = errors.New("the DNS process is of an older version, which does not explain its answers: restart " +
	"it (systemctl restart casemate-dns)")

type query struct {
	ID      uint64          `json:"id"`
	Explain *dnssrv.Inquiry `json:"explain,omitempty"`
	// Resolvers asks for Server.Resolvers.
	Resolvers bool `json:"resolvers,omitempty"`
}

type reply struct {
	ID          uint64              `json:"id"`
	Explanation *dnssrv.Explanation `json:"explanation,omitempty"`
	Resolvers   []dnssrv.Resolver   `json:"resolvers,omitempty"`
	// Error is a sentence; Mistake says that the question is wrong.
	Error   string `json:"error,omitempty"`
	Mistake bool   `json:"mistake,omitempty"`
}

// Bounds on a reply.
const (
	maxSteps     = 1000
	maxStepItems = 10_000 // of all lists of a step; dns.allow has no other bound
	maxRecords   = 10_000
	maxResolvers = 512
)

// check reports whether a reply of the process can be shown to an operator.
func (r reply) check() error {
	var texts []string
	if e := r.Explanation; e != nil {
		if len(e.Steps) > maxSteps || len(e.Records) > maxRecords || e.Cut < 0 {
			return broken("an explanation of %d steps and %d records", len(e.Steps), len(e.Records))
		}
		texts = append(append(texts, e.Records...), e.Rcode)
		for _, st := range e.Steps {
			texts = append(texts, string(st.What), st.Name, st.Zone, st.Owner, st.Target, st.Text)
			lists := [][]string{st.Types, st.Nodes, st.Down, st.Servers}
			for _, list := range lists {
				if len(list) > maxStepItems {
					return broken("a step of %d items", len(list))
				}
				texts = append(texts, list...)
			}
		}
	}
	if len(r.Resolvers) > maxResolvers {
		return broken("%d resolvers", len(r.Resolvers))
	}
	for _, s := range r.Resolvers {
		texts = append(texts, s.Zone, s.Server, s.LastError)
		if s.Latency < 0 {
			return broken("a latency of %s", s.Latency)
		}
	}
	for _, s := range append(texts, r.Error) {
		// Records are longer than sentences.
		if len(s) > maxReport || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return broken("a text of %d bytes", len(s))
		}
	}
	return nil
}

// queries are the queries of one connection that the process works on.
type queries struct {
	ctx  context.Context
	say  func(kind, any) error
	slot chan struct{}
	wg   sync.WaitGroup
}

// answer replies to q in a goroutine. An error ends the connection.
func (s *server) answerQuery(on *queries, q query) error {
	select {
	case on.slot <- struct{}{}:
	default:
		return on.say(kindReply, reply{ID: q.ID, Error: "DNS explains too many answers at the same time: try again"})
	}
	on.wg.Go(func() {
		defer func() { <-on.slot }()
		out := reply{ID: q.ID}
		if q.Explain != nil {
			e, err := s.dns.Explain(on.ctx, *q.Explain)
			if err != nil {
				out.Error, out.Mistake = printable(err.Error()), true
			} else {
				out.Explanation = clean(e)
			}
		}
		if q.Resolvers {
			out.Resolvers = s.dns.Resolvers()
		}
		if b, err := encode(kindReply, out); err != nil || len(b) > maxReport {
			out = reply{ID: q.ID, Error: "the explanation of this answer is too long"}
		}
		on.say(kindReply, out) // a connection that has ended is no error of this query
	})
	return nil
}

// clean makes the texts of an explanation printable: some are of resolvers.
func clean(e dnssrv.Explanation) *dnssrv.Explanation {
	list := func(texts []string) {
		for i, s := range texts {
			texts[i] = onlyPrintable(s)
		}
	}
	list(e.Records)
	for i := range e.Steps {
		st := &e.Steps[i]
		for _, s := range []*string{&st.Name, &st.Zone, &st.Owner, &st.Target, &st.Text} {
			*s = onlyPrintable(*s)
		}
		list(st.Servers)
	}
	return &e
}

// Explain asks the process what a client would be answered, and why: see dnssrv.Server.Explain. A *Mistake says that
// the question is wrong.
func (l *Link) Explain(ctx context.Context, in dnssrv.Inquiry) (dnssrv.Explanation, error) {
	r, err := l.query(ctx, query{Explain: &in})
	if err == nil && r.Explanation == nil {
		err = errors.New("the DNS process has not explained its answer")
	}
	if err != nil {
		return dnssrv.Explanation{}, err
	}
	return *r.Explanation, nil
}

// Resolvers asks the process what it knows of resolvers: see dnssrv.Server.Resolvers.
func (l *Link) Resolvers(ctx context.Context) ([]dnssrv.Resolver, error) {
	r, err := l.query(ctx, query{Resolvers: true})
	return r.Resolvers, err
}

// Mistake is the error of a query that is wrong, in one sentence.
type Mistake struct{ Text string }

func (m *Mistake) Error() string { return m.Text }

// query sends q and waits for the reply.
func (l *Link) query(ctx context.Context, q query) (reply, error) {
	l.mu.Lock()
	switch {
	case l.conn == nil || l.stop:
		why := l.why
		l.mu.Unlock()
		if why != nil {
			return reply{}, fmt.Errorf("the DNS process is not connected: %w", why)
		}
		return reply{}, errors.New("the DNS process is not connected")
	case !l.queries:
		l.mu.Unlock()
		return reply{}, ErrNoQueries
	case len(l.replies) >= maxQueries:
		l.mu.Unlock()
		return reply{}, errors.New("DNS explains too many answers at the same time: try again")
	}
	l.asked++
	q.ID = l.asked
	ch := make(chan reply, 1)
	l.replies[q.ID] = ch
	l.toAsk = append(l.toAsk, q)
	l.mu.Unlock()
	l.poke()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.replies, q.ID)
	}()
	timeout := time.NewTimer(queryWait)
	defer timeout.Stop()
	select {
	case r, ok := <-ch:
		switch {
		case !ok:
			return reply{}, errors.New("the DNS process was disconnected: try again")
		case r.Mistake:
			return reply{}, &Mistake{r.Error}
		case r.Error != "":
			return reply{}, errors.New(r.Error)
		}
		return r, nil
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case <-timeout.C:
		return reply{}, fmt.Errorf("the DNS process has not replied within %s: try again", queryWait)
	}
}

// replied passes a reply to the call that waits for it.
func (l *Link) replied(r reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch := l.replies[r.ID]; ch != nil {
		ch <- r
		delete(l.replies, r.ID)
	}
}
