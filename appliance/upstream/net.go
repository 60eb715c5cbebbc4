package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"casemate/bundle/collect/transport"
)

const (
	dialTimeout    = 10 * time.Second
	resolveTimeout = 5 * time.Second
	// headerTimeout is how long a server may take to begin its answer, also one whose connection was kept and has
	// died. A client waits for it, and containerd gives up after 30 seconds.
	headerTimeout = 15 * time.Second
	// outsideFor is how long an origin counts as one outside after it had only public addresses.
	outsideFor = 24 * time.Hour
)

// transport makes the HTTP client: the system's roots and those of the settings, the proxies of the environment, and
// connections by dial alone.
func (u *Upstream) transport(set *Settings) (*http.Transport, error) {
	t := transport.New()
	through := proxies()
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return u.dial(ctx, network, addr, slices.Contains(through, addr))
	}
	t.TLSHandshakeTimeout = dialTimeout
	t.ResponseHeaderTimeout = headerTimeout
	if set.CA != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("the system's roots: %w", err)
		}
		roots.AppendCertsFromPEM([]byte(set.CA))
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

// connect makes every connection of this package.
func (u *Upstream) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	if !u.cfg.Settings().On {
		return nil, errors.New("fetching was turned off")
	}
	u.dials.Add(1)
	return u.cfg.Dial(ctx, network, addr)
}

// Dials is the number of connections that were tried since the start, those to resolvers among them.
func (u *Upstream) Dials() uint64 { return u.dials.Load() }

