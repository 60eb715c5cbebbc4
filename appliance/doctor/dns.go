package doctor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"casemate/appliance/dnsquery"
)

// question is one DNS query and its response.
type question struct {
	name  string
	kind  dnsquery.Type
	got   bool
	rcode dnsquery.RCode
	addrs []netip.Addr
}

const (
	window  = 32   // concurrent queries on one socket
	again   = 1    // seconds after which a UDP query is sent again
	maxUDP  = 1232 // advertised EDNS0 buffer size in bytes (DNS flag day 2020: fits every path)
	maxText = 253  // longest name in bytes
	tcpWait = 4    // seconds between two responses on one connection
)

// ask sends queries to one server over one socket, "udp" or "tcp", a window at a time, and returns how many bytes of
// responses arrived. Over TCP the responses of a window together are larger than any packet. An error means that some
// queries got no response; the others have got set.
func ask(ctx context.Context, dial dialer, network string, server netip.AddrPort,
	list []*question) (total int, err error) {
	conn, err := dial.to(ctx, network, server)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	tries := 1
	if network == "udp" {
		tries = 3
	}
	for start := 0; start < len(list); start += window {
		part := list[start:min(start+window, len(list))]
		ids, base := map[uint16]*question{}, uint16(rand.Uint32())
		for i, q := range part {
			ids[base+uint16(i)] = q
		}
		left := len(part)
		for try := 0; left > 0; try++ {
			if try == tries {
				return total, errors.Join(err, fmt.Errorf("%d of %d queries got no response", left, len(part)))
			}
			if err = send(conn, network, ids); err != nil {
				return total, err
			}
			var n int
			n, left, err = receive(ctx, conn, network, ids, left)
			if total += n; ctx.Err() != nil {
				return total, ctx.Err()
			}
			if err != nil && network == "tcp" || errors.Is(err, net.ErrClosed) {
				return total, err
			}
		}
	}
	return total, nil
}

// send sends those queries of a window that have no response yet.
func send(conn net.Conn, network string, ids map[uint16]*question) error {
	var all []byte
	for id, q := range ids {
		if q.got {
			continue
		}
		msg, err := dnsquery.Query{ID: id, Name: q.name, Type: q.kind}.Pack(maxUDP)
		if err != nil {
			return errors.New(clip(err.Error()))
		}
		if network == "tcp" {
			all = dnsquery.AppendTCP(all, msg)
		} else if _, err := conn.Write(msg); err != nil {
			return err
		}
	}
	if network != "tcp" {
		return nil
	}
	_, err := conn.Write(all)
	return err
}

// receive reads responses until none is outstanding or the time of this try is over.
func receive(ctx context.Context, conn net.Conn, network string, ids map[uint16]*question, left int) (total, still int,
	err error) {
	wait := again * second
	if network == "tcp" {
		wait = tcpWait * second
	}
	buf := make([]byte, 64<<10)
	for left > 0 && ctx.Err() == nil {
		conn.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil { // setting the deadline may just have overwritten the one set by the context's end
			break
		}
		var msg []byte
		if network == "tcp" {
			msg, err = dnsquery.ReadTCP(conn)
		} else {
			var n int
			n, err = conn.Read(buf)
			msg = buf[:n]
		}
		if err != nil {
			return total, left, err
		}
		total += len(msg)
		if take(msg, ids) {
			left--
		}
	}
	return total, left, nil
}

// take assigns one response to its query, and reports whether it was expected.
func take(msg []byte, ids map[uint16]*question) bool {
	id, ok := dnsquery.ID(msg)
	q := ids[id]
	if !ok || q == nil || q.got {
		return false
	}
	a, ok := dnsquery.Query{ID: id, Name: q.name, Type: q.kind}.Read(msg)
	if ok {
		q.got, q.rcode, q.addrs = true, a.RCode, a.Addrs
	}
	return ok
}
