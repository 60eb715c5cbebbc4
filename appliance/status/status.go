// Package status writes the document of `casemate status`: the state of this node, its problems, and warnings for the
// operator.
package status

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/current"
	"casemate/appliance/forecast"
	"casemate/appliance/lookup"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/repositories"
	"casemate/appliance/rotation"
	"casemate/cluster"
	"casemate/pki"
	"casemate/registry"
)

// A Page collects the state of the other packages.
type Page struct {
	Node, Version string
	Started       time.Time
	Advertise     []netip.Addr
	Cluster       *cluster.Cluster
	CA            *pki.CA
	Registry      *registry.Registry
	Imports       *content.Engine
	Repositories  *repositories.Index
	Book          *missing.Book
	Current       *current.Reader
	Lookup        *lookup.Lookup
	Problems      *Problems
	Luck          *Luck
	DNSProblems   func() []string
	DNSWarnings   func() []string
	// UpstreamProblems and UpstreamWarnings are about fetching from origins.
	UpstreamProblems, UpstreamWarnings func() []string
	// Directory returns why the LDAP directory could not be asked the last time.
	Directory func() error
	Rotation  *rotation.Book
	Forecast  *forecast.Book
	// Keys returns the API keys.
	Keys func() ([]access.Key, error)
	// NotPermitted returns why names that the root does not permit are not enabled, and what changes that.
	NotPermitted func(names ...string) string
	// UnpermittedAddrs says the same of a node's addresses; "" if the root permits them all.
	UnpermittedAddrs func(node string, addrs []netip.Addr) string
	Ready            func() error // nil: this node serves
	Now              func() time.Time
	ClockJumps       func() []string
	// Counts returns how many tags and files the tree has.
	Counts func() (images, files int)
}

