package appliance

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"slices"

	"casemate/appliance/nodeconf"
)

// site is what the tree says about the bastions, for everything that is generated for nodes: the same on every node.
func (a *Appliance) site() (nodeconf.Site, error) {
	v := a.now.Load()
	s := nodeconf.Site{Domain: v.settings.Domain, Roots: string(a.ca.Roots())}
	nodes, err := a.nodes()
	if err != nil {
		return s, err
	}
	for _, n := range nodes {
		s.Nodes = append(s.Nodes, nodeconf.Node{Name: n.Name, Addrs: n.Addrs})
	}
	slices.SortFunc(s.Nodes, func(x, y nodeconf.Node) int { return cmp.Compare(x.Name, y.Name) })
	images, files := a.namesIn("registry/repositories"), a.namesIn("files")
	for _, o := range v.origins.All() {
		if o.Disabled != "" {
			continue
		}
		// Of those that an operator added it is not known what they are, but by what is held of them.
		registry := images[o.Host] || o.Registry && (o.Builtin || !files[o.Host])
		s.Origins = append(s.Origins, nodeconf.Origin{Host: o.Host, Aliases: o.Aliases, Registry: registry})
	}
	return s, nil
}

// namesIn are the names in a directory of the tree. What cannot be listed has none.
func (a *Appliance) namesIn(dir string) map[string]bool {
	names := map[string]bool{}
	entries, err := a.tree.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("a directory of the tree cannot be listed", "directory", dir, "error", err)
	}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// serveSite is GET /site.json: what a node may know of the bastions before it trusts them.
func (a *Appliance) serveSite(w http.ResponseWriter, r *http.Request) {
	s, err := a.site()
	if err != nil {
		refuse(w, r, http.StatusServiceUnavailable, "", err.Error())
		return
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		refuse(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	send(w, r, "application/json", append(data, '\n'))
}

// serveEnroll is GET /enroll: the script for nodes, the same bytes from every bastion.
func (a *Appliance) serveEnroll(w http.ResponseWriter, r *http.Request) {
	s, err := a.site()
	if err != nil {
		refuse(w, r, http.StatusServiceUnavailable, "", err.Error())
		return
	}
	script, err := s.Script()
	if err != nil {
		refuse(w, r, http.StatusInternalServerError, "", err.Error())
		return
	}
	send(w, r, "text/x-shellscript; charset=utf-8", []byte(script))
}

// getEnroll is GET /v1/enroll: the script in one of its forms.
func (a *Appliance) getEnroll(r *http.Request) (any, error) {
	s, err := a.site()
	if err != nil {
		return nil, err
	}
	return s.Enroll(r.FormValue("format"))
}
