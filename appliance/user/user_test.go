package user

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

func open(t *testing.T) (*Users, *treetest.Mem) {
	m := treetest.New(t)
	u := New(m)
	u.Cost = bcrypt.MinCost
	return u, m
}

func TestAUserComesChangesAndGoes(t *testing.T) {
	u, m := open(t)
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(u.Add(ctx, "ada", "correct horse"))
	if err := u.Add(ctx, "ada", "another one"); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("adding twice: %v", err)
	}
	for range 2 { // the second time it is remembered
		must(u.Authenticate(ctx, "ada", "correct horse"))
	}
	for _, wrong := range [][2]string{{"ada", "wrong"}, {"ada", ""}, {"bob", "correct horse"}, {"", ""}, {
		"../x", "correct horse"}, {"ada", strings.Repeat("x", 100)}} {
		if err := u.Authenticate(ctx, wrong[0], wrong[1]); !errors.Is(err, ErrDenied) {
			t.Errorf("%q: got %v", wrong, err)
		}
	}
	must(u.SetPassword(ctx, "ada", "new password"))
	if err := u.Authenticate(ctx, "ada", "correct horse"); !errors.Is(err, ErrDenied) {
		t.Fatalf("the old password after a change: %v", err)
	}
	must(u.Authenticate(ctx, "ada", "new password"))
	data, _ := m.ReadFile("users/ada")
	if strings.Contains(string(data), "password") {
		t.Fatalf("the password stands in the tree: %s", data)
	}
	if list, err := u.List(); err != nil || len(list) != 1 || list[0].Name != "ada" || list[0].Changed.IsZero() {
		t.Fatalf("got %v, %v", list, err)
	}
	must(u.Remove(ctx, "ada"))
	if err := u.Authenticate(ctx, "ada", "new password"); !errors.Is(err, ErrDenied) {
		t.Fatalf("after removing: %v", err)
	}
	for _, err := range []error{u.Remove(ctx, "ada"), u.SetPassword(ctx, "ada", "whatever1")} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
	}
}

func TestBadNamesAndPasswordsSayTheRule(t *testing.T) {
	u, _ := open(t)
	for _, c := range []struct{ name, password, want string }{
		{"a/b", "long enough", `got "a/b"`},
		{"", "long enough", `got ""`},
		{"..", "long enough", `got ".."`},
		{"ada", "short", "8 to 72 bytes, got 5"},
		{"ada", strings.Repeat("x", 73), "8 to 72 bytes, got 73"},
	} {
		if err := u.Add(context.Background(), c.name, c.password); !errors.Is(err, fs.ErrInvalid) ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: got %v", c.name, c.password, err)
		}
	}
}

// A flood of wrong passwords causes a bounded number of concurrent hashes; cached users are still authenticated.
func TestAFloodOfWrongPasswordsIsBounded(t *testing.T) {
	u, _ := open(t)
	ctx := context.Background()
	if err := u.Add(ctx, "ada", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if err := u.Authenticate(ctx, "ada", "correct horse"); err != nil {
		t.Fatal(err)
	}
	var leaves []func(verdict)
	for range u.line.slots { // every processor that may hash is taken
		leave, err := u.line.enter(ctx, netip.Addr{}, "ada")
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leave)
	}
	flood, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	refused := make(chan error, 1)
	for range maxOfOne + 1 {
		wg.Go(func() {
			if err := u.Authenticate(flood, "ada", "wrong password"); errors.Is(err, syscall.EAGAIN) {
				refused <- err
			}
		})
	}
	<-refused // one more than may wait
	if err := u.Authenticate(ctx, "ada", "correct horse"); err != nil {
		t.Errorf("a remembered user during the flood: %v", err)
	}
	stop()
	wg.Wait()
	if u.line.waiting != 0 || len(u.line.turns) != 0 {
		t.Errorf("%d still wait", u.line.waiting)
	}
	for _, leave := range leaves {
		leave(verdictRight)
	}
}

// reverser seals by reversing bytes, after a label.
type reverser struct{ broken bool }

func (r reverser) Seal(plain []byte) ([]byte, error) {
	out := slices.Clone(plain)
	slices.Reverse(out)
	return append([]byte("sealed "), out...), nil
}

func (r reverser) Unseal(sealed []byte) ([]byte, error) {
	out, ok := bytes.CutPrefix(sealed, []byte("sealed "))
	if !ok || r.broken {
		return nil, errors.New("another key")
	}
	out = slices.Clone(out)
	slices.Reverse(out)
	return out, nil
}

// Hashes are stored sealed. Records of earlier versions are read unsealed, and sealed as soon as all nodes support
// it.
func TestHashesAreSealed(t *testing.T) {
	u, m := open(t)
	ctx := context.Background()
	plain := func(name string) bool {
		data, err := m.ReadFile("users/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(data, []byte("$2a$"))
	}
	if err := u.Add(ctx, "old", "correct horse"); err != nil || !plain("old") {
		t.Fatalf("not a record of before: %v", err)
	}
	may := false
	u.Sealer, u.MaySeal = reverser{}, func() bool { return may }
	if err := u.Add(ctx, "ada", "correct horse"); err != nil || !plain("ada") {
		t.Errorf("a node of before could not read it: %v", err)
	}
	if left, err := u.SealAll(ctx); err != nil || left != 2 || !plain("ada") || !plain("old") {
		t.Errorf("%d are left, %v", left, err)
	}
	may = true
	if err := u.Add(ctx, "bob", "correct horse"); err != nil || plain("bob") {
		t.Errorf("bob's hash is in clear: %v", err)
	}
	for range 2 {
		if left, err := u.SealAll(ctx); err != nil || left != 0 {
			t.Errorf("%d are left, %v", left, err)
		}
	}
	for _, name := range []string{"old", "ada", "bob"} {
		if plain(name) {
			t.Errorf("%s's hash is in clear", name)
		}
		if err := u.Authenticate(ctx, name, "correct horse"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := u.Authenticate(ctx, name, "wrong horse"); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := u.SetPassword(ctx, "old", "another horse"); err != nil || plain("old") {
		t.Errorf("after a change: %v", err)
	}
	if list, err := u.List(); err != nil || len(list) != 3 || list[0].Changed.IsZero() {
		t.Errorf("got %v, %v", list, err)
	}
	u.Sealer = reverser{broken: true}
	if err := u.Authenticate(ctx, "bob", "the horse"); err == nil || errors.Is(err, ErrDenied) ||
		!strings.Contains(err.Error(), "cannot be unsealed") {
		t.Errorf("with another key: %v", err)
	}
	// The password changes while it is being sealed: the change stays.
	u.Sealer = nil
	if err := u.SetPassword(ctx, "ada", "plain again"); err != nil {
		t.Fatal(err)
	}
	u.Sealer = reverser{}
	m.Fail = func(string) (error, bool) { return fs.ErrExist, false }
	if _, err := u.SealAll(ctx); err != nil {
		t.Errorf("got %v", err)
	}
	m.Fail = func(string) (error, bool) { return errors.New("no majority"), false }
	if _, err := u.SealAll(ctx); err == nil {
		t.Error("the fault is not said")
	}
	m.Fail = nil
	if _, err := u.SealAll(ctx); err != nil || plain("ada") {
		t.Errorf("got %v", err)
	}
}
