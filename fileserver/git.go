package fileserver

import (
	"slices"
	"strings"
)

// gitTwin returns the other form of a Git repository's address: hosts answer for a repository with and without .git at
// the end of its name, and clients use either. It only covers the paths that clients request of a repository (the
// "dumb" HTTP protocol, gitprotocol-http(5)); only the stored files tell whether the address is one of a repository.
func gitTwin(a address) (twin address, ok bool) {
	at := gitTail(a.elems)
	if a.slash || at < 1 {
		return a, false
	}
	twin = a
	twin.elems = slices.Clone(a.elems)
	name, had := strings.CutSuffix(a.elems[at-1], ".git")
	if !had {
		name += ".git"
	}
	twin.elems[at-1] = name
	return twin, name != "" && name != ".git"
}

// gitTail returns where the part of a path below a repository begins, -1 if there is none.
func gitTail(elems []string) int {
	n := len(elems)
	last := func(words ...string) bool {
		return n >= len(words) && slices.Equal(elems[n-len(words):], words)
	}
	switch {
	case last("info", "refs"):
		return n - 2
	case last("HEAD"), last("packed-refs"):
		return n - 1
	case n >= 3 && elems[n-3] == "objects":
		return n - 3 // info/packs, pack/NAME, XX/REST
	}
	return -1
}
