package fileserver

import (
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"
)

// indexPage is the page of an index: the names of its projects.
type indexPage struct {
	Meta     pythonMeta    `json:"meta"`
	Projects []projectName `json:"projects"`
}

type projectName struct {
	Name string `json:"name"`
}

// pythonRoot answers with the projects of an index: the directories of the address. It reports false if there are none.
func (s *Server) pythonRoot(w http.ResponseWriter, r *http.Request, a address) bool {
	names := s.projectNames(a.dir())
	if len(names) > 0 {
		writeProjects(w, r, names)
	}
	return len(names) > 0
}

// projectNames are the directories of an index that have the name of a project. Each costs a few steps of a walk,
// whatever it has inside.
func (s *Server) projectNames(dir string) []string {
	var names []string
	if tooLong(dir) {
		return nil
	}
	for after := ""; ; {
		list, next := s.entries(dir, after)
		for _, e := range list {
			if name := strings.TrimSuffix(e.Name, "/"); e.Dir && normalProject(name) == name {
				names = append(names, name)
			}
		}
		if next == "" || len(names) >= maxPackages {
			return names
		}
		after = strings.TrimSuffix(strings.TrimPrefix(list[len(list)-1].href, "./"), "/")
	}
}

func writeProjects(w http.ResponseWriter, r *http.Request, names []string) {
	page := indexPage{Meta: pythonMeta{"1.1"}, Projects: []projectName{}}
	var links []string
	for _, name := range names {
		page.Projects = append(page.Projects, projectName{name})
		links = append(links, `<a href="./`+name+`/">`+name+`</a>`)
	}
	writeSimple(w, simpleForm(r), page, "Simple index", links)
}

// indices are the directories in the tree of the indices of Python packages: the server's own, then those at /simple of
// the origins.
func (s *Server) indices() []string {
	hosts := s.cfg.Origins()
	if own := s.cfg.OwnIndex(); own != "" {
		hosts = append([]string{own}, hosts...)
	}
	dirs := make([]string, 0, len(hosts))
	for _, host := range hosts {
		dirs = append(dirs, host+"/simple")
	}
	return dirs
}

// getPackage answers under the server's name for packages: /simple/, /simple/PROJECT/ and /simple/PROJECT/FILE, and the
// files of managed repositories.
func (s *Server) getPackage(w http.ResponseWriter, r *http.Request, a address) {
	here := "https://" + s.cfg.OwnIndex() + "/" + strings.Join(a.elems, "/")
	if len(a.elems) == 0 {
		redirect(w, "./simple/")
		return
	}
	if a.host = s.cfg.OwnIndex(); a.elems[0] != "simple" && s.isDir(a.host+"/"+a.elems[0]) {
		s.getManaged(w, r, a)
		return
	}
	if a.elems[0] != "simple" || len(a.elems) > 3 {
		s.miss(w, r, here, "neither the index of Python packages, /simple/, nor a repository")
		return
	}
	if len(a.elems) == 1 {
		s.getIndex(w, r, a.slash)
		return
	}
	name := a.elems[1]
	normal := normalProject(name)
	if normal == "" {
		s.miss(w, r, here, "not the name of a Python project")
		return
	}
	if len(a.elems) == 3 {
		s.getPackageFile(w, r, a, normal)
		return
	}
	if !s.pythonPage(w, r, a) {
		s.miss(w, r, s.ownIndexURL(normal+"/"), missingProject)
	}
}

// ownIndexURL is the URL of something in the server's own index.
func (s *Server) ownIndexURL(path string) string {
	return "https://" + s.cfg.OwnIndex() + "/simple/" + path
}

// projectAt is the page of the project whose name is the last element of the address, without packages if none are
// here; exact reports whether the address is the page's own.
func (s *Server) projectAt(a address) (p *projectPage, exact bool) {
	p = &projectPage{}
	if len(a.elems) == 0 {
		return p, false
	}
	name := a.elems[len(a.elems)-1]
	normal := normalProject(name)
	switch {
	case normal == "":
	case a.host == s.cfg.OwnIndex() && len(a.elems) == 2 && a.elems[0] == "simple":
		p = s.project(normal, s.indices()...)
	default:
		p = s.project(normal, parentDir(a))
	}
	return p, a.slash && normal == name
}

// missingProject is the detail of a miss.
const missingProject = "no package of this Python project is here"

// getIndex answers with the projects of all indices.
func (s *Server) getIndex(w http.ResponseWriter, r *http.Request, slash bool) {
	if !slash {
		redirect(w, "./simple/")
		return
	}
	var names []string
	for _, dir := range s.indices() {
		names = append(names, s.projectNames(dir)...)
	}
	slices.Sort(names)
	writeProjects(w, r, slices.Compact(names))
}

// getPackageFile answers with a file of the first index that has it, the same that the project's page describes.
func (s *Server) getPackageFile(w http.ResponseWriter, r *http.Request, a address, normal string) {
	for _, dir := range s.indices() {
		in := dir + "/" + normal
		if a.slash || !s.hasAny(in) {
			continue
		}
		h, err := s.stat(in + "/" + a.elems[2] + "?")
		if err == nil {
			s.send(w, r, h)
			return
		}
		if !errors.Is(err, fs.ErrNotExist) {
			s.fail(w, r, err)
			return
		}
	}
	s.miss(w, r, s.ownIndexURL(normal+"/"+a.elems[2]), "")
}

// hasAny reports whether a directory has anything. Unlike Stat it does not ask the leader.
func (s *Server) hasAny(dir string) bool {
	for range s.cfg.Tree.Walk(dir, "") {
		return true
	}
	return false
}
