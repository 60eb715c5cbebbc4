// Package parts receives the files of an import over https, in parts, from a command that cannot pass descriptors.
//
// The import reads each file as if it were a pipe. When it needs bytes of a file that are not here, that file is
// wanted, and the command sends its next part. Nothing is spooled: a part is in memory until the import has read it.
//
// It promises: a part is taken whole and with the right sum or not at all, at the offset where the file goes on, so a
// command may lose its connection at any moment, ask where to go on (State) and continue. What sessions hold is
// bounded: sessions, files, the size of a part, and the time without a part, after which the session ends and its
// import with it. What the import has stored until then is kept as for any interrupted import.
package parts

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds.
const (
	MaxPart   = 8 << 20   // bytes of a part
	firstPart = 256 << 10 // bytes of the first part of one file of several: all their beginnings are read first
	maxFiles  = 256       // of a session
	maxOpen   = 4         // sessions of a node
	maxName   = 4096      // bytes
	Idle      = 10 * time.Minute
)

// Sessions are the imports of a node whose files arrive in parts. It is safe for concurrent use.
type Sessions struct {
	idle time.Duration

	mu   sync.Mutex
	open map[string]*Session
}

// New returns an empty Sessions.
func New() *Sessions { return &Sessions{idle: Idle, open: map[string]*Session{}} }

// A Session is one import.
type Session struct {
	id, owner string
	of        *Sessions
	ctx       context.Context
	cancel    context.CancelCauseFunc
	timer     *time.Timer

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	files   []*file
	state   State // without the file that is wanted
}

// file is one file of a session; its fields are owned by Session.mu.
type file struct {
	s      *Session
	name   string
	offset int64  // bytes received
	unread []byte // of the last part
	wanted bool
	ended  bool
}

