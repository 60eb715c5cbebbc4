package rehearsal

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"casemate/bundle"
)

const (
	sumA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	zone = "rehearsal.casemate.internal"
)

func open(t *testing.T, path string) *Book {
	t.Helper()
	b, err := Open(path, zone, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// request is a request with headers, "Name: value" each.
func request(method, url string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, url, nil)
	r.RemoteAddr = "10.9.8.7:1234"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	if r.TLS != nil {
		r.TLS = &tls.ConnectionState{}
	}
	return r
}

func header(headers ...string) http.Header {
	return request("GET", "http://x.example/", headers...).Header
}

// TestRecord: each kind of request and answer, and the question that is asked again for it.
func TestRecord(t *testing.T) {
	const manifest = "https://registry.k8s.io/v2/pause/manifests/3.10"
	for name, c := range map[string]struct {
		service string
		r       *http.Request
		status  int
		answer  http.Header
		want    bundle.Question // zero: none
		note    string
	}{
		"manifest": {"registry", request("GET", manifest, "Accept: a/b", "Accept: c/d",
			"User-Agent: containerd/2.0 s3cret", "Authorization: Bearer s3cret"), 200,
			header("Docker-Content-Digest: "+sumA, "Content-Length: 3"),
			bundle.Question{Method: "GET", URL: manifest, Accept: "a/b, c/d", Client: "containerd", Status: 200,
				Digest: sumA, Size: 3}, ""},
		"file by http": {"files", request("GET", "http://deb.example/InRelease", "Accept: text/*",
			"User-Agent: s3cret"), 200, header(`ETag: "` + sumB + `"`), bundle.Question{
			Method: "GET", URL: "http://deb.example/InRelease",
			Status: 200, Digest: sumB}, ""},
		"tags": {"registry", request("GET", "https://registry.k8s.io/v2/pause/tags/list"), 200,
			header("Content-Length: 9"), bundle.Question{Method: "GET",
				URL: "https://registry.k8s.io/v2/pause/tags/list", Status: 200}, ""},
		"no file": {"files", request("HEAD", "https://deb.example/x.xz"), 404, header("Content-Length: 9"),
			bundle.Question{Method: "HEAD", URL: "https://deb.example/x.xz", Status: 404}, ""},
		"part": {"files", request("GET", "https://a.example/f", "Range: bytes=5-6"), 206,
			header("Content-Length: 2", "Content-Range: bytes 5-6/10", `ETag: "`+sumA+`"`),
			bundle.Question{Method: "GET", URL: "https://a.example/f", Status: 200, Digest: sumA, Size: 10}, ""},
		"held": {"files", request("GET", "https://a.example/f", `If-None-Match: "`+sumA+`"`), 304, header(),
			bundle.Question{Method: "GET", URL: "https://a.example/f", Held: sumA, Status: 304}, ""},
		"held by date": {"files", request("GET", "https://a.example/f", "If-Modified-Since: x"), 304,
			header(`ETag: "` + sumA + `"`), bundle.Question{Method: "GET", URL: "https://a.example/f", Status: 200,
				Digest: sumA}, ""},
		"redirect": {"files", request("GET", "https://a.example/d/f"), 302, header("Location: ../g?sig=s3cret"),
			bundle.Question{Method: "GET", URL: "https://a.example/d/f", Status: 302,
				Location: "https://a.example/g"}, ""},
		"redirect elsewhere": {"files", request("GET", "https://a.example/f"), 307,
			header("Location: https://u:s3cret@b.example/g#x"), bundle.Question{Method: "GET",
				URL: "https://a.example/f", Status: 307, Location: "https://b.example/g"}, ""},
		"signed": {"files", request("GET", "https://a.example/f?sig=s3cret&id=2"), 200, header(), bundle.Question{
			Method: "GET", URL: "https://a.example/f?id=2", Status: 200}, ""},
		"post": {"files", request("POST", "https://git.example/r/git-upload-pack"), 405, header(), bundle.Question{},
			"POST git.example/r/git-upload-pack is not in the transcript: " + NotRead},
		"unknown host":   {"none", request("GET", "https://x.example/"), 421, header(), bundle.Question{}, NotServed},
		"login":          {"registry", request("GET", manifest), 401, header(), bundle.Question{}, ""},
		"limit":          {"registry", request("GET", manifest), 429, header(), bundle.Question{}, ""},
		"upstream fails": {"registry", request("GET", manifest), 502, header(), bundle.Question{}, ""},
		"own name": {"registry", request("GET", "https://registry."+zone+"/v2/"), 200, header(),
			bundle.Question{}, ""},
		"own address": {"registry", request("GET", "https://10.0.0.1/v2/"), 200, header(), bundle.Question{}, ""},
		"page":        {"pages", request("GET", "https://x.example/enroll"), 200, header(), bundle.Question{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "questions")
			b := open(t, path)
			b.Record(c.service, c.r, c.status, c.answer)
			list := b.Questions()
			if c.want == (bundle.Question{}) {
				if len(list) > 0 {
					t.Errorf("recorded: %+v", list)
				}
			} else if len(list) != 1 || list[0] != c.want {
				t.Errorf("got %+v, want %+v", list, c.want)
			}
			if notes := strings.Join(b.Notes(), "\n"); c.note != "" && !strings.Contains(notes, c.note) ||
				c.note == "" && notes != "" {
				t.Errorf("notes: %s", notes)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"s3cret", "10.9.8.7"} {
				if strings.Contains(string(text)+strings.Join(b.Notes(), ""), secret) {
					t.Errorf("%s was written: %s", secret, text)
				}
			}
		})
	}
}

