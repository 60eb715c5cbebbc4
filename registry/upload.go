package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// maxSessions bounds the upload sessions of this node; what is idle longest goes first once it is older than idleSession.
	maxSessions = 4096
	// maxParked bounds the scratch files that idle sessions keep open, so that sessions cannot use up the descriptors.
	maxParked = 256
	// idleSession is how long a session may lie without a request before another may take its place.
	idleSession = time.Hour
	// maxStates bounds the hash states that a session keeps.
	maxStates = 4
)

// errBusy says that another request is using the session.
var errBusy = errors.New("another request is writing this upload")

// uploads are the upload sessions of this node: scratch files of the tree with a little state beside them. distribution opens and fills
// them through the storage driver; finishing them is ours.
//
// A session's scratch file stays open between requests (parked) because the writer knows the digest of what it has written: so a blob is not
// read again when it is finished. If the file was closed meanwhile (too many parked, or the process was started anew) it is resumed, at
// the price of one more read. A session survives a restart that way; what is lost with the process is only distribution's own hash state.
type uploads struct {
	tree Tree
	log  *slog.Logger
	now  func() time.Time

	mu       sync.Mutex
	sessions map[string]*session // by key
	parked   int
	closed   bool
}

// session is one upload. All fields but key belong to uploads.mu; w belongs to the request that took it while it is taken.
type session struct {
	key     string // the scratch file's id: repository and upload id in one, so that an upload is known in its own repository only
	started string // what distribution wrote: RFC 3339
	states  map[string][]byte
	w       BlobWriter // parked; nil while taken or closed
	taken   bool
	size    int64
	used    time.Time
}

func newUploads(t Tree, log *slog.Logger) *uploads {
	return &uploads{tree: t, log: log, now: time.Now, sessions: map[string]*session{}}
}

// uploadKey names the scratch file of upload id in repo; it is a valid id for CreateBlob whatever repo is.
func uploadKey(repo, id string) string {
	sum := sha256.Sum256([]byte(repo))
	return "upload-" + id + "-" + hex.EncodeToString(sum[:8])
}

// start opens a session. It makes room by forgetting one that was idle for long; if there is none it is syscall.ENOSPC.
func (u *uploads) start(key, started string) error {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return fs.ErrClosed
	}
	var old *session
	if len(u.sessions) >= maxSessions {
		for _, s := range u.sessions {
			if !s.taken && u.now().Sub(s.used) > idleSession && (old == nil || s.used.Before(old.used)) {
				old = s
			}
		}
		if old == nil {
			u.mu.Unlock()
			return errTooManyRequests.with(fmt.Sprintf("this node has %d unfinished uploads", maxSessions))
		}
	}
	u.sessions[key] = &session{key: key, started: started, states: map[string][]byte{}, used: u.now()}
	u.mu.Unlock()
	if old != nil {
		u.cancel(old.key)
	}
	return nil
}

// find returns the session, adopting one that an earlier process left. u.mu is held.
func (u *uploads) find(key string) (*session, error) {
	s, ok := u.sessions[key]
	if ok {
		return s, nil
	}
	if u.closed {
		return nil, fs.ErrClosed
	}
	w, err := u.tree.ResumeBlob(key)
	if err != nil {
		return nil, err
	}
	s = &session{key: key, started: u.now().UTC().Format(time.RFC3339), states: map[string][]byte{}, w: w, size: w.Size(), used: u.now()}
	u.sessions[key] = s
	u.parked++
	return s, nil
}

// state reports what is known of a session: fs.ErrNotExist if there is none.
func (u *uploads) state(key string) (size int64, started string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, err := u.find(key)
	if err != nil {
		return 0, "", err
	}
	return s.size, s.started, nil
}

// take gives the session's writer to the caller alone, who must give it back with park or drop. create truncates.
func (u *uploads) take(key string, create bool) (BlobWriter, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, err := u.find(key)
	if err != nil {
		return nil, err
	}
	if s.taken {
		return nil, errBusy
	}
	w := s.w
	if w != nil {
		u.parked--
		s.w = nil
	}
	if create && w != nil {
		if err := w.Cancel(); err != nil {
			return nil, err
		}
		w = nil
	}
	switch {
	case create:
		w, err = u.tree.CreateBlob(key)
	case w == nil:
		w, err = u.tree.ResumeBlob(key)
	}
	if err != nil {
		return nil, err
	}
	s.taken, s.size, s.used = true, w.Size(), u.now()
	return w, nil
}

// park gives the writer back for the next request of the session.
func (u *uploads) park(key string, w BlobWriter) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, ok := u.sessions[key]
	if !ok || !s.taken {
		return w.Cancel() // cancelled meanwhile
	}
	s.taken, s.size, s.used = false, w.Size(), u.now()
	if u.closed {
		return w.Close()
	}
	s.w = w
	u.parked++
	if u.parked <= maxParked {
		return nil
	}
	old := s
	for _, o := range u.sessions {
		if o.w != nil && o.used.Before(old.used) {
			old = o
		}
	}
	w, old.w = old.w, nil
	u.parked--
	return w.Close()
}

// drop ends a session whose writer the caller has taken and has already committed or cancelled.
func (u *uploads) drop(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.sessions, key)
}

// cancel ends a session and removes its bytes; fs.ErrNotExist if there is none, errBusy while a request is writing it.
func (u *uploads) cancel(key string) error {
	w, err := u.take(key, false)
	if errors.Is(err, fs.ErrNotExist) {
		// A session without a scratch file: begun and never opened.
		u.mu.Lock()
		defer u.mu.Unlock()
		if _, ok := u.sessions[key]; !ok {
			return err
		}
		delete(u.sessions, key)
		return nil
	}
	if err != nil {
		return err
	}
	u.drop(key)
	return w.Cancel()
}

// putState keeps distribution's hash state; its name ends in the offset that it is for. Only the one at the size of the file is ever used, so of
// many those with the highest offsets stay. For a session that has ended it is dropped: distribution writes one more after it has
// cancelled, and that must not bring the session back.
func (u *uploads) putState(key, name string, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, ok := u.sessions[key]
	if !ok {
		return
	}
	s.states[name] = data
	if len(s.states) > maxStates {
		delete(s.states, slices.MinFunc(slices.Collect(maps.Keys(s.states)), func(a, b string) int {
			return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
		}))
	}
}

// getStates returns a copy of the session's hash states by name.
func (u *uploads) getStates(key string) map[string][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s, ok := u.sessions[key]; ok {
		return maps.Clone(s.states)
	}
	return nil
}

// close closes the parked files. What is taken is closed when it is parked.
func (u *uploads) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, s := range u.sessions {
		if s.w != nil {
			if err := s.w.Close(); err != nil {
				u.log.Warn("closing an upload", "upload", s.key, "error", err)
			}
			s.w = nil
			u.parked--
		}
	}
}
