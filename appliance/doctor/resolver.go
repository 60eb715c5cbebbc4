package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"casemate/appliance/dnsquery"
)

// usedResolvers is how many resolvers in resolv.conf programs use (resolv.conf(5), MAXNS).
const usedResolvers = 3

// checkResolver checks which resolvers the programs on this node use.
func (r *run) checkResolver(_ context.Context, c *Check) {
	ours := r.ourAddrs()
	v := r.here(values{"file": r.node.file})
	with := func(detail string) values {
		out := values{"detail": detail}
		for k, s := range v {
			out[k] = s
		}
		return out
	}
	var foreign []string
	first, caches, known := true, 0, 0
	for i, a := range r.node.servers {
		switch {
		case ours[a]:
			known++
		case r.local(a):
			caches++
		default:
			foreign = append(foreign, a.String())
			first = first && i == 0
		}
	}
	switch {
	case len(r.node.servers) == 0:
		c.fail("no-resolver", v)
	case known == 0 && caches == 0:
		c.fail("foreign-only", with(some(foreign)))
	case len(foreign) > 0 && (ours[r.node.servers[0]] || r.local(r.node.servers[0])) && !r.node.kinds["resolved"]:
		c.warn("foreign-among", with(some(foreign))) // the C library asks it only when those before it do not answer
	case len(foreign) > 0:
		c.fail("foreign-among", with(some(foreign)))
	}
	r.checkResolverFamilies(c, ours)
	if n := len(r.node.listed); n > usedResolvers {
		c.warn("many-resolvers", with(fmt.Sprint(n)))
	}
	if text, ok := r.read("/etc/nsswitch.conf"); ok {
		sources, ok := parseHostsLine(text)
		if ok && !slices.Contains(sources, "dns") && !slices.Contains(sources, "resolve") {
			c.fail("nsswitch", values{"file": "/etc/nsswitch.conf", "detail": some(sources)})
		}
	}
	if r.node.kinds["resolved"] {
		if file, ok := r.dnssec(); ok {
			c.fail("dnssec", values{"file": file})
		}
	}
	for _, f := range append([]string{"/etc/NetworkManager/NetworkManager.conf"},
		r.glob("/etc/NetworkManager/conf.d/*.conf")...) {
		text, _ := r.read(f)
		var others []string
		for _, list := range parseUnit(text, "global-dns-domain-*", "servers") {
			for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == ';' }) {
				if a, err := netip.ParseAddr(s); err == nil && !ours[a.Unmap()] && !r.local(a) {
					others = append(others, s)
				}
			}
		}
		if others != nil {
			c.fail("global-dns", values{"file": f, "detail": some(others)})
		}
	}
	c.Text = some(texts(r.node.servers)) + " by " + r.node.file
	if r.node.file == behindStub {
		c.Text += ", through systemd-resolved's stub"
	}
	if caches > 0 {
		c.Text += "; the upstream servers of a local cache are unknown"
	}
}

// dnssec reports whether systemd-resolved validates DNSSEC, and which file says so; the last setting wins
// (resolved.conf(5)).
func (r *run) dnssec() (file string, on bool) {
	files := []string{"/etc/systemd/resolved.conf"}
	var drop []string
	for _, dir := range []string{"/usr/lib/systemd", "/run/systemd", "/etc/systemd"} {
		drop = append(drop, r.glob(dir+"/resolved.conf.d/*.conf")...)
	}
	slices.SortStableFunc(drop, func(a, b string) int {
		return strings.Compare(a[strings.LastIndexByte(a, '/'):], b[strings.LastIndexByte(b, '/'):])
	})
	for _, f := range append(files, drop...) {
		text, _ := r.read(f)
		for _, v := range parseUnit(text, "Resolve", "DNSSEC") {
			file, on = f, v == "yes" || v == "true" || v == "1" || v == "on"
		}
	}
	return file, on
}

