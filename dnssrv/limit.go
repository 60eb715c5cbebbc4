package dnssrv

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Response rate limiting, as in BIND and Knot: a client that forges sources must not make us send a victim more bytes
// than the client sends us. A limited answer is not lost: it shrinks to its question with TC set (a slip of one), so a
// forger gains no byte and an honest client repeats the question over TCP. An address that was answered over TCP has
// shown that it receives its answers, and gets tenfold rates for a while. Errors are not worth a repetition: they are
// dropped.
//
// All clients of this server are in a few networks, and a forger next to them can use their addresses. So identical
// answers are counted by address, not by network: honest neighbours of a victim are not limited with it. A network has
// a bound only for all its answers together.
//
// This is not one of the divisions of cluster/share: a packet costs less than a lock, its source may be forged, and
// memory is a table of a fixed size, in which strangers can displace only counts that have nearly run out.

const (
	// Rates in multiples of Base.ResponseRate, which bounds identical answers to one address.
	variedTimes  = 10 // NXDOMAIN: all such answers count as one (searches with ndots:5 ask for thousands of names)
	networkTimes = 20 // all answers to one network
	provenTimes  = 10 // additional factor for an address that was answered over TCP
	// Prefixes of a network, as in BIND.
	networkV4, networkV6 = 24, 56
	// limitBurst is how much of a rate may be used at once: nodes that boot ask all at the same time.
	limitBurst = 5 * time.Second
	// provenFor is how long an answer over TCP counts as proof of the address.
	provenFor = 10 * time.Minute
)

// ticks are tenths of a microsecond, the table's unit of time.
type ticks uint64

const (
	ticksPerSecond = ticks(time.Second / 100)
	// timeBits of an entry hold a time (it wraps after 30 hours), the others identify the key.
	timeBits = 40
	timeMask = 1<<timeBits - 1
)

// limiter counts answers by client, in tables of a fixed size and without locks. The zero value does not work.
type limiter struct {
	seed     uint64
	start    time.Time
	counts   []line
	proofs   []line
	cut      atomic.Uint64 // answers truncated to their question
	withheld atomic.Uint64 // errors that were not sent
}

// A line is a cache line with eight entries whose keys begin alike. An entry holds the rest of its key and a time. When
// all are in use, a new key replaces the least important entry.
type line [8]atomic.Uint64

func newLimiter() *limiter {
	return &limiter{
		seed: rand.Uint64(), start: time.Now(),
		counts: make([]line, 1<<14), proofs: make([]line, 1<<10), // 1 MiB and 64 KiB
	}
}

// now is the time in ticks since the limiter was made.
func (l *limiter) now() ticks { return ticks(time.Since(l.start) / 100) }

// lead returns how far the entry's time is ahead of now, 0 if it has passed.
func lead(entry uint64, now ticks, most ticks) ticks {
	d := ticks(entry-uint64(now)) & timeMask
	if d > most {
		return 0
	}
	return d
}

// spend takes one answer from a key's allowance, and returns false if there is none. The allowance is stored as the
// time at which it will be full again (the generic cell rate algorithm), at most burst ahead.
func (l *limiter) spend(key uint64, now, cost, burst ticks) bool {
	ln, tag := at(l.counts, key)
	for range 4 {
		slot, old, found := pick(ln, tag, now, burst)
		ahead := ticks(0)
		if found {
			ahead = lead(old, now, burst)
		}
		if ahead+cost > burst {
			return false
		}
		if ln[slot].CompareAndSwap(old, tag<<timeBits|uint64(now+ahead+cost)&timeMask) {
			return true
		}
	}
	return true // other goroutines count at the same moment: that is exact enough
}

// at returns a key's line and its tag, which is never 0.
func at(lines []line, key uint64) (*line, uint64) {
	return &lines[key&uint64(len(lines)-1)], key>>timeBits | 1
}

// pick returns the entry of tag, or the least important one: the one whose time is least ahead.
func pick(ln *line, tag uint64, now, most ticks) (slot int, entry uint64, found bool) {
	for i := range ln {
		if e := ln[i].Load(); e>>timeBits == tag {
			return i, e, true
		}
	}
	least := ticks(timeMask)
	for i := range ln {
		e := ln[i].Load()
		if d := lead(e, now, most); d < least {
			slot, entry, least = i, e, d
		}
	}
	return slot, entry, false
}

// prove records that client was answered over TCP.
func (l *limiter) prove(client netip.Addr, now ticks) {
	const most = ticks(provenFor / 100)
	ln, tag := at(l.proofs, l.key(client, 0))
	slot, old, _ := pick(ln, tag, now, most)
	ln[slot].CompareAndSwap(old, tag<<timeBits|uint64(now+most)&timeMask)
}

