package state

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Command is one log entry: a batch, and the name that makes it exactly-once.
type Command struct {
	// Node, Boot and Seq name the command; a repeat has the same name and the same content. Boot grows with every start
	// of the node, Seq begins at 1 in each boot. With Node "" the command has no name and is applied as often as it is
	// in the log.
	Node string
	Boot uint64
	Seq  uint64
	// Finished is the greatest sequence up to which the node no longer needs any outcome. It is below Seq.
	Finished uint64
	// Time is the proposer's clock in Unix nanoseconds and becomes the files' modification time.
	Time int64
	Ops  []Op
}

// version is the first byte of every command. It changes with the layout of the rest, but not with new kinds of edits.
const version = 1

// MaxFormat is the newest format that this program understands: 1 is the first; with 2 the state keeps a running sum
// (see [State.Sum]), with 3 a log of events (see [Event]), and so do its snapshots; with 4 stages can be held for an
// approval (see [Hold]).
const MaxFormat = 4

// opKind numbers the edits in the log. Numbers are never reused.
type opKind uint64

const (
	kindPut             opKind = 1
	kindLink            opKind = 2
	kindLinkWeak        opKind = 3
	kindRemove          opKind = 4
	kindExpect          opKind = 5
	kindAddBlob         opKind = 6
	kindExpire          opKind = 7
	kindCollect         opKind = 8
	kindSweep           opKind = 9
	kindStage           opKind = 10
	kindPublish         opKind = 11
	kindDropStage       opKind = 12
	kindDropClaims      opKind = 13
	kindSetFormat       opKind = 14
	kindEvent           opKind = 15
	kindSealEvents      opKind = 16
	kindQuiet           opKind = 17
	kindRequireApproval opKind = 18
	kindHold            opKind = 19
	kindApprove         opKind = 20
	kindReject          opKind = 21
)

func (*Put) kind() opKind             { return kindPut }
func (*Link) kind() opKind            { return kindLink }
func (*LinkWeak) kind() opKind        { return kindLinkWeak }
func (*Remove) kind() opKind          { return kindRemove }
func (*Expect) kind() opKind          { return kindExpect }
func (*AddBlob) kind() opKind         { return kindAddBlob }
func (*Expire) kind() opKind          { return kindExpire }
func (*Collect) kind() opKind         { return kindCollect }
func (*Sweep) kind() opKind           { return kindSweep }
func (*Stage) kind() opKind           { return kindStage }
func (*Publish) kind() opKind         { return kindPublish }
func (*DropStage) kind() opKind       { return kindDropStage }
func (*DropClaims) kind() opKind      { return kindDropClaims }
func (*SetFormat) kind() opKind       { return kindSetFormat }
func (*Event) kind() opKind           { return kindEvent }
func (*SealEvents) kind() opKind      { return kindSealEvents }
func (*Quiet) kind() opKind           { return kindQuiet }
func (*RequireApproval) kind() opKind { return kindRequireApproval }
func (*Hold) kind() opKind            { return kindHold }
func (*Approve) kind() opKind         { return kindApprove }
func (*Reject) kind() opKind          { return kindReject }

// newOp returns an empty edit of the kind and the lowest format in which it is allowed; nil for an unknown kind.
func newOp(k opKind) (op Op, since uint64) {
	switch k {
	case kindPut:
		return new(Put), 1
	case kindLink:
		return new(Link), 1
	case kindLinkWeak:
		return new(LinkWeak), 1
	case kindRemove:
		return new(Remove), 1
	case kindExpect:
		return new(Expect), 1
	case kindAddBlob:
		return new(AddBlob), 1
	case kindExpire:
		return new(Expire), 1
	case kindCollect:
		return new(Collect), 1
	case kindSweep:
		return new(Sweep), 1
	case kindStage:
		return new(Stage), 1
	case kindPublish:
		return new(Publish), 1
	case kindDropStage:
		return new(DropStage), 1
	case kindDropClaims:
		return new(DropClaims), 1
	case kindSetFormat:
		return new(SetFormat), 1
	case kindEvent:
		return new(Event), eventFormat
	case kindSealEvents:
		return new(SealEvents), eventFormat
	case kindQuiet:
		return new(Quiet), eventFormat
	case kindRequireApproval:
		return new(RequireApproval), holdFormat
	case kindHold:
		return new(Hold), holdFormat
	case kindApprove:
		return new(Approve), holdFormat
	case kindReject:
		return new(Reject), holdFormat
	}
	return nil, 0
}

