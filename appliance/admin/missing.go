package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/address"
	"casemate/appliance/current"
	"casemate/appliance/missing"
	"casemate/appliance/usage"
	"casemate/appliance/wanted"
	"casemate/cluster/share"
)

// missingRoutes serves the missing book.
func (a *API) missingRoutes(on *routes) {
	on.pages("GET /v1/missing", to(access.List), a.getMissing)
	on.removes("DELETE /v1/missing", to(access.Operate), a.missesToRemove,
		func(r *http.Request) (any, error) { return nil, a.Book.Clear(r.Context()) })
	on.json("DELETE /v1/missing/entries", to(access.Operate), a.forgetMissing)
	on.json("GET /v1/missing/lists", to(access.List), a.listMissing)
	on.json("GET /v1/missing/clients", to(access.List), a.missingClients)
	on.json("PUT /v1/missing/marks", to(access.Operate), a.markMissing)
}

// getMissing lists the missing book, or the part of it that the parameters select.
func (a *API) getMissing(r *http.Request, p page) (out pagedAnswer, err error) {
	by, entries, known, err := a.selectedMisses(r)
	if err != nil {
		return out, err
	}
	if all, _ := strconv.ParseBool(r.URL.Query().Get("all")); !all {
		entries = needs(entries)
	}
	found, err := missing.Pages(entries, by, known, p.after)
	out.list = func(yield func(element, error) bool) {
		for l, at := range found {
			if r.Context().Err() != nil {
				yield(element{}, r.Context().Err())
				return
			}
			if !yield(element{l, at}, nil) {
				return
			}
		}
	}
	return out, err
}

// maxText is the length of a text that lists are filtered by, in bytes.
const maxText = 200

// textIn returns the parameter q, by which lists are filtered.
func textIn(r *http.Request) (string, error) {
	q := r.URL.Query().Get("q")
	if len(q) > maxText {
		return "", usage.Errorf("q has at most %d bytes, got %d", maxText, len(q))
	}
	return q, nil
}

// missesBy returns which entries a request selects.
func missesBy(r *http.Request) (by missing.Filter, err error) {
	q := r.URL.Query()
	if by.Text, err = textIn(r); err != nil {
		return by, err
	}
	if by.Kind = q.Get("kind"); by.Kind != "" && !slices.Contains(missing.Kinds, by.Kind) {
		return by, usage.Errorf("kind must be one of %s, got %.20q", strings.Join(missing.Kinds, ", "), by.Kind)
	}
	client := q.Get("client")
	if user, isUser := strings.CutSuffix(client, "@"); isUser {
		by.User = user
		return by, nil
	}
	if by.Client, err = clientsIn(client); err != nil {
		return by, usage.Errorf("client must be an address, a network like 10.0.0.0/8, or a user like ada@, got %.80q",
			client)
	}
	return by, nil
}

// needs returns the entries that show a need, of those of All.
func needs(all []missing.Entry) []missing.Entry {
	if i := slices.IndexFunc(all, func(e missing.Entry) bool { return e.Noise != "" }); i >= 0 {
		return all[:i]
	}
	return all
}

// misses remembers the missing book of all nodes, and which of its entries would be answered: both are costly for a
// book of ten thousand entries, and pages that browsers show are made again whenever something changes. What it
// remembers is used only while nothing has changed that it depends on.
type misses struct {
	mu      sync.Mutex
	book    uint64         // Book.Changed
	index   uint64         // of the tree
	state   *current.State // what the tree says of origins and settings
	all     []missing.Entry
	counts  map[string]int // needs by client, as in share.Of; nil: not counted yet
	answers map[missKey]missAnswer
}

type missKey struct{ kind, name string }

type missAnswer struct {
	by string
	ok bool
}

// read returns the entries of the missing book, which must not be changed, and what is known of them.
func (m *misses) read(ctx context.Context, a *API) ([]missing.Entry, missing.Known, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.refresh(a); err != nil {
		return nil, missing.Known{}, err
	}
	answered := a.Lookup.Answered(ctx)
	answers := m.answers
	return m.all, missing.Known{
		Answered: func(e missing.Entry) (string, bool) {
			k := missKey{e.Kind, e.Name}
			m.mu.Lock()
			known, ok := answers[k]
			m.mu.Unlock()
			if ok {
				return known.by, known.ok
			}
			known.by, known.ok = answered(e)
			if ctx.Err() == nil { // otherwise it was not looked for to the end
				m.mu.Lock()
				answers[k] = known
				m.mu.Unlock()
			}
			return known.by, known.ok
		},
		Reach: a.Lookup.Enabling, Package: a.Repositories.Package, Now: time.Now(),
	}, nil
}

// refresh reads the book if something has changed. The caller holds m.mu.
func (m *misses) refresh(a *API) error {
	// In this order: whatever changes while it is read is noticed the next time.
	book, index, state := a.Book.Changed(), a.Cluster.Index(), a.Current.State()
	if m.answers == nil || m.index != index || m.state != state {
		m.answers, m.all = map[missKey]missAnswer{}, nil
	}
	if m.all != nil && m.book == book {
		return nil
	}
	all, err := a.Book.All()
	if err != nil {
		return err
	}
	if len(m.answers) > 2*len(all)+1000 { // mostly of entries that are gone
		m.answers = map[missKey]missAnswer{}
	}
	m.book, m.index, m.state, m.all, m.counts = book, index, state, append([]missing.Entry{}, all...), nil
	return nil
}

