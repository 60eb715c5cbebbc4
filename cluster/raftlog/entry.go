package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"casemate/cluster/disk"
)

// Each entry of the log carries a checksum in raft's Extensions, which have no other user: entrySeal, then the CRC-32C
// of index, term and type (varints) and data, big endian. Raft-wal's own checksums cover the newest batch only; a
// flipped bit in an older entry would change what this node applies and what it sends to others.
//
// Entries of an earlier version have no checksum and are accepted. That version ignores ours.
const entrySeal = "sum1"

// WithChecksum returns a copy of an entry that carries its checksum.
func WithChecksum(l *raft.Log) *raft.Log {
	sealed := *l
	sealed.Extensions = binary.BigEndian.AppendUint32([]byte(entrySeal), entrySum(l))
	return &sealed
}

func entrySum(l *raft.Log) uint32 {
	head := binary.AppendUvarint(nil, l.Index)
	head = binary.AppendUvarint(head, l.Term)
	head = binary.AppendUvarint(head, uint64(l.Type))
	return disk.Checksum(head, l.Data)
}

// ReadEntry reads an entry and verifies it; the error is ErrDamaged if its bytes have changed.
func ReadEntry(log *Log, index uint64, l *raft.Log) error {
	err := log.GetLog(index, l)
	switch {
	case errors.Is(err, raft.ErrLogNotFound):
		return err
	case err != nil:
		return fmt.Errorf("entry %d of the raft log cannot be read: %w: %w", index, ErrDamaged, err)
	case l.Index != index:
		return fmt.Errorf("entry %d of the raft log has the index %d: %w", index, l.Index, ErrDamaged)
	}
	sum, ours := bytes.CutPrefix(l.Extensions, []byte(entrySeal))
	if len(l.Extensions) > 0 && (!ours || len(sum) != 4 || binary.BigEndian.Uint32(sum) != entrySum(l)) {
		return fmt.Errorf("entry %d of the raft log has a wrong checksum: %w", index, ErrDamaged)
	}
	l.Extensions = nil
	return nil
}
