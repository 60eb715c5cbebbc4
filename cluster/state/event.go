package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"casemate/cluster/merkle"
)

// eventFormat is the format from which on the state keeps a log of events.
const eventFormat = 3

// Limits of the texts of an event, in bytes.
const (
	MaxEventWord  = 64   // Verb, How
	MaxEventActor = 256  // Actor, From
	MaxEventText  = 1024 // Object, Old, New, Outcome

	maxEventLine = 1 << 14 // of the event as JSON, in which a byte takes at most two
)

// Event is an edit that appends an event to the state's log of events: who did what. It takes effect also when its
// command is refused; the event then says so, unless it is an act of a node (How is "node"), which tries again.
//
// Texts are UTF-8 without control characters; empty ones are left out of the log.
type Event struct {
	_       struct{} `cbor:",toarray"`
	Time    int64    // Unix nanoseconds; 0 is the command's
	Actor   string   // who
	How     string   // how the actor proved its name
	From    string   // where the request came from
	Verb    string   // "image.push"; never ""
	Object  string   // what it was done to
	Old     string   // the value before
	New     string   // the value after
	Outcome string   // why it was not done; "" is done
}

// Quiet declares that the names which its command changes are bookkeeping. A command that changes names and has neither
// an Event nor a Quiet is recorded by the state itself: its proposer did not know that the format had been raised.
type Quiet struct {
	_ struct{} `cbor:",toarray"`
}

// SealEvents moves the oldest Count events from the state into the file Name, whose blob must be known: its bytes are
// those of [State.EventLines], each followed by a newline. So the state itself has computed the digest that it links,
// and no proposer can replace an event. First is the number of the oldest event.
type SealEvents struct {
	_     struct{} `cbor:",toarray"`
	Name  string
	First uint64
	Count uint64
}

// ByNode is the How of an event that the node itself caused.
const ByNode = "node"

func (o *Event) check() error {
	for _, f := range []struct {
		text string
		most int
	}{
		{o.Verb, MaxEventWord}, {o.How, MaxEventWord}, {o.Actor, MaxEventActor}, {o.From, MaxEventActor},
		{o.Object, MaxEventText}, {o.Old, MaxEventText}, {o.New, MaxEventText}, {o.Outcome, MaxEventText},
	} {
		if len(f.text) > f.most || !plain(f.text) {
			return refuse(CodeInvalid, "event", o.Verb, "a text of an event has at most %d bytes of UTF-8 and no "+
				"control characters, got %q", f.most, short(f.text))
		}
	}
	if o.Verb == "" {
		return refuse(CodeInvalid, "event", o.Verb, "an event has a verb")
	}
	return nil
}

// plain reports whether a text needs no escape in JSON but those of " and \.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' {
			return false
		}
	}
	return utf8.ValidString(s)
}

func (o *SealEvents) check() error {
	if o.Count == 0 {
		return refuse(CodeInvalid, "seal events", o.Name, "there must be events to seal")
	}
	return checkName("seal events", o.Name)
}

func (o *Quiet) check() error    { return nil }
func (o *Quiet) apply(*tx) error { return nil }

// tell records a command that changes names and does not say how it is to be told, by the first name.
func (s *State) tell(tx *tx, ops []Op) {
	if s.format < eventFormat {
		return
	}
	object, changes := "", false
	for _, op := range ops {
		name := ""
		switch op := op.(type) {
		case *Event, *Quiet:
			return
		case *Put:
			name = op.Name
		case *Link:
			name = op.Name
		case *Remove:
			name = op.Name
		case *DropClaims:
			name = op.Claim
		case *Publish, *Collect:
		default:
			continue
		}
		if changes = true; object == "" {
			object = cutText(name)
		}
	}
	if changes {
		s.record(tx.index, tx.node, tx.time, &Event{How: ByNode, Verb: "change", Object: object}, "")
	}
}

// cutText is a name as a text of an event, whatever its characters and its length.
func cutText(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' {
			return '?'
		}
		return r
	}, name)
	for len(name) > MaxEventText {
		name = name[:MaxEventText]
		for !utf8.ValidString(name) {
			name = name[:len(name)-1]
		}
	}
	return name
}

func (o *Event) apply(tx *tx) error {
	tx.s.record(tx.index, tx.node, tx.time, o, "")
	return nil
}

