package dnssrv

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// lookAround reads the kernel's neighbour table and the host's networks (rtnetlink(7)).
func lookAround() (*neighbours, error) {
	v := &neighbours{state: make(map[netip.Addr]presence)}
	links, err := askingLinks()
	if err != nil {
		return nil, err
	}
	err = dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg, func(head []byte, attrs map[uint16][]byte) {
		own, bits := attrs[unix.IFA_LOCAL], int(head[1])
		if own == nil {
			own = attrs[unix.IFA_ADDRESS]
		}
		a, ok := netip.AddrFromSlice(own)
		if !ok {
			return
		}
		v.add(a, present) // the host itself
		if p, err := a.Prefix(bits); err == nil && links[int32(binary.NativeEndian.Uint32(head[4:]))] {
			v.networks = append(v.networks, p)
		}
	})
	if err != nil {
		return nil, err
	}
	err = dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, unix.SizeofNdMsg, func(head []byte, attrs map[uint16][]byte) {
		if a, ok := netip.AddrFromSlice(attrs[unix.NDA_DST]); ok {
			v.add(a, presenceOf(binary.NativeEndian.Uint16(head[8:])))
		}
	})
	return v, err
}

// presenceOf converts the state of a neighbour. The kernel still sends to one that was reachable and is being probed
// again.
func presenceOf(state uint16) presence {
	switch {
	case state&unix.NUD_INCOMPLETE != 0:
		return asking
	case state&unix.NUD_FAILED != 0:
		return gone
	case state == unix.NUD_NONE:
		return unknown
	}
	return present
}

// askingLinks returns the links with neighbour discovery.
func askingLinks() (map[int32]bool, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	links := make(map[int32]bool)
	for _, i := range list {
		if i.Flags&net.FlagBroadcast != 0 && i.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0 {
			links[int32(i.Index)] = true
		}
	}
	return links, nil
}

// dump calls each with the fixed header and the attributes of every message of one kind.
func dump(ask, want uint16, size int, each func(head []byte, attrs map[uint16][]byte)) error {
	b, err := syscall.NetlinkRIB(int(ask), unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	attrs := make(map[uint16][]byte)
	for _, m := range msgs {
		if m.Header.Type != want || len(m.Data) < size {
			continue
		}
		clear(attrs)
		for rest := m.Data[size:]; len(rest) >= unix.SizeofRtAttr; {
			n := int(binary.NativeEndian.Uint16(rest))
			if n < unix.SizeofRtAttr || n > len(rest) {
				break
			}
			attrs[binary.NativeEndian.Uint16(rest[2:])] = rest[unix.SizeofRtAttr:n]
			rest = rest[min((n+3)&^3, len(rest)):]
		}
		each(m.Data, attrs)
	}
	return nil
}
