package collect

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// Content pushed by another client is returned byte for byte.
func TestCollectWhatAnotherClientPushed(t *testing.T) {
	u := newUpstream(t)
	ix, err := random.Index(20_000, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(u.host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if err := remote.WriteIndex(ref, ix, remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	want, err := ix.Digest()
	if err != nil {
		t.Fatal(err)
	}
	c := collect(t, wantImages(u.host+"/team/app:v1"), quick(t))
	contents(t, c)
	top := c.Index.Images[len(c.Index.Images)-1]
	if top.Digest != want.String() || len(c.Index.Images) != 3 || len(c.Index.Blobs) != 1+2*(1+1+3) {
		t.Errorf("got %+v, %d blobs", c.Index.Images, len(c.Index.Blobs))
	}
}

// Lists of referrers have pages.
func TestReferrersInPages(t *testing.T) {
	u := newUpstream(t)
	top := u.picture(t, "x", "v1", "linux/amd64", "layer")
	first, second := u.referrer(t, "x", top, "first"), u.referrer(t, "x", top, "second")
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		list := []oci.Descriptor{}
		switch {
		case !strings.HasSuffix(r.URL.Path, top.Digest):
		case r.URL.Query().Get("last") == "":
			list = append(list, first)
			w.Header().Set("Link", "<"+r.URL.Path+"?last=1&n=1>; rel=\"next\"")
		default:
			list = append(list, second)
		}
		json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "manifests": list})
		return true
	})
	c := collect(t, wantImages(u.host+"/x:v1"), quick(t))
	if got := contents(t, c); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	c.Close()
	// One that never ends, and one that is listed and gone.
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/referrers/") {
			w.Header().Set("Link", "<"+r.URL.Path+"?last=1>; rel=\"next\"")
			json.NewEncoder(w).Encode(map[string]any{"manifests": []oci.Descriptor{}})
			return true
		}
		return false
	})
	c = collect(t, wantImages(u.host+"/x:v1"), quick(t))
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "pages of referrers") {
		t.Errorf("notes %q", c.Notes)
	}
	c.Close()
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/referrers/"+top.Digest) {
			json.NewEncoder(w).Encode(map[string]any{"manifests": []oci.Descriptor{{Digest: digests.SHA256(nil)}}})
			return true
		}
		return false
	})
	c = collect(t, wantImages(u.host+"/x:v1"), quick(t))
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "does not have it") {
		t.Errorf("notes %q", c.Notes)
	}
}

// A registry whose HEAD returns no digest, or that does not support HEAD, is asked with GET.
func TestTagsWithoutHead(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusMethodNotAllowed} {
		u := newUpstream(t)
		u.picture(t, "x", "v1", "linux/amd64", "layer")
		u.hook(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/manifests/v1") {
				w.WriteHeader(status)
				return true
			}
			return false
		})
		contents(t, collect(t, wantImages(u.host+"/x:v1"), quick(t)))
	}
}

// Content that does not have the requested digest is refused.
func TestWrongManifests(t *testing.T) {
	u := newUpstream(t)
	good := u.picture(t, "x", "v1", "linux/amd64", "layer")
	for what, body := range map[string]string{
		"another manifest": `{"schemaVersion":2,"layers":[]}`,
		"no JSON":          `<html>`,
		"neither":          `{}`,
		"bad digest":       `{"schemaVersion":2,"layers":[{"digest":"sha256:../../../x","size":1}]}`,
		"too large":        `{"schemaVersion":2,"layers":[],"x":"` + strings.Repeat("x", oci.MaxDocument) + `"}`,
		"endless index":    `{"schemaVersion":2,"manifests":[{"digest":"` + good.Digest + `","size":-1}]}`,
	} {
		u.hook(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/"+good.Digest) {
				io.WriteString(w, body)
				return true
			}
			return false
		})
		if _, err := Collect(t.Context(), wantImages(u.host+"/x@"+good.Digest), quick(t)); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	// The size in the manifest and the blob's do not fit.
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digests.SHA256([]byte("layer"))) {
			io.WriteString(w, "layer and more")
			return true
		}
		return false
	})
	if _, err := Collect(t.Context(), wantImages(u.host+"/x:v1"), quick(t)); err == nil ||
		!strings.Contains(err.Error(), "it must have 5") {
		t.Errorf("got %v", err)
	}
}
