package pages

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"casemate/appliance/doctor"
)

// TestOneLooksForSamples: a request during a search waits for it, and not longer than its own client; a client that
// disconnects does not end the search for the others.
func TestOneLooksForSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Samples{Age: SampleAge}
		looks, found := 0, make(chan doctor.Sample)
		find := func(ctx context.Context) doctor.Sample {
			looks++
			select {
			case f := <-found:
				return f
			case <-ctx.Done():
				return doctor.Sample{}
			}
		}
		first, hangUp := context.WithCancel(t.Context())
		got := make(chan string, 8)
		ask := func(ctx context.Context) {
			f, err := s.get(ctx, find)
			got <- fmt.Sprint(f.Image, err)
		}
		go ask(first)
		synctest.Wait()
		for range 3 {
			go ask(t.Context())
		}
		gone, leave := context.WithCancel(t.Context())
		go ask(gone)
		synctest.Wait()
		leave()
		if g := <-got; g != fmt.Sprint(context.Canceled) {
			t.Errorf("who does not wait any more gets %s", g)
		}
		hangUp()
		synctest.Wait()
		found <- doctor.Sample{Image: "a"}
		for range 4 {
			if g := <-got; g != "a<nil>" {
				t.Errorf("got %s", g)
			}
		}
		if looks != 1 {
			t.Errorf("%d looked", looks)
		}
		ask(t.Context()) // it is told again for a while
		time.Sleep(2 * SampleAge)
		go ask(t.Context())
		time.Sleep(sampleTime + time.Second) // and nobody looks longer than that
		if g := <-got + <-got; g != "a<nil><nil>" || looks != 2 {
			t.Errorf("then %s, and %d looked", g, looks)
		}
	})
}
