package page

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// pageSize is how many rows a page shows of a list.
const pageSize = 100

// list describes a table of which each row is an element of a list of the API.
type list[T any] struct {
	// Name is the name of the downloads, and distinguishes the tables of a page.
	Name, Title string
	// Path is the request of the API, with a query if there is one.
	Path string
	// Field is the field of the answer that has the list; "": the answer is the list.
	Field string
	// Paged says that the API takes limit and after. Otherwise the list is short, and it is asked for whole.
	Paged bool
	Head  []string
	Row   func(T) []Cell
	Empty string // the sentence in the place of no rows
	// Command is the equivalent command; "": that of the page.
	Command string
	// Items are the elements that the page shows, if it has asked for them already; nil: they are asked for. Downloads
	// ask again.
	Items []T
	// Most is how many rows the page shows; 0: pageSize.
	Most int
}

// Cell is one cell of a table.
type Cell struct {
	Text  string
	Href  string    // it links there
	Time  time.Time // in place of Text
	Class string    // good, bad, warn, num, code, word (not broken)
	Copy  bool      // it has a button that copies Text
	Raw   string    // what a CSV file has in its place, such as a number of bytes; "": Text and More
	More  string    // a smaller second line
	Links []link    // buttons: actions
}

// Table is a table as the template shows it.
type Table struct {
	Name, Title, Empty, Command string
	Head                        []string
	Rows                        [][]Cell
	CSV, JSON                   string // downloads
	Next, First                 string // other parts of the list
	Cut                         bool   // the list is longer than what is shown
	Offers                      bool   // rows have one more cell than the head, with actions
}

func text(s string) Cell         { return Cell{Text: s} }
func code(s string) Cell         { return Cell{Text: s, Class: "code"} }
func number(n any) Cell          { return Cell{Text: fmt.Sprint(n), Class: "num"} }
func size(bytes int64) Cell      { return Cell{Text: Bytes(bytes), Class: "num", Raw: fmt.Sprint(bytes)} }
func at(t time.Time) Cell        { return Cell{Time: t} }
func linked(s, href string) Cell { return Cell{Text: s, Href: href} }
func actions(links ...link) Cell { return Cell{Links: links} }
func (c Cell) csv() string {
	switch {
	case c.Raw != "":
		return c.Raw
	case !c.Time.IsZero():
		return c.Time.UTC().Format(time.RFC3339)
	case c.More != "" && c.Text != "":
		return c.Text + " " + c.More
	}
	return c.Text + c.More
}

// table asks the API for a list and returns it as a part of a page. If the request is for its download it answers with
// that, and returns errDone.
func table[T any](c *call, l list[T]) (part, error) {
	q := c.r.URL.Query()
	if q.Get("table") == l.Name {
		switch q.Get("format") {
		case "csv":
			return part{}, errors.Join(downloadCSV(c, l), errDone)
		case "json":
			return part{}, errors.Join(downloadJSON(c, l), errDone)
		}
	}
	t := Table{Name: l.Name, Title: l.Title, Empty: l.Empty, Command: l.Command, Head: l.Head,
		CSV: here(c, "table", l.Name, "format", "csv"), JSON: here(c, "table", l.Name, "format", "json")}
	most := l.Most
	if most == 0 {
		most = pageSize
	}
	path := l.Path
	if l.Paged {
		path = with(path, "limit", fmt.Sprint(most))
		if after := q.Get("after-" + l.Name); after != "" {
			path = with(path, "after", after)
			t.First = here(c, "after-"+l.Name, "")
		}
	}
	items, next := l.Items, ""
	if items == nil {
		var err error
		if items, next, err = elements[T](c, path, l.Field); err != nil {
			return part{}, err
		}
	}
	if !l.Paged {
		// The API sends all of it; the page shows a part, from the row that the parameter says.
		from, _ := strconv.Atoi(q.Get("after-" + l.Name))
		if from = min(max(from, 0), len(items)); from > 0 {
			items, t.First = items[from:], here(c, "after-"+l.Name, "")
		}
		if next = ""; len(items) > most {
			items, next = items[:most], strconv.Itoa(from+most)
		}
	}
	if len(items) > most {
		items, t.Cut = items[:most], true
	}
	for _, v := range items {
		row := l.Row(v)
		t.Rows, t.Offers = append(t.Rows, row), t.Offers || len(row) > len(l.Head)
	}
	if next != "" {
		t.Next = here(c, "after-"+l.Name, next)
	}
	return part{"table", t}, nil
}

// elements asks for a list.
func elements[T any](c *call, path, field string) (items []T, next string, err error) {
	if field == "" {
		next, err = c.get(path, &items)
		return items, next, err
	}
	var doc map[string]json.RawMessage
	if next, err = c.get(path, &doc); err == nil && doc[field] != nil {
		err = json.Unmarshal(doc[field], &items)
	}
	return items, next, err
}

// here returns the URL of the request with other parameters; an empty value removes one.
func here(c *call, pairs ...string) string {
	q := c.r.URL.Query()
	q.Del("table")
	q.Del("format")
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Del(pairs[i])
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	u := url.URL{Path: c.r.URL.Path, RawQuery: q.Encode()}
	return u.String()
}

// with adds a parameter to a request of the API.
func with(path, name, value string) string {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return path + sep + name + "=" + url.QueryEscape(value)
}

// download sets the header of a file.
func (c *call) download(name, kind string) {
	c.w.Header().Set("Content-Type", kind)
	c.w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
}

// downloadJSON answers with the API's own document.
func downloadJSON[T any](c *call, l list[T]) error {
	body, err := c.stream(l.Path)
	if err != nil {
		return err
	}
	defer body.Close()
	c.download(l.Name+".json", "application/json")
	if _, err := io.Copy(c.w, body); err != nil {
		panic(http.ErrAbortHandler) // a cut answer must not look whole
	}
	return nil
}

// downloadCSV answers with all rows (RFC 4180), written while they arrive.
func downloadCSV[T any](c *call, l list[T]) error {
	body, err := c.stream(l.Path)
	if err != nil {
		return err
	}
	defer body.Close()
	d := json.NewDecoder(body)
	if err := toList(d, l.Field); err != nil {
		return err
	}
	c.download(l.Name+".csv", "text/csv; charset=utf-8")
	w := csv.NewWriter(c.w)
	w.Write(l.Head)
	for d.More() {
		var v T
		if err := d.Decode(&v); err != nil {
			panic(http.ErrAbortHandler)
		}
		if w.Write(csvRecord(l.Head, l.Row(v))) != nil {
			return nil // the client has gone
		}
	}
	if _, err := d.Token(); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Flush()
	return nil
}

// csvRecord is a row as text.
func csvRecord(head []string, row []Cell) (record []string) {
	for _, cell := range row[:min(len(row), len(head))] {
		record = append(record, formula(string(inert([]byte(cell.csv())))))
	}
	return record
}

// formula keeps a spreadsheet from running a cell as a formula.
func formula(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// toList advances to the first element of the list.
func toList(d *json.Decoder, field string) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if field == "" {
		if t != json.Delim('[') {
			return fmt.Errorf("the answer is no list but begins with %v", t)
		}
		return nil
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		if name == field {
			_, err := d.Token()
			return err
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return err
		}
	}
	return fmt.Errorf("the answer has no field %s", field)
}
