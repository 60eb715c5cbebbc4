package appliance

import (
	"context"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"casemate/appliance/clientconn"
	"casemate/appliance/clients"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/routing"
)

// missed records a miss in the missing book.
func (a *Appliance) missed(r *http.Request, kind, name, detail string) {
	q := missing.Question{
		Kind: kind, Name: name, Detail: detail, Client: clientconn.AddrOf(r),
		Method: r.Method, Agent: r.UserAgent(), Accept: strings.Join(r.Header.Values("Accept"), ","),
	}
	if kind != missing.File { // files are public, so an unverified user name may be anything
		q.User = a.registry.Reader(r)
	}
	a.note(q)
}

func (a *Appliance) miss(kind, name, detail string, client netip.Addr) {
	a.note(missing.Question{Kind: kind, Name: name, Detail: detail, Client: client})
	a.rehearsal.missing(kind, name)
}

func (a *Appliance) note(q missing.Question) {
	noise := a.book.Note(q)
	a.metrics.Miss(q.Kind, noise)
	if q.Kind == missing.DNS && noise == "" {
		a.clients.Failed(q.Client, clients.DNS, "DNS "+q.Name+" "+q.Detail+": no such name here")
	}
}

// missFacts implements missing.Facts.
type missFacts struct {
	a    *Appliance
	host string // the first label of this host's own name
}

func (a *Appliance) missFacts() missFacts {
	name, _ := os.Hostname()
	label, _, _ := strings.Cut(strings.ToLower(name), ".")
	return missFacts{a, label}
}

func (f missFacts) Known(host string) bool {
	v := f.a.current.State()
	if at, _ := v.Hosts.Find(host); at != routing.Unknown {
		return true
	}
	if _, known := v.Origins.Get(host); known {
		return true
	}
	_, err := f.a.tree.Stat("names/" + host)
	return err == nil
}

func (f missFacts) Node(label string) bool {
	return label != "" && label == f.host || f.a.current.State().Hosts.Nodes[label]
}

func (f missFacts) Registry(host string) bool {
	o, _ := f.a.current.State().Origins.Get(origin.Fold(host))
	return o.Registry
}

func (f missFacts) Holds(url string) bool {
	_, _, err := f.a.files.Resolve(context.Background(), url)
	return err == nil
}
