package forecast

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

const gib = 1 << 30

// world is the disks of a cluster, and a node that watches them.
type world struct {
	t     *testing.T
	now   time.Time
	disks []Disk
	file  string
	b     *Book
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC),
		file: filepath.Join(t.TempDir(), "disks.json"), disks: []Disk{{"n1", true, 900 * gib, 1000 * gib, gib}}}
	w.restart()
	return w
}

// restart saves the book and opens it again.
func (w *world) restart() {
	w.t.Helper()
	if w.b != nil {
		if err := w.b.notes.WriteDisk(); err != nil {
			w.t.Fatal(err)
		}
	}
	b, err := Open(Config{File: w.file, Now: func() time.Time { return w.now },
		Disks: func() []Disk { return w.disks }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.b = b
}

// pass lets time pass, while the first disk loses so many bytes each hour.
func (w *world) pass(d time.Duration, hourly int64) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(lookEvery) {
		w.b.Look()
		w.disks[0].Free -= hourly / int64(time.Hour/lookEvery)
	}
}

func (w *world) of() string { return text(w.b.Of(w.disks[0]), w.now) }

func text(f *Forecast, now time.Time) string {
	if f == nil {
		return "none"
	}
	return fmt.Sprintf("%.1f GiB a day since %.1f days, full in %.1f, sure %v", float64(f.BytesPerDay)/gib,
		now.Sub(f.Since).Hours()/24, f.Days, f.Sure)
}

// A disk that fills has a forecast as soon as a day is known; it is about the last week.
func TestFills(t *testing.T) {
	w := newWorld(t)
	w.pass(23*time.Hour, gib)
	if got := w.of(); got != "none" {
		t.Errorf("after 23 hours: %s", got)
	}
	w.pass(time.Hour, gib)
	if got := w.of(); got != "24.0 GiB a day since 1.0 days, full in 36.4, sure false" {
		t.Errorf("after a day: %s", got)
	}
	w.restart()
	w.pass(9*24*time.Hour, gib)
	if got := w.of(); got != "24.0 GiB a day since 7.0 days, full in 27.4, sure true" {
		t.Errorf("after ten days and a restart: %s", got)
	}
	f := w.b.Of(w.disks[0])
	if by := f.Full.Sub(w.now).Hours() / 24; by < f.Days || by > f.Days+.1 {
		t.Errorf("%v is in %.2f days, not in %.2f", f.Full, by, f.Days)
	}
	w.pass(8*24*time.Hour, 0)
	if got := w.of(); got != "none" {
		t.Errorf("it does not fill any more: %s", got)
	}
	w.pass(2*24*time.Hour, -gib)
	if got := w.of(); got != "none" {
		t.Errorf("it empties: %s", got)
	}
}

// What one import has used soon after the installation is no alarm; a disk that will be full sooner than it is known
// for is.
func TestSure(t *testing.T) {
	w := newWorld(t)
	w.pass(time.Hour, 0)
	w.disks[0].Free -= 300 * gib
	w.pass(3*24*time.Hour, 0)
	if got := w.of(); got != "98.6 GiB a day since 3.0 days, full in 6.0, sure false" {
		t.Errorf("after one import: %s", got)
	}
	w.pass(26*time.Hour, 15*gib)
	if got := w.of(); got != "167.3 GiB a day since 4.1 days, full in 1.2, sure true" {
		t.Errorf("it fills: %s", got)
	}
	w.disks[0].Free = gib / 2
	if f := w.b.Of(w.disks[0]); f == nil || f.Days != 0 || !f.Full.Equal(w.now) {
		t.Errorf("below its reserve: %+v", f)
	}
}

// A disk that would be full in a hundred years has no forecast.
func TestFar(t *testing.T) {
	w := newWorld(t)
	w.pass(2*24*time.Hour, 1<<10)
	if got := w.of(); got != "none" {
		t.Errorf("%s", got)
	}
	w.disks[0].Free = -1 << 62 // no such disk
	if f := w.b.Of(w.disks[0]); f == nil || f.Days != 0 {
		t.Errorf("%+v", f)
	}
}

// Another size is another disk: what was known of the old one is forgotten. Small changes, as of ZFS, are not.
func TestResized(t *testing.T) {
	w := newWorld(t)
	w.pass(2*24*time.Hour, gib)
	w.disks[0].Total -= gib
	w.pass(sampleEvery, gib)
	if got := w.of(); !strings.HasPrefix(got, "24.0 GiB a day since 2.0 days") {
		t.Errorf("a little smaller: %s", got)
	}
	w.disks[0].Total, w.disks[0].Free = 2000*gib, 1800*gib
	w.pass(sampleEvery, gib)
	if got := w.of(); got != "none" || len(w.b.nodes["n1"]) > 2 {
		t.Errorf("doubled: %s, %d samples", got, len(w.b.nodes["n1"]))
	}
}

// A node that is down has no forecast and no samples; a removed one is forgotten, unless no members are known at all.
func TestMembers(t *testing.T) {
	w := newWorld(t)
	w.disks = append(w.disks, Disk{"n2", true, 500 * gib, 1000 * gib, gib}, Disk{"n3", false, 0, 0, 0})
	w.pass(30*time.Hour, gib)
	if nodes := slices.Sorted(maps.Keys(w.b.nodes)); fmt.Sprint(nodes) != "[n1 n2]" {
		t.Errorf("%v", nodes)
	}
	w.disks[0].Up = false
	if got := w.of(); got != "none" {
		t.Errorf("down: %s", got)
	}
	all := w.disks
	w.disks = nil
	w.b.Look()
	w.disks = all[:1]
	w.b.Look()
	if nodes := slices.Sorted(maps.Keys(w.b.nodes)); fmt.Sprint(nodes) != "[n1]" {
		t.Errorf("after a removal: %v", nodes)
	}
	w.disks[0].Up = true
	if got := w.of(); got == "none" {
		t.Error("what was known of n1 is lost")
	}
}

// Samples of a clock that was ahead do not count once it is right again.
func TestClockWasAhead(t *testing.T) {
	w := newWorld(t)
	w.now = w.now.AddDate(0, 0, 5)
	w.b.Look()
	w.now = w.now.AddDate(0, 0, -5)
	w.pass(25*time.Hour, gib)
	if got := w.of(); got != "24.0 GiB a day since 1.0 days, full in 36.4, sure false" {
		t.Errorf("%s", got)
	}
}

// The file is bounded, whatever happens.
func TestBounded(t *testing.T) {
	w := newWorld(t)
	for i := range 2 * maxNodes {
		w.disks = append(w.disks, Disk{fmt.Sprint("m", i), true, gib, 2 * gib, 0})
	}
	for end := w.now.Add(keep + 30*time.Hour); w.now.Before(end); w.now = w.now.Add(sampleEvery) {
		w.b.Look()
	}
	w.restart()
	if len(w.b.nodes) != maxNodes || len(w.b.nodes["n1"]) > maxSamples {
		t.Errorf("%d nodes, %d samples", len(w.b.nodes), len(w.b.nodes["n1"]))
	}
	if i, err := os.Stat(w.file); err != nil || i.Size() > 1<<20 {
		t.Errorf("%v %v", i.Size(), err)
	}
}

// A damaged file begins an empty book, and nonsense in a whole one is left out.
func TestDamagedFile(t *testing.T) {
	for text, samples := range map[string]int{
		"": 0, "{": 0, "\x00\x00": 0, `[]`: 0, `{"nodes": null}`: 0,
		`{"nodes": {"n1": [{"at": 1700000000, "free": -1, "total": 5}, {"at": -3, "free": 1, "total": 5},
			{"at": 1700000000, "free": 1, "total": 0}]}}`: 0,
		`{"nodes": {"n1": [{"at": 1700000060, "free": 1, "total": 5}, {"at": 1700000000, "free": 2, "total": 5}]}}`: 2,
	} {
		w := newWorld(t)
		if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(Config{File: w.file, Disks: func() []Disk { return nil }})
		if err != nil || len(b.nodes["n1"]) != samples {
			t.Errorf("%q: %v, %+v", text, err, b)
		}
		if samples == 2 && b.nodes["n1"][0].Free != 2 {
			t.Errorf("the samples are not sorted: %+v", b.nodes)
		}
	}
}

// Run samples at once and then each hour, saves, and ends with its context.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disks.json")
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(Config{File: file, Disks: func() []Disk { return []Disk{{"n1", true, gib, 2 * gib, 0}} }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.Run(ctx); close(done) }()
		time.Sleep(3*sampleEvery + lookEvery)
		cancel()
		<-done
		if n := len(b.nodes["n1"]); n != 4 {
			t.Errorf("%d samples", n)
		}
	})
	if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), `"n1"`) {
		t.Errorf("%v %s", err, data)
	}
}
