package dnssrv

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Two sites that forward to each other pass a question that neither knows back and forth. Such a question is recognized
// when it returns, and answered with SERVFAIL at once; questions that the other site can answer still are. Three marks
// tell a question of ours from another client's:
//
//   - An EDNS option lists the sites that have forwarded it, like the header CDN-Loop of HTTP (RFC 8586). Servers of
//     this kind pass it on, and so do forwarders that copy what they get (dnsmasq, CoreDNS).
//   - Its name is spelled as we have sent it and is on its way: in random case, which forwarders keep (see dialect).
//   - It comes from the address that is being asked just that, and another client had asked for it.
//
// Clients that ask again do not look like that, however often they do: they spell a name their own way and have no
// list.

const (
	// loopOption is the code of the option, one for local use (RFC 6891, 9).
	loopOption = 65314
	siteLen    = 8 // bytes of a site in it
	// maxSites is how many sites a question may go through.
	maxSites = 8
	// spelled is how many letters a name needs to be recognized by their case: another resolver spells it the same by
	// chance once in a thousand.
	spelled = 10
	// loopText begins the reason (RFC 8914) of answers to questions that came back. We recognize it in answers of
	// resolvers.
	loopText = "forwarding loop"
	// loopMatters is how long a resolver is reported after it has sent a question back.
	loopMatters = 10 * time.Minute
	loopLog     = time.Hour // between two log lines about it
)

var errLoop = errors.New(loopText)

// Loop is a resolver through which questions come back that were forwarded to it.
type Loop struct {
	Resolver string // address and port
	Name     string // the last such question, without the trailing dot
	Client   string // the address from which it came back; "" if the resolver itself reported the loop
	Count    uint64
}

// asker is on whose behalf resolvers are asked.
type asker struct {
	client netip.Addr
	via    []byte // the sites that the question has gone through, with this one
}

// site is the mark of a site.
type site [siteLen]byte

// siteOf returns the mark of a named site; zero without a name.
func siteOf(name string) (s site) {
	if name != "" {
		sum := sha256.Sum256([]byte(name))
		copy(s[:], sum[:])
	}
	return s
}

func randomSite() (s site) {
	rand.Read(s[:])
	return s
}

// siteIn returns the mark that questions get with this table.
func (s *Server) siteIn(t *Table) site {
	if t.site == (site{}) {
		return s.alone
	}
	return t.site
}

// path reads the sites that a question has gone through. What is no list of sites is ignored.
func path(opt *dns.OPT) []byte {
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if l, ok := o.(*dns.EDNS0_LOCAL); ok && l.Code == loopOption && len(l.Data)%siteLen == 0 {
			return l.Data
		}
	}
	return nil
}

// visited reports whether a question has gone through a site already, or through more than it may.
func visited(via []byte, here site) bool {
	for at := range slices.Chunk(via, siteLen) {
		if bytes.Equal(at, here[:]) {
			return true
		}
	}
	return len(via) >= siteLen*maxSites
}

// inFlight are the questions that resolvers are being asked. Its zero value is ready. It holds no more than the
// attempts that run.
type inFlight struct {
	mu sync.Mutex
	by map[string][]sent // by foldedQuestion
}

type sent struct {
	resolver netip.AddrPort
	client   netip.Addr // that asked us
	spelling string     // the name as it was sent, on the wire, if we chose the case of its letters
}

// foldedQuestion returns the question of a packet with its name in lower case, and the name as it is.
func foldedQuestion(packet []byte) (key, name string) {
	end := questionEnd(packet)
	if end == 0 {
		return "", ""
	}
	folded := bytes.Clone(packet[headerLen:end])
	for i, c := range folded[:len(folded)-4] {
		if c >= 'A' && c <= 'Z' { // no length of a label is as large
			folded[i] = c + 'a' - 'A'
		}
	}
	return string(folded), string(packet[headerLen : end-4])
}

