package user

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// nobody is a hash that no password has; verifying against it takes as long as verifying a user's.
var nobody = sync.OnceValue(func() []byte {
	var p [32]byte
	rand.Read(p[:])
	h, _ := bcrypt.GenerateFromPassword(p[:], cost)
	return h
})

// Authenticate returns nil if the password is correct, and ErrDenied, after the same time, if it is not or there is
// no such user. syscall.EAGAIN means that too many passwords wait to be verified: try again later. The client is in
// ctx (WithClient).
func (u *Users) Authenticate(ctx context.Context, name, password string) error {
	hash, data := nobody, []byte(nil)
	if CheckName(name) == nil && len(password) <= 72 {
		if r, raw, err := u.read(name); err == nil {
			hash, data = func() []byte { return []byte(r.Hash) }, raw
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	right, err := u.verify(ctx, u.line, u.otherLine, name, data, password, data != nil, remember, func() (bool, error) {
		err := bcrypt.CompareHashAndPassword(hash(), []byte(password[:min(len(password), 72)]))
		return err == nil && data != nil, nil
	})
	if err == nil && !right {
		err = ErrDenied
	}
	return err
}

// Elsewhere is Authenticate for a password that check verifies, somewhere else: it waits for its turn in a line of its
// own, so that a slow check delays no user of the cluster, and wrong passwords count as those of users do. A correct
// one is not checked again for the time keep. realm names who verifies it: one that changes ends what is remembered. An
// error of check means that the password could not be verified.
func (u *Users) Elsewhere(ctx context.Context, name, password string, realm []byte, keep time.Duration,
	check func() (bool, error)) error {
	right, err := u.verify(ctx, u.otherLine, u.line, name, realm, password, true, keep, check)
	if err == nil && !right {
		err = ErrDenied
	}
	return err
}

// Exists reports whether there is a user of this name.
func (u *Users) Exists(name string) (bool, error) {
	if CheckName(name) != nil {
		return false, nil
	}
	_, err := u.tree.Stat(file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// verify calls check in turn, unless the password is remembered; what is remembered depends on salt.
func (u *Users) verify(ctx context.Context, turns, other *line, name string, salt []byte, password string, may bool,
	keep time.Duration, check func() (bool, error)) (bool, error) {
	// The record is part of the cache key, so that a new password or a removed user invalidates it.
	mac := hmac.New(sha256.New, u.key)
	fmt.Fprintf(mac, "%d %s %d ", len(name), name, len(salt))
	mac.Write(salt)
	mac.Write([]byte(password))
	id := [sha256.Size]byte(mac.Sum(nil))
	if may && u.recall(id) {
		return true, nil
	}
	client := clientIn(ctx)
	leave, err := turns.enter(ctx, client, folded(name))
	if err != nil {
		return false, err
	}
	if may && u.recall(id) { // another request with the same password was faster
		leave(verdictRight)
		return true, nil
	}
	right, err := check()
	switch {
	case err != nil:
		leave(verdictNone)
		return false, err
	case !right:
		leave(verdictWrong)
		other.count(client, verdictWrong)
		if u.Log != nil {
			u.Log.Warn("a wrong user or password was refused", "client", client, "user", fmt.Sprintf("%.64s", name))
		}
		return false, nil
	}
	leave(verdictRight)
	other.count(client, verdictRight)
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.known) >= maxRemembered {
		clear(u.known)
	}
	u.known[id] = time.Now().Add(keep)
	return true, nil
}

// folded is the name by which wrong passwords of an account are counted. Directories take many spellings for one name:
// letters of any case, wide ones, several spaces. Counting them together delays at most a user whose name is spelled
// like another one's.
func folded(name string) string {
	name = norm.NFKC.String(fmt.Sprintf("%.64s", name))
	return strings.Join(strings.Fields(strings.ToLower(name)), " ")
}

func (u *Users) recall(id [sha256.Size]byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.known[id]
	if ok && time.Now().After(until) {
		delete(u.known, id)
		return false
	}
	return ok
}
