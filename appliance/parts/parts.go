// Package parts receives the files of an import over https, in parts, from a command or a browser that cannot pass
// descriptors.
//
// The import reads each file as if it were a pipe. When it needs bytes of a file that are not here, that file is
// wanted, and the sender sends its next part. While a file is read steadily, one more part is wanted ahead. Nothing is
// spooled: a part is in memory until the import has read it. What the import does not need, because it is stored, is
// skipped: the offset at which the file goes on jumps over it.
//
// It promises: a part is taken whole and with the right sum or not at all, at the offset where the file goes on, so a
// sender may lose its connection at any moment, ask where to go on (State) and continue. What sessions hold is
// bounded: sessions, files, the size and the number of parts, and the time that a session waits for a part, after which
// it ends and its import with it. What the import has stored until then is kept as for any interrupted import.
package parts

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// Bounds.
const (
	MaxPart   = 8 << 20   // bytes of a part
	firstPart = 256 << 10 // bytes of the first part of a file: all beginnings are read first
	skipPart  = 64 << 10  // bytes of a part after bytes that were skipped: perhaps the next ones are stored too
	growth    = 4         // how many times as large the part after one may be that was read as a whole
	slowPart  = 20 * time.Second
	maxUnread = 2       // parts of a file: the one that is read, and one ahead
	maxBodies = 2       // parts that a session receives at once: one may be of a connection that was lost
	maxFiles  = 256     // of a session
	maxOwn    = 4       // sessions of an account on a node
	maxOpen   = 8       // sessions of a node
	maxName   = 4096    // bytes
	maxSize   = 1 << 50 // bytes of a file
	maxEnded  = 64      // sessions that a node remembers because their sender has ended them
	Idle      = 10 * time.Minute
)

