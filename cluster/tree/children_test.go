package tree

import (
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"testing"
)

// TestChildren: every level has each of its elements once, from any of them on, and what is below is skipped.
func TestChildren(t *testing.T) {
	names := []string{"a", "b/x", "c/1/2", "c/é/z", "d", "b-c", "é/1", "\U0010fffd/y", "c!/1"}
	for i := range 1000 {
		names = append(names, fmt.Sprintf("big/%d/z", i), fmt.Sprintf("big/same/%03d", i))
	}
	key := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(key(a), key(b)) })
	seen := 0
	walk := func(dir, after string) iter.Seq2[string, fs.FileInfo] {
		return func(yield func(string, fs.FileInfo) bool) {
			for _, n := range names {
				if (dir == "." || strings.HasPrefix(n, dir+"/")) && (after == "" || key(n) > key(after)) {
					if seen++; !yield(n, nil) {
						return
					}
				}
			}
		}
	}
	for dir, want := range map[string]string{
		".": "a b/ b-c big/ c/ c!/ d é/ \U0010fffd/", "c": "1/ é/", "b": "x", "none": "", "a": "",
	} {
		list := strings.Fields(want)
		for from := 0; from <= len(list); from++ {
			after := ""
			if from > 0 {
				after = strings.TrimSuffix(list[from-1], "/")
			}
			var got []string
			seen = 0
			for c := range Children(walk, dir, after) {
				s := c.Name
				if c.Dir {
					s += "/"
				}
				got = append(got, s)
			}
			if !slices.Equal(got, list[from:]) {
				t.Errorf("%s after %q: %q, want %q", dir, after, got, list[from:])
			}
			if seen > 30 {
				t.Errorf("%s after %q: %d files were read", dir, after, seen)
			}
		}
	}
	for range Children(walk, ".", "") {
		break // a consumer may stop
	}
}
