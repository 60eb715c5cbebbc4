package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"casemate/bundle"
)

// Session is the daemon's side of one import. Its methods are safe for concurrent use; the caller of Accept calls
// Finish once.
type Session struct {
	request Request
	inputs  []bundle.Input

	ctx    context.Context
	cancel context.CancelCauseFunc
	conn   *net.UnixConn
	out    sender
	flight chan struct{} // a slot for each request in flight
	work   sync.WaitGroup
	ended  chan struct{} // closed when reading from the command has ended

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan<- answer
	newest  Progress

	told chan struct{} // signals that newest has changed
	done chan struct{} // closed when no more progress is to be shown
}

// answer is a reply and the descriptor that came with it, -1 if none.
type answer struct {
	reply *reply
	fd    int
}

// Accept takes over the connection of r, answers 101 and receives the inputs. On an error it has answered and closed
// the connection. The session also ends with r's context, which the server's BaseContext ends when the daemon stops:
// the server itself does not track hijacked connections.
func Accept(w http.ResponseWriter, r *http.Request) (*Session, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), Protocol) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", Protocol)
		return nil, refuse(w, http.StatusUpgradeRequired, "imports require the protocol "+Protocol+
			": use the command casemate import")
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return nil, refuse(w, http.StatusInternalServerError, "the connection cannot be taken over")
	}
	// Before hijacking, an error is an HTTP response; afterwards errors are sent in a frame.
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		return nil, refuse(w, http.StatusInternalServerError, err.Error())
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("imports come over a Unix socket only")
	}
	conn.SetDeadline(time.Now().Add(helloWait))
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+
		"\r\n\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	ahead := make([]byte, buffered.Reader.Buffered())
	if _, err := io.ReadFull(buffered.Reader, ahead); err != nil {
		conn.Close()
		return nil, err
	}
	return newSession(r.Context(), unixConn, ahead)
}

func refuse(w http.ResponseWriter, status int, why string) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": why})
	return errors.New(why)
}

