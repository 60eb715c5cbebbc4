package dnssrv

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// manual is a clock that a test sets.
type manual struct{ ahead atomic.Int64 }

func (m *manual) now() time.Time      { return time.Unix(1e9, m.ahead.Load()) }
func (m *manual) add(d time.Duration) { m.ahead.Add(int64(d)) }

// patient gives forwarded questions time whatever the machine's load: a second attempt is made only if the first stays
// unanswered, or never.
func patient(clock *manual, again bool) func(*Server) {
	return func(s *Server) {
		s.forward.timeout, s.forward.spread = time.Minute, attemptSpread
		if !again {
			s.forward.spread = time.Minute
		}
		if clock != nil {
			s.forward.now = clock.now
		}
	}
}

// withOPT answers a question that has an OPT record as bad does, and any other well.
func withOPT(bad func(q *dns.Msg, network string) [][]byte) func(t testing.TB) func(*dns.Msg, string) [][]byte {
	return func(t testing.TB) func(*dns.Msg, string) [][]byte {
		return func(q *dns.Msg, network string) [][]byte {
			if q.IsEdns0() != nil {
				return bad(q, network)
			}
			return [][]byte{plainAnswer(t, q)}
		}
	}
}

// plainAnswer is the answer of a resolver that does not support EDNS.
func plainAnswer(t testing.TB, q *dns.Msg) []byte {
	m := good("192.0.2.1")(q, "")[0]
	m.Extra = nil
	return packet(t, m)
}

func bytesOf(edit func(q, m *dns.Msg)) func(q *dns.Msg, network string) [][]byte {
	return func(q *dns.Msg, _ string) [][]byte {
		m := new(dns.Msg).SetReply(q)
		edit(q, m)
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return [][]byte{b}
	}
}

func refusing(code int) func(q *dns.Msg, network string) [][]byte {
	return bytesOf(func(_, m *dns.Msg) { m.Rcode = code })
}

// addressed is an answer with data and an OPT record, for edits of its bytes.
func addressed(edit func(b []byte) []byte) func(q *dns.Msg, network string) [][]byte {
	return func(q *dns.Msg, network string) [][]byte {
		m := good("192.0.2.1")(q, network)[0]
		m.Compress = false
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return [][]byte{edit(b)}
	}
}

