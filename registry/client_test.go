package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// served is a registry behind a real socket, with the client of go-containerregistry.
type served struct {
	*pusher
	host string
	as   []remote.Option // ann's
}

func serve(t *testing.T, with ...func(*Config)) *served {
	s := newPusher(t, with...)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.reg.Serve(w, req, View{Host: req.Host})
	}))
	tr := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(func() { tr.CloseIdleConnections(); srv.Close() })
	return &served{s, srv.Listener.Addr().String(), []remote.Option{
		remote.WithTransport(tr), remote.WithAuth(&authn.Basic{Username: "ann", Password: "secret"}),
	}}
}

func (s *served) ref(r string) name.Reference {
	s.tb.Helper()
	ref, err := name.ParseReference(s.host + "/" + r)
	if err != nil {
		s.tb.Fatal(err)
	}
	return ref
}

// TestRealClient pushes and pulls as crane does: images, an index, a layer of unknown digest, tags, deletes, referrers.
func TestRealClient(t *testing.T) {
	s := serve(t)
	for _, repo := range []string{"team/app", "registry.k8s.io/pause"} {
		img, err := random.Image(200_000, 3)
		if err != nil {
			t.Fatal(err)
		}
		layer := stream.NewLayer(io.NopCloser(bytes.NewReader(bytes.Repeat([]byte("layer"), 50_000))))
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(s.ref(repo+":v1"), img, s.as...); err != nil {
			t.Fatal(err)
		}
		want, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		anyone := s.as[:1]
		got, err := remote.Image(s.ref(repo+":v1"), anyone...)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := got.Digest(); err != nil || d != want {
			t.Errorf("%s: %s, %v, want %s", repo, d, err, want)
		}
		layers, err := got.Layers()
		if err != nil || len(layers) != 4 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		for _, l := range layers {
			r, err := l.Compressed() // verified on the way
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
			r.Close()
		}

		index, err := random.Index(1000, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(s.ref(repo+":multi"), index, s.as...); err != nil {
			t.Fatal(err)
		}
		signature := mutate.Subject(mutate.MediaType(img, types.OCIManifestSchema1),
			v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: want, Size: 1}).(v1.Image)
		if err := remote.Write(s.ref(repo+":sig"), signature, s.as...); err != nil {
			t.Fatal(err)
		}
		refs, err := remote.Referrers(s.ref(repo).Context().Digest(want.String()), anyone...)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := refs.IndexManifest(); err != nil || len(m.Manifests) != 1 {
			t.Errorf("referrers: %+v, %v", m, err)
		}
		tags, err := remote.List(s.ref(repo).Context(), anyone...)
		if err != nil || !slices.Equal(tags, []string{"multi", "sig", "v1"}) {
			t.Errorf("tags %q, %v", tags, err)
		}
		if err := remote.Delete(s.ref(repo+":multi"), s.as...); err != nil {
			t.Error(err)
		}
		if _, err := remote.Head(s.ref(repo+":multi"), anyone...); !isStatus(err, 404) {
			t.Errorf("after a delete: %v", err)
		}
		// Without a user, or with a wrong password, pushing is refused.
		if err := remote.Write(s.ref(repo+":v2"), img, anyone...); !isStatus(err, 401) {
			t.Errorf("an anonymous push: %v", err)
		}
		bad := []remote.Option{s.as[0], remote.WithAuth(&authn.Basic{Username: "ann", Password: "guess"})}
		if err := remote.Write(s.ref(repo+":v2"), img, bad...); !isStatus(err, 401) {
			t.Errorf("a push with a wrong password: %v", err)
		}
	}
	reg, err := name.NewRegistry(s.host)
	if err != nil {
		t.Fatal(err)
	}
	all, err := remote.Catalog(t.Context(), reg, s.as[:1]...)
	if err != nil || !slices.Equal(all, []string{"registry.k8s.io/pause", "team/app"}) {
		t.Errorf("catalog %q, %v", all, err)
	}
}

func isStatus(err error, status int) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.StatusCode == status
}

