package page

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// content are the pages about what is stored. Where images may be read without an account, so may these.
var content = []entry{
	{path: "/content", title: "Content", nav: true, verb: "list", open: true, view: contentPage},
	{path: "/content/image", title: "Image", verb: "list", open: true, view: imagePage},
	{path: "/content/file", title: "File", verb: "list", open: true, view: filePage},
	{path: "/content/packages", title: "Packages", verb: "list", view: packagesPage},
	{path: "/content/charts", title: "Charts", verb: "list", open: true, view: chartsPage},
	{path: "/search", title: "Search", verb: "list", open: true, view: searchPage},
}

// contentActions are the actions of these pages.
var contentActions = map[string]action{
	"image-delete": {
		title: "Delete an image", button: "Delete the image", verb: "delete", method: http.MethodDelete,
		path: "/v1/images", removes: true, back: "/content", command: "casemate image delete {ref}",
		note:   "Disk space is freed by the next casemate gc, as far as nothing else refers to the content.",
		fields: []field{{name: "ref", kind: "hidden", in: "query"}},
	},
	"file-delete": {
		title: "Delete a file", button: "Delete the file", verb: "delete", method: http.MethodDelete,
		path: "/v1/files", removes: true, back: "/content?kind=file", command: "casemate file delete {url}",
		note:   "Disk space is freed by the next casemate gc, as far as nothing else refers to the content.",
		fields: []field{{name: "url", kind: "hidden", in: "query"}},
	},
	"package-remove": {
		title: "Remove a package", button: "Remove the package", verb: "delete", method: http.MethodDelete,
		path: "/v1/packages/{repository}", removes: true, back: "/content/packages",
		command: "casemate package remove {repository} {package}",
		fields:  []field{{name: "repository", kind: "hidden"}, {name: "package", kind: "hidden", in: "query"}},
	},
}

// Where the details of an image and of a file are.
func imageHref(ref string) string { return hrefTo("/content/image", "ref", ref) }
func fileHref(at string) string   { return hrefTo("/content/file", "url", at) }
func levelHref(kind, path string) string {
	return hrefTo("/content", "kind", kind, "path", path)
}

// maxHref is the length in bytes of the longest name that a row of a table links to: a page of a hundred has a bounded
// size. Names of images and files are shorter.
const maxHref = 2100

// hrefTo returns a URL of this host with a query; "" if a value is too long for one.
func hrefTo(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if len(pairs[i+1]) > maxHref {
			return ""
		}
		q.Set(pairs[i], pairs[i+1])
	}
	return path + "?" + q.Encode()
}

// tabs are links to the parts of a page.
type tabs struct {
	Label string
	Links []link
}

// contentTabs lead to the kinds of content.
func contentTabs(c *call, current string) part {
	t := tabs{Label: "Kinds of content", Links: []link{
		{Href: "/content", Text: "Images"},
		{Href: "/content?kind=file", Text: "Files"},
		{Href: "/content/packages", Text: "Packages"},
		{Href: "/content/charts", Text: "Charts"},
	}}
	if !c.may("list") {
		t.Links = append(t.Links[:2:2], t.Links[3])
	}
	for i := range t.Links {
		t.Links[i].Current = t.Links[i].Text == current
	}
	return part{"tabs", t}
}

// trail is the way to a path: a link for each part of it, the last one where the page is.
func trail(kind, path string) part {
	t := tabs{Label: "Path", Links: []link{{Href: levelHref(kind, ""), Text: "Origins"}}}
	at := ""
	for elem := range strings.SplitSeq(path, "/") {
		if elem != "" && len(t.Links) < 100 {
			at = strings.TrimPrefix(at+"/"+elem, "/")
			t.Links = append(t.Links, link{Href: levelHref(kind, at), Text: elem})
		}
	}
	t.Links[len(t.Links)-1].Current = true
	return part{"trail", t}
}

// browsed is an entry of GET /v1/browse.
type browsed struct {
	Name, Path, Kind, Digest string
	Size                     int64
	Time                     time.Time
}

