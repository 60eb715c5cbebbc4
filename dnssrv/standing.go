package dnssrv

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"syscall"
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

	answers, failures  uint64        // questions
	answered, failedAt time.Time     // the last ones
	why                string        // what was wrong last
	latency            time.Duration // of answers, smoothed; 0: none yet

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
		s.answers, s.answered = s.answers+1, f.now()
		return
	}
	now := f.now()
	s.failures, s.failedAt, s.why = s.failures+1, now, reasonOf(err)
	s.badTo = now.Add(badFor)
	if s.failed++; s.failed == badAfter {
		s.times++
	}
	if s.failed >= badAfter && !s.logged && !now.Before(s.logAt) {
		f.log.Warn("dns resolver does not answer", "resolver", r.String(), "err", err, "times", s.times)
		s.logged, s.logAt, s.times = true, now.Add(logEvery), 0
	}
}

// complain records an answer of a resolver that is of no use.
func (f *forwarder) complain(r netip.AddrPort, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.of(r)
	s.failedAt, s.why = f.now(), why
}

// took records how long a resolver needed for an answer.
func (f *forwarder) took(r netip.AddrPort, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.of(r)
	if s.latency == 0 {
		s.latency = d
		return
	}
	s.latency += (d - s.latency) / 8
}

// reasonOf returns what an error about a resolver means, in a sentence without the host's own addresses.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "no server listens at this address and port"
	case isAny(err, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL):
		return "there is no route to it"
	case isAny(err, errCut, errLoop):
		return text(err, errCut, errLoop)
	case isAny(err, errLate, os.ErrDeadlineExceeded, context.DeadlineExceeded):
		return errLate.Error()
	case isAny(err, errGarbled, errCase, errReferral, errContradict, errLongName, errNoResolver):
		return text(err, errGarbled, errCase, errReferral, errContradict, errLongName, errNoResolver)
	}
	return err.Error()
}

// text returns the text of the first of these errors that err is.
func text(err error, of ...error) string {
	return of[slices.IndexFunc(of, func(e error) bool { return errors.Is(err, e) })].Error()
}

// Resolver is a resolver of dns.forward, as this server knows it. One that several zones have is listed for each.
type Resolver struct {
	Zone   string `json:"zone"`   // "." is every other name
	Server string `json:"server"` // address and port
	// Up is false after two questions in a row without an answer. One that was asked nothing is up.
	Up bool `json:"up"`
	// Answered and Failed are clients' questions that it did and did not answer since the server's start, or since it
	// is in dns.forward. An answer may be SERVFAIL.
	Answered uint64 `json:"answered"`
	Failed   uint64 `json:"failed"`
	// LastAnswer and LastFailure are the times of the last ones; LastError is what was wrong last: no answer, or one
	// that is of no use, such as SERVFAIL or REFUSED.
	LastAnswer  time.Time `json:"last_answer,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	// Latency is the smoothed time to an answer.
	Latency time.Duration `json:"latency"`
}

// maxResolverList bounds Resolvers.
const maxResolverList = 512

// Resolvers returns the resolvers of the table, by zone and in the order in which they are asked; at most 512.
func (s *Server) Resolvers() (list []Resolver) {
	t, f := s.table.Load(), s.forward
	if t == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, zone := range slices.Sorted(maps.Keys(t.forward)) {
		for _, r := range t.forward[zone] {
			if len(list) == maxResolverList {
				return list
			}
			state := f.known[r]
			if state == nil {
				state = new(resolverState)
			}
			list = append(list, Resolver{
				Zone: trimDot(zone), Server: r.String(), Up: state.failed < badAfter, Answered: state.answers,
				Failed: state.failures, LastAnswer: state.answered, LastFailure: state.failedAt, LastError: state.why,
				Latency: state.latency,
			})
		}
	}
	return list
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