// dial connects to a host by the addresses that the operator's resolvers have for it. A proxy may be on this machine.
func (u *Upstream) dial(ctx context.Context, network, addr string, proxy bool) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if !proxy || host != "localhost" { // for which no resolver is asked (RFC 6761, 6.3)
		if addrs, err = u.addresses(ctx, host); err != nil {
			return nil, err
		}
	}
	// IPv4 first: many sites have addresses of IPv6 that lead nowhere, and few have none of IPv4.
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.Unmap().BitLen() - b.Unmap().BitLen() })
	var last error
	if !proxy {
		u.seen(host, addrs)
	}
	for _, ip := range addrs {
		ip = ip.Unmap()
		if !proxy {
			if err := u.refuseAddr(ctx, host, ip); err != nil {
				return nil, err
			}
		}
		conn, err := u.connect(ctx, network, net.JoinHostPort(ip.String(), port))
		if err == nil {
			return conn, nil
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// proxies returns the addresses of the environment's proxies, in the form in which http.Transport connects to them.
func proxies() (list []string) {
	env := httpproxy.FromEnvironment()
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	for _, text := range []string{env.HTTPSProxy, env.HTTPProxy} {
		at, err := url.Parse(text)
		if err != nil || ports[at.Scheme] == "" { // as httpproxy reads it: the scheme may be missing
			at, err = url.Parse("http://" + text)
		}
		if text != "" && err == nil {
			list = append(list, net.JoinHostPort(at.Hostname(), cmp.Or(at.Port(), ports[at.Scheme])))
		}
	}
	return list
}

// refuseAddr refuses an address that a host has, or is.
func (u *Upstream) refuseAddr(ctx context.Context, host string, ip netip.Addr) error {
	ip = reached(ip)
	return errors.Join(u.refuse(host, ip), u.refuseInside(ctx, host, ip))
}

// refuse refuses addresses that no origin has: a bastion's, and those that mean this machine or its link.
func (u *Upstream) refuse(host string, ip netip.Addr) error {
	switch {
	case slices.Contains(u.cfg.Own(), ip):
		return fmt.Errorf("%s is %s, which is a bastion's own address: the resolver in upstream.resolvers gives our "+
			"own answers, name one that does not ask the bastions", host, ip)
	case !ip.IsValid(), ip.IsUnspecified(), ip.IsLoopback(), ip.IsMulticast(), ip.IsLinkLocalUnicast(),
		ip.Is4() && (ip.As4()[0] == 0 || ip.As4()[0] >= 240):
		return fmt.Errorf("%s is %s, where no origin can be", host, ip)
	}
	return nil
}

// inside are networks of sites besides those of netip.Addr.IsPrivate: of providers (RFC 6598), for tests (RFC 2544), and
// local ones of IPv6 before RFC 4193.
var inside = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("fec0::/10")}

func isInside(ip netip.Addr) bool {
	return ip.IsPrivate() || slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// carriers are networks of IPv6 whose addresses lead to one of IPv4, which begins at a byte of them.
var carriers = []struct {
	net netip.Prefix
	at  int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // NAT64 (RFC 6052)
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // NAT64 of a site (RFC 8215), as most do it
	{netip.MustParsePrefix("2002::/16"), 2},       // 6to4 (RFC 3056)
	{netip.MustParsePrefix("::/96"), 12},          // compatible with IPv4 (RFC 4291 section 2.5.5.1)
}

// reached returns the address that is reached at an address: without a zone, which the kernel ignores for most, and of
// IPv4 if it leads to one.
func reached(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	for _, c := range carriers {
		if v4 := ip.As16(); c.net.Contains(ip) && !ip.IsLoopback() && !ip.IsUnspecified() {
			return netip.AddrFrom4([4]byte(v4[c.at : c.at+4]))
		}
	}
	return ip
}

// numeric reports a host that ends in a number and is none of the addresses that netip reads: 127.1, 0x7f000001. No
// such name exists (RFC 3696 section 2), but some programs, like proxies, take it for an address.
func numeric(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	digits, hex := strings.CutPrefix(last, "0x")
	return last != "" && strings.Trim(digits, "0123456789") == "" || hex && strings.Trim(digits, "0123456789abcdef") == ""
}

type fromKey struct{}

// from marks what is sent for a fetch from an origin.
func from(ctx context.Context, origin string) context.Context {
	return context.WithValue(ctx, fromKey{}, origin)
}

// refuseInside refuses a private address of a host that an operator has not named: an origin outside must not lead into
// the site. One that is itself at a private address may.
func (u *Upstream) refuseInside(ctx context.Context, host string, ip netip.Addr) error {
	origin, _ := ctx.Value(fromKey{}).(string)
	if _, named := u.cfg.Canonical(host); named || !isInside(ip) {
		return nil
	}
	if u.mayLeadInside(ctx, origin) {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("%s leads to the private address %s, and is itself outside", origin, host)
	}
	return fmt.Errorf("%s leads to %s, which is at the private address %s: if that is right, casemate origin add %s",
		origin, host, ip, host)
}

// mayLeadInside reports whether an origin has a private address, and has had one whenever it was connected to lately:
// its name may have a private address now in order to lead into the site.
func (u *Upstream) mayLeadInside(ctx context.Context, origin string) bool {
	u.mu.Lock()
	at, seen := u.outside[origin]
	u.mu.Unlock()
	if seen && u.cfg.Now().Sub(at) < outsideFor {
		return false
	}
	addrs, err := u.addresses(ctx, origin)
	return err == nil && slices.ContainsFunc(addrs, func(ip netip.Addr) bool { return isInside(reached(ip)) })
}

// seen remembers an origin that has no private address.
func (u *Upstream) seen(host string, addrs []netip.Addr) {
	origin, named := u.cfg.Canonical(host)
	if !named || len(addrs) == 0 ||
		slices.ContainsFunc(addrs, func(ip netip.Addr) bool { return isInside(reached(ip)) }) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.outside[origin] = u.cfg.Now()
}

// addresses returns the addresses of a host or an address.
func (u *Upstream) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	if numeric(host) {
		return nil, fmt.Errorf("%.300s is neither a host name nor an address", host)
	}
	return u.lookup(ctx, host)
}

// lookup asks the resolvers in turn. One that does not answer, or gives our own answers, is passed over.
func (u *Upstream) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	last := errors.New("upstream.resolvers names no resolver")
	for _, r := range u.cfg.Settings().Resolvers {
		ask, cancel := context.WithTimeout(ctx, resolveTimeout)
		addrs, err := u.cfg.Resolve(ask, r, host)
		cancel()
		var dns *net.DNSError
		switch {
		case err == nil && len(addrs) > 0:
			return addrs, nil
		case errors.As(err, &dns) && dns.IsNotFound:
			return nil, fmt.Errorf("the resolver %s does not know %s: %w", r, host, err)
		case err != nil:
			last = fmt.Errorf("the resolver %s does not answer for %s: %w", r, host, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// Absent reports whether a resolver says that a name does not exist. Without an answer it is not known to be absent.
func (u *Upstream) Absent(ctx context.Context, host string) bool {
	_, err := u.lookup(ctx, host)
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// Probe asks each resolver for the name of an origin, and records those that answer with a bastion: they ask us.
// Without a setting that allows fetching it sends nothing.
func (u *Upstream) Probe(ctx context.Context, origin string) {
	found := map[netip.AddrPort]string{}
	set := u.cfg.Settings()
	if set.On && origin != "" {
		for _, r := range set.Resolvers {
			if r.Port() == 53 && slices.Contains(u.cfg.Own(), r.Addr()) {
				found[r] = "it is a bastion, which answers the origins' names with the bastions"
				continue
			}
			ask, cancel := context.WithTimeout(ctx, resolveTimeout)
			addrs, err := u.cfg.Resolve(ask, r, origin)
			cancel()
			if err != nil {
				continue // it is said when something is fetched
			}
			for _, a := range addrs {
				if err := u.refuse(origin, reached(a)); err != nil {
					found[r] = err.Error()
					u.cfg.Log.Warn("a resolver of upstream.resolvers cannot be used", "resolver", r, "err", err)
				}
			}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.loops = found
}
