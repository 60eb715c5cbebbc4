package peer

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// dialStagger is the time between the beginnings of two attempts to connect (RFC 8305, 5: at least 100 ms).
const dialStagger = 150 * time.Millisecond

// alternate orders addresses so that those of different families take turns, beginning with the family of the first
// (RFC 8305, 4): behind an address of a family that does not work comes one of another family. Host names count as a
// family of their own.
func alternate(list []string) []string {
	families := map[byte][]string{}
	var order []byte
	for _, addr := range list {
		f := family(addr)
		if families[f] == nil {
			order = append(order, f)
		}
		families[f] = append(families[f], addr)
	}
	out := make([]string, 0, len(list))
	for len(out) < len(list) {
		for _, f := range order {
			if left := families[f]; len(left) > 0 {
				out, families[f] = append(out, left[0]), left[1:]
			}
		}
	}
	return out
}

func family(addr string) byte {
	a, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil:
		return 0
	case a.Addr().Unmap().Is4():
		return 4
	}
	return 6
}

// first tries addresses, dialStagger apart, until one succeeds, which it returns, and closes later connections. The
// error is that of the first address.
func first(
	ctx context.Context, addrs []string, try func(ctx context.Context, addr string) (net.Conn, error),
) (net.Conn, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		n    int
		conn net.Conn
		err  error
	}
	outcomes := make(chan outcome)
	begun, ended := 0, 0
	begin := func() {
		n, addr := begun, addrs[begun]
		begun++
		go func() {
			conn, err := try(ctx, addr)
			outcomes <- outcome{n, conn, err}
		}()
	}
	defer func() {
		cancel() // which ends the others at once
		for range begun - ended {
			if o := <-outcomes; o.conn != nil {
				o.conn.Close()
			}
		}
	}()
	begin()
	next := time.NewTimer(dialStagger)
	defer next.Stop()
	var err error
	for {
		select {
		case o := <-outcomes:
			ended++
			if o.err == nil {
				return o.conn, addrs[o.n], nil
			}
			if o.n == 0 || err == nil {
				err = o.err
			}
			if begun < len(addrs) {
				begin()
				next.Reset(dialStagger)
			} else if ended == begun {
				return nil, "", err
			}
		case <-next.C:
			if begun < len(addrs) {
				begin()
				next.Reset(dialStagger)
			}
		}
	}
}
