package registry

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

const (
	hex64 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	sha   = "sha256:" + hex64
	sha5  = "sha512:" + hex64 + hex64
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		method, path string
		kind         kind
		asked, rest  string // rest is the reference or the upload's id
		code         string
	}{
		{"GET", "/v2/", kindPing, "", "", ""},
		{"GET", "/v2", kindPing, "", "", ""},
		{"GET", "/token", kindToken, "", "", ""},
		{"GET", "/v2/_catalog", kindCatalog, "", "", ""},
		{"GET", "/v2/pause/tags/list", kindTags, "pause", "", ""},
		{"GET", "/v2/a/b/manifests/v1.0", kindManifest, "a/b", "v1.0", ""},
		{"GET", "/v2/a/manifests/" + sha, kindManifest, "a", sha, ""},
		{"GET", "/v2/a/manifests/sha256%3A" + hex64, kindManifest, "a", sha, ""},
		{"GET", "/v2/a/blobs/" + sha5, kindBlob, "a", sha5, ""},
		{"GET", "/v2/a/referrers/" + sha, kindReferrers, "a", sha, ""},
		{"POST", "/v2/a/blobs/uploads/", kindUploads, "a", "", ""},
		{"POST", "/v2/a/blobs/uploads", kindUploads, "a", "", ""},
		{"PUT", "/v2/a/blobs/uploads/0f-1", kindUpload, "a", "0f-1", ""},
		{"GET", "/v2/registry.k8s.io:443/pause/manifests/3.10", kindManifest, "registry.k8s.io:443/pause", "3.10", ""},
		// The words of the API in names.
		{"GET", "/v2/a/manifests/manifests/b", kindManifest, "a/manifests", "b", ""},
		{"GET", "/v2/blobs/uploads/manifests/b", kindManifest, "blobs/uploads", "b", ""},
		{"GET", "/v2/tags/list/tags/list", kindTags, "tags/list", "", ""},
		{"POST", "/v2/blobs/blobs/uploads/", kindUploads, "blobs", "", ""},
		{"GET", "/v2/manifests/manifests/manifests", kindManifest, "manifests", "manifests", ""},

		{"GET", "/", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2//manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a//b/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/../../etc/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a/%2e%2e/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a%2Fb/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a%5cb/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a%00/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a%252Fb/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/A/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a/_manifests/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/host:5000/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a/b:5000/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/host:port/a/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/host:123456/a/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a", 256) + "/manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a/", 2000) + "manifests/a", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a/manifests/.INVALID", 0, "", "", "MANIFEST_UNKNOWN"},
		{"PUT", "/v2/a/manifests/.INVALID", 0, "", "", "TAG_INVALID"},
		{"PUT", "/v2/a/manifests/" + strings.Repeat("a", 129), 0, "", "", "TAG_INVALID"},
		{"GET", "/v2/a/manifests/sha256:abc", 0, "", "", "DIGEST_INVALID"},
		{"GET", "/v2/a/manifests/sha256:" + strings.ToUpper(hex64), 0, "", "", "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/md5:" + hex64, 0, "", "", "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/v1", 0, "", "", "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/sha512:" + hex64, 0, "", "", "DIGEST_INVALID"},
		{"GET", "/v2/a/referrers/", 0, "", "", "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/uploads/../../x", 0, "", "", "NAME_INVALID"},
		{"GET", "/v2/a/blobs/uploads/xyz", 0, "", "", "BLOB_UPLOAD_UNKNOWN"},
		{"GET", "/v2/a/tags/list?ns=%00", 0, "", "", "NAME_INVALID"},
	} {
		rt, fail := parseRequest(httptest.NewRequest(c.method, c.path, nil))
		if c.code != "" {
			if fail == nil || fail.code != c.code {
				t.Errorf("%s %s: %v, want %s", c.method, c.path, fail, c.code)
			}
			continue
		}
		if fail != nil || rt.kind != c.kind || rt.asked != c.asked || rt.reference+rt.upload != c.rest {
			t.Errorf("%s %s: kind %d, name %q, rest %q, %v; want %d, %q, %q", c.method, c.path, rt.kind, rt.asked,
				rt.reference+rt.upload, fail, c.kind, c.asked, c.rest)
		}
	}
}

