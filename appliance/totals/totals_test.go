package totals

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// fakeTree has files that need blobs. Weighing takes time on its clock.
type fakeTree struct {
	fstest.MapFS
	now     time.Time
	takes   time.Duration
	blobs   map[string]int64    // sizes
	needs   map[string][]string // blobs by name
	watches map[string]chan struct{}
	failed  error
	weighed int
	hold    chan struct{} // Weigh waits for it; nil: it does not
	begun   chan struct{} // is told when Weigh begins to wait
}

func newTree() *fakeTree {
	return &fakeTree{MapFS: fstest.MapFS{}, now: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC),
		blobs: map[string]int64{"a": 1, "b": 20, "c": 300, "d": 4000}, needs: map[string][]string{},
		watches: map[string]chan struct{}{}}
}

// put adds a file that needs blobs.
func (f *fakeTree) put(name string, blobs ...string) {
	f.MapFS[name] = &fstest.MapFile{}
	f.needs[name] = blobs
	for dir, c := range f.watches {
		if strings.HasPrefix(name, dir+"/") {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

func (f *fakeTree) tag(repository, tag string, blobs ...string) {
	f.put("registry/repositories/"+repository+"/_manifests/tags/"+tag+"/current/link", blobs...)
}

func (f *fakeTree) ReadDir(name string) ([]fs.DirEntry, error) {
	if f.failed != nil {
		return nil, f.failed
	}
	return f.MapFS.ReadDir(name)
}

func (f *fakeTree) Watch(_ context.Context, dir string) <-chan struct{} {
	f.watches[dir] = make(chan struct{}, 1)
	return f.watches[dir]
}

func (f *fakeTree) Weigh(dirs []string, file func(string)) (sum int64) {
	if f.hold != nil {
		f.begun <- struct{}{}
		<-f.hold
	}
	f.weighed++
	f.now = f.now.Add(f.takes)
	counted := map[string]bool{}
	for name := range f.MapFS {
		for _, dir := range dirs {
			if !strings.HasPrefix(name, dir+"/") {
				continue
			}
			file(name)
			for _, b := range f.needs[name] {
				if !counted[b] {
					counted[b] = true
					sum += f.blobs[b]
				}
			}
		}
	}
	return sum
}

func open(f *fakeTree) *Totals {
	return Open(Config{Tree: f, Now: func() time.Time { return f.now }, IsTag: func(name []byte) bool {
		return bytes.HasPrefix(name, []byte("repositories/")) && bytes.Contains(name, []byte("/_manifests/tags/"))
	}})
}

func list(t *testing.T, totals *Totals) string {
	t.Helper()
	list, err := totals.List(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(list)
}

// Images, files and blobs are counted by origin; what an origin's names share counts once, and what two origins share
// counts for both. Images without an origin are together.
func TestCount(t *testing.T) {
	f := newTree()
	totals := open(f)
	defer totals.Close()
	if got := list(t, totals); got != "[]" {
		t.Errorf("nothing is stored: %s", got)
	}
	f.tag("quay.io/a", "1", "a", "b")
	f.tag("quay.io/a", "2", "b")
	f.put("registry/repositories/quay.io/a/_manifests/revisions/sha256/x/link", "b", "c")
	f.put("files/quay.io/tool", "a")
	f.tag("team/app", "1", "d")
	f.tag("other", "1", "a")
	f.tag("localhost:5000/x", "1", "b")
	f.put("files/dl.k8s.io/kubectl", "c")
	f.put("files/dl.k8s.io/kubeadm", "c")
	f.put("registry/repositories/empty.example/_layers/sha256/x/link")
	want := "[{ 2 0 4001} {quay.io 2 1 321} {dl.k8s.io 0 2 300} {localhost:5000 1 0 20}]"
	if got := list(t, totals); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Nothing is counted again while nothing has changed, and each change is seen.
func TestChanges(t *testing.T) {
	f := newTree()
	totals := open(f)
	defer totals.Close()
	f.put("files/a.example/1", "a")
	list(t, totals)
	f.weighed = 0
	if list(t, totals); f.weighed != 0 {
		t.Errorf("counted %d times although nothing has changed", f.weighed)
	}
	f.put("files/a.example/2", "b")
	if got := list(t, totals); got != "[{a.example 0 2 21}]" {
		t.Errorf("%s", got)
	}
	f.tag("a.example/x", "1", "c")
	if got := list(t, totals); got != "[{a.example 1 2 321}]" {
		t.Errorf("%s", got)
	}
}

// Counting takes at most a tenth of the time, after which what was counted last is the answer.
func TestShare(t *testing.T) {
	f := newTree()
	totals := open(f)
	defer totals.Close()
	f.takes = 400 * time.Millisecond
	begin, counted := f.now, 0
	for i := 0; f.now.Sub(begin) < 10*time.Minute; i++ {
		f.put(fmt.Sprint("files/a.example/", i), "a")
		before := f.weighed
		got := list(t, totals)
		if f.weighed > before {
			counted++
			if want := fmt.Sprintf("[{a.example 0 %d 1}]", i+1); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
		f.now = f.now.Add(100 * time.Millisecond)
	}
	if spent := time.Duration(counted) * f.takes; spent > 63*time.Second || spent < 50*time.Second {
		t.Errorf("%s of ten minutes", spent)
	}
	f.now = f.now.Add(time.Minute)
	if got, want := list(t, totals), fmt.Sprintf("[{a.example 0 %d 1}]", len(f.MapFS)); got != want {
		t.Errorf("after a pause: %s, want %s", got, want)
	}
}

// An error is returned, and the next question counts again.
func TestError(t *testing.T) {
	f := newTree()
	totals := open(f)
	defer totals.Close()
	f.put("files/a.example/1", "a")
	f.failed = fs.ErrPermission
	if _, err := totals.List(t.Context(), true); err == nil {
		t.Error("no error")
	}
	f.failed = nil
	if got := list(t, totals); got != "[{a.example 0 1 1}]" {
		t.Errorf("%s", got)
	}
}

// Without waiting the answer is that of the last count; whoever waits sees what was there when it asked, also while a
// count goes on that began before.
func TestWait(t *testing.T) {
	f := newTree()
	totals := open(f)
	defer totals.Close()
	ask := func(wait bool) string {
		list, err := totals.List(t.Context(), wait)
		if err != nil {
			t.Error(err)
		}
		return fmt.Sprint(list)
	}
	f.put("files/a.example/1", "a")
	if got := ask(false); got != "[{a.example 0 1 1}]" || totals.Changed() != 1 {
		t.Errorf("the first: %s", got)
	}
	f.hold, f.begun = make(chan struct{}), make(chan struct{})
	f.put("files/a.example/2", "a")
	go totals.List(t.Context(), true)
	<-f.begun
	if got := ask(false); got != "[{a.example 0 1 1}]" {
		t.Errorf("while it is counted: %s", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := totals.List(ended, true); err != context.Canceled {
		t.Errorf("who has gone away: %v", err)
	}
	// The count that goes on may have passed the name already, so there is another.
	f.put("files/a.example/3", "b")
	last := make(chan string)
	go func() { last <- ask(true) }()
	f.hold <- struct{}{}
	<-f.begun
	f.hold <- struct{}{}
	if got := <-last; got != "[{a.example 0 3 21}]" || totals.Changed() != 3 {
		t.Errorf("who waits: %s after %d counts", got, totals.Changed())
	}
}

// Close ends who waits, and what counts.
func TestClose(t *testing.T) {
	f := newTree()
	totals := open(f)
	f.hold, f.begun = make(chan struct{}), make(chan struct{})
	f.put("files/a.example/1", "a")
	done := make(chan error)
	go func() { _, err := totals.List(t.Context(), true); done <- err }()
	<-f.begun
	go func() { f.hold <- struct{}{} }()
	if err := totals.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if _, err := totals.List(t.Context(), true); err != nil {
		t.Errorf("after the end: %v", err)
	}
}
