package disk

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"casemate/cluster/blob"
)

// Watermark is a file with a durable lower bound of a number that grows, such as the log index up to which everything
// is committed. One goroutine uses it at a time.
//
// Two slots of 12 bytes (the number and its checksum, both big endian) are in different sectors and are written in
// turn, so a torn write leaves the other one.
type Watermark struct {
	f     blob.File
	turn  int
	last  uint64
	watch *Watchdog // nil: the disk is not watched
}

const slotSize = 4096

// OpenWatermark opens the file, or creates it with the number 0. With a watchdog, each write is reported to it.
func OpenWatermark(fsys blob.FS, name string, watch *Watchdog) (*Watermark, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		f.Close()
		return nil, err
	}
	m := &Watermark{f: f, watch: watch}
	for slot := range 2 {
		var b [12]byte
		if n, _ := f.ReadAt(b[:], int64(slot)*slotSize); n < len(b) {
			continue // never written
		}
		v := binary.BigEndian.Uint64(b[:])
		if binary.BigEndian.Uint32(b[8:]) == Checksum(b[:8]) && v > m.last {
			m.last, m.turn = v, 1-slot
		}
	}
	return m, nil
}

// Last is the newest durable number.
func (m *Watermark) Last() uint64 { return m.last }

// Set makes v durable. A number that is not above the last one changes nothing.
func (m *Watermark) Set(v uint64) error {
	if v <= m.last {
		return nil
	}
	if m.watch != nil {
		defer m.watch.Begin()()
	}
	b := binary.BigEndian.AppendUint64(nil, v)
	b = binary.BigEndian.AppendUint32(b, Checksum(b))
	if _, err := m.f.WriteAt(b, int64(m.turn)*slotSize); err != nil {
		return err
	}
	if err := SyncData(m.f); err != nil {
		return err
	}
	m.last, m.turn = v, 1-m.turn
	return nil
}

// Close closes the file.
func (m *Watermark) Close() error { return m.f.Close() }