// contentPage shows one level of the images or of the files.
func contentPage(c *call) (view, error) {
	kind, title, command, empty := "image", "Images", "casemate image list", "There are no images here."
	if c.query("kind") == "file" {
		kind, title, command, empty = "file", "Files", "casemate file list", "There are no files here."
	}
	path := strings.Trim(c.query("path"), "/")
	t := list[browsed]{
		Name: title, Title: title, Path: with(with("/v1/browse", "kind", kind), "path", path), Field: "entries",
		Paged: true, Head: []string{"Name", "Kind", "Size", "Stored (UTC)", "Digest"}, Empty: empty,
		Row: func(b browsed) []Cell { return browsedRow(kind, b) },
	}
	if path != "" {
		command += " " + shellWord(path)
		t.Title = title + " of " + clip(path)
	}
	levels, err := table(c, t)
	if err != nil {
		return view{}, err
	}
	return view{Command: command, Live: []string{"tree"},
		Parts: []part{contentTabs(c, title), trail(kind, path), levels}}, nil
}

func browsedRow(kind string, b browsed) []Cell {
	name := Cell{Text: b.Name}
	switch b.Kind {
	case "tag", "manifest":
		name.Href = imageHref(b.Path)
	case "file":
		name.Href = fileHref(b.Path)
	default:
		name.Text += "/"
		name.Href = levelHref(kind, b.Path)
		return []Cell{name, text(b.Kind), {}, {}, {}}
	}
	return []Cell{name, text(b.Kind), size(b.Size), at(b.Time), code(b.Digest)}
}

// descriptor is the descriptor of a manifest, as in GET /v1/images/manifest.
type descriptor struct {
	Digest, Platform string
	MediaType        string `json:"media_type"`
	Size             int64
	Stored           bool
}

// attached is what is attached to a manifest.
type attached struct {
	Digest, Tag, Kind string
	ArtifactType      string `json:"artifact_type"`
}

// provenance is who brought a name, and when it was last read.
type provenance struct {
	Stored  time.Time
	Imports []string
	Event   *struct{ Actor, From, Verb string }
	Pull    *struct {
		Time time.Time
		Node string
	} `json:"last_pull"`
}

// By returns who brought it; "" if that is not known.
func (p provenance) By() string {
	if p.Event == nil {
		return ""
	}
	by := p.Event.Actor
	if by == "" {
		by = "casemate"
	}
	if p.Event.From != "" {
		by += " from " + p.Event.From
	}
	return by + ", " + p.Event.Verb
}

// image is GET /v1/images/manifest, and for who may see more GET /v1/images/show.
type image struct {
	Name, Reference, Digest, Subject, Platform string
	MediaType                                  string `json:"media_type"`
	ArtifactType                               string `json:"artifact_type"`
	Size                                       int64
	Sparse, Damaged, More                      bool
	Created                                    time.Time
	Platforms, Absent, Tags                    []string
	Layers, Manifests                          []descriptor
	Attached                                   []attached
	provenance
}

