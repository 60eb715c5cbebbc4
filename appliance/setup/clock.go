package setup

import (
	"time"

	"casemate/appliance/clock"
)

// Clock is what the machine knows of the time before certificates are made that begin now.
type Clock struct {
	clock.Evidence
	// Right says that an operator vouches for the clock.
	Right bool
}

// check returns notes about a doubtful clock, and an error for a wrong one.
func (c Clock) check() (notes []string, err error) {
	if c.Right {
		return nil, nil
	}
	return c.Doubts(), c.Wrong()
}

// Read reads what the machine knows; built is the date of this program.
func (c *Clock) Read(built time.Time) { c.Evidence = clock.Gather(time.Now(), built) }
