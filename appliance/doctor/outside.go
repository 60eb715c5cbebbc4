package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"casemate/appliance/dnsquery"
)

// Outside are addresses that a node of a closed site cannot reach, for Config.Outside: two public resolvers, which
// answer from nearly everywhere at fixed addresses, and also over HTTPS. Nothing of the node is sent there: a question
// for example.com to port 53, and no byte to port 443.
var Outside = []string{"9.9.9.9:53", "[2620:fe::fe]:53", "1.1.1.1:443", "[2606:4700:4700::1111]:443"}

// maxOutside bounds Config.Outside.
const maxOutside = 16

// parseOutside parses addresses with ports.
func parseOutside(list []string) (addrs []netip.AddrPort, err error) {
	if len(list) > maxOutside {
		return nil, fmt.Errorf("at most %d addresses outside can be tried, got %d: %w", maxOutside, len(list),
			fs.ErrInvalid)
	}
	for _, text := range list {
		a, err := netip.ParseAddrPort(text)
		if err != nil || a.Port() == 0 {
			return nil, fmt.Errorf("an address outside must have a port, like 192.0.2.1:443 or [2001:db8::1]:53, got "+
				"%q: %w", clip(text), fs.ErrInvalid)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// checkOutside tries the ways out that no name shows: another resolver, and a connection to an address.
func (r *run) checkOutside(ctx context.Context, c *Check) {
	open := make([]bool, len(r.outside))
	each(ctx, len(r.outside), parallel, func(i int) { open[i] = r.reaches(ctx, r.outside[i]) })
	report := c.warn
	if r.cfg.Closed {
		report = c.fail
	}
	var closed []string
	for i, at := range r.outside {
		switch {
		case !open[i]:
			closed = append(closed, at.String())
		case at.Port() == 53:
			report("outside-resolver", values{"detail": at.String()})
		default:
			report("outside-open", values{"detail": at.String()})
		}
	}
	if len(closed) > 0 {
		c.Text = "no answer from " + some(closed)
	}
}

// reaches reports whether something answers at an address: a question on port 53, else a connection.
func (r *run) reaches(ctx context.Context, at netip.AddrPort) bool {
	if slices.ContainsFunc(r.endpoints, func(d *endpoint) bool { return d.addr == at.Addr() }) {
		return false // a bastion is not outside
	}
	if at.Port() != 53 {
		conn, err := r.cfg.dial.to(ctx, "tcp", at)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}
	for _, network := range []string{"udp", "tcp"} {
		q := &question{name: "example.com", kind: dnsquery.A}
		if _, err := ask(ctx, r.cfg.dial, network, at, []*question{q}); err == nil && q.got {
			return true
		}
	}
	return false
}
