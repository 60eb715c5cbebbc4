// Package user stores the users and verifies their passwords: a name and a bcrypt hash each, sealed, in the tree.
//
// It promises: a password is never stored or logged, and its hash is only sealed in the log, in snapshots and in
// backups, so that guessing it offline needs the cluster's key. A correct password is verified by bcrypt once and
// then cached for a while, so that a push of fifty layers does not cost fifty hashes. A changed or removed user is
// locked out at once. However many wrong passwords arrive, at most half of the processors verify them, each client
// only waits for its turn, and a client that guesses is delayed.
package user

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/cluster/tree"

	"golang.org/x/crypto/bcrypt"
)

// Dir is the users' directory of the tree, one file per user.
const Dir = "users"

// Tree is the part of the tree that is used, from its root.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(tree.Batch) error) error
}

// Sealer encrypts records for the tree. *cluster.Cluster implements it.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// ErrDenied is the error of Authenticate for an unknown user or a wrong password; it does not tell which.
var ErrDenied = errors.New("unknown user or wrong password")

const (
	maxRemembered = 1024
	remember      = 10 * time.Minute
	cost          = 10
	elsewhere     = 8 // passwords that are verified elsewhere at the same time
)

// Users verifies and stores the users. It is safe for concurrent use.
type Users struct {
	// Sealer seals the records. Nil: they are stored unencrypted, for tests.
	Sealer Sealer
	// MaySeal reports whether every node of the cluster supports sealed records, which earlier versions do not. Nil:
	// true. Both must be set before the first use.
	MaySeal func() bool

	// Cost is that of bcrypt for new passwords; 0: 10, some 60 ms of a processor. Tests set it.
	Cost int

	tree Tree
	key  []byte // random, for this process only: cached entries are useless elsewhere
	line *line  // the passwords to be verified
	// otherLine are the passwords that somebody else verifies (Elsewhere). It takes no processor, so many wait for
	// answers at the same time.
	otherLine *line

	// Log receives wrong passwords' users and clients. It may be set before the first use; nil: nothing is logged.
	Log *slog.Logger

	mu    sync.Mutex
	known map[[sha256.Size]byte]time.Time // keyed hash of name, version and password → until when; owned by mu
}

func file(name string) string { return Dir + "/" + name }

type record struct {
	Hash    string    `json:"hash"`
	Changed time.Time `json:"changed"`
}

// A User is an entry of List.
type User struct {
	Name    string    `json:"name"`
	Changed time.Time `json:"changed"` // when the password was set
}

// New returns the users of a tree; it does no I/O.
func New(tree Tree) *Users {
	n := max(1, runtime.GOMAXPROCS(0)/2)
	u := &Users{tree: tree, Cost: cost, key: make([]byte, 32), line: newLine(n), otherLine: newLine(elsewhere),
		known: map[[sha256.Size]byte]time.Time{}}
	rand.Read(u.key)
	return u
}

// CheckName returns why name is not valid for a user.
func CheckName(name string) error {
	if len(name) < 1 || len(name) > 64 || strings.Trim(name,
		"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ._-") != "" || name == "." || name == ".." {
		return fmt.Errorf("a user's name must have 1 to 64 characters of a-z, A-Z, 0-9, '.', '_' and '-', got %q: %w",
			name, fs.ErrInvalid)
	}
	return nil
}

func checkPassword(password string) error {
	if len(password) < 8 || len(password) > 72 {
		return fmt.Errorf("a password must have 8 to 72 bytes, got %d: %w", len(password), fs.ErrInvalid)
	}
	return nil
}

// Add creates a user. fs.ErrExist: the user exists. The edits of also appear together with the user.
func (u *Users) Add(ctx context.Context, name, password string, also ...func(tree.Batch)) error {
	return u.put(ctx, name, password, false, also)
}

// SetPassword changes an existing user's password. fs.ErrNotExist: there is no such user. The edits of also appear at
// the same time.
func (u *Users) SetPassword(ctx context.Context, name, password string, also ...func(tree.Batch)) error {
	return u.put(ctx, name, password, true, also)
}

