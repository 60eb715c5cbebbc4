package change

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"casemate/appliance/address"
	"casemate/appliance/origin"
	"casemate/pki"
)

// NotPermitted returns why names are not enabled, with the command that changes it.
func (c *Changes) NotPermitted(names ...string) string {
	flags := c.CA.Widening(names...).Flags()
	if flags == "" {
		return fmt.Sprintf("the root certificate permits it now: casemate origin add %s", names[0])
	}
	return fmt.Sprintf("%s: casemate ca rotate %s creates a root that permits it, then casemate origin add %s",
		origin.NotPermitted, flags, names[0])
}

// UnpermittedAddrs says which of a node's addresses for clients the root does not permit, and what changes that; "" if
// it permits all.
func (c *Changes) UnpermittedAddrs(node string, addrs []netip.Addr) string {
	var list []string
	for _, a := range addrs {
		if err := c.CA.Permits(a.String()); errors.Is(err, pki.ErrNotPermitted) {
			list = append(list, a.String())
		}
	}
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("the root certificate does not permit %s: clients that connect to node %s by address do not "+
		"trust it; on a member: casemate ca rotate %s", strings.Join(list, ", "), node, c.CA.Widening(list...).Flags())
}

// AdviseJoin returns what the operator of a joining node should know about its addresses for clients.
func (c *Changes) AdviseJoin(node string, advertise []string) (notes []string) {
	var addrs []netip.Addr
	for _, text := range advertise {
		if a, err := address.Parse(text); err == nil {
			addrs = append(addrs, a)
		}
	}
	if s := c.UnpermittedAddrs(node, addrs); s != "" {
		notes = append(notes, s)
	}
	return notes
}

// unpermitted is the error for an origin that cannot be added because of the state of the CA (409), neither an
// invalid request nor an internal error.
type unpermitted string

func (u unpermitted) Error() string        { return string(u) }
func (u unpermitted) Is(target error) bool { return target == fs.ErrExist }
