package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"casemate/appliance/nodeconf"
)

// paths is the network between a node and three bastions: their addresses, and why some cannot be reached.
type paths struct {
	f     *fakes
	at    map[netip.Addr]netip.Addr // a bastion's address → where the fake listens
	fault map[netip.Addr]error
}

// dial connects to where the fake bastion with that address listens.
func (p *paths) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if err := p.fault[to.Addr()]; err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	real, ok := p.at[to.Addr()]
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(real, to.Port()).String())
}

// withPaths gives the fake bastions these addresses, a list for each.
func (f *fakes) withPaths(addrs ...string) *paths {
	p := &paths{f: f, at: map[netip.Addr]netip.Addr{}, fault: map[netip.Addr]error{}}
	for i, list := range addrs {
		real := f.site.Nodes[i].Addrs[0]
		f.site.Nodes[i].Addrs = nil
		for _, text := range strings.Fields(list) {
			a := netip.MustParseAddr(text)
			p.at[a] = real
			f.site.Nodes[i].Addrs = append(f.site.Nodes[i].Addrs, a)
		}
	}
	return p
}

// broken makes the addresses with that prefix fail.
func (p *paths) broken(err error, prefixes ...string) {
	for a := range p.at {
		for _, prefix := range prefixes {
			if strings.HasPrefix(a.String(), prefix) {
				p.fault[a] = err
			}
		}
	}
}

var (
	noNet     = os.NewSyscallError("connect", syscall.ENETUNREACH)
	noAddress = os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)
	noFamily  = os.NewSyscallError("socket", syscall.EAFNOSUPPORT)
	noHostAt  = os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	noReply   = os.ErrDeadlineExceeded
)