// imagePage shows one image.
func imagePage(c *call) (view, error) {
	ref := c.query("ref")
	path := with("/v1/images/manifest", "ref", ref)
	if c.may("inspect") {
		path = with("/v1/images/show", "ref", ref)
	}
	var i image
	if _, err := c.get(path, &i); err != nil {
		return view{}, err
	}
	data := map[string]any{"Image": i, "Known": strings.Contains(path, "/show"), "Pull": pullLines(c, i),
		"Parent": levelHref("image", i.Name), "Subject": imageHref(i.Name + "@" + i.Subject),
		"Tags": tagLinks(i), "Signed": signed(i)}
	v := view{Title: "Image " + clip(i.Reference), Command: "casemate image show " + shellWord(i.Reference),
		Live: []string{"tree"}, Parts: []part{trail("image", i.Name), {"image", data}}}
	add := func(p part, err error) error {
		v.Parts = append(v.Parts, p)
		return err
	}
	var err error
	if len(i.Manifests) > 0 {
		err = add(table(c, list[descriptor]{Name: "manifests", Title: "Platforms", Path: path, Field: "manifests",
			Items: i.Manifests,
			Head:  []string{"Platform", "State", "Size", "Type", "Digest"},
			Row: func(d descriptor) []Cell {
				digest := code(d.Digest)
				if d.Stored {
					digest.Href = imageHref(i.Name + "@" + d.Digest)
				}
				return []Cell{text(d.Platform), presence(d.Stored), size(d.Size), text(d.MediaType), digest}
			}}))
	}
	if len(i.Layers) > 0 && err == nil {
		err = add(table(c, list[descriptor]{Name: "layers", Title: "Layers", Path: path, Field: "layers",
			Items: i.Layers,
			Head:  []string{"Digest", "State", "Size", "Type"},
			Row: func(d descriptor) []Cell {
				return []Cell{code(d.Digest), presence(d.Stored), size(d.Size), text(d.MediaType)}
			}}))
	}
	if len(i.Attached) > 0 && err == nil {
		err = add(table(c, list[attached]{Name: "attached", Title: "Signatures and other referrers", Path: path,
			Field: "attached", Items: i.Attached, Head: []string{"Kind", "Type", "Tag", "Digest"},
			Row: func(a attached) []Cell {
				kind := text(a.Kind)
				if a.Kind == "" {
					kind.Text = "referrer"
				}
				digest := code(a.Digest)
				digest.Href = imageHref(i.Name + "@" + a.Digest)
				return []Cell{kind, text(a.ArtifactType), text(a.Tag), digest}
			}}))
	}
	if c.may("delete") {
		offers := []link{actionLink("Delete this name", "image-delete", "ref", i.Reference)}
		if strings.Contains(strings.TrimPrefix(i.Reference, i.Name), ":") && !strings.Contains(i.Reference, "@") {
			offers = append(offers, actionLink("Delete the manifest with all its tags", "image-delete", "ref",
				i.Name+"@"+i.Digest))
		}
		v.Parts = append(v.Parts, c.offers(offers...))
	}
	return v, err
}

// presence is a cell that says whether content is here.
func presence(here bool) Cell {
	if here {
		return Cell{Text: "stored", Class: "good"}
	}
	return Cell{Text: "not here", Class: "warn"}
}

// signed counts the signatures, which nobody has verified.
func signed(i image) (n int) {
	for _, a := range i.Attached {
		if a.Kind == "signature" {
			n++
		}
	}
	return n
}

// maxTags is how many tags of one manifest a page shows.
const maxTags = 50

func tagLinks(i image) []link {
	var list []link
	for _, tag := range i.Tags[:min(len(i.Tags), maxTags)] {
		list = append(list, link{Href: imageHref(i.Name + ":" + tag), Text: tag})
	}
	return list
}

// pullLines are the commands that pull an image.
func pullLines(c *call, i image) []string {
	ref := i.Reference
	if host, _, deep := strings.Cut(i.Name, "/"); !deep || !strings.Contains(host, ".") {
		ref = "registry." + c.p.cfg.Domain + "/" + ref
	}
	if strings.Contains(i.ArtifactType, "helm") {
		name, version, _ := strings.Cut(ref[strings.LastIndexByte(ref, '/')+1:], ":")
		chart := "oci://" + ref[:strings.LastIndexByte(ref, '/')+1] + name
		return []string{"helm pull " + shellWord(chart) + " --version " + shellWord(version)}
	}
	if i.ArtifactType != "" {
		return []string{"oras pull " + shellWord(ref)}
	}
	return []string{"crictl pull " + shellWord(ref), "docker pull " + shellWord(ref)}
}

// file is GET /v1/files/stat, and for who may see more GET /v1/files/show.
type file struct {
	URL, Digest string
	Size        int64
	Time        time.Time
	Redirects   []string
	provenance
}