// State says where to go on.
type State struct {
	ID string `json:"id"`
	// File is the index of the file of which the next part is wanted, -1 if none is wanted now: ask again. The part
	// begins at Offset and has at most Most bytes.
	File   int   `json:"file"`
	Offset int64 `json:"offset"`
	Most   int   `json:"most"`
	// Done is the number of bytes that were read of all files, Phase what the import does.
	Done  int64  `json:"done"`
	Phase string `json:"phase,omitempty"`
	// Finished says that the import has ended, with an HTTP status, and an error or a result.
	Finished bool            `json:"finished"`
	Status   int             `json:"status,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// errIdle ends a session whose command does not come back.
var errIdle = errors.New("the command that sends the files has not sent any for 10 minutes")

// Open begins a session for files with these names, which only owner finds. syscall.EAGAIN: too many are open.
func (s *Sessions) Open(owner string, names []string) (*Session, error) {
	if len(names) == 0 || len(names) > maxFiles {
		return nil, fmt.Errorf("an import over https has 1 to %d files, got %d: %w", maxFiles, len(names),
			fs.ErrInvalid)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n := &Session{id: strings.ToLower(rand.Text()), owner: owner, of: s, ctx: ctx, cancel: cancel,
		changed: make(chan struct{})}
	for _, name := range names {
		if name == "" || len(name) > maxName || strings.ContainsRune(name, 0) {
			cancel(nil)
			return nil, fmt.Errorf("a file's name has 1 to %d bytes, got %.100q: %w", maxName, name, fs.ErrInvalid)
		}
		n.files = append(n.files, &file{s: n, name: name})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= maxOpen {
		cancel(nil)
		return nil, fmt.Errorf("%d imports over https are open on this node, try again later: %w", len(s.open),
			syscall.EAGAIN)
	}
	s.open[n.id] = n
	n.timer = time.AfterFunc(s.idle, func() { n.Close(errIdle) })
	return n, nil
}

// Find returns an open session of owner; fs.ErrNotExist if there is none.
func (s *Sessions) Find(owner, id string) (*Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.open[id]
	if !ok || n.owner != owner {
		return nil, fmt.Errorf("there is no such import over https on this node: it has ended, or it is on another "+
			"bastion: %w", fs.ErrNotExist)
	}
	n.timer.Reset(s.idle)
	return n, nil
}

// Context ends with the session; its cause says why.
func (n *Session) Context() context.Context { return n.ctx }

// Close ends the session: reads of its files fail with why.
func (n *Session) Close(why error) {
	n.of.mu.Lock()
	delete(n.of.open, n.id)
	n.of.mu.Unlock()
	n.timer.Stop()
	n.cancel(why)
}

// Files are the files, in the order of their names, to be read once from beginning to end.
func (n *Session) Files() []fs.File {
	var list []fs.File
	for _, f := range n.files {
		list = append(list, f)
	}
	return list
}

// signal tells who waits that something has changed; n.mu is held.
func (n *Session) signal() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Progress records what the import does.
func (n *Session) Progress(done int64, phase string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state.Done, n.state.Phase = done, phase
}

// Finish records the end of the import; the session stays open so that the command can fetch it.
func (n *Session) Finish(status int, result any, err error) {
	data, encoding := json.Marshal(result)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state.Finished, n.state.Status = true, status
	switch {
	case err != nil:
		n.state.Error = err.Error()
	case encoding != nil:
		n.state.Error = encoding.Error()
	default:
		n.state.Result = data
	}
	n.signal()
}

// ErrElsewhere is the error for a part that does not begin where its file goes on, or that is not wanted: State says
// which is.
var ErrElsewhere = fmt.Errorf("this part is not the one that is wanted next: ask where to go on: %w", fs.ErrExist)

// Put takes the part of a file that begins at offset; last says that the file ends with it.
func (n *Session) Put(index int, offset int64, part []byte, last bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.ctx.Err() != nil:
		return context.Cause(n.ctx)
	case index < 0 || index >= len(n.files):
		return fmt.Errorf("the import has the files 0 to %d, not %d: %w", len(n.files)-1, index, fs.ErrInvalid)
	case len(part) == 0 && !last:
		return fmt.Errorf("a part that is not the last has bytes: %w", fs.ErrInvalid)
	}
	f := n.files[index]
	switch {
	case n.state.Finished, !f.wanted, f.offset != offset:
		return ErrElsewhere
	case len(part) > n.most(f):
		return fmt.Errorf("the part has %d bytes, at most %d are taken: %w", len(part), n.most(f), fs.ErrInvalid)
	}
	f.wanted, f.unread, f.ended = false, part, last
	f.offset += int64(len(part))
	n.signal()
	return nil
}

func (n *Session) most(f *file) int {
	if f.offset == 0 && len(n.files) > 1 {
		return firstPart
	}
	return MaxPart
}

// State waits until a part is wanted, the import has finished or ctx is done, and says where to go on.
func (n *Session) State(ctx context.Context) (State, error) {
	for {
		n.mu.Lock()
		s, changed := n.state, n.changed
		s.ID, s.File = n.id, -1
		for i, f := range n.files {
			if f.wanted && !s.Finished {
				s.File, s.Offset, s.Most = i, f.offset, n.most(f)
				break
			}
		}
		n.mu.Unlock()
		if s.Finished || s.File >= 0 {
			return s, nil
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return s, context.Cause(n.ctx)
		case <-ctx.Done():
			return s, nil
		}
	}
}

// Read returns bytes of the part that is here, or waits for the next.
func (f *file) Read(p []byte) (int, error) {
	n := f.s
	for {
		n.mu.Lock()
		switch {
		case len(f.unread) > 0:
			c := copy(p, f.unread)
			if f.unread = f.unread[c:]; len(f.unread) == 0 {
				f.unread = nil // its memory
			}
			n.mu.Unlock()
			return c, nil
		case f.ended:
			n.mu.Unlock()
			return 0, io.EOF
		case len(p) == 0:
			n.mu.Unlock()
			return 0, nil
		}
		if !f.wanted {
			f.wanted = true
			n.signal()
		}
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-n.ctx.Done():
			return 0, context.Cause(n.ctx)
		}
	}
}

// Close ends the use of the file.
func (f *file) Close() error { return nil }

// Stat reports that it is a pipe: nothing is known of the content but what is read.
func (f *file) Stat() (fs.FileInfo, error) { return info{f.name}, nil }

type info struct{ name string }

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return fs.ModeNamedPipe | 0o400 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
