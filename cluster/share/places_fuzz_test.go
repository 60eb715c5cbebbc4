package share

import (
	"slices"
	"testing"
)

// Whatever clients do, the promises of Places hold: the bounds, one close for each eviction, and a client without a
// connection gets one as long as another holds several or an idle one. Each byte is a step: what happens, to which of
// sixteen clients.
func FuzzPlaces(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 1, 17, 33, 2, 3, 4}, uint8(3), uint8(2), uint8(1))
	f.Add([]byte("take them all and never give one back"), uint8(5), uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, steps []byte, most, each, kept uint8) {
		known := func(client string) bool { return client == "a" }
		cfg := Config{Max: int(most), PerClient: int(each), Kept: int(kept), Known: known}
		p := New(cfg)
		cfg = p.cfg
		held := map[string][]*Place{}
		var evicted uint64
		for _, step := range steps {
			who := string('a' + rune(step&15))
			own := held[who]
			if what := step >> 4 & 3; what != 0 && len(own) > 0 {
				pl := own[int(step>>6)%len(own)]
				switch what {
				case 1:
					pl.Begin()
				case 2:
					if pl.End(step&64 != 0); step&128 != 0 {
						pl.Served()
					}
				case 3:
					pl.Free()
					held[who] = slices.DeleteFunc(own, func(x *Place) bool { return x == pl })
				}
				continue
			}
			several, idle, taken := false, false, 0
			for _, list := range held {
				taken += len(list)
				several = several || len(list) > 1
				idle = idle || slices.ContainsFunc(list, func(x *Place) bool { return x.under == 0 })
			}
			var pl *Place
			pl, ok := p.Take(who, func() {
				evicted++
				for name, list := range held {
					held[name] = slices.DeleteFunc(list, func(x *Place) bool { return x.Gone() })
				}
			})
			if ok {
				held[who] = append(held[who], pl)
			} else if len(own) == 0 && (several || idle || taken < cfg.Max-cfg.Kept) {
				t.Fatalf("%s has none and is refused; %d are taken", who, taken)
			}
			// The victim's close ran: what it held is gone from the model too.
			for name, list := range held {
				held[name] = slices.DeleteFunc(list, func(x *Place) bool { return x.Gone() })
			}
			open, _, gone := p.Counts()
			if sum := total(held); open != sum || open > cfg.Max || gone != evicted || len(held[who]) > cfg.PerClient {
				t.Fatalf("%d are open, the model has %d, at most %d; %d evicted, %d closed; %s has %d of %d",
					open, sum, cfg.Max, gone, evicted, who, len(held[who]), cfg.PerClient)
			}
		}
		for _, list := range held {
			for _, pl := range list {
				pl.Free()
			}
		}
		if open, _, _ := p.Counts(); open != 0 || len(p.clients) != 0 || p.greedy.Len() != 0 {
			t.Fatalf("%d are open after all were freed", open)
		}
	})
}

func total(held map[string][]*Place) (n int) {
	for _, list := range held {
		n += len(list)
	}
	return n
}
