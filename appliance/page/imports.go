package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// imported is an import: an element of GET /v1/imports, and the head of GET /v1/imports/NAME and GET
// /v1/approvals/NAME.
type imported struct {
	Name, State, Kind, ID, Signer, Maker, Approver, Node string
	Message                                              string // of a result
	Sources, Notes                                       []string
	Time                                                 time.Time
	KeptUntil                                            time.Time `json:"kept_until"`
	Images, Manifests, Files, Redirects                  int
	New, Changed, Unchanged, Blobs, Parts                int
	Have, Missing                                        []int
	Bytes                                                int64
	BytesNew                                             int64 `json:"bytes_new"`
	NeedsApproval                                        bool  `json:"needs_approval"`
	Running, Intact                                      bool
	Diff                                                 string
	Origins                                              struct {
		Enabled, Removed, Refused []string
		NotPermitted              []string `json:"not_permitted"`
	}
}

// importChange is a name that publishing an import would change, or has.
type importChange struct{ What, Kind, Name, From, To, Digest, Behind string }

var importActions = map[string]action{
	"import-publish": {title: "Publish an import", button: "Publish", verb: "import", method: "POST",
		path: "/v1/imports/{name}/publish", back: "/imports",
		command: "casemate import publish {name} --diff {diff}",
		note:    "All names of the import appear at the same moment.",
		fields:  []field{{name: "name", label: "Import"}, diffField}},
	"import-approve": {title: "Approve an import", button: "Approve and publish", verb: "approve", method: "POST",
		path: "/v1/approvals/{name}", back: "/imports",
		command: "casemate import approve {name} --diff {diff}",
		note: "Compare the digest with the one that the importer has told you. All names of the import appear at the " +
			"same moment.",
		fields: []field{{name: "name", label: "Import"}, diffField}},
	"import-reject": {title: "Reject an import", button: "Reject", verb: "approve", method: "POST",
		path: "/v1/approvals/{name}/reject", back: "/imports", command: "casemate import reject {name}",
		note:   "Nothing of the import was visible. Its content can be imported again.",
		fields: []field{{name: "name", label: "Import"}}},
	"import-remove": {title: "Undo an import", button: "Undo", verb: "import", method: "DELETE", removes: true,
		path: "/v1/imports/{name}", back: "/imports", command: "casemate import remove {name}",
		note: "Names that only this import brought disappear. Names that an older import or a push had set before " +
			"show that content again.",
		fields: []field{{name: "name", label: "Import"}}},
}

var diffField = field{name: "diff", label: "Digest of what it changes", help: "The page of the changes shows it. The " +
	"import is not published if it would do something else by now."}

// importsPage is where files are imported, with what waits and the history.
func importsPage(c *call) (view, error) {
	waiting, err := table(c, list[imported]{Name: "waiting", Title: "Waiting to be published",
		Path: "/v1/approvals", Command: "casemate import list", Empty: "No import waits.", Most: 20,
		Head: []string{"Import", "Staged", "By", "Brings", "Waits until", "For"},
		Row: func(i imported) []Cell {
			who := "an approval by somebody else"
			if !i.NeedsApproval {
				who = i.Maker + " or an approval"
			}
			return []Cell{linked(i.Name, pageOf("/imports/diff", i.Name)), at(i.Time), text(i.Maker), text(i.brings()),
				at(i.KeptUntil), text(who),
				actions(link{Href: pageOf("/imports/diff", i.Name), Text: "Look at the changes"})}
		}})
	if err != nil {
		return view{}, err
	}
	history, err := table(c, list[imported]{Name: "imports", Title: "Imports", Path: "/v1/imports?order=newest",
		Paged: true, Command: "casemate import list", Empty: "Nothing was imported yet.",
		Head: []string{"Import", "Time", "State", "By", "Brings", "Size", "Signed by"},
		Row: func(i imported) []Cell {
			return []Cell{linked(i.Name, i.at()), at(i.Time), i.state(), text(i.Maker), text(i.brings()),
				{Text: Bytes(i.Bytes), Class: "num"}, i.signer(), c.offer(i.undo("Undo"))}
		}})
	if err != nil {
		return view{}, err
	}
	v := view{Command: "casemate import FILE…", Live: []string{"tree"}, Parts: []part{waiting, history}}
	if c.may("import") {
		v.Parts = append([]part{{"upload", nil}}, v.Parts...)
	}
	return v, nil
}

// maxImportName is how many bytes the name of an import has.
const maxImportName = 63

// pageOf returns the URL of a page about an import.
func pageOf(path, name string) string {
	return path + "?import=" + url.QueryEscape(name[:min(len(name), maxImportName)])
}

// undo is the link to the removal of an import.
func (i imported) undo(text string) link {
	return actionLink(text, "import-remove", "name", i.Name[:min(len(i.Name), maxImportName)])
}

// at returns the page of an import.
func (i imported) at() string {
	if i.State == "staged" {
		return pageOf("/imports/diff", i.Name)
	}
	return pageOf("/imports/import", i.Name)
}

func (i imported) state() Cell {
	switch {
	case i.Running:
		return Cell{Text: "is being imported", Class: "warn"}
	case i.State == "staged":
		return Cell{Text: "staged", Class: "warn", More: "until " + when(i.KeptUntil)}
	case i.State == "incomplete" && len(i.Missing) > 0:
		return Cell{Text: "incomplete", Class: "warn",
			More: "missing parts: " + strings.Trim(fmt.Sprint(i.Missing), "[]")}
	case i.State == "incomplete":
		return Cell{Text: "interrupted", Class: "warn",
			More: Bytes(i.BytesNew) + " are kept until " + when(i.KeptUntil)}
	}
	return Cell{Text: i.State, Class: "good"}
}

