package collect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/bundle"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
)

// TestWhatHangsNeverDecides has one line for each way in which a registry can be wrong about content that is attached
// to an image: the image is collected, and a note reports what was left out, if anything was.
func TestWhatHangsNeverDecides(t *testing.T) {
	for _, tt := range []struct {
		rule string
		note string // "": nothing is left out
		left string // what of a signature's tag, a referrer and a tag of an SBOM is left out, as "sig ref sbom"
	}{
		{"GET quay.io/v2/x/manifests/sha256: 404", "lists the referrer DREF and does not " +
			"have it", "ref"}, // the rest by tag, then
		{"GET quay.io/v2/x/manifests/SIG 404", "", ""}, // by digest it is there
		{"GET quay.io/v2/x/manifests/(SIG|DSIG) 404", "x:SIG is left out", "sig"},
		{"GET quay.io/v2/x/manifests/(SIG|DSIG) 500", "x:SIG is left out", "sig"},
		{"GET quay.io/v2/x/manifests/(SIG|DSIG) html", "x:SIG is left out", "sig"},
		{"HEAD quay.io/v2/x/manifests/SIG set=Docker-Content-Digest:sha256:" + strings.Repeat("0", 64),
			"sends DSIG for the tag", "sig"},
		{"HEAD quay.io/v2/x/manifests/SIG no=Docker-Content-Digest", "", ""},
		{"HEAD quay.io/v2/x/manifests/SIG 500", "", ""},
		{"* quay.io/v2/x/manifests/SIG hangup", "x:SIG is left out", "sig"},
		{"* quay.io/v2/x/manifests/SIG 403", "", "sig"}, // some registries' answers for missing content
		{"GET quay.io/v2/x/blobs/BSIG 404", "x:SIG is left out: blob BSIG", "sig"},
		{"GET quay.io/v2/x/blobs/BSIG flip", "x:SIG is left out: blob BSIG", "sig"},
		{"GET quay.io/v2/x/blobs/BSIG flip once", "", ""},
		{"GET quay.io/v2/x/referrers/ html", "", "ref"},
		{"GET quay.io/v2/x/referrers/ json={}", "", "ref"},
		{"GET quay.io/v2/x/referrers/ json={\"manifests\":null}", "", "ref"},
		{"GET quay.io/v2/x/referrers/ json={\"manifests\":[{\"digest\":\"x\"}]}",
			`contains "x", which is not a digest`, "ref"},
		{"GET quay.io/v2/x/referrers/ 500", "lists of referrers cannot be fetched", "ref"},
		{"GET quay.io/v2/x/referrers/ hangup", "lists of referrers cannot be fetched", "ref"},
		{"GET quay.io/v2/x/referrers/ cut times=2", "", ""},
		{"GET quay.io/v2/x/referrers/ 401", "", "ref"},
		{"GET quay.io/v2/x/manifests/DREF 404", "lists the referrer DREF and does not have it", "ref"},
		{"GET quay.io/v2/x/manifests/DREF 503", "x@DREF is left out", "ref"},
		{"GET quay.io/v2/x/manifests/DREF flip", "x@DREF is left out", "ref"},
		{"GET quay.io/v2/x/manifests/DREF flip once", "", ""},
		{"GET quay.io/v2/x/blobs/BREF 404", "x@DREF is left out: blob BREF", "ref"},
		{"GET quay.io/v2/x/blobs/BREF json=0123456789", "x@DREF is left out: blob BREF", "ref"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			in := newInternet(t)
			u := in.at("quay.io")
			top := u.picture(t, "x", "v1", "linux/amd64", "layer")
			sig := u.picture(t, "x", tag(top.Digest)+".sig", "linux/amd64", "signature")
			sbom := u.picture(t, "x", tag(top.Digest)+".sbom", "linux/amd64", "bill")
			ref := u.referrer(t, "x", top, "referrer")
			names := strings.NewReplacer(
				"DSIG",
				sig.Digest,
				"BSIG",
				digests.SHA256([]byte("signature")),
				"SIG",
				tag(top.Digest)+".sig",
				"DREF",
				ref.Digest,
				"BREF",
				digests.SHA256([]byte("referrer")),
			)
			in.misbehave(t, names.Replace(tt.rule))
			want := []string{"quay.io/x:v1", "quay.io/x:" + tag(top.Digest) + ".sbom"}
			if !strings.Contains(tt.left, "sig") {
				want = append(want, "quay.io/x:"+tag(top.Digest)+".sig")
			}
			if !strings.Contains(tt.left, "ref") {
				want = append(want, "quay.io/x@"+ref.Digest)
			}
			c := collect(t, wantImages("quay.io/x:v1"), in.options(t))
			got := contents(t, c)
			slices.Sort(got)
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s\nnotes %q", strings.Join(got, "\n"), strings.Join(want, "\n"), c.Notes)
			}
			if all := strings.Join(c.Notes, "\n"); tt.note == "" && all != "" ||
				!strings.Contains(all, names.Replace(tt.note)) {
				t.Errorf("notes %q, want %q", c.Notes, names.Replace(tt.note))
			}
			for _, b := range c.Index.Blobs {
				if strings.Contains(tt.left, "sig") && b.Digest == sig.Digest {
					t.Error("a blob that was left out is among the blobs")
				}
			}
			_ = sbom
		})
	}
}

