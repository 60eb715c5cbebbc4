// Package state is the replicated state machine of the tree: a pure function of the log.
//
// It promises (numbers as in package cluster):
//
//   - It reads no clock, draws no random numbers and does no input or output (2). Times are part of commands; two
//     replicas with the same log write byte-identical snapshots.
//   - A command is a batch: all of its edits take effect at its log entry, or none (9).
//   - A blob's record is removed only when no name, hold, claim, stage or pin keeps it, and log order decides (6).
//   - An unknown command is fatal and never skipped (8).
//   - A command that is in the log twice takes effect once (11).
//
// It knows no directories on disks, files or peers: of a blob it has the size and the references.
package state

import "casemate/cluster/merkle"

// State is the tree at one log index. One goroutine at a time may call Apply and Clone. The other methods only read,
// and may be called concurrently on a State that nothing is applied to, that is, on a clone.
type State struct {
	scalars

	names    packed[string, *node]    // key of the name → newest link or record, older claims behind it
	blobs    packed[Digest, blob]     // every blob that exists
	pins     packed[string, struct{}] // when a pin ends (8 bytes, big endian) and the digest
	tombs    packed[Digest, uint64]   // collected and not added since → index of the newest collect
	claims   table[string, claim]     // claim → how many links and records carry it
	stages   table[string, stage]     // batches that are not visible yet
	staged   table[string, Op]        // stage, NUL, number (8 bytes, big endian) → edit
	sessions table[string, session]   // node → its newest boot and finished sequence
	outcomes table[string, *outcome]  // node, NUL, sequence (8 bytes, big endian) → first outcome
	held     table[string, hold]      // stage → what is known of it, if it waits for an approval
	events   table[string, string]    // number (8 bytes, big endian) → event, for those from sealed on
}

// scalars is what a rollback restores by assignment.
type scalars struct {
	index  uint64
	format uint64
	floor  uint64 // tombstones at or below this index were deleted
	cursor string // key at which the next Sweep begins
	bytes  int64  // sum of the blobs' sizes
	nodes  int    // links and records, including those behind newer claims
	weak   int    // weak links, including stale ones
	stale  int    // weak links whose blob was collected
	sum    Sum    // of all that was applied; zero before format 2

	approval bool // names appear under a claim only by an approval

	recorded merkle.Frontier // of all events
	sealed   merkle.Frontier // of the events that are in files
}

// New returns the state before the first log entry, at format 1.
func New() *State {
	return &State{
		scalars:  scalars{format: 1},
		names:    newPacked[string](nodeCodec),
		blobs:    newPacked[Digest](blobCodec),
		pins:     newPacked[string](pinCodec),
		tombs:    newPacked[Digest](tombCodec),
		claims:   newTable[string, claim](),
		stages:   newTable[string, stage](),
		staged:   newTable[string, Op](),
		sessions: newTable[string, session](),
		outcomes: newTable[string, *outcome](),
		held:     newTable[string, hold](),
		events:   newTable[string, string](),
	}
}

// Clone returns a copy in constant time. The copy may be read while commands are applied to the original, and vice
// versa. Cloning counts as writing, so only the goroutine that applies commands may do it.
func (s *State) Clone() *State {
	return &State{
		scalars:  s.scalars,
		names:    s.names.clone(),
		blobs:    s.blobs.clone(),
		pins:     s.pins.clone(),
		tombs:    s.tombs.clone(),
		claims:   s.claims.clone(),
		stages:   s.stages.clone(),
		staged:   s.staged.clone(),
		sessions: s.sessions.clone(),
		outcomes: s.outcomes.clone(),
		held:     s.held.clone(),
		events:   s.events.clone(),
	}
}

func (s *State) commit() {
	s.names.commit()
	s.blobs.commit()
	s.pins.commit()
	s.tombs.commit()
	s.claims.commit()
	s.stages.commit()
	s.staged.commit()
	s.sessions.commit()
	s.outcomes.commit()
	s.held.commit()
	s.events.commit()
}

func (s *State) rollback(saved scalars) {
	s.scalars = saved
	s.names.rollback()
	s.blobs.rollback()
	s.pins.rollback()
	s.tombs.rollback()
	s.claims.rollback()
	s.stages.rollback()
	s.staged.rollback()
	s.sessions.rollback()
	s.outcomes.rollback()
	s.held.rollback()
	s.events.rollback()
}

// Index is the log index of the last command applied, 0 before the first.
func (s *State) Index() uint64 { return s.index }

// Format is the format that every member has agreed to. It begins at 1 and only grows.
func (s *State) Format() uint64 { return s.format }

// Stats counts the content of the state. All numbers are known without a scan.
type Stats struct {
	Index, Format uint64
	Entries       int   // names, including those with only stale weak links until they are swept
	Weak          int   // weak links, including stale ones
	Stale         int   // weak links whose blob was collected: invisible, waiting for Sweep
	Blobs         int   // blobs known
	Bytes         int64 // sum of their sizes
	Pins          int   // blobs pinned
	Tombstones    int
	Claims        int // claims that have a name
	Stages        int
	Staged        int // edits in stages
	Held          int // stages that wait for an approval
	Outcomes      int // outcomes stored for repeats
	Events        int // events in memory
}

// Stats returns the counts.
func (s *State) Stats() Stats {
	return Stats{
		Index: s.index, Format: s.format, Entries: s.names.len(), Weak: s.weak, Stale: s.stale,
		Blobs: s.blobs.len(), Bytes: s.bytes, Pins: s.pins.len(), Tombstones: s.tombs.len(), Claims: s.claims.len(),
		Stages: s.stages.len(), Staged: s.staged.len(), Outcomes: s.outcomes.len(),
		Events: s.events.len(), Held: s.held.len(),
	}
}
