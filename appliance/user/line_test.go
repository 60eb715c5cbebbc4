package user

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// A client with one password to be verified waits for one turn, not for all passwords of another client.
func TestOneGuesserKeepsNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1)
		hold, err := l.enter(t.Context(), addr("10.9.9.9"), "ada")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		refused := map[string]int{}
		var wg sync.WaitGroup
		come := func(from string, right bool) {
			wg.Go(func() {
				leave, err := l.enter(t.Context(), addr(from), from)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					if !errors.Is(err, syscall.EAGAIN) {
						t.Error(err)
					}
					refused[from]++
					return
				}
				order = append(order, from)
				leave(map[bool]verdict{true: verdictRight, false: verdictWrong}[right])
			})
			synctest.Wait()
		}
		for range 64 {
			come("10.0.0.1", false)
		}
		for i := range 46 {
			come(fmt.Sprintf("10.1.0.%d", i), true)
		}
		come("2001:db8::1", true)
		hold(verdictRight)
		synctest.Wait()
		if len(refused) != 1 || refused["10.0.0.1"] != 64-maxOfOne {
			t.Errorf("refused: %v", refused)
		}
		mu.Lock()
		if len(order) < 48 || order[47] != "2001:db8::1" || strings.Count(fmt.Sprint(order[:48]), "10.0.0.1 ") > 1 {
			t.Errorf("the order is %v", order)
		}
		mu.Unlock()
		wg.Wait()
		if l.waiting != 0 || l.busy != 0 || len(l.turns) != 0 || l.clients.Len() != 1 {
			t.Errorf("%d wait, %d busy, %d clients", l.waiting, l.busy, l.clients.Len())
		}
	})
}

