// Package sockets binds everything that a node listens on, or inherits it from systemd.
//
// It promises that either all sockets are bound or, with an error, none; and that the error has the key, the address
// and what to do.
package sockets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"casemate/appliance/config"
	"casemate/appliance/service"
)

// The names under which systemd passes sockets (FileDescriptorName=), one per unit.
const (
	HTTP   = "http"
	HTTPS  = "https"
	DNSUDP = "dns-udp"
	DNSTCP = "dns-tcp"
	Admin  = "admin"
)

// adminGroup may connect to the admin socket, in addition to root and the daemon's own user.
const adminGroup = "casemate"

// A Set has all sockets that the appliance listens on.
type Set struct {
	HTTP, HTTPS []net.Listener
	DNSUDP      []*net.UDPConn
	DNSTCP      []net.Listener
	Admin       net.Listener
	Peer        []net.Listener // the cluster takes them over
}

// Addrs are the actual addresses, with port 0 resolved.
type Addrs struct {
	HTTP, HTTPS, DNS, Peer []netip.AddrPort
	Admin                  string
}

// Bind uses the sockets that systemd passed (by their names) and binds the others. With elsewhere, another process
// has the DNS sockets: they are not bound here, but if systemd passed some, those are used. On an error no socket
// stays bound.
func Bind(cfg *config.Config, inherited []*os.File, elsewhere bool) (s *Set, err error) {
	s = &Set{}
	defer func() {
		for _, f := range inherited {
			f.Close() // the listeners hold duplicates
		}
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	by := map[string][]*os.File{}
	for _, f := range inherited {
		switch f.Name() {
		case HTTP, HTTPS, DNSUDP, DNSTCP, Admin:
			by[f.Name()] = append(by[f.Name()], f)
		default:
			return s, fmt.Errorf("systemd passed a socket with the name %q: its unit's FileDescriptorName must be "+
				"http, https, "+
				"dns-udp, dns-tcp or admin", f.Name())
		}
	}
	if s.HTTP, err = bindTCP(cfg, by, HTTP, "listen.http", cfg.Listen.HTTP, 80); err != nil {
		return s, err
	}
	if s.HTTPS, err = bindTCP(cfg, by, HTTPS, "listen.https", cfg.Listen.HTTPS, 443); err != nil {
		return s, err
	}
	if !elsewhere || len(by[DNSUDP])+len(by[DNSTCP]) > 0 {
		if err = s.bindDNS(cfg, by); err != nil {
			return s, err
		}
	}
	if err = s.bindAdmin(cfg, by[Admin]); err != nil {
		return s, err
	}
	var lc net.ListenConfig
	if len(inherited) > 0 {
		lc.Control = FreeBind // the others came from systemd, which did not wait for the network either
	}
	for _, a := range cfg.PeerListen() {
		l, err := listenWith(lc, "listen.peer", a)
		if err != nil {
			return s, err
		}
		s.Peer = append(s.Peer, l)
	}
	return s, nil
}

func bindTCP(cfg *config.Config, by map[string][]*os.File, name, key string, listen []netip.AddrPort,
	port uint16) (list []net.Listener, err error) {
	if files := by[name]; len(files) > 0 {
		for _, f := range files {
			l, err := net.FileListener(f)
			if err != nil {
				return list, fmt.Errorf("socket %q from systemd is not a stream socket: %w", name, err)
			}
			list = append(list, l)
		}
		return list, SameAddrs(name, key, listen, addrsOf(list))
	}
	if len(listen) == 0 {
		listen = cfg.AdvertisedAt(port)
	}
	for _, a := range listen {
		l, err := listenTCP(key, a)
		if err != nil {
			return list, err
		}
		list = append(list, l)
	}
	return list, nil
}

// listenTCP does not use the dual-stack wildcard: an IPv6 address covers IPv6 only.
func listenTCP(key string, a netip.AddrPort) (net.Listener, error) {
	return listenWith(net.ListenConfig{}, key, a)
}

func listenWith(lc net.ListenConfig, key string, a netip.AddrPort) (net.Listener, error) {
	network := "tcp4"
	if a.Addr().Is6() {
		network = "tcp6"
	}
	if a.Addr() == netip.IPv6Unspecified() {
		network = "tcp"
	}
	l, err := lc.Listen(context.Background(), network, a.String())
	if err != nil {
		return nil, explainBind(key, "tcp", a, err)
	}
	return l, nil
}

// explained is an error of the kernel with a sentence that says what to do.
type explained struct {
	text string
	err  error
}

func (e explained) Error() string { return e.text }
func (e explained) Unwrap() error { return e.err }

// explainBind turns the kernel's error about an address into a sentence that says what to do.
func explainBind(key, network string, a netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return explained{fmt.Sprintf("%s: %s port %s is taken by %s or change %s", key, network, a, taker(network, a),
			key), err}
	case errors.Is(err, syscall.EACCES):
		return explained{fmt.Sprintf("%s: ports below 1024, like %s, need root or CAP_NET_BIND_SERVICE: start "+
			"casemate "+
			"by systemd, whose sockets bind them (if one could not, casemate status names the program that has the "+
			"port), or change %s", key, a, key), err}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return explained{fmt.Sprintf("%s: %s is not an address of this host: change %s (or advertise)", key,
			a.Addr(), key),
			err}
	}
	return fmt.Errorf("%s %s: %w", key, a, err)
}

