package fileserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRedirects(t *testing.T) {
	f := start(t)
	f.put(t, "https://dl.k8s.io/release/stable-1.txt", "from a file")
	f.put(t, "https://dl.k8s.io/release/stable-1.31.txt", "v1.31.9")
	f.put(t, "https://github.com/k3s-io/k3s/releases/latest/download/held", "held")
	const tag = "https://github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1"
	f.redirects = map[string]string{
		"https://update.k3s.io/v1-release/channels/stable":           tag,
		"https://update.k3s.io/v1-release/channels/v1.31%2Btest":     "/v1-release/here",
		"https://dl.k8s.io/release/stable-1.txt":                     "text:v1.32.0",
		"https://dl.k8s.io/release/empty.txt":                        "text:",
		"https://github.com/k3s-io/k3s/releases/latest/*":            "https://example.test/all",
		"https://github.com/k3s-io/k3s/releases/latest/download/*":   "https://github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/*",
		"https://alias.test/text/*":                                  "text:any",
		"not a url":                                                  "text:left out",
		"https://github.com/k3s-io/k3s/releases/download/v1/sha.txt": "https://github.com/other/file",
	}
	for _, c := range []struct{ host, path, origin, own string }{
		{"update.k3s.io", "/v1-release/channels/stable", tag,
			"./../../../github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1"},
		{"update.k3s.io", "/v1-release/channels/v1.31+test", "/v1-release/here",
			"./../../../update.k3s.io/v1-release/here"},
		{"github.com", "/k3s-io/k3s/releases/latest/download/k3s",
			"https://github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/k3s",
			"./../../../../../../github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/k3s"},
		{"github.com", "/k3s-io/k3s/releases/latest/download/a/b%3Fc?d=e",
			"https://github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/a/b%3Fc?d=e", ""},
		{"github.com", "/k3s-io/k3s/releases/latest/", "https://example.test/all", "https://example.test/all"},
	} {
		r := f.origin(c.host, c.path)
		want(t, r, 302, "*")
		if got := r.Header.Get("Location"); got != c.origin {
			t.Errorf("%s%s leads to %q, want %q", c.host, c.path, got, c.origin)
		}
		if c.own != "" {
			r = f.own("/" + c.host + c.path)
			if got := r.Header.Get("Location"); got != c.own {
				t.Errorf("/%s%s leads to %q, want %q", c.host, c.path, got, c.own)
			}
		}
	}
	want(t, f.origin("dl.k8s.io", "/release/stable-1.txt"), 200, "v1.32.0") // a setting goes before the file
	want(t, f.own("/dl.k8s.io/release/stable-1.txt"), 200, "v1.32.0")
	want(t, f.origin("dl.k8s.io", "/release/stable-1.31.txt"), 200, "v1.31.9")
	want(t, f.origin("dl.k8s.io", "/release/empty.txt"), 200, "")
	want(t, f.origin("github.com", "/k3s-io/k3s/releases/latest/download/held"), 200,
		"held") // a file takes precedence over a beginning
	want(t, f.origin("files.test", "/text/x/y"), 200, "any")
	want(t, f.origin("github.com", "/k3s-io/k3s/releases/latest"), 404, "*")
	if m := f.missed(); len(m) != 1 {
		t.Errorf("missed %q", m)
	}
	// The page to which a channel leads is no miss, but a missing file to which a setting leads is.
	want(t, f.origin("github.com", "/k3s-io/k3s/releases/tag/v1.31.5+k3s1"), 200, "v1.31.5+k3s1\n")
	want(t, f.origin("github.com", "/k3s-io/k3s/releases/tag/v1.31.6+k3s1"), 404, "*")
	want(t, f.origin("github.com", "/other/file"), 404, "*")
	if m := f.missed(); len(m) != 2 {
		t.Errorf("missed %q", m)
	}
	// A new setting counts at once.
	f.redirects = map[string]string{"https://dl.k8s.io/release/stable-1.txt": "text:v1.33.0"}
	want(t, f.origin("dl.k8s.io", "/release/stable-1.txt"), 200, "v1.33.0")
	f.redirects = map[string]string{"https://dl.k8s.io/release/stable-1.txt": "text:v1.34.0"}
	want(t, f.origin("dl.k8s.io", "/release/stable-1.txt"), 200, "v1.34.0")
	f.redirects = nil
	want(t, f.origin("dl.k8s.io", "/release/stable-1.txt"), 200, "from a file")
}

