package waittest

import (
	"sync/atomic"
	"testing"
	"time"
)

// tests are a package's tests that leave a goroutine which ends late.
type tests struct{ ended atomic.Bool }

func (m *tests) Run() int {
	go func() {
		time.Sleep(time.Second) // goleak alone waits half a second
		m.ended.Store(true)
	}()
	return 0
}

func TestGoroutinesThatEndLate(t *testing.T) {
	m := &tests{}
	if code := (settled{m, nil}).Run(); code != 0 || !m.ended.Load() {
		t.Errorf("code %d, ended %v", code, m.ended.Load())
	}
}
