package process

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrNotHere means that the host does not have the listening address, not yet or no longer. Restarting the process does
// not bring it back.
var ErrNotHere = errors.New("no address of this host now")

// Ask asks a server of this host for the SOA of zone; any answer counts, even a refusal.
func Ask(ctx context.Context, server netip.AddrPort, zone string) error {
	const id = 0x6361
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) // no flags, one question (RFC 1035 section 4.1.1)
	for label := range strings.SplitSeq(zone, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	q = append(q, 0, 0, 6, 0, 1) // SOA IN
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server.String())
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) {
		return ErrNotHere
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	// The source address must be the same local address; otherwise the question would leave this host.
	if from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); from != server.Addr() && !from.IsLoopback() {
		return ErrNotHere
	}
	var answer [512]byte
	var n int
	for { // a datagram may get lost, on loopback too
		conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(q); err != nil {
			return err
		}
		if n, err = conn.Read(answer[:]); err == nil {
			break
		}
		if ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	if n < 12 || binary.BigEndian.Uint16(answer[:]) != id {
		return errors.New("not an answer to what was asked")
	}
	return nil
}
