package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"casemate/cluster/tree"
)

// record is what is known of an answer that may change: a tag, a file, a redirect. Content without one was brought by
// an import or a person.
type record struct {
	Name         string    `json:"name"`    // repository:tag, or URL
	Checked      time.Time `json:"checked"` // when the origin last gave this answer
	Digest       string    `json:"digest,omitempty"`
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Redirect     string    `json:"redirect,omitempty"` // the target, if the answer is one
	Plain        bool      `json:"plain,omitempty"`    // it came without TLS
	// Before is the digest of the content that this one is about to replace, and BeforePlain whether that came without
	// TLS. A record is written before its content: if we were to crash in between, what is here would otherwise be taken
	// for content of a person, which is never compared with its origin.
	Before      string `json:"before,omitempty"`
	BeforePlain bool   `json:"before_plain,omitempty"`
}

// of returns what is known of the content that is here; false if the record is not of this content.
func (r record) of(held string) (record, bool) {
	switch held {
	case r.Digest:
		return r, true
	case r.Before: // the new content did not arrive, and its validators are not those of the old
		return record{Name: r.Name, Digest: held, Plain: r.BeforePlain}, held != ""
	}
	return r, false
}

// maxRecord bounds a record in the tree, in bytes.
const maxRecord = 4096

// encode makes a record's text. Names and what servers call versions may each be too long for one: without validators
// the whole content is fetched to compare it, and the record's path stands for the name.
func (r record) encode() (data []byte, err error) {
	for _, shorten := range []func(){func() {}, func() { r.ETag, r.LastModified = "", "" }, func() { r.Name = "" }} {
		shorten()
		if data, err = json.Marshal(r); err != nil || len(data) <= maxRecord {
			return data, err
		}
	}
	return nil, fmt.Errorf("it leads to an address of %d bytes, which is too long", len(r.Redirect))
}

// recordPath is the record of a name in the tree. Names are longer than an element of a path may be.
func recordPath(name string) string {
	sum := sha256.Sum256([]byte(name))
	text := hex.EncodeToString(sum[:])
	return "answers/" + text[:2] + "/" + text[2:]
}

// record returns what is known of a name. Those that were read lately are not parsed again: each request needs one.
func (u *Upstream) record(name string) (r record, ok bool) {
	at := recordPath(name)
	fi, err := u.cfg.Tree.Stat(at)
	if err != nil {
		return r, false
	}
	version := tree.VersionOf(fi)
	u.parsedMu.Lock()
	p, ok := u.parsed.See(name)
	u.parsedMu.Unlock()
	if ok && p.version == version {
		return p.record, true
	}
	data, err := u.cfg.Tree.ReadFile(at)
	if err != nil || json.Unmarshal(data, &r) != nil || r.Name != "" && r.Name != name {
		return record{}, false
	}
	r.Name = name
	u.parsedMu.Lock()
	defer u.parsedMu.Unlock()
	u.parsed.Add(name, parsed{version, r})
	return r, true
}

// parsed is a record and the version of its file in the tree.
type parsed struct {
	version uint64
	record  record
}

// put records an answer of now.
func (u *Upstream) put(ctx context.Context, r record) error {
	r.Checked = u.cfg.Now().UTC()
	data, err := r.encode()
	if err != nil {
		return err
	}
	return u.cfg.Tree.Update(ctx, func(b tree.Batch) error { b.Put(recordPath(r.Name), data); return nil })
}

// note records an answer of now for content that is here. It waits for a majority, within bounds.
func (u *Upstream) note(ctx context.Context, r record) {
	ctx, cancel := context.WithTimeout(ctx, keepFor)
	defer cancel()
	if err := u.patiently(ctx, func() error { return u.put(ctx, r) }); err != nil {
		u.cfg.Log.Warn("an answer of an origin cannot be recorded", "name", r.Name, "err", err)
	}
	u.mu.Lock()
	u.stale.Forget(r.Name)
	u.mu.Unlock()
}

// fresh reports whether an answer need not be compared with its origin now: it was a short time ago, or that failed a
// moment ago.
func (u *Upstream) fresh(r record) bool {
	now := u.cfg.Now()
	u.mu.Lock()
	s, ok := u.stale.See(r.Name)
	u.mu.Unlock()
	if ok && now.Before(s.next) {
		return true
	}
	return now.Sub(r.Checked) < u.cfg.Settings().Fresh && !now.Before(r.Checked)
}

// cannotCompare records that an answer is served although its origin does not confirm it.
func (u *Upstream) cannotCompare(r record, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stale.Add(r.Name, stale{r.Checked, u.cfg.Now().Add(failedFor), err})
	if !slices.Contains(u.staleNames, r.Name) {
		u.staleNames = append(u.staleNames[max(0, len(u.staleNames)-maxStale+1):], r.Name)
	}
}

