package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

const (
	typeLayer   = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeCache   = "application/vnd.buildkit.cacheconfig.v0"
	typeUnknown = "application/vnd.example.thing.v3+x"
)

// entry is one descriptor of an index; size -1 is the right one.
type entry struct {
	mediaType string
	digest    digest.Digest
	size      int64
	platform  string // OS/ARCH
	data      []byte
}

func (s *shelf) index(entries ...entry) string {
	s.tb.Helper()
	list := []map[string]any{}
	for _, e := range entries {
		if e.size < 0 {
			var err error
			if e.size, err = s.tree.StatBlob(e.digest.String()); err != nil {
				e.size = 7
			}
		}
		d := map[string]any{"digest": e.digest, "size": e.size}
		if e.mediaType != "" {
			d["mediaType"] = e.mediaType
		}
		if os, arch, ok := strings.Cut(e.platform, "/"); ok {
			d["platform"] = map[string]string{"os": os, "architecture": arch}
		}
		if e.data != nil {
			d["data"] = base64.StdEncoding.EncodeToString(e.data)
		}
		list = append(list, d)
	}
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": list})
	if err != nil {
		s.tb.Fatal(err)
	}
	return string(text)
}

// child pushes an image by digest.
func (s *pusher) child(repo, what, arch string) digest.Digest {
	s.tb.Helper()
	layer, config := s.push(repo, "layer "+what), s.push(repo, fmt.Sprintf(`{"os":"linux","architecture":"%s"}`, arch))
	text := s.exact(config, layer)
	return s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
}

// exact is a manifest whose descriptors say the right sizes.
func (s *shelf) exact(config digest.Digest, layers ...digest.Digest) string {
	s.tb.Helper()
	of := func(mediaType string, d digest.Digest) string {
		size, err := s.tree.StatBlob(d.String())
		if err != nil {
			s.tb.Fatal(err)
		}
		return fmt.Sprintf(`{"mediaType":"%s","digest":"%s","size":%d}`, mediaType, d, size)
	}
	var list []string
	for _, l := range layers {
		list = append(list, of(typeLayer, l))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}`, typeOCIManifest,
		of("application/vnd.oci.image.config.v1+json", config), strings.Join(list, ","))
}

// TestIndexHolds: everything that an index lists is held against collection, served and counted as present, for any
// media type and any order of arrival.
func TestIndexHolds(t *testing.T) {
	const repo = "team/app"
	type kind struct {
		name      string
		mediaType string
		put       func(s *pusher) digest.Digest
		path      string // below which it is served
	}
	blob := func(s *pusher) digest.Digest { return s.push(repo, "what an index names") }
	image := func(s *pusher) digest.Digest { return s.child(repo, "image", "amd64") }
	kinds := []kind{
		{"manifest", typeOCIManifest, image, "manifests"},
		{"layer of a build cache", typeLayer, blob, "blobs"},
		{"config of a build cache", typeCache, blob, "blobs"},
		{"blob of an unknown type", typeUnknown, blob, "blobs"},
		{"blob without a type", "", blob, "blobs"},
		{"blob that says to be a manifest", typeOCIManifest, blob, "blobs"},
		{"manifest of an unknown type", typeUnknown, image, "manifests"},
		{"manifest that says to be a layer", typeLayer, image, "manifests"},
		{"mounted blob", typeLayer, func(s *pusher) digest.Digest {
			d := s.push("team/other", "what an index names")
			s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String(), "")
			return d
		}, "blobs"},
		{"blob of a session", typeLayer, func(s *pusher) digest.Digest {
			d := digest.FromString("what an index names")
			s.expect(201, "PUT", withDigest(s.open(repo), d), "what an index names")
			return d
		}, "blobs"},
		{"both manifest and blob", typeLayer, func(s *pusher) digest.Digest {
			d := image(s)
			s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String(), "")
			return d
		}, "blobs"},
		{"nested index", typeOCIIndex, func(s *pusher) digest.Digest {
			text := s.index(entry{typeLayer, blob(s), -1, "", nil}, entry{typeOCIManifest, image(s), -1, "linux/amd64",
				nil})
			return s.put(repo, digest.FromString(text).String(), typeOCIIndex, text)
		}, "manifests"},
		{"docker's list", typeDockerList, func(s *pusher) digest.Digest {
			text := indexOf(typeDockerList, image(s))
			return s.put(repo, digest.FromString(text).String(), typeDockerList, text)
		}, "manifests"},
		{"artifact manifest of old", typeArtifact, func(s *pusher) digest.Digest {
			text := fmt.Sprintf(
				`{"mediaType":"%s","artifactType":"a/b","blobs":[{"mediaType":"a/c","digest":"%s","size":19}]}`,
				typeArtifact, blob(s))
			return s.put(repo, digest.FromString(text).String(), typeArtifact, text)
		}, "manifests"},
		{"artifact", typeOCIManifest, func(s *pusher) digest.Digest {
			text := fmt.Sprintf(
				`{"schemaVersion":2,"mediaType":"%s","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2,"data":"e30="},"layers":[]}`,
				typeOCIManifest, s.push(repo, "{}"))
			return s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
		}, "manifests"},
	}
	for _, k := range kinds {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, late %v", k.name, late), func(t *testing.T) {
				s := newPusher(t)
				var d digest.Digest
				if late { // the same bytes in another registry determine the digest
					d = k.put(newPusher(t))
				} else {
					d = k.put(s)
				}
				index := s.put(repo, "v1", typeOCIIndex, s.index(entry{k.mediaType, d, -1, "", nil}))
				if late {
					if got := k.put(s); got != d {
						t.Fatalf("pushed %s, want %s", got, d)
					}
				}
				known := blobsKnown(s)
				s.tree.Unpin()
				gone := s.tree.Collect()
				if slices.Contains(gone, d.String()) || slices.Contains(gone, index.String()) {
					t.Fatalf("collected %v of %v", gone, known)
				}
				s.want(s.own, "/v2/"+repo+"/"+k.path+"/"+d.String(), d)
				found, err := s.reg.Resolve(t.Context(), repo, "v1", "")
				if err != nil || found.Sparse || len(found.Platforms) == 0 || len(found.Missing) > 0 {
					t.Errorf("found %s, %v", found, err)
				}
				if list := s.images(repo); len(list) != 1 || list[0].Sparse || list[0].Size < size(s, d)+size(s,
					index) {
					t.Errorf("images %+v", list)
				}
				// Nothing of it outlives the index.
				for _, img := range s.images(repo) {
					s.expect(202, "DELETE", "/v2/"+repo+"/manifests/"+img.Digest.String(), "")
				}
				for round := 0; round < 3; round++ {
					for _, img := range s.images(repo) {
						s.expect(202, "DELETE", "/v2/"+repo+"/manifests/"+img.Digest.String(), "")
					}
				}
				s.tree.Collect()
				for name := range s.tree.Walk("repositories/"+repo, "") {
					t.Errorf("%s is left", name)
				}
			})
		}
	}
}

