package tree

import (
	"io/fs"
	"iter"
	"strings"
)

// Walk is the method Walk of a tree.
type Walk = func(dir, after string) iter.Seq2[string, fs.FileInfo]

// A Child is an element of a directory of the tree.
type Child struct {
	Name string // the element itself
	Dir  bool
	// First is the file, or of a directory the first file below it, by its name in the tree, and Info what the tree
	// reports of it.
	First string
	Info  fs.FileInfo
}

// skipAlong is how many files of one directory are passed one by one before a new walk begins after it.
const skipAlong = 8

// Behind returns what to give to Walk as after, so that it begins after the file or directory called name and
// everything below it.
func Behind(name string) string { return name + "/\U0010ffff" }

// Children yields the elements of a directory ("." is the root), sorted as Walk sorts, beginning after the element
// called after ("" for all; it need not exist). Its cost does not depend on what is below the elements: a large
// directory is skipped with a new walk, which may see a newer state.
func Children(walk Walk, dir, after string) iter.Seq[Child] {
	return func(yield func(Child) bool) {
		under := dir + "/"
		if dir == "." {
			under = ""
		}
		from, last := "", ""
		if after != "" {
			from, last = Behind(under+after), after
		}
		for again := true; again; {
			again = false
			skipped := 0
			for name, fi := range walk(dir, from) {
				elem, _, deep := strings.Cut(name[len(under):], "/")
				if elem == last {
					if skipped++; skipped < skipAlong || !deep {
						continue
					}
					from, again = Behind(under+elem), true
					break
				}
				skipped = 0
				last = elem
				if !yield(Child{elem, deep, name, fi}) {
					return
				}
			}
		}
	}
}
