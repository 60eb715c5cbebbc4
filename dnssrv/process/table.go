package process

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Table stores what the process answers from in a file in memory that outlives it: the updates since the last one with
// Reset, as frames. All methods do nothing for nil.
//
// The file begins with a header that says where the updates begin and end. It is written last, with one write, so a
// process that is killed at any moment leaves either the old updates or the new ones. Space outside of them is returned
// to the kernel.
type Table struct {
	f          *os.File
	start, end int64 // as in the header
	from, to   int64 // of the update being written
	base       int64 // length of the updates with the last Reset
	broken     bool  // the update being written cannot be stored
}

const (
	tableMagic  = "csmtdns1" // of this format, and of protocol 1
	tableHeader = 4096       // a page, so that all pages after it can be returned
	// slack is how much longer than a whole table its changes may be before the daemon is asked for a whole one.
	slack = 1 << 20
)

// OpenTable opens a file that holds a Table, or an empty one.
func OpenTable(f *os.File) (*Table, error) {
	t := &Table{f: f, start: tableHeader, end: tableHeader}
	var h [24]byte
	n, err := f.ReadAt(h[:], 0)
	if n == 0 && errors.Is(err, io.EOF) || h == [24]byte{} { // nothing was committed yet
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("stored table: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return t, fmt.Errorf("stored table: %w", err)
	}
	start, end := int64(binary.BigEndian.Uint64(h[8:])), int64(binary.BigEndian.Uint64(h[16:]))
	if string(h[:8]) != tableMagic || start < tableHeader || end < start || end > info.Size() {
		return t, errors.New("stored table: another version has written it, or it is damaged")
	}
	t.start, t.end, t.base = start, end, end-start
	return t, nil
}

// replay yields the bodies of all frames.
func (t *Table) replay(yield func(body []byte) error) error {
	if t == nil {
		return nil
	}
	r := bufio.NewReader(io.NewSectionReader(t.f, t.start, t.end-t.start))
	for {
		_, body, err := readFrame(r, maxFrame)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = yield(body)
		}
		if err != nil {
			return fmt.Errorf("stored table: %w", err)
		}
	}
}

// begin starts to write an update, after the others or replacing them.
func (t *Table) begin(reset bool) {
	if t == nil {
		return
	}
	t.from, t.to, t.broken = t.start, t.end, false
	if reset {
		t.to = (t.end + tableHeader - 1) / tableHeader * tableHeader
		t.from = t.to
	}
}

// add writes the body of a frame.
func (t *Table) add(body []byte) {
	if t == nil || t.broken {
		return
	}
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), byte(kindUpdate))
	n, err := t.f.WriteAt(append(b, body...), t.to)
	t.to += int64(n)
	t.broken = err != nil
}

// commit makes the written updates the table.
func (t *Table) commit() {
	if t == nil {
		return
	}
	old := t.start
	if t.broken {
		t.forget() // an outdated table would be wrong, and a daemon sends a new one
		return
	}
	t.end = t.to
	if t.from != t.start {
		t.start, t.base = t.from, t.to-t.from
	}
	if t.head() != nil {
		t.broken = true
		return
	}
	if old != t.start {
		punch(t.f, old, t.start-old)
	}
}

func (t *Table) head() error {
	var h bytes.Buffer
	h.WriteString(tableMagic)
	binary.Write(&h, binary.BigEndian, [2]int64{t.start, t.end})
	_, err := t.f.WriteAt(h.Bytes(), 0)
	return err
}

// forget empties the table.
func (t *Table) forget() {
	if t == nil {
		return
	}
	t.start, t.end, t.base = tableHeader, tableHeader, 0
	t.f.Truncate(0)
}

// large reports whether the changes are longer than the table that they change.
func (t *Table) large() bool {
	return t != nil && t.end-t.start > 2*t.base+slack
}