func size(s *pusher, d digest.Digest) int64 {
	n, err := s.tree.StatBlob(d.String())
	if err != nil {
		s.tb.Error(err)
	}
	return n
}

func blobsKnown(s *pusher) (names []string) {
	for name := range s.tree.Walk("repositories", "") {
		names = append(names, name)
	}
	return names
}

// TestIndexWaitsForMany: blobs that arrive at the same time, after the index that lists them and while it is pushed
// again, are all held.
func TestIndexWaitsForMany(t *testing.T) {
	const repo, n = "team/cache", 12
	s := newPusher(t)
	var entries []entry
	for i := range n {
		entries = append(entries, entry{typeLayer, digest.FromString(fmt.Sprint("layer ", i)), 7, "", nil})
	}
	text := s.index(entries...)
	s.put(repo, "v1", typeOCIIndex, text)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { s.push(repo, fmt.Sprint("layer ", i)) })
	}
	wg.Go(func() { s.put(repo, "v2", typeOCIIndex, text) })
	wg.Wait()
	s.tree.Unpin()
	if gone := s.tree.Collect(); len(gone) != 0 {
		t.Errorf("collected %v", gone)
	}
	for _, e := range entries {
		s.want(s.own, "/v2/"+repo+"/blobs/"+e.digest.String(), e.digest)
	}
}