// What boxes do with a question that has an OPT record. Each answers well without one, and is asked so: at once, again,
// and for a while.
func TestForwardersThatDoNotKnowEDNS(t *testing.T) {
	cutNoTCP := func(q *dns.Msg, network string) [][]byte {
		if network == "tcp" {
			return nil
		}
		return bytesOf(func(_, m *dns.Msg) { m.Truncated = true })(q, network)
	}
	for what, bad := range map[string]func(q *dns.Msg, network string) [][]byte{
		"FORMERR":  refusing(dns.RcodeFormatError),
		"NOTIMP":   refusing(dns.RcodeNotImplemented),
		"SERVFAIL": refusing(dns.RcodeServerFailure),
		"REFUSED":  refusing(dns.RcodeRefused),
		"FORMERR with an OPT": bytesOf(func(_, m *dns.Msg) {
			m.Rcode = dns.RcodeFormatError
			m.SetEdns0(512, false)
		}),
		"SERVFAIL with the OPT echoed": bytesOf(func(q, m *dns.Msg) {
			m.Rcode = dns.RcodeServerFailure
			m.Extra = q.Extra
		}),
		"BADVERS":                 bytesOf(func(_, m *dns.Msg) { m.SetEdns0(512, false); m.Rcode = dns.RcodeBadVers }),
		"FORMERR, a header alone": bytesOf(func(_, m *dns.Msg) { m.Rcode, m.Question = dns.RcodeFormatError, nil }),
		"NOTIMP, a header alone":  bytesOf(func(_, m *dns.Msg) { m.Rcode, m.Question = dns.RcodeNotImplemented, nil }),
		"FORMERR, the case folded": bytesOf(func(_, m *dns.Msg) {
			m.Rcode, m.Question[0].Name = dns.RcodeFormatError, strings.ToLower(m.Question[0].Name)
		}),
		"dropped":                    func(*dns.Msg, string) [][]byte { return nil },
		"a good header alone":        bytesOf(func(_, m *dns.Msg) { m.Question = nil }),
		"no data and nothing beside": bytesOf(func(_, _ *dns.Msg) {}),
		"garbage": addressed(func(b []byte) []byte {
			return append(b[:headerLen+17], 0xff, 0xff, 0xff)
		}),
		"cut inside a record":                   addressed(func(b []byte) []byte { return b[:len(b)-13] }),
		"cut before a record":                   addressed(func(b []byte) []byte { return b[:len(b)-11] }),
		"an OPT that claims more than there is": addressed(func(b []byte) []byte { b[len(b)-1] = 9; return b }),
		"an OPT with other bits of the rcode":   addressed(func(b []byte) []byte { b[len(b)-6] = 0x7f; return b }),
		"an OPT of version 1 that objects": bytesOf(func(_, m *dns.Msg) {
			m.SetEdns0(512, false)
			m.IsEdns0().SetVersion(1)
			m.Rcode = dns.RcodeBadVers
		}),
		"more additional records than there are": addressed(func(b []byte) []byte { b[11] = 3; return b }),
		"TC and no TCP":                          cutNoTCP,
		"TC and FORMERR over TCP": func(q *dns.Msg, network string) [][]byte {
			if network == "tcp" {
				return refusing(dns.RcodeFormatError)(q, network)
			}
			return cutNoTCP(q, network)
		},
		"TC and garbage over TCP": func(q *dns.Msg, network string) [][]byte {
			if network == "tcp" {
				return [][]byte{{1, 2, 3}}
			}
			return cutNoTCP(q, network)
		},
		"cut in the middle, with TC": func(q *dns.Msg, network string) [][]byte {
			if network == "tcp" {
				return nil
			}
			return addressed(func(b []byte) []byte { b[2] |= bitTC; return b[:len(b)-13] })(q, network)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			up := newBox(t, withOPT(bad)(t))
			var clock manual
			unanswered := what == "dropped" || what == "garbage" || what == "a good header alone"
			r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up), patient(&clock, unanswered))
			ask := func(i int, edns bool) {
				t.Helper()
				m := question(fmt.Sprintf("Host%d.Example", i), dns.TypeA)
				if edns {
					m.SetEdns0(1232, false)
				}
				resp := r.ask(m)
				if got := values(resp.Answer, dns.TypeA); !slices.Equal(got, []string{"192.0.2.1"}) ||
					resp.Question[0] != m.Question[0] || resp.Id != m.Id {
					t.Errorf("%d: got %v", i, resp)
				}
				if (resp.IsEdns0() != nil) != edns {
					t.Errorf("%d: want an OPT exactly if asked with one, got %v", i, resp.Extra)
				}
			}
			ask(0, true)
			if n := up.withOPT(); n == 0 {
				t.Error("never asked with an OPT")
			}
			ask(1, false)
			ask(2, true)
			if n := up.withOPT(); n != 0 {
				t.Errorf("%d questions with an OPT after it objected", n)
			}
			clock.add(dialectFor + time.Second)
			ask(3, true)
			if up.withOPT() == 0 {
				t.Error("not tried again after a while")
			}
			if s := r.Stats(); s.ForwardFailed != 0 {
				t.Errorf("%d failed", s.ForwardFailed)
			}
		})
	}
}

// withOPT counts the questions with an OPT record since it was called last.
func (r *resolver) withOPT() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.asked {
		if q.IsEdns0() != nil {
			n++
		}
	}
	r.asked = nil
	return n
}

// Odd answers that are no objection: such resolvers are still asked with an OPT record.
func TestForwardersThatKnowEDNSAreAskedWithIt(t *testing.T) {
	for what, reply := range map[string]func(q *dns.Msg, network string) [][]byte{
		"no OPT in the answer": func(q *dns.Msg, _ string) [][]byte { return [][]byte{plainAnswer(t, q)} },
		"two OPTs": bytesOf(func(q, m *dns.Msg) {
			*m = *good("192.0.2.1")(q, "")[0]
			m.SetEdns0(512, false)
		}),
		"the OPT first": bytesOf(func(q, m *dns.Msg) {
			*m = *good("192.0.2.1")(q, "")[0]
			m.Answer = append(q.Extra, m.Answer...)
		}),
		"an OPT of version 1": bytesOf(func(q, m *dns.Msg) {
			*m = *good("192.0.2.1")(q, "")[0]
			m.IsEdns0().SetVersion(1)
		}),
		"an OPT with a name": bytesOf(func(q, m *dns.Msg) {
			*m = *good("192.0.2.1")(q, "")[0]
			m.Extra[0].Header().Name = "opt.example."
		}),
		"options we never sent": bytesOf(func(q, m *dns.Msg) {
			*m = *good("192.0.2.1")(q, "")[0]
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
				&dns.EDNS0_LOCAL{Code: 65001, Data: make([]byte, 200)}}
		}),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			up := newBox(t, reply)
			r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up), patient(nil, false))
			for i := range 4 {
				m := question("host.example", dns.TypeA)
				if i%2 == 0 {
					m.SetEdns0(1232, true)
				}
				resp := r.ask(m)
				if got := values(resp.Answer, dns.TypeA); !slices.Equal(got, []string{"192.0.2.1"}) ||
					len(resp.Answer) != 1 {
					t.Errorf("got %v", resp)
				}
				if opt := resp.IsEdns0(); (opt != nil) != (i%2 == 0) || opt != nil && len(opt.Option) != 0 ||
					len(resp.Extra) > 1 {
					t.Errorf("want our own OPT exactly if asked with one, got %v", resp.Extra)
				}
			}
			if n := up.withOPT(); n != 4 || up.udp.Load() != 4 {
				t.Errorf("want 4 questions with an OPT, got %d of %d", n, up.udp.Load())
			}
		})
	}
}

