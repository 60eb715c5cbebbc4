package registry

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestBlobInOnePost(t *testing.T) {
	s := newPusher(t)
	d := s.push("team/app", "hello")
	s.want(s.own, "/v2/team/app/blobs/"+d.String(), d)
	s.want(s.own, "/v2/team/other/blobs/"+d.String(), "") // existence is per repository

	long := digest.SHA512.FromString("hello")
	res := s.expect(201, "POST", "/v2/team/app/blobs/uploads/?digest="+long.String(), "hello")
	if got := res.Header.Get("Location"); got != "/v2/team/app/blobs/"+long.String() {
		t.Errorf("location %q", got)
	}
	s.want(s.own, "/v2/team/app/blobs/"+long.String(), long)

	for _, bad := range []struct{ digest, code string }{
		{digest.FromString("other").String(), "DIGEST_INVALID"},
		{"sha256:short", "DIGEST_INVALID"},
		{"md5:" + strings.Repeat("0", 32), "DIGEST_INVALID"},
		{digest.SHA384.FromString("hello").String(), "DIGEST_INVALID"},
		{"", "DIGEST_INVALID"},
	} {
		res := s.expect(400, "POST", "/v2/team/app/blobs/uploads/?digest="+bad.digest, "hello")
		if got := code(t, res); got != bad.code {
			t.Errorf("digest %q: %s, want %s", bad.digest, got, bad.code)
		}
	}
	res = s.send(s.own, "POST", "/v2/team/app/blobs/uploads/?digest="+d.String(), iotest.ErrReader(io.ErrUnexpectedEOF))
	if res.StatusCode != 400 || code(t, res) != "SIZE_INVALID" {
		t.Errorf("a body that ends early: %d", res.StatusCode)
	}
}

func TestMount(t *testing.T) {
	s := newPusher(t)
	d := s.push("team/app", "hello")
	for i, from := range []string{"&from=team/app", "", "&from=team/none", "&from=BAD//name"} {
		repo := fmt.Sprintf("other/app%d", i)
		s.want(s.own, "/v2/"+repo+"/blobs/"+d.String(), "")
		res := s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String()+from, "")
		if got := res.Header.Get("Docker-Content-Digest"); got != d.String() {
			t.Errorf("mounted %q", got)
		}
		s.want(s.own, "/v2/"+repo+"/blobs/"+d.String(), d)
	}
	// A delete in one repository is no delete in another.
	s.expect(202, "DELETE", "/v2/other/app0/blobs/"+d.String(), "")
	s.want(s.own, "/v2/other/app0/blobs/"+d.String(), "")
	s.want(s.own, "/v2/team/app/blobs/"+d.String(), d)
	s.expect(404, "DELETE", "/v2/other/app0/blobs/"+d.String(), "")

	// What is nowhere begins a session, as the specification wants.
	res := s.expect(202, "POST", "/v2/team/app/blobs/uploads/?mount="+digest.FromString("nowhere").String()+
		"&from=team/app", "")
	if res.Header.Get("Location") == "" {
		t.Error("no location for a session")
	}
	s.expect(400, "POST", "/v2/team/app/blobs/uploads/?mount=sha256:x", "")
}

// open begins a session and returns its location.
func (s *pusher) open(repo string) string {
	s.tb.Helper()
	return s.expect(202, "POST", "/v2/"+repo+"/blobs/uploads/", "").Header.Get("Location")
}

func withDigest(loc string, d digest.Digest) string { return loc + "&digest=" + d.String() }

