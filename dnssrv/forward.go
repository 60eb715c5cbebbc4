package dnssrv

import (
	"casemate/cluster/share"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds on forwarding.
const (
	// forwardTimeout bounds the whole time of a question. With the delays of the client's resolver and the network, it
	// stays below the two seconds after which a client asks the next bastion.
	forwardTimeout = 1800 * time.Millisecond
	// attempts are distributed over attemptSpread, the first at once; earlier attempts keep listening.
	attemptSpread = 1500 * time.Millisecond
	minAttempts   = 3
	// maxForwards bounds the questions in flight, maxForwardsPerClient those of one IPv4 address and
	// maxForwardsPerNetwork those of one /64: a host there can use all of its addresses, and so can a forger, but it
	// is also where all nodes of a site may be.
	maxForwards, maxForwardsPerClient, maxForwardsPerNetwork = 1024, 256, 512
	// At that bound, a new question replaces one of the oldest that has waited longer than lateAfter and longer than
	// lateTimes the typical time of an answer.
	lateAfter, lateTimes = 100 * time.Millisecond, 8
	oldest               = 16
)

var (
	errNoResolver = errors.New("no resolver")
	errLate       = errors.New("no answer in time")
	errShed       = errors.New("too many questions are being forwarded")
)

// forwarder asks resolvers. It has no cache: nodes, nodelocaldns, CoreDNS and the resolvers have caches. Another one
// would save little, and would have to drop what an import or a changed record makes stale.
type forwarder struct {
	log *slog.Logger
	now func() time.Time // for what is remembered; sockets use the system's clock

	timeout, spread time.Duration // forwardTimeout and attemptSpread; tests set other values before they serve

	mu      sync.Mutex
	flights list.List                   // of *flight, the oldest first
	by      map[netip.Prefix]*list.List // by share.Net
	typical time.Duration               // time of a quick answer; 0 before the first one
	known   map[netip.AddrPort]*resolverState

	sent inFlight
}

// flight is a client's question that resolvers are being asked.
type flight struct {
	client   netip.Prefix
	began    time.Time
	cancel   context.CancelCauseFunc
	all, own *list.Element // elements of forwarder.flights and forwarder.by; nil once it has ended or was cancelled
}

func newForwarder(log *slog.Logger, now func() time.Time) *forwarder {
	return &forwarder{
		log: log, now: now, timeout: forwardTimeout, spread: attemptSpread,
		by: make(map[netip.Prefix]*list.List), known: make(map[netip.AddrPort]*resolverState),
	}
}

// begin registers a client's question; cancel ends it. At the bound, begin cancels a question that has waited much
// longer than answers take: its answer will probably never come, and a flood of such questions must not displace those
// that are answered at once. Among the oldest it picks one of the client that has most. If answers are slow in general,
// it cancels none: that would end all of them.
func (f *forwarder) begin(from netip.Addr, cancel context.CancelCauseFunc) *flight {
	client, limit := share.Net(from), maxForwardsPerClient
	if client.Addr().Is6() {
		limit = maxForwardsPerNetwork
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	var old *flight
	switch own := f.by[client]; {
	case own != nil && own.Len() >= limit:
		old = own.Front().Value.(*flight)
	case f.flights.Len() >= maxForwards:
		most := 0
		for e, n := f.flights.Front(), 0; e != nil && n < oldest; e, n = e.Next(), n+1 {
			fl := e.Value.(*flight)
			if has := f.by[fl.client].Len(); has > most && f.late(fl, now) {
				old, most = fl, has
			}
		}
		if old == nil {
			return nil
		}
	}
	if old != nil {
		if !f.late(old, now) {
			return nil
		}
		old.cancel(errShed)
		f.remove(old)
	}
	fl := &flight{client: client, began: now, cancel: cancel}
	fl.all = f.flights.PushBack(fl)
	if f.by[client] == nil {
		f.by[client] = list.New()
	}
	fl.own = f.by[client].PushBack(fl)
	return fl
}

// late reports whether a question has waited so long that it may be cancelled.
func (f *forwarder) late(fl *flight, now time.Time) bool {
	return now.Sub(fl.began) > max(lateAfter, lateTimes*f.typical)
}

// end removes a question. answered reports that the resolvers gave an answer.
func (f *forwarder) end(fl *flight, answered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if took := f.now().Sub(fl.began); answered {
		// Follows the quickest quarter: a flood of slow questions must not make slowness typical.
		switch {
		case f.typical == 0:
			f.typical = took
		case took < f.typical:
			f.typical -= f.typical / 32
		default:
			f.typical += f.typical/96 + 1
		}
	}
	f.remove(fl)
}

// remove must be called with f.mu held.
func (f *forwarder) remove(fl *flight) {
	if fl.all == nil {
		return
	}
	f.flights.Remove(fl.all)
	own := f.by[fl.client]
	own.Remove(fl.own)
	if own.Len() == 0 {
		delete(f.by, fl.client)
	}
	fl.all, fl.own = nil, nil
}

// attempt is a question sent to a resolver, and its result.
type attempt struct {
	resolver netip.AddrPort
	round    int
	dialect  dialect

	resp *dns.Msg
	err  error
}

// plan returns the attempts in order, the earlier rounds first. A resolver not known to understand our questions gets
// at least two rounds, so that one of them uses the plainest form.
func (f *forwarder) plan(resolvers []netip.AddrPort) []attempt {
	var plan []attempt
	for round := 0; round < 2 || len(plan) < minAttempts; round++ {
		for _, r := range resolvers {
			if round == 0 || len(plan) < minAttempts || !f.works(r) {
				plan = append(plan, attempt{resolver: r, round: round, dialect: f.dialect(r, round)})
			}
		}
	}
	return plan
}

// exchange asks resolvers until take accepts an answer or the deadline passes. Only NOERROR and NXDOMAIN are passed to
// take; an error of take means that another resolver may know better. The flags of the answer must not be trusted.
func (f *forwarder) exchange(
	ctx context.Context, deadline time.Time, resolvers []netip.AddrPort, q dns.Question, by asker,
	take func(from netip.AddrPort, resp *dns.Msg) error,
) error {
	if len(resolvers) == 0 {
		return fmt.Errorf("dns forward %s: %w", q.Name, errNoResolver)
	}
	left := time.Until(deadline)
	if left <= 0 {
		return fmt.Errorf("dns forward %s: %w", q.Name, errLate)
	}
	outer := ctx
	ctx, cancel := context.WithDeadline(ctx, deadline)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	plan := f.plan(f.order(resolvers))
	every := time.NewTicker(max(min(f.spread, left)/time.Duration(len(plan)), time.Millisecond))
	defer every.Stop()
	done := make(chan attempt, len(plan))
	running := make(map[netip.AddrPort][]dialect)
	asked := 0
	answered := make(map[netip.AddrPort]bool)
	failed := make(map[netip.AddrPort]error) // counted once a question, however often it was asked
	next := func() {
		for len(plan) > 0 {
			a := plan[0]
			plan = plan[1:]
			if answered[a.resolver] {
				continue
			}
			asked++
			running[a.resolver] = append(running[a.resolver], a.dialect)
			wg.Go(func() {
				a.resp, a.err = f.ask(ctx, a.resolver, q, a.dialect, by)
				done <- a
			})
			return
		}
	}
	defer func() {
		if outer.Err() != nil {
			return // attempts that we cancelled say nothing about resolvers
		}
		for r := range answered {
			delete(failed, r)
			f.report(r, nil)
		}
		for r, err := range failed {
			f.report(r, err)
		}
	}()
	next()
	var last error
	for ; asked > 0; asked-- {
		var a attempt
		for waiting := true; waiting; {
			select {
			case a = <-done:
				waiting = false
			case <-every.C:
				for r, as := range running {
					if len(as) > 0 {
						failed[r] = errLate
					}
				}
				next()
			}
		}
		for i, d := range running[a.resolver] {
			if d == a.dialect {
				running[a.resolver] = append(running[a.resolver][:i:i], running[a.resolver][i+1:]...)
				break
			}
		}
		switch {
		case a.err != nil:
			failed[a.resolver], last = a.err, a.err
		case a.resp.Rcode == dns.RcodeSuccess || a.resp.Rcode == dns.RcodeNameError:
			answered[a.resolver] = true
			if rest := running[a.resolver]; a.round%2 == 1 && len(rest) > 0 && rest[0] != plainest {
				f.silent(a.resolver, rest[0])
			}
			if last = take(a.resolver, a.resp); last == nil {
				return nil
			}
			f.complain(a.resolver, reasonOf(last))
			last = fmt.Errorf("resolver %s: %w", a.resolver, last)
		default:
			// The resolver is alive but cannot answer: others may, and this one is not asked again.
			answered[a.resolver] = true
			last = fmt.Errorf("resolver %s answers %s", a.resolver, rcodeText(a.resp.Rcode))
			f.complain(a.resolver, "it answers "+rcodeText(a.resp.Rcode))
			if saysLoop(a.resp) {
				f.looped(a.resolver, dns.CanonicalName(q.Name), netip.Addr{})
				last = fmt.Errorf("%w: resolver %s forwards %s back", errLoop, a.resolver, q.Name)
			}
		}
		if ctx.Err() == nil {
			next()
		}
	}
	return fmt.Errorf("dns forward %s: %w", q.Name, last)
}