// add records a packet on its way to a resolver until done is called. A name that is not in mixed case is spelled as
// the client spells it, who may ask again.
func (i *inFlight) add(packet []byte, mixed bool, to netip.AddrPort, client netip.Addr) (done func()) {
	key, name := foldedQuestion(packet)
	if !mixed {
		name = ""
	}
	s := sent{to, client, name}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.by == nil {
		i.by = map[string][]sent{}
	}
	i.by[key] = append(i.by[key], s)
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		list := i.by[key]
		if at := slices.Index(list, s); at >= 0 {
			list = slices.Delete(list, at, at+1)
		}
		if i.by[key] = list; len(list) == 0 {
			delete(i.by, key)
		}
	}
}

// back returns the resolver through which a question of ours came back, if the question in a packet of this client is
// one. known reports that the question is known to have gone through this site.
func (i *inFlight) back(packet []byte, client netip.Addr, known bool) (r netip.AddrPort, is bool) {
	key, name := foldedQuestion(packet)
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, s := range i.by[key] {
		// Several programs of this host may share a loopback address, so that it says nothing.
		own := s.resolver.Addr() == client && s.client != client && !client.IsLoopback()
		if own || s.spelling == name && telling(name) {
			return s.resolver, true
		}
		if known && !is {
			r, is = s.resolver, true
		}
	}
	return r, is || known
}

// telling reports whether the case of a name's letters says who has sent it.
func telling(name string) bool {
	small, large := 0, 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z':
			small++
		case c >= 'A' && c <= 'Z':
			large++
		}
	}
	return small+large >= spelled && small > 0 && large > 0
}

// saysLoop reports whether a resolver answers that the question came back to it.
func saysLoop(resp *dns.Msg) bool {
	if resp == nil || resp.Rcode != dns.RcodeServerFailure {
		return false
	}
	opt := resp.IsEdns0()
	return opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool {
		e, ok := o.(*dns.EDNS0_EDE)
		return ok && strings.HasPrefix(e.ExtraText, loopText)
	})
}

// looped records that a question came back through a resolver, from client; from nobody if the resolver says so.
func (f *forwarder) looped(r netip.AddrPort, name string, client netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, now := f.of(r), f.now()
	s.loops, s.loopAt, s.loopName, s.loopFrom = s.loops+1, now, name, client
	if !now.Before(s.loopLogAt) {
		f.log.Warn("dns forwarding loop: a resolver sends questions back that are forwarded to it",
			"resolver", r.String(), "name", name, "client", client)
		s.loopLogAt = now.Add(loopLog)
	}
}

// loopList returns the resolvers through which questions came back in the last minutes, those with most first.
func (f *forwarder) loopList() (list []Loop) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r, s := range f.known {
		if s.loops == 0 || f.now().Sub(s.loopAt) >= loopMatters {
			continue
		}
		l := Loop{Resolver: r.String(), Name: trimDot(s.loopName), Count: s.loops}
		if s.loopFrom.IsValid() {
			l.Client = s.loopFrom.String()
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b Loop) int {
		if a.Count != b.Count {
			return int(min(b.Count, 1<<30)) - int(min(a.Count, 1<<30))
		}
		return strings.Compare(a.Resolver, b.Resolver)
	})
	return list[:min(len(list), maxLoops)]
}

// maxLoops bounds how many resolvers Stats lists.
const maxLoops = 16

// cameBack answers a question that must be forwarded and has been forwarded by this site already; nil if it has not.
func (s *Server) cameBack(t *Table, in []byte, req *dns.Msg, j *job) []byte {
	known := visited(j.via, s.siteIn(t))
	r, is := s.forward.sent.back(in, j.client, known)
	if !is {
		return nil
	}
	name := dns.CanonicalName(req.Question[0].Name)
	s.stats.forwardLooped.Add(1)
	if list := t.forward[j.res.zone]; !r.IsValid() && len(list) > 0 { // another node of the site has forwarded it
		r = list[0]
	}
	if r.IsValid() {
		s.forward.looped(r, name, j.client)
	}
	return s.fail(j, loopText+": this question was forwarded from here and came back")
}
