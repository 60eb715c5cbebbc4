package config

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// How much is kept for a receiver of the log that does not read, and how long the end of the process waits for it.
const (
	keptLines = 4096
	lastWait  = 2 * time.Second
)

// NewServiceLogger is NewLogger for a process that must go on whatever becomes of the receiver of its log: lines are
// written by a goroutine of its own. While the receiver does not read, up to 4 096 lines are kept, then lines are
// dropped, and how many is logged when it reads again. When systemd's journal was stopped and started, its stream is
// broken for good; then lines go to the journal's socket.
//
// flush writes what is kept, for two seconds at most, and must be called in the end.
func NewServiceLogger(cfg Log, w io.Writer) (log *slog.Logger, level *slog.LevelVar, flush func()) {
	direct, _ := NewLogger(cfg, w)
	r := &receiver{w: w, direct: direct, queue: make(chan []byte, keptLines)}
	log, level = NewLogger(cfg, r)
	if _, ok := log.Handler().(*journalHandler); ok {
		r.again = sendToJournal
	}
	r.stop, r.done = make(chan struct{}), make(chan struct{})
	go r.run()
	return log, level, sync.OnceFunc(func() {
		close(r.stop)
		select {
		case <-r.done:
		case <-time.After(lastWait): // whoever reads the log hangs: that is no reason not to end
		}
	})
}

// receiver is where the log goes. Writing to it never blocks and never fails.
type receiver struct {
	w      io.Writer
	direct *slog.Logger            // writes to w at once
	again  func(line []byte) error // another way to the receiver, when w is broken; may be nil
	queue  chan []byte
	lost   atomic.Int64

	stop, done chan struct{}
}

func (r *receiver) Write(line []byte) (int, error) {
	select {
	case r.queue <- bytes.Clone(line):
	default:
		r.lost.Add(1)
	}
	return len(line), nil
}

func (r *receiver) run() {
	defer close(r.done)
	for {
		select {
		case line := <-r.queue:
			r.put(line)
		case <-r.stop:
			for {
				select {
				case line := <-r.queue:
					r.put(line)
				default:
					return
				}
			}
		}
	}
}

func (r *receiver) put(line []byte) {
	if n := r.lost.Swap(0); n > 0 {
		r.direct.Warn("log lines were dropped: what receives the log did not read", "lines", n)
	}
	if _, err := r.w.Write(line); err != nil && r.again != nil && errors.Is(err, syscall.EPIPE) {
		_ = r.again(line) // there is nobody left to tell
	}
}

// sendToJournal sends a line with a priority in front (sd-daemon(3)) to the journal's socket.
func sendToJournal(line []byte) error {
	text, priority := strings.TrimSuffix(string(line), "\n"), journal.PriInfo
	if len(text) > 3 && text[0] == '<' && text[2] == '>' {
		priority, text = journal.Priority(text[1]-'0'), text[3:]
	}
	return journal.Send(text, priority, map[string]string{"SYSLOG_IDENTIFIER": "casemate"})
}
