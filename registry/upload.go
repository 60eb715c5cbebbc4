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
	// shareOfSessions is how many of them one user may have: one more ends the one that lay idle longest. So nobody's
	// unfinished uploads keep others from pushing.
	shareOfSessions = maxSessions / 4
	// idleSession is how long a session may lie without a request before this node forgets what it knows of it. Its
	// bytes stay until the tree's own collection of old scratch files, and it can be gone on with until then.
	idleSession = time.Hour
	// maxStates bounds the hash states that a session keeps.
	maxStates = 4
)

// errBusy says that another request is using the session.
var errBusy = errors.New("another request is writing this upload")

// uploads are the upload sessions of this node: scratch files of the tree with a little state beside them. distribution
// opens and fills them through the storage driver; finishing them is ours.
//
// A session is its scratch file: that survives a restart, and a session that this process does not know is taken up
// from it. What is lost with the process is only distribution's own hash state, which nothing of ours needs.
type uploads struct {
	tree Tree
	now  func() time.Time

	mu       sync.Mutex
	sessions map[string]*session // by key
	open     map[string]int      // by user, how many of sessions
	ended    map[string]uint64   // by user, sessions that were ended for another one; of those who have sessions
}

// session is what is known of one upload. Its fields belong to uploads.mu; while it is taken, the scratch file belongs
// to who took it.
type session struct {
	user    string            // who began it, "" where that is not known: after a restart, until its next request
	started string            // what distribution wrote: RFC 3339
	states  map[string][]byte // distribution's hash states by path
	taken   bool
	size    int64 // of the scratch file when it was last given back
	used    time.Time
}

func newUploads(t Tree) *uploads {
	return &uploads{tree: t, now: time.Now, sessions: map[string]*session{}, open: map[string]int{},
		ended: map[string]uint64{}}
}

// uploadKey names the scratch file of upload id in repo; it is a valid id for CreateBlob whatever repo is, and it is
// another one in another repository, so that an upload is known in its own alone.
func uploadKey(repo, id string) string {
	sum := sha256.Sum256([]byte(repo))
	return "upload-" + id + "-" + hex.EncodeToString(sum[:8])
}

// start begins a session of nobody in particular.
func (u *uploads) start(key, started string) error { return u.startFor("", key, started) }

// startFor begins a session of a user; its scratch file is made by take.
func (u *uploads) startFor(user, key, started string) error {
	u.mu.Lock()
	gone, err := u.room(user)
	if err == nil {
		u.add(key, &session{user: user, started: started, states: map[string][]byte{}, used: u.now()})
	}
	u.mu.Unlock()
	return errors.Join(err, u.remove(gone))
}

// own says whose session it is, of one that was taken up from its scratch file. A user who has more than a share with
// it loses the one that lay idle longest.
func (u *uploads) own(user, key string) error {
	u.mu.Lock()
	s, ok := u.sessions[key]
	if !ok || user == "" || s.user != "" {
		u.mu.Unlock()
		return nil
	}
	var gone string
	if u.open[user] >= shareOfSessions {
		gone = u.end(user)
	}
	u.forget(key)
	s.user = user
	u.add(key, s)
	u.mu.Unlock()
	return u.remove(gone)
}

// add remembers a session. u.mu is held.
func (u *uploads) add(key string, s *session) {
	u.forget(key)
	u.sessions[key] = s
	u.open[s.user]++
}

// forget is the reverse of add. u.mu is held.
func (u *uploads) forget(key string) {
	s, ok := u.sessions[key]
	if !ok {
		return
	}
	delete(u.sessions, key)
	if u.open[s.user]--; u.open[s.user] == 0 {
		delete(u.open, s.user)
	}
}

