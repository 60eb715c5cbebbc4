package disk

import (
	"encoding/binary"
	"testing"

	"casemate/cluster/blob/blobtest"
)

func TestWatermarkSurvivesTornWrites(t *testing.T) {
	f := blobtest.New(1)
	m, err := OpenWatermark(f, "/mark", nil)
	if err != nil {
		t.Fatal(err)
	}
	for v := uint64(1); v < 10; v++ {
		if err := m.Set(v); err != nil {
			t.Fatal(err)
		}
	}
	// The slot written last is torn: the number before it stays.
	b := binary.BigEndian.AppendUint64(nil, 1<<40)
	if _, err := m.f.WriteAt(b, int64(1-m.turn)*slotSize); err != nil {
		t.Fatal(err)
	}
	m, err = OpenWatermark(f, "/mark", nil)
	if err != nil || m.Last() != 8 {
		t.Fatalf("%d, %v", m.Last(), err)
	}
}