// taker says who has a port, and how to end that.
func taker(network string, a netip.AddrPort) string {
	h, _, err := service.HolderOf(network, a)
	switch {
	case err != nil || h.PID == 0:
		flag := "t"
		if network == "udp" {
			flag = "u"
		}
		return fmt.Sprintf("another program (ss -l%snp 'sport = :%d', as root, shows which): stop it", flag, a.Port())
	case h.PID == 1:
		return "a unit of systemd (systemctl list-sockets shows which): stop that unit"
	}
	return stopIt(h, "")
}

// stopIt says which process has a socket. A second casemate is told from other programs, because starting it by hand
// beside the one that systemd runs is the usual mistake.
func stopIt(h service.Holder, does string) string {
	if h.Process == "casemate" {
		return fmt.Sprintf("%s%s, which runs already (casemate status): stop it", h, does)
	}
	return fmt.Sprintf("%s%s: stop it", h, does)
}

// SameAddrs compares the addresses of systemd's sockets with those in the config, if it has any.
func SameAddrs(name, key string, want, got []netip.AddrPort) error {
	if len(want) == 0 {
		return nil
	}
	ok := len(want) == len(got)
	for _, w := range want {
		ok = ok &&
			slices.ContainsFunc(got, func(g netip.AddrPort) bool {
				return g == w || w.Port() == 0 && g.Addr() == w.Addr()
			})
	}
	if !ok {
		return fmt.Errorf("systemd's socket %q is at %s, but %s is %s: casemate sockets updates systemd", name,
			Join(got),
			key, Join(want))
	}
	return nil
}

// Misplaced reports which sockets from systemd do not have an advertised address, if the config sets no listening
// address: a hand-made unit may intend that, an outdated one does not.
func (s *Set) Misplaced(cfg *config.Config, inherited []*os.File) (list []string) {
	names := map[string]bool{}
	for _, f := range inherited {
		names[f.Name()] = true
	}
	at := s.Addrs()
	for _, l := range []struct {
		name   string
		listen []netip.AddrPort
		got    []netip.AddrPort
	}{
		{HTTP, cfg.Listen.HTTP, at.HTTP}, {HTTPS, cfg.Listen.HTTPS, at.HTTPS},
		{DNSUDP, cfg.Listen.DNS, at.DNS}, {DNSTCP, cfg.Listen.DNS, addrsOf(s.DNSTCP)},
	} {
		if !names[l.name] || len(l.listen) > 0 {
			continue
		}
		for _, a := range cfg.Advertise {
			if !slices.ContainsFunc(l.got, func(g netip.AddrPort) bool {
				return g.Addr() == a || g.Addr().IsUnspecified()
			}) {
				list = append(list,
					fmt.Sprintf("advertise has %s, but systemd's socket %q is at %s: casemate sockets updates systemd",
						a, l.name,
						Join(l.got)))
			}
		}
	}
	return list
}

func Join(list []netip.AddrPort) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

func addrsOf(list []net.Listener) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, l := range list {
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			p := a.AddrPort()
			addrs = append(addrs, netip.AddrPortFrom(p.Addr().Unmap(), p.Port()))
		}
	}
	return addrs
}

