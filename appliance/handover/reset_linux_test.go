package handover

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A command that was killed before it read what it was asked leaves a connection that is reset, perhaps within a frame,
// rather than ended.
func TestCommandKilledWithUnreadQuestions(t *testing.T) {
	got := make(chan error, 1)
	d := newDaemon(t, func(s *Session) {
		_, err := s.Inputs()[0].FS.Open("f")
		got <- err
		s.Finish(nil, err, 500)
	})
	c := d.dial()
	raw := rawCommand(t, c)
	raw.send(&message{Hello: &Request{Inputs: []Named{{Name: "x", Dir: true}}}}, nil)
	wait := func(until func(fd int) bool) {
		t.Helper()
		conn, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(5 * time.Minute)
		for done := false; !done; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("what was sent has not arrived, or not all was read")
			}
			if err := conn.Control(func(fd uintptr) { done = until(int(fd)) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	queued := func(fd, which int) int {
		n, err := unix.IoctlGetInt(fd, uint(which))
		if err != nil {
			t.Error(err)
		}
		return n
	}
	wait(func(fd int) bool { return queued(fd, unix.TIOCINQ) > 0 }) // the question lies there
	c.Write([]byte{0, 0, 1, 0, '{'})
	wait(func(fd int) bool { return queued(fd, unix.TIOCOUTQ) == 0 }) // the daemon is within a frame
	c.Close()
	if err := <-got; !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}
