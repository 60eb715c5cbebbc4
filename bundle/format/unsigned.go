package format

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"casemate/bundle"
)

// unsigned returns a note for each repository of packages without a signature: a Release file with an index of packages
// below it, and neither Release.gpg nor InRelease beside it; or a repomd.xml without repomd.xml.asc. A signature that
// the collector did not accept has a note too.
func unsigned(ix *bundle.Index) (notes []string) {
	at := func(url string) (int, bool) {
		return slices.BinarySearchFunc(ix.Files, url, func(f bundle.File, url string) int {
			return cmp.Compare(f.URL,
				url)
		})
	}
	for _, u := range ix.Unverified {
		notes = append(notes, fmt.Sprintf("The signature of %s was not checked when it was collected: %s.",
			u.URL, u.Why))
	}
	for _, f := range ix.Files {
		if base, ok := strings.CutSuffix(f.URL, "/repodata/repomd.xml"); ok {
			if _, signed := at(f.URL + ".asc"); !signed {
				notes = append(notes, fmt.Sprintf("The repomd.xml of %s is not signed: only the signatures of its "+
					"packages say who made them.", base))
			}
		}
		base, ok := strings.CutSuffix(f.URL, "/Release")
		if !ok {
			continue
		}
		_, detached := at(base + "/Release.gpg")
		_, inline := at(base + "/InRelease")
		if detached || inline {
			continue
		}
		for i, _ := at(base + "/"); i < len(ix.Files) && strings.HasPrefix(ix.Files[i].URL, base+"/"); i++ {
			url := ix.Files[i].URL
			if strings.HasPrefix(url[strings.LastIndexByte(url, '/')+1:], "Packages") {
				notes = append(notes, fmt.Sprintf("The repository %s is not signed: nothing says who made its "+
					"packages.",
					base))
				break
			}
		}
	}
	return notes
}