// The distribution-spec's own expressions; the hand-written ones are compared with them.
var (
	specName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func TestElements(t *testing.T) {
	for _, e := range []string{"", "a", "0", "a.b", "a..b", "a_b", "a__b", "a___b", "a-b", "a----b", "a-_b", "a_-b",
		"a._b", ".a", "a.", "-a", "a-", "_a", "a_", "a__", "A", "é", "a b", "a.b-c__d"} {
		if got, want := validElement(e), specName.MatchString(e); got != want {
			t.Errorf("%q is %v as an element, the specification says %v", e, got, want)
		}
	}
}

// A path and a view never cause a panic, and whatever is accepted has one canonical name that is valid and that means
// itself.
func FuzzName(f *testing.F) {
	for _, seed := range []string{"/v2/pause/manifests/3.10", "/v2/registry.k8s.io:443/pause/blobs/" + sha,
		"/v2/a/b/tags/list", "/v2/casemate.internal/casemate.internal/a/tags/list",
		"/v2/docker.io/nginx/manifests/latest", "/v2/a/%2e%2e/manifests/x", "/v2/a//manifests/x",
		"/v2/manifests/manifests/manifests", "/v2/a/blobs/uploads/0-0"} {
		for _, ns := range []string{"", "docker.io", "registry-1.docker.io:443", "[::1]:80", "casemate.internal",
			"..."} {
			f.Add(seed, ns, "", "registry.casemate.internal")
			f.Add(seed, ns, "docker.io", "docker.io")
		}
	}
	s := newShelf(f)
	reg := s.reg
	s.image("quay.io/calico/node", "1", "node")
	f.Fuzz(func(t *testing.T, path, ns, origin, host string) {
		u, err := url.Parse("http://h" + path)
		if err != nil {
			return
		}
		if ns != "" {
			u.RawQuery = "ns=" + url.QueryEscape(ns)
		}
		rt, fail := parseRequest(&http.Request{Method: "GET", URL: u})
		if fail != nil || rt.asked == "" {
			return
		}
		if rt.digest == "" && rt.reference != "" && !specTag.MatchString(rt.reference) {
			t.Fatalf("%s: tag %q", path, rt.reference)
		}
		if origin != "" {
			origin, _ = reg.fold("docker.io")
		}
		v := View{Origin: origin, Host: host}
		p, fail := reg.locate(rt.asked, rt.ns, v)
		if fail != nil {
			return
		}
		name := p.canonical()
		if !validName(name) || !specName.MatchString(name) {
			t.Fatalf("%s ns=%s: canonical name %q is not valid", path, ns, name)
		}
		own := View{Host: "registry.casemate.internal"}
		if origin == "" && !reg.own(p.origin, own) {
			again, fail := reg.locate(name, "", own)
			if fail != nil || again.canonical() != name {
				t.Fatalf("%s ns=%s on %q: %q means %q when it is asked for, %v", path, ns, host, name,
					again.canonical(), fail)
			}
		}
		rt.place, rt.view, rt.repo = p, v, name
		candidates := reg.repositories(rt)
		for group := range reg.tolerated(p) {
			candidates = append(candidates, group...)
		}
		for _, repo := range candidates {
			if !fs.ValidPath(repoDir(repo)) || !validName(repo) || rt.reference != "" && !fs.ValidPath(rt.link(repo)) {
				t.Fatalf("%s: candidate %q", path, repo)
			}
		}
		reg.Serve(httptest.NewRecorder(), &http.Request{Method: "GET", URL: u, Host: host, Header: http.Header{}}, v)
	})
}
