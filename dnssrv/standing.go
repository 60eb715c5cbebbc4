package dnssrv

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	// badAfter is how many failures in a row make a resolver the last one to be asked, for badFor.
	badAfter, badFor = 2, 5 * time.Second
	// logEvery is the shortest time between two log lines about a resolver that fails now and then: a client that asks
	// for names that it cannot resolve, and for others, makes it look so.
	logEvery = time.Minute
	// dialectFor is how long a resolver is asked in the simpler form, before the full form is tried again.
	dialectFor = 15 * time.Minute
)

// dialect is the form in which a resolver is asked.
type dialect struct {
	edns  bool // with an OPT record (RFC 6891)
	mixed bool // its name in random case, which forged answers cannot repeat (draft-vixie-dnsext-dns0x20)
}

// plainest is understood by every DNS server.
var plainest = dialect{}

// resolverState is what is remembered of a resolver.
type resolverState struct {
	failed int // questions in a row
	badTo  time.Time
	logged bool      // that it does not answer
	logAt  time.Time // earliest time of the next such line
	times  int       // failures since the last such line

	works     bool   // it has answered a question with an OPT record
	loops     uint64 // questions that came back through it
	loopAt    time.Time
	loopName  string
	loopFrom  netip.Addr
	loopLogAt time.Time // earliest time of the next line about it

	plainTo time.Time // until then it is asked without an OPT record
	flatTo  time.Time // until then it is asked in the name's original case
}

// of returns what is remembered of a resolver. f.mu must be held.
func (f *forwarder) of(r netip.AddrPort) *resolverState {
	s := f.known[r]
	if s == nil {
		s = new(resolverState)
		f.known[r] = s
	}
	return s
}

// retain forgets resolvers that t does not list.
func (f *forwarder) retain(t *Table) {
	named := make(map[netip.AddrPort]bool)
	if t != nil {
		for _, rs := range t.forward {
			for _, r := range rs {
				named[r] = true
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.known {
		if !named[r] {
			delete(f.known, r)
		}
	}
}

// order returns resolvers as configured, those that failed recently last.
func (f *forwarder) order(resolvers []netip.AddrPort) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	bad := func(r netip.AddrPort) int {
		if s := f.known[r]; s != nil && s.failed >= badAfter && now.Before(s.badTo) {
			return 1
		}
		return 0
	}
	byStanding := func(a, b netip.AddrPort) int { return cmp.Compare(bad(a), bad(b)) }
	return slices.SortedStableFunc(slices.Values(resolvers), byStanding)
}

// report records how a question to a resolver ended.
func (f *forwarder) report(r netip.AddrPort, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.of(r)
	if err == nil {
		if s.logged {
			f.log.Info("dns resolver answers again", "resolver", r.String())
		}
		s.failed, s.logged = 0, false
		return
	}
	now := f.now()
	s.badTo = now.Add(badFor)
	if s.failed++; s.failed == badAfter {
		s.times++
	}
	if s.failed >= badAfter && !s.logged && !now.Before(s.logAt) {
		f.log.Warn("dns resolver does not answer", "resolver", r.String(), "err", err, "times", s.times)
		s.logged, s.logAt, s.times = true, now.Add(logEvery), 0
	}
}

// works reports whether a resolver has answered a question with an OPT record.
func (f *forwarder) works(r netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of(r).works
}

// dialect returns the form of a question to a resolver in this round of attempts. Every second round is the plainest:
// some middleboxes silently drop what they do not understand.
func (f *forwarder) dialect(r netip.AddrPort, round int) dialect {
	if round%2 == 1 {
		return plainest
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, now := f.of(r), f.now()
	return dialect{edns: !now.Before(s.plainTo), mixed: !now.Before(s.flatTo)}
}

// learn records the result of a good answer: first did not work, used did.
func (f *forwarder) learn(r netip.AddrPort, first, used dialect) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.of(r)
	switch {
	case used.edns:
		if !s.works && !s.plainTo.IsZero() {
			f.log.Info("dns resolver understands EDNS now", "resolver", r.String())
		}
		s.works, s.plainTo = true, time.Time{}
	case first.edns:
		f.setPlain(r, s)
	}
	switch {
	case used.mixed:
		s.flatTo = time.Time{}
	case first.mixed:
		f.setFlat(r, s)
	}
}

// silent records that a resolver answered the plainest question but not one in the form of first. The first time that
// may be a lost packet, if the form has worked before.
func (f *forwarder) silent(r netip.AddrPort, first dialect) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.of(r)
	switch {
	case first.edns && s.works:
		s.works = false
	case first.edns:
		f.setPlain(r, s)
	case first.mixed:
		f.setFlat(r, s)
	}
}

func (f *forwarder) setPlain(r netip.AddrPort, s *resolverState) {
	if s.plainTo.IsZero() {
		f.log.Info("dns resolver does not understand EDNS: it is asked without it",
			"resolver", r.String(), "again_in", dialectFor)
	}
	s.works, s.plainTo = false, f.now().Add(dialectFor)
}

func (f *forwarder) setFlat(r netip.AddrPort, s *resolverState) {
	if s.flatTo.IsZero() {
		f.log.Info("dns resolver does not repeat the case of a question: it is asked in the name's own case",
			"resolver", r.String(), "again_in", dialectFor)
	}
	s.flatTo = f.now().Add(dialectFor)
}

// objects reports whether an answer, or a missing one, may be caused by the OPT record of the question (RFC 6891, 6.2.2
// and 7). If a resolver has answered such questions, its answer is taken at face value where it can have other causes.
func objects(resp *dns.Msg, err error, works bool) bool {
	if err != nil {
		return isAny(err, errGarbled, errCut)
	}
	switch {
	case resp.Rcode == dns.RcodeFormatError, resp.Rcode == dns.RcodeNotImplemented, resp.Rcode > 0xf:
		// More than four bits: BADVERS, or our OPT record echoed with other content.
		return true
	case resp.Rcode == dns.RcodeServerFailure, resp.Rcode == dns.RcodeRefused:
		return !works
	case resp.Rcode == dns.RcodeSuccess && bare(resp):
		return !works
	}
	return false
}

// bare reports whether an answer is empty, without even the SOA and the OPT record of a NODATA answer.
func bare(m *dns.Msg) bool { return len(m.Answer)+len(m.Ns)+len(m.Extra) == 0 }
