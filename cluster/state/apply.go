package state

import (
	"errors"
	"fmt"
)

// Result is the outcome of applying a command.
type Result struct {
	// Node, Boot and Seq are the command's name, so that its proposer can be found.
	Node      string
	Boot, Seq uint64
	// Index is the log index at which the command took effect or was refused; for a repeat, that of the first time. It
	// is the version of the files that the command wrote.
	Index uint64
	// Err is the reason why the command was refused; always an *Error. A refused command changes nothing.
	Err error
	// Fatal is the reason why this program cannot continue: it does not understand the command. The state has not
	// changed and must not, since skipping the command would make this replica differ from the others (promise 8).
	Fatal error
	// Repeat reports that the command had been applied before and changed nothing now.
	Repeat bool
	// Changed are the names that changed, for watchers; a removed directory is reported by its own name only. A name
	// may be listed more than once.
	Changed []string
	// Appeared are the names that did not exist before in any way, Vanished those that no longer exist; a name that
	// appears and vanishes in one command is in both lists. Stale weak links exist until they are swept.
	Appeared, Vanished []string
	// Added are the blobs that became known, Collected those whose bytes may be removed. All these lists are empty for
	// a repeat.
	Added     []Digest
	Collected []Digest
}

// tx is the application of one command.
type tx struct {
	s      *State
	index  uint64
	time   int64
	node   string
	result *Result

	approving bool   // the edits of a held stage are applied
	approved  string // the claim of the stage that this command has approved
}

func (tx *tx) changed(name string) { tx.result.Changed = append(tx.result.Changed, name) }

// forget removes a name without claims from the table.
func (tx *tx) forget(key string) {
	tx.s.names.del(key)
	tx.result.Vanished = append(tx.result.Vanished, nameOf(key))
}

// SetFormat raises the format, after every member has reported that it understands the new one. Lowering it is refused;
// setting the same format changes nothing.
type SetFormat struct {
	_       struct{} `cbor:",toarray"`
	Version uint64
}

func (o *SetFormat) check() error { return nil }

// apply stops the node on a format that it does not understand: an error that is not an *Error is fatal.
func (o *SetFormat) apply(tx *tx) error {
	switch {
	case o.Version > MaxFormat:
		return fmt.Errorf("the cluster went to format %d, this program understands up to %d: install the newer "+
			"casemate on this node", o.Version, MaxFormat)
	case o.Version < tx.s.format:
		return refuse(CodeInvalid, "set format", fmt.Sprint(o.Version), "the format is %d and only grows", tx.s.format)
	}
	if tx.s.format < eventFormat && o.Version >= eventFormat {
		(&Event{How: ByNode, Verb: "audit.begin"}).apply(tx)
	}
	tx.s.format = o.Version
	return nil
}

// Apply applies the command at index in the log; index must be above Index. The result depends only on the state and
// the arguments.
func (s *State) Apply(index uint64, cmd []byte) Result {
	if index <= s.index {
		return Result{Index: index, Fatal: fmt.Errorf("log index %d was delivered after %d", index, s.index)}
	}
	c, err := Decode(cmd, s.format)
	if err != nil {
		return Result{Index: index, Fatal: fmt.Errorf("log index %d: %w", index, err)}
	}
	r := s.execute(index, c)
	if r.Fatal == nil {
		s.addUp(index, cmd, &r)
	}
	r.Node, r.Boot, r.Seq = c.Node, c.Boot, c.Seq
	return r
}

func (s *State) execute(index uint64, c *Command) Result {
	saved := s.scalars
	s.index = index
	if r, ok := s.admit(c); !ok {
		s.commit()
		if !r.Repeat {
			r.Index = index
		}
		return r
	}
	r := Result{Index: index}
	err := s.run(&tx{s: s, index: index, time: c.Time, node: c.Node, result: &r}, c.Ops)
	if err == nil {
		s.remember(c, index, nil)
		s.commit()
		return r
	}
	s.rollback(saved)
	var refused *Error
	if !errors.As(err, &refused) {
		return Result{Index: index, Fatal: fmt.Errorf("log index %d: %w", index, err)}
	}
	// The session advances although the batch changed nothing: its outcome is the refusal.
	s.index = index
	s.admit(c)
	s.remember(c, index, refused)
	s.recordRefused(index, c, refused)
	s.commit()
	return Result{Index: index, Err: refused}
}

// run applies the edits. Expectations are checked first, including those of stages that are published, because they
// refer to the state that the proposer saw.
func (s *State) run(tx *tx, ops []Op) error {
	for _, op := range ops {
		if err := op.check(); err != nil {
			return err
		}
	}
	for i, op := range ops {
		switch op := op.(type) {
		case *Expect:
			if err := op.hold(s); err != nil {
				return err
			}
		case *Publish:
			if err := s.expectStaged(op.ID, ops[:i]); err != nil {
				return err
			}
		case *Approve:
			if err := op.judge(s, tx.time); err != nil {
				return err
			}
		}
	}
	for _, op := range ops {
		if err := op.apply(tx); err != nil {
			return err
		}
	}
	s.tell(tx, ops)
	return nil
}

// expectStaged checks the expectations of a stage that is going to be published, including edits that this command
// stages before.
func (s *State) expectStaged(id string, before []Op) (err error) {
	hold := func(_ string, op Op) bool {
		if e, ok := op.(*Expect); ok && err == nil {
			err = e.hold(s)
		}
		return err == nil
	}
	s.inStage(id, hold)
	for _, op := range before {
		if st, ok := op.(*Stage); ok && st.ID == id {
			for _, op := range st.Ops {
				hold("", op)
			}
		}
	}
	return err
}