// A default answers last of what names one URL: a file and a redirect of the same URL go before.
func TestDefaults(t *testing.T) {
	f := start(t)
	f.put(t, "https://dl.k8s.io/release/stable-1.31.txt", "v1.31.9")
	f.redirects = map[string]string{"https://dl.k8s.io/release/stable.txt": "text:v1.33.1",
		"https://dl.k8s.io/release/*": "https://example.test/*"}
	f.defaults = map[string]string{}
	for _, name := range []string{"stable", "stable-1", "stable-1.31"} {
		f.defaults["https://dl.k8s.io/release/"+name+".txt"] = "text:v1.32.5"
	}
	f.defaults["no url"] = "text:left out"
	for path, text := range map[string]string{"stable-1.txt": "v1.32.5", "stable-1.31.txt": "v1.31.9",
		"stable.txt": "v1.33.1"} {
		want(t, f.origin("dl.k8s.io", "/release/"+path), 200, text)
		want(t, f.own("/dl.k8s.io/release/"+path), 200, text)
	}
	want(t, f.origin("dl.k8s.io", "/release/stable-1.30.txt"), 302, "*") // the beginning of URLs comes last
	if _, luck, err := f.Resolve(t.Context(), "https://dl.k8s.io/release/stable-1.txt"); err != nil ||
		luck != "a setting says its content" {
		t.Errorf("%q, %v", luck, err)
	}
	// counts at once
	f.redirects, f.defaults = nil, map[string]string{"https://dl.k8s.io/release/stable-1.txt": "text:v1.34.0"}
	want(t, f.origin("dl.k8s.io", "/release/stable-1.txt"), 200, "v1.34.0")
	f.defaults = nil
	want(t, f.origin("dl.k8s.io", "/release/stable-1.txt"), 404, "*")
	if m := f.missed(); len(m) != 1 || !strings.Contains(m[0], "https://dl.k8s.io/release/stable-1.txt") {
		t.Errorf("missed %q", m)
	}
}

// TestRedirectQueries: a key without a query answers for the URL with any query, as a file does; one with a query for
// this query only.
func TestRedirectQueries(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/page?lang=de", "a file of this query")
	f.put(t, "https://files.test/page", "hidden behind the setting")
	f.redirects = map[string]string{
		"https://files.test/page":       "https://b.test/page",
		"https://files.test/page?v=1":   "https://b.test/one",
		"https://files.test/only?v=1":   "https://b.test/only",
		"https://files.test/below/*":    "https://b.test/*",
		"https://files.test/constant/*": "https://b.test/all",
	}
	for asked, want := range map[string]string{
		"/page":            "https://b.test/page",
		"/page?":           "https://b.test/page",
		"/page?v=2&x=%41":  "https://b.test/page",
		"/page?v=1":        "https://b.test/one",
		"/only?v=1":        "https://b.test/only",
		"/below/f?v=1":     "https://b.test/f?v=1",
		"/constant/f?v=1":  "https://b.test/all",
		"/constant/f/g?v=": "https://b.test/all",
	} {
		r := f.origin("files.test", asked)
		if got := r.Header.Get("Location"); r.StatusCode != 302 || got != want {
			t.Errorf("%s: %d %q, want %q", asked, r.StatusCode, got, want)
		}
		if _, _, err := f.Resolve(t.Context(), "https://files.test"+asked); !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s resolves to %v", asked, err)
		}
	}
	want(t, f.origin("files.test", "/page?lang=de"), 200, "a file of this query")
	want(t, f.origin("files.test", "/only"), 404, "*")
	want(t, f.origin("files.test", "/only?v=2"), 404, "*")
	f.redirects, f.defaults = nil, map[string]string{"https://dl.k8s.io/release/stable.txt": "text:v1"}
	want(t, f.origin("dl.k8s.io", "/release/stable.txt?timestamp=1"), 200, "v1")
}

// TestChannels acts like the installers of k3s and RKE2: they follow the channel and use the last element of the final
// URL.
func TestChannels(t *testing.T) {
	f := start(t)
	f.redirects = map[string]string{
		"https://update.k3s.io/v1-release/channels/stable": "https://github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1"}
	server := httptest.NewServer(http.StripPrefix("/files", http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		f.Serve(w, r, View{Plain: true})
	})))
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	r, err := server.Client().Get(server.URL + "/files/update.k3s.io/v1-release/channels/stable")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	end := r.Request.URL.String()
	if version := end[strings.LastIndexByte(end, '/')+1:]; version != "v1.31.5+k3s1" || r.StatusCode != 200 {
		t.Errorf("ends with %d at %s", r.StatusCode, end)
	}
	if end != server.URL+"/files/github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1" {
		t.Errorf("ends at %s", end)
	}
}

func TestCheckRedirect(t *testing.T) {
	for _, c := range [][2]string{
		{"https://update.k3s.io/v1-release/channels/stable", "https://github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1"},
		{"dl.k8s.io/release/stable.txt", "text:v1.32.0\n"},
		{"https://a.test/*", "http://b.test/*"}, {"https://a.test/x?y", "/z"},
	} {
		if err := CheckRedirect(c[0], c[1]); err != nil {
			t.Error(err)
		}
	}
	for _, c := range [][2]string{
		{"", "text:x"}, {"ftp://a.test/x", "text:x"}, {"https://a.test/../x", "text:x"},
		{"https://a.test/x?y/*", "text:x"},
		{"https://a.test/x", ""}, {"https://a.test/x", "v1.32.0"}, {"https://a.test/x", "ftp://b.test/"},
		{"https://a.test/x", "//b.test/x"},
		{"https://a.test/x", "https://b.test/\r\nSet-Cookie: a=b"}, {"https://a.test/x", "https://b.test/a b"},
		{"https://a.test/x", "https://b.test/ü"},
		{"https://a.test/x", "https://b.test/%zz"}, {"https://a.test/x", "javascript:alert(1)"},
		{"https://a.test/x", "https:///x"},
		{"https://a.test/x", "text:" + strings.Repeat("x", maxText+1)},
		{"https://a.test/x", "https://b.test/" + strings.Repeat("x", maxKey)},
	} {
		if err := CheckRedirect(c[0], c[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q → %q: %v", c[0], clip(c[1]), err)
		}
	}
}
