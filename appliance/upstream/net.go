package upstream

import (
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
	"time"

	"golang.org/x/net/http/httpproxy"

	"casemate/bundle/collect/transport"
)

const (
	dialTimeout    = 10 * time.Second
	resolveTimeout = 5 * time.Second
)

// transport makes the HTTP client: the system's roots and those of the settings, the proxy of
// the environment, and connections by dial alone.
func (u *Upstream) transport(set *Settings) (*http.Transport, error) {
	t := transport.New()
	t.DialContext = u.dial
	t.TLSHandshakeTimeout = dialTimeout
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

// dial connects to a host by the addresses that the operator's resolvers have for it.
func (u *Upstream) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, ip)
	} else if addrs, err = u.lookup(ctx, host); err != nil {
		return nil, err
	}
	// IPv4 first: many sites have addresses of IPv6 that lead nowhere, and few have none of IPv4.
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.Unmap().BitLen() - b.Unmap().BitLen() })
	var last error
	for _, ip := range addrs {
		ip = ip.Unmap()
		if !isProxy(addr) {
			if err := u.refuse(host, ip); err != nil {
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

// isProxy reports whether an address is that of the environment's proxy, which may be on this machine.
func isProxy(addr string) bool {
	env := httpproxy.FromEnvironment()
	for _, text := range []string{env.HTTPSProxy, env.HTTPProxy} {
		if at, err := url.Parse(text); err == nil && text != "" && at.Host == addr {
			return true
		}
	}
	return false
}

// refuse refuses addresses that no origin has: a bastion's, and those that mean this machine or its link.
func (u *Upstream) refuse(host string, ip netip.Addr) error {
	switch {
	case slices.Contains(u.cfg.Own(), ip):
		return fmt.Errorf("%s is %s, which is a bastion's own address: the resolver in upstream.resolvers gives our "+
			"own answers, name one that does not ask the bastions", host, ip)
	case !ip.IsValid(), ip.IsUnspecified(), ip.IsLoopback(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
		return fmt.Errorf("%s is %s, where no origin can be", host, ip)
	}
	return nil
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
				if err := u.refuse(origin, a.Unmap()); err != nil {
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
