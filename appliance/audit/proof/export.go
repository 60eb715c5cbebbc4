// Package proof is what an audit log looks like outside of a cluster, and how it is verified there, by anybody and
// without a daemon.
//
// An export is lines of JSON. A line that begins with {"n": is an event, exactly as it is a leaf of the log's Merkle
// tree (RFC 6962). A line that begins with {"first": has the hashes of events that were dropped because they were too
// old. The last line has the signed checkpoint of all events, and the key. So a change of any bit is found, and the
// comparison with an older checkpoint, kept elsewhere, finds what the holder of the key has changed.
package proof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"casemate/cluster/merkle"
)

// Event is an event of the log. Fields that do not apply are "".
type Event struct {
	N     uint64    `json:"n"` // number, from 0 on
	Time  time.Time `json:"time"`
	Index uint64    `json:"index"`          // in the replicated log
	Node  string    `json:"node,omitempty"` // that did it
	// Actor is an account, "key/NAME", the host's user who used the admin socket, "node/NAME" for the node itself; ""
	// is a client that did not say who it is.
	Actor   string `json:"actor,omitempty"`
	How     string `json:"how,omitempty"`  // how the actor proved its name
	From    string `json:"from,omitempty"` // address
	Verb    string `json:"verb"`
	Object  string `json:"object,omitempty"`
	Old     string `json:"old,omitempty"`
	New     string `json:"new,omitempty"`
	Outcome string `json:"outcome,omitempty"` // why it was not done; "" is done
}

// Parse parses the line of an event.
func Parse(line []byte) (e Event, err error) {
	if err = json.Unmarshal(line, &e); err != nil {
		err = fmt.Errorf("%.80q is not an event: %w", line, err)
	}
	return e, err
}

const (
	// SegmentEvents is how many events a segment has: a file of their lines.
	SegmentEvents = 1024
	maxLine       = 128 << 10
)

// dropped is the line of events that were dropped.
type dropped struct {
	First  uint64 `json:"first"`
	Hashes []byte `json:"hashes"` // of the leaves, 32 bytes each
}

// end is the last line of an export.
type end struct {
	Checkpoint string `json:"checkpoint"`
	Key        string `json:"key"`
}

// DropVerb is the verb of the event that says that events were dropped, DropObject the form of its object: the numbers
// of the first and the last one.
const (
	DropVerb   = "audit.drop"
	DropObject = "events %d to %d"
)

// Hashes returns the line that remains of a segment of events when these are dropped.
func Hashes(first uint64, segment []byte) []byte {
	d := dropped{First: first}
	for line := range bytes.Lines(segment) {
		h := merkle.LeafHash(bytes.TrimSuffix(line, []byte{'\n'}))
		d.Hashes = append(d.Hashes, h[:]...)
	}
	return appendLine(nil, d)
}

// End returns the last line of an export.
func End(checkpoint []byte, key Key) []byte {
	return appendLine(nil, end{string(checkpoint), key.String()})
}

func appendLine(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // these types can be encoded
	}
	return append(append(b, text...), '\n')
}

// parse decodes a line in its one form.
func parse[T any](line []byte) (v T, err error) {
	if err = json.Unmarshal(line, &v); err != nil || !bytes.Equal(appendLine(nil, v), append(line, '\n')) {
		return v, fmt.Errorf("the line %.40q… was changed", line)
	}
	return v, nil
}

// leaves yields the hashes of a line's leaves.
func (d dropped) leaves() iter.Seq[merkle.Hash] {
	return func(yield func(merkle.Hash) bool) {
		for h := d.Hashes; len(h) >= merkle.HashSize; h = h[merkle.HashSize:] {
			if !yield(merkle.Hash(h)) {
				return
			}
		}
	}
}
