package user

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"casemate/cluster/share"
)

// Passwords that wait to be verified. Verifying one takes some 60 ms of a processor.
const (
	maxWaiting = 512 // in total
	maxOfOne   = 32  // of one client
	freeTries  = 4   // wrong passwords of a client before it is delayed
	firstDelay = 250 * time.Millisecond
	maxDelay   = 10 * time.Second
	forget     = 5 * time.Minute // after which a wrong password no longer counts
	maxTracked = 4096            // clients, and accounts, whose wrong passwords are counted

	freeOfAccount   = 20              // wrong passwords of an account, from all clients, before it is delayed
	maxAccountDelay = 5 * time.Second // between two passwords of an account that is being guessed
	maxTrusted      = 8               // clients of an account that others' guesses do not delay
)

type clientKey struct{}

// WithClient adds the client's address to the context for Authenticate: each client has its own share and its own
// count of wrong passwords.
func WithClient(ctx context.Context, client netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, client)
}

func clientIn(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(clientKey{}).(netip.Addr)
	return a
}

// line is the queue of passwords to be verified. Clients take turns, those without wrong passwords first. After
// several wrong passwords a client waits longer after each, and has one password verified at a time. So guessing is
// slow, and costs other clients at most one turn.
//
// Wrong passwords of one account are counted over all clients, too, since a guesser may have many addresses: the first
// ones of each client, before it is delayed by itself. Clients that have given the account's right password are not
// delayed by others' guesses.
type line struct {
	slots int // concurrent verifications

	mu      sync.Mutex
	busy    int
	waiting int
	clients *share.Recent[*client]
	// accounts are known by the names that clients give, whether or not there is such a user.
	accounts *share.Recent[*account]
	turns    []*client   // clients with waiting requests, in the order of their turns
	wake     *time.Timer // nil: no client is delayed
}

// client is the state of one client (share.Of).
type client struct {
	name    string
	known   bool // it has an address
	queue   []*waiter
	running int
	wrong   int       // wrong passwords in a row
	last    time.Time // time of the last wrong one
	next    time.Time // earliest time of the next turn
}

// account is the state of one account.
type account struct {
	wrong   int       // wrong passwords
	last    time.Time // time of the last wrong one
	next    time.Time // earliest time of the next turn
	trusted []string  // clients (share.Of) that gave the right password, the newest last
}

func (a *account) idle() bool { return a.wrong < freeOfAccount || time.Since(a.last) > forget }

// waits returns until when the account has no turn for a client; zero: it need not wait.
func (a *account) waits(c *client, now time.Time) time.Time {
	if a.wrong < freeOfAccount || !now.Before(a.next) || slices.Contains(a.trusted, c.name) {
		return time.Time{}
	}
	return a.next
}

type waiter struct {
	account *account
	turn    chan struct{} // closed when its turn has come, or when it is rejected
	gone    bool
}

var errBusy = fmt.Errorf("too many passwords are being checked: %w", syscall.EAGAIN)

func newLine(slots int) *line {
	// Only idle clients are forgotten; at most maxWaiting and slots are not, so there is always room.
	return &line{slots: slots, clients: share.NewRecent(maxTracked, (*client).idle),
		accounts: share.NewRecent(maxTracked, (*account).idle)}
}

func (c *client) idle() bool { return len(c.queue) == 0 && c.running == 0 }

// verdict is what came out of a verification.
type verdict int

const (
	verdictNone verdict = iota // the password could not be verified
	verdictRight
	verdictWrong
)

// enter waits for a turn to verify a password of the account called name; leave must be called after the verification.
// syscall.EAGAIN: too many are waiting.
func (l *line) enter(ctx context.Context, from netip.Addr, name string) (leave func(verdict), err error) {
	l.mu.Lock()
	c := l.client(from)
	if len(c.queue) >= maxOfOne || l.waiting >= maxWaiting && !l.shed(len(c.queue)) {
		l.mu.Unlock()
		return nil, errBusy
	}
	w := &waiter{account: l.account(name), turn: make(chan struct{})}
	if c.queue = append(c.queue, w); len(c.queue) == 1 {
		l.turns = append(l.turns, c)
	}
	l.waiting++
	l.serve()
	l.mu.Unlock()
	select {
	case <-w.turn:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.turn:
		if w.gone {
			return nil, errBusy
		}
		return func(v verdict) { l.leave(c, w.account, v) }, nil
	default:
		l.drop(c, w)
		return nil, ctx.Err()
	}
}

