package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"time"
)

// holdFormat is the format from which on a stage can be held for an approval.
const holdFormat = 4

// hold is what is known of a held stage.
type hold struct {
	claim, content, maker string
	made                  int64 // Unix nanoseconds
}

// RequireApproval decides whether names appear under a claim only by an Approve. Stages that are held stay held.
type RequireApproval struct {
	_  struct{} `cbor:",toarray"`
	On bool
}

// Hold holds a stage: Publish refuses it, and nothing can be added. Its edits take effect by an Approve of somebody
// other than Maker, before Until (Unix nanoseconds). Then it expires. At most one stage is held for a claim, and its
// edits have that claim or none.
type Hold struct {
	_       struct{} `cbor:",toarray"`
	ID      string   // of the stage
	Claim   string
	Content string // the digest by which the approver knows what was staged
	Maker   string
	Until   int64
}

// Approve publishes a held stage, as Publish does. It is refused unless By is not the maker and Diff is what
// [State.Diff] returns for the state before the command. So it approves one content and one effect, and once: the stage
// ends with it. Other edits of the command may replace what it has written under the claim; those before it must not
// touch the same names.
type Approve struct {
	_     struct{} `cbor:",toarray"`
	ID    string
	By    string
	Diff  []byte
	Until int64 // extends the pins of the staged weak links; 0 does not
}

// Reject ends a held stage without publishing it.
type Reject struct {
	_  struct{} `cbor:",toarray"`
	ID string
}

func (o *RequireApproval) check() error { return nil }

func (o *Hold) check() error {
	if !ValidID(o.Claim) || !ValidID(o.Maker) || !ValidID(o.Content) {
		return refuse(CodeInvalid, "hold", o.ID, "claim, content and maker have 1 to %d bytes and no control "+
			"characters", MaxID)
	}
	return checkID("hold", o.ID)
}

func (o *Approve) check() error {
	if len(o.Diff) != sha256.Size {
		return refuse(CodeInvalid, "approve", o.ID, "the diff is a sha256 of %d bytes, got %d", sha256.Size,
			len(o.Diff))
	}
	return checkID("approve", o.ID)
}

func (o *Reject) check() error { return checkID("reject", o.ID) }

func (o *RequireApproval) apply(tx *tx) error {
	tx.s.approval = o.On
	return nil
}

