package handover

import (
	"io"
	"os"
)

// relay copies what can not be handed over itself (a socket that ssh gives, a device, a file at a position) into a pipe
// whose other end is handed over.
type relay struct {
	from, to *os.File
	done     chan struct{} // closed when nothing more is copied
	err      error         // why the copy ended early; read it after done
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

// stop does not wait for a read of a terminal or a socket that is under way: nothing but its end or the process's would
// end it.
func (l *relay) stop() {
	l.from.Close()
	l.to.Close()
}