// proven reports whether client was answered over TCP recently.
func (l *limiter) proven(client netip.Addr, now ticks) bool {
	ln, tag := at(l.proofs, l.key(client, 0))
	_, e, found := pick(ln, tag, now, ticks(provenFor/100))
	return found && lead(e, now, ticks(provenFor/100)) > 0
}

func (l *limiter) key(a netip.Addr, what uint64) uint64 {
	b := a.As16()
	return l.hash(be64(b[:8]), be64(b[8:]), what)
}

func (l *limiter) hash(hi, lo, what uint64) uint64 {
	if hi != 0 {
		lo ^= mix(hi ^ l.seed)
	}
	return mix(mix(lo^l.seed) ^ what)
}

// Kinds of answers. Answers of one kind are identical; for dataKind and emptyKind also the question must be the same.
const (
	dataKind = iota + 1
	emptyKind
	deniedKind
	errorKind
	networkKind
	provenKind
)

// verdict is how an answer is treated.
type verdict int

const (
	sendIt verdict = iota
	cutIt
	dropIt
)

// rateCost returns the cost of one answer at a rate per second.
func rateCost(rate int) ticks {
	if rate == 0 {
		return 0
	}
	return ticksPerSecond / ticks(rate)
}

// judge decides how to treat resp, an answer for client; each is the rateCost of Base.ResponseRate. Answers to this
// host itself are free: no other host can have sent the question.
func (l *limiter) judge(resp []byte, client, local netip.Addr, each, now ticks) verdict {
	if each == 0 || client.IsLoopback() || client == local {
		return sendIt
	}
	cost := each
	const burst = ticks(limitBurst / 100)
	kind, what := classify(resp)
	if kind == deniedKind {
		cost /= variedTimes
	}
	if l.spend(l.key(client, what), now, cost, burst) {
		if l.spend(l.networkKey(client), now, each/networkTimes, burst) {
			return sendIt
		}
	}
	switch {
	case kind == errorKind:
		l.withheld.Add(1)
		return dropIt
	case l.proven(client, now) && l.spend(l.key(client, what^provenKind<<32), now, cost/provenTimes, burst):
		return sendIt
	}
	l.cut.Add(1)
	return cutIt
}

// judgeForward decides how to treat a question before it is forwarded. It counts like NXDOMAIN: the resolvers' answer
// is not known yet, and costs more.
func (l *limiter) judgeForward(client, local netip.Addr, each, now ticks) verdict {
	denied := [headerLen]byte{3: dns.RcodeNameError}
	return l.judge(denied[:], client, local, each, now)
}

// networkKey is the key of an address's network.
func (l *limiter) networkKey(a netip.Addr) uint64 {
	b := a.As16()
	hi, lo := be64(b[:8]), be64(b[8:])
	if a.Is4() {
		lo &^= 1<<(32-networkV4) - 1
	} else {
		hi, lo = hi&^(1<<(64-networkV6)-1), 0
	}
	return l.hash(hi, lo, networkKind)
}

// classify returns an answer's kind, and a number that is the same for identical answers.
func classify(resp []byte) (kind int, what uint64) {
	switch resp[3] & 0xf {
	case dns.RcodeNameError:
		return deniedKind, deniedKind
	case dns.RcodeSuccess:
	default:
		return errorKind, errorKind
	}
	kind = dataKind
	if resp[6]|resp[7] == 0 {
		kind = emptyKind
	}
	end := questionEnd(resp)
	if end == 0 {
		return kind, uint64(kind)
	}
	if kind == emptyKind {
		end -= 4 // any type that the name does not have
	}
	return kind, hashFold(resp[headerLen:end]) ^ uint64(kind)
}

// hashFold hashes b, ignoring the case of letters: a forger must not get another allowance by spelling. Some other
// bytes are folded too, which does no harm.
func hashFold(b []byte) uint64 {
	const fold = 0x2020202020202020
	h := uint64(len(b))
	for ; len(b) >= 8; b = b[8:] {
		h = (h ^ (binary.LittleEndian.Uint64(b) | fold)) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		h = (h ^ (binary.LittleEndian.Uint64(last[:]) | fold)) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	return h
}

// shrink writes to out the answer to in that means "ask again over TCP". It is never longer than in.
func shrink(out, in []byte) []byte {
	b := mirror(out, in, dns.RcodeSuccess)
	b[2] |= bitTC
	return b
}
