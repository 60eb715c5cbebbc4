package dnssrv

import (
	"strconv"
	"sync/atomic"

	"github.com/miekg/dns"
)

// Stats are counts since New, except OpenTCP.
type Stats struct {
	// Answers by response code: NOERROR, NXDOMAIN, SERVFAIL, REFUSED, NOTIMP, FORMERR, …
	Answers map[string]uint64
	// Fast answers came from the fast path; they are counted in Answers, too.
	Fast uint64
	// Refused questions came from clients outside Base.Allow (UDP: answered REFUSED; TCP: connections closed).
	Refused uint64
	// Dropped packets got no answer: too short, answers themselves, too long, or not sendable.
	Dropped uint64
	// Unsent answers found the send buffer full. Absent ones were for addresses of the host's own networks that no host
	// confirmed.
	Unsent, Absent uint64
	// Limited answers exceeded Base.ResponseRate and were sent as their question with TC set; Withheld ones were errors
	// above the rate and not sent.
	Limited, Withheld uint64
	// Truncated answers had TC set.
	Truncated uint64
	// Forwarded questions were sent to resolvers; ForwardFailed of these got no answer; ForwardShed exceeded the bound
	// and were not sent.
	Forwarded, ForwardFailed, ForwardShed uint64
	// ForwardLooped questions had been forwarded by this site before, or resolvers said so of them. Loops are the
	// resolvers through which they came back lately, at most 16.
	ForwardLooped uint64
	Loops         []Loop `json:",omitempty"`
	// Misses were reported; MissesLost were lost because Config.Miss was too slow or the client is probably forged.
	Misses, MissesLost uint64
	// OpenTCP counts the current connections; RefusedTCP exceeded a bound; ClosedTCP were closed to make room for
	// another client's.
	OpenTCP               int64
	RefusedTCP, ClosedTCP uint64
}

// counters are Stats as they are counted.
type counters struct {
	rcodes                                [24]atomic.Uint64 // 16 is BADVERS; the last is any other code
	fast, refused, dropped, truncated     atomic.Uint64
	unsent, absent                        atomic.Uint64
	forwarded, forwardFailed, forwardShed atomic.Uint64
	forwardLooped                         atomic.Uint64
	misses, missesLost                    atomic.Uint64
	openTCP                               atomic.Int64
}

func (c *counters) count(rcode int) {
	c.rcodes[min(rcode, len(c.rcodes)-1)].Add(1)
}

// Stats returns the counters. They are read one by one: sums may be off by what is in flight.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Answers: make(map[string]uint64),
		Fast:    c.fast.Load(), Refused: c.refused.Load(), Dropped: c.dropped.Load(), Truncated: c.truncated.Load(),
		Unsent: c.unsent.Load(), Absent: c.absent.Load(), Limited: s.limit.cut.Load(),
		Withheld:  s.limit.withheld.Load(),
		Forwarded: c.forwarded.Load(), ForwardFailed: c.forwardFailed.Load(), ForwardShed: c.forwardShed.Load(),
		ForwardLooped: c.forwardLooped.Load(), Loops: s.forward.loopList(),
		Misses: c.misses.Load() - c.missesLost.Load(), MissesLost: c.missesLost.Load(),
		OpenTCP: c.openTCP.Load(),
	}
	_, st.RefusedTCP, st.ClosedTCP = s.tcp.conns.Counts()
	for i := range c.rcodes {
		if n := c.rcodes[i].Load(); n > 0 {
			st.Answers[rcodeText(i)] += n
		}
	}
	return st
}

func rcodeText(rcode int) string {
	name, ok := dns.RcodeToString[rcode]
	switch {
	case rcode == dns.RcodeBadVers:
		return "BADVERS"
	case !ok:
		return "RCODE" + strconv.Itoa(rcode)
	}
	return name
}