// newSession reads the command's first message; ahead are bytes of it that were read already.
func newSession(ctx context.Context, conn *net.UnixConn, ahead []byte) (*Session, error) {
	s := &Session{
		conn: conn, out: sender{conn: conn}, flight: make(chan struct{}, maxFlight),
		pending: map[uint64]chan<- answer{},
		told:    make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	in := &receiver{conn: conn}
	// Buffered, so that a frame is one system call; a descriptor is kept until its frame is read.
	from := bufio.NewReader(io.MultiReader(strings.NewReader(string(ahead)), in))
	end := func() { conn.SetReadDeadline(time.Unix(1, 0)) }
	stop := context.AfterFunc(s.ctx, end)
	if err := s.begin(in, from); err != nil {
		stop()
		s.out.send(&message{Final: &final{Status: http.StatusBadRequest, Error: err.Error()}}, nil)
		s.cancel(err)
		s.closeInputs()
		in.close()
		conn.Close()
		return nil, err
	}
	stop()
	conn.SetDeadline(time.Time{})
	context.AfterFunc(s.ctx, end) // ends listen
	s.work.Go(func() {
		defer close(s.ended)
		defer in.close()
		s.cancel(s.listen(in, from))
	})
	s.work.Go(s.showProgress)
	return s, nil
}

// begin receives the request and a descriptor for each file in it.
func (s *Session) begin(in *receiver, from io.Reader) error {
	m, fd, err := in.next(from)
	if err != nil {
		return err
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	if m.Hello == nil || fd >= 0 {
		return protocolError("the command must begin with its request")
	}
	s.request = *m.Hello
	if n := len(s.request.Inputs); n == 0 || n > maxInputs {
		return protocolError("an import must have 1 to %d inputs, got %d", maxInputs, n)
	}
	s.inputs = make([]bundle.Input, len(s.request.Inputs))
	for i, named := range s.request.Inputs {
		s.inputs[i].Name = named.Name
		if named.Dir {
			s.inputs[i].FS = &tree{session: s, input: i, name: named.Name}
			continue
		}
		m, fd, err := in.next(from)
		if err != nil {
			return err
		}
		if m.Input == nil || *m.Input != i || fd < 0 {
			if fd >= 0 {
				unix.Close(fd)
			}
			return protocolError("input %d must come with a descriptor", i)
		}
		f, err := s.adopt(fd, named.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", named.Name, err)
		}
		if st, err := f.Stat(); err != nil {
			f.Close()
			return fmt.Errorf("%s: %w", named.Name, err)
		} else if st.Mode().IsRegular() {
			s.inputs[i].File = f
		} else {
			s.inputs[i].File = &pipe{file: f, session: s, input: i, relayed: named.Relayed}
		}
	}
	return nil
}

// adopt makes a file of a descriptor, or closes it.
func (s *Session) adopt(fd int, name string) (*os.File, error) {
	if err := checkDescriptor(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// listen receives the command's replies until the connection or the session ends, and returns why.
func (s *Session) listen(in *receiver, from io.Reader) error {
	for {
		m, fd, err := in.next(from)
		if err != nil {
			if s.ctx.Err() != nil {
				return s.ctx.Err()
			}
			if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
				err = ErrGone
			}
			return err
		}
		if m.Reply == nil {
			if fd >= 0 {
				unix.Close(fd)
			}
			return protocolError("the command sent a message that is not a reply")
		}
		s.mu.Lock()
		to := s.pending[m.Reply.ID]
		delete(s.pending, m.Reply.ID)
		s.mu.Unlock()
		if to != nil {
			to <- answer{m.Reply, fd} // buffered: does not block
		} else if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ask sends a request to the command and waits for its reply. The file is nil unless a descriptor came with it.
func (s *Session) ask(a ask) (answer, error) {
	none := answer{fd: -1}
	select {
	case s.flight <- struct{}{}:
		defer func() { <-s.flight }()
	case <-s.ctx.Done():
		return none, s.cause()
	}
	got := make(chan answer, 1)
	s.mu.Lock()
	s.lastID++
	a.ID = s.lastID
	s.pending[a.ID] = got
	s.mu.Unlock()
	if err := s.out.send(&message{Ask: &a}, nil); err != nil {
		s.forget(a.ID, got)
		if s.ctx.Err() != nil {
			return none, s.cause()
		}
		s.cancel(ErrGone)
		return none, ErrGone
	}
	select {
	case r := <-got:
		if r.reply.Err != nil {
			if r.fd >= 0 {
				unix.Close(r.fd)
			}
			return none, r.reply.Err
		}
		return r, nil
	case <-s.ctx.Done():
		s.forget(a.ID, got)
		return none, s.cause()
	}
}

// forget abandons a request and closes the descriptor of a reply that arrived meanwhile or arrives later.
func (s *Session) forget(id uint64, got <-chan answer) {
	s.mu.Lock()
	_, open := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if open {
		return
	}
	if r := <-got; r.fd >= 0 { // listen has removed the request and is sending the reply, or has sent it
		unix.Close(r.fd)
	}
}

// cause returns why the session's context is done, for the operator.
func (s *Session) cause() error { return context.Cause(s.ctx) }

// Request returns the operator's request. The session owns its slices.
func (s *Session) Request() Request { return s.request }

// Context is done when the command goes away (context.Cause is ErrGone then), when the daemon stops, and after
// Finish.
func (s *Session) Context() context.Context { return s.ctx }

// Inputs returns the inputs, in the operator's order. Regular files are *os.File, as are the regular files that a
// directory's FS opens. The session closes each Input.File; callers need not.
func (s *Session) Inputs() []bundle.Input { return s.inputs }

// Progress shows the operator the progress: done of total bytes, -1 if the total is unknown, in a phase named by one
// word or two. It never blocks and may be called any number of times: the newest state is sent a few times a second.
func (s *Session) Progress(done, total int64, phase string) {
	s.mu.Lock()
	s.newest = Progress{done, total, phase}
	s.mu.Unlock()
	select {
	case s.told <- struct{}{}:
	default:
	}
}

func (s *Session) showProgress() {
	tick := time.NewTicker(everyTick)
	defer tick.Stop()
	for {
		select {
		case <-s.told:
		case <-s.done:
			return
		}
		s.mu.Lock()
		p := s.newest
		s.mu.Unlock()
		if _, err := s.ask(ask{Op: opProgress, Progress: &p}); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-s.done:
			return
		}
	}
}

// Finish answers the command: with result, or if err is not nil with err's text and status (docs/admin-api.md lists
// the meanings). It closes everything, and returns an error if the answer could not be sent.
func (s *Session) Finish(result any, err error, status int) error {
	f := &final{Status: http.StatusOK}
	if err != nil {
		f.Status, f.Error = status, err.Error()
	} else if f.Result, err = json.Marshal(result); err != nil {
		f.Status, f.Error = http.StatusInternalServerError, err.Error()
	}
	s.conn.SetWriteDeadline(time.Now().Add(finishWait))
	close(s.done)
	told := s.out.send(&message{Final: f}, nil)
	if told == nil {
		// The command closes after reading the answer; unread bytes of late replies must not turn its last read into
		// a reset.
		s.conn.CloseWrite()
		select {
		case <-s.ended:
		case <-s.ctx.Done():
		case <-time.After(finishWait):
		}
	}
	s.cancel(context.Canceled)
	s.work.Wait()
	s.closeInputs()
	return errors.Join(told, s.conn.Close())
}

func (s *Session) closeInputs() {
	for _, i := range s.inputs {
		if i.File != nil {
			i.File.Close() // its reader may have closed it already
		}
	}
}

// shown returns the name of a file in a directory input, for messages and as the file's name.
func shown(input, path string) string { return filepath.Join(input, filepath.FromSlash(path)) }

var (
	_ fs.ReadDirFS = (*tree)(nil)
	_ fs.StatFS    = (*tree)(nil)
)
