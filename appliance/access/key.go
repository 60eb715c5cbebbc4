package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"casemate/appliance/usage"
	"casemate/cluster/tree"
)

// Bounds of API keys.
const (
	keyPrefix = "cmk_" // of every key, so that scanners for leaked secrets recognise one
	secretLen = 32     // bytes
	maxKeys   = 1000   // in total, without those of logins
	maxLogins = 20     // keys of one user's logins: the oldest makes room
	maxEnded  = 64     // keys of ended logins that a login removes
	maxBehind = 8      // keys that have created each other
	maxLife   = 10 * 366 * 24 * time.Hour
	// LoginLife is how long the key of a login is valid at most.
	LoginLife = 12 * time.Hour
)

// A Key is an API key without its secret.
type Key struct {
	Name string `json:"name"`
	// Owner is the user whose login this is: the key may do what the user may. "": Grants say it.
	Owner string `json:"owner,omitempty"`
	// Groups are those in which the OpenID provider has said the owner is.
	Groups  []string  `json:"groups,omitempty"`
	Grants  []Grant   `json:"roles,omitempty"`
	Created time.Time `json:"created"`
	By      string    `json:"by,omitempty"`     // who created it
	Expires time.Time `json:"expires,omitzero"` // zero: never
	// Used is when the key was last used, as of at most an hour ago; zero: not yet.
	Used time.Time `json:"used,omitzero"`
}

// keyRecord is a key as it is stored.
type keyRecord struct {
	Key
	Hash []byte `json:"hash"` // SHA-256 of the secret, which has 256 random bits, so that no salt is needed
}

// checkKeyName returns why a name is not valid for a key.
func checkKeyName(name string) error {
	if len(name) < 1 || len(name) > 64 ||
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name[0] == '-' {
		return usage.Errorf("a key's name has 1 to 64 characters of a-z, 0-9 and '-', got %.100q", name)
	}
	return nil
}

// splitKey parses "cmk_NAME_SECRET"; ok is false for anything else.
func splitKey(text string) (name string, secret []byte, ok bool) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	name, digits, found := strings.Cut(rest, "_")
	if !ok || !found || len(digits) != 2*secretLen || checkKeyName(name) != nil {
		return "", nil, false
	}
	secret, err := hex.DecodeString(digits)
	return name, secret, err == nil
}

