package session

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// maxSessions bounds the upload sessions used within idleSession on this node; further ones are refused.
	maxSessions = 4096
	// shareOfSessions is how many of them one user may have: one more ends the one that was idle longest. So no user's
	// unfinished uploads prevent others from pushing.
	shareOfSessions = maxSessions / 4
	// idleSession is how long a session may be without a request before this node forgets its state. Its bytes stay
	// until the tree's collection of old scratch files, and it can be continued until then.
	idleSession = time.Hour
	// maxStates bounds the hash states of a session.
	maxStates = 4
)

// table has the state of the node's upload sessions in this process. distribution opens and fills them through the
// storage driver; the code that finishes them acquires them.
//
// A session is its scratch file: it survives a restart, and a session that this process does not know is read from it.
// Only distribution's own hash state is lost with the process, and nothing here needs it.
type table struct {
	tree Tree
	now  func() time.Time

	mu       sync.Mutex
	sessions map[string]*session // by key
	open     map[string]int      // by user, how many of sessions
	ended    map[string]uint64   // by user, sessions that were ended for newer ones; only of users that have sessions
}

// session is the state of one upload. Its fields are guarded by table.mu. While it is acquired, the scratch file
// belongs to the request that acquired it.
type session struct {
	user     string            // who began it, "" if unknown: after a restart, until its next request
	started  string            // written by distribution: RFC 3339
	states   map[string][]byte // distribution's hash states by path
	acquired bool
	size     int64 // of the scratch file when it was last released
	used     time.Time
}

func newTable(t Tree, now func() time.Time) *table {
	return &table{tree: t, now: now, sessions: map[string]*session{}, open: map[string]int{},
		ended: map[string]uint64{}}
}

// begin begins a session of a user, "" if unknown; acquire creates its scratch file.
func (t *table) begin(user, key, started string) error {
	t.mu.Lock()
	gone, err := t.room(user)
	if err == nil {
		t.add(key, &session{user: user, started: started, states: map[string][]byte{}, used: t.now()})
	}
	t.mu.Unlock()
	return errors.Join(err, t.remove(gone))
}

// Own sets the user of a session that was read from its scratch file. A user who exceeds the share with it loses the
// session that was idle longest.
func (t *table) Own(id ID, user string) error {
	key := id.key()
	t.mu.Lock()
	s, ok := t.sessions[key]
	if !ok || user == "" || s.user != "" {
		t.mu.Unlock()
		return nil
	}
	var gone string
	if t.open[user] >= shareOfSessions {
		gone = t.evict(user)
	}
	t.forget(key)
	s.user = user
	t.add(key, s)
	t.mu.Unlock()
	return t.remove(gone)
}

// add records a session. t.mu is held.
func (t *table) add(key string, s *session) {
	t.forget(key)
	t.sessions[key] = s
	t.open[s.user]++
}

// forget is the reverse of add. t.mu is held.
func (t *table) forget(key string) {
	s, ok := t.sessions[key]
	if !ok {
		return
	}
	delete(t.sessions, key)
	if t.open[s.user]--; t.open[s.user] == 0 {
		delete(t.open, s.user)
	}
}

// room makes room for one more session of user, or returns a *TooManyError. gone is the key of a session that was ended
// for it, whose scratch file must be removed without the lock; "" for none. t.mu is held.
func (t *table) room(user string) (gone string, err error) {
	n := t.open
	if user != "" && n[user] >= shareOfSessions {
		if gone = t.evict(user); gone == "" {
			return "", &TooManyError{fmt.Sprintf("the user %s is sending %d uploads at this moment", user, n[user])}
		}
		return gone, nil
	}
	if len(t.sessions) < maxSessions {
		return "", nil
	}
	for key, s := range t.sessions {
		if !s.acquired && t.now().Sub(s.used) > idleSession {
			t.forget(key)
		}
	}
	if len(t.sessions) < maxSessions {
		return "", nil
	}
	// Several users have all of them. The user with the most loses one to a user with fewer.
	most := user
	for other, m := range n {
		if other != "" && m > n[most]+1 {
			most = other
		}
	}
	if most != user {
		gone = t.evict(most)
	}
	if gone == "" {
		return "", &TooManyError{fmt.Sprintf("this node has %d unfinished uploads", maxSessions)}
	}
	return gone, nil
}

// evict forgets the session of a user that was idle longest and returns its key, "" if all are in use. t.mu is held.
func (t *table) evict(user string) (key string) {
	for k, s := range t.sessions {
		if s.user == user && !s.acquired && (key == "" || s.used.Before(t.sessions[key].used)) {
			key = k
		}
	}
	if key != "" {
		t.forget(key)
		t.ended[user]++
	}
	return key
}

