package page

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"casemate/appliance/oidc"
)

// Whatever a login is told to lead back to, the browser stays on this host.
func FuzzLocal(f *testing.F) {
	for _, s := range []string{"/", "/missing?kind=dns", "//evil.example", "/\\evil.example", "https://evil.example/",
		"/%2f/evil.example", "/\t/evil.example", "/login?next=/", ":", "?", "/.//evil.example", "/..//evil.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := oidc.Local(s)
		// As a browser reads it (WHATWG URL): tabs and newlines are removed, a backslash is a slash.
		read := strings.NewReplacer("\t", "", "\r", "", "\n", "", "\\", "/").Replace(got)
		if !strings.HasPrefix(read, "/") || strings.HasPrefix(read, "//") {
			t.Errorf("%q leads to %q", s, got)
		}
		base, err := url.Parse("https://gap.example/login")
		if err != nil {
			t.Fatal(err)
		}
		if to, err := base.Parse(got); err != nil || to.Host != "gap.example" || to.Path == "/login" {
			t.Errorf("%q leads to %q: %v, %v", s, got, to, err)
		}
	})
}

// Text is inert, and text that is well keeps its form.
func FuzzInert(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31m", "a\u202eb", "\x00", "ü\u00ad", "\xff\xfe", "\U000e0041"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(inert([]byte(s)))
		if strings.ContainsFunc(got, odd) {
			t.Errorf("%q: %q", s, got)
		}
		if utf8.ValidString(s) && !strings.ContainsFunc(s, odd) && got != s {
			t.Errorf("%q became %q", s, got)
		}
		if c := formula(s); c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			t.Errorf("%q is a formula", c)
		}
	})
}

// A cursor that the API sends comes back as it was.
func FuzzNext(f *testing.F) {
	f.Add("docker.io/library/nginx:1")
	f.Add(`a>;"b`)
	f.Fuzz(func(t *testing.T, cursor string) {
		h := http.Header{}
		h.Set("Link", "<"+with("/v1/images?limit=100", "after", cursor)+`>; rel="next"`)
		if got := nextOf(h); got != cursor {
			t.Errorf("%q came back as %q", cursor, got)
		}
		h.Set("Link", cursor)
		nextOf(h) // it does not panic
	})
}
