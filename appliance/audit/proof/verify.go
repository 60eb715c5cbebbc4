package proof

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"casemate/cluster/merkle"
)

// Report is the result of verifying an export.
type Report struct {
	Origin  string `json:"origin"`
	Key     string `json:"key"`
	Events  uint64 `json:"events"`  // that were ever recorded
	Dropped uint64 `json:"dropped"` // of those, how many were dropped by audit.retain; their hashes were verified
	Root    string `json:"root"`
	// Last is when the newest event happened.
	Last time.Time `json:"last,omitzero"`
	// Proven are the sizes of the older checkpoints that the log continues.
	Proven []uint64 `json:"proven"`
	// Breaks are the events at which the cluster was restored from a backup, or recovered by one of its nodes: what was
	// recorded between that copy and then is not in the log.
	Breaks []Event `json:"breaks"`
	// Faults are sentences; the log is intact if there are none.
	Faults []string `json:"faults"`
}

// Options say what an export is compared with.
type Options struct {
	// Checkpoints are older signed checkpoints of the same log.
	Checkpoints [][]byte
	// Key is the public key of the log, if it is known; "" takes the export's own.
	Key string
}

// maxBreaks bounds the list of breaks in a report.
const maxBreaks = 1000

// Verify reads an export and reports what is wrong with it. It keeps nothing in memory but the end of the tree. The
// error is for what cannot be checked: the input cannot be read, an older checkpoint is none.
func Verify(r io.Reader, opt Options) (*Report, error) {
	v := &verifier{rep: &Report{}, in: bufio.NewReaderSize(r, maxLine)}
	if opt.Key != "" {
		key, err := ParseKey(opt.Key)
		if err != nil {
			return nil, err
		}
		v.key = key
	}
	for _, text := range opt.Checkpoints {
		c, err := Read(text)
		if err != nil {
			return nil, err
		}
		v.old = append(v.old, older{Checkpoint: c, signed: text})
	}
	slices.SortStableFunc(v.old, func(a, b older) int { return cmp.Compare(a.Size, b.Size) })
	v.compare()
	if err := v.run(); err != nil {
		return nil, err
	}
	slices.Sort(v.rep.Proven)
	return v.rep, nil
}

type older struct {
	Checkpoint
	signed       []byte
	seen, agrees bool
}

type verifier struct {
	rep *Report
	in  *bufio.Reader
	key Key
	// told is how many events the newest event about it says were dropped.
	told uint64
	old  []older // by size
	next int     // the first one that the tree has not reached
	tree merkle.Frontier
}

func (v *verifier) fault(format string, args ...any) {
	v.rep.Faults = append(v.rep.Faults, fmt.Sprintf(format, args...))
}

// compare compares the older checkpoints of the tree's size with it.
func (v *verifier) compare() {
	for ; v.next < len(v.old) && v.old[v.next].Size == v.tree.Size(); v.next++ {
		c := &v.old[v.next]
		c.seen, c.agrees = true, c.Root == v.tree.Root()
	}
}

func (v *verifier) add(leaf merkle.Hash) {
	v.tree = v.tree.Add(leaf)
	v.compare()
}

// run reads the lines. It stops at the first one that cannot belong to an export.
func (v *verifier) run() error {
	for {
		line, err := v.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			v.fault("after event %d there is a line that is too long for an event", v.tree.Size())
			return nil
		case errors.Is(err, io.EOF):
			v.fault("the log is cut off after event %d: its last line, with the checkpoint, is missing", v.tree.Size())
			v.finish(nil)
			return nil
		case err != nil:
			return err
		}
		line = line[:len(line)-1]
		switch {
		case bytes.HasPrefix(line, []byte(`{"n":`)):
			err = v.event(line)
		case bytes.HasPrefix(line, []byte(`{"first":`)):
			err = v.dropped(line)
		case bytes.HasPrefix(line, []byte(`{"checkpoint":`)):
			return v.end(line)
		default:
			err = fmt.Errorf("after event %d there is a line that is no event", v.tree.Size())
		}
		if err != nil {
			v.fault("%v", err)
			v.finish(nil)
			return nil
		}
	}
}

