package registry

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
