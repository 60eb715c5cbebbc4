package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// reference returns an image's reference, as lists show it.
func reference(i Image) string {
	if i.Reference == "" {
		return i.Name + "@" + i.Digest.String()
	}
	return i.Name + ":" + i.Reference
}

// TestImagesAfter: from any image on, and for any prefix, the pages have what the whole list has, in its order.
func TestImagesAfter(t *testing.T) {
	s := newPusher(t)
	ctx := context.Background()
	for _, repo := range []string{"team/app", "team/app/1x", "team/app/sub", "team", "team/app-2",
		"docker.io/library/a"} {
		_, _, one := s.parts(repo, "one")
		_, _, two := s.parts(repo, "two")
		d1 := s.put(repo, "b", typeOCIManifest, one)
		s.put(repo, "a", typeOCIManifest, one)
		s.put(repo, "v1.10", typeOCIManifest, two)
		for i := range 2 {
			_, _, loose := s.parts(repo, fmt.Sprint("loose", i))
			s.put(repo, digest.FromString(loose).String(), typeOCIManifest, loose)
		}
		s.put(repo, "multi", typeOCIIndex, indexOf(typeOCIIndex, d1, digest.FromString("absent")))
	}
	s.push("team/app/blobs-only", "x")
	s.push("aaa/blobs-only", "x")
	var all []Image
	for i, err := range s.reg.Images(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, i)
	}
	if len(all) != 6*6 {
		t.Fatalf("%d images", len(all))
	}
	prefixes := []string{"", "t", "team", "team/", "team/app", "team/app:", "team/app:v1", "team/app/", "team/app@",
		"team/app@sha256:", "team/app@sha256:0", "none", "none/", "team//", "/", ":", "../x", "team/app:multi",
		"docker.io/"}
	for _, prefix := range prefixes {
		var want []Image
		for _, i := range all {
			if strings.HasPrefix(reference(i), prefix) {
				want = append(want, i)
			}
		}
		for from := 0; from <= len(want); from++ {
			after := ""
			if from > 0 {
				after = reference(want[from-1])
			}
			n := 0
			for i, err := range s.reg.ImagesAfter(ctx, prefix, after) {
				if err != nil {
					t.Fatal(err)
				}
				if from+n >= len(want) || fmt.Sprint(i) != fmt.Sprint(want[from+n]) {
					t.Fatalf("prefix %q after %q: element %d is %v", prefix, after, n, i)
				}
				n++
			}
			if n != len(want)-from {
				t.Errorf("prefix %q after %q: %d images, want %d", prefix, after, n, len(want)-from)
			}
		}
	}
	// A cursor whose image was deleted, or that is none, is a place in the order nevertheless.
	for after, want := range map[string]string{
		"team/app:c": "team/app:multi", "team/app-1:x": "team/app-2:a", "\x00": "docker.io/library/a:a",
		"team/app/none@sha256:1": "team/app/sub:a", "zzz:1": "",
	} {
		got := ""
		for i, err := range s.reg.ImagesAfter(ctx, "", after) {
			if err != nil {
				t.Fatal(err)
			}
			got = reference(i)
			break
		}
		if got != want {
			t.Errorf("after %q: %q, want %q", after, got, want)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range s.reg.ImagesAfter(ended, "", "") {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
	}

	// Each level has its elements once.
	for at, want := range map[string]string{
		"": "aaa/ docker.io/ team", "team": "app app-2", "team/app": "1x blobs-only/ sub",
		"docker.io": "library/", "docker.io/library": "a", "none": "", "team/app/_manifests": "", "..": "", "_x": "",
	} {
		var got []string
		for elem, repository := range s.reg.Level(at, "") {
			if !repository {
				elem += "/"
			}
			got = append(got, elem)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("level %q: %q, want %q", at, got, want)
		}
	}
	for elem := range s.reg.Level("team", "app") {
		if elem != "app-2" {
			t.Errorf("after app: %q", elem)
		}
		break
	}
}

// TestDetails: layers, platforms, what a config states, and what is attached.
func TestDetails(t *testing.T) {
	s := newPusher(t)
	ctx := context.Background()
	config := s.push("team/app",
		`{"os":"linux","architecture":"arm64","variant":"v8","created":"2026-01-02T03:04:05Z"}`)
	layer := s.push("team/app", "layer")
	text := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"%s","digest":"%s","size":85},`+
		`"layers":[{"mediaType":"a/layer","digest":"%s","size":5}]}`, typeImageConfig, config, layer)
	d := s.put("team/app", "v1", typeOCIManifest, text)
	s.put("team/app", "latest", typeOCIManifest, text)
	got, err := s.reg.Details(ctx, "team/app", d.String())
	if err != nil || got.Platform != "linux/arm64/v8" || got.Created.Format("2006-01-02") != "2026-01-02" ||
		len(got.Layers) != 1 || got.Layers[0] != (Content{layer.String(), "a/layer", 5, "", true}) ||
		got.Config == nil || got.Config.Digest != config.String() || got.Attached != nil || got.More {
		t.Errorf("%+v, %v", got, err)
	}
	if tags := slices.Collect(s.reg.TagsOf("team/app", d.String())); !slices.Equal(tags, []string{"latest", "v1"}) {
		t.Errorf("tags %q", tags)
	}

	_, _, sig := s.parts("team/app", "sig")
	signature := s.put("team/app", strings.Replace(d.String(), ":", "-", 1)+".sig", typeOCIManifest, sig)
	s.put("team/app", strings.Replace(d.String(), ":", "-", 1)+".other", typeOCIManifest, sig)
	empty := s.push("team/app", "{}")
	sbom := s.put("team/app", "sbom", typeOCIManifest, fmt.Sprintf(
		`{"schemaVersion":2,"artifactType":"application/spdx+json","config":{"digest":"%s","size":2},"layers":[],`+
			`"subject":{"digest":"%s","size":1}}`, empty, d))
	got, err = s.reg.Details(ctx, "team/app", d.String())
	if err != nil || !slices.Equal(got.Attached, []Attachment{
		{signature.String(), strings.Replace(d.String(), ":", "-", 1) + ".sig", "", "signature"},
		{sbom.String(), "", "application/spdx+json", "sbom"},
	}) {
		t.Errorf("%+v, %v", got.Attached, err)
	}
	got, err = s.reg.Details(ctx, "team/app", sbom.String())
	if err != nil || got.ArtifactType != "application/spdx+json" || got.Subject != d.String() {
		t.Errorf("%+v, %v", got, err)
	}

	index := s.put("team/app", "multi", typeOCIIndex, indexOf(typeOCIIndex, d, digest.FromString("absent")))
	got, err = s.reg.Details(ctx, "team/app", index.String())
	if err != nil || len(got.Manifests) != 2 || !got.Manifests[0].Stored || got.Manifests[1].Stored ||
		got.Manifests[0].Platform != "linux/arch0" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, c := range [][2]string{{"team/none", d.String()}, {"team/app", digest.FromString("x").String()},
		{"../x", d.String()}, {"team/app", "x"}} {
		if _, err := s.reg.Details(ctx, c[0], c[1]); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", c, err)
		}
	}
	for _, c := range [][2]string{{"v1", ""}, {"", d.String()}} {
		i, err := s.reg.ImageAt(ctx, "team/app", c[0], c[1])
		if err != nil || i.Digest != d || i.Size != s.size(d)+s.size(config)+s.size(layer) || i.Reference != c[0] {
			t.Errorf("%q: %+v, %v", c, i, err)
		}
	}
	if _, err := s.reg.ImageAt(ctx, "team/app", "none", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if !s.reg.HasLayer("team/app", layer.String()) || s.reg.HasLayer("team/x", layer.String()) {
		t.Error("layers are looked up in the wrong repository")
	}
}