// TestForeignLayerComesLater: a layer that may not be distributed is held when it is pushed nevertheless.
func TestForeignLayerComesLater(t *testing.T) {
	s := newPusher(t)
	config, layer := s.push("team/win", "{}"), digest.FromString("windows")
	s.put("team/win", "v1", typeDockerManifest,
		fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":"%s","config":{"digest":"%s","size":2},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"%s","size":7,"urls":["https://example.com/x"]}]}`,
			typeDockerManifest, config, layer))
	missing := func() string {
		t.Helper()
		f, err := s.reg.Resolve(context.Background(), "team/win", "v1", "")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(f.Missing, " ")
	}
	if got := missing(); !strings.Contains(got, layer.String()) || !strings.Contains(got, "https://example.com/x") {
		t.Errorf("without its layer the image misses %q", got)
	}
	s.push("team/win", "windows")
	if got := missing(); got != "" {
		t.Errorf("with its layer the image misses %q", got)
	}
	s.tree.Unpin()
	if gone := s.tree.Collect(); len(gone) != 0 {
		t.Errorf("collected %v", gone)
	}
	s.want(s.own, "/v2/team/win/blobs/"+layer.String(), layer)
}

// TestArrivalFails: content that could not be held is not acknowledged, and an index that was deleted meanwhile stays
// deleted.
func TestArrivalFails(t *testing.T) {
	s := newPusher(t)
	d := digest.FromString("late")
	index := s.put("team/app", "v1", typeOCIIndex, s.index(entry{typeLayer, d, 4, "", nil}))
	updates := 0
	s.tree.Fail = func(what string) (error, bool) {
		if what == "update" {
			if updates++; updates == 2 {
				return syscall.EAGAIN, false
			}
		}
		return nil, true
	}
	s.expect(503, "POST", "/v2/team/app/blobs/uploads/?digest="+d.String(), "late")
	s.tree.Fail = nil
	s.push("team/app", "late")
	s.expect(202, "DELETE", "/v2/team/app/manifests/"+index.String(), "")
	s.push("team/app", "late")
	s.want(s.own, "/v2/team/app/manifests/"+index.String(), "")
	if err := s.reg.holdAgain(t.Context(), "team/app", index); err != nil {
		t.Error(err)
	}
	s.want(s.own, "/v2/team/app/manifests/"+index.String(), "")
}

// TestLinkIndexOfBlobs: an import names the entries of an index by their kind.
func TestLinkIndexOfBlobs(t *testing.T) {
	s := newShelf(t)
	const repo = "quay.io/team/cache"
	layer, thing := s.blob("layer", ""), s.blob("thing", "")
	child := s.stage("child")
	absent := digest.FromString("absent")
	text := s.index(entry{typeLayer, layer, -1, "", nil}, entry{"", thing, -1, "", nil}, entry{typeUnknown,
		child.manifest, -1, "", nil}, entry{typeLayer, absent, -1, "", nil})
	index := s.blob(text, "")
	comes := with(layer, thing, child.manifest, child.layer, child.config)
	if err := s.link(
		Import{Repository: repo, Tags: []string{"v1"}, Digest: index.String(), Data: []byte(text), With: comes,
			Manifest: with(child.manifest)},
		child.image(repo),
	); err != nil {
		t.Fatal(err)
	}
	s.tree.Unpin()
	if gone := s.tree.Collect(); len(gone) != 0 {
		t.Errorf("collected %v", gone)
	}
	v := on("quay.io")
	s.want(v, "/v2/team/cache/manifests/v1", index)
	s.want(v, "/v2/team/cache/blobs/"+layer.String(), layer)
	s.want(v, "/v2/team/cache/blobs/"+thing.String(), thing)
	s.want(v, "/v2/team/cache/manifests/"+child.manifest.String(), child.manifest)
	s.want(v, "/v2/team/cache/blobs/"+child.manifest.String(),
		child.manifest) // its descriptor says that it is no manifest
	s.want(v, "/v2/team/cache/manifests/"+layer.String(), "")
	found, err := s.reg.Resolve(t.Context(), repo, "v1", "")
	if err != nil || !found.Sparse || !slices.Equal(found.Absent, []string{absent.String()}) {
		t.Errorf("found %s, %v", found, err)
	}
}

