package registry

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// One for each handlers.App of distribution, which cannot be ended; it waits for events that are never sent.
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}
