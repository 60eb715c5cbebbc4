package format

import (
	"slices"
	"strings"
	"testing"

	"casemate/bundle"
)

func TestUnsigned(t *testing.T) {
	for _, x := range []struct {
		files string
		want  bool
	}{
		{"Release main/binary-amd64/Packages.xz", true},
		{"Release Packages", true},
		{"Release Release.gpg Packages", false},
		{"InRelease Release Packages", false},
		{"InRelease Packages", false},
		{"Release notes.txt", false},
		{"Release", false},
		{"Release2 Packages", false},
	} {
		ix := &bundle.Index{}
		for name := range strings.FieldsSeq(x.files) {
			ix.Files = append(ix.Files, bundle.File{URL: "https://deb.example/dists/stable/" + name})
		}
		slices.SortFunc(ix.Files, func(a, b bundle.File) int { return strings.Compare(a.URL, b.URL) })
		notes := unsigned(ix)
		if (len(notes) == 1) != x.want || x.want && !strings.Contains(notes[0],
			"https://deb.example/dists/stable is not signed") {
			t.Errorf("%s: got %q", x.files, notes)
		}
	}
}

func TestUnverified(t *testing.T) {
	ix := &bundle.Index{Unverified: []bundle.Unverified{{URL: "https://deb.example/dists/stable/InRelease",
		Why: "it is signed by key AB, which is not among the given keys"}}}
	if notes := unsigned(ix); len(notes) != 1 || !strings.Contains(notes[0],
		"https://deb.example/dists/stable/InRelease was not checked when it was collected: it is signed by key AB") {
		t.Errorf("got %q", notes)
	}
}

func TestUnsignedRepomd(t *testing.T) {
	const at = "https://rpm.example/os/repodata/repomd.xml"
	for _, signed := range []bool{false, true} {
		ix := &bundle.Index{Files: []bundle.File{{URL: at}}}
		if signed {
			ix.Files = append(ix.Files, bundle.File{URL: at + ".asc"})
		}
		notes := unsigned(ix)
		if (len(notes) == 0) != signed || !signed && !strings.Contains(notes[0],
			"The repomd.xml of https://rpm.example/os is not signed") {
			t.Errorf("signed %v: got %q", signed, notes)
		}
	}
}