// TestParallelPushes: many images that share layers arrive whole at the same time.
func TestParallelPushes(t *testing.T) {
	s := serve(t)
	base, err := random.Image(10_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			top, err := random.Layer(5_000, types.DockerLayer)
			if err != nil {
				t.Error(err)
				return
			}
			img, err := mutate.AppendLayers(base, top)
			if err != nil {
				t.Error(err)
				return
			}
			ref := s.ref(fmt.Sprintf("team/app%d:v1", i%4))
			if i >= 4 {
				ref = s.ref(fmt.Sprintf("team/app%d:v%d", i%4, i))
			}
			if err := remote.Write(ref, img, s.as...); err != nil {
				t.Error(err)
				return
			}
			got, err := remote.Image(ref, s.as...)
			if err != nil {
				t.Error(err)
				return
			}
			want, _ := img.Digest()
			if d, err := got.Digest(); err != nil || d != want {
				t.Errorf("%s: %s, %v, want %s", ref, d, err, want)
			}
		})
	}
	wg.Wait()
	s.tree.Unpin()
	if gone := s.tree.Collect(); len(gone) != 0 {
		t.Errorf("collected %d blobs of images that are there", len(gone))
	}
}

// brokenTree fails where the strict tree cannot be told to.
type brokenTree struct {
	Tree
	create, write error
}

func (b *brokenTree) CreateBlob(id string) (BlobWriter, error) {
	if b.create != nil {
		return nil, b.create
	}
	w, err := b.Tree.CreateBlob(id)
	return &brokenWriter{w, b}, err
}

func (b *brokenTree) ResumeBlob(id string) (BlobWriter, error) {
	w, err := b.Tree.ResumeBlob(id)
	if err != nil {
		return nil, err
	}
	return &brokenWriter{w, b}, nil
}

type brokenWriter struct {
	BlobWriter
	b *brokenTree
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.b.write != nil {
		return 0, w.b.write
	}
	return w.BlobWriter.Write(p)
}

// TestFullDisk: every kind of write reports that the disk is full, existing content can still be read, and then there
// is room again.
func TestFullDisk(t *testing.T) {
	broken := &brokenTree{}
	s := newPusher(t, func(c *Config) { broken.Tree = c.Tree; c.Tree = broken })
	_, _, text := s.parts("team/app", "one")
	d := s.put("team/app", "v1", typeOCIManifest, text)
	loc := s.open("team/app")
	blob := d.String()
	for _, c := range []struct{ create, write error }{{create: syscall.ENOSPC}, {write: syscall.ENOSPC}} {
		broken.create, broken.write = c.create, c.write
		type ask struct{ method, target, body string }
		asks := []ask{
			{"POST", "/v2/team/app/blobs/uploads/?digest=" + blob, "x"},
			{"PUT", "/v2/team/app/manifests/v2", text + " "},
		}
		if c.create != nil {
			asks = append(asks, ask{"POST", "/v2/team/app/blobs/uploads/", ""})
		} else {
			asks = append(asks, ask{"PATCH", loc, "x"}, ask{"PUT", loc + "&digest=" + blob, "x"})
		}
		for _, a := range asks {
			res := s.expect(507, a.method, a.target, a.body)
			b, _ := io.ReadAll(res.Body)
			if !strings.Contains(string(b), "UNAVAILABLE") || !strings.Contains(string(b), "casemate gc") ||
				strings.Count(string(b), `"errors"`) != 1 {
				t.Errorf("%s %s: %s", a.method, a.target, b)
			}
		}
		s.want(s.own, "/v2/team/app/manifests/v1", d)
	}
	broken.create, broken.write = nil, errors.New("the disk is on fire at /secret/path")
	for _, a := range [][2]string{{"POST", "/v2/team/app/blobs/uploads/?digest=" + blob}, {"PATCH", loc},
		{"PUT", loc + "&digest=" + blob}} {
		res := s.expect(500, a[0], a[1], "x")
		if b, _ := io.ReadAll(res.Body); strings.Contains(string(b), "secret") {
			t.Errorf("%s reveals internals: %s", a[0], b)
		}
	}
	broken.write = nil
	s.push("team/app", "x")
	s.expect(202, "PATCH", loc, "x")
}