func (o *Hold) apply(tx *tx) error {
	s := tx.s
	st, ok := s.stages.get(o.ID)
	if !ok {
		return refuse(CodeNoStage, "hold", o.ID, "there is no such stage, it may have expired: stage again")
	}
	if err := tx.free("hold", o.ID); err != nil {
		return err
	}
	for _, h := range s.holds() {
		if h.claim == o.Claim {
			return refuse(CodeVersion, "hold", o.Claim, "a stage of this claim is held already")
		}
	}
	var err error
	s.inStage(o.ID, func(_ string, op Op) bool {
		if c := claimOf(op); c != "" && c != o.Claim {
			err = refuse(CodeInvalid, "hold", o.ID, "an edit has the claim %s, not %s", c, o.Claim)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	st.until = o.Until
	s.stages.set(o.ID, st)
	s.held.set(o.ID, hold{claim: o.Claim, content: o.Content, maker: o.Maker, made: tx.time})
	return nil
}

// claimOf returns the claim of an edit, "" for none.
func claimOf(op Op) string {
	switch op := op.(type) {
	case *Put:
		return op.Claim
	case *Link:
		return op.Claim
	case *LinkWeak:
		return op.Claim
	}
	return ""
}

// free refuses what only an approval or a rejection may do to a stage.
func (tx *tx) free(op, id string) error {
	if _, ok := tx.s.held.get(id); ok {
		return refuse(CodeApproval, op, id, "the stage is held")
	}
	return nil
}

func notHeld(op, id string) *Error {
	return refuse(CodeNoStage, op, id, "no stage of this id is held: it was approved, rejected, or has expired")
}

// judge checks an approval against the state before the command.
func (o *Approve) judge(s *State, now int64) error {
	h, held := s.held.get(o.ID)
	st, _ := s.stages.get(o.ID)
	switch {
	case !held:
		return notHeld("approve", o.ID)
	case now >= st.until:
		return refuse(CodeNoStage, "approve", o.ID, "it expired at %s",
			time.Unix(0, st.until).UTC())
	case o.By == "":
		return refuse(CodeApproval, "approve", o.ID, "nobody is named as the approver")
	case o.By == h.maker:
		return refuse(CodeApproval, "approve", o.ID, "%s has made it", short(h.maker))
	}
	if diff := s.diff(o.ID, h); !bytes.Equal(diff[:], o.Diff) {
		return refuse(CodeVersion, "approve", o.ID, "what it does is %x now, not %x", diff, o.Diff)
	}
	return s.expectStaged(o.ID, nil)
}

func (o *Approve) apply(tx *tx) error {
	h, ok := tx.s.held.get(o.ID)
	if !ok { // a second approval in the same command
		return notHeld("approve", o.ID)
	}
	tx.approving = true
	err := tx.publish(o.ID, o.Until)
	tx.approving = false
	tx.approved = h.claim
	return err
}

func (o *Reject) apply(tx *tx) error {
	if _, ok := tx.s.held.get(o.ID); !ok {
		return notHeld("reject", o.ID)
	}
	tx.dropStage(o.ID)
	return nil
}

// claims refuses a node under a claim that nobody has approved. gone is the node of the same claim that it replaces.
func (tx *tx) claims(op, name string, n, gone *node) error {
	switch {
	case n.claim == "", !tx.s.approval, tx.approving:
		return nil
	case n.claim == tx.approved && gone != nil && gone.version == tx.index: // what this command's approval has written
		return nil
	}
	return refuse(CodeApproval, op, name, "it has the claim %s", n.claim)
}

// holds yields what is known of the held stages, by id.
func (s *State) holds() iter.Seq2[string, hold] {
	return func(yield func(string, hold) bool) { s.held.from("", yield) }
}

// diff is the digest of what a held stage does: of who has made it, its content, its edits, and for each name that it
// writes what is visible there now. Weak links count as edits only: they come and go with pushes of the same blobs.
// Every text has its length before it, so that different edits have different digests.
func (s *State) diff(id string, h hold) (sum [sha256.Size]byte) {
	d := differ{sha256.New()}
	d.texts("casemate held stage 1", id, h.claim, h.content, h.maker)
	s.inStage(id, func(_ string, op Op) bool {
		switch op := op.(type) {
		case *Put:
			d.texts("put", op.Name, op.Claim, string(op.Data))
			d.visible(s, op.Name)
		case *Link:
			d.texts("link", op.Name, op.Claim, string(op.Digest))
			d.number(uint64(len(op.Holds)))
			for _, held := range op.Holds {
				d.texts(string(held))
			}
			d.visible(s, op.Name)
		case *LinkWeak:
			d.texts("weak", op.Name, op.Claim, string(op.Digest))
		case *Remove:
			d.texts("remove", op.Name)
		case *Expect:
			d.texts("expect", op.Name)
			d.number(op.Version)
		}
		return true
	})
	copy(sum[:], d.hash.Sum(nil))
	return sum
}

// differ hashes texts and numbers.
type differ struct {
	hash interface {
		Write([]byte) (int, error)
		Sum([]byte) []byte
	}
}

func (d differ) number(n uint64) { d.hash.Write(binary.BigEndian.AppendUint64(nil, n)) }

func (d differ) texts(list ...string) {
	for _, s := range list {
		d.number(uint64(len(s)))
		d.hash.Write([]byte(s))
	}
}

func (d differ) visible(s *State, name string) {
	e, ok := s.Get(name)
	if !ok {
		d.number(0)
		return
	}
	d.texts(e.Claim, string(e.Digest), e.Data)
}

// Held describes a held stage.
type Held struct {
	ID, Claim, Content, Maker string
	Made, Until               time.Time
	Edits                     int
}

// Held yields the held stages by id.
func (s *State) Held() iter.Seq[Held] {
	return func(yield func(Held) bool) {
		for id, h := range s.holds() {
			st, _ := s.stages.get(id)
			if !yield(Held{ID: id, Claim: h.claim, Content: h.content, Maker: h.maker, Made: time.Unix(0, h.made).UTC(),
				Until: time.Unix(0, st.until).UTC(), Edits: int(st.next)}) {
				return
			}
		}
	}
}

// HeldOps yields the edits of a held stage in their order; callers must not change them.
func (s *State) HeldOps(id string) iter.Seq[Op] {
	return func(yield func(Op) bool) {
		if _, ok := s.held.get(id); ok {
			s.inStage(id, func(_ string, op Op) bool { return yield(op) })
		}
	}
}

// Diff returns the digest of what approving a held stage does now; an Approve must have it. false: no such stage is
// held.
func (s *State) Diff(id string) (sum [sha256.Size]byte, ok bool) {
	h, ok := s.held.get(id)
	if !ok {
		return sum, false
	}
	return s.diff(id, h), true
}

// ApprovalRequired reports whether names appear under a claim only by an Approve.
func (s *State) ApprovalRequired() bool { return s.approval }
