package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/bundle/collect/cache"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
)

// noise is n bytes of content, the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// site is a web server with TLS that counts requests and can be as bad as servers are.
type site struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // "GET /path RANGE"
}

// serve answers with handle, which knows which request of this path it has, from 1.
func serve(t *testing.T, handle func(w http.ResponseWriter, r *http.Request, nth int)) *site {
	t.Helper()
	s := &site{}
	nth := map[string]int{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
		nth[r.URL.Path]++
		n := nth[r.URL.Path]
		s.mu.Unlock()
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("%s: Accept-Encoding %q", r.URL, got)
		}
		handle(w, r, n)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

// asked are the requests for a path.
func (s *site) asked(path string) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if f := strings.Fields(r); f[1] == path {
			list = append(list, r)
		}
	}
	return list
}

func (s *site) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// options are quick ones that trust the site.
func (s *site) options(t *testing.T) Options {
	opt := quick(t)
	opt.Transport = s.Client().Transport
	return opt
}

func wantFiles(urls ...string) *lists.Wanted {
	w := &lists.Wanted{}
	for i, u := range urls {
		w.Files = append(w.Files, lists.File{URL: u, Where: fmt.Sprintf("files.list:%d", i+1)})
	}
	return w
}

// read returns a file's content out of a collection.
func read(t *testing.T, c *Collection, url string) []byte {
	t.Helper()
	for _, f := range c.Index.Files {
		if f.URL != url {
			continue
		}
		r, err := c.Open(f.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Fatalf("%s is not in the index", url)
	return nil
}

// hangUp breaks the connection without an end of the body.
func hangUp() { panic(http.ErrAbortHandler) }

// part answers a range request rightly.
func rest(w http.ResponseWriter, r *http.Request, content []byte) {
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
	w.Header().Set("Content-Length", strconv.Itoa(len(content)-from))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(content[from:])
}

func flush(w http.ResponseWriter, b []byte) {
	w.Write(b)
	w.(http.Flusher).Flush()
}

func TestBrokenDownloads(t *testing.T) {
	content := noise(1, 300_000)
	newer := noise(2, 300_000)
	half := len(content) / 2
	type handler = func(w http.ResponseWriter, r *http.Request, nth int)
	// firstHalf sends half of the content, and hangs up.
	firstHalf := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		flush(w, content[:half])
		hangUp()
	}
	tag := func(w http.ResponseWriter, tag string) { w.Header().Set("ETag", tag) }
	for _, tt := range []struct {
		name   string
		handle handler
		want   []byte // nil: it fails
		err    string
		asked  int // times; negative: at least so often, as a busy machine may need more
	}{
		{"whole", func(w http.ResponseWriter, r *http.Request, nth int) { rest(w, r, content) }, content, "", 1},
		{"gone on with", func(w http.ResponseWriter, r *http.Request, nth int) {
			tag(w, `"1"`)
			if nth == 1 {
				firstHalf(w)
			}
			if r.Header.Get("If-Range") != `"1"` {
				t.Errorf("If-Range %q", r.Header.Get("If-Range"))
			}
			rest(w, r, content)
		}, content, "", 2},
		{"by the time of change", func(w http.ResponseWriter, r *http.Request, nth int) {
			w.Header().Set("Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT")
			tag(w, `W/"weak"`)
			if nth == 1 {
				firstHalf(w)
			}
			if r.Header.Get("If-Range") != "Tue, 24 Nov 2026 10:00:00 GMT" {
				t.Errorf("If-Range %q", r.Header.Get("If-Range"))
			}
			rest(w, r, content)
		}, content, "", 2},
		{"changed between", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				tag(w, `"1"`)
				firstHalf(w)
			}
			tag(w, `"2"`) // and so If-Range does not hold: all of it
			w.Write(newer)
		}, newer, "", 2},
		{"changed between, and If-Range ignored", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				tag(w, `"1"`)
				firstHalf(w)
			}
			tag(w, `"2"`)
			rest(w, r, newer)
		}, newer, "", 3},
		{"changed its size between", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				firstHalf(w)
			}
			rest(w, r, newer[:half+10])
		}, newer[:half+10], "", 3},
		{"knows no ranges", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				firstHalf(w)
			}
			w.Write(content)
		}, content, "", 2},
		{"other range than asked for", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				firstHalf(w)
			}
			if nth == 2 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", half-7, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content[half-7:])
				return
			}
			rest(w, r, content)
		}, content, "", 3},
		{"a range without Content-Range", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				firstHalf(w)
			}
			if nth == 2 {
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content[half:])
				return
			}
			rest(w, r, content)
		}, content, "", 3},
		{"refuses the range", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				firstHalf(w)
			}
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			w.Write(content)
		}, content, "", 3},
		{"breaks again and again, a little further each time", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth > 20 {
				rest(w, r, content)
				return
			}
			var from int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("Content-Length", strconv.Itoa(len(content)-from))
			if from > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
			}
			flush(w, content[from:from+10_000])
			hangUp()
		}, content, "", 21},
		{"never ends", func(w http.ResponseWriter, r *http.Request, nth int) {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			flush(w, content[:half])
			hangUp()
		}, nil, "truncated: received 150000 of 300000 bytes", transport.MaxAttempts + 1},
		{"lies about the length", func(w http.ResponseWriter, r *http.Request, nth int) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(content)+1))
			w.Write(content)
		}, nil, "truncated", -1},
		{"stalls", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth == 1 {
				w.Header().Set("Content-Length", strconv.Itoa(len(content)))
				flush(w, content[:half])
				<-r.Context().Done()
				return
			}
			rest(w, r, content)
		}, content, "", -2},
		{"not found", func(w http.ResponseWriter, r *http.Request, nth int) {
			http.Error(w, "<html>no",
				http.StatusNotFound)
		}, nil, "404 Not Found", 1},
		{"500 twice", func(w http.ResponseWriter, r *http.Request, nth int) {
			if nth < 3 {
				http.Error(w, "oops", http.StatusInternalServerError)
				return
			}
			rest(w, r, content)
		}, content, "", 3},
		{"502 for ever", func(w http.ResponseWriter, r *http.Request, nth int) {
			http.Error(w, "oops",
				http.StatusBadGateway)
		}, nil, "502 Bad Gateway: oops", transport.MaxAttempts},
		{"redirected", func(w http.ResponseWriter, r *http.Request, nth int) {
			if r.URL.RawQuery == "" {
				http.Redirect(w, r, r.URL.Path+"?signature=secret", http.StatusFound)
				return
			}
			rest(w, r, content)
		}, content, "", 2},
		{"redirected for ever", func(w http.ResponseWriter, r *http.Request, nth int) {
			http.Redirect(w, r, r.URL.Path+"?signature=secret", http.StatusFound)
		}, nil, "more than 10 redirects", 11},
		{"compressed although asked not to", func(w http.ResponseWriter, r *http.Request, nth int) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(content)
		}, nil, "Content-Encoding", 1},
		{"empty", func(w http.ResponseWriter, r *http.Request, nth int) {}, []byte{}, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request, nth int) {
				if r.URL.Path != "/file" {
					http.NotFound(w, r)
					return
				}
				tt.handle(w, r, nth)
			})
			opt := s.options(t)
			opt.stall = 5 * time.Minute
			if tt.name == "stalls" {
				opt.stall = time.Second
			}
			c, err := Collect(t.Context(), wantFiles(s.URL+"/file"), opt)
			if tt.want != nil {
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if got := read(t, c, s.URL+"/file"); !bytes.Equal(got, tt.want) {
					t.Errorf("got %d bytes that are not those", len(got))
				}
				if strings.Contains(c.Index.Files[0].From, "secret") {
					t.Errorf("a signature is in the index: %+v", c.Index.Files[0])
				}
			} else if err == nil {
				c.Close()
				t.Fatal("no error")
			} else if !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "<html") ||
				strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
			if got := s.asked("/file"); tt.asked >= 0 && len(got) != tt.asked || len(got) < -tt.asked {
				t.Errorf("asked %d times, want %d: %q", len(got), tt.asked, got)
			}
		})
	}
}

