package collect

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// TestIndexOfAnything: every entry of an index that the registry has is collected, by its real kind.
func TestIndexOfAnything(t *testing.T) {
	const unknown, cache = "application/vnd.example.thing+x", "application/vnd.buildkit.cacheconfig.v0"
	for _, tt := range []struct {
		name string
		put  func(t *testing.T, u *upstream) []oci.Descriptor // the entries of the index
		want int                                              // names besides the index
	}{
		{"a build cache", func(t *testing.T, u *upstream) []oci.Descriptor {
			config := u.blob(t, "x", []byte(`{"layers":[{"blob":"sha256:1","parent":-1}]}`))
			config.MediaType = cache
			return []oci.Descriptor{u.blob(t, "x", []byte("one")), u.blob(t, "x", []byte("two")), config}
		}, 0},
		{"blobs and images", func(t *testing.T, u *upstream) []oci.Descriptor {
			return []oci.Descriptor{u.blob(t, "x", []byte("one")), u.picture(t, "x", "", "linux/amd64", "amd"),
				u.blob(t,
					"x", []byte("two"))}
		}, 1},
		{"a blob of an unknown type", func(t *testing.T, u *upstream) []oci.Descriptor {
			d := u.blob(t, "x", []byte("one"))
			d.MediaType = unknown
			return []oci.Descriptor{d}
		}, 0},
		{"a blob without a type", func(t *testing.T, u *upstream) []oci.Descriptor {
			d := u.blob(t, "x", []byte("one"))
			d.MediaType = ""
			return []oci.Descriptor{d}
		}, 0},
		{"a manifest of an unknown type", func(t *testing.T, u *upstream) []oci.Descriptor {
			d := u.picture(t, "x", "", "linux/amd64", "amd")
			d.MediaType, d.Platform = unknown, nil
			return []oci.Descriptor{d}
		}, 1},
		{"an index in an index in an index", func(t *testing.T, u *upstream) []oci.Descriptor {
			d := u.picture(t, "x", "", "linux/amd64", "amd")
			return []oci.Descriptor{u.list(t, "x", "", u.list(t, "x", "", d, u.blob(t, "x", []byte("one"))))}
		}, 3},
		{"embedded in its descriptor", func(t *testing.T, u *upstream) []oci.Descriptor {
			return []oci.Descriptor{{MediaType: unknown, Digest: digests.SHA256([]byte("data")), Size: 4,
				Data: []byte("data")}}
		}, 0},
		{"an artifact whose config is embedded in its descriptor", func(t *testing.T, u *upstream) []oci.Descriptor {
			config := oci.Descriptor{MediaType: "application/vnd.oci.empty.v1+json",
				Digest: digests.SHA256([]byte("{}")),
				Size:   2, Data: []byte("{}")}
			return []oci.Descriptor{u.manifest(t, "x", "", plain(oci.ManifestDocument{SchemaVersion: 2,
				MediaType: oci.MediaTypeManifest, Config: &config, Layers: []oci.Descriptor{u.blob(t, "x",
					[]byte("one"))}}))}
		}, 1},
		{"an artifact manifest", func(t *testing.T, u *upstream) []oci.Descriptor {
			return []oci.Descriptor{u.manifest(t, "x", "", map[string]any{"mediaType": oci.MediaTypeArtifact,
				"artifactType": "a/b",
				"blobs":        []oci.Descriptor{u.blob(t, "x", []byte("one"))}})}
		}, 1},
		{"a manifest among the layers", func(t *testing.T, u *upstream) []oci.Descriptor {
			inner := u.picture(t, "x", "", "linux/amd64", "amd")
			config := u.blob(t, "x", []byte("{}"))
			return []oci.Descriptor{u.manifest(t, "x", "", plain(oci.ManifestDocument{SchemaVersion: 2,
				MediaType: oci.MediaTypeManifest, Config: &config, Layers: []oci.Descriptor{inner}}))}
		}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpstream(t)
			listed := tt.put(t, u)
			u.list(t, "x", "v1", listed...)
			opt := quick(t)
			var first []byte
			for range 2 { // with an empty cache, and with a full one
				c := collect(t, wantImages(u.host+"/x:v1"), opt)
				names := contents(t, c)
				if len(names) != tt.want+1 || len(c.Notes) != 0 || c.Index.Images[len(names)-1].Sparse {
					t.Errorf("got %v, notes %q", names, c.Notes)
				}
				for _, d := range listed {
					if _, ok := c.Index.Blob(d.Digest); !ok {
						t.Errorf("it misses %s %s", d.MediaType, d.Digest)
					}
				}
				b, err := c.Index.Encode()
				if err != nil || first != nil && string(b) != string(first) {
					t.Errorf("the second time it is another index: %v\n%s\n%s", err, first, b)
				}
				first = b
				c.Close()
			}
		})
	}
}