// names returns all names that the bastions answer for, sorted.
func (r *run) names() (list []string) {
	for _, o := range r.site.Origins {
		list = append(append(list, o.Host), o.Aliases...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// ourAddrs returns the bastions' addresses.
func (r *run) ourAddrs() map[netip.Addr]bool {
	ours := map[netip.Addr]bool{}
	for _, d := range r.endpoints {
		ours[d.addr] = true
	}
	return ours
}

// lookup resolves a name like the programs on this node.
func (r *run) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	res := &net.Resolver{PreferGo: true}
	if r.cfg.Root != "/" {
		if list := r.node.hosts[name]; list != nil {
			return list, nil
		}
		res.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			err := fmt.Errorf("%s%s lists no resolver", r.cfg.Root, resolvFile)
			for _, a := range r.node.listed[:min(usedResolvers, len(r.node.listed))] {
				var conn net.Conn
				conn, err = r.cfg.dial(ctx, network, netip.AddrPortFrom(a, r.cfg.Ports.DNS).String())
				if err == nil {
					return conn, nil
				}
			}
			return nil, err
		}
	}
	list, err := res.LookupNetIP(ctx, "ip", name)
	for i := range list {
		list[i] = list[i].Unmap()
	}
	return list, err
}

// findings groups names by what is wrong with them, so that forty names with one cause are one trouble.
type findings struct {
	mu    sync.Mutex
	names map[string][]string // by trouble and detail
	of    map[string][2]string
}

func (f *findings) add(id, detail, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names == nil {
		f.names, f.of = map[string][]string{}, map[string][2]string{}
	}
	key := id + "\x00" + detail
	f.names[key], f.of[key] = append(f.names[key], name), [2]string{id, detail}
}

// report reports each group as one trouble.
func (f *findings) report(report func(id string, v values), v func(detail string, names []string) values) {
	for key, names := range f.names {
		slices.Sort(names)
		of := f.of[key]
		report(of[0], v(of[1], names))
	}
}

// checkNames checks that each name resolves to a bastion, through this node's resolver and at each bastion itself.
func (r *run) checkNames(ctx context.Context, c *Check) {
	names := r.names()
	ours := r.ourAddrs()
	hosts := map[string]bool{}
	for _, name := range names {
		for _, a := range r.node.hosts[name] {
			if !ours[a] {
				hosts[name] = true
			}
		}
	}
	for name := range hosts {
		c.fail("hosts-file", values{"file": hostsFile, "names": name, "name": name,
			"detail": some(texts(r.node.hosts[name]))})
	}

	bytes := r.askBastions(ctx, c, names)
	text := fmt.Sprintf("%d, each at a bastion's address", len(names))
	if r.states["resolver"] == Failed {
		text = fmt.Sprintf("%d, checked at the bastions only, because this node's resolver is wrong", len(names))
	} else {
		text += unbegun(r.askNode(ctx, c, slices.DeleteFunc(slices.Clone(names), func(n string) bool {
			return hosts[n]
		})))
	}
	c.Text = fmt.Sprintf("%s; %d bytes of responses over TCP", text, bytes)
}

// askBastions queries each bastion for all names, A and AAAA, over one TCP connection. This checks DNS over TCP,
// large responses, and NODATA for an address type that a name does not have.
func (r *run) askBastions(ctx context.Context, c *Check, names []string) (bytes int) {
	var mu sync.Mutex
	open := slices.DeleteFunc(r.open(), func(d *endpoint) bool { return d.tcp != nil })
	each(ctx, len(open), parallel, func(i int) {
		d := open[i]
		list := make([]*question, 0, 2*len(names))
		for _, n := range names {
			list = append(list, &question{name: n, kind: dnsquery.A},
				&question{name: n, kind: dnsquery.AAAA})
		}
		n, err := ask(ctx, r.cfg.dial, "tcp", netip.AddrPortFrom(d.addr, r.cfg.Ports.DNS), list)
		mu.Lock()
		bytes += n
		mu.Unlock()
		if err != nil {
			c.fail("dns-tcp", values{"bastion": d.addr.String(), "detail": clip(err.Error()), "name": names[0]})
		}
		var lost, refused, nxdomain []string
		for j := 0; j < len(list); j += 2 {
			switch four, aaaa := list[j], list[j+1]; {
			case !four.got || !aaaa.got:
			case four.rcode == dnsquery.Refused:
				refused = append(refused, four.name)
			case len(four.addrs) == 0 && len(aaaa.addrs) == 0:
				lost = append(lost, four.name)
			case four.rcode == dnsquery.NameError || aaaa.rcode == dnsquery.NameError:
				nxdomain = append(nxdomain, four.name)
			}
		}
		if refused != nil {
			c.fail("dns-refused", values{"detail": d.addr.String()})
		}
		if lost != nil {
			c.fail("name-unknown", values{"bastion": d.addr.String(), "names": some(lost), "name": lost[0]})
		}
		if nxdomain != nil {
			c.fail("aaaa", r.here(values{"detail": d.addr.String(), "names": some(nxdomain)}))
		}
	})
	return bytes
}

// unbegun formats how many names there was no time for.
func unbegun(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (no time for %d of them)", n)
}

// lookupTime is the time limit of a lookup: the timeout of one dead resolver, five seconds unless resolv.conf sets
// less, and a little more.
const lookupTime = 6 // seconds

// follow resolves the names like the programs on this node, and returns for how many there was no time. It calls
// found with the addresses of each name that are not a bastion's.
func (r *run) follow(ctx context.Context, names []string,
	found func(name string, others []string, err error)) (left int) {
	ours := r.ourAddrs()
	return each(ctx, len(names), lookups, func(i int) {
		own, cancel := context.WithTimeout(ctx, lookupTime*second)
		defer cancel()
		addrs, err := r.lookup(own, names[i])
		var others []string
		for _, a := range addrs {
			if !ours[a] {
				others = append(others, a.String())
			}
		}
		slices.Sort(others)
		found(names[i], others, err)
	})
}

// askNode checks what the names resolve to on this node, and returns for how many there was no time.
func (r *run) askNode(ctx context.Context, c *Check, names []string) (left int) {
	var f findings
	left = r.follow(ctx, names, func(name string, others []string, err error) {
		var no *net.DNSError
		switch is := asDNS(err, &no); {
		case is && no.IsNotFound:
			f.add("name-lost", "", name)
		case err != nil:
			f.add("lookup-timeout", clip(why(err)), name)
		case others != nil:
			f.add("name-elsewhere", some(others), name)
		}
	})
	f.report(c.fail, func(detail string, names []string) values {
		return r.here(values{"detail": detail, "names": some(names), "name": names[0]})
	})
	// What a cache on the node returns for a name that has addresses of one family is only visible in a query for the
	// other.
	i := slices.IndexFunc(r.node.listed, func(a netip.Addr) bool {
		return !slices.ContainsFunc(r.endpoints, func(d *endpoint) bool { return d.addr == a && d.udp != nil })
	})
	if i < 0 || len(names) == 0 {
		return left
	}
	server := r.node.listed[i]
	var list []*question
	for _, n := range names {
		list = append(list, &question{name: n, kind: dnsquery.A}, &question{name: n, kind: dnsquery.AAAA})
	}
	ctx, cancel := context.WithTimeout(ctx, 4*second)
	defer cancel()
	// a resolver that does not answer was reported earlier
	ask(ctx, r.cfg.dial, "udp", netip.AddrPortFrom(server, r.cfg.Ports.DNS), list)
	var nxdomain []string
	for _, q := range list {
		if q.got && q.rcode == dnsquery.NameError {
			nxdomain = append(nxdomain, q.name)
		}
	}
	nxdomain = slices.Compact(nxdomain)
	if nxdomain != nil && len(f.names) == 0 {
		c.fail("aaaa", r.here(values{"detail": server.String(), "names": some(nxdomain)}))
	}
	return left
}
