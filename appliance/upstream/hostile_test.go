package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

// keepsNothing fails the test if anything was stored.
func (w *world) keepsNothing() {
	w.t.Helper()
	for _, tree := range []*treetest.Mem{w.tree, w.store} {
		for name := range tree.Walk(".", "") {
			w.t.Errorf("%s was kept", name)
		}
	}
}

// broken answers the first request for content with its beginning, and the next ones by rest.
func broken(content string, first int, rest http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("ETag", `"v1"`)
		if r.Header.Get("Range") == "" {
			rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
			io.WriteString(rw, content[:first])
			rw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		rest(rw, r)
	}
}

// part answers with a range that says so, whatever it has.
func part(contentRange, body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Range", contentRange)
		rw.Header().Set("Content-Length", fmt.Sprint(len(body)))
		rw.WriteHeader(http.StatusPartialContent)
		io.WriteString(rw, body)
	}
}

// TestLyingRanges: a server that continues content by something else than what it has announced gives no content.
func TestLyingRanges(t *testing.T) {
	content := strings.Repeat("0123456789", 1000)
	for _, c := range []struct {
		name string
		rest http.HandlerFunc
	}{
		{"shorter", part("bytes 5000-9999/10000", "short")},
		{"longer", part("bytes 5000-9999/10000", content)},
		{"longer than it says", part("bytes 5000-5001/10000", content[5000:]+"more")},
		{"another size", part("bytes 5000-5004/5005", "01234")},
		{"from elsewhere", part("bytes 0-9999/10000", content)},
		{"no range", part("", content[5000:])},
		{"nonsense", part("bytes 9-1/x", content[5000:])},
		{"negative", part("bytes -5000-9999/10000", content[5000:])},
		{"overflow", part("bytes 5000-9223372036854775807/9223372036854775808", content[5000:])},
		{"of any size", part("bytes 5000-9999/*", content[5000:]+"more")},
		{"nothing more", status(http.StatusRequestedRangeNotSatisfiable)},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.internet(broken(content, 5000, c.rest))
			rec := w.get(fileHost, "/a.bin")
			if rec.Code == 200 && rec.Body.Len() >= len(content) {
				t.Errorf("got %d with %d bytes", rec.Code, rec.Body.Len())
			}
			w.ended(1)
			w.keepsNothing()
		})
	}
}

// TestHostileAnswers: what a server answers instead of a file is an answer of one sentence, soon, and nothing is kept.
func TestHostileAnswers(t *testing.T) {
	long := strings.Repeat("long ", 100_000)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		status int
	}{
		{"206 to a plain request", part("bytes 0-4/5", "01234"), 502},
		{"206 without a range", part("", "01234"), 502},
		{"204", status(204), 502},
		{"304 to a plain request", status(304), 502},
		{"416", status(416), 502},
		{"a redirect without a target", status(302), 502},
		{"to a file", redirectTo("file:///etc/passwd"), 502},
		{"to ftp", redirectTo("ftp://" + cdn + "/a"), 502},
		{"to no scheme", redirectTo("//"), 502},
		{"to a script", redirectTo("javascript:alert(1)"), 502},
		{"to no URL", redirectTo("https://%zz/"), 502},
		{"to a port of this machine", redirectTo("https://127.0.0.1:22/"), 502},
		{"to this machine's number", redirectTo("https://2130706433/"), 502},
		{"to this machine in short", redirectTo("https://127.1/"), 502},
		{"to this machine in hexadecimal", redirectTo("https://0x7f000001/"), 502},
		{"to the service of a cloud", redirectTo("https://169.254.169.254/latest/meta-data/"), 502},
		{"to the same by NAT64", redirectTo("https://[64:ff9b::a9fe:a9fe]/latest/meta-data/"), 502},
		{"inside by NAT64", redirectTo("https://[64:ff9b::10.1.1.1]/"), 502},
		{"inside by 6to4", redirectTo("https://[2002:a01:101::1]/"), 502},
		{"inside by a compatible address", redirectTo("https://[::10.1.1.1]/"), 502},
		{"to a site's address", redirectTo("https://[fec0::1]/"), 502},
		{"to all", redirectTo("https://255.255.255.255/"), 502},
		{"to a bastion", redirectTo("https://192.0.2.99/"), 502},
		{"to a bastion's mapped address", redirectTo("https://[::ffff:192.0.2.99]/"), 502},
		{"a long message", func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(500)
			io.WriteString(rw, long)
		}, 502},
		{"a message that moves the cursor", func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(500)
			io.WriteString(rw, "\x1b[2J\r\nX-Injected: yes")
		}, 502},
		{"compressed", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			io.WriteString(rw, "\x1f\x8b")
		}, 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.internet(c.answer)
			rec := w.get(fileHost, "/a.bin")
			w.want(rec, c.status, "")
			if s := rec.Body.String(); strings.Contains(s, "nobody listens") || strings.Contains(s, "certificate") {
				t.Errorf("it was tried: %s", s)
			}
			if s := rec.Body.String(); len(s) > 1000 || strings.ContainsAny(strings.TrimSpace(s), "\x1b\r\n") {
				t.Errorf("got %.2000q", s)
			}
			w.keepsNothing()
			w.later(10 * time.Minute)
			w.internet(text("right"))
			w.want(w.get(fileHost, "/a.bin"), 200, "right")
		})
	}
}