// TestHeadIsOnlyAHint: whatever HEAD is answered, GET is tried before a name is given up.
func TestHeadIsOnlyAHint(t *testing.T) {
	for _, rule := range []string{
		"HEAD /v2/ 404", "HEAD /v2/ 403", "HEAD /v2/ 401", "HEAD /v2/ 405", "HEAD /v2/ 500", "HEAD /v2/ hangup",
		"HEAD /v2/ 429", "HEAD /v2/ no=Docker-Content-Digest",
		"HEAD /v2/x/manifests/v1 set=Docker-Content-Digest:sha256:" + strings.Repeat("0", 64),
		"GET /v2/x/manifests/sha256: 404",
		"HEAD /file 404", "HEAD /file 403", "HEAD /file 405", "HEAD /file 429", "HEAD /file 500", "HEAD /file hangup",
	} {
		t.Run(rule, func(t *testing.T) {
			in := newInternet(t, rule)
			u := in.at("quay.io")
			top := u.picture(t, "x", "v1", "linux/amd64", "layer")
			u.picture(t, "x", tag(top.Digest)+".sig", "linux/amd64", "signature")
			in.serve("https://a.example/file", "content")
			w := wantImages("quay.io/x:v1", "quay.io/x:v1@"+top.Digest)
			w.Files = wantFiles("https://a.example/file").Files
			w.Files[0].Digest = digests.SHA256([]byte("content"))
			for _, dry := range []bool{true, false} {
				opt := in.options(t)
				opt.DryRun = dry
				c := collect(t, w, opt)
				if len(c.Index.Images) != 2 || len(c.Index.Files) != 1 || c.Index.Files[0].Size != 7 {
					t.Errorf("dry run %v: got %+v", dry, c.Index)
				}
				if !dry {
					contents(t, c)
				}
			}
		})
	}
	// What was found by HEAD once is asked for by HEAD alone: three tags that hang on an image, and none is there.
	in := newInternet(t)
	in.at("quay.io").picture(t, "x", "v1", "linux/amd64", "layer")
	collect(t, wantImages("quay.io/x:v1"), in.options(t))
	if n := in.count(`^GET quay\.io/v2/x/manifests/sha256-`); n != 0 {
		t.Errorf("%d GETs for tags that HEAD says are not there", n)
	}
}

