package format

import (
	"fmt"

	"casemate/bundle"
	"casemate/bundle/lists"
)

// localNames gives the images of a bundle the names that they have inside, by the rule that the collector uses, and
// returns an index with these names. Images without a valid name, and names of two images, are added to errs.
func localNames(ix *bundle.Index, o *bundle.NameErrors) (placed *bundle.Index, notes []string) {
	all := *ix
	placed = &all
	placed.Images = []bundle.Image{}
	at := map[string]int{} // position in placed.Images by the name inside; -1: the name is ambiguous
	from := map[string]string{}
	said := map[string]bool{}
	for _, m := range ix.Images {
		was := m.Ref()
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
		i, before := at[m.Ref()]
		switch {
		case !before:
			at[m.Ref()], from[m.Ref()] = len(placed.Images), was
			placed.Images = append(placed.Images, m)
		case i < 0 || placed.Images[i].Digest != m.Digest:
			o.Add(
				was,
				fmt.Errorf("%s is called %s here, and so is %s, which is another image", was, m.Ref(), from[m.Ref()]),
			)
			at[m.Ref()] = -1
		case placed.Images[i].Size < m.Size:
			placed.Images[i] = m
		}
	}
	kept := placed.Images[:0]
	for _, m := range placed.Images {
		if at[m.Ref()] < 0 {
			o.Add(from[m.Ref()], fmt.Errorf("%s is called %s here, and so is another image", from[m.Ref()], m.Ref()))
			continue
		}
		kept = append(kept, m)
	}
	placed.Images = kept
	return placed, notes
}