func (o *SealEvents) apply(tx *tx) error {
	s := tx.s
	if o.First != s.sealed.Size() || o.Count > s.recorded.Size()-o.First {
		return refuse(CodeVersion, "seal events", o.Name, "the state has the events %d to %d, not %d from %d on",
			s.sealed.Size(), s.recorded.Size(), o.Count, o.First)
	}
	h := sha256.New()
	for i, line := range s.EventLines(o.First) {
		if i == o.First+o.Count {
			break
		}
		h.Write([]byte(line))
		h.Write([]byte{'\n'})
		s.sealed = s.sealed.Add(merkle.LeafHash([]byte(line)))
	}
	for i := range o.Count {
		s.events.del(eventKey(o.First + i))
	}
	d := Digest(h.Sum([]byte{sha256Tag}))
	if _, err := tx.known("seal events", o.Name, d); err != nil {
		return err
	}
	return tx.place("seal events", o.Name, &node{kind: strong, body: string(d)})
}

func eventKey(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// record appends an event to the log.
func (s *State) record(index uint64, node string, at int64, o *Event, outcome string) {
	n := s.recorded.Size()
	if o.Time != 0 {
		at = o.Time
	}
	if outcome == "" {
		outcome = o.Outcome
	}
	line := o.line(n, index, node, at, outcome)
	s.events.set(eventKey(n), string(line))
	s.recorded = s.recorded.Add(merkle.LeafHash(line))
}

// line is the event as it is a leaf of the tree, and a line of every file and export: a JSON object. It is written here
// rather than by encoding/json, because its bytes must be the same in all versions of this program.
func (o *Event) line(n, index uint64, node string, at int64, outcome string) []byte {
	b := append(make([]byte, 0, 256), `{"n":`...)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, `,"time":"`...)
	b = time.Unix(0, at).UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","index":`...)
	b = strconv.AppendUint(b, index, 10)
	for _, f := range []struct{ key, text string }{
		{"node", node}, {"actor", o.Actor}, {"how", o.How}, {"from", o.From}, {"verb", o.Verb}, {"object", o.Object},
		{"old", o.Old}, {"new", o.New}, {"outcome", outcome},
	} {
		if f.text == "" {
			continue
		}
		b = append(append(append(b, `,"`...), f.key...), `":"`...)
		for i := range len(f.text) {
			if c := f.text[i]; c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, f.text[i])
		}
		b = append(b, '"')
	}
	return append(b, '}')
}

// isEventLine reports whether a line of a snapshot can be what [Event.line] wrote for the event n: everybody who reads
// the log parses it.
func isEventLine(line string, n uint64) bool {
	return len(line) <= maxEventLine && strings.HasPrefix(line, fmt.Sprintf(`{"n":%d,"time":"`, n)) &&
		json.Valid([]byte(line))
}

// recordRefused appends the events of a command that was refused.
func (s *State) recordRefused(index uint64, c *Command, why *Error) {
	for _, op := range c.Ops {
		if e, ok := op.(*Event); ok && e.How != ByNode && e.check() == nil {
			s.record(index, c.Node, c.Time, e, "refused: "+why.Code.reason())
		}
	}
}

// reason names the code in the log of events, where no wording may depend on the version of the program.
func (c Code) reason() string {
	switch c {
	case CodeConflict:
		return "a file is in place of a directory"
	case CodeVersion:
		return "it was changed meanwhile"
	case CodeNoBlob, CodeCollected:
		return "its bytes are not known"
	case CodeNoStage:
		return "the batch has expired"
	case CodeLimit:
		return "a limit is reached"
	case CodeApproval:
		return "it needs the approval of somebody else"
	}
	return "it is not valid"
}

// Events are the sizes and the root of the log of events.
type Events struct {
	First  uint64          // number of the oldest event in the state; the older ones were sealed
	Tree   merkle.Frontier // of all events
	Sealed merkle.Frontier // of those before First
}

// Events describes the log of events. It is empty before format 3.
func (s *State) Events() Events {
	return Events{First: s.sealed.Size(), Tree: s.recorded, Sealed: s.sealed}
}

// EventLines yields the events in the state from the number from on, each with its number and its line, a JSON object.
func (s *State) EventLines(from uint64) iter.Seq2[uint64, string] {
	return func(yield func(uint64, string) bool) {
		s.events.from(eventKey(from), func(k, line string) bool {
			return yield(binary.BigEndian.Uint64([]byte(k)), line)
		})
	}
}
