package collect

import (
	"slices"
	"strings"
	"testing"

	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// TestRegistryOverride: with access to a mirror only, content is collected under the upstreams' names.
func TestRegistryOverride(t *testing.T) {
	in := newInternet(t, "CONNECT (docker.io|quay.io) 403")
	m := in.at("mirror.example")
	m.picture(t, "hub/library/nginx", "1", "linux/amd64", "nginx")
	top := m.picture(t, "hub/team/app", "1", "linux/amd64", "app")
	m.picture(t, "hub/team/app", tag(top.Digest)+".sig", "linux/amd64", "signature")
	m.picture(t, "elsewhere/x", "1", "linux/amd64", "x")
	in.at("registry.k8s.io").picture(t, "pause", "1", "linux/amd64", "pause")
	opt := in.options(t)
	opt.RegistryOverrides = []string{
		"index.docker.io=mirror.example/hub",
		"docker.io/special=mirror.example/elsewhere",
		"quay.io/=mirror.example/none/",
	}
	c := collect(
		t,
		wantImages(
			"docker.io/library/nginx:1",
			"docker.io/team/app:1",
			"docker.io/special/x:1",
			"registry.k8s.io/pause:1",
		),
		opt,
	)
	want := []string{
		"docker.io/library/nginx:1",
		"docker.io/special/x:1",
		"docker.io/team/app:" + tag(top.Digest) + ".sig",
		"docker.io/team/app:1",
		"registry.k8s.io/pause:1",
	}
	got := contents(t, c)
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for _, i := range c.Index.Images {
		if from := map[bool]string{true: "mirror.example/", false: ""}[strings.HasPrefix(i.Repository,
			"docker.io")]; !strings.HasPrefix(
			i.From,
			from,
		) ||
			from == "" && i.From != "" {
			t.Errorf("%s came from %q", i.Ref(), i.From)
		}
	}
	if n := in.count("^CONNECT docker.io"); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	for _, bad := range []string{"docker.io", "docker.io=", "=mirror.example", "docker.io=mirror",
		"https://docker.io=mirror.example"} {
		opt := in.options(t)
		opt.RegistryOverrides = []string{bad}
		if _, err := Collect(t.Context(), wantImages("docker.io/library/nginx:1"), opt); err == nil ||
			!strings.Contains(err.Error(), "UPSTREAM=MIRROR") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
	opt.RegistryOverrides = []string{"docker.io=a.example", "registry-1.docker.io=b.example"}
	if _, err := newCollector(opt); err == nil || !strings.Contains(err.Error(), "two registry overrides") {
		t.Errorf("got %v", err)
	}
}

// TestForeignLayersFromTheirURLs: they are fetched from the registry, or from their own URLs; an unavailable one is
// left out with a note.
func TestForeignLayersFromTheirURLs(t *testing.T) {
	for _, tt := range []struct {
		rule string
		here bool
	}{
		{"GET nowhere.example 404", true},
		{"* /v2/x/blobs/FOREIGN 404", true},
		{"* /v2/x/blobs/FOREIGN 500", true},
		{"HEAD /foreign 405", true},
		{"GET /foreign flip once", true},
		{"* /foreign 404", false},
		{"CONNECT ms.example 403", false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			foreign := oci.Descriptor{
				MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
				Digest:    digests.SHA256([]byte("foreign layer")),
				Size:      13,
				URLs: []string{
					"ftp://ms.example/foreign",
					"https://ms.example/gone",
					"https://ms.example/foreign",
				},
			}
			in := newInternet(t, strings.ReplaceAll(tt.rule, "FOREIGN", foreign.Digest))
			in.serve("https://ms.example/foreign", "foreign layer")
			u := in.at("mcr.example")
			config := u.blob(t, "x", []byte(`{"os":"windows","architecture":"amd64"}`))
			config.MediaType = oci.MediaTypeDockerConfig
			u.manifest(
				t,
				"x",
				"1",
				plain(
					oci.ManifestDocument{
						SchemaVersion: 2,
						MediaType:     oci.MediaTypeDockerManifest,
						Config:        &config,
						Layers:        []oci.Descriptor{foreign, u.blob(t, "x", []byte("layer"))},
					},
				),
			)
			c := collect(t, wantImages("mcr.example/x:1"), in.options(t))
			contents(t, c)
			if _, here := c.Index.Blob(foreign.Digest); here != tt.here || here == (len(c.Notes) > 0) {
				t.Errorf("here %v, notes %q", here, c.Notes)
			}
		})
	}
}
