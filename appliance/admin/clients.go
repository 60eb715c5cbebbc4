package admin

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/clients"
	"casemate/appliance/doctor"
	"casemate/appliance/egress"
	"casemate/appliance/missing"
)

// clientRoutes serves who uses the bastions.
func (a *API) clientRoutes(on *routes) {
	on.pages("GET /v1/clients", to(access.Inspect), a.getClients)
	on.json("GET /v1/clients/show", to(access.Inspect), a.showClient)
}

// Client is a client with what other rooms know of it.
type Client struct {
	clients.Client
	Name string `json:"name,omitempty"` // of its address; "" while it is not known
	// Misses is how many entries of the missing book it has asked for; each entry has its newest clients only.
	Misses int `json:"misses"`
}

// ClientDetails is everything about one client.
type ClientDetails struct {
	Client
	Missing []missing.Listed `json:"missing"` // the first maxOfClient of GET /v1/missing
	Egress  []egress.Entry   `json:"egress"`  // the newest maxOfClient of GET /v1/egress
	// Doctor is a line for the client's shell that finds out why it cannot use the bastions.
	Doctor string `json:"doctor"`
}

// maxOfClient is how many misses, and how many names, ClientDetails has.
const maxOfClient = 100

// getClients lists the clients, the newest first.
func (a *API) getClients(r *http.Request, p page) (out pagedAnswer, err error) {
	text, err := textIn(r)
	if err != nil {
		return out, err
	}
	var when, client string
	if err := positioned(p, &when, &client); err != nil {
		return out, err
	}
	last, err := timeAt(when)
	if err != nil {
		return out, err
	}
	list, err := a.Clients.List()
	if err != nil {
		return out, err
	}
	counts, err := a.misses.byClient(a)
	if err != nil {
		return out, err
	}
	behind := clients.Client{Client: client, Last: last}
	text = strings.ToLower(text)
	out.list = func(yield func(element, error) bool) {
		for _, c := range list {
			if p.after != "" && clients.Compare(c, behind) <= 0 {
				continue
			}
			if v := a.client(c, counts); v.has(text) &&
				!yield(element{v, position(c.Last.Format(time.RFC3339Nano), c.Client)}, nil) {
				return
			}
		}
	}
	return out, nil
}

func (a *API) client(c clients.Client, misses map[string]int) Client {
	return Client{c, a.ClientNames.Of(c), misses[c.Client]}
}

// has reports whether a client is found by a text in lower case.
func (c Client) has(text string) bool {
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return text == "" || in(c.Client.Client) || in(c.Address) || in(c.Name) || slices.ContainsFunc(c.Programs, in) ||
		c.LastError != nil && in(c.LastError.What)
}

// showClient returns everything about one client.
func (a *API) showClient(r *http.Request) (any, error) {
	name, err := addressIn(r.URL.Query().Get("client"))
	if err != nil {
		return nil, err
	}
	list, err := a.Clients.List()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(c clients.Client) bool { return c.Client == name })
	if i < 0 {
		return nil, fmt.Errorf("no client with the address %s has used the bastions lately: %w", name, fs.ErrNotExist)
	}
	counts, err := a.misses.byClient(a)
	if err != nil {
		return nil, err
	}
	out := ClientDetails{Client: a.client(list[i], counts), Missing: []missing.Listed{}, Egress: []egress.Entry{}}
	network, err := clientsIn(name)
	if err != nil {
		return nil, err
	}
	if out.Missing, err = a.missesOf(r, network); err != nil {
		return nil, err
	}
	used, _, err := a.Egress.List(egress.Filter{Clients: network})
	if err != nil {
		return nil, err
	}
	out.Egress = append(out.Egress, used[:min(len(used), maxOfClient)]...)
	out.Doctor, err = a.doctorLine()
	return out, cmp.Or(err, r.Context().Err())
}

// missesOf returns the first misses of a client.
func (a *API) missesOf(r *http.Request, client netip.Prefix) ([]missing.Listed, error) {
	all, known, err := a.misses.read(r.Context(), a)
	if err != nil {
		return nil, err
	}
	found, err := missing.Pages(needs(all), missing.Filter{Client: client}, known, "")
	if err != nil {
		return nil, err
	}
	list := []missing.Listed{}
	for l := range found {
		if list = append(list, l); len(list) == maxOfClient {
			break
		}
	}
	return list, nil
}

// doctorLine returns the line that runs the doctor on a node, as casemate doctor --line prints it.
func (a *API) doctorLine() (string, error) {
	program, err := a.Executable.Info()
	if err != nil {
		return "", err
	}
	site, err := a.Site()
	if err != nil {
		return "", err
	}
	var words []string
	for _, at := range site.Addrs() {
		words = append(words, at.String())
	}
	return doctor.Line(program, site.Addrs(), "doctor", words...), nil
}