func redirectTo(location string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		if r.Host != fileHost {
			io.WriteString(rw, "from where it must not come")
			return
		}
		rw.Header().Set("Location", location)
		rw.WriteHeader(http.StatusFound)
	}
}

// TestZones: an address with a zone is that address.
func TestZones(t *testing.T) {
	w := newWorld(t)
	w.own = "2001:db8::99"
	for i, at := range []string{"[2001:db8::99%25lo]", "[fd00::1%25lo]", "[::1%25lo]", "[fe80::1%25eth0]"} {
		w.internet(redirectTo("https://" + at + "/"))
		rec := w.get(fileHost, fmt.Sprint("/", i))
		if rec.Code != 502 || strings.Contains(rec.Body.String(), "nobody listens") {
			t.Errorf("%s: got %d %s", at, rec.Code, rec.Body)
		}
	}
}

// TestRebinding: an origin that was outside a moment ago does not lead into the site because its name has a private
// address now.
func TestRebinding(t *testing.T) {
	w := newWorld(t)
	w.names.Store(foreign, netip.MustParseAddr("10.1.1.1"))
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		w.names.Store(fileHost, netip.MustParseAddr("10.1.1.2"))
		redirectTo("https://"+foreign+"/a")(rw, r)
	})
	w.want(w.get(fileHost, "/a"), 502, "")
	if n := w.count("GET " + foreign + "/a"); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestOneByteEach: a server that sends a byte and breaks off, again and again, is not asked for ever.
func TestOneByteEach(t *testing.T) {
	w := newWorld(t)
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		rw.Header().Set("ETag", `"v1"`)
		rw.Header().Set("Content-Length", fmt.Sprint(10_000-from))
		if from > 0 {
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-9999/10000", from))
			rw.WriteHeader(http.StatusPartialContent)
		}
		io.WriteString(rw, "x")
		rw.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	w.want(w.get(fileHost, "/a"), 502, "")
	if n := w.total.Load(); n > 10 {
		t.Errorf("it was asked %d times", n)
	}
	w.keepsNothing()
}

