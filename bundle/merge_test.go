package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"casemate/bundle/oci"
)

// store makes content by digest.
type store map[string][]byte

func (s store) put(data []byte) Blob {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	s[digest] = data
	return Blob{Digest: digest, Size: int64(len(data))}
}

func (s store) open(digest string) (io.ReadCloser, error) {
	data, ok := s[digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// manifest returns an image's manifest, and the blobs that it needs with it.
func (s store) manifest(t *testing.T, text string) (Blob, []Blob) {
	t.Helper()
	config, layer := s.put([]byte("config "+text)), s.put([]byte("layer"))
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeManifest,
		"config": map[string]any{"mediaType": oci.MediaTypeConfig, "digest": config.Digest, "size": config.Size},
		"layers": []any{map[string]any{"mediaType": "a/b", "digest": layer.Digest, "size": layer.Size}}})
	if err != nil {
		t.Fatal(err)
	}
	m := s.put(data)
	return m, []Blob{m, config, layer}
}

// TestMerge: two nodes of different processors pulled one image: the bundle of both has it for both.
func TestMerge(t *testing.T) {
	s := store{}
	amd, amdBlobs := s.manifest(t, "amd64")
	arm, armBlobs := s.manifest(t, "arm64")
	var list []any
	for _, m := range []Blob{amd, arm} {
		list = append(list, map[string]any{"mediaType": oci.MediaTypeManifest, "digest": m.Digest, "size": m.Size})
	}
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": list})
	if err != nil {
		t.Fatal(err)
	}
	index := s.put(data)
	part := func(name, platform string, m Blob, blobs []Blob) Part {
		ix := &Index{Version: IndexVersion, Blobs: append(slices.Clone(blobs), index)}
		for tag, b := range map[string]Blob{"1": index, "": m} {
			ix.Images = append(ix.Images, Image{Repository: "quay.io/a/b", Tag: tag, Digest: b.Digest,
				MediaType: oci.MediaTypeIndex, Platforms: []string{platform}, Sparse: tag != "", Size: 10})
		}
		f := s.put([]byte("file of both"))
		ix.Files, ix.Blobs = []File{{URL: "https://a.example/f", Digest: f.Digest, Size: f.Size}}, append(ix.Blobs, f)
		ix.Redirects = []Redirect{{"https://a.example/r", "https://a.example/f"}}
		ix.Absent = []Absent{{Name: "https://a.example/absent", Why: "404"}}
		return Part{name, ix}
	}
	one, two := part("one", "linux/amd64", amd, amdBlobs), part("two", "linux/arm64", arm, armBlobs)
	ix, conflicts, differ, err := Merge([]Part{one, two}, s.open)
	if err != nil || len(conflicts)+len(differ) > 0 {
		t.Fatal(err, conflicts, differ)
	}
	if _, err := ix.Encode(); err != nil {
		t.Fatal(err)
	}
	if len(ix.Images) != 3 || len(ix.Files) != 1 || len(ix.Redirects) != 1 || len(ix.Absent) != 1 ||
		len(ix.Blobs) != 7 {
		t.Fatalf("%+v", ix)
	}
	i := ix.Images[slices.IndexFunc(ix.Images, func(i Image) bool { return i.Tag == "1" })]
	want := index.Size
	for digest, size := range map[string]int64{amdBlobs[0].Digest: amdBlobs[0].Size,
		amdBlobs[1].Digest: amdBlobs[1].Size, amdBlobs[2].Digest: amdBlobs[2].Size,
		armBlobs[0].Digest: armBlobs[0].Size,
		armBlobs[1].Digest: armBlobs[1].Size} {
		if s[digest] == nil {
			t.Fatal(digest)
		}
		want += size
	}
	if !slices.Equal(i.Platforms, []string{"linux/amd64", "linux/arm64"}) || i.Sparse || i.Size != want {
		t.Errorf("%+v, want size %d", i, want)
	}

	two.Index.Images[slices.IndexFunc(two.Index.Images, func(i Image) bool { return i.Tag == "1" })].Digest = arm.Digest
	two.Index.Files[0].Digest = index.Digest
	two.Index.Redirects[0].To = "https://a.example/other"
	_, conflicts, _, err = Merge([]Part{one, two}, s.open)
	if all := strings.Join(conflicts, "\n"); err != nil || len(conflicts) != 3 ||
		!strings.Contains(all, "quay.io/a/b:1 is "+index.Digest+" in one and "+arm.Digest+" in two") ||
		!strings.Contains(all, "https://a.example/f is ") || !strings.Contains(all, "a redirect to") {
		t.Errorf("%v: %q", err, conflicts)
	}
}

// TestDropCredentials: nothing that a server has signed for one client is written into a bundle.
func TestDropCredentials(t *testing.T) {
	ix := fullIndex()
	b := ix.Blobs[0]
	ix.Files = []File{
		{URL: "https://a.example/f?sig=s3cret", Digest: b.Digest, Size: b.Size,
			Provenance: Provenance{From: "https://cdn.example/f?X-Amz-Signature=s3cret"}},
		{URL: "https://a.example/f", Digest: b.Digest, Size: b.Size},
		{URL: "https://a.example/g?token=s3cret&x=1", Digest: b.Digest, Size: b.Size},
	}
	ix.Redirects = []Redirect{{"https://a.example/r?token=s3cret", "https://cdn.example/f?sig=s3cret&se=1"},
		{"https://cdn.example/f?sig=s3cret", "https://cdn.example/f"}}
	ix.Absent = []Absent{{"https://a.example/h?sig=s3cret", "https://a.example/h?sig=s3cret: 404"}}
	ix.Unverified = []Unverified{{"https://a.example/InRelease?token=s3cret", "it is signed by key AB"}}
	ix.Images[0].From = "https://cdn.example/m?sig=s3cret"
	if err := ix.DropCredentials(); err != nil {
		t.Fatal(err)
	}
	text, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "s3cret") || len(ix.Files) != 2 || len(ix.Redirects) != 1 {
		t.Errorf("%s", text)
	}
	other := ix.Blobs[1]
	ix.Files = append(ix.Files, File{URL: "https://a.example/f?sig=2", Digest: other.Digest, Size: other.Size})
	if err := ix.DropCredentials(); err == nil || !strings.Contains(err.Error(), "https://a.example/f") {
		t.Errorf("two contents with one name: %v", err)
	}
}