func (s *Set) bindDNS(cfg *config.Config, by map[string][]*os.File) error {
	udp, tcp := by[DNSUDP], by[DNSTCP]
	if (len(udp) == 0) != (len(tcp) == 0) {
		return fmt.Errorf("systemd passed %d sockets named dns-udp and %d named dns-tcp: DNS needs both", len(udp),
			len(tcp))
	}
	if len(udp) > 0 {
		for _, f := range udp {
			c, err := net.FilePacketConn(f)
			if err != nil {
				return fmt.Errorf("socket %q from systemd is not a datagram socket: %w", DNSUDP, err)
			}
			u, ok := c.(*net.UDPConn)
			if !ok {
				c.Close()
				return fmt.Errorf("socket %q from systemd is a %T, not a UDP socket", DNSUDP, c)
			}
			s.DNSUDP = append(s.DNSUDP, u)
		}
		if err := SameAddrs(DNSUDP, "listen.dns", cfg.Listen.DNS, s.Addrs().DNS); err != nil {
			return err
		}
		var err error
		s.DNSTCP, err = bindTCP(cfg, by, DNSTCP, "listen.dns", cfg.Listen.DNS, 53)
		return err
	}
	listen := cfg.Listen.DNS
	if len(listen) == 0 {
		listen = cfg.AdvertisedAt(53)
	}
	for _, a := range listen {
		err := s.bindBoth(a)
		for end := time.Now().Add(orphanWait); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); {
			time.Sleep(orphanWait / 100)
			err = s.bindBoth(a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// orphanWait is how long a port may still be in use by the DNS process of a daemon that was just killed: it ends soon
// after the daemon.
const orphanWait = time.Second

// bindBoth binds UDP and TCP to the same port. If the kernel chose a port for one that is in use for the other, it
// retries.
func (s *Set) bindBoth(a netip.AddrPort) error {
	network := "udp4"
	if a.Addr().Is6() {
		network = "udp6"
	}
	for try := 0; ; try++ {
		c, err := (&net.ListenConfig{}).ListenPacket(context.Background(), network, a.String())
		if err != nil {
			return explainBind("listen.dns", "udp", a, err)
		}
		u := c.(*net.UDPConn)
		got := u.LocalAddr().(*net.UDPAddr).AddrPort()
		l, err := listenTCP("listen.dns", netip.AddrPortFrom(a.Addr(), got.Port()))
		if err == nil {
			s.DNSUDP, s.DNSTCP = append(s.DNSUDP, u), append(s.DNSTCP, l)
			return nil
		}
		u.Close()
		if a.Port() != 0 || try == 20 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
}

func (s *Set) bindAdmin(cfg *config.Config, files []*os.File) error {
	path := cfg.Listen.Admin
	if len(files) > 1 {
		return fmt.Errorf("systemd passed %d sockets named %q: there must be one", len(files), Admin)
	}
	if len(files) == 1 {
		l, err := net.FileListener(files[0])
		if err != nil {
			return fmt.Errorf("socket %q from systemd is not a stream socket: %w", Admin, err)
		}
		s.Admin = l
		if got := l.Addr().String(); got != path {
			return fmt.Errorf("systemd's socket %q is at %s, but listen.admin is %s: change one of the two", Admin,
				got, path)
		}
		return nil
	}
	// The owner of the directory could replace our socket, so the directory is created for us and the group only.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("listen.admin: %w", err)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		// A socket that does not answer was left behind by a daemon that was killed.
		if c, dialErr := net.Dial("unix", path); dialErr == nil {
			c.Close()
			answers := fmt.Sprintf("another program, probably another casemate, answers at %s: stop it", path)
			if h, ok := service.HolderOfPath(path); ok {
				answers = stopIt(h, " answers at "+path)
			}
			return explained{"listen.admin: " + answers + " or change listen.admin", err}
		} else if info, statErr := os.Lstat(path); statErr != nil && !errors.Is(statErr, fs.ErrNotExist) {
			return fmt.Errorf("listen.admin: %w", statErr)
		} else if statErr == nil && info.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("listen.admin: %s exists and is not a socket: remove it or change listen.admin: %w",
				path, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listen.admin: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return fmt.Errorf("listen.admin %s: %w", path, err)
	}
	s.Admin = l
	// Until now the umask kept others out (connecting needs write permission). The group may not exist, as with make
	// run.
	if g, err := user.LookupGroup(adminGroup); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			_ = os.Chown(path, -1, gid) // only root or a member may
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("listen.admin: %w", err)
	}
	return nil
}

func (s *Set) Addrs() Addrs {
	a := Addrs{HTTP: addrsOf(s.HTTP), HTTPS: addrsOf(s.HTTPS), Peer: addrsOf(s.Peer)}
	for _, u := range s.DNSUDP {
		p := u.LocalAddr().(*net.UDPAddr).AddrPort()
		a.DNS = append(a.DNS, netip.AddrPortFrom(p.Addr().Unmap(), p.Port()))
	}
	if s.Admin != nil {
		a.Admin = s.Admin.Addr().String()
	}
	return a
}

func (s *Set) Close() {
	for _, l := range slices.Concat(s.HTTP, s.HTTPS, s.DNSTCP, s.Peer) {
		l.Close()
	}
	for _, u := range s.DNSUDP {
		u.Close()
	}
	if s.Admin != nil {
		s.Admin.Close()
	}
}

// Reachable returns the addresses at which this node can be reached: the advertised ones, those listened on, and for
// a wildcard those of every interface.
func (s *Set) Reachable(advertise []netip.Addr) []netip.Addr {
	list := slices.Clone(advertise)
	for _, l := range s.Addrs().HTTPS {
		if !l.Addr().IsUnspecified() {
			list = append(list, l.Addr())
			continue
		}
		all, _ := net.InterfaceAddrs()
		for _, i := range all {
			if n, ok := i.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok && !addr.IsLinkLocalUnicast() {
					list = append(list, addr.Unmap())
				}
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