// remove removes the scratch file of a session that was ended; "" does nothing. A session that was never opened has no
// scratch file.
func (t *table) remove(key string) error {
	if key == "" {
		return nil
	}
	w, err := t.tree.ResumeBlob(key)
	if err == nil {
		err = w.Cancel()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// UserUsage describes the unfinished uploads of one user on this node.
type UserUsage struct {
	// User is "" for uploads from before the last start that no request has continued since.
	User string `json:"user"`
	Open int    `json:"open"`
	// Bytes are those received at the last write of each.
	Bytes int64 `json:"bytes"`
	// Idle is the time of the last use of the one that is idle longest.
	Idle time.Time `json:"idle_since"`
	// Ended is how many of the user's uploads were ended, each for a newer one.
	Ended uint64 `json:"ended"`
}

// Usage describes the unfinished uploads of this node.
type Usage struct {
	Open  int `json:"open"`
	Most  int `json:"most"`  // that there may be
	Share int `json:"share"` // that one user may have
	// Users are those with the most, at most 10.
	Users []UserUsage `json:"users"`
}

// Usage reports the unfinished uploads of this node.
func (t *table) Usage() Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	users := map[string]*UserUsage{}
	for _, s := range t.sessions {
		of := users[s.user]
		if of == nil {
			of = &UserUsage{User: s.user, Idle: s.used, Ended: t.ended[s.user]}
			users[s.user] = of
		}
		of.Open++
		of.Bytes += s.size
		if s.used.Before(of.Idle) {
			of.Idle = s.used
		}
	}
	maps.DeleteFunc(t.ended, func(user string, _ uint64) bool { return users[user] == nil })
	out := Usage{Open: len(t.sessions), Most: maxSessions, Share: shareOfSessions, Users: []UserUsage{}}
	for _, of := range users {
		of.Idle = of.Idle.UTC()
		out.Users = append(out.Users, *of)
	}
	slices.SortFunc(out.Users, func(a, b UserUsage) int { return cmp.Or(b.Open-a.Open, cmp.Compare(a.User, b.User)) })
	out.Users = out.Users[:min(len(out.Users), 10)]
	return out
}

// Size returns how many bytes a session has; fs.ErrNotExist if there is no such session.
func (t *table) Size(id ID) (int64, error) {
	size, _, err := t.state(id.key())
	return size, err
}

// state returns the state of a session, reading it from its scratch file if necessary; fs.ErrNotExist if there is none.
func (t *table) state(key string) (size int64, started string, err error) {
	t.mu.Lock()
	s, ok := t.sessions[key]
	if ok {
		defer t.mu.Unlock()
		return s.size, s.started, nil
	}
	t.mu.Unlock()
	w, err := t.tree.ResumeBlob(key)
	if err != nil {
		return 0, "", err
	}
	size = w.Size()
	if err := w.Close(); err != nil {
		return 0, "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok = t.sessions[key]; !ok {
		if len(t.sessions) >= maxSessions {
			if gone, err := t.room(""); err != nil {
				return 0, "", err
			} else if gone != "" {
				defer t.remove(gone)
			}
		}
		s = &session{started: t.now().UTC().Format(time.RFC3339), states: map[string][]byte{}, size: size,
			used: t.now()}
		t.add(key, s)
	}
	return s.size, s.started, nil
}

// Acquire gives the caller exclusive use of the session's scratch file. The caller must call Release, or End after a
// Commit or a Cancel. fs.ErrNotExist: there is no such session. ErrBusy: another request uses it.
func (t *table) Acquire(id ID) (BlobWriter, error) { return t.acquire(id.key(), false) }

// acquire is Acquire by key. create makes the scratch file, or empties it.
func (t *table) acquire(key string, create bool) (BlobWriter, error) {
	if _, _, err := t.state(key); err != nil {
		return nil, err
	}
	t.mu.Lock()
	s, ok := t.sessions[key]
	switch {
	case !ok: // ended meanwhile
		t.mu.Unlock()
		return nil, fs.ErrNotExist
	case s.acquired:
		t.mu.Unlock()
		return nil, ErrBusy
	}
	s.acquired = true
	t.mu.Unlock()

	open := t.tree.ResumeBlob
	if create {
		open = t.tree.CreateBlob
	}
	w, err := open(key)

	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		s.acquired = false
		if create || errors.Is(err, fs.ErrNotExist) { // begun and never opened, or collected because of its age
			t.forget(key)
		}
		return nil, err
	}
	s.size, s.used = w.Size(), t.now()
	return w, nil
}

// Release closes an acquired scratch file until the session's next request.
func (t *table) Release(id ID, w BlobWriter) error { return t.release(id.key(), w) }

func (t *table) release(key string, w BlobWriter) error {
	size := w.Size()
	err := w.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.sessions[key]; ok {
		s.acquired, s.size, s.used = false, size, t.now()
	}
	return err
}

// End ends a session whose scratch file the caller has acquired, and has committed or cancelled.
func (t *table) End(id ID) { t.end(id.key()) }

func (t *table) end(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(key)
}

// cancel ends a session and removes its bytes; fs.ErrNotExist if there is none, ErrBusy while a request is writing it.
func (t *table) cancel(key string) error {
	w, err := t.acquire(key, false)
	if err != nil {
		return err
	}
	err = w.Cancel()
	t.end(key)
	return err
}

// putState stores distribution's hash state; its name ends in its offset. Only the one at the size of the file is ever
// used, so of many those with the highest offsets stay. For a session that has ended it is dropped: distribution writes
// one more after it has cancelled, and that must not recreate the session.
func (t *table) putState(key, name string, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.sessions[key]
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
func (t *table) getStates(key string) map[string][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.sessions[key]; ok {
		return maps.Clone(s.states)
	}
	return nil
}
