package missing

import (
	"fmt"
	"slices"
	"testing"
)

func TestOpenEntriesComeFirst(t *testing.T) {
	var entries []Entry
	for i := range 6 {
		entries = append(entries, Entry{Kind: Image, Name: fmt.Sprint(i)})
	}
	asked := 0
	odd := func(e Entry) (string, bool) {
		asked++
		return "import " + e.Name, (e.Name[0]-'0')%2 == 1
	}
	got := ""
	for _, l := range solve(entries, Known{Answered: odd, Reach: func(string) string { return "" },
		Package: func(string) *Package { return nil }}) {
		if l.Solved != (l.SolvedBy != "") {
			t.Errorf("%+v", l)
		}
		got += l.Name + l.SolvedBy + " "
	}
	if want := "0 2 4 1import 1 3import 3 5import 5 "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	asked = 0
	if got := Unsolved(entries, 2, odd); len(got) != 2 || got[0].Name != "0" || got[1].Name != "2" || asked != 3 {
		t.Errorf("got %v and asked %d times", got, asked)
	}
	if got := Unsolved(entries, 9, odd); len(got) != 3 {
		t.Errorf("got %v", got)
	}
}

// solve is what Pages is compared with: all entries at once, the missing ones first and noise last.
func solve(entries []Entry, k Known) []Listed {
	list := make([]Listed, 0, len(entries))
	var solved, noise []Listed
	for _, e := range entries {
		by, ok := k.Answered(e)
		l := k.list(e, by, ok)
		switch {
		case e.Noise != "":
			noise = append(noise, l)
		case ok:
			solved = append(solved, l)
		default:
			list = append(list, l)
		}
	}
	return slices.Concat(list, solved, noise)
}
