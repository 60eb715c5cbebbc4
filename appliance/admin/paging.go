package admin

import (
	"encoding/base64"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"casemate/appliance/usage"
)

const (
	// maxPage is the most elements of a page.
	maxPage = 1000
	// maxCursor is the length of the longest cursor, in bytes: that of a name of 4 KiB, encoded.
	maxCursor = 6 << 10
)

// page is the part of a list that a request asks for with ?limit=N&after=CURSOR. The zero value is all of it.
type page struct {
	limit int    // 0: no limit
	after string // the position of the last element of the page before, decoded; "": from the beginning
}

// pageOf reads the parameters limit and after.
func pageOf(r *http.Request) (p page, err error) {
	q := r.URL.Query()
	if text := q.Get("limit"); text != "" {
		if p.limit, err = strconv.Atoi(text); err != nil || p.limit < 1 || p.limit > maxPage {
			return page{}, usage.Errorf("limit must be a number between 1 and %d, got %.20q", maxPage, text)
		}
	}
	text := q.Get("after")
	if text == "" {
		return p, nil
	}
	at, err := base64.RawURLEncoding.DecodeString(text)
	if len(text) > maxCursor || err != nil || len(at) == 0 || !utf8.Valid(at) {
		return page{}, usage.Errorf("after must be the cursor in the Link header of an answer, got %.40q", text)
	}
	p.after = string(at)
	return p, nil
}

// link returns the header Link (RFC 8288) that leads to the page behind the position at.
func (p page) link(r *http.Request, at string) string {
	q := r.URL.Query()
	q.Set("limit", strconv.Itoa(p.limit))
	q.Set("after", base64.RawURLEncoding.EncodeToString([]byte(at)))
	u := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	return "<" + u.String() + `>; rel="next"`
}

// An element is one of a list, with its position in the list: what a page behind it begins with as after.
type element struct {
	value any
	at    string
}

// A list are elements in the order of their positions. It ends after an error.
type list = iter.Seq2[element, error]

// listOf converts a sequence; convert returns an element and its position, or !ok to leave it out.
func listOf[T any](in iter.Seq2[T, error], convert func(T) (v any, at string, ok bool)) list {
	return func(yield func(element, error) bool) {
		for x, err := range in {
			if err != nil {
				yield(element{}, err)
				return
			}
			if v, at, ok := convert(x); ok && !yield(element{v, at}, nil) {
				return
			}
		}
	}
}

// slice is a list in memory, from the first element on for which behind is true. It is for lists that are short, or
// that have to be made whole in any case.
func slice[T any](all []T, behind func(T) bool, position func(T) string) list {
	return func(yield func(element, error) bool) {
		for _, x := range all {
			if behind(x) && !yield(element{x, position(x)}, nil) {
				return
			}
		}
	}
}

// numbered is a list in memory that has no order of its own and does not change between two pages: positions are
// numbers.
func numbered[T any](p page, all []T) (list, error) {
	from := 0
	if p.after != "" {
		var err error
		if from, err = strconv.Atoi(p.after); err != nil || from < 0 || from > len(all) {
			return nil, usage.Errorf("after must be the cursor of a page of this list, got %.40q", p.after)
		}
	}
	return func(yield func(element, error) bool) {
		for i, x := range all[from:] {
			if !yield(element{x, strconv.Itoa(from + i + 1)}, nil) {
				return
			}
		}
	}, nil
}

// position encodes a position of several values, and positioned decodes it.
func position(values ...string) string {
	text, _ := json.Marshal(values) // strings can always be encoded
	return string(text)
}

func positioned(p page, values ...*string) error {
	var at []string
	if p.after == "" {
		return nil
	}
	if json.Unmarshal([]byte(p.after), &at) != nil || len(at) != len(values) {
		return usage.Errorf("after must be the cursor of a page of this list, got %.40q", p.after)
	}
	for i := range at {
		*values[i] = at[i]
	}
	return nil
}

// timeAt parses the time of a position; "" is the zero time.
func timeAt(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, usage.Errorf("after must be the cursor of a page of this list, got one with the time %.40q", text)
	}
	return t, nil
}

// A pagedAnswer is a list that is answered in parts.
type pagedAnswer struct {
	list list
	// around is a struct that is answered with the list as its last field, called field; nil: the answer is the list.
	around any
	field  string
}

// pages adds a handler for a list. With limit its answer has at most as many elements, and a header Link that leads to
// the next page if there is one; without limit all of them, sent while they are made.
func (on *routes) pages(pattern string, asks asks, h func(*http.Request, page) (pagedAnswer, error)) {
	on.stream(pattern, asks, func(w http.ResponseWriter, r *http.Request) {
		p, err := pageOf(r)
		var answer pagedAnswer
		if err == nil {
			answer, err = h(r, p)
		}
		if err != nil {
			on.a.adminError(w, r, err)
			return
		}
		if p.limit > 0 {
			if answer.list, err = p.first(w, r, answer.list); err != nil {
				on.a.adminError(w, r, err)
				return
			}
		}
		on.a.sendStream(w, r, answer)
	})
	on.all[len(on.all)-1].paged = true
}

// first returns the elements of a page, and sets the header Link if more follow.
func (p page) first(w http.ResponseWriter, r *http.Request, from list) (list, error) {
	var elements []element
	for e, err := range from {
		if err != nil {
			return nil, err
		}
		if len(elements) == p.limit {
			w.Header().Set("Link", p.link(r, elements[p.limit-1].at))
			break
		}
		elements = append(elements, e)
	}
	return func(yield func(element, error) bool) {
		for _, e := range elements {
			if !yield(e, nil) {
				return
			}
		}
	}, nil
}
