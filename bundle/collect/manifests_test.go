package collect

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/oci"
)

// tag is the form of a digest in a tag.
func tag(digest string) string { return strings.Replace(digest, ":", "-", 1) }

func TestPlatformsKeepTheIndex(t *testing.T) {
	u := newUpstream(t, registry.WithReferrersSupport(true))
	amd := u.picture(t, "x", "", "linux/amd64", "amd")
	arm7 := u.picture(t, "x", "", "linux/arm/v7", "arm7")
	arm64 := u.picture(t, "x", "", "linux/arm64/v8", "arm64")
	attest := func(of oci.Descriptor) oci.Descriptor {
		d := u.picture(t, "x", "", "unknown/unknown", "attestation of "+of.Digest)
		d.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
		d.Annotations = map[string]string{
			"vnd.docker.reference.digest": of.Digest,
			"vnd.docker.reference.type":   "attestation-manifest",
		}
		return d
	}
	ofAMD, ofARM := attest(amd), attest(arm64)
	top := u.list(t, "x", "v1", amd, arm7, arm64, ofAMD, ofARM)
	all := []string{"linux/amd64", "linux/arm/v7", "linux/arm64/v8"}
	for _, tt := range []struct {
		asked    []string
		plain    bool
		want     []string // platforms
		children []oci.Descriptor
		sparse   bool
	}{
		{nil, false, all, []oci.Descriptor{amd, arm7, arm64, ofAMD, ofARM}, false},
		{[]string{"linux/amd64"}, false, all[:1], []oci.Descriptor{amd, ofAMD}, true},
		{[]string{"linux/amd64"}, true, all[:1], []oci.Descriptor{amd}, true},
		{[]string{"linux/arm64", "linux/s390x"}, false, all[2:], []oci.Descriptor{arm64, ofARM}, true},
		{[]string{"linux/aarch64/v8", "linux/arm"}, false, all[1:], []oci.Descriptor{arm7, arm64, ofARM}, true},
		{[]string{"linux/arm/v6", "linux/x86_64"}, false, all[:1], []oci.Descriptor{amd, ofAMD}, true},
	} {
		opt := quick(t)
		opt.Platforms, opt.NoReferrers = tt.asked, tt.plain
		c := collect(t, wantImages(u.host+"/x:v1"), opt)
		var want []string
		for _, d := range tt.children {
			want = append(want, u.host+"/x@"+d.Digest)
		}
		slices.Sort(want)
		if got := contents(t, c); !slices.Equal(got, append(want, u.host+"/x:v1")) {
			t.Errorf("%v: got\n%s\nwant\n%s", tt.asked, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		m := c.Index.Images[len(c.Index.Images)-1]
		if m.Digest != top.Digest || m.Sparse != tt.sparse || !slices.Equal(m.Platforms, tt.want) {
			t.Errorf("%v: got %+v", tt.asked, m)
		}
		if missing := slices.Contains(tt.asked, "linux/s390x"); missing != strings.Contains(
			strings.Join(c.Notes, "\n"),
			"nothing for linux/s390x",
		) {
			t.Errorf("%v: notes %q", tt.asked, c.Notes)
		}
	}
	opt := quick(t)
	opt.Platforms = []string{"windows/amd64"}
	_, err := Collect(t.Context(), wantImages(u.host+"/x:v1"), opt)
	if err == nil ||
		!strings.Contains(
			err.Error(),
			"images.list:1: "+u.host+"/x:v1: it is not for windows/amd64, but for linux/amd64, linux/arm/v7, "+
				"linux/arm64/v8",
		) {
		t.Errorf("got %v", err)
	}
	opt = quick(t)
	opt.Platforms = []string{"linux"}
	if _, err := Collect(t.Context(), wantImages(u.host+"/x:v1"), opt); err == nil ||
		!strings.Contains(err.Error(), "OS/ARCH") {
		t.Errorf("got %v", err)
	}
}

func TestSinglePlatform(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "layer")
	opt := quick(t)
	c := collect(t, wantImages(u.host+"/x:v1"), opt)
	if m := c.Index.Images[0]; !slices.Equal(m.Platforms, []string{"linux/amd64"}) || m.Sparse {
		t.Errorf("got %+v", m)
	}
	c.Close()
	opt.Platforms = []string{"linux/arm64"}
	_, err := Collect(t.Context(), wantImages(u.host+"/x:v1"), opt)
	if err == nil || !strings.Contains(err.Error(), "it is for linux/amd64 only, not for linux/arm64") {
		t.Errorf("got %v", err)
	}
}

// referrer puts a manifest that refers to another.
func (u *upstream) referrer(t *testing.T, repo string, subject oci.Descriptor, what string) oci.Descriptor {
	t.Helper()
	c := u.blob(t, repo, []byte("{}"))
	c.MediaType = "application/vnd.oci.empty.v1+json"
	subject.Platform, subject.Annotations = nil, nil
	return u.manifest(
		t,
		repo,
		"",
		plain(
			oci.ManifestDocument{
				SchemaVersion: 2,
				MediaType:     oci.MediaTypeManifest,
				Config:        &c,
				Layers:        []oci.Descriptor{u.blob(t, repo, []byte(what))},
				Subject:       &subject,
			},
		),
	)
}

func TestSignaturesComeAlong(t *testing.T) {
	for _, api := range []bool{true, false} {
		u := newUpstream(t, registry.WithReferrersSupport(api))
		amd := u.picture(t, "x", "", "linux/amd64", "amd")
		arm := u.picture(t, "x", "", "linux/arm64", "arm")
		top := u.list(t, "x", "v1", amd, arm)
		sbom := u.referrer(t, "x", amd, "sbom")
		ofSBOM := u.referrer(t, "x", sbom, "signature of the sbom")
		ofARM := u.referrer(t, "x", arm, "not asked for")
		u.picture(t, "x", tag(top.Digest)+".sig", "linux/amd64", "cosign")
		u.picture(t, "x", tag(amd.Digest)+".att", "linux/amd64", "attestation")
		want := []string{"@" + amd.Digest, "@" + sbom.Digest, "@" + ofSBOM.Digest}
		if !api {
			u.list(t, "x", tag(amd.Digest), sbom)
			u.list(t, "x", tag(sbom.Digest), ofSBOM)
			u.list(t, "x", tag(arm.Digest), ofARM)
		}
		slices.Sort(want)
		tags := []string{":" + tag(amd.Digest) + ".att", ":" + tag(top.Digest) + ".sig", ":v1"}
		if !api {
			tags = append(tags, ":"+tag(amd.Digest), ":"+tag(sbom.Digest))
		}
		slices.Sort(tags)
		want = append(want, tags...)
		opt := quick(t)
		opt.Platforms = []string{"linux/amd64"}
		c := collect(t, wantImages(u.host+"/x:v1"), opt)
		var got []string
		for _, n := range contents(t, c) {
			got = append(got, strings.TrimPrefix(n, u.host+"/x"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("api %v: got\n%s\nwant\n%s", api, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if n := u.count("GET", "/referrers/"); !api && n != 1 {
			t.Errorf("a registry without the API was asked %d times", n)
		}
		opt = quick(t)
		opt.NoReferrers, opt.Platforms = true, []string{"linux/amd64"}
		if got := contents(t, collect(t, wantImages(u.host+"/x:v1"), opt)); len(got) != 2 {
			t.Errorf("without referrers: got %v", got)
		}
	}
}

func TestPinnedDigest(t *testing.T) {
	u := newUpstream(t)
	old := u.picture(t, "x", "v1", "linux/amd64", "old")
	now := u.picture(t, "x", "v1", "linux/amd64", "new")
	opt := quick(t)
	w := wantImages(u.host + "/x:v1@" + old.Digest)
	c := collect(t, w, opt)
	if m := c.Index.Images[0]; m.Tag != "v1" || m.Digest != old.Digest {
		t.Errorf("got %+v", m)
	}
	if len(c.Notes) != 1 ||
		!strings.Contains(c.Notes[0], "the tag v1 is now "+now.Digest+"; the pinned digest is collected") {
		t.Errorf("notes %q", c.Notes)
	}
	c.Close()
	u.forget()
	opt.NoReferrers = true
	collect(t, w, opt)
	if n := u.count("/v2/x/"); n != 0 {
		t.Errorf("pinned and cached content was requested %d times", n)
	}
}

func TestEveryFailureIsListed(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "good", "v1", "linux/amd64", "layer")
	u.picture(t, "lost", "v1", "linux/amd64", "lost layer")
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/lost/blobs/"+digests.SHA256([]byte("lost layer"))):
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"it is gone"}]}`, http.StatusNotFound)
		case strings.Contains(r.URL.Path, "/old/manifests/"):
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			fmt.Fprint(w, `{"schemaVersion":1,"name":"old","fsLayers":[]}`)
		case strings.Contains(r.URL.Path, "/private/"):
			http.Error(w, `{"errors":[{"code":"DENIED","message":"requested access is denied"}]}`, http.StatusForbidden)
		default:
			return false
		}
		return true
	})
	opt := quick(t)
	_, err := Collect(
		t.Context(),
		wantImages(u.host+"/good:v1", u.host+"/lost:v1", u.host+"/none:v1", u.host+"/old:v1", u.host+"/private:v1"),
		opt,
	)
	var ce *Error
	if !errors.As(err, &ce) || len(ce.Failed) != 4 || ce.Names != 5 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"4 of 5 names", "images.list:2: " + u.host + "/lost:v1: blob sha256:", "404 Not Found: it is gone",
		"images.list:3: " + u.host + "/none:v1: ", "schema 1", "docker login " + u.host,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not contain %q:\n%v", want, err)
		}
	}
	// Received content is cached.
	u.hook(nil)
	u.forget()
	collect(t, wantImages(u.host+"/good:v1", u.host+"/lost:v1"), opt)
	if n := u.count("GET", "/blobs/"); n != 1 {
		t.Errorf("%d blobs fetched, only one was missing", n)
	}
}

func TestForeignLayers(t *testing.T) {
	u := newUpstream(t)
	c := u.blob(t, "x", []byte(`{"os":"windows","architecture":"amd64"}`))
	c.MediaType = oci.MediaTypeConfig
	foreign := oci.Descriptor{
		MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		Digest:    digests.SHA256([]byte("elsewhere")),
		Size:      9,
		URLs:      []string{u.URL + "/layer"},
	}
	u.manifest(
		t,
		"x",
		"v1",
		plain(
			oci.ManifestDocument{
				SchemaVersion: 2,
				MediaType:     oci.MediaTypeManifest,
				Config:        &c,
				Layers:        []oci.Descriptor{foreign},
			},
		),
	)
	opt := quick(t)
	got := collect(t, wantImages(u.host+"/x:v1"), opt)
	if len(got.Index.Blobs) != 2 || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], u.URL+"/layer") {
		t.Errorf("got %+v, notes %q", got.Index.Blobs, got.Notes)
	}
	got.Close()
	u.blob(t, "x", []byte("elsewhere"))
	if got := collect(t, wantImages(u.host+"/x:v1"), opt); len(got.Index.Blobs) != 3 || len(got.Notes) != 0 {
		t.Errorf("the registry has it now, got %+v, notes %q", got.Index.Blobs, got.Notes)
	}
}

func TestHeldBlobsAreOmitted(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "held", "new")
	opt := quick(t)
	opt.Since = digests.SHA256([]byte("inventory"))
	opt.Have = func(d string) bool { return d == digests.SHA256([]byte("held")) }
	c := collect(t, wantImages(u.host+"/x:v1"), opt)
	contents(t, c)
	if n := u.count("GET", "/blobs/"+digests.SHA256([]byte("held"))); n != 0 {
		t.Errorf("a cached blob was fetched")
	}
	if b, _ := c.Index.Blob(digests.SHA256([]byte("held"))); !b.Omitted || c.Index.Since != opt.Since {
		t.Errorf("got %+v since %s", b, c.Index.Since)
	}
	opt.Since = ""
	if _, err := Collect(t.Context(), &lists.Wanted{}, opt); err == nil {
		t.Error("Have without Since was taken")
	}
}

func TestDryRunFetchesNoLayer(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "layer", "another layer")
	opt := quick(t)
	opt.DryRun = true
	c := collect(t, wantImages(u.host+"/x:v1"), opt)
	if want := int64(len("layer") + len("another layer")); c.Fetched != want {
		t.Errorf("%d bytes would be fetched, want %d", c.Fetched, want)
	}
	if n := u.count("GET", "/blobs/"); n != 1 {
		t.Errorf("%d blobs fetched, only the config may be", n)
	}
	if m := c.Index.Images[0]; m.Size < c.Fetched {
		t.Errorf("got %+v", m)
	}
}

// login writes Docker's config with a password for a host.
func login(t *testing.T, host, user, password string) {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host,
		auth), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

func TestCredentialsOfDockersConfig(t *testing.T) {
	for _, scheme := range []string{"basic", "bearer"} {
		t.Run(scheme, func(t *testing.T) {
			u := newUpstream(t)
			u.picture(t, "x", "v1", "linux/amd64", "layer")
			// Blobs are redirected to another host, as the large registries do. It must never see a password.
			elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					t.Errorf("another host got Authorization %q", r.Header.Get("Authorization"))
				}
				u.handler.ServeHTTP(w, r)
			}))
			defer elsewhere.Close()
			u.hook(func(w http.ResponseWriter, r *http.Request) bool {
				user, password, basic := r.BasicAuth()
				right := basic && user == "me" && password == "secret"
				switch {
				case r.URL.Path == "/token" && right && r.URL.Query().Get("scope") == "repository:x:pull":
					fmt.Fprint(w, `{"token":"T"}`)
				case r.URL.Path == "/token":
					http.Error(w, "no", http.StatusUnauthorized)
				case scheme == "basic" && !right:
					w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
					w.WriteHeader(http.StatusUnauthorized)
				case scheme == "bearer" && r.Header.Get("Authorization") != "Bearer T":
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+u.URL+`/token",service="here"`)
					w.WriteHeader(http.StatusUnauthorized)
				case strings.Contains(r.URL.Path, "/blobs/"):
					http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
				default:
					return false
				}
				return true
			})
			opt := quick(t)
			login(t, u.host, "me", "secret")
			contents(t, collect(t, wantImages(u.host+"/x:v1"), opt))
			opt = quick(t)
			login(t, u.host, "me", "wrong")
			if _, err := Collect(t.Context(), wantImages(u.host+"/x:v1"), opt); err == nil ||
				!strings.Contains(err.Error(), "docker login "+u.host) ||
				strings.Contains(err.Error(), "wrong") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPlainHTTPOnlyHere(t *testing.T) {
	opt := quick(t)
	opt.Transport = answer(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "https" {
			return nil, http.ErrSchemeMismatch
		}
		t.Errorf("sent %s without TLS", r.URL)
		return nil, http.ErrSchemeMismatch
	})
	if _, err := Collect(t.Context(), wantImages("10.0.0.1:5000/x:v1"), opt); err == nil ||
		!strings.Contains(err.Error(), "without TLS") {
		t.Errorf("got %v", err)
	}
}

// answer is a RoundTripper.
type answer func(*http.Request) (*http.Response, error)

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// What is optional and is not there is left out with a note.
func TestOptional(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "good", "v1", "linux/amd64", "layer")
	opt := quick(t)
	w := wantImages(u.host+"/good:v1", u.host+"/none:v1")
	w.Images[1].Optional = true
	w.Files = []lists.File{{URL: u.URL + "/none.txt", Optional: true}}
	c := collect(t, w, opt)
	if len(c.Index.Images) != 1 || len(c.Index.Files) != 0 || len(c.Notes) != 2 ||
		!strings.Contains(c.Notes[0]+c.Notes[1], u.host+"/none:v1 is left out because it is optional") {
		t.Errorf("got %+v, notes %q", c.Index, c.Notes)
	}
}