// room makes room for one more session of user, or says TOOMANYREQUESTS. gone is the key of a session that was ended
// for it, whose scratch file must be removed without the lock; "" for none. u.mu is held.
func (u *uploads) room(user string) (gone string, err error) {
	n := u.open
	if user != "" && n[user] >= shareOfSessions {
		if gone = u.end(user); gone == "" {
			return "", errTooManyRequests.with(fmt.Sprintf("the user %s is sending %d uploads at this moment", user, n[user]))
		}
		return gone, nil
	}
	if len(u.sessions) < maxSessions {
		return "", nil
	}
	for key, s := range u.sessions {
		if !s.taken && u.now().Sub(s.used) > idleSession {
			u.forget(key)
		}
	}
	if len(u.sessions) < maxSessions {
		return "", nil
	}
	// Several users have all of them. The one with the most gives one up to one who has fewer.
	most := user
	for other, m := range n {
		if other != "" && m > n[most]+1 {
			most = other
		}
	}
	if most != user {
		gone = u.end(most)
	}
	if gone == "" {
		return "", errTooManyRequests.with(fmt.Sprintf("this node has %d unfinished uploads", maxSessions))
	}
	return gone, nil
}

// end forgets the session of a user that lay idle longest and returns its key, "" if all are in use. u.mu is held.
func (u *uploads) end(user string) (key string) {
	for k, s := range u.sessions {
		if s.user == user && !s.taken && (key == "" || s.used.Before(u.sessions[key].used)) {
			key = k
		}
	}
	if key != "" {
		u.forget(key)
		u.ended[user]++
	}
	return key
}

// remove removes the scratch file of a session that was ended, "" for none. Begun and never opened, it has none.
func (u *uploads) remove(key string) error {
	if key == "" {
		return nil
	}
	w, err := u.tree.ResumeBlob(key)
	if err == nil {
		err = w.Cancel()
	}
	return ignoreAbsent(err)
}

// UserUploads are the unfinished uploads of one user on this node.
type UserUploads struct {
	// User is "" for uploads from before the last start that nobody went on with since.
	User string `json:"user"`
	Open int    `json:"open"`
	// Bytes are those that were received when each was last written.
	Bytes int64 `json:"bytes"`
	// Idle is since when the one that lies idle longest was not used.
	Idle time.Time `json:"idle_since"`
	// Ended is how many of the user's uploads were ended, each for a newer one.
	Ended uint64 `json:"ended"`
}

// Uploads are the unfinished uploads of this node.
type Uploads struct {
	Open  int `json:"open"`
	Most  int `json:"most"`  // that there may be
	Share int `json:"share"` // that one user may have
	// Users are those with the most, at most 10.
	Users []UserUploads `json:"users"`
}

// Uploads tells of the unfinished uploads of this node.
func (r *Registry) Uploads() Uploads {
	u := r.uploads
	u.mu.Lock()
	defer u.mu.Unlock()
	by := map[string]*UserUploads{}
	for _, s := range u.sessions {
		of := by[s.user]
		if of == nil {
			of = &UserUploads{User: s.user, Idle: s.used, Ended: u.ended[s.user]}
			by[s.user] = of
		}
		of.Open++
		of.Bytes += s.size
		if s.used.Before(of.Idle) {
			of.Idle = s.used
		}
	}
	maps.DeleteFunc(u.ended, func(user string, _ uint64) bool { return by[user] == nil })
	out := Uploads{Open: len(u.sessions), Most: maxSessions, Share: shareOfSessions, Users: []UserUploads{}}
	for _, of := range by {
		of.Idle = of.Idle.UTC()
		out.Users = append(out.Users, *of)
	}
	slices.SortFunc(out.Users, func(a, b UserUploads) int { return cmp.Or(b.Open-a.Open, cmp.Compare(a.User, b.User)) })
	out.Users = out.Users[:min(len(out.Users), 10)]
	return out
}

// state reports what is known of a session, taking up one that is known by its scratch file alone; fs.ErrNotExist if
// there is none.
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
		if len(u.sessions) >= maxSessions {
			if gone, err := u.room(""); err != nil {
				return 0, "", err
			} else if gone != "" {
				defer u.remove(gone)
			}
		}
		s = &session{started: u.now().UTC().Format(time.RFC3339), states: map[string][]byte{}, size: size, used: u.now()}
		u.add(key, s)
	}
	return s.size, s.started, nil
}

// take gives the session's scratch file to the caller alone, who must end that with park or drop. create makes it, or
// makes it empty.
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
			u.forget(key)
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
	u.forget(key)
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

// putState keeps distribution's hash state; its name ends in the offset that it is for. Only the one at the size of the
// file is ever used, so of many those with the highest offsets stay. For a session that has ended it is dropped:
// distribution writes one more after it has cancelled, and that must not bring the session back.
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
