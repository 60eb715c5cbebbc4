package appliance

import (
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"

	"casemate/appliance/clientconn"
	"casemate/appliance/clients"
	"casemate/appliance/edge"
	"casemate/appliance/names"
	"casemate/appliance/origin"
	"casemate/appliance/setup"
	"casemate/cluster/share"
)

func (a *Appliance) openClients() (err error) {
	a.clients, err = clients.Open(clients.Config{
		File: filepath.Join(a.cfg.Data, setup.ClientsFile), Node: a.cfg.Node, Tree: a.tree.Sub("clients"),
		Now: a.opt.Now, Publish: publishBooks, Log: a.log.With("room", "clients"),
	})
	a.clientNames = clients.NewNames(clients.NamesConfig{
		Own: a.ownNames,
		Resolvers: func(addr netip.Addr) []netip.AddrPort {
			v := a.current.State()
			return clients.Reverse(v.Settings.Forward, addr,
				func(r netip.Addr) bool { return v.Hosts.NodeAddrs[share.Of(r)] })
		},
		Now: a.opt.Now,
	})
	return err
}

// client records a request of a client in the book of clients. Requests that another node has forwarded are in that
// node's book.
func (a *Appliance) client(service string, r *http.Request, status int) {
	if edge.Passed(r) {
		return
	}
	q := clients.Request{
		Client: clientconn.AddrOf(r), TLS: r.TLS != nil, Agent: r.UserAgent(), Status: status,
		Content: service == "registry" || service == "files", Enrol: enrols(service, r, status),
		What: func() string {
			scheme := "http"
			if r.TLS != nil {
				scheme = "https"
			}
			// Without the query, which may have a credential.
			return fmt.Sprintf("%s %s://%s%s: %d", r.Method, scheme, origin.Fold(r.Host), r.URL.EscapedPath(), status)
		},
	}
	// Clients begin without credentials, and use HEAD to find out whether something exists.
	if status == http.StatusUnauthorized && r.Header.Get("Authorization") == "" ||
		status == http.StatusNotFound && r.Method == http.MethodHead {
		q.Status = 0
	}
	a.clients.Requested(q)
}

// enrols reports whether a request was answered with what a node needs to trust the bastions.
func enrols(service string, r *http.Request, status int) bool {
	return service == "pages" && r.Method == http.MethodGet && status == http.StatusOK &&
		(r.URL.Path == "/ca.crt" || r.URL.Path == "/enroll")
}

// ownNames returns the names of addresses from the operator's records and from those of the bastions. With several it
// is the first.
func (a *Appliance) ownNames(addrs map[netip.Addr]bool) map[netip.Addr]string {
	found := map[netip.Addr]string{}
	add := func(addr netip.Addr, name string) {
		if addrs[addr] && found[addr] == "" {
			found[addr] = name
		}
	}
	list, err := a.current.Nodes()
	if err != nil {
		a.log.Warn("the names of clients that are bastions cannot be read", "err", err)
	}
	for _, n := range list {
		for _, addr := range n.Addrs {
			add(addr, n.Name+"."+a.current.State().Settings.Domain)
		}
	}
	for rec, err := range names.All(a.tree) {
		if err != nil {
			a.log.Warn("the names of clients cannot be looked for in the operator's records", "err", err)
			break
		}
		if rec.Type != "A" && rec.Type != "AAAA" || rec.Name[0] == '*' {
			continue
		}
		for _, v := range rec.Values {
			if addr, err := netip.ParseAddr(v); err == nil {
				add(addr, rec.Name)
			}
		}
	}
	return found
}
