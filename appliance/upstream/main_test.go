package upstream_test

import (
	"testing"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

// Each of distribution's handlers.App has one goroutine that cannot be stopped; it waits for events that are never
// sent.
func TestMain(m *testing.M) {
	waittest.Main(m, goleak.Find, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}
