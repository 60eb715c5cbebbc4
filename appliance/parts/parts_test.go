package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func named(names ...string) (list []File) {
	for _, name := range names {
		list = append(list, File{Name: name})
	}
	return list
}

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// TestFilesArriveInParts: the import reads the beginnings of all files and then each, the command sends what is
// wanted, and repeats and reorders what it sends.
func TestFilesArriveInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		want := [][]byte{make([]byte, 3*firstPart+7), {}, make([]byte, firstPart)}
		for _, b := range want {
			for i := range b {
				b[i] = byte(random.Uint32())
			}
		}
		all := New("n1")
		n, err := all.Open("ada", About{}, named("a", "b", "c"))
		if err != nil {
			t.Fatal(err)
		}
		go func() { // the import
			got := make([][]byte, 3)
			for i, f := range n.Files() {
				head := make([]byte, 10)
				c, _ := io.ReadFull(f, head)
				got[i] = head[:c]
			}
			for i, f := range n.Files() {
				rest, err := io.ReadAll(f)
				if got[i] = append(got[i], rest...); err != nil || !bytes.Equal(got[i], want[i]) {
					n.Finish(500, nil, fmt.Errorf("file %d has %d bytes of %d: %v", i, len(got[i]), len(want[i]), err))
					return
				}
				n.Progress(int64(len(got[i])), "reading")
			}
			n.Finish(200, "done", nil)
		}()
		for {
			s, err := n.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s.Finished {
				if s.Status != 200 || s.Error != "" || string(s.Result) != `"done"` || s.Done != firstPart {
					t.Errorf("%+v", s)
				}
				break
			}
			part := want[s.File][s.Offset:]
			part = part[:min(len(part), s.Most, 100_000)]
			last := int(s.Offset)+len(part) == len(want[s.File])
			for _, wrong := range []int64{s.Offset + 1, s.Offset - 1} {
				if err := n.Put(s.File, wrong, []byte("x"), false); !errors.Is(err, ErrElsewhere) {
					t.Errorf("a part elsewhere: %v", err)
				}
			}
			if err := n.Put(s.File, s.Offset, part, last); err != nil {
				t.Fatal(err)
			}
			// Sent again, because the answer was lost: it is not taken twice.
			if err := n.Put(s.File, s.Offset, part, last); len(part) > 0 && !errors.Is(err, ErrElsewhere) {
				t.Errorf("twice: %v", err)
			}
		}
		n.Close(nil)
		if _, err := all.Find("ada", n.id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a closed session: %v", err)
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := New("n1")
		for _, names := range [][]string{nil, {""}, {strings.Repeat("x", maxName+1)}, {"a\x00"},
			strings.Split(strings.Repeat("a,", maxFiles)+"a", ",")} {
			if _, err := all.Open("ada", About{}, named(names...)); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%.20q: %v", names, err)
			}
		}
		var open []*Session
		for range maxOwn {
			n, err := all.Open("ada", About{}, named("a", "b"))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, n)
		}
		if _, err := all.Open("ada", About{}, named("a")); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("one more: %v", err)
		}
		if _, err := all.Find("eve", open[0].id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("another user's: %v", err)
		}
		read := make(chan error, 1)
		go func() { _, err := open[0].Files()[0].Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		for _, c := range []struct {
			file int
			part int
		}{{0, firstPart + 1}, {2, 1}, {-1, 1}, {0, 0}} {
			if err := open[0].Put(c.file, 0, make([]byte, c.part), false); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		if err := open[0].Put(1, 0, []byte("x"), false); !errors.Is(err, ErrElsewhere) {
			t.Errorf("a file that is not wanted: %v", err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if s, err := open[1].State(ctx); err != nil || s.File != -1 {
			t.Errorf("nothing is wanted: %+v %v", s, err)
		}
		// A sender that does not come back ends its session, and the import that reads from it; asking is not sending.
		time.Sleep(Idle - 2*time.Second)
		if _, err := all.Find("ada", open[0].id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := all.Find("ada", open[0].id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an idle session: %v", err)
		}
		if err := <-read; !errors.Is(err, errIdle) {
			t.Errorf("the import is told %v", err)
		}
		// An import that works, or waits for another one, is not idle. One that has ended is forgotten after a while.
		if _, err := all.Find("ada", open[1].id); err != nil {
			t.Error(err)
		}
		for _, n := range open[1:] {
			n.Finish(200, nil, nil)
		}
		n, err := all.Open("ada", About{}, named("a"))
		if err != nil {
			t.Fatal(err)
		}
		n.Close(nil)
		time.Sleep(Idle + time.Second)
		if left := len(all.List("ada")); left != 0 {
			t.Errorf("%d are left", left)
		}
	})
}

// reading is a session with one file, whose bytes the test decides to read or to skip.
type reading struct {
	t    *testing.T
	all  *Sessions
	n    *Session
	f    fs.File
	want []byte
}

func newReading(t *testing.T, size int) *reading {
	t.Helper()
	r := &reading{t: t, all: New("n1"), want: make([]byte, size)}
	random := rand.NewChaCha8([32]byte{1})
	random.Read(r.want)
	var err error
	r.n, err = r.all.Open("ada", About{}, []File{{Name: "a", Size: int64(size)}})
	if err != nil {
		t.Fatal(err)
	}
	r.f = r.n.Files()[0]
	return r
}

// serve sends what is wanted until the import has finished, and returns the offsets and sizes of the parts.
func (r *reading) serve() (sent [][2]int) {
	for {
		s, err := r.n.State(r.t.Context())
		if err != nil || s.Finished {
			return sent
		}
		part := r.want[min(int(s.Offset), len(r.want)):]
		part = part[:min(len(part), s.Most)]
		last := int(s.Offset)+len(part) >= len(r.want)
		if err := r.n.Put(0, s.Offset, part, last); err == nil {
			sent = append(sent, [2]int{int(s.Offset), len(part)})
		} else if !errors.Is(err, ErrElsewhere) {
			r.t.Error(err)
			return sent
		}
	}
}

// TestSkippedBytesAreNotSent: what the import skips is not asked for, what it reads arrives whole, in parts that grow
// while it reads and are small where it skips.
func TestSkippedBytesAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mib = 1 << 20
		r := newReading(t, 100*mib)
		go func() {
			at := 0
			read := func(n int) {
				got := make([]byte, n)
				if _, err := io.ReadFull(r.f, got); err != nil || !bytes.Equal(got, r.want[at:at+n]) {
					t.Errorf("%d bytes at %d: %v", n, at, err)
				}
				at += n
			}
			skip := func(n int) {
				if err := r.f.(interface{ Skip(n int64) error }).Skip(int64(n)); err != nil {
					t.Error(err)
				}
				at += n
			}
			read(1000)
			skip(10)
			read(30 * mib)
			for range 20 { // small blobs that are stored, with what is between them
				skip(mib)
				read(512)
			}
			skip(40 * mib)
			read(len(r.want) - at)
			if n, err := r.f.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("at the end: %d, %v", n, err)
			}
			r.n.Finish(200, nil, nil)
		}()
		sum, largest := 0, 0
		for _, p := range r.serve() {
			sum += p[1]
			largest = max(largest, p[1])
		}
		// 30 and 10 MiB were read; at a jump what was wanted ahead may have been on its way.
		if sum < 39*mib || sum > 39*mib+3*MaxPart+20*skipPart || largest != MaxPart {
			t.Errorf("%d bytes were sent, at most %d in a part", sum, largest)
		}
		r.n.Close(nil)
	})
}