// client returns a client's state, and creates it if needed.
func (l *line) client(from netip.Addr) *client {
	name := share.Of(from)
	c, ok := l.clients.See(name)
	if !ok {
		c = &client{name: name, known: from.IsValid()}
		l.clients.Add(name, c)
	}
	if time.Since(c.last) > forget {
		c.wrong = 0
	}
	return c
}

// account returns an account's state, and creates it if needed.
func (l *line) account(name string) *account {
	a, ok := l.accounts.See(name)
	if !ok {
		a = &account{}
		l.accounts.Add(name, a)
	}
	if time.Since(a.last) > forget {
		a.wrong = 0
	}
	return a
}

// shed rejects the newest request of the client that has most waiting, if that is more than mine.
func (l *line) shed(mine int) bool {
	most := slices.MaxFunc(l.turns, func(a, b *client) int { return len(a.queue) - len(b.queue) })
	if len(most.queue) <= mine+1 {
		return false
	}
	w := most.queue[len(most.queue)-1]
	l.drop(most, w)
	w.gone = true
	close(w.turn)
	return true
}

// drop removes a waiting request.
func (l *line) drop(c *client, w *waiter) {
	c.queue = slices.DeleteFunc(c.queue, func(x *waiter) bool { return x == w })
	l.waiting--
	if len(c.queue) == 0 {
		l.turns = slices.DeleteFunc(l.turns, func(x *client) bool { return x == c })
	}
}

// serve gives turns while slots are free.
func (l *line) serve() {
	for l.busy < l.slots {
		now := time.Now()
		var c *client
		var w *waiter
		var soonest time.Time
		later := func(t time.Time) {
			if soonest.IsZero() || t.Before(soonest) {
				soonest = t
			}
		}
		for _, x := range l.turns {
			slow := x.wrong >= freeTries
			switch {
			case slow && x.running > 0:
			case slow && now.Before(x.next):
				later(x.next)
			case c == nil || c.wrong > 0 && x.wrong == 0:
				i := slices.IndexFunc(x.queue, func(w *waiter) bool {
					until := w.account.waits(x, now)
					if !until.IsZero() {
						later(until)
					}
					return until.IsZero()
				})
				if i >= 0 {
					c, w = x, x.queue[i]
				}
			}
		}
		if c == nil {
			if !soonest.IsZero() {
				l.wakeAt(soonest.Sub(now))
			}
			return
		}
		l.drop(c, w)
		if len(c.queue) > 0 { // behind all other clients
			l.turns = append(slices.DeleteFunc(l.turns, func(x *client) bool { return x == c }), c)
		}
		if w.account.wrong >= freeOfAccount && !slices.Contains(w.account.trusted, c.name) {
			w.account.next = now.Add(maxAccountDelay)
		}
		c.running++
		l.busy++
		close(w.turn)
	}
}

// wakeAt calls serve again after a time. No goroutine waits for the timer: it does nothing when no request is
// waiting.
func (l *line) wakeAt(d time.Duration) {
	if l.wake != nil {
		l.wake.Stop()
	}
	l.wake = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.serve()
	})
}

// leave ends a verification.
func (l *line) leave(c *client, a *account, v verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	c.running--
	switch {
	case v == verdictRight && c.known:
		a.trusted = slices.DeleteFunc(a.trusted, func(name string) bool { return name == c.name })
		a.trusted = append(a.trusted, c.name)
		a.trusted = a.trusted[max(0, len(a.trusted)-maxTrusted):]
	case v == verdictWrong && c.known && c.wrong < freeTries: // a client that is delayed by itself delays nobody else
		a.wrong++
		a.last = time.Now()
	}
	l.judge(c, v)
	l.serve()
}

// count is what a verification in another line means for a client here: its guesses are counted together.
func (l *line) count(from netip.Addr, v verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.judge(l.client(from), v)
}

// judge counts a wrong password of a client, or ends the count.
func (l *line) judge(c *client, v verdict) {
	switch {
	case v == verdictRight:
		c.wrong = 0
	case v == verdictWrong && c.known:
		c.wrong++
		c.last = time.Now()
		if c.wrong >= freeTries {
			c.next = c.last.Add(min(maxDelay, firstDelay<<min(c.wrong-freeTries, 10)))
		}
	}
	if c.wrong == 0 && c.idle() {
		l.clients.Forget(c.name)
	}
}