// Problems returns sentences for status about what keeps anything from being fetched.
func (u *Upstream) Problems() (list []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for r, why := range u.loops {
		list = append(list, fmt.Sprintf("upstream.resolvers %s: %s", r, why))
	}
	slices.Sort(list)
	return list
}

// Warnings returns sentences for status about origins that do not answer, and about answers that are older than
// upstream.fresh, at most 20.
func (u *Upstream) Warnings() []string {
	if !u.cfg.Settings().On {
		return nil
	}
	list := u.servers.open()
	slices.Sort(list)
	now := u.cfg.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.staleNames = slices.DeleteFunc(u.staleNames, func(name string) bool { return !u.stale.Has(name) })
	for _, name := range u.staleNames {
		s, _ := u.stale.See(name)
		age := fmt.Sprint(now.Sub(s.checked).Round(time.Second), " ago")
		if s.checked.IsZero() { // newer content has not arrived
			age = "before"
		}
		list = append(list, fmt.Sprintf("%s is served as it was %s, its origin cannot be asked: %v", name, age, s.err))
	}
	return list[:min(len(list), 20)]
}

// Stats returns what was fetched since the start, by origin.
func (u *Upstream) Stats() (list []Stat) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.stats {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Stat) int { return strings.Compare(a.Host, b.Host) })
	return list
}

// login is what an origin is logged in to with.
type login struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

func loginPath(host string) string { return "logins/" + host }

// SetLogin seals and stores the credentials for an origin. fs.ErrInvalid: it is none, or they have no sensible form.
func (u *Upstream) SetLogin(ctx context.Context, host, user, password string) error {
	origin, ok := u.cfg.Canonical(host)
	switch {
	case !ok:
		return fmt.Errorf("%.255s is not an origin here, see casemate origin add: %w", host, fs.ErrInvalid)
	case user == "" || password == "" || len(user) > 255 || len(password) > 2048:
		return fmt.Errorf("a login has a user of 1 to 255 bytes and a password of 1 to 2048: %w", fs.ErrInvalid)
	case strings.ContainsAny(user, ":\x00\r\n"):
		return fmt.Errorf("the user of a login has no colon and no line break: %w", fs.ErrInvalid)
	}
	plain, err := json.Marshal(login{user, password})
	if err != nil {
		return err
	}
	sealed, err := u.cfg.Sealer.Seal(plain)
	if err != nil {
		return err
	}
	err = u.cfg.Tree.Update(ctx, func(b tree.Batch) error { b.Put(loginPath(origin), sealed); return nil })
	if err != nil {
		return err
	}
	u.Forget()
	u.cfg.Log.Info("login of an origin stored", "origin", origin, "user", user)
	return nil
}

// RemoveLogin removes the credentials for an origin; fs.ErrNotExist if it has none.
func (u *Upstream) RemoveLogin(ctx context.Context, host string) error {
	origin, ok := u.cfg.Canonical(host)
	if !ok {
		origin = host
	}
	if !fs.ValidPath(loginPath(origin)) {
		return fmt.Errorf("%.255q is not a host: %w", host, fs.ErrInvalid)
	}
	if _, err := u.cfg.Tree.Stat(loginPath(origin)); err != nil {
		return fmt.Errorf("there is no login for %.255s: %w", host, fs.ErrNotExist)
	}
	err := u.cfg.Tree.Update(ctx, func(b tree.Batch) error { b.Remove(loginPath(origin)); return nil })
	if err == nil {
		u.Forget()
	}
	return err
}

// A Login is an entry of Logins.
type Login struct {
	Host string `json:"host"`
	User string `json:"user"`
}

// Logins returns the origins that have credentials, and their users.
func (u *Upstream) Logins() ([]Login, error) {
	list := []Login{}
	entries, err := u.cfg.Tree.ReadDir("logins")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if l, ok := u.readLogin(e.Name()); ok {
			list = append(list, Login{e.Name(), l.User})
		}
	}
	return list, nil
}

func (u *Upstream) readLogin(origin string) (l login, ok bool) {
	sealed, err := u.cfg.Tree.ReadFile(loginPath(origin))
	if err != nil {
		return l, false
	}
	plain, err := u.cfg.Sealer.Unseal(sealed)
	if err == nil {
		err = json.Unmarshal(plain, &l)
	}
	if err != nil {
		u.cfg.Log.Error("the login of an origin cannot be read", "origin", origin, "err", err)
	}
	return l, err == nil
}

// login returns the credentials for a host.
func (u *Upstream) login(host string) (user, password string, ok bool) {
	if of, known := u.cfg.Canonical(host); known {
		host = of
	}
	if !fs.ValidPath(loginPath(host)) {
		return "", "", false
	}
	l, ok := u.readLogin(host)
	return l.User, l.Password, ok
}

// Forget forgets everything that depends on credentials: those that were sent, and what was refused without them.
func (u *Upstream) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.link != nil {
		u.link.remote.Forget()
	}
	for _, key := range u.failedKeys {
		u.failed.Forget(key)
	}
	u.failedKeys = nil
}
