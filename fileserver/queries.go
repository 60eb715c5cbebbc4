package fileserver

import (
	"strings"
	"sync"
	"time"
)

// countEvery is how long a count of all files with a query is used. Each count visits every file.
const countEvery = time.Minute

// queries is the number of files whose URL has a query.
type queries struct {
	mu sync.Mutex
	at time.Time
	n  int
}

// Queries counts the files whose URL has a query: those at the path of a URL, and all. The second number may be a
// minute old.
func (s *Server) Queries(rawURL string) (path, all int) {
	if a, err := parseURL(rawURL); err == nil {
		a, _ = s.canonical(a)
		begin := a.key("")
		for name := range s.cfg.Tree.Walk(begin[:strings.LastIndexByte(begin, '/')], begin) {
			if !strings.HasPrefix(name, begin) {
				break
			}
			path++
		}
	}
	s.queries.mu.Lock()
	defer s.queries.mu.Unlock()
	if now := time.Now(); s.queries.at.IsZero() || now.Sub(s.queries.at) > countEvery {
		s.queries.at, s.queries.n = now, 0
		for name := range s.cfg.Tree.Walk(".", "") {
			if !strings.HasSuffix(name, "?") {
				s.queries.n++
			}
		}
	}
	return path, s.queries.n
}
