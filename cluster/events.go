package cluster

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"casemate/cluster/merkle"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// eventFormat is the format from which on changes are recorded as events.
const eventFormat = 3

// Occurrence is an event that accompanies no change of the tree: a login, a refusal.
type Occurrence struct {
	tree.Event
	Actor tree.Actor
	Time  time.Time
}

// events returns the edits that record what the given edits of one command change. Every command passes here, so no
// change of a name is without an event, except for names that Config.Describe declares to be bookkeeping.
//
// Not recorded are steps that show nothing: blobs that no name refers to yet, stages, pins, and weak names, which
// disappear within the hour unless a lasting name follows. An event of tree.WithEvent is recorded with any name.
func (c *Cluster) events(ctx context.Context, ops []state.Op) []state.Op {
	if !c.recordsEvents() {
		return nil
	}
	d := deeds{c: c, s: c.machine.view.Load()}
	for _, op := range ops {
		switch op := op.(type) {
		case *state.Put:
			d.name(op.Name, op.Claim, "", false)
		case *state.Link:
			d.name(op.Name, op.Claim, op.Digest, false)
		case *state.Remove:
			d.name(op.Name, "", "", true)
		case *state.DropClaims:
			d.add(deed{verb: "import.remove", object: op.Claim})
		case *state.Hold:
			d.add(deed{verb: "import.stage", object: op.Claim, new: op.Content})
		case *state.Approve:
			d.held("import.approve", op.ID)
		case *state.Reject:
			d.held("import.reject", op.ID)
		case *state.Collect:
			d.add(deed{verb: "gc.collect", object: fmt.Sprintf("%d unreferenced blobs", len(op.Digests))})
		case *state.SetFormat:
			d.add(deed{verb: "format.raise", object: fmt.Sprint(op.Version)})
		case *state.LinkWeak:
			d.other = true
		}
	}
	e, told := tree.EventIn(ctx)
	switch {
	case !told && d.n == 0 && d.quiet:
		return []state.Op{&state.Quiet{}}
	case !told && d.n == 0, !d.other && d.n == 0:
		return nil
	case !told:
		e = d.event()
	default:
		e.Old, e.New = cmp.Or(e.Old, d.first.old), cmp.Or(e.New, d.first.new)
	}
	return []state.Op{eventOf(Occurrence{Event: e, Actor: tree.ActorIn(ctx)}, c.cfg.Node)}
}

// recordsEvents reports whether the cluster is at a format with events. A node that has just been started may know an
// old state only, so it catches up once. If it cannot, or if the format is raised in this moment, the state itself
// records what this node proposes without an event.
func (c *Cluster) recordsEvents() bool {
	if c.machine.view.Load().Format() >= eventFormat {
		return true
	}
	if !c.upToDate.Load() && c.caughtUp() {
		c.upToDate.Store(true)
	}
	return c.machine.view.Load().Format() >= eventFormat
}

// deed is what a change of a name means: what is done to what, and the digests before and after.
type deed struct{ verb, object, old, new string }

// describe is Config.Describe. Without it a name is told as it is.
func (c *Cluster) describe(name string, removed bool) (verb, object string) {
	switch {
	case c.cfg.Describe != nil:
		return c.cfg.Describe(name, removed)
	case removed:
		return "remove", name
	}
	return "set", name
}

// deeds are those of a batch, told as one: by the first that writes or, if nothing is written, the first.
type deeds struct {
	c           *Cluster
	s           *state.State
	n           int // different in a row
	first, last deed
	removes     bool // all do
	other       bool // there are names whose changes are no deeds:
	quiet       bool // bookkeeping, and not only weak ones
}

// name adds the change of a name. Names of an import are told by the import.
func (d *deeds) name(name, claim string, digest state.Digest, removed bool) {
	if claim != "" {
		d.add(deed{verb: "import.publish", object: claim})
		return
	}
	var what deed
	if what.verb, what.object = d.c.describe(name, removed); what.verb == "" {
		d.other, d.quiet = true, true
		return
	}
	if d.n == 0 || d.removes && !removed {
		d.first = what
		if digest != "" {
			d.first.new = digest.String()
		}
		if e, ok := d.s.Get(name); ok && e.Digest != "" {
			d.first.old = e.Digest.String()
		}
		d.removes = removed
	}
	d.count(what)
}

