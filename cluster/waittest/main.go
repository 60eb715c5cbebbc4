package waittest

import (
	"fmt"
	"os"
	"time"
)

// Main is the TestMain of a package whose goroutines must not outlive its tests: waittest.Main(m, goleak.Find). The
// options are those of leaks, and name the goroutines that may.
//
// goleak gives up after half a second. On a busy machine goroutines that are about to end may need longer, so they are
// waited for until only those are left that never end.
func Main[O any](m interface{ Run() int }, leaks func(...O) error, options ...O) {
	os.Exit(run(m, patience, func() error { return leaks(options...) }))
}

// run returns the exit code.
func run(m interface{ Run() int }, patience time.Duration, leaks func() error) int {
	if code := m.Run(); code != 0 {
		return code
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // poll interval
		err := leaks()
		if err == nil {
			return 0
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, "goroutines outlive the tests:", err)
			return 1
		}
	}
}