// byClient returns how many needs each client has in the book, by its name as in share.Of. The map must not be changed.
func (m *misses) byClient(a *API) (map[string]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.refresh(a); err != nil {
		return nil, err
	}
	if m.counts == nil {
		m.counts = map[string]int{}
		for _, e := range needs(m.all) {
			for client := range e.Owners(time.Time{}) {
				m.counts[client]++
			}
		}
	}
	return m.counts, nil
}

// forgetMissing removes the entries with these names from the missing book.
func (a *API) forgetMissing(r *http.Request) (any, error) {
	names := r.URL.Query()["name"]
	if len(names) == 0 {
		return nil, usage.Errorf("name is missing")
	}
	for _, name := range names {
		if err := a.Book.Forget(r.Context(), name); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// selectedMisses returns the missing book, what is known about its entries, and which of them the parameters select.
func (a *API) selectedMisses(r *http.Request) (by missing.Filter, entries []missing.Entry, known missing.Known,
	err error) {
	if by, err = missesBy(r); err == nil {
		entries, known, err = a.misses.read(r.Context(), a)
	}
	return by, entries, known, err
}

// MissingList is the open entries of the missing book as a list that casemate bundle create takes.
type MissingList struct {
	Format string `json:"format"`
	Text   string `json:"text"`
	Count  int    `json:"count"` // of the lines of text that are no comments
	// LeftOut are entries that cannot be fetched by name, each with the reason.
	LeftOut []string `json:"left_out"`
}

// listMissing returns a list for bundle create.
func (a *API) listMissing(r *http.Request) (any, error) {
	format := r.URL.Query().Get("format")
	if !slices.Contains(wanted.Formats, format) {
		return nil, usage.Errorf("format must be one of %s, got %.20q", strings.Join(wanted.Formats, ", "), format)
	}
	by, entries, known, err := a.selectedMisses(r)
	if err != nil {
		return nil, err
	}
	found, err := missing.Pages(needs(entries), by, known, "")
	if err != nil {
		return nil, err
	}
	var open []missing.Listed
	for l := range found {
		if l.Solved || r.Context().Err() != nil {
			break // the solved ones follow the open ones
		}
		open = append(open, l)
	}
	var text strings.Builder
	n, left, err := wanted.Write(&text, format, open)
	if err == nil {
		err = r.Context().Err()
	}
	return MissingList{format, text.String(), n, append([]string{}, left...)}, err
}

// MissingClient is what one client has in the missing book.
type MissingClient struct {
	Client  string    `json:"client"` // an address, or the /64 of an IPv6 address
	Misses  int       `json:"misses"` // entries that it has asked for, also those that are solved
	Waiting int       `json:"waiting"`
	Last    time.Time `json:"last"` // the newest of these entries was asked for then, by it or another client
}

// missingClients groups the missing book by client, the one that misses most first.
func (a *API) missingClients(r *http.Request) (any, error) {
	by, entries, known, err := a.selectedMisses(r)
	if err != nil {
		return nil, err
	}
	list := []MissingClient{}
	at := map[string]int{}
	for _, e := range needs(entries) {
		if !by.Match(e) {
			continue
		}
		_, ok := known.Answered(e)
		for client, waits := range e.Owners(known.Now) {
			i, there := at[client]
			if !there {
				i = len(list)
				at[client] = i
				list = append(list, MissingClient{Client: client, Last: e.Last})
			}
			list[i].Misses++
			if waits && !ok {
				list[i].Waiting++
			}
		}
	}
	slices.SortFunc(list, func(x, y MissingClient) int {
		return cmp.Or(cmp.Compare(y.Misses, x.Misses), strings.Compare(x.Client, y.Client))
	})
	return list, r.Context().Err()
}

// markMissing notes something about the entries of a name, or removes the note.
func (a *API) markMissing(r *http.Request) (any, error) {
	var in markBody
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if in.Name == "" {
		return nil, usage.Errorf("name is missing")
	}
	return nil, a.Book.Mark(r.Context(), in.Name, in.Note)
}

// missesToRemove lists what the missing book has.
func (a *API) missesToRemove(*http.Request) (*Removal, error) {
	entries, err := a.Book.All()
	out := &Removal{}
	for _, e := range entries {
		out.add("missed "+e.Kind, e.Name, 0)
	}
	return out, err
}

// addressIn parses the address of one client; the /64 of an IPv6 address is written as an address or a network.
func addressIn(text string) (string, error) {
	if p, err := address.ParsePrefix(text); err == nil && p == share.Net(p.Addr()) {
		return share.Of(p.Addr()), nil
	}
	at, err := address.Parse(text)
	if err != nil {
		return "", usage.Errorf("client must be an address, got %.80q", text)
	}
	return share.Of(at), nil
}