// A resolver that has answered questions with an OPT record means its SERVFAIL, and is not asked twice.
func TestServerFailureOfOneThatKnowsEDNS(t *testing.T) {
	for _, code := range []int{dns.RcodeServerFailure, dns.RcodeRefused} {
		up := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
			if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "bad.") {
				return rcode(code)(q, network)
			}
			return good("192.0.2.1")(q, network)
		})
		r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up), patient(nil, false))
		r.ask(question("good.example", dns.TypeA))
		if resp := r.ask(question("bad.example", dns.TypeA)); resp.Rcode != dns.RcodeServerFailure {
			t.Errorf("got %v", resp)
		}
		if n := up.withOPT(); n != 2 || up.udp.Load() != 2 {
			t.Errorf("want each question asked once, got %d", up.udp.Load())
		}
	}
}

// One lost packet does not make a resolver that knows EDNS one that does not; two in a row do.
func TestALostPacketIsNoObjection(t *testing.T) {
	var drop atomic.Bool
	up := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
		if drop.Load() && q.IsEdns0() != nil {
			return nil
		}
		return good("192.0.2.1")(q, network)
	})
	f := newForwarder(testLogger(t), time.Now)
	q := question("host.example.", dns.TypeA).Question[0]
	ask := func(want dialect) {
		t.Helper()
		if got := f.dialect(up.addr, 0); got != want {
			t.Errorf("asked as %+v, want %+v", got, want)
		}
		if _, err := exchange(t, f, []netip.AddrPort{up.addr}, q); err != nil {
			t.Error(err)
		}
	}
	full := dialect{edns: true, mixed: true}
	ask(full)
	drop.Store(true)
	ask(full)
	drop.Store(false)
	ask(full) // works again, and is known to
	drop.Store(true)
	ask(full)
	ask(full)
	if got := f.dialect(up.addr, 0); got.edns {
		t.Error("still asked with an OPT")
	}
}

// Three boxes of one make: none is left out because there are others.
func TestSeveralForwardersThatDropEDNS(t *testing.T) {
	boxes := []*resolver{}
	for range 3 {
		boxes = append(boxes, newBox(t, withOPT(func(*dns.Msg, string) [][]byte { return nil })(t)))
	}
	r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", boxes...), patient(nil, true))
	for range 2 {
		if got := values(r.ask(question("host.example", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
			[]string{"192.0.2.1"}) {
			t.Errorf("got %v", got)
		}
	}
}

// A big answer of a box that knows neither EDNS nor TC, over TCP then.
func TestAnswersCutInSilenceAreFetchedOverTCP(t *testing.T) {
	up := newBox(t, func(q *dns.Msg, network string) [][]byte {
		m := new(dns.Msg).SetReply(q)
		for i := range 60 {
			m.Answer = append(m.Answer, parsed(t, fmt.Sprintf("%s 60 A 192.0.2.%d", q.Question[0].Name, i)))
		}
		b := packet(t, m)
		if network == "udp" {
			b = b[:512]
		}
		return [][]byte{b}
	})
	r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up), patient(nil, false))
	if resp := r.over("tcp", question("many.example", dns.TypeA)); len(resp.Answer) != 60 {
		t.Errorf("got %v", resp)
	}
}

