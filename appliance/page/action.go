package page

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// An action is one request of the API that a form sends. Each has a page of its own, /do/NAME, where it is filled in or
// confirmed, so that it works without JavaScript. A removal shows first what would go.
type action struct {
	title string
	// What the button of the form is called.
	button string
	verb   string // what an account must be allowed to do, so that it is offered
	method string
	path   string // with the names of fields: /v1/names/{name}/{type}
	fields []field
	// removes says that the request answers ?dry-run=1.
	removes bool
	back    string // the page that it leads back to
	command string // the equivalent command, with the names of fields
	note    string // what to know before
	// show is the template that shows the answer, such as a key that is shown once; "": the browser goes back.
	show string
	// load fills values of the form with what is there, and may change the copy of the action; nil: nothing does.
	load func(c *call, a *action, values url.Values) error
}

// A field is one value of an action.
type field struct {
	name, label string
	kind        string // text, password, lines, choice, check, hidden; "": text
	choices     []string
	help        string
	optional    bool
	// in is where the value goes: path, query, or body as JSON; "": path if the path names it, else body.
	in string
	// list makes the value an array of JSON: its lines, or what commas separate.
	list bool
	// value builds the JSON of a body's value; nil: a string.
	value func(text string) any
}

// formField is a field as the template shows it.
type formField struct {
	Name, Label, Kind, Value, Help string
	Choices                        []string
	Optional                       bool
}

// form is the data of an action's page.
type form struct {
	Name, Title, Button, Back, Note, Command string
	Fields                                   []formField
	Removal                                  *removal
	Wrong                                    string
	Danger                                   bool
}

// removal is what a request would remove, as the API plans it.
type removal struct {
	Removes []struct {
		Kind, Name string
		Bytes      int64
	}
	Count int
	Bytes int64
	Notes []string
}

// actionLink returns a link to an action with some values.
func actionLink(text, name string, pairs ...string) link {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	href := "/do/" + name
	if len(q) > 0 {
		href += "?" + q.Encode()
	}
	return link{Href: href, Text: text}
}

// maxLink is how many bytes a link may have. Names of content can be longer; a page of rows with such links would be
// too large, and servers and proxies refuse them. The command line takes any name.
const maxLink = 1024

// offer returns the cell with links to actions that the account may do.
func (c *call) offer(links ...link) Cell {
	var may []link
	for _, l := range links {
		name, _, _ := strings.Cut(strings.TrimPrefix(l.Href, "/do/"), "?")
		if a, ok := allActions[name]; ok && c.may(a.verb) && len(l.Href) <= maxLink {
			may = append(may, l)
		}
	}
	return actions(may...)
}

var inPath = regexp.MustCompile(`\{([a-z_]+)\}`)

// request returns the request of the API for the values of the fields.
func (a action) request(values url.Values) (path string, body map[string]any) {
	used := map[string]bool{}
	path = inPath.ReplaceAllStringFunc(a.path, func(m string) string {
		name := m[1 : len(m)-1]
		used[name] = true
		return url.PathEscape(bounded(values.Get(name)))
	})
	for _, f := range a.fields {
		text := values.Get(f.name)
		switch {
		case used[f.name] || text == "" && f.optional && f.kind != "check":
		case f.in == "query":
			path = with(path, f.name, bounded(text))
		default:
			if body == nil {
				body = map[string]any{}
			}
			body[f.name] = f.json(text)
		}
	}
	return path, body
}

// json returns the value of a field in a body.
func (f field) json(text string) any {
	switch {
	case f.value != nil:
		return f.value(text)
	case f.kind == "check":
		return text != ""
	case f.list:
		items := []string{}
		for _, s := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == ',' }) {
			if s = strings.TrimSpace(s); s != "" {
				items = append(items, s)
			}
		}
		return items
	}
	return text
}

// form returns the form with these values.
func (a action) form(name string, values url.Values) form {
	f := form{Name: name, Title: a.title, Button: a.button, Back: a.fill(a.back, values, url.QueryEscape),
		Note: a.note, Command: a.fill(a.command, values, shellWords), Danger: a.removes}
	for _, d := range a.fields {
		kind := d.kind
		if kind == "" {
			kind = "text"
		}
		v := ""
		if kind != "password" {
			v = bounded(values.Get(d.name))
		}
		f.Fields = append(f.Fields, formField{d.name, d.label, kind, v, d.help, d.choices, d.optional})
	}
	return f
}

// fill puts the values of fields in the place of their names.
func (a action) fill(text string, values url.Values, escape func(string) string) string {
	return inPath.ReplaceAllStringFunc(text, func(m string) string {
		name := m[1 : len(m)-1]
		if v := values.Get(name); v != "" {
			return escape(bounded(v))
		}
		return strings.ToUpper(name)
	})
}

// begin finds the action of a request, and who sends it; nil if the request has been answered.
func (p *Page) begin(w http.ResponseWriter, r *http.Request) (*call, action) {
	c, err := p.identify(w, r)
	a, ok := allActions[r.PathValue("action")]
	switch {
	case err != nil:
		p.fail(c, err)
	case !ok:
		p.fail(c, &apiError{http.StatusNotFound, "there is no such action"})
	case c.who == nil:
		c.toLogin()
	default:
		return c, a
	}
	return nil, a
}

func (p *Page) getAction(w http.ResponseWriter, r *http.Request) {
	c, a := p.begin(w, r)
	if c == nil {
		return
	}
	values := r.URL.Query()
	if a.load != nil {
		if err := a.load(c, &a, values); err != nil {
			p.fail(c, err)
			return
		}
	}
	f := a.form(r.PathValue("action"), values)
	if a.removes {
		path, _ := a.request(r.URL.Query())
		in, err := request(r, a.method, with(path, "dry-run", "1"), nil)
		var ans *answer
		if err == nil {
			ans, err = p.send(in)
		}
		if err == nil {
			f.Removal = new(removal)
			err = json.Unmarshal(ans.body.Bytes(), f.Removal)
		}
		if err != nil {
			p.fail(c, err)
			return
		}
	}
	p.showAction(c, http.StatusOK, f)
}

func (p *Page) showAction(c *call, status int, f form) {
	p.render(c, status, view{Title: f.Title, Command: f.Command, Template: "action", Data: f})
}

func (p *Page) postAction(w http.ResponseWriter, r *http.Request) {
	c, a := p.begin(w, r)
	if c == nil {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		p.fail(c, &apiError{http.StatusBadRequest, "the form could not be read: it is larger than 1 MiB, or damaged"})
		return
	}
	values := r.PostForm
	path, fields := a.request(values)
	var body any
	if fields != nil {
		body = fields
	}
	out, err := c.do(a.method, path, body)
	if err != nil {
		e, ok := err.(*apiError)
		if !ok {
			p.fail(c, err)
			return
		}
		f := a.form(r.PathValue("action"), values)
		f.Wrong = e.Sentence
		p.showAction(c, e.Status, f)
		return
	}
	back := a.fill(a.back, values, url.QueryEscape)
	if a.show == "" {
		http.Redirect(w, r, back, http.StatusSeeOther)
		return
	}
	var doc any
	d := json.NewDecoder(bytes.NewReader(out))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		p.fail(c, err)
		return
	}
	p.render(c, http.StatusOK, view{Title: a.title, Template: a.show,
		Data: map[string]any{"Answer": doc, "Back": back}})
}
