package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"casemate/cluster/disk"
)

// Each entry of the log carries a checksum in raft's Extensions, which nothing else uses: entrySeal, then the CRC-32C
// of index, term and type (varints) and data, big endian. Raft-wal's own checksums cover the newest batch only; a bit
// that flips in an older entry would change what this node applies, and what it gives to others.
//
// Entries that an earlier version wrote have none and are believed. That version ignores ours.
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

// ReadEntry reads an entry and verifies it: ErrDamaged if its bytes are not the ones that were written.
func ReadEntry(log *Log, index uint64, l *raft.Log) error {
	err := log.GetLog(index, l)
	switch {
	case errors.Is(err, raft.ErrLogNotFound):
		return err
	case err != nil:
		return fmt.Errorf("entry %d of its raft log cannot be read: %w: %w", index, ErrDamaged, err)
	case l.Index != index:
		return fmt.Errorf("entry %d of its raft log says that it is %d: %w", index, l.Index, ErrDamaged)
	}
	sum, ours := bytes.CutPrefix(l.Extensions, []byte(entrySeal))
	if len(l.Extensions) > 0 && (!ours || len(sum) != 4 || binary.BigEndian.Uint32(sum) != entrySum(l)) {
		return fmt.Errorf("entry %d of its raft log is not what was written: %w", index, ErrDamaged)
	}
	l.Extensions = nil
	return nil
}