func TestChunks(t *testing.T) {
	s := newPusher(t)
	text := strings.Repeat("0123456789", 100)
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := alg.FromString(text)
		loc := s.open("team/app")
		if !strings.HasPrefix(loc, "/v2/team/app/blobs/uploads/") {
			t.Fatalf("location %q", loc)
		}
		res := s.expect(202, "PATCH", loc, text[:300], "Content-Range", "0-299")
		if got := res.Header.Get("Range"); got != "0-299" {
			t.Errorf("range %q after 300 bytes", got)
		}
		if got := res.Header.Values("Docker-Distribution-Api-Version"); !slices.Equal(got, []string{"registry/2.0"}) {
			t.Errorf("api version %q", got)
		}
		loc = res.Header.Get("Location")

		// Each of these is refused and changes nothing.
		for _, c := range []struct {
			method, cr, body string
			status           int
		}{
			{"PATCH", "0-299", text[:300], 416},
			{"PATCH", "400-499", text[400:500], 416},
			{"PUT", "500-999", text[500:], 416},
			{"PATCH", "300-499", text[300:400], 400},
			{"PATCH", "499-300", text[300:400], 416},
			{"PATCH", "words", text[300:400], 400},
			{"PATCH", "-5-10", text[300:400], 400},
			{"PATCH", "300-99999999999999999999", text[300:400], 400},
		} {
			target := loc
			if c.method == "PUT" {
				target = withDigest(loc, d)
			}
			s.expect(c.status, c.method, target, c.body, "Content-Range", c.cr)
		}
		res = s.expect(204, "GET", loc, "")
		if got := res.Header.Get("Range"); got != "0-299" {
			t.Errorf("range %q after refused chunks", got)
		}
		loc = res.Header.Get("Location")
		res = s.expect(202, "PATCH", loc, text[300:600], "Content-Range", "300-599")
		loc = res.Header.Get("Location")
		res = s.expect(201, "PUT", withDigest(loc, d), text[600:], "Content-Range", "600-999")
		if got := res.Header.Get("Location"); got != "/v2/team/app/blobs/"+d.String() {
			t.Errorf("location of the blob %q", got)
		}
		_, body := s.body(s.own, "/v2/team/app/blobs/"+d.String())
		if body != text {
			t.Errorf("%d bytes came back, not the %d sent", len(body), len(text))
		}
		s.expect(404, "PUT", withDigest(loc, d), "") // the session is over
	}
}

