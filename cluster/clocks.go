package cluster

import (
	"fmt"
	"time"
)

const (
	// clockWarning is how far two nodes' clocks may be apart without a word; time servers keep them within a second.
	clockWarning = 10 * time.Second
	// clockProblem is half of the day by which certificates are dated back: clients with a correct clock soon refuse
	// what a node makes whose clock is ahead.
	clockProblem = 12 * time.Hour
)

// clockSentences compares this node's clock with those of the nodes that are up.
func (c *Cluster) clockSentences() (problems, warnings []string) {
	if c.peers == nil {
		return nil, nil
	}
	type other struct {
		node  string
		ahead time.Duration
	}
	var apart []other
	known, ahead, least := 0, 0, time.Duration(0)
	for _, n := range c.others() {
		by, ok := c.peers.Skew(n)
		if !ok {
			continue
		}
		if known++; by.Abs() <= clockWarning {
			continue
		}
		if apart = append(apart, other{n, by}); by > 0 {
			ahead++
		}
		if least == 0 || by.Abs() < least.Abs() {
			least = by
		}
	}
	const cure = "set the clock that is wrong, and synchronize all nodes with one time server (timedatectl)"
	say := func(by time.Duration, format string, args ...any) {
		s := fmt.Sprintf(format, args...) + ": " + cure
		if by.Abs() >= clockProblem {
			problems = append(problems, s+"; certificates that begin or end at the wrong time are refused by clients")
		} else {
			warnings = append(warnings, s)
		}
	}
	// Where all others differ in the same direction, this node is the one.
	if len(apart) > 1 && len(apart) == known && (ahead == 0 || ahead == known) {
		say(least, "the clock of this node is %s the clocks of all other nodes", behindOrAhead(-least))
		return problems, warnings
	}
	for _, o := range apart {
		say(o.ahead, "the clock of node %s is %s this node's", o.node, behindOrAhead(o.ahead))
	}
	return problems, warnings
}

func behindOrAhead(by time.Duration) string {
	if by < 0 {
		return (-by).Round(time.Second).String() + " behind"
	}
	return by.Round(time.Second).String() + " ahead of"
}
