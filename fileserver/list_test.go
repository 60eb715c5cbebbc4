package fileserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestListings(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://files.test/dir/a<b>&\"'.txt", "12345")
	f.put(t, "https://files.test/dir/sub/deep/x", "x")
	f.put(t, "https://files.test/dir/sub", "file and directory")
	f.put(t, "https://files.test/dir/q?x=1&y=%2F", "q")
	f.put(t, "https://files.test/dir/c:d", "colon")
	f.put(t, "https://pages.test/p", "p")

	var page listing
	get := func(r *http.Response) {
		t.Helper()
		page = listing{}
		if err := json.Unmarshal([]byte(text(t, r)), &page); err != nil || r.StatusCode != 200 ||
			r.Header.Get("Content-Type") != "application/json" {
			t.Fatal(r.StatusCode, r.Header, err)
		}
	}
	names := func() (names []string) {
		for _, e := range page.Entries {
			names = append(names, e.Name)
		}
		return names
	}
	get(f.own("/files.test/dir/", "Accept: application/json"))
	if got := fmt.Sprintf("%q", names()); got != `["a<b>&\"'.txt" "c:d" "q?x=1&y=%2F" "sub/" "sub"]` {
		t.Error(got)
	}
	if e := page.Entries[0]; e.URL != "https://files.test/dir/a%3Cb%3E&%22'.txt" || e.Size != 5 ||
		e.Digest != info.Digest || !e.Time.Equal(info.Time) || e.Dir {
		t.Errorf("%+v", e)
	}
	if page.URL != "https://files.test/dir/" || page.Next != "" || !page.Entries[3].Dir {
		t.Errorf("%+v", page)
	}
	get(f.own("/", "Accept: application/json"))
	if got := fmt.Sprint(names()); got != "[dl.k8s.io/ files.test/ github.com/ pages.test/]" { // two enabled, two held
		t.Error(got)
	}
	get(f.own("/dl.k8s.io/", "Accept: application/json"))
	if page.Entries == nil || len(page.Entries) != 0 {
		t.Errorf("%+v", page)
	}

	r := f.own("/files.test/dir/")
	body := text(t, r)
	for _, part := range []string{
		`<a href="./a%3Cb%3E&amp;%22&#39;.txt">a&lt;b&gt;&amp;&#34;&#39;.txt</a>`, `<a href="./sub/">sub/</a>`,
		`<a href="./sub">sub</a>`,
		`<a href="./q?x=1&amp;y=%2F">`, `<a href="./c:d">c:d</a>`, `<a href="../">`, info.Digest, "<td>5</td>",
	} {
		if !strings.Contains(body, part) {
			t.Errorf("the page lacks %s:\n%s", part, body)
		}
	}
	if strings.Contains(body, "<b>") || strings.Contains(body, "<script") ||
		!strings.Contains(r.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%v %s", r.Header, body)
	}
	if r.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Error(r.Header)
	}
	// Every link of the page leads to its entry.
	want(t, f.own("/files.test/dir/a%3Cb%3E&%22'.txt"), 200, "12345")
	want(t, f.own("/files.test/dir/q?x=1&y=%2F"), 200, "q")
	want(t, f.do(View{}, "HEAD", "/files.test/dir/", nil), 200, "*") // net/http drops the body
	for path, to := range map[string]string{"/files.test": "./files.test/", "/files.test/dir": "./dir/"} {
		r := f.own(path)
		want(t, r, 302, "*")
		if r.Header.Get("Location") != to {
			t.Errorf("%s leads to %s", path, r.Header.Get("Location"))
		}
	}
	if m := f.missed(); m != nil {
		t.Errorf("missed %q", m)
	}

	// At an origin a directory is listed only for clients that request a page: others must see that there is no such
	// file.
	want(t, f.origin("files.test", "/dir/", "Accept: text/html,*/*;q=0.8"), 200, "*")
	get(f.origin("files.test", "/dir/", "Accept: application/json"))
	want(t, f.origin("files.test", "/dir/"), 404, "*")
	want(t, f.origin("files.test", "/dir/", "Accept: */*"), 404, "*")
	want(t, f.origin("files.test", "/dir"), 404, "*")
	want(t, f.origin("files.test", "/none/", "Accept: text/html"), 404, "*")
	want(t, f.own("/files.test/none/"), 404, "*")
	want(t, f.own("/unknown.test/"), 404, "*")
	if m := f.missed(); len(m) != 6 {
		t.Errorf("missed %q", m)
	}
}