// TestNestedPlatforms: the choice of platforms goes down all levels, and only what leads nowhere is refused.
func TestNestedPlatforms(t *testing.T) {
	u := newUpstream(t)
	amd, arm := u.picture(t, "x", "", "linux/amd64", "amd"), u.picture(t, "x", "", "linux/arm64", "arm")
	inner := u.list(t, "x", "", amd, arm)
	u.list(t, "x", "nested", u.list(t, "x", "", inner))
	blob := u.blob(t, "x", []byte("one"))
	about := u.picture(t, "x", "", "unknown/unknown", "attestation")
	about.Platform, about.Annotations = &oci.Platform{OS: "unknown", Architecture: "unknown"},
		map[string]string{"vnd.docker.reference.digest": amd.Digest}
	u.list(t, "x", "mixed", blob, about, arm, amd) // a blob before a manifest with annotations
	opt := quick(t)
	opt.Platforms = []string{"linux/amd64"}
	for ref, want := range map[string][]string{"nested": {amd.Digest}, "mixed": {about.Digest, amd.Digest,
		blob.Digest}} {
		c := collect(t, wantImages(u.host+"/x:"+ref), opt)
		top := c.Index.Images[len(c.Index.Images)-1]
		if len(c.Notes) != 0 || !top.Sparse || !slices.Equal(top.Platforms, []string{"linux/amd64"}) {
			t.Errorf("%s: got %+v, notes %q", ref, top, c.Notes)
		}
		for _, d := range want {
			if _, ok := c.Index.Blob(d); !ok {
				t.Errorf("%s: it misses %s", ref, d)
			}
		}
		if _, ok := c.Index.Blob(arm.Digest); ok {
			t.Errorf("%s: it has arm64", ref)
		}
		c.Close()
	}
	opt.Platforms = []string{"linux/s390x"}
	if _, err := Collect(t.Context(), wantImages(u.host+"/x:nested"), opt); err == nil || !strings.Contains(err.Error(),
		"it is not for linux/s390x, but for linux/amd64, linux/arm64") {
		t.Errorf("got %v", err)
	}
	opt.Platforms = []string{"linux/amd64", "linux/s390x"}
	c := collect(t, wantImages(u.host+"/x:nested"), opt)
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "it has nothing for linux/s390x") {
		t.Errorf("notes %q", c.Notes)
	}
}