// The name is sent in random case, and returned in the client's.
func TestTheCaseOfQuestionsIsRandom(t *testing.T) {
	up := newResolver(t, good("192.0.2.1"))
	r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up), patient(nil, false))
	for range 30 {
		m := question("www.Some-Name0.eXample", dns.TypeA)
		if resp := r.ask(m); resp.Question[0] != m.Question[0] || resp.Answer[0].Header().Name != m.Question[0].Name {
			t.Fatalf("want the client's case, got %v", resp)
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	seen := map[string]bool{}
	for _, q := range up.asked {
		name := q.Question[0].Name
		if !strings.EqualFold(name, "www.some-name0.example.") {
			t.Fatalf("asked for %q", name)
		}
		seen[name] = true
	}
	if len(seen) < 28 {
		t.Errorf("want 30 spellings, got %d", len(seen))
	}
}

// A forged answer that has the id and the port and not the case is not taken, whether it comes before the true one or
// alone.
func TestAnswersInAnotherCaseAreNotTaken(t *testing.T) {
	up := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
		forged := good("203.0.113.66")(q, network)[0]
		forged.Question = slices.Clone(forged.Question)
		forged.Question[0].Name = flipped(q.Question[0].Name)
		return []*dns.Msg{forged, good("192.0.2.1")(q, network)[0]}
	})
	r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up), patient(nil, false))
	for range 3 {
		if got := values(r.ask(question("www.example", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
			[]string{"192.0.2.1"}) {
			t.Errorf("got %v", got)
		}
	}
	if up.udp.Load() != 3 {
		t.Errorf("want 3 questions, got %d", up.udp.Load())
	}
}

func flipped(name string) string {
	return strings.Map(func(c rune) rune {
		if c|0x20 >= 'a' && c|0x20 <= 'z' {
			return c ^ 0x20
		}
		return c
	}, name)
}

// Resolvers that do not repeat the case are asked in the client's, for a while.
func TestForwardersThatFoldCase(t *testing.T) {
	fold := func(name string) func(q *dns.Msg, network string) [][]byte {
		change := map[string]func(string) string{"lower": strings.ToLower, "upper": strings.ToUpper,
			"flipped": flipped}[name]
		return addressedTo(change)
	}
	for what, reply := range map[string]func(q *dns.Msg, network string) [][]byte{
		"lower": fold("lower"), "upper": fold("upper"), "flipped": fold("flipped"),
		"nothing but lower case is answered": func(q *dns.Msg, network string) [][]byte {
			if q.Question[0].Name != strings.ToLower(q.Question[0].Name) {
				return nil
			}
			return fold("lower")(q, network)
		},
		"no EDNS either": withOPT(refusing(dns.RcodeFormatError))(t),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			up := newBox(t, func(q *dns.Msg, network string) [][]byte {
				if what == "no EDNS either" && q.IsEdns0() == nil {
					return fold("lower")(q, network)
				}
				return reply(q, network)
			})
			var clock manual
			r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", up),
				patient(&clock, strings.HasPrefix(what, "nothing")))
			name := "a-rather-long-name-for-a-test.example."
			mixed := func() bool {
				t.Helper()
				if got := values(r.ask(question(name, dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
					[]string{"192.0.2.1"}) {
					t.Errorf("got %v", got)
				}
				up.mu.Lock()
				defer up.mu.Unlock()
				yes := slices.ContainsFunc(up.asked, func(q *dns.Msg) bool { return q.Question[0].Name != name })
				up.asked = nil
				return yes
			}
			if !mixed() {
				t.Error("never asked in random case")
			}
			mixed() // one that drops questions is asked without EDNS first
			if mixed() {
				t.Error("asked in random case again at once")
			}
			clock.add(dialectFor + time.Second)
			again := mixed()
			again = mixed() || again // one that drops questions: again without EDNS first
			if !again {
				t.Error("not tried again after a while")
			}
		})
	}
}

// addressedTo answers with the question's name changed.
func addressedTo(change func(string) string) func(q *dns.Msg, network string) [][]byte {
	return bytesOf(func(q, m *dns.Msg) {
		*m = *good("192.0.2.1")(q, "")[0]
		m.Question = slices.Clone(m.Question)
		m.Question[0].Name = change(m.Question[0].Name)
	})
}

// Any answer is read without a panic, and an answer to another question is not accepted.
func TestReadingHostileAnswers(t *testing.T) {
	q := question("www.example", dns.TypeA)
	ask := packet(t, q)
	answer := packet(t, good("192.0.2.1")(q, "")[0])
	if _, as := read(answer, ask); as != whole {
		t.Fatalf("the true answer is %v", as)
	}
	for i, want := range map[int]reading{0: foreign, 1: foreign, 2: foreign, 5: foreign, 12: foreign, 14: otherCase,
		15: otherCase, 25: foreign, 26: foreign, 28: foreign} {
		b := slices.Clone(answer)
		b[i] ^= map[bool]byte{true: 0x20, false: 0x80}[i == 14 || i == 15]
		if i == 5 {
			b[i] = 2
		}
		if _, as := read(b, ask); as != want {
			t.Errorf("byte %d changed: got %v, want %v", i, as, want)
		}
	}
	// Types and classes have no case: HTTPS is 65, and 97 is another type.
	https, other := packet(t, question("www.example", dns.TypeHTTPS)), packet(t, question("www.example", 97))
	copy(other[:2], https[:2])
	other[2] |= bitQR
	if _, as := read(other, https); as != foreign {
		t.Errorf("another type: got %v", as)
	}
	for i := range answer {
		read(answer[:i], ask)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		b := slices.Clone(answer)
		for range 1 + rnd.IntN(4) {
			b[2+rnd.IntN(len(b)-2)] = byte(rnd.Uint32())
		}
		if m, as := read(b, ask); as != foreign && m != nil && binary.BigEndian.Uint16(b[4:]) > 1 {
			t.Fatalf("%v: %x", as, b)
		}
	}
}
