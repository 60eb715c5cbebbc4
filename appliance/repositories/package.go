package repositories

import (
	"strings"

	"casemate/appliance/missing"
	"casemate/fileserver/ospackages"
)

// Package returns which package of which stored repository a URL names; nil if it names none. Packages of a repository
// are below its URL, or elsewhere on its host (../../pool): then it is the repository whose URL begins most like it.
func (x *Index) Package(url string) *missing.Package {
	path, _, _ := strings.Cut(url, "?")
	dir, file := path[:strings.LastIndexByte(path, '/')+1], path[strings.LastIndexByte(path, '/')+1:]
	p, ok := ospackages.ParseFileName(file)
	if !ok || !strings.HasPrefix(dir, "https://") {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	best, most := "", 0
	for _, r := range x.known {
		if !r.is || r.Format != p.Format {
			continue
		}
		n := sharedElements(dir, r.URL+"/")
		if n > most || n == most && n > 0 && (len(r.URL) < len(best) || len(r.URL) == len(best) && r.URL < best) {
			best, most = r.URL, n
		}
	}
	if most == 0 {
		return nil
	}
	return &missing.Package{Format: p.Format, Name: p.Name, Version: p.Version, Arch: p.Arch, Repository: best}
}

// sharedElements counts the host and the directories with which two URLs begin both; 0 if their hosts differ.
func sharedElements(a, b string) (n int) {
	for {
		x, restA, okA := strings.Cut(a, "/")
		y, restB, okB := strings.Cut(b, "/")
		if !okA || !okB || x != y {
			return max(0, n-2) // https: and the empty element
		}
		a, b, n = restA, restB, n+1
	}
}