// TestWrongSizesAreTaken: wrong sizes in descriptors are kept and reported; the bundle has the bytes.
func TestWrongSizesAreTaken(t *testing.T) {
	lie := func(d oci.Descriptor, size int64) oci.Descriptor { d.Size = size; return d }
	for _, tt := range []struct {
		name string
		put  func(t *testing.T, u *upstream) (of oci.Descriptor) // tags v1
		note string
	}{
		{"a child", func(t *testing.T, u *upstream) oci.Descriptor {
			d := u.picture(t, "x", "", "linux/amd64", "amd")
			u.list(t, "x", "v1", lie(d, d.Size+1))
			return d
		}, "containerd refuses it"},
		{"a blob of an index", func(t *testing.T, u *upstream) oci.Descriptor {
			d := u.blob(t, "x", []byte("one"))
			u.list(t, "x", "v1", lie(d, 2))
			return d
		}, "has 2 bytes, it has 3"},
		{"a layer", func(t *testing.T, u *upstream) oci.Descriptor {
			d, config := u.blob(t, "x", []byte("one")), u.blob(t, "x", []byte("{}"))
			u.manifest(t, "x", "v1", plain(oci.ManifestDocument{SchemaVersion: 2, MediaType: oci.MediaTypeManifest,
				Config: &config, Layers: []oci.Descriptor{lie(d, 4)}}))
			return d
		}, "has 4 bytes, it has 3"},
		{"a config", func(t *testing.T, u *upstream) oci.Descriptor {
			config := u.blob(t, "x", []byte(`{"os":"linux","architecture":"amd64"}`))
			config.MediaType = oci.MediaTypeConfig
			doc := lie(config, 3)
			u.manifest(t, "x", "v1", plain(oci.ManifestDocument{SchemaVersion: 2, MediaType: oci.MediaTypeManifest,
				Config: &doc,
				Layers: []oci.Descriptor{}}))
			return config
		}, "has 3 bytes"},
		{"two that differ", func(t *testing.T, u *upstream) oci.Descriptor {
			d, config := u.blob(t, "x", []byte("one")), u.blob(t, "x", []byte("{}"))
			image := func(size int64) oci.Descriptor {
				return u.manifest(t, "x", "", plain(oci.ManifestDocument{SchemaVersion: 2,
					MediaType: oci.MediaTypeManifest,
					Config:    &config, Layers: []oci.Descriptor{lie(d, size)}}))
			}
			u.list(t, "x", "v1", image(9), image(3))
			return d
		}, "has 9 bytes, it has 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpstream(t)
			d := tt.put(t, u)
			opt := quick(t)
			for range 2 {
				c := collect(t, wantImages(u.host+"/x:v1"), opt)
				contents(t, c)
				if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], d.Digest) || !strings.Contains(c.Notes[0],
					tt.note) {
					t.Errorf("notes %q", c.Notes)
				}
				if b, ok := c.Index.Blob(d.Digest); !ok || b.Size != d.Size {
					t.Errorf("got %+v, want %d bytes", b, d.Size)
				}
				c.Close()
				u.forget()
			}
			if n := u.count("GET", "/blobs/"); n != 0 {
				t.Errorf("%d blobs were fetched again", n)
			}
		})
	}
	// Two images that say different sizes of one layer are both taken.
	u := newUpstream(t)
	d, config := u.blob(t, "x", []byte("one")), u.blob(t, "x", []byte("{}"))
	for reference, size := range map[string]int64{"v1": 3, "v2": 8} {
		u.manifest(t, "x", reference, plain(oci.ManifestDocument{SchemaVersion: 2, MediaType: oci.MediaTypeManifest,
			Config: &config, Layers: []oci.Descriptor{lie(d, size)}}))
	}
	c := collect(t, wantImages(u.host+"/x:v1", u.host+"/x:v2"), quick(t))
	if names := contents(t, c); len(names) != 2 || len(c.Notes) != 1 {
		t.Errorf("got %v, notes %q", names, c.Notes)
	}
}

// An entry that the registry has neither as a manifest nor as a blob is a failure that names it; one that is a blob
// where HEAD is refused is taken.
func TestIndexEntryThatIsNotThere(t *testing.T) {
	u := newUpstream(t)
	absent := oci.Descriptor{MediaType: "application/vnd.example", Digest: digests.SHA256([]byte("absent")), Size: 6}
	u.list(t, "x", "v1", absent)
	if _, err := Collect(t.Context(), wantImages(u.host+"/x:v1"), quick(t)); err == nil ||
		!strings.Contains(err.Error(), absent.Digest) {
		t.Errorf("got %v", err)
	}
	u.list(t, "x", "v2", u.blob(t, "x", []byte("one")))
	u.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		return false
	})
	contents(t, collect(t, wantImages(u.host+"/x:v2"), quick(t)))
}
