package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
)

// Sum is a running digest: the first 16 bytes of a SHA-256 over the previous sum, the command, its log index, its
// outcome, and the sizes of the tables after it. Two replicas with the same sum at the same index have applied the same
// commands, each with the same outcome.
type Sum [16]byte

// String is the sum in hexadecimal digits, "" for none.
func (s Sum) String() string {
	if s == (Sum{}) {
		return ""
	}
	return hex.EncodeToString(s[:])
}

// sumFormat is the format from which on the state has a sum. Replicas begin it at the same log entry, that of the
// [SetFormat], with a digest of the whole state, so it also detects replicas that differed before.
const sumFormat = 2

// Sum returns the running digest at Index, zero while the cluster is at a format without one.
func (s *State) Sum() Sum { return s.sum }

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// addUp adds the command that was applied at index to the sum.
func (s *State) addUp(index uint64, cmd []byte, r *Result) {
	if s.format < sumFormat {
		return
	}
	h := sha256.New()
	if s.sum == (Sum{}) {
		s.WriteTo(h) // writing to a hash does not fail
	}
	h.Write(s.sum[:])
	outcome := uint64(0)
	if r.Repeat {
		outcome = 1 << 8
	}
	var refused *Error
	if errors.As(r.Err, &refused) {
		outcome |= uint64(refused.Code)
	}
	var numbers []byte
	for _, n := range []uint64{
		index, uint64(len(cmd)), outcome, uint64(s.names.len()), uint64(s.blobs.len()), uint64(s.bytes),
		uint64(s.pins.len()),
		uint64(s.tombs.len()), uint64(s.staged.len()), uint64(s.outcomes.len()),
	} {
		numbers = binary.BigEndian.AppendUint64(numbers, n)
	}
	h.Write(numbers)
	if s.format >= eventFormat {
		h.Write(s.recorded.Append(nil))
	}
	if s.format >= holdFormat {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(s.held.len())<<1|bit(s.approval)))
	}
	h.Write(cmd)
	copy(s.sum[:], h.Sum(nil))
}