// TestSkippedBeyondTheEnd: a file that ends before what is skipped ends there.
func TestSkippedBeyondTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReading(t, 10_000)
		go func() {
			for _, n := range []int64{5, 1 << 40, 7} {
				if err := r.f.(interface{ Skip(n int64) error }).Skip(n); err != nil {
					t.Error(err)
				}
				if _, err := r.f.Read(make([]byte, 1)); err != nil && err != io.EOF {
					t.Error(err)
				}
			}
			r.n.Finish(200, nil, nil)
		}()
		r.serve()
		r.n.Close(nil)
		if err := r.f.(interface{ Skip(n int64) error }).Skip(1); err == nil {
			t.Error("skipped in a session that has ended")
		}
	})
}

// TestAheadIsBounded: an import that reads slowly has one part that it reads, and one ahead.
func TestAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReading(t, 200<<20)
		go func() {
			buf := make([]byte, 1<<20)
			for {
				_, err := r.f.Read(buf)
				if err != nil {
					break
				}
				time.Sleep(time.Second)
				r.n.mu.Lock()
				if held := len(r.n.files[0].unread); held > maxUnread {
					t.Errorf("%d parts are in memory", held)
				}
				r.n.mu.Unlock()
			}
			r.n.Finish(200, nil, nil)
		}()
		if n := len(r.serve()); n > 200/8+6 {
			t.Errorf("%d parts", n)
		}
		r.n.Close(nil)
	})
}

