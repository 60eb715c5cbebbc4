package upstream_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

// TestTags: a list has the tags that the origin has and those that are here, once each and in order, in pages of any
// size; the origin is asked once for all of them, and what is here is listed without it.
func TestTags(t *testing.T) {
	w := newWorld(t)
	p := newPicture("layer")
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") || r.Header.Get("Authorization") != "Bearer right" {
			p.serve(rw, r)
			return
		}
		switch r.URL.Query().Get("last") {
		case "":
			rw.Header().Set("Link", `</v2/app/tags/list?last=v1&n=2>; rel="next"`)
			io.WriteString(rw, `{"name":"app","tags":["v1","latest","not a tag"]}`)
		case "v1":
			io.WriteString(rw, `{"name":"app","tags":["v10","v2"]}`)
		default:
			rw.WriteHeader(400)
		}
	})
	w.want(w.get(site, "/v2/app/tags/list"), 200, `{"name":"app","tags":["latest","v1","v10","v2"]}`)
	w.want(w.get(site, "/v2/app/manifests/v1"), 200, p.manifest)
	if err := w.reg.KeepManifest(t.Context(), site+"/app", "v11", "application/vnd.oci.image.manifest.v1+json",
		[]byte(p.manifest)); err != nil {
		t.Fatal(err)
	}
	all := []string{"latest", "v1", "v10", "v11", "v2"}
	for n := 1; n <= len(all)+1; n++ {
		var got []string
		for last := ""; ; last = got[len(got)-1] {
			rec := w.get(site, fmt.Sprintf("/v2/app/tags/list?n=%d&last=%s", n, last))
			var page struct{ Tags []string }
			if err := json.Unmarshal(rec.Body.Bytes(), &page); err != nil || rec.Code != 200 || len(page.Tags) > n {
				t.Fatalf("n=%d: %d %s %v", n, rec.Code, rec.Body, err)
			}
			if got = append(got, page.Tags...); rec.Header().Get("Link") == "" {
				break
			}
		}
		if strings.Join(got, " ") != strings.Join(all, " ") {
			t.Errorf("n=%d: got %v", n, got)
		}
	}
	if n := w.count("GET " + site + "/v2/app/tags/list"); n != 2 {
		t.Errorf("the origin was asked %d times for 2 pages", n)
	}
	w.down.Store(true)
	w.tls.CloseClientConnections()
	w.later(time.Hour)
	w.want(w.get(site, "/v2/app/tags/list"), 200, `{"name":"app","tags":["v1","v11"]}`)
	w.want(w.get(site, "/v2/other/tags/list"), 502, "")
	w.down.Store(false)
	w.later(time.Hour)
	w.internet(status(404))
	w.want(w.get(site, "/v2/app/tags/list"), 200, `{"name":"app","tags":["v1","v11"]}`)
	w.want(w.get(site, "/v2/other/tags/list"), 404, "")
}

// referring is a registry with one image and one signature of it.
type referring struct {
	*picture
	signature string
	api       http.HandlerFunc // answers for the list of referrers
	tagged    bool             // the list is under a tag
}

func (p *referring) digests() (image, signature string) {
	return treetest.DigestOf([]byte(p.manifest), ""), treetest.DigestOf([]byte(p.signature), "")
}

func (p *referring) index() string {
	_, signature := p.digests()
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{`+
		`"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, signature,
		len(p.signature))
}

func (p *referring) serve(rw http.ResponseWriter, r *http.Request) {
	image, signature := p.digests()
	_, what, _ := strings.Cut(r.URL.Path, "/app/")
	switch {
	case r.Header.Get("Authorization") != "Bearer right":
		p.picture.serve(rw, r)
	case what == "referrers/"+image:
		p.api(rw, r)
	case what == "manifests/"+strings.Replace(image, ":", "-", 1) && p.tagged:
		io.WriteString(rw, p.index())
	case what == "manifests/"+signature:
		io.WriteString(rw, p.signature)
	default:
		p.picture.serve(rw, r)
	}
}

// TestReferrers: signatures that only the referrers API knows, or the tag that replaces it, are here when a client asks
// for their list; the origin is asked once in a while, and what is here is listed without it. Where nothing is known,
// no list says that there are no signatures.
func TestReferrers(t *testing.T) {
	for _, c := range []struct {
		name   string
		api    func(p *referring) http.HandlerFunc
		tagged bool
		status int
		found  bool
	}{
		{name: "by the API", api: func(p *referring) http.HandlerFunc { return text(p.index()) }, status: 200,
			found: true},
		{name: "an empty list", status: 200,
			api: func(*referring) http.HandlerFunc { return text(`{"schemaVersion":2,"manifests":[]}`) }},
		{name: "by tag", api: func(*referring) http.HandlerFunc { return status(404) }, tagged: true, status: 200,
			found: true},
		{name: "neither", api: func(*referring) http.HandlerFunc { return status(404) }, status: 200},
		{name: "a page of HTML", api: func(*referring) http.HandlerFunc { return text("<html>") }, tagged: true,
			status: 200, found: true},
		{name: "a digest that does not exist", status: 200, api: func(p *referring) http.HandlerFunc {
			return text(strings.Replace(p.index(), `"manifests":[`, `"manifests":[{"digest":"`+
				treetest.DigestOf([]byte("absent"), "")+`","size":1},`, 1))
		}, found: true},
		{name: "a failure", api: func(*referring) http.HandlerFunc { return status(500) }, status: 502},
		{name: "a limit", api: func(*referring) http.HandlerFunc { return status(429) }, status: 429},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			p := &referring{picture: newPicture("layer"), tagged: c.tagged}
			image, _ := p.digests()
			p.signature = strings.TrimSuffix(p.manifest, "}") + fmt.Sprintf(`,"subject":{"mediaType":"x/y",`+
				`"digest":%q,"size":%d}}`, image, len(p.manifest))
			p.api = c.api(p)
			_, signature := p.digests()
			w.internet(p.serve)
			ask := func(what string) {
				t.Helper()
				rec := w.get(site, "/v2/app/referrers/"+image)
				if rec.Code != c.status || strings.Contains(rec.Body.String(), signature) != c.found {
					t.Errorf("%s: got %d %s", what, rec.Code, rec.Body)
				}
			}
			ask("cold")
			n := w.total.Load()
			if ask("warm"); w.total.Load() != n && c.status == 200 {
				t.Errorf("the origin was asked again")
			}
			if c.status != 200 {
				return
			}
			w.later(2 * time.Hour)
			w.internet(status(500))
			ask("while the origin fails")
			if c.found {
				w.want(w.get(site, "/v2/app/manifests/"+signature), 200, p.signature)
			}
		})
	}
}