// key reads a key; fs.ErrNotExist if there is none.
func (a *Access) key(name string) (k keyRecord, version uint64, err error) {
	if err := checkKeyName(name); err != nil {
		return k, 0, fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	file := keysDir + "/" + name
	info, err := a.cfg.Tree.Stat(file)
	var data []byte
	if err == nil {
		data, err = a.cfg.Tree.ReadFile(file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return k, 0, fmt.Errorf("there is no API key %s: %w", name, fs.ErrNotExist)
	}
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil {
		return k, 0, fmt.Errorf("API key %s: %w", name, err)
	}
	if used, err := a.cfg.Tree.ReadFile(usedDir + "/" + name); err == nil {
		k.Used, _ = time.Parse(time.RFC3339, string(used)) // it is only shown
	}
	return k, tree.VersionOf(info), nil
}

// dropKey removes a key.
func dropKey(b tree.Batch, name string) {
	b.Remove(keysDir + "/" + name)
	b.Remove(usedDir + "/" + name)
}

// byKey returns the subject of a key.
func (a *Access) byKey(ctx context.Context, name string, secret []byte) (Subject, error) {
	from := tree.ActorIn(ctx).From
	denied := func() (Subject, error) {
		a.cfg.Event(Event{tree.Actor{Name: "key/" + name, From: from}, Login, Object{}, ErrCredentials.Error()})
		return Subject{}, ErrCredentials
	}
	k, _, err := a.key(name)
	if errors.Is(err, fs.ErrNotExist) {
		return denied()
	}
	if err != nil {
		return Subject{}, err
	}
	if sum := sha256.Sum256(secret); subtle.ConstantTimeCompare(sum[:], k.Hash) != 1 {
		return denied()
	}
	s, err := a.subjectOf(ctx, k)
	if errors.Is(err, ErrCredentials) {
		return denied()
	}
	if err == nil {
		s.How = "key"
		a.note(ctx, name)
		a.loggedIn(s)
	}
	return s, err
}

// subjectOf returns the subject of a key whose secret is not in question; ErrCredentials if it has ended.
func (a *Access) subjectOf(ctx context.Context, k keyRecord) (Subject, error) {
	expires := a.endOf(k.Key)
	if !expires.IsZero() && !a.cfg.Now().Before(expires) || a.isIdle(k.Key) {
		return Subject{}, ErrCredentials
	}
	s := Subject{Actor: tree.Actor{Name: "key/" + k.Name, How: "token", From: tree.ActorIn(ctx).From},
		Grants: k.Grants}
	if k.Owner != "" {
		var err error
		if s, err = a.owner(ctx, k.Key); err != nil {
			return Subject{}, err
		}
	}
	s.ID, s.Expires = "key/"+k.Name, expires
	s.Version += "/" + hex.EncodeToString(k.Hash[:min(8, len(k.Hash))])
	return s, nil
}

// CreateKey creates an API key and returns its text, which is not stored. life 0 means that it does not expire.
// fs.ErrExist: the name is taken. fs.ErrPermission: by may not do what the grants allow.
func (a *Access) CreateKey(ctx context.Context, by Subject, name string, grants []Grant, life time.Duration) (string,
	Key, error) {
	if err := checkKeyName(name); err != nil {
		return "", Key{}, err
	}
	if life < 0 || life > maxLife {
		return "", Key{}, usage.Errorf("an API key is valid for at most 10 years, got %s", life)
	}
	if len(grants) == 0 {
		return "", Key{}, usage.Errorf("an API key needs a role: one of %s", roleNames())
	}
	if err := checkGrants(grants); err != nil {
		return "", Key{}, err
	}
	if err := a.covers(by, grants); err != nil {
		return "", Key{}, err
	}
	list, err := a.Keys()
	if err != nil {
		return "", Key{}, err
	}
	list = slices.DeleteFunc(list, func(k Key) bool { return k.Owner != "" })
	if len(list) >= maxKeys {
		return "", Key{}, fmt.Errorf("there are %d API keys, which is the most: revoke some that are not used: %w",
			len(list), fs.ErrInvalid)
	}
	return a.storeKey(ctx, Key{Name: name, Grants: grants, By: by.Name}, life, func(tree.Batch) {})
}

// Behind returns who has created an API key, named as an actor ("key/NAME"): if that was another key, who has created
// that one. "" for other actors, and for keys whose creator cannot be found out any more.
func (a *Access) Behind(actor string) string {
	for range maxBehind {
		name, ok := strings.CutPrefix(actor, "key/")
		if !ok {
			return ""
		}
		k, _, err := a.key(name)
		if err != nil {
			return ""
		}
		if actor = k.By; !strings.HasPrefix(actor, "key/") {
			return actor
		}
	}
	return ""
}

// storeKey makes the secret of a key and stores its hash, together with the edits of also.
func (a *Access) storeKey(ctx context.Context, k Key, life time.Duration, also func(tree.Batch)) (string, Key, error) {
	if !a.cfg.MayStore() {
		return "", Key{}, errMixed
	}
	k.Created = a.cfg.Now().UTC().Truncate(time.Second)
	if life > 0 {
		k.Expires = k.Created.Add(life)
	}
	secret := make([]byte, secretLen)
	rand.Read(secret)
	sum := sha256.Sum256(secret)
	data, err := encode(keyRecord{k, sum[:]})
	if err != nil {
		return "", Key{}, err
	}
	file := keysDir + "/" + k.Name
	event := tree.Event{Verb: "apikey.create", Object: k.Name, New: describe(k.Grants)}
	if k.Owner != "" {
		event = tree.Event{Verb: "login.key", Object: k.Name}
	}
	ctx = tree.WithEvent(ctx, event)
	err = a.cfg.Tree.Update(ctx, func(b tree.Batch) error {
		b.Expect(file, 0)
		b.Put(file, data)
		also(b)
		return nil
	})
	if errors.Is(err, fs.ErrExist) {
		return "", Key{}, fmt.Errorf("the API key %s exists already: %w", k.Name, fs.ErrExist)
	}
	if err != nil {
		return "", Key{}, fmt.Errorf("API key %s: %w", k.Name, err)
	}
	return keyPrefix + k.Name + "_" + hex.EncodeToString(secret), k, nil
}

// RevokeKey removes a key. fs.ErrNotExist: there is none. fs.ErrPermission: it may do what by may not.
func (a *Access) RevokeKey(ctx context.Context, by Subject, name string) error {
	k, _, err := a.key(name)
	if err != nil {
		return err
	}
	if by.ID == "" || by.ID != k.Owner && by.ID != "key/"+name { // not one's own login
		err = a.mayEnd(ctx, by, k)
	}
	if err == nil {
		ctx = tree.WithEvent(ctx, tree.Event{Verb: "apikey.revoke", Object: name, Old: describe(k.Grants)})
		err = a.cfg.Tree.Update(ctx, func(b tree.Batch) error { dropKey(b, name); return nil })
	}
	return err
}

// Keys returns the API keys by name, those of logins included.
func (a *Access) Keys() ([]Key, error) {
	entries, err := a.cfg.Tree.ReadDir(keysDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list := []Key{}
	for _, e := range entries {
		k, _, err := a.key(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, k.Key)
	}
	return list, nil
}
