package state

import (
	"encoding/binary"
	"iter"
	"math"
	"time"
)

// MaxStages is the maximum number of stages.
const MaxStages = 1024

// stage is a batch that is collected invisibly, because it is too large for one log entry.
type stage struct {
	until int64  // Unix nanoseconds
	next  uint64 // number of the next edit
}

// Stage adds edits (Put, Link, LinkWeak, Remove and Expect) to the stage called ID, which it makes if there is none,
// and keeps the stage at least until Until (Unix nanoseconds). Names are checked now, conflicts and expectations when
// the stage is published. The stage keeps the blobs that its edits refer to.
//
// From is how many edits the proposer has staged before. If it is not 0 and the stage has another number of edits, the
// stage has expired in between and the command is refused (CodeNoStage): otherwise half a batch would be published.
type Stage struct {
	ID    string
	Until int64
	From  uint64
	Ops   []Op
}

// Publish applies the edits of a stage in their order, as if they were part of this command, and ends the stage. If it
// is refused, the stage is kept.
type Publish struct {
	_     struct{} `cbor:",toarray"`
	ID    string
	Until int64 // extends the pins of the staged weak links; 0 does not
}

// DropStage deletes a stage. It is no error if there is none.
type DropStage struct {
	_  struct{} `cbor:",toarray"`
	ID string
}

func checkID(op, id string) error {
	if !ValidID(id) {
		return refuse(CodeInvalid, op, id, "an id has 1 to %d bytes and no control characters", MaxID)
	}
	return nil
}

func (o *Stage) check() error {
	for _, op := range o.Ops {
		if _, ok := op.(staging); !ok {
			return refuse(CodeInvalid, "stage", o.ID, "only edits of names can be staged")
		}
		if err := op.check(); err != nil {
			return err
		}
	}
	return checkID("stage", o.ID)
}

func (o *Publish) check() error   { return checkID("publish", o.ID) }
func (o *DropStage) check() error { return checkID("drop stage", o.ID) }

func stagedKey(id string, n uint64) string {
	return id + "\x00" + string(binary.BigEndian.AppendUint64(nil, n))
}

// inStage calls fn for the edits of a stage in their order until it returns false.
func (s *State) inStage(id string, fn func(key string, op Op) bool) {
	first, last := stagedKey(id, 0), stagedKey(id, math.MaxUint64)
	s.staged.from(first, func(k string, op Op) bool { return k <= last && fn(k, op) })
}

func (o *Stage) apply(tx *tx) error {
	s := tx.s
	if err := tx.free("stage", o.ID); err != nil {
		return err
	}
	st, ok := s.stages.get(o.ID)
	if !ok && s.stages.len() >= MaxStages {
		return refuse(CodeLimit, "stage", o.ID, "there are %d stages already: publish or drop one", MaxStages)
	}
	if o.From != 0 && o.From != st.next {
		return refuse(CodeNoStage, "stage", o.ID, "it has %d edits, not %d, it may have expired: stage again from "+
			"the beginning", st.next, o.From)
	}
	for _, op := range o.Ops {
		var err error
		op.(staging).keeps(func(d Digest) {
			if _, e := tx.known("stage", o.ID, d); e != nil {
				err = firstError(err, e)
				return
			}
			tx.keep(d, 1)
		})
		if err != nil {
			return err
		}
		s.staged.set(stagedKey(o.ID, st.next), op)
		st.next++
	}
	st.until = max(st.until, o.Until)
	s.stages.set(o.ID, st)
	return nil
}

func (o *Publish) apply(tx *tx) error {
	if _, ok := tx.s.stages.get(o.ID); !ok {
		return refuse(CodeNoStage, "publish", o.ID, "there is no such stage, it may have expired: stage again")
	}
	if err := tx.free("publish", o.ID); err != nil {
		return err
	}
	return tx.publish(o.ID, o.Until)
}

// publish applies the edits of a stage and ends it. until extends the pins of its weak links.
func (tx *tx) publish(id string, until int64) error {
	var ops []Op
	tx.s.inStage(id, func(_ string, op Op) bool {
		ops = append(ops, op)
		return true
	})
	for _, op := range ops {
		if w, ok := op.(*LinkWeak); ok && w.Until < until {
			renewed := *w
			renewed.Until = until
			op = &renewed
		}
		if err := op.apply(tx); err != nil {
			return err
		}
	}
	tx.dropStage(id)
	return nil
}

func (o *DropStage) apply(tx *tx) error {
	if err := tx.free("drop stage", o.ID); err != nil {
		return err
	}
	tx.dropStage(o.ID)
	return nil
}

func (tx *tx) dropStage(id string) {
	var keys []string
	tx.s.inStage(id, func(k string, op Op) bool {
		keys = append(keys, k)
		return true
	})
	for _, k := range keys {
		op, _ := tx.s.staged.get(k)
		op.(staging).keeps(func(d Digest) { tx.keep(d, -1) })
		tx.s.staged.del(k)
	}
	tx.s.stages.del(id)
	tx.s.held.del(id)
}

// StageInfo describes a stage.
type StageInfo struct {
	ID    string
	Edits int
	Until time.Time
}

// Stages yields the stages sorted by id.
func (s *State) Stages() iter.Seq[StageInfo] {
	return func(yield func(StageInfo) bool) {
		s.stages.from("", func(id string, st stage) bool {
			return yield(StageInfo{ID: id, Edits: int(st.next), Until: time.Unix(0, st.until).UTC()})
		})
	}
}