// TestOptionalWhateverTheError: an optional name never stops the rest, whatever the error.
func TestOptionalWhateverTheError(t *testing.T) {
	for rule, why := range map[string]string{
		"CONNECT bad.example 403":        "the proxy refuses the connection to bad.example:443: 403 Forbidden",
		"CONNECT bad.example 407":        "the proxy refuses the connection to bad.example:443: 407",
		"CONNECT bad.example 503":        "503",
		"* bad.example 500":              "500",
		"* bad.example 400":              "400",
		"* bad.example 429":              "429",
		"* bad.example hangup":           "EOF",
		"* bad.example html":             "",
		"GET bad.example/v2/x/blobs 404": "404",
		"GET bad.example/v2/x/blobs cut": "EOF",
		"GET bad.example flip":           "",
	} {
		t.Run(rule, func(t *testing.T) {
			in := newInternet(t, rule)
			in.at("good.example").picture(t, "x", "v1", "linux/amd64", "layer")
			in.at("bad.example").picture(t, "x", "v1", "linux/amd64", "other layer")
			w := wantImages("good.example/x:v1", "bad.example/x:v1")
			w.Images[1].Optional = true
			w.Files = []lists.File{{URL: "https://bad.example/f.tgz", Digest: digests.SHA256(nil), Optional: true}}
			w.Charts = []lists.Chart{{Repo: "https://bad.example", Name: "c", Optional: true}}
			c := collect(t, w, in.options(t))
			if got := contents(t, c); !slices.Equal(got, []string{"good.example/x:v1"}) {
				t.Errorf("got %q", got)
			}
			for _, name := range []string{"bad.example/x:v1", "https://bad.example/f.tgz", "chart c of https://" +
				"bad.example"} {
				if !slices.ContainsFunc(c.Notes, func(n string) bool {
					return strings.HasPrefix(n, name+" is left out because it is optional: ") &&
						(!strings.HasPrefix(name, "bad") || strings.Contains(n, why))
				}) {
					t.Errorf("no note says why %s is left out: %q", name, c.Notes)
				}
			}
		})
	}
}

// A proxy that refuses a host will refuse it again: it is asked once for each name.
func TestRefusingProxyIsAskedOnce(t *testing.T) {
	in := newInternet(t, "CONNECT bad.example 403")
	_, err := Collect(t.Context(), wantFiles("https://bad.example/a.txt"), in.options(t))
	if n := in.count("^CONNECT bad"); err == nil || n != 1 {
		t.Errorf("asked %d times: %v", n, err)
	}
	// And so does a name server that knows no such host.
	opt := in.options(t)
	tries := 0
	opt.Transport = answer(func(r *http.Request) (*http.Response, error) {
		tries++
		return nil, &net.DNSError{Err: "no such host", Name: r.URL.Host, IsNotFound: true}
	})
	if _, err := Collect(t.Context(), wantFiles("https://bad.example/a.txt"), opt); err == nil || tries != 1 {
		t.Errorf("asked %d times: %v", tries, err)
	}
}

// TestDamagedOnTheWay: wrong content is requested again, and given up when the same arrives twice.
func TestDamagedOnTheWay(t *testing.T) {
	big := string(noise(1, 100_000))
	for _, tt := range []struct{ rule, err string }{
		{"GET /blobs/ flip once", ""}, {"GET /blobs/ html once", ""}, {"GET /blobs/ cut once", ""},
		{"GET /blobs/ json=0 once", ""},
		{"GET /manifests/ flip once", ""}, {"GET /manifests/ html once", ""}, {"GET /manifests/ cut once", ""},
		{"GET /f.tgz flip once", ""}, {"GET /f.tgz html once", ""}, {"GET /f.tgz cut once", ""},
		{"GET /blobs/ flip", "sha256:"}, {"GET /blobs/ html", "it must have"}, {"GET /manifests/ html", "manifest"},
		{"GET /f.tgz flip", "sha256:"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			in := newInternet(t, tt.rule)
			in.at("quay.io").picture(t, "x", "v1", "linux/amd64", big)
			in.serve("https://a.example/f.tgz", "\x1f\x8b"+big)
			w := wantImages("quay.io/x:v1")
			w.Files = wantFiles("https://a.example/f.tgz").Files
			w.Files[0].Digest = digests.SHA256([]byte("\x1f\x8b" + big))
			opt := in.options(t)
			opt.NoReferrers = true
			c, err := Collect(t.Context(), w, opt)
			if tt.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				contents(t, c)
				c.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v", err)
			}
			if n := in.count(`^GET .*/(blobs/` + digests.SHA256([]byte(big)) + `|f.tgz)$`); n > 3 {
				t.Errorf("%d requests for content that stays wrong", n)
			}
		})
	}
}

// fakeClock is moved by those who wait.
type fakeClock struct {
	mu     sync.Mutex
	at     time.Time
	waited time.Duration
}

