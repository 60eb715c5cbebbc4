package waittest

import (
	"errors"
	"testing"
	"time"
)

type exit int

func (e exit) Run() int { return int(e) }

// Goroutines that end late are no leak, and those that never end are one; a failure of the tests is reported as it is.
func TestMainWaitsForGoroutines(t *testing.T) {
	for _, c := range []struct {
		code, looks int // how often there is a leak; -1: always
		patience    time.Duration
		want        int
	}{{0, 0, 0, 0}, {0, 5, time.Hour, 0}, {0, -1, 0, 1}, {2, -1, time.Hour, 2}} {
		left := c.looks
		leaks := func() error {
			if left == 0 {
				return nil
			}
			left--
			return errors.New("leak")
		}
		if got := run(exit(c.code), c.patience, leaks); got != c.want {
			t.Errorf("%+v: exit code %d", c, got)
		}
	}
}
