package session

import (
	"testing"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	waittest.Main(m, goleak.Find,
		// One for each handlers.App of distribution, which cannot be ended; it waits for events that are never sent.
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

// open opens sessions and closes them at the end of the test.
func open(tb testing.TB, cfg Config) *Sessions {
	tb.Helper()
	if cfg.Secret == nil {
		cfg.Secret = []byte("secret")
	}
	s, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}
