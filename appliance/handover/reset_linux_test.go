package handover

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A command that was killed before it read what it was asked leaves a connection that is reset rather than ended.
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
	for waiting := 0; waiting == 0; { // until the question lies there
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	c.Close()
	if err := <-got; !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}