// Miss is an entry of the missing book as status shows it.
type Miss struct {
	Kind  string    `json:"kind"`
	Name  string    `json:"name"`
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// Document is what `casemate status` shows.
type Document struct {
	Node      string       `json:"node"`
	Version   string       `json:"version"`
	Started   time.Time    `json:"started"`
	Domain    string       `json:"domain"`
	Advertise []netip.Addr `json:"advertise"`
	Serving   bool         `json:"serving"`
	Problems  []string     `json:"problems"` // sentences, each with what helps
	Warnings  []string     `json:"warnings"`
	Leader    string       `json:"leader"`
	Role      string       `json:"role"`
	Members   []Member     `json:"members"`
	Term      uint64       `json:"term"`
	Applied   uint64       `json:"applied"`
	Commit    uint64       `json:"commit"`
	Entries   int          `json:"entries"`
	Images    int          `json:"images"`
	Files     int          `json:"files"`
	Blobs     int          `json:"blobs"`
	Bytes     int64        `json:"bytes"`
	Imports   struct {
		Complete   int    `json:"complete"`
		Incomplete int    `json:"incomplete"`
		Staged     int    `json:"staged"`
		Running    string `json:"running"`
	} `json:"imports"`
	Disk struct {
		Total   int64 `json:"total"`
		Free    int64 `json:"free"`
		Reserve int64 `json:"reserve"`
	} `json:"disk"`
	Certificates []Certificate    `json:"certificates"`
	CA           pki.Shape        `json:"ca"`
	Misses       []Miss           `json:"misses"`
	Repositories []Expiration     `json:"repositories"`
	Expires      []Expiry         `json:"expires"` // the soonest first
	Scrub        scrubInfo        `json:"scrub"`
	Uploads      registry.Uploads `json:"uploads"`
}

// Certificate is a certificate of the CA, or one that ends within a week.
type Certificate struct {
	Name      string    `json:"name"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// certificates returns those of the CA and those that end within a week. Issued ones, whose names are serial numbers,
// are left out without inspect, as in the list of certificates.
func certificates(ends []pki.Expiry, now time.Time, inspect bool) []Certificate {
	certs := []Certificate{}
	for _, e := range ends {
		ca := e.Kind == "root" || e.Kind == "intermediate"
		if ca || e.NotAfter.Sub(now) < 7*24*time.Hour && (inspect || e.Kind != "issued") {
			certs = append(certs, Certificate{strings.TrimSpace(e.Kind + " " + e.Name), e.NotBefore, e.NotAfter})
		}
	}
	return certs
}

// Report returns the document. inspect tells that whoever asks may see certificates, keys and tokens, accounts, and the
// resolvers and the directory that are asked: without it, what only requests for inspect would show is left out.
func (p *Page) Report(ctx context.Context, inspect bool) (*Document, error) {
	v := p.Current.State()
	members := p.Members()
	st := p.Cluster.Status()
	problems := p.Problems.List()
	if st.Failure != "" {
		problems = append(problems, "the tree has stopped, see the log and restart casemate: "+st.Failure)
	} else if st.Leader == "" {
		problems = append(problems, noLeader(p.Cluster.Members()))
	}
	if st.DiskFree < st.DiskReserve {
		problems = append(problems, "the disk is full up to its reserve: nothing can be written; delete images or "+
			"files and "+
			"run casemate gc --now, or give it a larger disk")
	}
	problems = append(problems, p.Cluster.Problems()...)
	problems = append(problems, p.DNSProblems()...)
	problems = append(problems, p.UpstreamProblems()...)
	scrub, lost := p.scrubInfo()
	if lost != "" {
		problems = append(problems, lost)
	}
	ended, warnings := chainSentences(p.CA.Served(), p.Now())
	problems = append(problems, ended...)
	if err := p.CA.Serves(); err != nil && len(ended) == 0 {
		problems = append(problems, err.Error())
	}
	warnings = append(warnings, p.ClockJumps()...)
	if dns := p.DNSWarnings(); inspect {
		warnings = append(warnings, dns...)
	} else if len(dns) > 0 { // they name resolvers and clients
		warnings = append(warnings, "DNS has warnings: casemate status shows them to accounts that may inspect")
	}
	warnings = append(warnings, p.UpstreamWarnings()...)
	if err := p.Directory(); err != nil {
		why := "accounts that may inspect see why"
		if inspect {
			why = err.Error() // it names servers
		}
		warnings = append(warnings, "the directory of ldap.url could not be asked the last time, so its users could "+
			"not log in, and those of the cluster could: "+why)
	}
	warnings = append(warnings, p.Luck.sentences(20)...)
	for _, c := range p.Registry.Conflicts() {
		warnings = append(warnings,
			fmt.Sprintf("the flat name %s exists in several repositories with different content: %s", c.Name,
				strings.Join(c.Candidates, ", ")))
	}
	if s := p.rotation(); s != "" {
		warnings = append(warnings, s)
	}
	now := p.Now()
	expiring := p.Repositories.Expiring(now)
	warnings = append(warnings, repositories.Sentences(expiring, now)...)
	shape := p.CA.Shape()
	if len(shape.Missing) > 0 {
		warnings = append(warnings, shapeWarning(shape))
	}
	ends := p.CA.Expiries()
	certs := certificates(ends, p.Now(), inspect)
	for _, o := range v.Origins.All() {
		if o.Disabled == origin.NotPermitted {
			warnings = append(warnings, fmt.Sprintf("origin %s is stored but not enabled: %s", o.Host,
				p.NotPermitted(o.Names()...)))
		}
	}
	list, err := p.Current.Nodes()
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if s := p.UnpermittedAddrs(n.Name, n.Addrs); s != "" {
			warnings = append(warnings, s)
		}
	}
	uploads := p.Registry.Uploads()
	if !inspect {
		uploads.Users = uploads.Users[:0]
	}
	warnings = append(warnings, uploadWarnings(uploads)...)
	complete, pending, err := p.Imports.Pending()
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, importWarnings(append(pending, p.Imports.Waiting()...))...)
	warnings = append(warnings, p.clusterWarnings()...)
	warnings = append(warnings, diskWarnings(members)...)
	expires, err := p.expires(ends, inspect)
	if err != nil {
		return nil, err
	}
	images, files := p.Counts()
	entries, err := p.Book.List()
	if err != nil {
		return nil, err
	}
	misses := []Miss{}
	for _, e := range missing.Unsolved(entries, 10, p.Lookup.Answered(ctx)) {
		misses = append(misses, Miss{e.Kind, e.Name, e.Count, e.Last})
	}
	d := &Document{
		Node: p.Node, Version: p.Version, Started: p.Started.UTC(), Domain: v.Settings.Domain, Advertise: p.Advertise,
		Serving: p.Ready() == nil, Problems: append([]string{}, problems...), Warnings: append([]string{}, warnings...),
		Leader: st.Leader, Role: st.Role, Members: members, Term: st.Term, Applied: st.Applied, Commit: st.Commit,
		Entries: st.Entries, Images: images, Files: files, Blobs: st.Blobs, Bytes: st.Bytes,
		Certificates: certs, CA: shape, Misses: misses, Repositories: expirations(expiring, now), Expires: expires,
		Scrub: scrub, Uploads: uploads,
	}
	d.Imports.Complete, d.Imports.Incomplete = complete, len(pending)
	d.Imports.Staged, d.Imports.Running = p.Imports.Staged(), p.Imports.Running()
	d.Disk.Total, d.Disk.Free, d.Disk.Reserve = st.DiskTotal, st.DiskFree, st.DiskReserve
	return d, nil
}