// TestFamilies: a family that a node cannot use is one trouble, if it is any.
func TestFamilies(t *testing.T) {
	dual := []string{"10.0.0.11 fd00::11", "10.0.0.12 fd00::12", "10.0.0.13 fd00::13"}
	four := []string{"10.0.0.11", "10.0.0.12", "10.0.0.13"}
	six := []string{"fd00::11", "fd00::12", "fd00::13"}
	ulaGUA := []string{"10.0.0.11 2001:db8::11 fd00::11", "10.0.0.12 2001:db8::12 fd00::12",
		"10.0.0.13 2001:db8::13 fd00::13"}
	for _, c := range []struct {
		name      string
		site      []string
		resolvers string
		err       error
		broken    []string // prefixes
		enrolled  bool
		files     map[string]string
		want      string
		cause     string // in the first trouble
	}{
		{name: "IPv4 only", site: dual, resolvers: "10.0.0.11 10.0.0.12", err: noNet, broken: []string{"fd"}},
		{name: "IPv6 disabled", site: dual, resolvers: "10.0.0.11", err: noAddress, broken: []string{"fd"}},
		{name: "a kernel without IPv6", site: dual, resolvers: "10.0.0.11", err: noFamily, broken: []string{"fd"}},
		{name: "IPv6 only", site: dual, resolvers: "fd00::11 fd00::12 fd00::13", err: noNet, broken: []string{"10."}},
		{name: "both", site: dual, resolvers: "10.0.0.11 10.0.0.12 fd00::13"},
		{name: "both, with IPv6 first", site: dual, resolvers: "fd00::11 10.0.0.12 fd00::13"},
		{name: "a site with IPv6 only", site: six, resolvers: "fd00::11 fd00::12"},
		{name: "IPv6 is lost on the way", site: dual, resolvers: "10.0.0.11 10.0.0.12 fd00::13", err: noReply,
			broken: []string{"fd"}, want: "family-lost?", cause: "IPv6 is unreachable from this node: none of the " +
				"bastions' IPv6 addresses answers (fd00::11, fd00::12, fd00::13)"},
		{name: "IPv6 is rejected on the way", site: dual, resolvers: "10.0.0.11", err: noHostAt,
			broken: []string{"fd"}, want: "family-lost?"},
		{name: "IPv4 is lost on the way", site: dual, resolvers: "fd00::11 fd00::12 10.0.0.13", err: noReply,
			broken: []string{"10."}, want: "family-lost?", cause: "IPv4 is unreachable from this node"},
		{name: "the first resolver is lost", site: dual, resolvers: "fd00::11 10.0.0.12", err: noReply,
			broken: []string{"fd"}, want: "family-lost? resolver-family?"},
		{name: "the first resolver has no route", site: dual, resolvers: "fd00::11 10.0.0.12", err: noNet,
			broken: []string{"fd"}, enrolled: true},
		{name: "IPv6 only, and the resolvers have none", site: dual, resolvers: "10.0.0.11 10.0.0.12", err: noNet,
			broken: []string{"10."}, enrolled: true, want: "resolver-family", cause: "/etc/resolv.conf lists " +
				"resolvers that this node cannot use, because IPv4 is unreachable from it: 10.0.0.11, 10.0.0.12."},
		{name: "the fourth resolver would work", site: dual, resolvers: "10.0.0.11 10.0.0.12 10.0.0.13 fd00::11",
			err: noNet, broken: []string{"10."}, enrolled: true, want: "many-resolvers? resolver-family"},
		{name: "IPv6 only at a site without", site: four, resolvers: "10.0.0.11 10.0.0.12", err: noNet,
			broken: []string{"10."}, enrolled: true, want: "no-family",
			cause: "IPv4 is unreachable from this node, because it has no IPv4 address or no IPv4 route: it cannot " +
				"use 10.0.0.11, 10.0.0.12, 10.0.0.13."},
		{name: "the same without what enroll leaves", site: four, resolvers: "10.0.0.11 10.0.0.12", err: noNet,
			broken: []string{"10."}, want: "no-family"},
		{name: "one bastion has another family", site: []string{"10.0.0.11", "fd00::12", "10.0.0.13 fd00::13"},
			resolvers: "fd00::12 fd00::13", err: noNet, broken: []string{"10."}, want: "no-family?"},
		{name: "no route to one prefix", site: ulaGUA, resolvers: "fd00::11 fd00::12 fd00::13", err: noNet,
			broken: []string{"10.", "2001:"}},
		{name: "one prefix is lost", site: ulaGUA, resolvers: "10.0.0.11", err: noReply, broken: []string{"2001:"},
			want: "unreachable?"},
		{name: "one bastion is dead", site: dual, resolvers: "10.0.0.11 10.0.0.12 fd00::13", err: noReply,
			broken: []string{"10.0.0.12", "fd00::12"}, want: "unreachable?"},
		{name: "all are dead", site: dual, resolvers: "10.0.0.11 fd00::12", err: noReply,
			broken: []string{"10.", "fd"}, enrolled: true, want: "unreachable"},
		{name: "a router's resolver is not a cache", site: dual, resolvers: "fe80::1%eth0 10.0.0.11 fd00::12",
			enrolled: true, want: "foreign-among"},
		{name: "node-local DNS over IPv6", site: dual, resolvers: "fd77::53 10.0.0.11 fd00::12", enrolled: true,
			files: map[string]string{"/proc/net/if_inet6": "fd770000000000000000000000000053 03 80 00 80 dns\n"}},
		{name: "a cache of another machine", site: dual, resolvers: "fd77::53 10.0.0.11 fd00::12", enrolled: true,
			want: "foreign-among"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakes(t, 3)
			p := f.withPaths(c.site...)
			p.at[netip.MustParseAddr("fd77::53")], p.at[netip.MustParseAddr("fe80::1%eth0")] =
				netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")
			p.broken(c.err, c.broken...)
			f.write("/etc/resolv.conf", "nameserver "+strings.ReplaceAll(c.resolvers, " ", "\nnameserver ")+"\n")
			if c.enrolled {
				f.write(EnrolledFile, "mode dns\n"+strings.Join(texts(f.site.Addrs()), "\n")+"\n")
			}
			for name, text := range c.files {
				f.write(name, text)
			}
			cfg := f.config()
			cfg.dial = p.dial
			r := f.run(cfg)
			if got := strings.Join(found(r), " "); got != c.want {
				t.Errorf("found %q, want %q\n%s", got, c.want, text(r))
			}
			perFamily := 0
			for _, check := range r.Checks {
				for _, tr := range check.Troubles {
					if tr.ID == "family-lost" || tr.ID == "no-family" {
						perFamily++
					}
				}
				if c.cause != "" && len(check.Troubles) > 0 {
					if !strings.Contains(check.Troubles[0].Cause, c.cause) {
						t.Errorf("the cause is %q, want %q", check.Troubles[0].Cause, c.cause)
					}
					c.cause = ""
				}
			}
			if perFamily > 1 {
				t.Errorf("a family is reported %d times\n%s", perFamily, text(r))
			}
		})
	}
}

// A link-local address with its zone, which is no part of a URL, names a bastion too.
func TestBastionWithZone(t *testing.T) {
	f := newFakes(t, 1)
	p := f.withPaths("fd00::11")
	p.at[netip.MustParseAddr("fe80::1%eth0")] = netip.MustParseAddr("127.0.0.1")
	f.write("/etc/resolv.conf", "nameserver fd00::11\n")
	cfg := f.config()
	cfg.dial, cfg.Bastions = p.dial, []string{"[fe80::1%eth0]"}
	if r := f.run(cfg); r.Failed+r.Warnings > 0 || len(r.Bastions) != 2 {
		t.Errorf("found %q at %q\n%s", found(r), r.Bastions, text(r))
	}
}