func (v *verifier) event(line []byte) error {
	e, err := Parse(line)
	if err != nil {
		return err
	}
	if e.N != v.tree.Size() {
		return fmt.Errorf("event %d is in the place of event %d", e.N, v.tree.Size())
	}
	if (e.Verb == "cluster.restore" || e.Verb == "cluster.recover") && len(v.rep.Breaks) < maxBreaks {
		v.rep.Breaks = append(v.rep.Breaks, e)
	}
	if e.Verb == DropVerb && e.How == "node" && e.Outcome == "" {
		var first, last uint64
		if _, err := fmt.Sscanf(e.Object, DropObject, &first, &last); err == nil {
			v.told = max(v.told, last+1)
		}
	}
	v.rep.Last = e.Time
	v.add(merkle.LeafHash(line))
	return nil
}

func (v *verifier) dropped(line []byte) error {
	d, err := parse[dropped](line)
	if err != nil {
		return err
	}
	n := uint64(len(d.Hashes)) / merkle.HashSize
	if v.rep.Dropped != v.tree.Size() {
		return fmt.Errorf("after event %d there are hashes in the place of events, but only the oldest are ever "+
			"dropped", v.tree.Size()-1)
	}
	if d.First != v.tree.Size() || n == 0 || n > SegmentEvents || len(d.Hashes)%merkle.HashSize != 0 {
		return fmt.Errorf("the hashes of events from %d on are in the place of event %d", d.First, v.tree.Size())
	}
	for h := range d.leaves() {
		v.add(h)
	}
	v.rep.Dropped += n
	return nil
}

// end compares the tree with the checkpoint of the last line.
func (v *verifier) end(line []byte) error {
	e, err := parse[end](line)
	if err != nil {
		v.fault("%v", err)
		v.finish(nil)
		return nil
	}
	if v.key.text == "" {
		key, err := ParseKey(e.Key)
		if err != nil {
			v.fault("%v", err)
			v.finish(nil)
			return nil
		}
		v.key = key
	} else if e.Key != v.key.text {
		v.fault("the log was exported with the key %s, not %s", e.Key, v.key)
	}
	c, err := Open([]byte(e.Checkpoint), v.key)
	if err != nil {
		v.fault("%v", err)
	} else {
		v.finish(&c)
	}
	if _, err := v.in.ReadByte(); !errors.Is(err, io.EOF) {
		v.fault("there is something after the last line")
	}
	return nil
}

// finish concludes from everything that was read; c is the log's own checkpoint, nil if there is none.
func (v *verifier) finish(c *Checkpoint) {
	r := v.rep
	root := v.tree.Root()
	r.Events, r.Root, r.Key = v.tree.Size(), root.String(), v.key.String()
	if c != nil && r.Dropped > v.told {
		v.fault("of the events %d to %d there are only hashes, and the log does not say that they were dropped: "+
			"somebody has removed them from this export", v.told, r.Dropped-1)
	}
	if c != nil {
		r.Origin = c.Origin
		switch {
		case c.Size != v.tree.Size():
			v.fault("the log has %d events, its checkpoint says %d", v.tree.Size(), c.Size)
		case c.Root != root:
			v.fault("an event was changed: the events do not have the hash that the log's checkpoint says")
		}
	}
	agreed := uint64(0) // up to where a checkpoint agrees
	for i := range v.old {
		o := &v.old[i]
		if v.key.text != "" {
			if _, err := Open(o.signed, v.key); err != nil {
				v.fault("%v: it is a checkpoint of another log, or the key was replaced", err)
				continue
			}
		}
		switch {
		case !o.seen:
			v.fault("the checkpoint of %d events is newer than the log, which ends after %d: events are missing%s",
				o.Size, v.tree.Size(), v.reason())
		case !o.agrees:
			v.fault("the log is not the one of the checkpoint of %d events: one of the events %d to %d was changed, "+
				"dropped or moved%s", o.Size, agreed, o.Size-1, v.reason())
		default:
			agreed = o.Size
			r.Proven = append(r.Proven, o.Size)
		}
	}
}

// reason explains a break by the newest event that made one.
func (v *verifier) reason() string {
	if len(v.rep.Breaks) == 0 {
		return ""
	}
	b := v.rep.Breaks[len(v.rep.Breaks)-1]
	what := "was restored from a backup (" + b.Old + ")"
	if b.Verb == "cluster.recover" {
		what = "was recovered from one node (" + b.Old + ")"
	}
	return fmt.Sprintf("; event %d says why: on %s the cluster %s, and what was recorded after that copy is lost", b.N,
		b.Time.Format(time.RFC3339), what)
}
