package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

//go:embed html/*.html
var htmlFiles embed.FS

//go:embed static/*
var staticFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"bytes": Bytes, "clip": clip, "when": when, "static": staticURL, "since": sinceText, "dict": dict,
}).ParseFS(htmlFiles, "html/*.html"))

// dict makes the data of a nested template from pairs of names and values.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict needs pairs, got %d values", len(pairs))
	}
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return m, nil
}

// Bytes formats a size: 1.5 GiB.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for (v >= 1024 || v <= -1024) && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}

// maxText is how many bytes of a text a page shows.
const maxText = 300

// clip shortens a text that may be of any length.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s[:max(0, len(s)-1)] + "…"
}

// when formats a time; "" for the zero time.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// sinceText formats a duration with one unit: 5 minutes.
func sinceText(d time.Duration) string {
	for _, u := range []struct {
		name string
		of   time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := int(d / u.of); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a minute"
}

// inert replaces what a terminal, a browser or a reader could take for something else than text: control characters
// and those that change the direction of text or cannot be seen (Unicode TR 36 section 2.10). html/template has escaped
// markup before.
func inert(page []byte) []byte {
	if !bytes.ContainsFunc(page, odd) {
		return page
	}
	return bytes.Map(func(r rune) rune {
		if odd(r) {
			return '\uFFFD'
		}
		return r
	}, page)
}

func odd(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < ' ', r >= 0x7f && r < 0xa0, r == 0xad, r == 0x61c, r == 0xfeff:
		return true
	case r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x206f:
		return true
	}
	return r >= 0xe0000 && r <= 0xe007f
}

// staticVersions are the embedded files' digests, which are part of their URLs: a new version is a new URL.
var staticVersions = func() map[string]string {
	m := map[string]string{}
	entries, err := staticFiles.ReadDir("static")
	if err != nil {
		panic(err) // embedded
	}
	for _, e := range entries {
		data, err := staticFiles.ReadFile("static/" + e.Name())
		if err != nil {
			panic(err) // embedded
		}
		sum := sha256.Sum256(data)
		m[e.Name()] = hex.EncodeToString(sum[:6])
	}
	return m
}()

func staticURL(name string) string { return "/static/" + name + "?" + staticVersions[name] }

var staticTypes = map[string]string{".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

func serveStatic(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	version, ok := staticVersions[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	data, err := staticFiles.ReadFile("static/" + name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", staticTypes[path.Ext(name)]+"; charset=utf-8")
	if r.URL.RawQuery == version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
}
