package fileserver

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// An index of Python packages has one directory for each project, called by the project's normalised name; this file
// makes the directory's page out of the packages that are stored in it. The format is that of the simple repository API
// (packaging.python.org/en/latest/specifications/simple-repository-api: PEP 503, 592, 658, 691, 700, 714).

// maxPackages bounds the files on one project's page, and the projects on an index's page.
const maxPackages = 50_000

// Forms of an index's pages.
const (
	simpleJSON = "application/vnd.pypi.simple.v1+json"
	simpleHTML = "application/vnd.pypi.simple.v1+html"
	plainHTML  = "text/html"
)

// pythonFile is one package in the JSON form of a project's page.
type pythonFile struct {
	Filename string            `json:"filename"`
	URL      string            `json:"url"` // relative to the page
	Hashes   map[string]string `json:"hashes"`
	Size     int64             `json:"size"`
	// RequiresPython is missing if the package does not say it.
	RequiresPython string `json:"requires-python,omitempty"`
	// CoreMetadata are the hashes of FILENAME.metadata, missing if there is none. Its older name dist-info-metadata
	// must not be used in JSON: pip 22.3 to 23.0 crash on it (PEP 714).
	CoreMetadata map[string]string `json:"core-metadata,omitempty"`
	// Yanked is false, or the reason, or true without a reason.
	Yanked any `json:"yanked"`
}

// pythonMeta is the version of the API.
type pythonMeta struct {
	Version string `json:"api-version"`
}

// projectPage is the page of one project.
type projectPage struct {
	Meta     pythonMeta   `json:"meta"`
	Name     string       `json:"name"`
	Versions []string     `json:"versions"`
	Files    []pythonFile `json:"files"`
}

// pythonPage answers for a directory of an index: the page of a project that has packages here, or a redirect to its
// normalised name. It reports false if the address is no such directory.
func (s *Server) pythonPage(w http.ResponseWriter, r *http.Request, a address) bool {
	switch p, exact := s.projectAt(a); {
	case len(p.Files) == 0:
		return false
	case !exact:
		redirect(w, toProject(a.slash, p.Name))
	default:
		p.write(w, r)
	}
	return true
}

// toProject is the relative address of a project's page, from the page or the file of another spelling.
func toProject(slash bool, normal string) string {
	if slash {
		return "../" + normal + "/"
	}
	return "./" + normal + "/"
}

// parentDir is the directory in the tree of the directory that has the address's last element.
func parentDir(a address) string {
	a.elems = a.elems[:len(a.elems)-1]
	return a.dir()
}

// project reads the packages of a project in indices, each a directory of the tree. Of several files with one name,
// that of the first index counts.
func (s *Server) project(normal string, indices ...string) *projectPage {
	p := &projectPage{Meta: pythonMeta{"1.1"}, Name: normal, Versions: []string{}, Files: []pythonFile{}}
	seen := map[string]bool{}
	for _, dir := range indices {
		for _, f := range s.packages(dir+"/"+normal, normal) {
			if !seen[f.Filename] && len(p.Files) < maxPackages {
				seen[f.Filename] = true
				p.Files = append(p.Files, f)
			}
		}
	}
	slices.SortFunc(p.Files, func(a, b pythonFile) int { return strings.Compare(a.Filename, b.Filename) })
	for _, f := range p.Files {
		version, _ := packageVersion(f.Filename, normal)
		p.Versions = append(p.Versions, version)
	}
	slices.Sort(p.Versions)
	p.Versions = slices.Compact(p.Versions)
	return p
}

