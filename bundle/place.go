package bundle

import (
	"casemate/bundle/lists"
	"fmt"
)

// place gives the images of a bundle the names that they have inside, by the rule that the collector had, and returns
// an index with them. What has none, and two meanings of one name, go to o.
func place(ix *Index, o *Obstacles) (placed *Index, notes []string) {
	placed = &Index{Version: ix.Version, Files: ix.Files, Blobs: ix.Blobs, Since: ix.Since, Absent: ix.Absent, Images: []Image{}}
	at := map[string]int{} // in placed.Images, by the name inside; -1: it means two things
	from := map[string]string{}
	said := map[string]bool{}
	for _, m := range ix.Images {
		was := m.ref()
		name, err := lists.Place(m.Repository)
		if err != nil {
			o.Add(was, fmt.Errorf("%s: %w", was, err))
			continue
		}
		if n := lists.Renamed(m.Repository); n != "" && !said[n] {
			said[n] = true
			notes = append(notes, n)
		}
		m.Repository = name
		i, before := at[m.ref()]
		switch {
		case !before:
			at[m.ref()], from[m.ref()] = len(placed.Images), was
			placed.Images = append(placed.Images, m)
		case i < 0 || placed.Images[i].Digest != m.Digest:
			o.Add(was, fmt.Errorf("%s is called %s here, and so is %s, which is another image", was, m.ref(), from[m.ref()]))
			at[m.ref()] = -1
		case placed.Images[i].Size < m.Size:
			placed.Images[i] = m
		}
	}
	kept := placed.Images[:0]
	for _, m := range placed.Images {
		if at[m.ref()] < 0 {
			o.Add(from[m.ref()], fmt.Errorf("%s is called %s here, and so is another image", from[m.ref()], m.ref()))
			continue
		}
		kept = append(kept, m)
	}
	placed.Images = kept
	return placed, notes
}
