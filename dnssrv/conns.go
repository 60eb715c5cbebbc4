package dnssrv

import (
	"context"
	"net/netip"
	"time"

	"casemate/cluster/share"
)

// tcp bounds the TCP connections; tests set other values before they serve.
type tcp struct {
	conns *share.Places
	// idle is the time for a whole message, from the previous answer; crowded replaces it when more than half of the
	// connections are in use.
	idle, crowded time.Duration
}

func newTCP() tcp {
	return tcp{
		conns: share.New(share.Config{Max: maxConns}),
		idle:  idleTimeout, crowded: crowdedTimeout,
	}
}

// conn is one TCP connection. While resolvers are asked for it, it is at work: a newcomer replaces idle ones first.
type conn struct {
	client netip.Addr
	*share.Place
}

// accept gives a client a place, for which another connection may be closed. It returns nil if no place can be had.
func (t *tcp) accept(client netip.Addr, close context.CancelFunc) *conn {
	place, ok := t.conns.Take(share.Of(client), close)
	if !ok {
		return nil
	}
	return &conn{client, place}
}

// patience is how long a client may take for its next message.
func (t *tcp) patience() time.Duration {
	if t.conns.Crowded() {
		return min(t.idle, t.crowded)
	}
	return t.idle
}