func (d *deeds) add(what deed) {
	if d.n == 0 || d.removes {
		d.first, d.removes = what, false
	}
	d.count(what)
}

// held adds what is done to a held stage.
func (d *deeds) held(verb, id string) {
	for h := range d.s.Held() {
		if h.ID == id {
			d.add(deed{verb: verb, object: h.Claim, new: h.Content})
		}
	}
}

func (d *deeds) count(what deed) {
	if d.n == 0 || what.object != d.last.object {
		d.n++
	}
	d.last = what
}

func (d *deeds) event() tree.Event {
	e := tree.Event{Verb: d.first.verb, Object: d.first.object, Old: d.first.old, New: d.first.new}
	if d.n > 1 && e.Object != "" {
		e.Object = fmt.Sprintf("%s and %d more", e.Object, d.n-1)
	}
	return e
}

// eventOf returns the edit that records an occurrence on a node.
func eventOf(o Occurrence, node string) *state.Event {
	if o.Actor == (tree.Actor{}) {
		o.Actor = tree.Actor{Name: "node/" + node, How: state.ByNode}
	}
	e := &state.Event{
		Actor: cleanText(o.Actor.Name, state.MaxEventActor), How: cleanText(o.Actor.How, state.MaxEventWord),
		From: cleanText(o.Actor.From, state.MaxEventActor), Verb: cleanText(o.Verb, state.MaxEventWord),
		Object: cleanText(o.Object, state.MaxEventText), Old: cleanText(o.Old, state.MaxEventText),
		New: cleanText(o.New, state.MaxEventText), Outcome: cleanText(o.Outcome, state.MaxEventText),
	}
	if !o.Time.IsZero() {
		e.Time = o.Time.UnixNano()
	}
	return e
}

// cleanText is a text as the state accepts it: valid UTF-8 of at most so many bytes, without control characters, and
// without those that change the direction of writing, with which an object could look like another one.
func cleanText(s string, most int) string {
	const cut = "…"
	if len(s) > most {
		s = s[:most-len(cut)]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && len(s) > most-len(cut)-utf8.UTFMax {
			s = s[:len(s)-1]
		}
		s += cut
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// Record records events that accompany no change of the tree, in one command: at most MaxOccurrences. It is
// syscall.EAGAIN without a majority. Before format 3 there is no log, and nothing is recorded.
func (c *Cluster) Record(ctx context.Context, list []Occurrence) error {
	if len(list) == 0 || !c.recordsEvents() {
		return nil
	}
	ops := make([]state.Op, 0, len(list))
	for _, o := range list[:min(len(list), MaxOccurrences)] {
		ops = append(ops, eventOf(o, c.cfg.Node))
	}
	_, err := c.proposeRecorded(ctx, false, nil, ops)
	return err
}

// MaxOccurrences is how many events fit into one command of Record.
const MaxOccurrences = 64

// SealEvents moves the oldest count events, the first of which is number first, from memory into the file name. The
// blob of their lines, each with a newline, must have been committed. fs.ErrExist: another node has sealed them.
// fs.ErrNotExist: the blob is not known, or has other lines.
func (c *Cluster) SealEvents(ctx context.Context, name string, first, count uint64) error {
	_, err := c.proposeRecorded(ctx, false, []state.Op{&state.SealEvents{Name: name, First: first, Count: count}}, nil)
	return err
}

// EventLog is the log of events at one log entry of the tree.
type EventLog struct{ s *state.State }

// EventLog returns the newest log of events that is readable on this node.
func (c *Cluster) EventLog() EventLog { return EventLog{c.machine.view.Load()} }

// Tree is the Merkle tree of all events.
func (l EventLog) Tree() merkle.Frontier { return l.s.Events().Tree }

// First is the number of the oldest event that is in memory; the older ones are in files.
func (l EventLog) First() uint64 { return l.s.Events().First }

// Lines yields the events in memory from the number from on: the number, and the event as a JSON object.
func (l EventLog) Lines(from uint64) iter.Seq2[uint64, string] { return l.s.EventLines(from) }
