package status

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/pki"
)

// mostExpiries bounds the list of what expires next.
const mostExpiries = 20

// The kinds of what expires.
const (
	expiresRoot         = "root"
	expiresIntermediate = "intermediate"
	expiresCertificate  = "certificate"
	expiresRepository   = "package repository"
	expiresToken        = "join token"
	expiresKey          = "API key"
)

// Expiry is something that is valid for some time more.
type Expiry struct {
	What string    `json:"what"` // root, intermediate, certificate, package repository, join token, API key
	Name string    `json:"name"` // of a certificate its serial number and names, of a token its ID
	At   time.Time `json:"at"`
	Cure string    `json:"cure"` // what to do, a sentence's part without a full stop
}

// expires returns what expires next, the soonest first. What only some roles may see is left out without inspect:
// certificates that were issued, join tokens, API keys. This node's own leaf certificates, CRLs and logins are not in
// it: nobody has to renew them.
func (p *Page) expires(ends []pki.Expiry, inspect bool) ([]Expiry, error) {
	now := p.Now()
	served := p.CA.Served()
	var list []Expiry
	for _, e := range ends {
		out := Expiry{What: e.Kind, Name: e.Name, At: e.NotAfter}
		switch e.Kind {
		case "root":
			out.What, out.Cure = expiresRoot, cureOf(e, served, pki.OwnerRoot)
		case "intermediate":
			out.What, out.Cure = expiresIntermediate, cureOf(e, served, pki.OwnerSelf)
		case "issued":
			if !inspect {
				continue
			}
			out.What = expiresCertificate
			out.Cure = "issue another (casemate cert issue) and install it in its place"
		default:
			continue
		}
		list = append(list, out)
	}
	for _, r := range p.Repositories.Dated() {
		list = append(list, Expiry{expiresRepository, r.Name(), r.ValidUntil,
			"collect it again (casemate bundle create --apt, --packages) and import that"})
	}
	if inspect {
		keys, err := p.Keys()
		if err != nil {
			return nil, err
		}
		for _, t := range p.Cluster.OpenTokens() {
			list = append(list, Expiry{expiresToken, t.ID, t.Expires,
				"if a node has yet to join, create another (casemate token create)"})
		}
		list = append(list, expiringKeys(keys)...)
	}
	return p.named(soonest(list, now))
}

// expiringKeys returns the API keys that expire, without those of logins.
func expiringKeys(keys []access.Key) (list []Expiry) {
	for _, k := range keys {
		if k.Owner == "" && !k.Expires.IsZero() {
			list = append(list, Expiry{expiresKey, k.Name, k.Expires,
				"create another (casemate apikey create), give it to the machine that uses this one, and revoke " +
					"this one"})
		}
	}
	return list
}

// soonest returns what has not expired, the soonest first, but no more than is shown.
func soonest(list []Expiry, now time.Time) []Expiry {
	list = slices.DeleteFunc(list, func(e Expiry) bool { return !e.At.After(now) })
	slices.SortStableFunc(list, func(a, b Expiry) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.What, b.What), strings.Compare(a.Name, b.Name))
	})
	return append([]Expiry{}, list[:min(len(list), mostExpiries)]...)
}

// named adds the names of issued certificates to their serial numbers.
func (p *Page) named(list []Expiry) ([]Expiry, error) {
	if !slices.ContainsFunc(list, func(e Expiry) bool { return e.What == expiresCertificate }) {
		return list, nil
	}
	certs, err := p.CA.List()
	if err != nil {
		return nil, err
	}
	names := map[string][]string{}
	for _, c := range certs {
		names[c.Serial] = c.Names
	}
	for i, e := range list {
		if of := names[e.Name]; e.What == expiresCertificate && len(of) > 0 {
			list[i].Name += " (" + strings.Join(of, " ") + ")"
		}
	}
	return list, nil
}

// cureOf returns what replaces a certificate of the CA: as for what every connection depends on, or by its owner.
func cureOf(e pki.Expiry, served []pki.Served, owner string) string {
	for _, s := range served {
		if s.NotAfter.Equal(e.NotAfter) && s.NotBefore.Equal(e.NotBefore) {
			return cure(s)
		}
	}
	return cure(pki.Served{Owner: owner})
}
