package registry

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// One for each handlers.App of distribution, which has no way to end it; it waits for events that nobody sends.
		goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}