// TestLastAnswer: a question has the answer of the end of the rehearsal, and a change of content is said.
func TestLastAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "questions")
	b := open(t, path)
	const url = "https://a.example/f"
	record := func(status int, answer http.Header, headers ...string) {
		b.Record("files", request("GET", url, headers...), status, answer)
	}
	record(404, header())
	record(200, header(), "User-Agent: curl/8") // its digest is not known while it is fetched
	record(200, header(`ETag: "`+sumA+`"`, "Content-Length: 4"))
	record(200, header())
	want := bundle.Question{Method: "GET", URL: url, Status: 200, Digest: sumA, Size: 4}
	if got := b.Questions(); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(b.Notes()) > 0 {
		t.Errorf("notes: %v", b.Notes())
	}
	b.Record("files", request("HEAD", url), 200, header(`ETag: "`+sumB+`"`)) // another question for the same
	if notes := strings.Join(b.Notes(), ""); !strings.Contains(notes, "several contents") {
		t.Errorf("notes %v", b.Notes())
	}
	record(200, header(`ETag: "`+sumB+`"`))
	notes := strings.Join(b.Notes(), "")
	if got := b.Questions(); got[0].Digest != sumB || got[1].Digest != sumB || !strings.Contains(notes, "several contents") {
		t.Errorf("got %+v, notes %v", got, b.Notes())
	}
}

// TestCrash: every whole line is read back, and one that was cut is not in the way.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "questions")
	b := open(t, path)
	b.Record("files", request("GET", "https://a.example/1"), 404, header())
	b.Record("files", request("GET", "https://a.example/2"), 404, header())
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.IndexByte(string(whole), '\n') + 1
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, path)
		again.Record("files", request("GET", "https://a.example/3"), 404, header())
		again.Close()
		want := 1
		if n >= first {
			want = 2
		}
		if got := len(open(t, path).Questions()); got != want {
			t.Fatalf("cut after %d bytes: %d questions, want %d", n, got, want)
		}
	}
}

// FuzzOpen: no file makes it panic, and what is read is valid.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"method":"GET","url":"https://a.example/1","status":404}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "questions")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(path, zone, slog.New(slog.DiscardHandler))
		if err != nil {
			return
		}
		defer b.Close()
		ix := bundle.Index{Version: 1, Questions: b.Questions()}
		if _, err := ix.Encode(); err != nil {
			t.Error(err)
		}
	})
}