// Guessing is slow, one after the other or many at once, and a /64 is one guesser.
func TestGuessingIsSlow(t *testing.T) {
	for _, at := range []int{1, 16} {
		synctest.Test(t, func(t *testing.T) {
			u, _ := open(t)
			u.Cost = bcrypt.MinCost
			if err := u.Add(t.Context(), "ada", "correct horse"); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			u.Log = slog.New(slog.NewTextHandler(&out, nil))
			start := time.Now()
			var wg sync.WaitGroup
			const each = 32
			for i := range at {
				wg.Go(func() {
					ctx := WithClient(t.Context(), addr(fmt.Sprintf("2001:db8::%d", i+1)))
					for j := range each / at {
						if err := u.Authenticate(ctx, "ada", fmt.Sprintf("guess %d %d", i, j)); !errors.Is(err,
							ErrDenied) {
							t.Errorf("got %v", err)
						}
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took < 3*time.Minute {
				t.Errorf("%d at a time: %d guesses took %s", at, each, took)
			}
			log := out.String()
			if n := strings.Count(log, "a wrong user or password was refused"); n != each ||
				strings.Contains(log, "guess") {
				t.Errorf("the log has %d lines of %d: %s", n, each, log)
			}
			// Another address does not wait, at the same moment.
			start = time.Now()
			elsewhere := WithClient(t.Context(), addr("10.0.0.1"))
			if err := u.Authenticate(elsewhere, "ada", "correct horse"); err != nil || time.Since(start) > 0 {
				t.Errorf("the right password: %v after %s", err, time.Since(start))
			}
			// The guesser's own correct password is accepted too, in the end; from then on it is cached.
			u.known = map[[32]byte]time.Time{}
			ctx := WithClient(t.Context(), addr("2001:db8::1"))
			if err := u.Authenticate(ctx, "ada", "correct horse"); err != nil || time.Since(start) > maxDelay {
				t.Errorf("the right password: %v after %s", err, time.Since(start))
			}
			start = time.Now()
			for range freeTries {
				u.Authenticate(ctx, "ada", "a slip")
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("a few wrong ones after a right one took %s", took)
			}
			time.Sleep(forget + time.Second)
			start = time.Now()
			for range freeTries {
				u.Authenticate(ctx, "ada", "a slip")
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("a few wrong ones long after took %s", took)
			}
		})
	}
}

// A guesser with many addresses is slow, too: all of them together, for one account. Whoever has logged in before does
// not wait, and neither do other accounts.
func TestGuessingFromManyAddressesIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := open(t)
		u.Cost = bcrypt.MinCost
		const slots = 4
		u.line.slots = slots // however many processors there are
		for _, name := range []string{"ada", "bob"} {
			if err := u.Add(t.Context(), name, "correct horse"); err != nil {
				t.Fatal(err)
			}
		}
		at := func(s string) context.Context { return WithClient(t.Context(), addr(s)) }
		if err := u.Authenticate(at("10.0.0.1"), "ada", "correct horse"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var wg sync.WaitGroup
		const addresses = 60
		for i := range addresses {
			wg.Go(func() {
				err := u.Authenticate(at(fmt.Sprintf("10.1.0.%d", i)), "ada", "a guess")
				if !errors.Is(err, ErrDenied) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait() // the free tries are used up, the others wait
		clear(u.known)
		for _, c := range []struct{ from, name string }{{"10.0.0.1", "ada"}, {"10.2.0.1", "bob"}} {
			now := time.Now()
			if err := u.Authenticate(at(c.from), c.name, "correct horse"); err != nil || time.Since(now) > 0 {
				t.Errorf("%s at %s: %v after %s", c.name, c.from, err, time.Since(now))
			}
		}
		wg.Wait()
		// As many as are verified at once may have begun before the last free one was known to be wrong.
		if took := time.Since(start); took < (addresses-freeOfAccount-slots)*maxAccountDelay {
			t.Errorf("%d guesses took %s", addresses, took)
		}
		// A new address of the user gets its turn, and no name is remembered without bound.
		if err := u.Authenticate(at("10.3.0.1"), "ada", "correct horse"); err != nil {
			t.Errorf("a new address: %v", err)
		}
		for i := range 2 * maxTracked {
			u.line.account(fmt.Sprint(i))
		}
		if n := u.line.accounts.Len(); n > maxTracked {
			t.Errorf("%d accounts are remembered", n)
		}
	})
}

// When the queue is full, a client with few waiting requests takes precedence over one with many.
func TestTheLineIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1)
		hold, err := l.enter(t.Context(), addr("10.9.9.9"), "ada")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		errs := map[string][]error{}
		come := func(from string) {
			wg.Go(func() {
				_, err := l.enter(ctx, addr(from), from)
				mu.Lock()
				defer mu.Unlock()
				errs[from] = append(errs[from], err)
			})
			synctest.Wait()
		}
		for i := range maxWaiting {
			come(fmt.Sprintf("10.0.0.%d", i%(maxWaiting/maxOfOne)))
		}
		for i := range 20 {
			come(fmt.Sprintf("10.1.0.%d", i))
		}
		mu.Lock()
		gone := 0
		for from, list := range errs {
			gone += len(list)
			if !strings.HasPrefix(from, "10.0.0.") || !errors.Is(list[0], syscall.EAGAIN) {
				t.Errorf("%s: %v", from, list)
			}
		}
		mu.Unlock()
		if gone != 20 || l.waiting != maxWaiting {
			t.Errorf("%d were sent away, %d wait", gone, l.waiting)
		}
		stop()
		wg.Wait()
		if l.waiting != 0 || len(l.turns) != 0 {
			t.Errorf("%d wait after they have gone", l.waiting)
		}
		hold(verdictWrong)
		for i := range 2 * maxTracked {
			at := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
			leave, err := l.enter(t.Context(), at, at.String())
			if err != nil {
				t.Fatal(err)
			}
			leave(verdictWrong)
		}
		if l.clients.Len() > maxTracked {
			t.Errorf("%d clients are remembered", l.clients.Len())
		}
	})
}

// TestSpellings: those that a directory takes for one name are counted as one.
func TestSpellings(t *testing.T) {
	for _, name := range []string{"ada lovelace", "ADA Lovelace", "ada  lovelace", "\uff41da lovelace",
		"ada\u00a0lovelace"} {
		if folded(name) != "ada lovelace" {
			t.Errorf("%q is counted as %q", name, folded(name))
		}
	}
	if folded("ada") == folded("ida") || folded("stra\u00dfe") == folded("strasse2") {
		t.Error("two names are one")
	}
}