// packages reads a project's directory: one walk, and what beside a package says more of it.
func (s *Server) packages(dir, normal string) []pythonFile {
	if tooLong(dir) {
		return nil
	}
	held := map[string]storedFile{}
	for key, fi := range s.cfg.Tree.Walk(dir, "") {
		name, isFile := strings.CutSuffix(strings.TrimPrefix(key, dir+"/"), "?")
		if strings.ContainsRune(name, '/') {
			continue
		}
		name, err := url.PathUnescape(name)
		if h, ok := storedFileOf(key, fi); ok && isFile && err == nil {
			held[name] = h
		}
		if len(held) == 3*maxPackages {
			break
		}
	}
	var list []pythonFile
	for name, h := range held {
		if _, ok := packageVersion(name, normal); !ok {
			continue
		}
		f := pythonFile{Filename: name, URL: "./" + escape(name), Hashes: hashes(h.digest), Size: h.size, Yanked: false}
		if meta, ok := held[name+".metadata"]; ok {
			f.RequiresPython = s.fact(meta.digest, requiresPython)
			if strings.HasSuffix(name, ".whl") { // what an sdist says of its dependencies may not be what it builds
				f.CoreMetadata = hashes(meta.digest)
			}
		} else if says, ok := held[name+".requires-python"]; ok {
			f.RequiresPython = s.fact(says.digest, firstLine)
		}
		if why, ok := held[name+".yanked"]; ok {
			f.Yanked = true
			if reason := s.fact(why.digest, firstLine); reason != "" {
				f.Yanked = reason
			}
		}
		list = append(list, f)
	}
	return list
}

// hashes is a digest in the form of the API.
func hashes(digest string) map[string]string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return map[string]string{algorithm: hex}
}

// write answers with the page in the client's preferred form.
func (p *projectPage) write(w http.ResponseWriter, r *http.Request) {
	form := simpleForm(r)
	var links []string
	if form != simpleJSON {
		links = p.links()
	}
	writeSimple(w, form, p, p.title(), links)
}

func (p *projectPage) title() string { return "Links for " + p.Name }

func (p *projectPage) links() []string {
	links := make([]string, 0, len(p.Files))
	for i := range p.Files {
		links = append(links, p.Files[i].anchor())
	}
	return links
}

// anchor is the link of the HTML form.
func (f *pythonFile) anchor() string {
	var b strings.Builder
	attribute := func(name, value string) { fmt.Fprintf(&b, ` %s="%s"`, name, html.EscapeString(value)) }
	b.WriteString("<a")
	href := f.URL
	if sum := f.Hashes["sha256"]; sum != "" {
		href += "#sha256=" + sum
	}
	attribute("href", href)
	if f.RequiresPython != "" {
		attribute("data-requires-python", f.RequiresPython)
	}
	if sum := f.CoreMetadata["sha256"]; sum != "" {
		attribute("data-core-metadata", "sha256="+sum)
		attribute("data-dist-info-metadata", "sha256="+sum)
	}
	if reason, ok := f.Yanked.(string); ok {
		attribute("data-yanked", reason)
	} else if f.Yanked == true {
		attribute("data-yanked", "")
	}
	b.WriteString(">" + html.EscapeString(f.Filename) + "</a>")
	return b.String()
}

// writeSimple answers with a page of an index: page as JSON, or its links as HTML.
func writeSimple(w http.ResponseWriter, form string, page any, title string, links []string) {
	w.Header().Set("Vary", "Accept")
	if form == simpleJSON {
		text, err := json.Marshal(page)
		if err != nil { // strings and numbers only
			answer(w, http.StatusInternalServerError, "the index cannot be written.")
			return
		}
		body(w, http.StatusOK, simpleJSON, string(text)+"\n")
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	media := form
	if form == plainHTML {
		media += "; charset=utf-8"
	}
	body(w, http.StatusOK, media, simplePage(title, links))
}

// simplePage is a page in the HTML form.
func simplePage(title string, links []string) string {
	title = html.EscapeString(title)
	return "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\">" +
		"<meta name=\"pypi:repository-version\" content=\"1.1\"><title>" + title + "</title></head>\n<body><h1>" +
		title + "</h1>\n" + strings.Join(append(links, ""), "<br>\n") + "</body></html>\n"
}
