package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		all := New()
		n, err := all.Open("ada", []string{"a", "b", "c"})
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
		all := New()
		for _, names := range [][]string{nil, {""}, {strings.Repeat("x", maxName+1)}, {"a\x00"},
			strings.Split(strings.Repeat("a,", maxFiles)+"a", ",")} {
			if _, err := all.Open("ada", names); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%.20q: %v", names, err)
			}
		}
		var open []*Session
		for range maxOpen {
			n, err := all.Open("ada", []string{"a", "b"})
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, n)
		}
		if _, err := all.Open("ada", []string{"a"}); !errors.Is(err, syscall.EAGAIN) {
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
		// A command that does not come back ends its session, and the import that reads from it.
		time.Sleep(Idle - time.Minute)
		if _, err := all.Find("ada", open[0].id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := all.Find("ada", open[0].id); err != nil {
			t.Errorf("a session in use has ended: %v", err)
		}
		if _, err := all.Find("ada", open[1].id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an idle session: %v", err)
		}
		time.Sleep(Idle + time.Second)
		if err := <-read; !errors.Is(err, errIdle) {
			t.Errorf("the import is told %v", err)
		}
		if len(all.open) != 0 {
			t.Errorf("%d are left", len(all.open))
		}
	})
}
