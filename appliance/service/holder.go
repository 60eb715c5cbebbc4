package service

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// proc is where the kernel shows its tables (proc(5)).
const proc = "/proc"

// A Holder is who has a port.
type Holder struct {
	Process string // its name; "" if it belongs to somebody whose processes the asker may not see
	PID     int    // 0 if it may not be seen
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "another program, which cannot be seen from here,"
	}
	return fmt.Sprintf("%s (process %d)", h.Process, h.PID)
}

// HolderOf returns who has the port, at this address or at a wildcard that covers it; ok is false if nobody has.
// network is "tcp", where only listening sockets count, or "udp".
func HolderOf(network string, at netip.AddrPort) (h Holder, ok bool, err error) {
	inode := ""
	for _, table := range []string{network, network + "6"} {
		data, err := os.ReadFile(filepath.Join(proc, "net", table))
		if os.IsNotExist(err) && table != network { // a kernel without IPv6
			continue
		} else if err != nil {
			return h, false, err
		}
		if inode = holding(string(data), network, at); inode != "" {
			break
		}
	}
	if inode == "" {
		return h, false, nil
	}
	return holderOfInode(inode), true, nil
}

// HolderOfPath returns who listens at a Unix socket; ok is false if nobody does or it cannot be seen.
func HolderOfPath(path string) (h Holder, ok bool) {
	data, err := os.ReadFile(filepath.Join(proc, "net", "unix"))
	if err != nil {
		return h, false
	}
	const accepting = "00010000" // __SO_ACCEPTCON in the column of flags
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 7)
		if len(f) < 7 || f[3] != accepting {
			continue
		}
		if inode, at, _ := strings.Cut(strings.TrimLeft(f[6], " "), " "); at == path {
			h = holderOfInode(inode)
			return h, h.PID != 0
		}
	}
	return h, false
}

// holderOfInode returns the process that has a socket; the zero Holder if it cannot be seen.
func holderOfInode(inode string) Holder {
	// Processes come and go, and others' are not shown: what cannot be read is not the one.
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "[0-9]*"))
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "socket:["+inode+"]" {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err == nil {
			return Holder{strings.TrimSpace(string(name)), pid}
		}
	}
	return Holder{}
}

// holding finds the socket in one of the kernel's tables that has the port, and returns its inode.
func holding(table, network string, at netip.AddrPort) string {
	const listening = "0A" // TCP_LISTEN
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || network == "tcp" && f[3] != listening || f[9] == "0" {
			continue
		}
		local, ok := parseProcAddr(f[1])
		if !ok || local.Port() != at.Port() {
			continue
		}
		covers := local.Addr() == at.Addr() || at.Addr().IsUnspecified() ||
			local.Addr().IsUnspecified() && (local.Addr().Is6() || at.Addr().Is4())
		if covers {
			return f[9]
		}
	}
	return ""
}

// parseProcAddr reads an address of the kernel's tables: 32-bit words in the machine's order, and a port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}