// The encoding is CBOR (RFC 8949), restricted to the forms that Encode writes: arrays of fixed length, strings as byte
// strings (apply checks names; a decoder that checks UTF-8 would make a bad name fatal), no tags, no indefinite
// lengths.
var (
	encMode = must(cbor.EncOptions{
		Sort: cbor.SortCoreDeterministic, String: cbor.StringToByteString, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden,
	}.EncMode())
	decMode = must(cbor.DecOptions{
		MaxNestedLevels: 4, MaxArrayElements: 1 << 15, MaxMapPairs: 16, IndefLength: cbor.IndefLengthForbidden,
		TagsMd:             cbor.TagsForbidden,
		ByteStringToString: cbor.ByteStringToStringAllowed,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

type header struct {
	_        struct{} `cbor:",toarray"`
	Node     string
	Boot     uint64
	Seq      uint64
	Finished uint64
	Time     int64
	Ops      uint64
}

type stageBody struct {
	_     struct{} `cbor:",toarray"`
	ID    string
	Until int64
	From  uint64
	Count uint64
	Ops   []byte
}

// Encode returns the command in its form in the log: the version, then a CBOR sequence (RFC 8742) of the header and,
// for each edit, its kind and its body. Edits that would be refused in any state are refused here already, with the
// same errors; so Apply can decode what Encode returns.
func (c *Command) Encode() ([]byte, error) {
	if c.Node != "" && (!validNode(c.Node) || c.Seq == 0 || c.Finished >= c.Seq) {
		return nil, refuse(CodeInvalid, "command of", c.Node, "a sequence begins at 1 and is above finished, got %d "+
			"and %d", c.Seq, c.Finished)
	}
	for i, op := range c.Ops {
		if op == nil {
			return nil, refuse(CodeInvalid, "command of", c.Node, "edit %d is nil", i)
		}
		if err := op.check(); err != nil {
			return nil, err
		}
	}
	h, err := encMode.Marshal(&header{Node: c.Node, Boot: c.Boot, Seq: c.Seq, Finished: c.Finished, Time: c.Time,
		Ops: uint64(len(c.Ops))})
	if err != nil {
		return nil, err
	}
	return appendOps(append([]byte{version}, h...), c.Ops)
}

func appendOps(buf []byte, ops []Op) ([]byte, error) {
	for _, op := range ops {
		if b := appendOp(buf, op); b != nil {
			buf = b
			continue
		}
		k, err := encMode.Marshal(uint64(op.kind()))
		if err != nil {
			return nil, err
		}
		var body []byte
		if st, ok := op.(*Stage); ok {
			inner, err := appendOps(nil, st.Ops)
			if err != nil {
				return nil, err
			}
			body, err = encMode.Marshal(&stageBody{ID: st.ID, Until: st.Until, From: st.From,
				Count: uint64(len(st.Ops)), Ops: inner})
			if err != nil {
				return nil, err
			}
		} else if body, err = encMode.Marshal(op); err != nil {
			return nil, err
		}
		buf = append(append(buf, k...), body...)
	}
	return buf, nil
}

// Size returns how many bytes the edit takes in a command, so that a proposer can split a large batch into stages.
func Size(op Op) int {
	b, err := appendOps(nil, []Op{op})
	if err != nil {
		return 0
	}
	return len(b)
}

// Decode reads the output of Encode. format is the format of the state that the command is applied to. An error means
// that this program does not know what the command means.
func Decode(data []byte, format uint64) (*Command, error) {
	if len(data) == 0 {
		return nil, errors.New("command is empty")
	}
	if data[0] != version {
		return nil, fmt.Errorf("command version %d is not understood, only %d: install the newer casemate on this node",
			data[0], version)
	}
	var h header
	var err error
	s := scan{p: data[1:]}
	if h.scan(&s); s.odd {
		h = header{}
		if s.p, err = decMode.UnmarshalFirst(data[1:], &h); err != nil {
			return nil, fmt.Errorf("command header: %w", err)
		}
	}
	rest := s.p
	c := &Command{Node: h.Node, Boot: h.Boot, Seq: h.Seq, Finished: h.Finished, Time: h.Time}
	if c.Ops, err = decodeOps(rest, h.Ops, format, false); err != nil {
		return nil, err
	}
	return c, nil
}

func decodeOps(data []byte, n, format uint64, staged bool) ([]Op, error) {
	if n > uint64(len(data)) {
		return nil, fmt.Errorf("command claims %d edits in %d bytes", n, len(data))
	}
	ops := make([]Op, 0, min(n, 1024))
	for i := range n {
		s := scan{p: data, odd: format < 1}
		if op := scanOp(&s); !s.odd {
			ops = append(ops, op)
			data = s.p
			continue
		}
		var k opKind
		rest, err := decMode.UnmarshalFirst(data, &k)
		if err != nil {
			return nil, fmt.Errorf("kind of edit %d: %w", i, err)
		}
		op, since := newOp(k)
		switch {
		case op == nil:
			return nil, fmt.Errorf("edit %d is of kind %d, which is not understood: install the newer casemate on "+
				"this node", i, k)
		case since > format:
			return nil, fmt.Errorf("edit %d is of kind %d, which needs format %d, and the cluster is at %d", i, k,
				since, format)
		}
		if st, ok := op.(*Stage); ok {
			if staged {
				return nil, fmt.Errorf("edit %d is a stage in a stage", i)
			}
			var b stageBody
			if data, err = decMode.UnmarshalFirst(rest, &b); err != nil {
				return nil, fmt.Errorf("edit %d of kind %d: %w", i, k, err)
			}
			st.ID, st.Until, st.From = b.ID, b.Until, b.From
			if st.Ops, err = decodeOps(b.Ops, b.Count, format, true); err != nil {
				return nil, fmt.Errorf("stage: %w", err)
			}
		} else if data, err = decMode.UnmarshalFirst(rest, op); err != nil {
			return nil, fmt.Errorf("edit %d of kind %d: %w", i, k, err)
		}
		ops = append(ops, op)
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("command has %d bytes after its last edit", len(data))
	}
	return ops, nil
}
