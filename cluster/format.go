package cluster

import (
	"context"
	"fmt"
	"io/fs"
	"sort"
	"strings"

	"casemate/cluster/state"
)

// Format returns the format of commands that the cluster has agreed to, and the newest that this program understands.
func (c *Cluster) Format() (agreed, newest uint64) {
	return c.machine.view.Load().Format(), maxFormat
}

// RaiseFormat lets the cluster use features of a newer program. It is refused while a member, including one that is
// down or does not vote yet, has not reported that it understands the format: such a node would have to stop. It cannot
// be undone: a program that does not understand the format no longer starts.
func (c *Cluster) RaiseFormat(ctx context.Context, format uint64) error {
	agreed, newest := c.Format()
	switch {
	case format < agreed:
		return fmt.Errorf("the format is %d and cannot be lowered to %d: %w", agreed, format, fs.ErrInvalid)
	case format == agreed:
		return nil
	case format > newest:
		return fmt.Errorf("this casemate understands formats up to %d, not %d: upgrade it first: %w", newest, format,
			fs.ErrInvalid)
	}
	c.caughtUp()
	var behind []string
	for _, m := range c.Members() {
		if m.Format < format && !(m.Self && c.peers == nil) {
			behind = append(behind, fmt.Sprintf("%s (casemate %s, up to %d)", m.Node, m.Version, m.Format))
		}
	}
	if len(behind) > 0 {
		sort.Strings(behind)
		return fmt.Errorf("not every member has reported that it understands format %d: upgrade or remove %s first: %w",
			format, strings.Join(behind, ", "), fs.ErrExist)
	}
	_, err := c.propose(ctx, &state.SetFormat{Version: format})
	if err == nil {
		c.log.Info("format raised", "format", format)
	}
	return err
}
