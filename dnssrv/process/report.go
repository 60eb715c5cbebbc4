package process

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"casemate/dnssrv"
)

// sentences limits conflicts to what fits a frame.
func sentences(list []string) (fit []string, more int) {
	for i, c := range list {
		if i == maxSentences {
			return fit, len(list) - i
		}
		fit = append(fit, printable(c))
	}
	return fit, 0
}

// onlyPrintable replaces what is not printable.
func onlyPrintable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// printable makes a text with an operator's data printable.
func printable(s string) string {
	s = onlyPrintable(s)
	if len(s) > maxSentence {
		s = strings.ToValidUTF8(s[:maxSentence-4], "") + "…"
	}
	return s
}

// report writes what there is to report: what was asked for first, then misses, and statistics with each beat.
func (s *server) report(conn net.Conn, reports <-chan []byte, done <-chan struct{}) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		var b []byte
		var err error
		select {
		case <-done:
			return nil
		case b = <-reports:
		default:
			select {
			case <-done:
				return nil
			case b = <-reports:
			case <-tick.C:
				b, err = encode(kindStats, stats{Stats: s.stats()})
			case m := <-s.misses:
				b, err = encode(kindMisses, andMore(m, s.misses))
			case m := <-s.noise:
				b, err = encode(kindNoise, andMore(m, s.noise))
			case list := <-s.seen:
				b, err = encode(kindSeen, list)
			}
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
	}
}

// andMore returns first and the other waiting misses, as many as fit into a frame.
func andMore(first miss, waiting <-chan miss) []miss {
	list := []miss{first}
	for len(list) < maxMisses {
		select {
		case m := <-waiting:
			list = append(list, m)
		default:
			return list
		}
	}
	return list
}

// saw queues sightings for the daemon, in pieces that fit a frame, and never blocks: those of a daemon that does not
// read are lost.
func (s *server) saw(sightings []dnssrv.Sighting) {
	var list []sighting
	for i := range sightings {
		if one := sighting(sightings[i]); one.check() == nil {
			list = append(list, one)
		}
		if len(list) == maxSeen || i == len(sightings)-1 && len(list) > 0 {
			select {
			case s.seen <- list:
			default:
			}
			list = nil
		}
	}
}

// unneeded queues noise for the daemon, and never blocks.
func (s *server) unneeded(client netip.Addr, name, qtype string) {
	m := miss{client, name, qtype}
	if m.check() != nil {
		return
	}
	select {
	case s.noise <- m:
	default:
	}
}

// miss queues a miss for the daemon, and never blocks.
func (s *server) miss(client netip.Addr, name, qtype string) {
	m := miss{client, name, qtype}
	if m.check() != nil {
		s.lost.Add(1)
		return
	}
	select {
	case s.misses <- m:
	default:
		s.lost.Add(1)
	}
}