// walks counts the files that walks went over.
type walks struct {
	Tree
	files int
}

func (w *walks) Walk(dir, after string) iter.Seq2[string, fs.FileInfo] {
	return func(yield func(string, fs.FileInfo) bool) {
		for name, fi := range w.Tree.Walk(dir, after) {
			w.files++
			if !yield(name, fi) {
				return
			}
		}
	}
}

// TestListingsArePaged: every entry is on exactly one page, no page is longer than pageSize, and the content of
// subdirectories is skipped.
func TestListingsArePaged(t *testing.T) {
	f := start(t)
	blob := f.put(t, "https://files.test/a/seed", "x").Digest
	var wanted []string
	err := f.tree.Update(t.Context(), func(b Batch) error {
		b.Remove("files.test/a/seed?")
		for i := range 2*pageSize + 10 {
			name := fmt.Sprintf("f%05d", i)
			wanted = append(wanted, name)
			b.Link("files.test/a/"+name+"?", blob)
		}
		for i := range 400 {
			b.Link(fmt.Sprintf("files.test/a/f00500d/deep/%d?", i), blob)
			b.Link(fmt.Sprintf("files.test/a/f%05dd/deep/%d?", pageSize-1, i), blob)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wanted = append(wanted, "f00500d/", fmt.Sprintf("f%05dd/", pageSize-1))
	slices.Sort(wanted)
	c := f.config(t)
	tree := &walks{Tree: f.tree}
	c.Tree = tree
	f.Server = New(c)
	var got []string
	next, pages := "", 0
	for {
		r := f.own("/files.test/a/"+next, "Accept: application/json")
		var page listing
		if err := json.Unmarshal([]byte(text(t, r)), &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Entries) > pageSize {
			t.Fatalf("a page of %d", len(page.Entries))
		}
		for _, e := range page.Entries {
			got = append(got, e.Name)
		}
		pages++
		if next = page.Next; next == "" {
			break
		}
		if link := r.Header.Get("Link"); link != "<"+next+`>; rel="next"` {
			t.Errorf("Link %q", link)
		}
		if pages > 10 {
			t.Fatal("the pages do not end")
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, wanted) || pages != 3 {
		t.Errorf("%d entries on %d pages, want %d on 3", len(got), pages, len(wanted))
	}
	if most := len(wanted) + 4*8; tree.files > most {
		t.Errorf("%d files were walked over, want at most %d", tree.files, most)
	}
	for _, after := range []string{"..", "a/b", "%00", "%ff", ".", "zzz", "f00000"} {
		want(t, f.own("/files.test/a/?after="+after), 200, "*")
	}
}

// walked counts the entries of walks.
type walked struct {
	Tree
	n int
}

func (w *walked) Walk(dir, after string) iter.Seq2[string, fs.FileInfo] {
	return func(yield func(string, fs.FileInfo) bool) {
		for name, fi := range w.Tree.Walk(dir, after) {
			if w.n++; !yield(name, fi) {
				return
			}
		}
	}
}

func TestList(t *testing.T) {
	f := start(t)
	urls := []string{"https://files.test/", "https://files.test/a+b", "https://files.test/a/b?x",
		"https://files.test/a/c", "https://github.com/x", "https://pages.test/y"}
	for _, u := range urls {
		f.put(t, u, u)
	}
	for prefix, wanted := range map[string][]string{
		"": urls, "https://": urls, "https://files.test": urls[:4], "files.test/": urls[:4],
		"https://files.test/a": urls[1:4], "https://alias.test/a/": urls[2:4],
		"https://FILES.test/a%2B": urls[1:2], "https://files.test/a/b?x": urls[2:3], "git": urls[4:5],
		"https://unknown.test/": nil, "https://files.test/zz": nil,
	} {
		var got []string
		for info, err := range f.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if info.Size != int64(len(info.URL)) || info.Digest == "" || info.Time.IsZero() {
				t.Errorf("%+v", info)
			}
			got = append(got, info.URL)
		}
		slices.Sort(got)
		if !slices.Equal(got, slices.Sorted(slices.Values(wanted))) {
			t.Errorf("%q: %q, want %q", prefix, got, wanted)
		}
	}
	// Entries before and after the prefix are not visited.
	w := &walked{Tree: f.tree}
	cfg := f.config(t)
	cfg.Tree = w
	for range New(cfg).List(t.Context(), "https://files.test/a/") {
	}
	for range New(cfg).List(t.Context(), "git") {
	}
	if w.n > 4 { // those two and that one, and one after it
		t.Errorf("%d files walked over for three", w.n)
	}
	for range f.List(t.Context(), "") {
		break
	}
	for _, err := range f.List(t.Context(), "https://files.test/../") {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for info, err := range f.List(ctx, "") {
		if !errors.Is(err, context.Canceled) {
			t.Error(info, err)
		}
	}
}

// TestManyOrigins: the list of origins has pages too, each origin once, with or without content.
func TestManyOrigins(t *testing.T) {
	f := start(t)
	var want []string
	for i := range 2*pageSize + 10 {
		want = append(want, fmt.Sprintf("h%05d.test/", i))
	}
	f.put(t, "https://files.test/a", "a")
	want = append(want, "files.test/")
	cfg := f.config(t)
	cfg.Origins = func() []string {
		var list []string
		for _, w := range slices.Backward(want) { // in the order of resolution, which is none of names
			list = append(list, strings.TrimSuffix(w, "/"))
		}
		return list
	}
	s := New(cfg)
	var got []string
	for target := "/"; target != ""; {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", target, nil)
		r.Header.Set("Accept", "application/json")
		s.Serve(w, r, View{})
		var page listing
		err := json.Unmarshal(w.Body.Bytes(), &page)
		if n := len(page.Entries); err != nil || n > pageSize || n == 0 {
			t.Fatalf("%s: %d entries, %v", target, n, err)
		}
		for _, e := range page.Entries {
			got = append(got, e.Name)
		}
		if target = page.Next; target != "" {
			target = "/" + target
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d origins of %d", len(got), len(want))
	}
}

// TestListAfter: from any file on, and for any prefix, a page has what the whole list has, in its order.
func TestListAfter(t *testing.T) {
	f := start(t)
	for _, u := range []string{"a", "a/", "a/b", "a?x=1", "a-b", "a/b/c?y", "b/é", "b/", "z"} {
		f.put(t, "https://files.test/"+u, u)
		f.put(t, "https://pages.test/dir/"+u, u)
	}
	ctx := context.Background()
	for _, prefix := range []string{"", "https://files.test/", "files", "files.test/a", "files.test/a/",
		"pages.test/dir/a/b", "pages.test/dir/a?", "none.test/"} {
		var want []Info
		for i, err := range f.List(ctx, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, i)
		}
		for n := range want {
			rest := want[n+1:]
			for i, err := range f.ListAfter(ctx, prefix, want[n].URL) {
				if err != nil || len(rest) == 0 || i != rest[0] {
					t.Fatalf("prefix %q after %s: %v, %v", prefix, want[n].URL, i, err)
				}
				rest = rest[1:]
			}
			if len(rest) > 0 {
				t.Errorf("prefix %q after %s: not listed: %v", prefix, want[n].URL, rest)
			}
		}
	}
}

// TestLevel: one level of the files, with the paths that lead on.
func TestLevel(t *testing.T) {
	f := start(t)
	for _, u := range []string{"a", "a/b", "a/b/c", "a%20b/x", "q?x=1", "q?x=2"} {
		f.put(t, "https://files.test/"+u, u)
	}
	for path, want := range map[string]string{
		"": "files.test>files.test", "files.test": "a>files.test/a|a b>files.test/a%20b|a|q?x=1|q?x=2",
		"https://files.test/a/": "b>files.test/a/b|b", "files.test/a%20b": "x", "files.test/none": "",
		"files.test/../x": "path", "files.test/a?x": "path",
	} {
		var all, elems []string
		for c, err := range f.Level(path, "") {
			s := c.Name
			if c.File == nil && err == nil {
				s += ">" + c.Path
			}
			if err != nil {
				s, _, _ = strings.Cut(err.Error(), " ")
			}
			all, elems = append(all, s), append(elems, c.Element)
		}
		if got := strings.Join(all, "|"); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		for n, after := range elems {
			var got []string
			for c, err := range f.Level(path, after) {
				if err == nil {
					got = append(got, c.Element)
				}
			}
			if after != "" && !slices.Equal(got, elems[n+1:]) {
				t.Errorf("%s after %s: %q, want %q", path, after, got, elems[n+1:])
			}
		}
	}
}