// filePage shows one file.
func filePage(c *call) (view, error) {
	path := with("/v1/files/stat", "url", c.query("url"))
	if c.may("inspect") {
		path = with("/v1/files/show", "url", c.query("url"))
	}
	var f file
	if _, err := c.get(path, &f); err != nil {
		return view{}, err
	}
	_, rest, _ := strings.Cut(f.URL, "://")
	dir, _, _ := strings.Cut(rest, "?")
	dir = dir[:max(0, strings.LastIndexByte(dir, '/'))]
	data := map[string]any{"File": f, "Known": strings.Contains(path, "/show"), "Sum": sumLine(f),
		"Fetch": "curl -fLO " + shellWord(f.URL)}
	v := view{Title: "File " + clip(f.URL), Command: "casemate file show " + shellWord(f.URL), Live: []string{"tree"},
		Parts: []part{trail("file", dir), {"file", data}}}
	if c.may("delete") {
		v.Parts = append(v.Parts, c.offers(actionLink("Delete this file", "file-delete", "url", f.URL)))
	}
	return v, nil
}

// sumLine is the command that compares a fetched file with its digest; "" if there is none.
func sumLine(f file) string {
	digits, ok := strings.CutPrefix(f.Digest, "sha256:")
	name, _, _ := strings.Cut(f.URL, "?")
	name = name[strings.LastIndexByte(name, '/')+1:]
	if !ok || name == "" {
		return ""
	}
	return "echo " + shellWord(digits+"  "+name) + " | sha256sum -c"
}

// ownPackage is GET /v1/packages.
type ownPackage struct {
	Repository, Name, Version, Arch, URL, Digest string
	Size                                         int64
	Time                                         time.Time
}

// packageRepository is GET /v1/repositories.
type packageRepository struct {
	Format, URL, Suite, Origin, Import string
	Date                               time.Time
	ValidUntil                         time.Time `json:"valid_until"`
	Packages                           int
}

// packagesOnPage is how many rows each of the two tables of packages has on a page.
const packagesOnPage = 50

// packagesPage shows the package repositories that are stored, and the packages of one's own.
func packagesPage(c *call) (view, error) {
	repos, err := table(c, list[packageRepository]{Name: "repositories", Title: "Package repositories that are stored",
		Path: "/v1/repositories", Most: packagesOnPage, Command: "casemate repo list",
		Empty: "No package repository is stored.",
		Head:  []string{"URL", "Format", "Suite", "Packages", "Date (UTC)", "Valid until (UTC)", "Import"},
		Row: func(r packageRepository) []Cell {
			until := at(r.ValidUntil)
			if !r.ValidUntil.IsZero() && c.p.cfg.Now().After(r.ValidUntil) {
				until = Cell{Text: "expired", Class: "bad", More: when(r.ValidUntil)}
			}
			_, path, _ := strings.Cut(r.URL, "://")
			where := linked(r.URL, levelHref("file", strings.TrimSuffix(path, "/")))
			return []Cell{where, text(r.Format), text(r.Suite), number(r.Packages), at(r.Date), until, text(r.Import)}
		}})
	if err != nil {
		return view{}, err
	}
	own, err := table(c, list[ownPackage]{Name: "packages", Title: "Packages of your own", Path: "/v1/packages",
		Paged: true, Most: packagesOnPage, Command: "casemate package list",
		Empty: "There are no packages of your own.",
		Head:  []string{"Repository", "Package", "Version", "Architecture", "Size", "Put (UTC)", "Digest"},
		Row: func(p ownPackage) []Cell {
			row := []Cell{text(p.Repository), linked(p.Name, fileHref(p.URL)), text(p.Version), text(p.Arch),
				size(p.Size), at(p.Time), code(p.Digest)}
			offer := Cell{}
			if len(p.Repository)+len(p.Name)+len(p.Version) < maxHref {
				offer = c.offer(actionLink("Remove", "package-remove", "repository", p.Repository, "package",
					p.Name+"="+p.Version))
			}
			return append(row, offer)
		}})
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate package list", Live: []string{"tree"},
		Parts: []part{contentTabs(c, "Packages"), repos, own}}, nil
}

// chartsPage shows the charts in repositories of charts.
func chartsPage(c *call) (view, error) {
	charts, err := hits(c, "charts", "Charts", "", "chart", "There are no charts in repositories of charts.")
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate search --kind chart ''", Live: []string{"tree"}, Parts: []part{
		contentTabs(c, "Charts"), charts, {"sentence", "Charts in registries are among the images."}}}, nil
}
