package config

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
)

// slowReceiver receives a log and can be made to hang.
type slowReceiver struct {
	mu  sync.Mutex // held while it does not read
	out bytes.Buffer
}

func (r *slowReceiver) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

func TestLogWithAReceiverThatDoesNotRead(t *testing.T) {
	r := &slowReceiver{}
	log, _, flush := NewServiceLogger(Log{Format: "text"}, r)
	r.mu.Lock()
	for range 2 * keptLines {
		log.Info("line")
	}
	r.mu.Unlock()
	flush()
	text := r.out.String()
	lines := strings.Count(text, "msg=line\n")
	if lines < keptLines || lines >= 2*keptLines || !strings.Contains(text, "log lines were dropped") {
		t.Errorf("%d lines of %d came, at least %d were expected, and a line that tells of the others", lines,
			2*keptLines,
			keptLines)
	}
}

// The end of the process waits for a receiver that hangs, and not for ever.
func TestFlushEndsWithoutAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		log, _, flush := NewServiceLogger(Log{Format: "text"}, writer(func([]byte) (int, error) {
			<-free
			return 0, io.ErrClosedPipe
		}))
		log.Info("line")
		flush()
		close(free)
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestLogFindsAnotherWayToTheReceiver(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"the stream is broken", &os.PathError{Op: "write", Path: "/dev/stderr", Err: syscall.EPIPE}, "<4>msg=x\n"},
		{"something else is wrong", syscall.ENOSPC, ""},
		{"it takes the line", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got bytes.Buffer
			w := writer(func(p []byte) (int, error) { return len(p), c.err })
			r := &receiver{
				w: w, direct: slog.New(slog.DiscardHandler),
				again: func(line []byte) error { got.Write(line); return nil },
			}
			r.put([]byte("<4>msg=x\n"))
			if got.String() != c.want {
				t.Errorf("sent the other way: %q, expected %q", got.String(), c.want)
			}
		})
	}
}
