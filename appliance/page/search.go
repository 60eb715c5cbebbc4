package page

// hit is an element of GET /v1/search.
type hit struct{ Kind, Name, Detail, Digest string }

// searchKinds are the kinds that a search can be limited to; the ones without private need no account.
var searchKinds = []struct {
	kind, text string
	private    bool
}{
	{"repository", "Repositories", false}, {"image", "Images", false}, {"file", "Files", false},
	{"package", "Packages", false}, {"chart", "Charts", false}, {"name", "DNS records", true},
	{"import", "Imports", true},
}

// searchPage finds what is stored by any part of a name or of a digest.
func searchPage(c *call) (view, error) {
	q, kind := c.query("q"), c.query("kind")
	v := view{Command: "casemate search " + shellWord(q)}
	if kind != "" {
		v.Command = "casemate search --kind " + shellWord(kind) + " " + shellWord(q)
	}
	if q == "" && kind == "" {
		v.Command = ""
		v.Parts = []part{{"sentence", "Search by any part of a name, or of a digest, of at least two characters."}}
		return v, nil
	}
	t := tabs{Label: "What to search for", Links: []link{{Href: hrefTo("/search", "q", q), Text: "All",
		Current: kind == ""}}}
	for _, k := range searchKinds {
		if !k.private || c.may("list") {
			t.Links = append(t.Links, link{Href: hrefTo("/search", "q", q, "kind", k.kind), Text: k.text,
				Current: kind == k.kind})
		}
	}
	found, err := hits(c, "hits", "Found", q, kind, "Nothing that is stored here matches.")
	if e, ok := err.(*apiError); ok && e.Status == 400 {
		v.Parts = []part{{"failure", e.Sentence}}
		return v, nil
	}
	v.Parts = []part{{"tabs", t}, found}
	return v, err
}

// hits is a table of what a search finds.
func hits(c *call, name, title, q, kind, empty string) (part, error) {
	path := with("/v1/search", "q", q)
	if kind != "" {
		path = with(path, "kind", kind)
	}
	return table(c, list[hit]{Name: name, Title: title, Path: path, Paged: true, Empty: empty,
		Head: []string{"Kind", "Name", "Digest or values"}, Row: func(h hit) []Cell {
			found := Cell{Text: h.Name, Href: c.hitHref(h)}
			last := code(h.Digest)
			if h.Detail != "" {
				last = text(h.Detail)
			}
			return []Cell{text(h.Kind), found, last}
		}})
}

// hitHref returns the page of what was found; "" if there is none.
func (c *call) hitHref(h hit) string {
	switch h.Kind {
	case "repository", "layer":
		return levelHref("image", h.Name)
	case "image":
		return imageHref(h.Name)
	case "file", "package", "chart":
		return fileHref(h.Name)
	case "name":
		return c.known("/dns")
	case "import":
		return c.known("/imports")
	}
	return ""
}

// known returns the path of a page, "" if there is none.
func (c *call) known(path string) string {
	if _, ok := c.p.routes[path]; !ok {
		return ""
	}
	return path
}