// TestReach: what a client can pull below a name, on all levels.
func TestReach(t *testing.T) {
	const repo = "team/app"
	s := newPusher(t)
	amd, arm := s.child(repo, "amd", "amd64"), s.child(repo, "arm", "arm64")
	absent := digest.FromString("absent")
	put := func(entries ...entry) digest.Digest {
		text := s.index(entries...)
		return s.put(repo, digest.FromString(text).String(), typeOCIIndex, text)
	}
	inner := put(entry{typeOCIManifest, amd, -1, "linux/amd64", nil}, entry{typeOCIManifest, absent, -1, "linux/s390x",
		nil})
	hollow := put(entry{typeOCIManifest, absent, -1, "linux/s390x", nil})
	empty := put()
	wrong := put(entry{typeOCIManifest, amd, 3, "linux/amd64", nil})
	inDescriptor := []byte("in the descriptor")
	for _, c := range []struct {
		name      string
		entries   []entry
		platforms []string
		absent    []string
		wrong     []string // digest says platform
	}{
		{"one level", []entry{{typeOCIManifest, arm, -1, "linux/arm64", nil}}, []string{"linux/arm64"}, nil, nil},
		{"an entry without a platform has its config's", []entry{{typeOCIManifest, arm, -1, "", nil}},
			[]string{"linux/arm64"}, nil, nil},
		{"two levels", []entry{{typeOCIIndex, inner, -1, "", nil}}, []string{"linux/amd64"}, []string{"linux/s390x"},
			nil},
		{"three levels", []entry{{typeOCIIndex, put(entry{typeOCIIndex, inner, -1, "", nil}), -1, "", nil}},
			[]string{"linux/amd64"}, []string{"linux/s390x"}, nil},
		{"the entry's platform goes first", []entry{{typeOCIIndex, inner, -1, "linux/riscv64", nil}},
			[]string{"linux/riscv64"}, nil, nil},
		{"the same twice", []entry{{typeOCIIndex, inner, -1, "", nil}, {typeOCIIndex, inner, -1, "", nil}},
			[]string{"linux/amd64"}, []string{"linux/s390x"}, nil},
		{"an index that lies about its type", []entry{{typeOCIManifest, inner, -1, "", nil}}, []string{"linux/amd64"},
			[]string{"linux/s390x"}, nil},
		{"an index of which nothing is here", []entry{{typeOCIIndex, hollow, -1, "", nil}}, nil,
			[]string{hollow.String()}, nil},
		{"the same with a platform", []entry{{typeOCIIndex, hollow, -1, "linux/s390x", nil}}, nil,
			[]string{"linux/s390x"}, nil},
		{"an index that lists nothing", []entry{{typeOCIIndex, empty, -1, "", nil}}, []string{empty.String()}, nil,
			nil},
		{"in its descriptor", []entry{{typeUnknown, digest.FromBytes(inDescriptor), int64(len(inDescriptor)), "",
			inDescriptor}}, []string{digest.FromBytes(inDescriptor).String()}, nil, nil},
		{"other bytes in its descriptor", []entry{{typeUnknown, absent, int64(len(inDescriptor)), "", inDescriptor}},
			nil, []string{absent.String()}, nil},
		{"a wrong size", []entry{{typeOCIManifest, arm, 5, "linux/arm64", nil}}, []string{"linux/arm64"}, nil,
			[]string{arm.String() + " 5 linux/arm64"}},
		{"a wrong size below", []entry{{typeOCIIndex, wrong, -1, "", nil}}, []string{"linux/amd64"}, nil,
			[]string{amd.String() + " 3 linux/amd64"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			put := s.put(repo, "t", typeOCIIndex, s.index(c.entries...))
			f, err := s.reg.Resolve(t.Context(), repo, "t", "")
			if err != nil || f.Digest != put.String() {
				t.Fatalf("%s, %v", f, err)
			}
			var wrong []string
			for _, w := range f.Wrong {
				wrong = append(wrong, fmt.Sprint(w.Digest, " ", w.Says, " ", w.Platform))
			}
			if !slices.Equal(f.Platforms, c.platforms) || !slices.Equal(f.Absent, c.absent) ||
				f.Sparse != (len(c.absent) > 0) || !slices.Equal(wrong, c.wrong) {
				t.Errorf("got  %s wrong=%v\nwant platforms=%v absent=%v wrong=%v", f, wrong, c.platforms, c.absent,
					c.wrong)
			}
		})
	}

	// A chain that is deeper than anybody makes ends.
	top := inner
	for range maxNested + 3 {
		top = put(entry{typeOCIIndex, top, -1, "", nil})
	}
	if f, err := s.reg.Resolve(t.Context(), repo, "", top.String()); err != nil || len(f.Platforms) != 0 ||
		len(f.Absent) != 1 {
		t.Errorf("deep: %s, %v", f, err)
	}
	// An image of which a layer was deleted is here and cannot be pulled, alone and below an index.
	layer := digest.FromString("layer arm")
	index := s.put(repo, "t", typeOCIIndex, s.index(entry{typeOCIManifest, arm, -1, "linux/arm64", nil}))
	s.expect(202, "DELETE", "/v2/"+repo+"/blobs/"+layer.String(), "")
	for _, d := range []digest.Digest{arm, index} {
		f, err := s.reg.Resolve(t.Context(), repo, "", d.String())
		if err != nil || !slices.Equal(f.Missing, []string{layer.String()}) || d == index && !slices.Equal(f.Absent,
			[]string{"linux/arm64"}) {
			t.Errorf("without a layer: %s missing=%v, %v", f, f.Missing, err)
		}
	}
}

