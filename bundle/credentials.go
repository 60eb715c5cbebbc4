package bundle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"casemate/bundle/credentials"
)

// DropCredentials removes the credentials from the URLs of an index that is to be written, see credentials.Strip. Names
// that are the same then are one. An error names two that have different content.
func (ix *Index) DropCredentials() error {
	files := map[string]string{}
	var err error
	ix.Files = slices.DeleteFunc(ix.Files, func(f File) bool {
		url := credentials.Strip(f.URL)
		digest, known := files[url]
		if known && digest != f.Digest {
			err = fmt.Errorf("%s has two contents, which only a credential in its address tells apart: leave one of "+
				"them out", url)
		}
		files[url] = f.Digest
		return known
	})
	for i := range ix.Files {
		ix.Files[i].URL, ix.Files[i].From = credentials.Strip(ix.Files[i].URL), credentials.Strip(ix.Files[i].From)
	}
	for i := range ix.Images {
		ix.Images[i].From = credentials.Strip(ix.Images[i].From)
	}
	from := map[string]bool{}
	ix.Redirects = slices.DeleteFunc(ix.Redirects, func(r Redirect) bool {
		url := credentials.Strip(r.From)
		_, file := files[url]
		known := from[url] || file || url == credentials.Strip(r.To)
		from[url] = true
		return known
	})
	for i, r := range ix.Redirects {
		ix.Redirects[i] = Redirect{credentials.Strip(r.From), credentials.Strip(r.To)}
	}
	for i, a := range ix.Absent {
		name := credentials.Strip(a.Name)
		ix.Absent[i] = Absent{name, strings.ReplaceAll(a.Why, a.Name, name)}
	}
	slices.SortStableFunc(ix.Absent, func(a, b Absent) int { return cmp.Compare(a.Name, b.Name) })
	ix.Absent = slices.CompactFunc(ix.Absent, func(a, b Absent) bool { return a.Name == b.Name })
	for i := range ix.Unverified {
		ix.Unverified[i].URL = credentials.Strip(ix.Unverified[i].URL)
	}
	return err
}
