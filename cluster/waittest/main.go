package waittest

import (
	"time"

	"go.uber.org/goleak"
)

// Main is the TestMain of a package whose goroutines must not outlive its tests. The options name those that may.
//
// goleak gives up after half a second. On a busy machine goroutines that are about to end may need longer, so they are
// waited for until only those are left that never end.
func Main(m goleak.TestingM, options ...goleak.Option) {
	goleak.VerifyTestMain(settled{m, options}, options...)
}

// settled are tests that are over when their goroutines are.
type settled struct {
	goleak.TestingM
	options []goleak.Option
}

func (s settled) Run() int {
	code := s.TestingM.Run()
	for end := time.Now().Add(patience); code == 0 && goleak.Find(s.options...) != nil && time.Now().Before(end); {
		// Find itself pauses between its looks.
	}
	return code
}