// TestWrongSizesAreLogged: bytes stay unchanged, and the log reports what containerd will refuse, in either order of
// arrival.
func TestWrongSizesAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := newPusher(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	logged := func(what string, want ...string) {
		t.Helper()
		text := log.String()
		if (len(want) > 0) != strings.Contains(text, "level=WARN") {
			t.Errorf("%s: the log has %s", what, text)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: the log has not %q: %s", what, w, text)
			}
		}
		log.Reset()
	}
	d := s.child("team/app", "x", "amd64")
	logged("right sizes")
	text := s.index(entry{typeOCIManifest, d, 3, "", nil})
	s.put("team/app", "v1", typeOCIIndex, text)
	logged("a child", d.String(), "its descriptor says 3", digest.FromString(text).String())
	if _, got := s.body(s.own, "/v2/team/app/manifests/v1"); got != text {
		t.Errorf("got %s", got)
	}
	layer := s.push("team/app", "layer")
	s.put("team/app", "v2", typeOCIManifest, manifestOf(s.push("team/app", "{}"), layer))
	logged("a layer", layer.String(), "has 5 bytes and its descriptor says 1")
	late := digest.FromString("late")
	s.put("team/app", "v3", typeOCIIndex, s.index(entry{typeLayer, late, 3, "", nil}))
	logged("what is not here")
	s.push("team/app", "late")
	logged("a blob that came later", late.String(), "has 4 bytes and its descriptor says 3")
	_, _, text = s.parts("team/app", "later")
	log.Reset()
	later := digest.FromString(text)
	s.put("team/app", "v4", typeOCIIndex, s.index(entry{typeOCIManifest, later, 3, "", nil}))
	logged("a manifest that is not here")
	s.put("team/app", later.String(), typeOCIManifest, text)
	logged("a manifest that came later", later.String(), "its descriptor says 3")
	i := s.stage("imported")
	if err := s.link(i.image("quay.io/team/app", "v1")); err != nil {
		t.Fatal(err)
	}
	logged("an import", i.config.String())
}

// TestTooManyHeld: a manifest that refers to more than one link of the tree can hold is refused as the client's
// mistake; duplicates count once.
func TestTooManyHeld(t *testing.T) {
	var n references
	for i := range maxHolds {
		n.blobs = append(n.blobs, digest.FromString(fmt.Sprint(i)))
	}
	n.manifests = n.blobs[:10]
	if err := n.tooMany(); err != nil {
		t.Errorf("as many as can be held: %v", err)
	}
	n.manifests = []digest.Digest{digest.FromString("one more")}
	if e := asAPI(n.tooMany(), nil); e.status != 400 || !strings.Contains(e.message, "16384") {
		t.Errorf("one more: %+v", e)
	}
}

// FuzzDecodeManifest: stored bytes are read without a panic, and every digest that comes out is one.
func FuzzDecodeManifest(f *testing.F) {
	d := digest.FromString("x")
	f.Add([]byte(indexOf(typeOCIIndex, d)))
	f.Add([]byte(manifestOf(d, d)))
	f.Add([]byte(`{"manifests":[{"digest":"../..","data":{}}],"config":{},"subject":{"digest":"sha256:"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest(d, data)
		if err != nil {
			return
		}
		for _, p := range m.parts() {
			if !fs.ValidPath(layerPath("a", p.Digest)) || !tree.ValidDigest(p.Digest.String()) {
				t.Errorf("the digest %q", p.Digest)
			}
			p.embedded()
			p.platform()
		}
	})
}
