package appliance

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"slices"

	"casemate/appliance/nodeconf"
	"casemate/appliance/page"
)

// site returns what the tree says about the bastions, for everything that is generated for nodes: the same on every
// node.
func (a *Appliance) site() (nodeconf.Site, error) {
	v := a.current.State()
	s := nodeconf.Site{Domain: v.Settings.Domain, Roots: string(a.ca.Roots())}
	list, err := a.current.Nodes()
	if err != nil {
		return s, err
	}
	for _, n := range list {
		s.Nodes = append(s.Nodes, nodeconf.Node{Name: n.Name, Addrs: n.Addrs})
	}
	slices.SortFunc(s.Nodes, func(x, y nodeconf.Node) int { return cmp.Compare(x.Name, y.Name) })
	if err := a.siteRepositories(&s); err != nil {
		return s, err
	}
	images, files := a.namesIn("registry/repositories"), a.namesIn("files")
	for _, o := range v.Origins.All() {
		if o.Disabled != "" {
			continue
		}
		// Whether an origin that an operator added is a registry is only known from its stored content.
		registry := images[o.Host] || o.Registry && (o.Builtin || !files[o.Host])
		s.Origins = append(s.Origins, nodeconf.Origin{Host: o.Host, Aliases: o.Aliases, Registry: registry})
	}
	return s, nil
}

// siteRepositories adds the repositories of packages of one's own, and the key that signs them.
func (a *Appliance) siteRepositories(s *nodeconf.Site) error {
	list, err := a.packages.All()
	if err != nil || len(list) == 0 {
		return err
	}
	for _, r := range list {
		s.Repositories = append(s.Repositories, nodeconf.Repository{Name: r.Name, Format: r.Format})
	}
	s.RepositoryKey, err = a.packages.PublicKey()
	return err
}

// namesIn returns the names in a directory of the tree, none if it cannot be listed.
func (a *Appliance) namesIn(dir string) map[string]bool {
	names := map[string]bool{}
	entries, err := a.tree.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("a directory of the tree cannot be listed", "directory", dir, "err", err)
	}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// front returns what the page shows to everybody.
func (a *Appliance) front(context.Context) page.Front {
	v := a.current.State()
	p := page.Front{Ready: a.ready(), Anonymous: v.Settings.Anonymous, OIDC: v.Settings.OIDC.Issuer != "",
		Origins: v.OriginHosts}
	site, err := a.site()
	if err != nil {
		a.log.Warn("the page shows only this node", "err", err)
		site = nodeconf.Site{Domain: v.Settings.Domain, Roots: string(a.ca.Roots())}
		site.Nodes = []nodeconf.Node{{Name: a.current.Self.Name, Addrs: a.current.Self.Addrs}}
	}
	for _, addr := range site.Addrs() {
		p.Resolvers = append(p.Resolvers, addr.String())
	}
	if line, err := site.Enroll("line"); err == nil && len(line) == 1 {
		p.Enrol = line[0].Text
	} else if err != nil {
		a.log.Warn("the page has no line that enrols nodes", "err", err)
	}
	for rest := a.ca.Roots(); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return p
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil {
			p.Roots = append(p.Roots, page.Fingerprint{Name: c.Subject.CommonName, SHA256: sha256.Sum256(b.Bytes)})
		}
	}
}

// openPage opens the page for browsers, which asks the admin API.
func (a *Appliance) openPage() {
	a.page = page.New(page.Config{
		Node: a.cfg.Node, Domain: a.current.State().Settings.Domain, API: http.HandlerFunc(a.serveAdmin),
		Front: a.front, Opened: a.search.Prepare, Now: a.opt.Now, Log: a.log.With("room", "page"),
		Topics: map[string]func() uint64{
			"tree":    func() uint64 { return a.cluster.Status().Applied },
			"missed":  a.book.Changed,
			"clients": func() uint64 { return a.clients.News() + a.clientNames.Changed() },
			"traffic": a.series.Changed,
			"content": a.totals.Changed,
		},
	})
}

// httpsPort returns the port on which TLS is served.
func (a *Appliance) httpsPort() uint16 {
	if list := a.socks.Addrs().HTTPS; len(list) > 0 {
		return list[0].Port()
	}
	return 443
}
