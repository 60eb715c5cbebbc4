package dnssrv

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds on forwarding.
const (
	// forwardTimeout is all the time that a question gets: with what the client's resolver and the network add, below the two seconds after
	// which it asks the next bastion.
	forwardTimeout = 1800 * time.Millisecond
	// attempts are spread over attemptSpread, the first at once; earlier ones go on listening.
	attemptSpread = 1500 * time.Millisecond
	minAttempts   = 3
	// maxForwards at once, and of one client.
	maxForwards, maxForwardsPerClient = 1024, 256
	// A resolver that failed this often in a row is asked last for a while.
	badAfter, badFor = 2, 5 * time.Second
)

var (
	errNoResolver = errors.New("no resolver")
	errLate       = errors.New("no answer in time")
)

// forwarder asks resolvers. There is no cache: nodes, nodelocaldns and CoreDNS cache for themselves, so do the resolvers; ours would save
// little and would have to be right about what an import or a changed record makes stale.
type forwarder struct {
	log *slog.Logger

	mu       sync.Mutex
	inFlight int
	by       map[netip.Addr]int
	health   map[netip.AddrPort]*health
}

type health struct {
	failed int
	badTo  time.Time
}

func newForwarder() *forwarder {
	return &forwarder{by: make(map[netip.Addr]int), health: make(map[netip.AddrPort]*health)}
}

func (f *forwarder) acquire(client netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inFlight >= maxForwards || f.by[client] >= maxForwardsPerClient {
		return false
	}
	f.inFlight++
	f.by[client]++
	return true
}

func (f *forwarder) release(client netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight--
	if f.by[client]--; f.by[client] == 0 {
		delete(f.by, client)
	}
}

// keep forgets resolvers that t does not name.
func (f *forwarder) keep(t *Table) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.health {
		if t == nil || !slices.ContainsFunc(slices.Collect(maps.Values(t.forward)), func(rs []netip.AddrPort) bool { return slices.Contains(rs, r) }) {
			delete(f.health, r)
		}
	}
}

// order gives resolvers as configured, those that lately failed last.
func (f *forwarder) order(resolvers []netip.AddrPort) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	bad := func(r netip.AddrPort) int {
		if h := f.health[r]; h != nil && h.failed >= badAfter && now.Before(h.badTo) {
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(resolvers), func(a, b netip.AddrPort) int { return cmp.Compare(bad(a), bad(b)) })
}

// report remembers how an attempt ended.
func (f *forwarder) report(r netip.AddrPort, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.health[r]
	switch {
	case err == nil && h != nil:
		if h.failed >= badAfter {
			f.log.Info("dns resolver answers again", "resolver", r.String())
		}
		delete(f.health, r)
	case err != nil:
		if h == nil {
			h = new(health)
			f.health[r] = h
		}
		if h.failed++; h.failed == badAfter {
			f.log.Warn("dns resolver does not answer", "resolver", r.String(), "err", err)
		}
		h.badTo = time.Now().Add(badFor)
	}
}

type attempt struct {
	resolver netip.AddrPort
	resp     *dns.Msg
	err      error
}