// The next run resumes a file or a blob that an earlier one has in part.
func TestNextRunGoesOn(t *testing.T) {
	content := noise(3, 200_000)
	for _, etag := range []string{`"1"`, ""} {
		var whole atomic.Bool
		s := serve(t, func(w http.ResponseWriter, r *http.Request, nth int) {
			if r.URL.Path != "/file" {
				http.NotFound(w, r)
				return
			}
			if etag != "" {
				w.Header().Set("ETag", etag)
			}
			if whole.Load() {
				rest(w, r, content)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			flush(w, content[:1000])
			hangUp()
		})
		opt := s.options(t)
		w := wantFiles(s.URL + "/file")
		if _, err := Collect(t.Context(), w, opt); err == nil {
			t.Fatal("no error")
		}
		whole.Store(true)
		s.forget()
		c := collect(t, w, opt)
		if !bytes.Equal(read(t, c, s.URL+"/file"), content) {
			t.Error("not the content")
		}
		want := "GET /file"
		if etag != "" { // without one it is unknown whether the content is still the same
			want = "GET /file bytes=1000-199999"
		}
		if got := s.asked("/file"); len(got) != 1 || got[0] != want {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
}

// A part that was damaged is found by the digest and fetched anew.
func TestDamagedPartIsBegunAnew(t *testing.T) {
	u := newUpstream(t)
	layer := noise(4, 100_000)
	u.picture(t, "x", "v1", "linux/amd64", string(layer))
	opt := quick(t)
	blob := "/v2/x/blobs/" + digests.SHA256(layer)
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == blob && r.Method == http.MethodGet {
			w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			flush(w, layer[:5000])
			hangUp()
		}
		return false
	})
	w := wantImages(u.host + "/x:v1")
	if _, err := Collect(t.Context(), w, opt); err == nil {
		t.Fatal("no error")
	}
	u.hook(nil)
	part := opt.Cache + "/parts/" + cache.FileName(digests.SHA256(layer))
	b, err := os.ReadFile(part)
	if err != nil || len(b) != 5000 {
		t.Fatalf("%d bytes in the part: %v", len(b), err)
	}
	b[17] ^= 1
	if err := os.WriteFile(part, b, 0o644); err != nil {
		t.Fatal(err)
	}
	u.forget()
	contents(t, collect(t, w, opt))
	if n := u.count("GET", blob); n != 2 {
		t.Errorf("%d requests, want one for the rest and one for all", n)
	}
}

func TestTooManyRequests(t *testing.T) {
	for _, tt := range []struct {
		after string
		least time.Duration // that is waited
		err   string
	}{{"40", 40 * time.Second, ""}, {"86400", 0, "come back in 24h"}, {"", 250 * time.Millisecond, ""}} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, nth int) {
			if r.URL.Path == "/file.txt" && nth > 1 {
				w.Write([]byte("content"))
				return
			}
			w.Header().Set("Retry-After", tt.after)
			w.WriteHeader(http.StatusTooManyRequests)
		})
		opt := s.options(t)
		var waited []time.Duration
		opt.wait = func(ctx context.Context, d time.Duration) error { waited = append(waited, d); return nil }
		c, err := Collect(t.Context(), wantFiles(s.URL+"/file.txt"), opt)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || len(waited) != 0 {
				t.Errorf("%q: waited %v, got %v", tt.after, waited, err)
			}
			continue
		}
		if err != nil || len(waited) != 1 || waited[0] < tt.least {
			t.Errorf("%q: waited %v, got %v", tt.after, waited, err)
			continue
		}
		c.Close()
	}
}

// A registry's limit is waited for wherever it strikes: at the ping, the manifest, the blob.
func TestRegistryLimits(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "layer")
	seen := map[string]bool{}
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		key := r.Method + r.URL.Path
		u.mu.Lock()
		defer u.mu.Unlock()
		if seen[key] {
			return false
		}
		seen[key] = true
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	contents(t, collect(t, wantImages(u.host+"/x:v1"), quick(t)))
}

func TestCancelEndsEverything(t *testing.T) {
	arrived := make(chan struct{}, 10)
	s := serve(t, func(w http.ResponseWriter, r *http.Request, nth int) {
		if strings.HasSuffix(r.URL.Path, ".txt") {
			flush(w, []byte("some"))
			arrived <- struct{}{}
			<-r.Context().Done()
			return
		}
		http.NotFound(w, r)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stop := errors.New("enough")
	go func() { <-arrived; cancel(stop) }()
	opt := s.options(t)
	if _, err := Collect(ctx, wantFiles(s.URL+"/a.txt", s.URL+"/b.txt"), opt); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	// And the cache is free.
	c, err := cache.Open(opt.Cache)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