func (i imported) signer() Cell {
	if i.Signer == "" {
		return text("nobody")
	}
	return code(i.Signer)
}

// brings describes the names in one line.
func (i imported) brings() string {
	var list []string
	for _, n := range []struct {
		n    int
		what string
	}{{i.Images, "image"}, {i.Manifests, "manifest"}, {i.Files, "file"}, {i.Redirects, "redirect"}} {
		switch {
		case n.n == 1:
			list = append(list, "1 "+n.what)
		case n.n > 1:
			list = append(list, fmt.Sprintf("%d %ss", n.n, n.what))
		}
	}
	return strings.Join(list, ", ")
}

// about is the data of the template that describes an import.
type about struct {
	imported
	Said   Cell
	Offers Cell
	Waits  bool
}

// importName returns the import that a request is about.
func importName(c *call) (string, error) {
	name := c.query("import")
	if name == "" {
		return "", &apiError{http.StatusNotFound, "this page is about one import: choose one in the list of imports"}
	}
	return name, nil
}

// importPage shows one import with its names.
func importPage(c *call) (view, error) {
	name, err := importName(c)
	if err != nil {
		return view{}, err
	}
	path := "/v1/imports/" + url.PathEscape(name)
	var i imported
	if _, err := c.get(path+"?limit=1", &i); err != nil {
		return view{}, err
	}
	names, err := table(c, list[importChange]{Name: "names", Title: "Names", Path: path, Field: "names", Paged: true,
		Empty: "It brought no names.", Head: []string{"Kind", "Name", "Digest", "Note"},
		Row: func(n importChange) []Cell {
			note := ""
			if n.Behind != "" && i.State == "imported" {
				note = "hidden by " + n.Behind
			}
			return []Cell{text(n.Kind), text(n.Name), code(n.Digest), text(note)}
		}})
	if err != nil {
		return view{}, err
	}
	a := about{imported: i, Said: i.state(), Offers: c.offer(i.undo("Undo"))}
	return view{Title: "Import " + clip(name), Command: "casemate import show " + name, Live: []string{"tree"},
		Template: "import", Data: a, Parts: []part{names}}, nil
}

// diffPage shows what publishing a staged import would do.
func diffPage(c *call) (view, error) {
	name, err := importName(c)
	if err != nil {
		return view{}, err
	}
	path := "/v1/approvals/" + url.PathEscape(name)
	var i imported
	switch _, err := c.get(path+"?changed=1&limit=1", &i); {
	case is(err, http.StatusNotFound): // somebody has decided meanwhile: the browser goes on to what became of it
		http.Redirect(c.w, c.r, "/imports/import?import="+url.QueryEscape(name), http.StatusSeeOther)
		return view{}, errDone
	case err != nil:
		return view{}, err
	}
	changes, err := table(c, list[importChange]{Name: "changes", Title: "What it changes", Path: path + "?changed=1",
		Field: "changes", Paged: true, Command: "casemate import diff " + name,
		Empty: "It changes nothing: all its names show this content already.",
		Head:  []string{"Change", "Kind", "Name", "Digest", "Now"},
		Row: func(n importChange) []Cell {
			return []Cell{text(n.What), text(n.Kind), text(n.Name), code(n.To), code(n.From)}
		}})
	if err != nil {
		return view{}, err
	}
	pairs := []string{"name", name, "diff", i.Diff}
	var links []link
	if mine := i.Maker == c.who.Name; mine && !i.NeedsApproval {
		links = append(links, actionLink("Publish", "import-publish", pairs...))
	} else if !mine {
		links = append(links, actionLink("Approve", "import-approve", pairs...),
			actionLink("Reject", "import-reject", "name", name))
	}
	links = append(links, i.undo("Withdraw"))
	a := about{imported: i, Said: i.state(), Offers: c.offer(links...), Waits: true}
	return view{Title: "Staged import " + clip(name), Command: "casemate import diff " + name, Live: []string{"tree"},
		Template: "import", Data: a, Parts: []part{changes}}, nil
}

// uploaded is one file of a form: POST /v1/imports/form.
type uploaded struct {
	File   string
	Status int
	Error  string
	Result *imported
}

// At returns the page of the import, "" if there is none.
func (u uploaded) At() string {
	if u.Result == nil || u.Result.Name == "" {
		return ""
	}
	return u.Result.at()
}

// postUpload is POST /imports/upload: the form of files, without JavaScript. The API reads it while it arrives.
func (p *Page) postUpload(w http.ResponseWriter, r *http.Request) {
	c, err := p.identify(w, r)
	switch {
	case err != nil:
		p.fail(c, err)
		return
	case c.who == nil:
		p.fail(c, &apiError{http.StatusForbidden, "your session has ended, log in again: nothing was imported"})
		return
	}
	in, err := request(r, http.MethodPost, "/v1/imports/form", nil)
	if err != nil {
		p.fail(c, err)
		return
	}
	in.Body, in.ContentLength = r.Body, r.ContentLength
	in.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	a, err := p.send(in)
	var list []uploaded
	if err == nil {
		err = json.Unmarshal(a.body.Bytes(), &list)
	}
	if err != nil && errors.As(err, new(*apiError)) {
		p.render(c, http.StatusBadRequest, view{Title: "Nothing was imported", Template: "uploaded",
			Data: []uploaded{{Error: err.Error()}}})
		return
	}
	if err != nil {
		p.fail(c, err)
		return
	}
	p.render(c, http.StatusOK, view{Title: "Imported files", Command: "casemate import list", Template: "uploaded",
		Data: list})
}