// TestCircles: redirects in a circle are an answer of one sentence, or a redirect that the client follows as often as it
// likes; none keeps a fetch busy, and the name has content again when its origin has.
func TestCircles(t *testing.T) {
	for _, c := range []struct {
		name   string
		next   func(r *http.Request) string
		status int
	}{
		{"to itself", func(r *http.Request) string { return "https://" + r.Host + "/a" }, 502},
		{"to itself by another spelling", func(r *http.Request) string { return "https://" + r.Host + ":443/a#x" }, 502},
		{"ever longer", func(r *http.Request) string { return r.URL.Path + "/a" }, 302},
		{"between origins", func(r *http.Request) string {
			if r.Host == cdn {
				return "https://" + fileHost + "/a"
			}
			return "https://" + cdn + "/a"
		}, 302},
		{"through a host that is none", func(r *http.Request) string {
			if r.Host == foreign {
				return "https://" + fileHost + "/a"
			}
			return "https://" + foreign + "/a"
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.internet(func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, c.next(r), http.StatusFound)
			})
			rec := w.get(fileHost, "/a")
			if c.status != 0 {
				w.want(rec, c.status, "")
			} else if rec.Code != 302 && rec.Code != 502 {
				t.Errorf("got %d", rec.Code)
			}
			if n := w.total.Load(); n > 12 {
				t.Errorf("%d requests were sent", n)
			}
			w.later(2 * time.Hour)
			w.internet(text("right"))
			w.want(w.get(fileHost, "/a"), 200, "right")
		})
	}
}

// TestLongRetryAfter: a server that wants to be left alone for a year is asked again after five minutes, and no client
// is told to wait longer.
func TestLongRetryAfter(t *testing.T) {
	for _, after := range []string{"31536000", "4294967295", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "-1", ""} {
		t.Run(after, func(t *testing.T) {
			w := newWorld(t)
			for _, path := range []string{"/a", "/v2/app/manifests/v1"} {
				host := fileHost
				if strings.HasPrefix(path, "/v2/") {
					host = site
				}
				w.internet(func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("Retry-After", after)
					rw.WriteHeader(http.StatusTooManyRequests)
				})
				rec := w.get(host, path)
				w.want(rec, 429, "")
				var told int
				if _, err := fmt.Sscan(rec.Header().Get("Retry-After"), &told); err != nil || told < 1 || told > 300 {
					t.Errorf("clients are told %q", rec.Header().Get("Retry-After"))
				}
				w.later(301 * time.Second)
				w.internet(newPicture("x").serve)
				if host == fileHost {
					w.internet(text("x"))
				}
				w.want(w.get(host, path), 200, "")
			}
		})
	}
}