func (u *Users) put(ctx context.Context, name, password string, there bool, also []func(tree.Batch)) error {
	if err := cmp.Or(CheckName(name), checkPassword(password)); err != nil {
		return err
	}
	version := uint64(0)
	info, err := u.tree.Stat(file(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if there {
			return fmt.Errorf("there is no user %s: %w", name, fs.ErrNotExist)
		}
	case err != nil:
		return fmt.Errorf("user %s: %w", name, err)
	case !there:
		return fmt.Errorf("the user %s exists already, change the password with: casemate user passwd %s: %w", name,
			name, fs.ErrExist)
	default:
		version = tree.VersionOf(info)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), u.Cost)
	if err != nil {
		return fmt.Errorf("user %s: %w", name, err)
	}
	data, err := json.Marshal(record{Hash: string(hash), Changed: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		data, err = u.seal(data)
	}
	if err != nil {
		return err
	}
	err = u.tree.Update(ctx, func(b tree.Batch) error {
		b.Expect(file(name), version)
		b.Put(file(name), data)
		for _, edit := range also {
			edit(b)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("user %s: %w", name, err)
	}
	return nil
}

// Remove removes a user. fs.ErrNotExist: there is no such user. The edits of also appear at the same time.
func (u *Users) Remove(ctx context.Context, name string, also ...func(tree.Batch)) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := u.tree.Stat(file(name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no user %s: %w", name, fs.ErrNotExist)
	} else if err != nil {
		return fmt.Errorf("remove user %s: %w", name, err)
	}
	err := u.tree.Update(ctx, func(b tree.Batch) error {
		b.Remove(file(name))
		for _, edit := range also {
			edit(b)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("user %s: %w", name, err)
	}
	return nil
}

// List returns the users by name.
func (u *Users) List() ([]User, error) {
	entries, err := u.tree.ReadDir(Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list := []User{}
	for _, e := range entries {
		r, _, err := u.read(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, User{Name: e.Name(), Changed: r.Changed})
	}
	slices.SortFunc(list, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func (u *Users) read(name string) (r record, data []byte, err error) {
	data, err = u.tree.ReadFile(file(name))
	if err != nil {
		return r, nil, err
	}
	plain := data
	if !isPlain(data) && u.Sealer != nil {
		if plain, err = u.Sealer.Unseal(data); err != nil {
			return r, nil, fmt.Errorf("user %s: the record cannot be unsealed (is this the cluster's key?), "+
				"remove the user and add it again: %w", name, err)
		}
	}
	if err := json.Unmarshal(plain, &r); err != nil {
		return r, nil, fmt.Errorf("user %s: the record is damaged, remove the user and add it again: %w", name, err)
	}
	return r, data, nil
}

// isPlain reports whether a record is stored unsealed, as JSON, by an earlier version.
func isPlain(data []byte) bool { return len(data) > 0 && data[0] == '{' }

func (u *Users) seal(plain []byte) ([]byte, error) {
	if u.Sealer == nil || u.MaySeal != nil && !u.MaySeal() {
		return plain, nil
	}
	return u.Sealer.Seal(plain)
}

// SealAll seals the records that earlier versions stored unsealed, and returns how many are left because they may not
// be sealed yet. It skips records that change meanwhile.
func (u *Users) SealAll(ctx context.Context) (left int, err error) {
	entries, err := u.tree.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		name := e.Name()
		info, err := u.tree.Stat(file(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return left, err
		}
		data, err := u.tree.ReadFile(file(name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !isPlain(data) {
			continue
		}
		if err != nil {
			return left, err
		}
		sealed, err := u.seal(data)
		if err != nil {
			return left, fmt.Errorf("user %s: %w", name, err)
		}
		if isPlain(sealed) {
			left++
			continue
		}
		err = u.tree.Update(ctx, func(b tree.Batch) error {
			b.Expect(file(name), tree.VersionOf(info))
			b.Put(file(name), sealed)
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return left, fmt.Errorf("user %s: %w", name, err)
		}
	}
	return left, nil
}
