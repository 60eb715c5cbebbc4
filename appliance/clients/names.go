package clients

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/appliance/dnsquery"
	"casemate/dnssrv"
)

const (
	maxNames   = 8192             // addresses whose names are remembered
	maxBatch   = 1024             // addresses that are looked up at a time; more wait for the next look
	atATime    = 8                // questions that are under way
	nameFor    = time.Hour        // a name is remembered
	noneFor    = 10 * time.Minute // that there is none, or no answer, is remembered
	askFor     = 2 * time.Second  // for an answer
	askAgain   = 700 * time.Millisecond
	betweenAll = time.Second // between two batches
)

// NamesConfig configures Names.
type NamesConfig struct {
	// Own returns the names of addresses from records of the bastions; it is called with up to a thousand at a time.
	// Those without a name are left out.
	Own func(addrs map[netip.Addr]bool) map[netip.Addr]string
	// Resolvers returns the resolvers of the site that may be asked for the names of an address, see Reverse.
	Resolvers func(netip.Addr) []netip.AddrPort
	Now       func() time.Time // nil: time.Now
}

// Names are the names of addresses (PTR). They are looked up in the background when somebody wants to know them, and
// are remembered; how many is bounded. All methods are safe for concurrent use.
type Names struct {
	cfg  NamesConfig
	wake chan struct{}

	mu      sync.Mutex
	known   map[netip.Addr]known
	wanted  map[netip.Addr]bool
	changed uint64
}

type known struct {
	name string // "": none
	at   time.Time
}

// NewNames returns Names that know nothing yet.
func NewNames(cfg NamesConfig) *Names {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Names{cfg: cfg, wake: make(chan struct{}, 1), known: map[netip.Addr]known{}, wanted: map[netip.Addr]bool{}}
}

// Of returns the name of a client as it is known now, "" if none is. It never waits: a name that is not known, or was
// learnt long ago, is looked up in the background.
func (n *Names) Of(c Client) string {
	a, err := netip.ParseAddr(c.Client)
	if err != nil {
		if a, err = netip.ParseAddr(c.Address); err != nil {
			return "" // a /64 of which no address is known
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	k, ok := n.known[a]
	keep := nameFor
	if k.name == "" {
		keep = noneFor
	}
	if (!ok || n.cfg.Now().Sub(k.at) > keep) && len(n.wanted) < maxBatch {
		n.wanted[a] = true
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
	return k.name
}

// Changed returns a number that grows with each name that was learnt.
func (n *Names) Changed() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// Run looks names up until ctx is done.
func (n *Names) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		n.mu.Lock()
		batch := n.wanted
		n.wanted = map[netip.Addr]bool{}
		n.mu.Unlock()
		n.find(ctx, batch)
		select {
		case <-ctx.Done():
			return
		case <-time.After(betweenAll):
		}
	}
}

// find looks up the names of addresses, and remembers them.
func (n *Names) find(ctx context.Context, batch map[netip.Addr]bool) {
	own := n.cfg.Own(batch)
	for a, name := range own {
		n.learn(a, hostName(name))
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, atATime)
	for a := range batch {
		if own[a] != "" {
			continue
		}
		list := n.cfg.Resolvers(a)
		if len(list) == 0 {
			n.learn(a, "")
			continue
		}
		select {
		case <-ctx.Done():
			return
		case places <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-places }()
			if name := lookUp(ctx, list, a); ctx.Err() == nil {
				n.learn(a, name)
			}
		})
	}
}

// learn remembers a name; of too many it forgets any.
func (n *Names) learn(a netip.Addr, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old, there := n.known[a]
	for other := range n.known {
		if there || len(n.known) < maxNames {
			break
		}
		delete(n.known, other)
	}
	if old.name != name {
		n.changed++
	}
	n.known[a] = known{name, n.cfg.Now()}
}

// lookUp asks two of the resolvers, one after the other, for the name of an address; "" if they know none.
func lookUp(ctx context.Context, resolvers []netip.AddrPort, a netip.Addr) string {
	for _, r := range resolvers[:min(len(resolvers), 2)] {
		answer, err := ask(ctx, r, dnsquery.Query{ID: uint16(rand.Uint32()), Name: dnsquery.ReverseName(a),
			Type: dnsquery.PTR})
		if err != nil {
			continue
		}
		for _, name := range answer.Names {
			if name = hostName(name); name != "" {
				return name
			}
		}
		return ""
	}
	return ""
}

// ask asks a resolver over UDP, a few times.
func ask(ctx context.Context, resolver netip.AddrPort, q dnsquery.Query) (dnsquery.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	msg, err := q.Pack(0)
	if err != nil {
		return dnsquery.Answer{}, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", resolver.String())
	if err != nil {
		return dnsquery.Answer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var buf [4096]byte
	for {
		if _, err := conn.Write(msg); err != nil {
			return dnsquery.Answer{}, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			return dnsquery.Answer{}, err
		}
		for {
			n, err := conn.Read(buf[:])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return dnsquery.Answer{}, err
			}
			if a, ok := q.Read(buf[:n]); ok {
				return a, nil
			}
		}
	}
}

// hostName returns a name in lower case, "" if it is no host name: resolvers may say anything.
func hostName(s string) string {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) > 253 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return ""
	}
	return s
}

// shared are the addresses for carrier-grade NAT (RFC 6598), which sites use as private ones.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// Reverse returns the resolvers of dns.forward that are asked for the names of an address: those of the longest zone
// that has its reverse name. The resolvers for all names (".") are asked for private addresses only, as DNS does for
// clients: who gets a question for a public one may be outside of the site. Resolvers that ours reports are left out,
// and nobody is asked for the names of loopback addresses.
func Reverse(forward []dnssrv.Forward, a netip.Addr, ours func(netip.Addr) bool) []netip.AddrPort {
	a = a.Unmap()
	if !a.IsValid() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return nil
	}
	name := "." + dnsquery.ReverseName(a)
	var best *dnssrv.Forward
	length := -1
	for i, f := range forward {
		zone := strings.ToLower(strings.Trim(f.Zone, "."))
		if zone == "" && !a.IsPrivate() && !a.IsLinkLocalUnicast() && !shared.Contains(a) {
			continue
		}
		if (zone == "" || strings.HasSuffix(name, "."+zone)) && len(zone) > length {
			best, length = &forward[i], len(zone)
		}
	}
	if best == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(best.Resolvers), func(r netip.AddrPort) bool { return ours(r.Addr()) })
}
