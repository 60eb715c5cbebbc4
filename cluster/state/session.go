package state

import (
	"encoding/binary"
	"unicode/utf8"
)

// MaxOutcomes is how many commands of one node may be open, that is, above its Finished.
const MaxOutcomes = 4096

// session is the state's record of a node, so that a command that is in the log twice takes effect once (promise 11).
type session struct {
	boot     uint64
	finished uint64
	open     int // stored outcomes
}

// outcome is the first outcome of a command. It does not change.
type outcome struct {
	index uint64
	err   *Error
}

func validNode(node string) bool {
	return len(node) <= MaxID && utf8.ValidString(node) && ValidID(node)
}

func outcomeKey(node string, seq uint64) string {
	return node + "\x00" + string(binary.BigEndian.AppendUint64(nil, seq))
}

// Boot returns the newest boot of a node that the state has seen, 0 if none; the next process of the node must use a
// greater one.
func (s *State) Boot(node string) uint64 {
	se, _ := s.sessions.get(node)
	return se.boot
}

// Outcome returns the outcome of a command, if the state still has it: the log index and, if it was refused, the
// reason.
func (s *State) Outcome(node string, boot, seq uint64) (index uint64, refused error, ok bool) {
	if se, _ := s.sessions.get(node); se.boot != boot {
		return 0, nil, false
	}
	o, ok := s.outcomes.get(outcomeKey(node, seq))
	if !ok {
		return 0, nil, false
	}
	return o.index, o.error(), true
}

// admit decides whether the command is to be applied (true); otherwise it returns the result.
//
// A refusal here is not stored, because nothing was done: a later repeat may be applied, once.
func (s *State) admit(c *Command) (Result, bool) {
	if c.Node == "" {
		return Result{}, true
	}
	no := func(code Code, format string, args ...any) (Result, bool) {
		return Result{Err: refuse(code, "command of", c.Node, format, args...)}, false
	}
	if !validNode(c.Node) || c.Seq == 0 || c.Finished >= c.Seq {
		return no(CodeInvalid, "a sequence begins at 1 and is above finished, got %d and %d", c.Seq, c.Finished)
	}
	se, _ := s.sessions.get(c.Node)
	switch {
	case c.Boot < se.boot:
		return no(CodeOldBoot, "boot %d, the newest is %d", c.Boot, se.boot)
	case c.Boot > se.boot:
		// The old process is gone, so nobody waits for its outcomes; its commands that are still on their way are
		// refused from here on.
		s.forget(c.Node, 0, ^uint64(0))
		se = session{boot: c.Boot}
	}
	if c.Seq <= se.finished {
		return no(CodeFinished, "sequence %d, finished is %d", c.Seq, se.finished)
	}
	if o, ok := s.outcomes.get(outcomeKey(c.Node, c.Seq)); ok {
		return Result{Index: o.index, Err: o.error(), Repeat: true}, false
	}
	if c.Finished > se.finished {
		se.open -= s.forget(c.Node, se.finished, c.Finished)
		se.finished = c.Finished
	}
	s.sessions.set(c.Node, se)
	if se.open >= MaxOutcomes {
		return no(CodeBusy, "%d commands are under way", se.open)
	}
	return Result{}, true
}

// forget deletes the outcomes of the sequences above low up to high and returns their number.
func (s *State) forget(node string, low, high uint64) int {
	last := outcomeKey(node, high)
	var keys []string
	s.outcomes.from(outcomeKey(node, low), func(k string, _ *outcome) bool {
		if k > last {
			return false
		}
		keys = append(keys, k)
		return true
	})
	for _, k := range keys {
		s.outcomes.del(k)
	}
	return len(keys)
}

func (s *State) remember(c *Command, index uint64, err *Error) {
	if c.Node == "" {
		return
	}
	se, _ := s.sessions.get(c.Node)
	se.open++
	s.sessions.set(c.Node, se)
	s.outcomes.set(outcomeKey(c.Node, c.Seq), &outcome{index: index, err: err})
}

// error avoids a non-nil interface with a nil pointer.
func (o *outcome) error() error {
	if o.err == nil {
		return nil
	}
	return o.err
}
