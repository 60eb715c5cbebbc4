package content

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"casemate/bundle"
)

// prepare determines the import's name, and loads its pending record.
func (j *job) prepare(c *bundle.Contents, id string) error {
	records, err := j.e.records()
	if err != nil {
		return err
	}
	maps.Copy(records, j.e.stagedRecords())
	all, err := j.e.pendings()
	if err != nil {
		return err
	}
	key := keyOf(id, j.base)
	p, before := all[key]
	j.before = before
	name := j.base
	delete(all, key)
	if j.req.Name != "" {
		// what is left out in the end changes the ID
		if r, ok := records[name]; ok && id != "" && r.ID != id && !j.req.Partial {
			return taken(r)
		}
		for _, other := range all {
			if other.Name == name {
				return fmt.Errorf("the name belongs to an incomplete import of other content (last changed %s): "+
					"complete it, remove it, or give another --name: %w",
					other.Touched.Format(time.RFC3339), errTaken)
			}
		}
	} else if r, ok := repairs(records, id); ok {
		name = r.Name
	} else if before {
		name = p.Name
	} else {
		name = free(name, records, all)
	}
	j.keeper.edit(func(n *pending) {
		*n = p
		n.Key, n.Name, n.Kind, n.ID, n.Signer = key, name, c.Kind, id, c.Signer
		if before && p.Parts != c.Parts { // of a different split: its numbers mean other parts
			n.Have, n.Sources = nil, nil
		}
		n.Touched, n.Parts, n.Node = j.e.cfg.Now(), c.Parts, j.e.cfg.Node
		read := sources(j.req.Inputs)
		if c.Parts > 1 { // the sources of all its parts
			for _, source := range n.Sources {
				if !slices.Contains(read, source) {
					read = append(read, source)
				}
			}
			slices.Sort(read)
		}
		n.Sources = read
		if !before {
			n.Started = j.e.cfg.Now()
		}
	})
	return nil
}

func taken(r Record) error {
	return fmt.Errorf("the name belongs to an import of other content (%s, %s): give another --name, or remove that "+
		"import first with casemate import remove %s: %w",
		r.Time.Format(time.RFC3339), strings.Join(r.Sources, ", "), r.Name, errTaken)
}

// errTaken is fs.ErrExist: the name belongs to something else.
var errTaken = fmt.Errorf("the name is taken: %w", fs.ErrExist)

// repairs returns an import of the same content. It is imported again under the same name, because some of it was
// deleted by hand.
func repairs(records map[string]Record, id string) (Record, bool) {
	for _, r := range records {
		if id != "" && r.ID == id {
			return r, true
		}
	}
	return Record{}, false
}

// free returns base, or base-2 and so on, whichever is not in use.
func free(base string, records map[string]Record, all map[string]pending) string {
	taken := map[string]bool{}
	for _, p := range all {
		taken[p.Name] = true
	}
	for n, name := 2, base; ; n++ {
		if _, ok := records[name]; !ok && !taken[name] && CheckNewName(name) == nil {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}