// File is what the sender says of a file.
type File struct {
	Name string `json:"name"`
	// Size is its size in bytes, 0 if it is not known. Together with Modified it is for whoever continues the import:
	// they know the file again. An import is refused before it is sent if files of that size do not fit here.
	Size     int64     `json:"size,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
}

// About says what a session is for.
type About struct {
	// Name is the requested name of the import, "" if it is made from the first file's name.
	Name    string `json:"name,omitempty"`
	Hold    bool   `json:"hold,omitempty"`
	Partial bool   `json:"partial,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"`
}

// Sessions are the imports of a node whose files arrive in parts. It is safe for concurrent use.
type Sessions struct {
	node string
	idle time.Duration

	mu    sync.Mutex
	open  map[string]*Session
	ended []string // ids, the newest last
}

// New returns an empty Sessions of a node.
func New(node string) *Sessions {
	return &Sessions{node: node, idle: Idle, open: map[string]*Session{}}
}

// Holder returns the node that has the session with this ID, as far as the ID tells; "" if it is no ID.
func Holder(id string) (node string) {
	_, node, _ = strings.Cut(id, "-")
	return node
}

// ErrEnded is the error of Find for a session that its sender has ended. A session that is not there for another reason
// can be begun again with the same files.
var ErrEnded = errors.New("this import over https was ended")

// A Session is one import.
type Session struct {
	id, owner string
	about     About
	started   time.Time
	of        *Sessions
	ctx       context.Context
	cancel    context.CancelCauseFunc
	bodies    chan struct{} // a slot for each part that is being received

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	files   []*file
	state   State // without the file that is wanted
	// timer ends the session at ends. It runs while a part is wanted and after the end; else ends is zero.
	timer *time.Timer
	ends  time.Time
}

// file is one file of a session; its fields are owned by Session.mu.
type file struct {
	s      *Session
	about  File
	offset int64    // where the next part begins: bytes received or skipped
	unread [][]byte // parts, the first one perhaps read partly
	wanted bool     // the part at offset, of at most most bytes
	since  time.Time
	most   int
	waits  bool // the import waits for it
	ended  bool
	// Of the bytes since the last part was wanted: how many were skipped, and whether bytes were that were not here.
	skipped int64
	jumped  bool
	slow    bool // the last part took long to arrive
}

// State says where to go on.
type State struct {
	ID string `json:"id"`
	// File is the index of the file of which the next part is wanted, -1 if none is wanted now: ask again. The part
	// begins at Offset, which may be behind the end of the part before it: the bytes between are stored already. It has
	// Most bytes, fewer only at the end of the file.
	File   int   `json:"file"`
	Offset int64 `json:"offset"`
	Most   int   `json:"most"`
	// Done is the number of bytes that were read of all files, and Total their size, -1 if it is not known. Phase is
	// what the import does.
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Phase string `json:"phase,omitempty"`
	// Finished says that the import has ended, with an HTTP status, and an error or a result.
	Finished bool            `json:"finished"`
	Status   int             `json:"status,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// Listed is a session in a list.
type Listed struct {
	State
	About
	Files   []Progress `json:"files"`
	Started time.Time  `json:"started"`
	// Ends is when the session ends if no part comes, the zero time while none is wanted.
	Ends time.Time `json:"ends,omitzero"`
}

// Progress is a file and where it goes on.
type Progress struct {
	File
	Offset int64 `json:"offset"`
}

// errIdle ends a session whose sender does not come back.
var errIdle = errors.New("the files have not been sent on for 10 minutes: import the same again to continue")

// Open begins a session for these files, which only owner finds. syscall.EAGAIN: too many are open.
func (s *Sessions) Open(owner string, about About, files []File) (*Session, error) {
	if len(files) == 0 || len(files) > maxFiles {
		return nil, fmt.Errorf("an import over https has 1 to %d files, got %d: %w", maxFiles, len(files),
			fs.ErrInvalid)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n := &Session{id: strings.ToLower(rand.Text()) + "-" + s.node, owner: owner, about: about,
		started: time.Now(), of: s, ctx: ctx,
		cancel: cancel, changed: make(chan struct{}), bodies: make(chan struct{}, maxBodies)}
	for _, f := range files {
		switch {
		case f.Name == "" || len(f.Name) > maxName || strings.ContainsFunc(f.Name, unicode.IsControl):
			cancel(nil)
			return nil, fmt.Errorf("a file's name has 1 to %d bytes and no control characters, got "+
				"%.100q: %w", maxName, f.Name, fs.ErrInvalid)
		case f.Size < 0 || f.Size > maxSize:
			cancel(nil)
			return nil, fmt.Errorf("the size of %.100q must be between 0 and %d bytes, got %d: %w", f.Name,
				int64(maxSize), f.Size, fs.ErrInvalid)
		}
		n.files = append(n.files, &file{s: n, about: f, most: firstPart})
		if n.state.Total += f.Size; f.Size == 0 {
			n.state.Total = -1 << 60
		}
	}
	n.state.Total = max(n.state.Total, -1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admit(owner); err != nil {
		cancel(nil)
		return nil, err
	}
	s.open[n.id] = n
	return n, nil
}

// admit makes room for one more session of owner: it ends one that has finished, or refuses. s.mu is held.
func (s *Sessions) admit(owner string) error {
	var own, finished []*Session
	for _, n := range s.open {
		if n.owner == owner {
			own = append(own, n)
			if n.finished() {
				finished = append(finished, n)
			}
		}
	}
	if len(own) < maxOwn && len(s.open) < maxOpen {
		return nil
	}
	if len(finished) > 0 {
		oldest := slices.MinFunc(finished, func(a, b *Session) int { return a.started.Compare(b.started) })
		delete(s.open, oldest.id)
		oldest.stop(nil)
		return nil
	}
	if len(own) >= maxOwn {
		return fmt.Errorf("you have %d imports over https on this node, which are all that an account may have: "+
			"finish or end one of them: %w", len(own), syscall.EAGAIN)
	}
	return fmt.Errorf("%d imports over https are open on this node, try again later: %w", len(s.open), syscall.EAGAIN)
}

func (n *Session) finished() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.Finished
}

// Find returns an open session of owner; fs.ErrNotExist if there is none, ErrEnded if its sender has ended it.
func (s *Sessions) Find(owner, id string) (*Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.open[id]
	if !ok && slices.Contains(s.ended, id) { // ids are secrets of their owners
		return nil, ErrEnded
	}
	if !ok || n.owner != owner {
		return nil, fmt.Errorf("there is no such import over https on the bastion %s: it has ended: %w",
			s.node, fs.ErrNotExist)
	}
	return n, nil
}

// List returns the sessions of owner, the oldest first, without their results.
func (s *Sessions) List(owner string) []Listed {
	list := []Listed{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.open {
		if n.owner == owner {
			list = append(list, n.listed())
		}
	}
	Sort(list)
	return list
}

// Sort sorts sessions, the oldest first.
func Sort(list []Listed) {
	slices.SortFunc(list, func(a, b Listed) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
}

func (n *Session) listed() Listed {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := Listed{State: n.stateNow(), About: n.about, Started: n.started.UTC(), Ends: n.ends.UTC()}
	l.Result = nil
	for _, f := range n.files {
		l.Files = append(l.Files, Progress{f.about, f.offset})
	}
	return l
}

// ID is the secret by which its owner finds the session.
func (n *Session) ID() string { return n.id }

// Context ends with the session; its cause says why.
func (n *Session) Context() context.Context { return n.ctx }

// Close ends the session: reads of its files fail with why.
func (n *Session) Close(why error) {
	n.of.mu.Lock()
	delete(n.of.open, n.id)
	n.of.mu.Unlock()
	n.stop(why)
}

// End is Close by the sender: Find reports ErrEnded from now on.
func (n *Session) End() {
	n.of.mu.Lock()
	n.of.ended = append(n.of.ended, n.id)
	n.of.ended = n.of.ended[max(0, len(n.of.ended)-maxEnded):]
	n.of.mu.Unlock()
	n.Close(ErrEnded)
}

func (n *Session) stop(why error) {
	n.cancel(why)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.await(false)
}

// await lets the session end when it is idle, or not any more; n.mu is held.
func (n *Session) await(on bool) {
	if n.timer != nil {
		n.timer.Stop()
		n.timer, n.ends = nil, time.Time{}
	}
	if on && n.ctx.Err() == nil {
		n.ends = time.Now().Add(n.of.idle)
		n.timer = time.AfterFunc(n.of.idle, func() { n.Close(errIdle) })
	}
}

// Files are the files, in the order of their names, to be read once from beginning to end. They are bundle.Skippers.
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

// Finish records the end of the import; the session stays open until it is idle, so that the sender can fetch it.
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
	for _, f := range n.files {
		f.unread = nil // its memory
	}
	n.await(true)
	n.signal()
}

// ErrElsewhere is the error for a part that does not begin where its file goes on, or that is not wanted: State says
// which is.
var ErrElsewhere = fmt.Errorf("this part is not the one that is wanted next: ask where to go on: %w", fs.ErrExist)

// Receive is called before the bytes of a part are received, and done, once or more often, after Put. It refuses a part
// that is not wanted, before anything is kept of it. syscall.EAGAIN: too many are being received.
func (n *Session) Receive(index int, offset int64) (done func(), err error) {
	n.mu.Lock()
	_, err = n.expects(index, offset)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case n.bodies <- struct{}{}:
		return sync.OnceFunc(func() { <-n.bodies }), nil
	default:
		return nil, fmt.Errorf("%d parts of this import are arriving, send one at a time: %w", maxBodies,
			syscall.EAGAIN)
	}
}

// expects returns the file of which the part at that offset is wanted; n.mu is held.
func (n *Session) expects(index int, offset int64) (*file, error) {
	switch {
	case n.ctx.Err() != nil:
		return nil, context.Cause(n.ctx)
	case index < 0 || index >= len(n.files):
		return nil, fmt.Errorf("the import has the files 0 to %d, not %d: %w", len(n.files)-1, index, fs.ErrInvalid)
	}
	f := n.files[index]
	if n.state.Finished || !f.wanted || f.offset != offset {
		return nil, ErrElsewhere
	}
	return f, nil
}

// Put takes the part of a file that begins at offset; last says that the file ends with it.
func (n *Session) Put(index int, offset int64, part []byte, last bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	f, err := n.expects(index, offset)
	switch {
	case err != nil:
		return err
	case len(part) == 0 && !last:
		return fmt.Errorf("a part that is not the last has bytes: %w", fs.ErrInvalid)
	case len(part) > f.most:
		return fmt.Errorf("the part has %d bytes, at most %d are taken: %w", len(part), f.most, fs.ErrInvalid)
	}
	f.slow = time.Since(f.since) > slowPart
	f.wanted, f.ended = false, last
	if len(part) > 0 {
		f.unread = append(f.unread, part)
	}
	f.offset += int64(len(part))
	if last || len(part) >= min(f.most, skipPart) { // fewer bytes do not earn more time
		n.await(n.waitsForPart())
	}
	f.wantAhead()
	n.signal()
	return nil
}

// want makes the file's next part wanted, of a size that follows from how the last one was used; n.mu is held.
func (f *file) want() {
	if f.wanted || f.ended {
		return
	}
	switch {
	case f.offset == 0:
	case f.jumped:
		f.most = skipPart
	case f.slow:
		f.most = max(f.most/growth, skipPart)
	case 2*f.skipped <= int64(f.most):
		f.most = min(growth*f.most, MaxPart)
	}
	f.wanted, f.since, f.skipped, f.jumped = true, time.Now(), 0, false
	if f.s.timer == nil {
		f.s.await(true)
	}
}

// wantAhead makes a part wanted that is not needed yet, if the file is being read steadily; n.mu is held.
func (f *file) wantAhead() {
	if f.most == MaxPart && f.skipped == 0 && !f.jumped && !f.slow && len(f.unread) < maxUnread {
		f.want()
	}
}

// waitsForPart reports whether a part of some file is wanted; n.mu is held.
func (n *Session) waitsForPart() bool {
	return slices.ContainsFunc(n.files, func(f *file) bool { return f.wanted })
}

// State waits until a part is wanted, the import has finished or ctx is done, and says where to go on.
func (n *Session) State(ctx context.Context) (State, error) {
	for {
		n.mu.Lock()
		s, changed := n.stateNow(), n.changed
		n.mu.Unlock()
		switch {
		case s.Finished:
			return s, nil
		case n.ctx.Err() != nil:
			return s, context.Cause(n.ctx)
		case s.File >= 0:
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

// stateNow is State without waiting: what the import waits for comes before what is wanted ahead. n.mu is held.
func (n *Session) stateNow() State {
	s := n.state
	s.ID, s.File = n.id, -1
	if s.Finished {
		return s
	}
	for i, f := range n.files {
		if f.wanted && (s.File < 0 || f.waits && !n.files[s.File].waits) {
			s.File, s.Offset, s.Most = i, f.offset, f.most
		}
	}
	return s
}

// Read returns bytes of a part that is here, or waits for the next.
func (f *file) Read(p []byte) (int, error) {
	n := f.s
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() { f.waits = false }()
	for {
		switch {
		case n.ctx.Err() != nil:
			return 0, context.Cause(n.ctx)
		case len(p) == 0:
			return 0, nil
		case len(f.unread) > 0:
			c := copy(p, f.unread[0])
			f.take(c)
			return c, nil
		case f.ended:
			return 0, io.EOF
		}
		f.waits = true
		f.want()
		n.signal()
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-n.ctx.Done():
		}
		n.mu.Lock()
	}
}

// take removes bytes of the first part; n.mu is held.
func (f *file) take(c int) {
	if f.unread[0] = f.unread[0][c:]; len(f.unread[0]) > 0 {
		return
	}
	f.unread[0] = nil // its memory
	if f.unread = f.unread[1:]; !f.ended {
		if f.wantAhead(); f.wanted {
			f.s.signal()
		}
	}
}

// Skip moves forward by n bytes, of which those that are not here need not be sent.
func (f *file) Skip(n int64) error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.skipped += n
	for n > 0 && len(f.unread) > 0 {
		c := min(n, int64(len(f.unread[0])))
		f.take(int(c))
		n -= c
	}
	if n == 0 || f.ended {
		return context.Cause(f.s.ctx) // at its end, the next Read finds io.EOF
	}
	// A part that was wanted ahead is wanted no more: if it is on its way, it is refused.
	if f.wanted {
		f.wanted = false
		if !f.s.waitsForPart() {
			f.s.await(false)
		}
	}
	f.offset += n
	f.jumped = true
	f.s.signal()
	return context.Cause(f.s.ctx)
}

// Close ends the use of the file.
func (f *file) Close() error { return nil }

// Stat reports that it is a pipe. Its size is what the sender says of it, 0 if that is nothing.
func (f *file) Stat() (fs.FileInfo, error) { return info{f.about}, nil }

type info struct{ f File }

func (i info) Name() string       { return i.f.Name }
func (i info) Size() int64        { return i.f.Size }
func (i info) Mode() fs.FileMode  { return fs.ModeNamedPipe | 0o400 }
func (i info) ModTime() time.Time { return i.f.Modified }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