// exchange asks resolvers until one gives an answer that can be passed on: NOERROR or NXDOMAIN. The answer's flags are not to be believed.
func (f *forwarder) exchange(ctx context.Context, resolvers []netip.AddrPort, q dns.Question) (*dns.Msg, error) {
	if len(resolvers) == 0 {
		return nil, fmt.Errorf("dns forward %s: %w", q.Name, errNoResolver)
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	m := &dns.Msg{MsgHdr: dns.MsgHdr{RecursionDesired: true}, Question: []dns.Question{q}}
	m.SetEdns0(maxUDP, false)
	packet, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("dns forward %s: %w", q.Name, err)
	}

	resolvers = f.order(resolvers)
	plan := slices.Clone(resolvers)
	for len(plan) < minAttempts {
		plan = append(plan, resolvers...)
	}
	every := time.NewTicker(attemptSpread / time.Duration(len(plan)))
	defer every.Stop()
	done := make(chan attempt, len(plan))
	running := make(map[netip.AddrPort]int)
	asked := 0
	answered := make(map[netip.AddrPort]bool)
	failed := make(map[netip.AddrPort]error) // once a question, however often it was asked
	next := func() {
		for len(plan) > 0 {
			r := plan[0]
			plan = plan[1:]
			if answered[r] {
				continue
			}
			asked++
			running[r]++
			wg.Go(func() {
				resp, err := ask(ctx, r, slices.Clone(packet), q)
				done <- attempt{r, resp, err}
			})
			return
		}
	}
	defer func() {
		if outer.Err() != nil {
			return // what we cut off ourselves says nothing about resolvers
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
				for r, n := range running {
					if n > 0 {
						failed[r] = errLate
					}
				}
				next()
			}
		}
		running[a.resolver]--
		switch {
		case a.err != nil:
			failed[a.resolver], last = a.err, a.err
		case a.resp.Rcode == dns.RcodeSuccess || a.resp.Rcode == dns.RcodeNameError:
			answered[a.resolver] = true
			return a.resp, nil
		default:
			// It lives and cannot help: others may, and it is not asked again.
			answered[a.resolver] = true
			last = fmt.Errorf("resolver %s answers %s", a.resolver, dns.RcodeToString[a.resp.Rcode])
		}
		if ctx.Err() == nil {
			next()
		}
	}
	return nil, fmt.Errorf("dns forward %s: %w", q.Name, last)
}

// ask asks one resolver over UDP from a socket of its own, so that the kernel picks a random port and drops what others send, and over TCP if the answer
// was cut.
func ask(ctx context.Context, resolver netip.AddrPort, packet []byte, q dns.Question) (*dns.Msg, error) {
	resp, err := askUDP(ctx, resolver, packet, q)
	if err == nil && resp.Truncated {
		resp, err = askTCP(ctx, resolver, packet, q)
	}
	if err != nil {
		return nil, fmt.Errorf("resolver %s: %w", resolver, err)
	}
	return resp, nil
}

func dial(ctx context.Context, network string, resolver netip.AddrPort) (net.Conn, func(), error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, resolver.String())
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(past) })
	return c, func() { stop(); c.Close() }, nil
}

func askUDP(ctx context.Context, resolver netip.AddrPort, packet []byte, q dns.Question) (*dns.Msg, error) {
	c, done, err := dial(ctx, "udp", resolver)
	if err != nil {
		return nil, err
	}
	defer done()
	rand.Read(packet[:2])
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	buf := make([]byte, maxQuery)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		// Anything else is forged or late: the true answer may still come.
		if resp, ok := matches(buf[:n], packet, q); ok {
			return resp, nil
		}
	}
}

func askTCP(ctx context.Context, resolver netip.AddrPort, packet []byte, q dns.Question) (*dns.Msg, error) {
	c, done, err := dial(ctx, "tcp", resolver)
	if err != nil {
		return nil, err
	}
	defer done()
	rand.Read(packet[:2])
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	resp, ok := matches(buf, packet, q)
	if !ok {
		return nil, errors.New("answer does not belong to the question")
	}
	return resp, nil
}

// matches reads an answer to packet, whose question is q (RFC 5452 §9.1).
func matches(b, packet []byte, q dns.Question) (*dns.Msg, bool) {
	if len(b) < headerLen || b[0] != packet[0] || b[1] != packet[1] || b[2]&bitQR == 0 {
		return nil, false
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil && !m.Truncated {
		return nil, false
	}
	if len(m.Question) != 1 || m.Opcode != dns.OpcodeQuery {
		return nil, false
	}
	got := m.Question[0]
	return m, strings.EqualFold(got.Name, q.Name) && got.Qtype == q.Qtype && got.Qclass == q.Qclass
}