// TestHostileRegistry: what a registry answers in place of a challenge, a token, a manifest or a list is an error of
// one sentence, and bounded.
func TestHostileRegistry(t *testing.T) {
	challenge := func(value string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("WWW-Authenticate", value)
			rw.WriteHeader(401)
		}
	}
	at := func(suffix string, h http.HandlerFunc) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, suffix) {
				h(rw, r)
			}
		}
	}
	endless := func(rw http.ResponseWriter, r *http.Request) {
		for chunk := strings.Repeat(" ", 64<<10); ; {
			if _, err := io.WriteString(rw, chunk); err != nil {
				return
			}
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		status int // 0: an error, whichever
	}{
		{"garbage challenge", challenge("\x80\xff=,,=\"\""), 0},
		{"empty challenge", challenge(""), 0},
		{"unknown scheme", challenge(`Negotiate abc`), 0},
		{"no realm", challenge(`Bearer service="x"`), 0},
		{"realm is no URL", challenge(`Bearer realm="://"`), 0},
		{"realm is a file", challenge(`Bearer realm="file:///etc/passwd"`), 0},
		{"realm at this machine", challenge(`Bearer realm="https://127.0.0.1/token"`), 0},
		{"realm of a cloud", challenge(`Bearer realm="https://169.254.169.254/token"`), 0},
		{"endless ping", at("/v2/", endless), 404},
		{"endless challenge", func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="https://`+site+`/token"`)
			rw.WriteHeader(401)
			endless(rw, r)
		}, 0},
		{"endless error", func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(500)
			endless(rw, r)
		}, 502},
		{"endless manifest", at("/manifests/v1", endless), 502},
		{"compressed manifest", at("/manifests/v1", func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			rw.Write([]byte{0x1f, 0x8b, 8, 0})
		}), 502},
		{"nested manifest", at("/manifests/v1", text(strings.Repeat(`{"config":`, 100_000))), 502},
		{"no manifest", at("/manifests/v1", text(`{}`)), 502},
		{"manifest of a wrong digest", at("/manifests/v1", text(`{"schemaVersion":2,"config":{"digest":"../../x"}}`)),
			502},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.internet(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/manifests/v1") || r.URL.Path == "/v2/" || r.URL.Path == "/token" {
					c.answer(rw, r)
					return
				}
				rw.WriteHeader(404)
			})
			rec := w.get(site, "/v2/app/manifests/v1")
			if rec.Code < 400 || c.status != 0 && c.status != 404 && rec.Code != c.status {
				t.Errorf("got %d", rec.Code)
			}
			if s := rec.Body.String(); len(s) > 2000 || strings.ContainsAny(strings.TrimSpace(s), "\x1b\r\n") {
				t.Errorf("got %.3000q", s)
			}
			w.keepsNothing()
		})
	}
}

// TestTokenServers: a login is sent to the registry's own token server by TLS, or to one of the same domain or that an
// operator has named, and to nobody else, whatever the registry says.
func TestTokenServers(t *testing.T) {
	for _, c := range []struct {
		name, realm string
		redirect    string // where the registry leads a client that asks for /v2/
		sent        bool
	}{
		{"its own", "https://" + site + "/token", "", true},
		{"of the same domain", "https://auth.example.com/token", "", true},
		{"an origin", "https://docker.io/token", "", true},
		{"of another domain", "https://auth.example.net/token", "", false},
		{"of a similar domain", "https://notexample.com/token", "", false},
		{"without TLS", "http://auth.example.com/token", "", false},
		{"that another host names", "https://auth.example.net/token", "https://evil.example.net/v2/", false},
		{"after a redirect to plain HTTP", "http://auth.example.net/token", "http://evil.example.net/v2/", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.up.SetLogin(t.Context(), site, "ci", "s3cret"); err != nil {
				t.Fatal(err)
			}
			var got, leaked atomic.Bool
			p := newPicture("layer")
			serve := func(rw http.ResponseWriter, r *http.Request) {
				if _, password, _ := r.BasicAuth(); password == "s3cret" {
					got.Store(true)
					if !strings.HasPrefix(c.realm, "https://"+r.Host) || r.TLS == nil {
						leaked.Store(true)
					}
				}
				switch {
				case r.URL.Path == "/token":
					io.WriteString(rw, `{"token":"right"}`)
				case r.Header.Get("Authorization") == "Bearer right":
					p.serve(rw, r)
				case r.Host == site && r.URL.Path == "/v2/" && c.redirect != "":
					http.Redirect(rw, r, c.redirect, http.StatusTemporaryRedirect)
				default:
					rw.Header().Set("WWW-Authenticate", `Bearer realm="`+c.realm+`",service="x"`)
					rw.WriteHeader(401)
				}
			}
			w.internet(serve)
			plain := httptest.NewServer(http.HandlerFunc(serve))
			defer plain.Close()
			addr := plain.Listener.Addr().String()
			w.plainToo.Store(&addr)
			rec := w.get(site, "/v2/app/manifests/v1")
			if c.sent != got.Load() || leaked.Load() || c.sent != (rec.Code == 200) {
				t.Errorf("sent %v, leaked %v, answer %d %s", got.Load(), leaked.Load(), rec.Code, rec.Body)
			}
			t.Log(rec.Body)
		})
	}
}

// TestHugeTags: the tags of a list that are none take no memory.
func TestHugeTags(t *testing.T) {
	w := newWorld(t)
	huge := strings.Repeat("x", 3<<20)
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/tags/list") {
			rw.Header().Set("Link", `</v2/app/tags/list?last=1>; rel="next"`)
			if r.URL.RawQuery != "" {
				rw.Header().Del("Link")
			}
			io.WriteString(rw, `{"tags":["v1","`+huge+`","no tag","../x"]}`)
		}
	})
	rec := w.get(site, "/v2/app/tags/list")
	w.want(rec, 200, "")
	tags, err := w.up.Registry().Tags(httptest.NewRequest("GET", "/", nil), site+"/app")
	size := 0
	for _, tag := range tags {
		size += len(tag)
	}
	if err != nil || size > 1000 {
		t.Errorf("%v: %d tags of %d bytes are remembered", err, len(tags), size)
	}
}

// TestLongValidators: content whose validators are too long to be recorded is compared with its origin without them.
func TestLongValidators(t *testing.T) {
	for _, header := range []string{"ETag", "Last-Modified"} {
		t.Run(header, func(t *testing.T) {
			w := newWorld(t)
			var body atomic.Value
			body.Store("first")
			w.internet(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set(header, `"`+strings.Repeat("x", 5000)+`"`)
				io.WriteString(rw, body.Load().(string))
			})
			w.want(w.get(fileHost, "/a"), 200, "first")
			w.ended(1)
			body.Store("second")
			w.later(2 * time.Hour)
			w.want(w.get(fileHost, "/a"), 200, "second")
		})
	}
}

// TestLongNames: an address that is too long for a record is compared with its origin like every other one.
func TestLongNames(t *testing.T) {
	w := newWorld(t)
	w.internet(text("first"))
	path := "/a?" + strings.Repeat("&", 1000) // six times as long in JSON
	w.want(w.get(fileHost, path), 200, "first")
	w.ended(1)
	w.internet(text("second"))
	w.later(2 * time.Hour)
	w.want(w.get(fileHost, path), 200, "second")
	n := w.total.Load()
	w.want(w.get(fileHost, path+strings.Repeat("&", 1000)), 414, "") // it could not be stored
	if w.total.Load() != n {
		t.Error("the origin was asked for it")
	}
}

// TestNewContentIsNotStored: if we crash between recording an answer and storing its content, what is here is still
// compared with its origin; what a person puts then stays.
func TestNewContentIsNotStored(t *testing.T) {
	first, second := newPicture("first"), newPicture("second")
	for _, c := range []struct{ name, host, path, first, second string }{
		{"file", fileHost, "/stable.txt", "first", "second"},
		{"tag", site, "/v2/app/manifests/v1", first.manifest, second.manifest},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var now atomic.Pointer[picture]
			now.Store(first)
			w.internet(func(rw http.ResponseWriter, r *http.Request) {
				if r.Host == fileHost {
					io.WriteString(rw, now.Load().layer)
					return
				}
				now.Load().serve(rw, r)
			})
			w.want(w.get(c.host, c.path), 200, c.first)
			w.ended(1)
			now.Store(second)
			w.later(2 * time.Hour)
			for _, tree := range []*treetest.Mem{w.tree, w.store} {
				tree.Fail = func(string) (error, bool) { return errors.New("killed"), false }
			}
			w.get(c.host, c.path)
			w.ended(2)
			w.tree.Fail, w.store.Fail = nil, nil
			for range 2 {
				w.later(61 * time.Second) // it was tried a moment ago
				w.want(w.get(c.host, c.path), 200, c.second)
				w.ended(3)
			}
			if c.host != fileHost {
				return
			}
			if _, err := w.files.Put(t.Context(), "https://"+c.host+c.path, strings.NewReader(c.first), ""); err != nil {
				t.Fatal(err)
			}
			w.later(2 * time.Hour)
			w.want(w.get(c.host, c.path), 200, c.first)
		})
	}
}

// TestOneOriginHangs: an origin that does not answer does not take the places of fetches from others, however many
// clients ask for its content.
func TestOneOriginHangs(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host == fileHost {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		io.WriteString(rw, "x")
	})
	ctx, cancel := context.WithCancel(t.Context())
	refused := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for i := range 1024 { // as many clients as there are places
		wg.Go(func() {
			rec := w.doAs(ctx, fmt.Sprintf("10.9.%d.%d:1", i>>8, i&255), http.MethodGet, fileHost, fmt.Sprint("/", i))
			if rec.Code != 503 {
				return
			}
			select {
			case refused <- struct{}{}:
			default:
			}
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-refused:
		w.want(w.get(cdn, "/other"), 200, "x")
	case <-all:
		t.Error("none was refused")
	}
	cancel()
	close(release)
	<-all
}