// TestStalled: who sends a byte now and then does not keep a session, and who sends slowly gets smaller parts.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReading(t, 100<<20)
		ended := make(chan error, 1)
		go func() { _, err := io.Copy(io.Discard, r.f); ended <- err }()
		began, sent := time.Now(), 0
		for {
			s, err := r.n.State(t.Context())
			if err != nil {
				break
			}
			time.Sleep(Idle/4 + time.Second)
			if r.n.Put(0, s.Offset, r.want[:1], false) == nil {
				sent++
			}
		}
		if err := <-ended; !errors.Is(err, errIdle) || sent != 3 ||
			time.Since(began) > Idle+10*time.Second {
			t.Errorf("%v after %d bytes and %v", err, sent, time.Since(began))
		}
		r = newReading(t, 100<<20)
		go func() { _, err := io.Copy(io.Discard, r.f); ended <- err }()
		for range 40 {
			s, err := r.n.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(s.Most) * time.Second / (64 << 10)) // 64 KiB a second
			if err := r.n.Put(0, s.Offset, make([]byte, s.Most), false); err != nil {
				t.Fatal(err)
			}
			if s.Most > 4<<20 {
				t.Errorf("a part of %d bytes at 64 KiB a second", s.Most)
			}
		}
		r.n.Close(nil)
		<-ended
	})
}

func TestListAndShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := New("n1")
		when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		n, err := all.Open("ada", About{Name: "x", Hold: true}, []File{{"a.001", 10, when}, {"a.002", 20, when}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { n.Files()[1].Read(make([]byte, 1)) }()
		synctest.Wait()
		list := all.List("ada")
		if len(list) != 1 || list[0].Name != "x" || !list[0].Hold || list[0].Total != 30 || list[0].File != 1 ||
			len(list[0].Files) != 2 || list[0].Files[1].Size != 20 || !list[0].Files[1].Modified.Equal(when) ||
			list[0].Ends.IsZero() {
			t.Errorf("%+v", list)
		}
		if list := all.List("eve"); len(list) != 0 {
			t.Errorf("of another account: %+v", list)
		}
		done, err := n.Receive(1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Receive(0, 0); !errors.Is(err, ErrElsewhere) {
			t.Errorf("a part that is not wanted: %v", err)
		}
		second, err := n.Receive(1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Receive(1, 0); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("a third at once: %v", err)
		}
		done()
		second()
		if third, err := n.Receive(1, 0); err != nil {
			t.Error(err)
		} else {
			third()
		}
		for owner := range 3 {
			for range maxOwn {
				all.Open(fmt.Sprint(owner), About{}, named("a"))
			}
		}
		if len(all.open) != maxOpen {
			t.Errorf("%d are open", len(all.open))
		}
		if _, err := all.Open("eve", About{}, named("a")); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("one more: %v", err)
		}
		if _, err := all.Open("eve", About{}, []File{{Name: "a", Size: -1}}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("a negative size: %v", err)
		}
		for _, n := range slices.Collect(maps.Values(all.open)) {
			n.Close(nil)
		}
	})
}
