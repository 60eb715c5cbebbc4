package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// maxSessions bounds the upload sessions that are in use within idleSession on this node; one more is refused.
	maxSessions = 4096
	// idleSession is how long a session may lie without a request before this node forgets what it knows of it. Its bytes stay until the
	// tree's own collection of old scratch files, and it can be gone on with until then.
	idleSession = time.Hour
	// maxStates bounds the hash states that a session keeps.
	maxStates = 4
)

// errBusy says that another request is using the session.
var errBusy = errors.New("another request is writing this upload")

// uploads are the upload sessions of this node: scratch files of the tree with a little state beside them. distribution opens and fills
// them through the storage driver; finishing them is ours.
//
// A session is its scratch file: that survives a restart, and a session that this process does not know is taken up from it.
// What is lost with the process is only distribution's own hash state, which nothing of ours needs.
type uploads struct {
	tree Tree
	now  func() time.Time

	mu       sync.Mutex
	sessions map[string]*session // by key
}

// session is what is known of one upload. Its fields belong to uploads.mu; while it is taken, the scratch file belongs to who took it.
type session struct {
	started string            // what distribution wrote: RFC 3339
	states  map[string][]byte // distribution's hash states by path
	taken   bool
	size    int64 // of the scratch file when it was last given back
	used    time.Time
}

func newUploads(t Tree) *uploads {
	return &uploads{tree: t, now: time.Now, sessions: map[string]*session{}}
}

// uploadKey names the scratch file of upload id in repo; it is a valid id for CreateBlob whatever repo is, and it is another one in
// another repository, so that an upload is known in its own alone.
func uploadKey(repo, id string) string {
	sum := sha256.Sum256([]byte(repo))
	return "upload-" + id + "-" + hex.EncodeToString(sum[:8])
}

// start begins a session; its scratch file is made by take.
func (u *uploads) start(key, started string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.room(); err != nil {
		return err
	}
	u.sessions[key] = &session{started: started, states: map[string][]byte{}, used: u.now()}
	return nil
}

// room makes room for one more session, or says TOOMANYREQUESTS. u.mu is held.
func (u *uploads) room() error {
	if len(u.sessions) < maxSessions {
		return nil
	}
	maps.DeleteFunc(u.sessions, func(_ string, s *session) bool { return !s.taken && u.now().Sub(s.used) > idleSession })
	if len(u.sessions) < maxSessions {
		return nil
	}
	return errTooManyRequests.with(fmt.Sprintf("this node has %d unfinished uploads", maxSessions))
}

// state reports what is known of a session, taking up one that is known by its scratch file alone; fs.ErrNotExist if there is none.
func (u *uploads) state(key string) (size int64, started string, err error) {
	u.mu.Lock()
	s, ok := u.sessions[key]
	if ok {
		defer u.mu.Unlock()
		return s.size, s.started, nil
	}
	u.mu.Unlock()
	w, err := u.tree.ResumeBlob(key)
	if err != nil {
		return 0, "", err
	}
	size = w.Size()
	if err := w.Close(); err != nil {
		return 0, "", err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s, ok = u.sessions[key]; !ok {
		if err := u.room(); err != nil {
			return 0, "", err
		}
		s = &session{started: u.now().UTC().Format(time.RFC3339), states: map[string][]byte{}, size: size, used: u.now()}
		u.sessions[key] = s
	}
	return s.size, s.started, nil
}

// take gives the session's scratch file to the caller alone, who must end that with park or drop. create makes it, or makes it empty.
func (u *uploads) take(key string, create bool) (BlobWriter, error) {
	if _, _, err := u.state(key); err != nil {
		return nil, err
	}
	u.mu.Lock()
	s, ok := u.sessions[key]
	switch {
	case !ok: // ended since
		u.mu.Unlock()
		return nil, fs.ErrNotExist
	case s.taken:
		u.mu.Unlock()
		return nil, errBusy
	}
	s.taken = true
	u.mu.Unlock()

	open := u.tree.ResumeBlob
	if create {
		open = u.tree.CreateBlob
	}
	w, err := open(key)

	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		s.taken = false
		if create || errors.Is(err, fs.ErrNotExist) { // begun and never opened, or collected because it was old
			delete(u.sessions, key)
		}
		return nil, err
	}
	s.size, s.used = w.Size(), u.now()
	return w, nil
}

// park closes the scratch file until the session's next request.
func (u *uploads) park(key string, w BlobWriter) error {
	size := w.Size()
	err := w.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	if s, ok := u.sessions[key]; ok {
		s.taken, s.size, s.used = false, size, u.now()
	}
	return err
}

// drop ends a session whose scratch file the caller has taken, and has committed or cancelled.
func (u *uploads) drop(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.sessions, key)
}

// cancel ends a session and removes its bytes; fs.ErrNotExist if there is none, errBusy while a request is writing it.
func (u *uploads) cancel(key string) error {
	w, err := u.take(key, false)
	if err != nil {
		return err
	}
	err = w.Cancel()
	u.drop(key)
	return err
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