func (s *pusher) body(v View, target string) (int, string) {
	s.tb.Helper()
	res := s.ask(v, "GET", target)
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.tb.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestUploadSessions(t *testing.T) {
	s := newPusher(t)
	d := digest.FromString("hello")

	loc := s.open("team/app")
	// Known in its own repository only.
	s.expect(404, "GET", strings.Replace(loc, "team/app", "team/other", 1), "")
	s.expect(404, "PUT", withDigest(strings.Replace(loc, "team/app", "team/other", 1), d), "hello")

	// Cancelled.
	s.expect(204, "DELETE", loc, "")
	s.expect(404, "GET", loc, "")
	s.expect(404, "PATCH", loc, "x")
	s.expect(404, "DELETE", loc, "")
	if left := s.reg.Uploads().Open; left != 0 {
		t.Errorf("%d sessions are left after a cancel", left)
	}

	// Wrong bytes end it.
	loc = s.open("team/app")
	res := s.expect(400, "PUT", withDigest(loc, d), "other")
	if got := code(t, res); got != "DIGEST_INVALID" {
		t.Errorf("wrong bytes: %s", got)
	}
	s.expect(404, "GET", loc, "")

	// No digest, or one that is none, does not.
	loc = s.open("team/app")
	s.expect(400, "PUT", loc, "hello")
	s.expect(400, "PUT", loc+"&digest=md5:00", "hello")
	s.expect(201, "PUT", withDigest(loc, d), "hello")

	// An empty blob.
	empty := digest.FromString("")
	s.expect(201, "PUT", withDigest(s.open("team/app"), empty), "")
	s.want(s.own, "/v2/team/app/blobs/"+empty.String(), empty)

	// Ids that are none.
	for _, id := range []string{"x;y", "..", "%2e%2e", strings.Repeat("a", 200), "a%2fb", "a%00"} {
		res := s.send(s.own, "GET", "/v2/team/app/blobs/uploads/"+id, nil)
		if res.StatusCode != 404 && res.StatusCode != 400 {
			t.Errorf("upload id %q: %d", id, res.StatusCode)
		}
	}
	s.expect(405, "POST", loc, "")
	s.expect(405, "PUT", "/v2/team/app/blobs/uploads/", "")
}

// TestUploadSurvives: a process that ends in the middle of an upload does not lose it.
func TestUploadSurvives(t *testing.T) {
	s := newPusher(t)
	d := digest.FromString("hello, world")
	loc := s.expect(202, "PATCH", s.open("team/app"), "hello, ").Header.Get("Location")
	cfg := s.reg.cfg
	if err := s.reg.Close(); err != nil {
		t.Fatal(err)
	}
	reg, err := Open(cfg) // the secret is the same, as on a real node
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	s.reg = reg
	res := s.expect(204, "GET", loc, "")
	if got := res.Header.Get("Range"); got != "0-6" {
		t.Errorf("range %q after a restart", got)
	}
	loc = s.expect(202, "PATCH", res.Header.Get("Location"), "wor").Header.Get("Location")
	s.expect(201, "PUT", withDigest(loc, d), "ld")
	s.want(s.own, "/v2/team/app/blobs/"+d.String(), d)
}

// TestUploadFails: when the tree cannot take the blob now, the session stays and the same PUT works later.
func TestUploadFails(t *testing.T) {
	for _, c := range []struct {
		what   string
		err    error
		after  bool
		status int
	}{
		{"blob", syscall.EAGAIN, false, 503},
		{"blob", syscall.ENOSPC, false, 507},
		{"update", syscall.EAGAIN, false, 503},
		{"update", syscall.EAGAIN, true, 503}, // it failed but happened
	} {
		t.Run(fmt.Sprintf("%s %v %v", c.what, c.err, c.after), func(t *testing.T) {
			s := newPusher(t)
			d := digest.FromString("hello")
			loc := s.expect(202, "PATCH", s.open("team/app"), "hello").Header.Get("Location")
			s.tree.Fail = func(what string) (error, bool) {
				if what == c.what {
					return c.err, c.after
				}
				return nil, true
			}
			res := s.expect(c.status, "PUT", withDigest(loc, d), "")
			if c.status == 503 && res.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
			if got := code(t, res); got != "UNAVAILABLE" {
				t.Errorf("code %s", got)
			}
			s.tree.Fail = nil
			if c.what == "blob" {
				s.expect(201, "PUT", withDigest(loc, d), "")
			} else {
				// The bytes are a blob already and the session is over: the client uploads again or mounts.
				s.expect(201, "POST", "/v2/team/app/blobs/uploads/?mount="+d.String(), "")
			}
			s.want(s.own, "/v2/team/app/blobs/"+d.String(), d)
		})
	}
}

// TestUploadBusy: two requests do not write one session at the same time.
func TestUploadBusy(t *testing.T) {
	s := newPusher(t)
	loc := s.open("team/app")
	body, feed := io.Pipe()
	done := make(chan *http.Response)
	go func() { done <- s.send(s.own, "PATCH", loc, body) }()
	if _, err := io.WriteString(feed, "he"); err != nil { // returns when the PATCH reads, so it holds the session
		t.Fatal(err)
	}
	res := s.expect(429, "PUT", withDigest(loc, digest.FromString("x")), "x")
	if res.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	s.expect(429, "PATCH", loc, "x")
	s.expect(429, "DELETE", loc, "")
	io.WriteString(feed, "llo")
	feed.Close()
	res = <-done
	if res.StatusCode != 202 || res.Header.Get("Range") != "0-4" {
		t.Fatalf("the first: %d %q", res.StatusCode, res.Header.Get("Range"))
	}
	s.expect(201, "PUT", withDigest(res.Header.Get("Location"), digest.FromString("hello")), "")
}

// TestUploadInManyChunks: every chunk is a separate PATCH.
func TestUploadInManyChunks(t *testing.T) {
	s := newPusher(t)
	loc := s.open("team/app")
	for range 50 {
		loc = s.expect(202, "PATCH", loc, "x").Header.Get("Location")
	}
	s.expect(201, "PUT", withDigest(loc, digest.FromString(strings.Repeat("x", 50))), "")
}

// TestIdleUploads: sessions that this node has forgotten, because they were idle, are still known to it.
func TestIdleUploads(t *testing.T) {
	s := newPusher(t)
	now := time.Unix(1e9, 0)
	s.reg.now = func() time.Time { return now }
	loc := s.expect(202, "PATCH", s.open("team/app"), "hello").Header.Get("Location")
	if u := s.reg.Uploads(); u.Open != 1 || u.Users[0].User != "ann" || u.Users[0].Bytes != 5 ||
		!u.Users[0].Idle.Equal(now) {
		t.Errorf("%+v", u)
	}
	now = now.Add(24 * time.Hour)
	d := digest.FromString("hello")
	s.expect(201, "PUT", withDigest(loc, d), "")
	s.want(s.own, "/v2/team/app/blobs/"+d.String(), d)
}

func TestLargeBlobIsExact(t *testing.T) {
	s := newPusher(t)
	data := bytes.Repeat([]byte("casemate\x00\xff"), 1<<17)
	sum := sha512.Sum512(data)
	d := digest.NewDigestFromBytes(digest.SHA512, sum[:])
	loc := s.open("docker.io/library/big")
	for len(data) > 1<<20 {
		loc = s.expect(202, "PATCH", loc, string(data[:1<<18])).Header.Get("Location")
		data = data[1<<18:]
	}
	s.expect(201, "PUT", withDigest(loc, d), string(data))
	res := s.ask(on("docker.io"), "GET", "/v2/library/big/blobs/"+d.String())
	got, err := digest.SHA512.FromReader(res.Body)
	if err != nil || got != d {
		t.Errorf("came back as %s, %v", got, err)
	}
}
