package fileserver

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"
)

// Managed reports whether a key is a file of a repository of packages at the server's name for packages: everything
// there but the index of Python packages. Whoever has generated the signed metadata of the repository writes its files,
// all together; nobody else may write one of them.
func (s *Server) Managed(key string) bool {
	host, path, _ := strings.Cut(key, "/")
	return host == s.cfg.OwnIndex() && path != "" && !strings.HasPrefix(path, "simple/")
}

// isManaged is the reason why a write is refused.
const isManaged = "the files of a repository of packages change with its metadata: use casemate package put and remove"

// getManaged answers with a file of a managed repository, or with a listing.
func (s *Server) getManaged(w http.ResponseWriter, r *http.Request, a address) {
	switch h, err := s.find(a); {
	case err == nil:
		s.send(w, r, h)
	case !errors.Is(err, fs.ErrNotExist):
		s.fail(w, r, err)
	case a.slash && s.list(w, r, a, true):
	case !a.slash && s.isDir(a.dir()):
		redirect(w, "./"+a.elems[len(a.elems)-1]+"/")
	default:
		s.miss(w, r, strings.TrimSuffix(a.url(), "?"), "")
	}
}
