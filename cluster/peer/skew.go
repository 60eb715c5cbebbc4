package peer

import "time"

// skewBeats is how many beats a comparison of clocks looks back.
const skewBeats = 16

// skew compares another node's clock with this one's. A beat says when it was sent; the way takes time, so the other
// clock is ahead by what a beat shows or by more. The largest of the last beats, the one that was quickest, is closest
// to the truth. Its zero value is ready.
type skew struct {
	by []time.Duration // the newest last; at most skewBeats
}

// add records a beat that was sent when the other clock showed there, and received when this one shows here. Older
// versions do not send their clock.
func (s *skew) add(there, here time.Time) {
	if there.IsZero() {
		s.by = nil
		return
	}
	if s.by = append(s.by, there.Round(0).Sub(here.Round(0))); len(s.by) > skewBeats {
		s.by = s.by[1:]
	}
}

// ahead returns by how much the other clock is ahead; negative: it is behind.
func (s *skew) ahead() (by time.Duration, known bool) {
	for i, d := range s.by {
		if i == 0 || d > by {
			by = d
		}
	}
	return by, len(s.by) > 0
}

// Skew returns by how much the clock of a node that is up is ahead of this node's.
func (p *Port) Skew(node string) (ahead time.Duration, known bool) {
	p.mu.Lock()
	l := p.links[node]
	p.mu.Unlock()
	if l == nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return 0, false
	}
	return l.skew.ahead()
}
