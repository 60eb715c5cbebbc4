package rehearsal

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/bundle"
)

const (
	sumA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	zone = "rehearsal.casemate.internal"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, path string) *Book {
	t.Helper()
	b, err := Open(Config{Path: path, Domain: zone, Now: func() time.Time { return noon }})
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
		"port": {"files", request("GET", "https://A.example:443/f"), 404, header("X: y"),
			bundle.Question{Method: "GET", URL: "https://a.example/f", Status: 404}, ""},
		"address":  {"files", request("GET", "https://10.0.0.1:443/f"), 200, header("X: y"), bundle.Question{}, ""},
		"address6": {"files", request("GET", "https://[fd00::1]/f"), 200, header("X: y"), bundle.Question{}, ""},
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
		"signed": {"files", request("GET", "https://a.example/f?sig=s3cret&se=1"), 200, header(), bundle.Question{
			Method: "GET", URL: "https://a.example/f", Status: 200}, ""},
		"post": {"files", request("POST", "https://git.example/r/git-upload-pack"), 405, header(), bundle.Question{},
			"POST git.example/r/git-upload-pack is not in the transcript: " + NeedsGit},
		"put": {"files", request("PUT", "https://a.example/f?token=s3cret"), 405, header(), bundle.Question{},
			"PUT a.example/f is not in the transcript: " + NotRead},
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
	record(200, header(`ETag: "`+sumB+`"`))
	notes := strings.Join(b.Notes(), "")
	if got := b.Questions(); got[0].Digest != sumB || !strings.Contains(notes, "several contents") {
		t.Errorf("got %+v, notes %v", got, b.Notes())
	}
}

// TestCrash: every whole line is read back, and one that was cut is not in the way.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "questions")
	b := open(t, path)
	b.Record("files", request("GET", "https://a.example/1"), 404, header())
	b.Record("files", request("GET", "https://a.example/2"), 404, header())
	b.Close()
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
		r, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(r.Questions()); got != want {
			t.Fatalf("cut after %d bytes: %d questions, want %d", n, got, want)
		}
	}
}