func (c *fakeClock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *fakeClock) wait(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	c.waited += d
	return ctx.Err()
}

// TestLimitCountsForAll: a host that answers 429 is asked less by all workers together, and not several times for every
// image.
func TestLimitCountsForAll(t *testing.T) {
	const images = 40
	for _, tt := range []struct {
		rule     string
		parallel int
		most     int // requests that may be refused, all together
		fails    bool
	}{
		{"GET quay.io/v2/.*/manifests/ 429", 1, transport.MaxTooManyRequests + 2, true},
		{"GET quay.io/v2/.*/manifests/ 429", 8, 8 * (transport.MaxTooManyRequests + 2), true},
		{"GET quay.io/v2/.*/manifests/ 429 set=Retry-After:86400", 1, 1, true},
		{"GET quay.io/v2/app1/manifests/ 429 times=4", 1, 4, false},
	} {
		t.Run(fmt.Sprint(tt.rule, tt.parallel), func(t *testing.T) {
			in := newInternet(t, tt.rule)
			var refs []string
			for i := range images {
				in.at("quay.io").picture(t, fmt.Sprintf("app%d", i), "v1", "linux/amd64", fmt.Sprint("layer ", i))
				refs = append(refs, fmt.Sprintf("quay.io/app%d:v1", i))
			}
			clock := &fakeClock{at: time.Unix(0, 0)}
			opt := in.options(t)
			opt.clock, opt.wait, opt.Parallel, opt.NoReferrers = clock.now, clock.wait, tt.parallel, true
			c, err := Collect(t.Context(), wantImages(refs...), opt)
			n := in.count("^GET quay.io/v2/.*/manifests/")
			if !tt.fails {
				if err != nil || n != images+4 {
					t.Fatalf("%d requests, %v", n, err)
				}
				c.Close()
				return
			}
			var ce *Error
			if !errors.As(err, &ce) || len(ce.Failed) != images || !strings.Contains(err.Error(), "limits pulls") {
				t.Errorf("got %v", err)
			}
			if n > tt.most {
				t.Errorf("%d requests for %d images, at most %d are right", n, images, tt.most)
			}
		})
	}
}

// TestKeepGoing: available content is collected, and the rest is reported, in the result and in the index.
func TestKeepGoing(t *testing.T) {
	in := newInternet(t, "GET quay.io/v2/cut/blobs/ 404")
	u := in.at("quay.io")
	u.picture(t, "good", "v1", "linux/amd64", "layer")
	cut := u.picture(t, "cut", "v1", "linux/amd64", "lost layer")
	in.serve("https://a.example/there.txt", "content")
	w := wantImages("quay.io/good:v1", "quay.io/cut:v1", "quay.io/none:v1")
	w.Files = wantFiles("https://a.example/there.txt", "https://a.example/gone.txt").Files
	opt := in.options(t)
	opt.KeepGoing = true
	c := collect(t, w, opt)
	if got := contents(t, c); !slices.Equal(got, []string{"quay.io/good:v1", "https://a.example/there.txt"}) {
		t.Errorf("got %q", got)
	}
	var absent []string
	for i, a := range c.Index.Absent {
		absent = append(absent, a.Name)
		if a.Why == "" || c.Absent[i].Where == "" {
			t.Errorf("got %+v, %+v", a, c.Absent[i])
		}
	}
	if want := []string{"https://a.example/gone.txt", "quay.io/cut:v1", "quay.io/none:v1"}; !slices.Equal(
		absent,
		want,
	) {
		t.Errorf("absent are %q", absent)
	}
	if _, ok := c.Index.Blob(cut.Digest); ok {
		t.Error("blobs of absent content are in the index")
	}
	b, err := c.Index.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := bundle.DecodeIndex(b)
	if err != nil || len(again.Absent) != 3 || again.Absent[0] != c.Index.Absent[0] {
		t.Errorf("got %+v, %v", again, err)
	}
	c.Close()
	// Nothing is no success.
	opt = in.options(t)
	opt.KeepGoing = true
	if _, err := Collect(t.Context(), wantImages("quay.io/none:v1"), opt); err == nil ||
		!strings.Contains(err.Error(), "1 of 1 name") {
		t.Errorf("got %v", err)
	}
}
