package download

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestKeyedMutex(t *testing.T) {
	var (
		k      keyedMutex
		inside atomic.Int32
		wg     sync.WaitGroup
	)
	for range 50 {
		wg.Go(func() {
			defer k.lock("a")()
			if inside.Add(1) != 1 {
				t.Error("two hold the same key")
			}
			unlock := k.lock("b") // another key
			inside.Add(-1)
			unlock()
		})
	}
	wg.Wait()
	if len(k.held) != 0 {
		t.Errorf("%d keys are kept", len(k.held))
	}
}
