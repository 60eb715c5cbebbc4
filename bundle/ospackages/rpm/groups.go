package rpm

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
)

const (
	maxComps        = 16 << 20 // bytes, expanded; Fedora's has 2 MB
	maxGroupMembers = 50_000   // of all groups of a repository
)

// groups are the packages of dnf's groups by their IDs: those that dnf group install takes, mandatory and default ones.
type groups map[string][]string

// read adds a comps.xml, of which it takes the groups.
func (g groups) read(in io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(in, maxComps+1))
	if err != nil {
		return err
	}
	if len(text) > maxComps {
		return fmt.Errorf("it has more than %d MiB", maxComps>>20)
	}
	var doc struct {
		Groups []struct {
			ID      string `xml:"id"`
			Members []struct {
				Type string `xml:"type,attr"`
				Name string `xml:",chardata"`
			} `xml:"packagelist>packagereq"`
		} `xml:"group"`
	}
	if err := unmarshal(text, &doc); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	n := 0
	for _, group := range doc.Groups {
		id := strings.TrimSpace(group.ID)
		for _, m := range group.Members {
			name := strings.TrimSpace(m.Name)
			if m.Type != "" && m.Type != "mandatory" && m.Type != "default" || name == "" ||
				strings.ContainsAny(name, "*?@") { // these would be requests of another kind
				continue
			}
			if n++; n > maxGroupMembers {
				return fmt.Errorf("its groups have more than %d packages", maxGroupMembers)
			}
			g[id] = append(g[id], name)
		}
	}
	return nil
}

// wantsGroups reports whether a request is a group.
func (c *Collector) wantsGroups() bool {
	for _, p := range c.opt.Packages {
		if strings.HasPrefix(p.Name, "@") {
			return true
		}
	}
	return false
}

// expand replaces requested groups by their packages in all repositories. As for dnf, a package of a group that no
// repository has is left out.
func (c *Collector) expand(repos []*repository, res *ospackages.Result) {
	var all []lists.Package
	for _, p := range c.opt.Packages {
		id, isGroup := strings.CutPrefix(p.Name, "@")
		if !isGroup {
			all = append(all, p)
			continue
		}
		known, found := map[string]bool{}, map[string]bool{}
		for _, r := range repos {
			for other := range r.groups {
				known["@"+other] = true
			}
			for _, name := range r.groups[id] {
				if !found[name] {
					found[name] = true
					all = append(all, lists.Package{Name: name, Where: p.Where, Optional: true})
				}
			}
		}
		if len(found) > 0 {
			continue
		}
		err := errors.New("no repository has a group of this ID")
		if c.opt.Near != nil {
			err = fmt.Errorf("%w%s", err, c.opt.Near(p.Name, maps.Keys(known)))
		}
		res.Unavailable = append(res.Unavailable, lists.Unavailable{Name: "package " + p.Label(), Where: p.Where,
			Err: err})
	}
	c.opt.Packages = all
}
