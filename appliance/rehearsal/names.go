package rehearsal

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"casemate/appliance/dnsquery"
)

const (
	maxHeld = 256                     // questions that are held at once
	heldFor = 1500 * time.Millisecond // dnssrv waits for 1.8 s, and clients for longer
	nameTTL = 5                       // seconds; then the name is answered as every other origin
)

// Names is a resolver for names that nobody knows yet: it holds a question until the name is learnt, so that the client
// that asks first gets an address already. dnssrv forwards them to it, which bounds the questions of each client.
type Names struct {
	// Learn makes a name known, and returns the addresses to answer with; false: there is no such name. It must return
	// when its context is done.
	Learn func(ctx context.Context, name string) (addrs []netip.Addr, ok bool)
	Log   *slog.Logger
}

// Serve answers questions until ctx is done. It closes conn.
func (n *Names) Serve(ctx context.Context, conn net.PacketConn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	held := make(chan struct{}, maxHeld)
	buf := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		q, ok := dnsquery.Parse(buf[:size])
		if !ok {
			continue
		}
		select {
		case held <- struct{}{}:
		default:
			continue // it is asked again
		}
		wg.Go(func() {
			defer func() { <-held }()
			answer, err := n.answer(ctx, q)
			if err == nil {
				_, err = conn.WriteTo(answer, from)
			}
			if err != nil && ctx.Err() == nil {
				n.Log.Warn("a name is not answered", "name", q.Name, "err", err)
			}
		})
	}
}

// answer learns a name and returns the answer to a question for it.
func (n *Names) answer(ctx context.Context, q dnsquery.Query) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, heldFor)
	defer cancel()
	addrs, ok := n.Learn(ctx, strings.ToLower(strings.TrimSuffix(q.Name, ".")))
	if !ok {
		return q.Reply(dnsquery.NameError, nil, nameTTL)
	}
	return q.Reply(dnsquery.Success, addrs, nameTTL)
}