// FuzzOpen: no file makes it panic, and what is read is valid.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"method":"GET","url":"https://a.example/1","status":404}` + "\n"))
	f.Add([]byte(`{"tag":{"image":"quay.io/a/b:1","digest":"` + sumA + `"}}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "questions")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(Config{Path: path, Domain: zone})
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

// TestEntries: who asked for what, how often and when, is known while the rehearsal runs, after it has ended, and after
// the file was written anew.
func TestEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	at := noon
	b, err := Open(Config{Path: path, Domain: zone, Now: func() time.Time { at = at.Add(time.Minute); return at }})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, agent := range []string{"curl/8", "Wget/1", "curl/7", "secret/1"} {
		b.Record("files", request("GET", "https://a.example/f", "User-Agent: "+agent), 200, header(`ETag: "`+sumA+`"`))
	}
	b.Record("files", request("GET", "https://a.example/f"), 200, header(`ETag: "`+sumB+`"`))
	b.Record("files", request("POST", "https://a.example/f"), 405, header())
	b.Record("files", request("POST", "https://a.example/f"), 405, header())
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	want := Entry{
		Question: bundle.Question{Method: "GET", URL: "https://a.example/f", Client: "curl", Status: 200, Digest: sumB},
		Clients:  []string{"curl", "wget"}, First: minute(1), Last: minute(5), Count: 5, Moved: true,
	}
	gap := Gap{Name: "POST a.example/f", Why: NotRead, First: minute(6), Last: minute(7), Count: 2}
	check := func(when string) {
		t.Helper()
		r, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Entries(); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: got %+v, want %+v", when, got, want)
		}
		if got := r.Gaps(); len(got) != 1 || got[0] != gap {
			t.Errorf("%s: got %+v, want %+v", when, got, gap)
		}
	}
	check("while it runs")
	if _, err := Open(Config{Path: path, Domain: zone}); !errors.Is(err, ErrRuns) {
		t.Errorf("a second process: %v", err)
	}
	if running, err := Running(path); !running || err != nil {
		t.Errorf("it does not run: %v", err)
	}
	b.mu.Lock()
	err = b.rewrite()
	b.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	check("after it was written anew")
	if _, err := Open(Config{Path: path, Domain: zone}); !errors.Is(err, ErrRuns) {
		t.Errorf("a second process beside the new file: %v", err)
	}
	b.Record("files", request("GET", "https://a.example/f", "User-Agent: curl/8"), 200, header(`ETag: "`+sumB+`"`))
	want.Count, want.Last = 6, minute(8)
	check("after one more")
	b.Close()
	check("after its end")
	if running, err := Running(path); running || err != nil {
		t.Errorf("it runs: %v", err)
	}
}

// TestFetched: the digest of a file whose first client was answered before it was known is that of the whole file, in
// whichever order both are told.
func TestFetched(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := open(t, path)
	b.Record("files", request("GET", "https://a.example/1"), 200, header("Content-Length: 4"))
	b.Fetched("https://a.example/1?sig=s3cret", sumA, 4)
	b.Fetched("https://a.example/2", sumB, 5)
	b.Fetched("https://a.example/3", "no digest", 5)
	b.Record("files", request("GET", "https://a.example/2"), 200, header())
	b.Record("files", request("HEAD", "https://a.example/2"), 404, header())
	for _, again := range []bool{false, true} {
		if again {
			b.mu.Lock()
			err := b.rewrite()
			b.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		r, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		list := r.Questions()
		if len(list) != 3 || list[0].Digest != sumA || list[0].Size != 4 ||
			list[1].Digest != sumB || list[1].Size != 5 ||
			list[2].Digest != "" {
			t.Errorf("%+v", list)
		}
	}
}

// TestCrowded: a file that is asked the same again and again is written anew, and stays small.
func TestCrowded(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := open(t, path)
	b.compact = 2000
	for range 1000 {
		b.Record("files", request("GET", "https://a.example/f"), 404, header())
		b.compact = min(b.compact, 2000)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if e := r.Entries(); info.Size() > 2500 || len(e) != 1 || e[0].Count != 1000 {
		t.Errorf("%d bytes, %+v", info.Size(), e)
	}
}

// TestOldFile: the record of a version that kept neither times nor gaps means the same.
func TestOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	old := `{"method":"GET","url":"https://a.example/1","client":"curl","status":404}` + "\n"
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if e := r.Entries(); len(e) != 1 || e[0].Count != 1 || !e[0].First.IsZero() || e[0].Client != "curl" {
		t.Errorf("%+v", e)
	}
}

// TestLists: a transcript as lists of what it has.
func TestLists(t *testing.T) {
	q := func(url string, status int, digest string) bundle.Question {
		return bundle.Question{Method: "GET", URL: url, Status: status, Digest: digest}
	}
	list := []bundle.Question{
		q("https://deb.example/pool/a/apt_2.6_amd64.deb", 200, sumA),
		q("https://deb.example/pool/t/tzdata_1%3a2_all.deb", 200, ""),
		q("https://dl.k8s.io/absent", 404, ""), q("https://dl.k8s.io/f", 302, ""), q("https://dl.k8s.io/f", 200, ""),
		q("http://dl.k8s.io/f", 200, sumB),
		q("https://registry-1.docker.io/v2/", 200, ""),
		q("https://registry-1.docker.io/v2/library/nginx/manifests/1", 200, sumA),
		q("https://registry-1.docker.io/v2/library/nginx/manifests/"+sumA, 200, sumA),
		q("https://registry-1.docker.io/v2/library/nginx/manifests/"+sumB, 200, sumB),
		q("https://registry-1.docker.io/v2/library/nginx/blobs/"+sumB, 200, sumB),
		q("https://quay.io/v2/a/b/manifests/none", 404, ""),
	}
	for name, c := range map[string]struct{ got, want []string }{
		"images": {Images(list), []string{"docker.io/library/nginx:1@" + sumA, "docker.io/library/nginx@" + sumB}},
		"files": {Files(list), []string{"http://dl.k8s.io/f " + sumB,
			"https://deb.example/pool/a/apt_2.6_amd64.deb " + sumA,
			"https://deb.example/pool/t/tzdata_1%3a2_all.deb", "https://dl.k8s.io/f"}},
		"packages": {Packages(list), []string{"apt:amd64 # 2.6", "tzdata # 2"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
}

// TestCompare: a tag that has moved outside keeps what clients got, and that is said as long as it is so, also by who
// reads the record later. Tags that cannot be compared are said as well, and nothing else is asked for.
func TestCompare(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := open(t, path)
	manifest := func(of string, status int, digest string) {
		b.Record("registry", request("GET", "https://"+of, "Accept: a/b"), status,
			header("Docker-Content-Digest: "+digest))
	}
	manifest("registry-1.docker.io/v2/library/nginx/manifests/1", 200, sumA)
	manifest("quay.io/v2/a/b/manifests/2", 200, sumA)
	manifest("quay.io/v2/a/b/manifests/"+sumA, 200, sumA)
	manifest("quay.io/v2/a/b/manifests/none", 404, "")
	manifest("quay.io/v2/a/b/blobs/"+sumA, 200, sumA)
	origins := map[string]string{"docker.io/library/nginx:1": sumB, "quay.io/a/b:2": sumA}
	compare := func() string {
		return b.Compare(t.Context(), func(_ context.Context, repository, tag string) (string, error) {
			if digest, ok := origins[repository+":"+tag]; ok {
				return digest, nil
			}
			return "", fs.ErrNotExist
		})
	}
	const moved = "docker.io/library/nginx:1 has moved at its origin, to " + sumB + ": the transcript has " + sumA
	check := func(when string, want ...string) {
		t.Helper()
		r, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, notes := range [][]string{r.Notes(), b.Notes()} {
			if len(notes) != len(want) || len(want) == 1 && !strings.HasPrefix(notes[0], want[0]) {
				t.Errorf("%s: got %q, want %q", when, notes, want)
			}
		}
		for _, e := range r.Entries() {
			if nginx := strings.Contains(e.URL, "nginx"); (e.OriginDigest == sumB) != (nginx && len(want) > 0) {
				t.Errorf("%s: %+v", when, e)
			}
		}
		if got := Images(r.Questions()); !slices.Contains(got, "docker.io/library/nginx:1@"+sumA) {
			t.Errorf("%s: %q", when, got)
		}
	}
	check("before")
	if note := compare(); note != "" {
		t.Error(note)
	}
	check("after", moved)
	b.mu.Lock()
	err := b.rewrite()
	b.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	check("after it was written anew", moved)
	delete(origins, "docker.io/library/nginx:1")
	if note := compare(); !strings.HasPrefix(note, "1 of 2 tags could not be compared with their origins") ||
		!strings.Contains(note, "docker.io/library/nginx:1: file does not exist") {
		t.Error(note)
	}
	check("while it is not known", moved)
	b.Close()
	b = open(t, path)
	origins["docker.io/library/nginx:1"] = sumA
	if note := compare(); note != "" {
		t.Error(note)
	}
	check("after it has moved back")
}

// TestDiff: what only one rehearsal has asked, and what was answered differently.
func TestDiff(t *testing.T) {
	q := func(url string, status int, digest string) bundle.Question {
		return bundle.Question{Method: "GET", URL: "https://a.example/" + url, Status: status, Digest: digest}
	}
	a := []bundle.Question{q("1", 200, sumA), q("2", 200, sumA), q("3", 200, ""), q("4", 404, "")}
	b := []bundle.Question{q("2", 200, sumB), q("3", 200, sumA), q("4", 200, sumA), q("5", 404, "")}
	var got []string
	for _, d := range Diff(a, b) {
		got = append(got, d.URL[len("https://a.example/"):]+"|"+d.A+"|"+d.B)
	}
	want := []string{"1|200 " + sumA + "|", "2|200 " + sumA + "|200 " + sumB, "4|404|200 " + sumA, "5||404"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if d := Diff(a, a); len(d) > 0 {
		t.Errorf("%+v", d)
	}
}
