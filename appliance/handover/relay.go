package handover

import (
	"io"
	"os"
)

// relay copies an input that cannot be passed itself (a socket that ssh provides, a device, a file not at its start)
// into a pipe whose other end is passed.
type relay struct {
	from, to *os.File
	done     chan struct{} // closed when copying has ended
	err      error         // why copying ended early; read it after done
}

func startRelay(from *os.File) (*relay, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		from.Close()
		return nil, nil, err
	}
	l := &relay{from: from, to: w, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		_, l.err = io.Copy(w, from)
		w.Close()
	}()
	return l, r, nil
}

// stop does not wait for a running read of a terminal or a socket: only its end or the end of the process would
// unblock it.
func (l *relay) stop() {
	l.from.Close()
	l.to.Close()
}
