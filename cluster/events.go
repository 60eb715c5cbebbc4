package cluster

import (
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
	if c.machine.view.Load().Format() < eventFormat {
		return nil
	}
	var d deeds
	for _, op := range ops {
		switch op := op.(type) {
		case *state.Put:
			d.add(c.describe(op.Name), op.Claim, "", false)
		case *state.Link:
			d.add(c.describe(op.Name), op.Claim, op.Digest, false)
		case *state.Remove:
			d.add(c.describe(op.Name), "", "", true)
		case *state.DropClaims:
			d.add(deed{"import", op.Claim}, "", "", true)
		case *state.Collect:
			d.add(deed{"blobs", fmt.Sprintf("%d unreferenced", len(op.Digests))}, "", "", true)
		case *state.SetFormat:
			d.add(deed{"format", fmt.Sprint(op.Version)}, "", "", false)
		case *state.LinkWeak:
			d.weak = true
		}
	}
	e, told := tree.EventIn(ctx)
	switch {
	case told && (d.n > 0 || d.quiet || d.weak):
	case d.n > 0:
		e = d.event()
	default:
		return nil
	}
	return []state.Op{c.event(Occurrence{Event: e, Actor: tree.ActorIn(ctx)})}
}

// deed is what the change of a name means: the kind of thing, and which.
type deed struct{ kind, object string }

// describe is Config.Describe. Without it a name is told as it is.
func (c *Cluster) describe(name string) deed {
	if c.cfg.Describe != nil {
		kind, object := c.cfg.Describe(name)
		return deed{kind, object}
	}
	kind, object, _ := strings.Cut(name, "/")
	return deed{kind, object}
}

// deeds are those of a batch, told as one.
type deeds struct {
	n           int // different in a row, without bookkeeping
	first, last deed
	digest      state.Digest
	claim       string
	sets        bool
	quiet, weak bool // there was bookkeeping, a weak name
}

func (d *deeds) add(what deed, claim string, digest state.Digest, removes bool) {
	if what.kind == "" {
		d.quiet = true
		return
	}
	if claim != "" {
		what = deed{"import", claim}
	}
	d.sets = d.sets || !removes
	if d.n > 0 && what == d.last {
		return
	}
	if d.n++; d.n == 1 {
		d.first, d.digest, d.claim = what, digest, claim
	}
	d.last = what
}

// event tells the deeds by the first one, and the number of the others.
func (d *deeds) event() tree.Event {
	e := tree.Event{Verb: d.first.kind + ".remove", Object: d.first.object}
	if d.sets {
		e.Verb = d.first.kind + ".set"
	}
	if d.digest != "" && d.claim == "" {
		e.New = d.digest.String()
	}
	if d.n > 1 {
		e.Object = fmt.Sprintf("%s and %d more", e.Object, d.n-1)
	}
	return e
}

// event returns the edit that records an occurrence.
func (c *Cluster) event(o Occurrence) *state.Event {
	if o.Actor == (tree.Actor{}) {
		o.Actor = tree.Actor{Name: "node/" + c.cfg.Node, How: state.ByNode}
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

// cleanText is a text as the state accepts it: valid UTF-8 of at most so many bytes, without control characters.
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
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// Record records events that accompany no change of the tree, in one command: at most MaxOccurrences. It is
// syscall.EAGAIN without a majority. Before format 3 there is no log, and nothing is recorded.
func (c *Cluster) Record(ctx context.Context, list []Occurrence) error {
	if len(list) == 0 || c.machine.view.Load().Format() < eventFormat {
		return nil
	}
	ops := make([]state.Op, 0, len(list))
	for _, o := range list[:min(len(list), MaxOccurrences)] {
		ops = append(ops, c.event(o))
	}
	_, err := c.proposeRecorded(ctx, false, nil, ops)
	return err
}

// MaxOccurrences is how many events fit into one command of Record.
const MaxOccurrences = 64

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