// TestCuresForIPv6: with an IPv6 address of a bastion, every URL and every address with a port in a cure is valid, and
// commands are those of the family.
func TestCuresForIPv6(t *testing.T) {
	urls, ports := regexp.MustCompile("https?://[^\\s`'\"<]+"), regexp.MustCompile(`-connect (\S+)`)
	for _, tr := range troubles {
		for _, a := range []string{"10.0.0.11", "fd00::11"} {
			c := &Check{kinds: map[string]bool{"nm": true, "dns": true, "plain": true}}
			c.fail(tr.id, values{"bastion": a, "bastions": a, "name": "quay.io", "detail": "x", "file": "/f"})
			cure := strings.Join(c.Troubles[0].Cure, "\n")
			for _, u := range urls.FindAllString(cure, -1) {
				if p, err := url.Parse(u); err != nil || p.Hostname() == "" ||
					strings.Contains(u, "fd00") && p.Hostname() != a {
					t.Errorf("%s: %s is no URL (%v)", tr.id, u, err)
				}
			}
			for _, m := range ports.FindAllStringSubmatch(cure, -1) {
				if host, port, err := net.SplitHostPort(m[1]); err != nil || host != a || port != "443" {
					t.Errorf("%s: %s is no address with a port (%v)", tr.id, m[1], err)
				}
			}
			wrong := []string{"1472", "ip -4", "fragmentation needed"}
			if a == "10.0.0.11" {
				wrong = []string{"1452", "1280", "ip -6", "packet too big"}
			}
			for _, w := range wrong {
				if strings.Contains(cure, w) {
					t.Errorf("%s at %s says %q:\n%s", tr.id, a, w, cure)
				}
			}
			if strings.Contains(cure, "ping -M") && a == "fd00::11" && !(strings.Contains(cure, "-s 1452") &&
				strings.Contains(cure, "mtu 1280") && strings.Contains(cure, "packet too big")) {
				t.Errorf("%s: the MTU of IPv6 is missing:\n%s", tr.id, cure)
			}
		}
	}
}

// TestResolversInCures: what a cure sets has the families that the node can reach, one of each within three.
func TestResolversInCures(t *testing.T) {
	ends := func(up string, list ...string) (ends []*endpoint) {
		for i, addrs := range list {
			for _, a := range strings.Fields(addrs) {
				d := &endpoint{addr: netip.MustParseAddr(a), name: fmt.Sprintf("n%d", i)}
				if !slices.Contains(strings.Fields(up), familyOf(d.addr)) {
					d.http, d.https, d.tcp, d.udp = noNet, noNet, noNet, noNet
				}
				ends = append(ends, d)
			}
		}
		return ends
	}
	dual := []string{"10.0.0.11 fd00::11", "10.0.0.12 fd00::12", "10.0.0.13 fd00::13"}
	for _, c := range []struct{ up, want, four, six string }{
		{"IPv4 IPv6", "10.0.0.11 10.0.0.12 fd00::13", "10.0.0.11 10.0.0.12", "fd00::13"},
		{"IPv4", "10.0.0.11 10.0.0.12 10.0.0.13", "10.0.0.11 10.0.0.12 10.0.0.13", ""},
		{"IPv6", "fd00::11 fd00::12 fd00::13", "", "fd00::11 fd00::12 fd00::13"},
		{"", "10.0.0.11 10.0.0.12 fd00::13", "10.0.0.11 10.0.0.12", "fd00::13"},
	} {
		r := &run{endpoints: ends(c.up, dual...)}
		r.lost = r.lostFamilies(r.endpoints)
		check := &Check{kinds: map[string]bool{"nm": true, "plain": true, "resolved": true}}
		check.fail("no-resolver", r.here(values{"file": resolvFile}))
		cure := strings.Join(check.Troubles[0].Cure, "\n")
		for _, want := range []string{"DNS=" + c.want + "\\n", "printf 'nameserver %s\\n' " + c.want + " >",
			"ipv4.dns '" + c.four + "' ipv4.ignore", "ipv6.dns '" + c.six + "' ipv6.ignore"} {
			if !strings.Contains(cure, want) {
				t.Errorf("%q: no %q in\n%s", c.up, want, cure)
			}
		}
	}
}

func TestBare(t *testing.T) {
	for pattern, want := range map[string]string{
		"quay.io": "quay.io", "Quay.io:443": "quay.io", "quay.io_443_": "quay.io", "quay.io/team": "quay.io",
		"10.0.0.11": "10.0.0.11", "10.0.0.11:5000": "10.0.0.11", "fd00::11": "fd00::11", "[fd00::11]": "fd00::11",
		"[FD00::0:11]:5000": "fd00::11", "[fd00::11]:5000/team": "fd00::11", "[fd00::11]_5000_": "fd00::11",
		"*.io": "*.io",
	} {
		if got := bare(pattern); got != want {
			t.Errorf("%s is %q, want %q", pattern, got, want)
		}
	}
	o := &overrules{r: &run{site: nodeconf.Site{}}, nodes: map[string]bool{"fd00::11": true}}
	for to, want := range map[string]bool{"https://[fd00::11]": false, "[fd00::11]:443/v2": false, "fd00::11": false,
		"https://[fd00::12]:5000": true, "[::1]:5000": false} {
		if got := o.elsewhere(to); got != want {
			t.Errorf("%s is elsewhere: %v", to, got)
		}
	}
}

func TestOwnAddrs(t *testing.T) {
	got := ownAddrs("fd770000000000000000000000000053 03 80 00 80 dns\nfe800000000000000000000000000001 02 40 20 80 " +
		"eth0\nzz770000000000000000000000000053 03 80 00 80 x\nfd77 1 2 3 4 5\n")
	if fmt.Sprint(got) != "[fd77::53 fe80::1]" {
		t.Error(got)
	}
}
