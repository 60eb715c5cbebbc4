package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// bearer asks for a token for pushing to a repository and returns a request's header.
func (s *pusher) bearer(repo string) string {
	s.tb.Helper()
	res := s.expect(200, "GET", "/token?service=casemate.internal&scope=repository:"+repo+":pull,push", "")
	var t struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&t); err != nil || t.Token == "" {
		s.tb.Fatalf("no token: %v", err)
	}
	return "Bearer " + t.Token
}

// as sends a request with an Authorization, "" for none, and returns the status and the body.
func (s *pusher) as(auth, method, target string) (int, string) {
	s.tb.Helper()
	req := httptest.NewRequest(method, target, http.NoBody)
	req.Host = s.own.Host
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	rec := httptest.NewRecorder()
	s.reg.Serve(rec, req, s.own)
	text, _ := io.ReadAll(rec.Result().Body)
	return rec.Code, string(text)
}

// If any part of an image is damaged, a client that pulls gets the reason, a client that pushes is asked for the part,
// and the push repairs it.
func TestDamagedImage(t *testing.T) {
	t.Parallel()
	const repo = "team/app"
	for name, tc := range map[string]struct {
		which     func(layer, config, manifest digest.Digest) digest.Digest
		manifests int // status of a GET of the manifest
	}{
		"layer":    {func(l, _, _ digest.Digest) digest.Digest { return l }, 200},
		"config":   {func(_, c, _ digest.Digest) digest.Digest { return c }, 200},
		"manifest": {func(_, _, m digest.Digest) digest.Digest { return m }, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPusher(t)
			layer, config, text := s.parts(repo, "one")
			m := s.put(repo, "v1", typeOCIManifest, text)
			bad := tc.which(layer, config, m)
			s.tree.Damage(bad.String())
			push := s.bearer(repo)
			blob, manifest := "/v2/"+repo+"/blobs/"+bad.String(), "/v2/"+repo+"/manifests/v1"
			expect := func(what string, got int, text string, want int) {
				t.Helper()
				if got != want || want == 503 && text != "" &&
					!strings.Contains(text, "damaged or lost, import or push it again") {
					t.Errorf("%s: %d %s, want %d", what, got, text, want)
				}
			}
			status, text2 := s.as("", "GET", manifest)
			expect("GET manifest", status, text2, tc.manifests)
			status, _ = s.as("", "HEAD", manifest)
			expect("HEAD manifest", status, "", tc.manifests)
			status, _ = s.as(push, "HEAD", manifest)
			expect("HEAD manifest by a pusher", status, "", 404)
			if bad != m {
				status, text2 = s.as("", "GET", blob)
				expect("GET blob", status, text2, 503)
				status, _ = s.as("", "HEAD", blob)
				expect("HEAD blob", status, "", 503)
				status, _ = s.as(push, "HEAD", blob)
				expect("HEAD blob by a pusher", status, "", 404)
				status, _ = s.as(push, "POST", "/v2/team/other/blobs/uploads/?from="+repo+"&mount="+bad.String())
				if status != 401 && status != 202 { // that token is for this repository
					t.Errorf("mount elsewhere: %d", status)
				}
				res := s.send(s.own, "POST", "/v2/team/other/blobs/uploads/?from="+repo+"&mount="+bad.String(),
					http.NoBody)
				expect("mount", res.StatusCode, "", 202)
				res = s.send(s.own, "PUT", manifest, strings.NewReader(text), "Content-Type", typeOCIManifest)
				expect("PUT of a manifest whose blob is damaged", res.StatusCode, "", 400)
				if e := code(t, res); e != "MANIFEST_BLOB_UNKNOWN" {
					t.Errorf("it is refused as %s", e)
				}
			}
			if misses, _ := s.taken(); len(misses) > 0 {
				t.Errorf("damage is no miss: %q", misses)
			}
			f, err := s.reg.Resolve(context.Background(), repo, "v1", "")
			only := err == nil && slices.Equal(f.Lost, []string{bad.String()}) && len(f.Platforms) == 0
			if bad == m && !errors.Is(err, syscall.EIO) || bad != m && !only {
				t.Errorf("Resolve: lost %v, platforms %v, %v", f.Lost, f.Platforms, err)
			}
			images := s.images(repo)
			if len(images) != 1 || images[0].Reference != "v1" || images[0].Lost != (bad == m) {
				t.Errorf("Images: %+v", images)
			}

			s.parts(repo, "one")
			s.put(repo, "v1", typeOCIManifest, text)
			blobs := "/v2/" + repo + "/blobs/"
			for _, target := range []string{manifest, blobs + layer.String(), blobs + config.String()} {
				for _, method := range []string{"GET", "HEAD"} {
					if status, text := s.as("", method, target); status != 200 {
						t.Errorf("pushed again: %s %s: %d %s", method, target, status, text)
					}
				}
				if status, _ := s.as(push, "HEAD", target); status != 200 {
					t.Errorf("pushed again: HEAD %s by a pusher: %d", target, status)
				}
			}
		})
	}
}

// Of an index only the children that can be pulled count, however they share damaged parts, and however deep it is.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	const repo = "quay.io/team/app"
	shared, own := s.layer(repo, "shared"), s.layer(repo, "own")
	config := func(arch string) digest.Digest {
		return s.layer(repo, `{"os":"linux","architecture":"`+arch+`"}`)
	}
	one := s.manifest(repo, "", manifestOf(config("amd64"), shared), "")
	two := s.manifest(repo, "", manifestOf(config("arm64"), shared, own), "")
	three := s.manifest(repo, "", manifestOf(config("s390x"), own), "")
	inner := s.manifest(repo, "", indexOf(typeOCIIndex, three), "")
	s.manifest(repo, "v1", indexOf(typeOCIIndex, one, two, inner), "")
	resolve := func(lost []digest.Digest, platforms ...string) {
		t.Helper()
		f, err := s.reg.Resolve(context.Background(), repo, "v1", "")
		var want []string
		for _, d := range lost {
			want = append(want, d.String())
		}
		slices.Sort(want)
		got := slices.Clone(f.Lost)
		slices.Sort(got)
		if err != nil || !slices.Equal(slices.Compact(got), want) || !slices.Equal(f.Platforms, platforms) {
			t.Errorf("lost %v, platforms %v, %v; want %v, %v", got, f.Platforms, err, want, platforms)
		}
	}
	resolve(nil, "linux/arch0", "linux/arch1", "linux/arch2")
	s.tree.Damage(shared.String())
	resolve([]digest.Digest{shared}, "linux/arch2") // a child that misses something is reported by its own digest
	s.tree.Damage(three.String())
	resolve([]digest.Digest{shared, three})
	// A damaged manifest can be deleted, and does not keep others from being listed.
	n := 0
	for _, err := range s.reg.Images(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n == 0 {
		t.Error("nothing is listed")
	}
	if err := s.reg.DeleteImage(context.Background(), repo+"@"+three.String()); err != nil {
		t.Error(err)
	}
}

// rotten is a tree whose blobs are read with wrong bytes until they are verified.
type rotten struct {
	Tree
	bad     string
	doubted bool
}

type closer struct{ *strings.Reader }

func (closer) Close() error { return nil }

func (r *rotten) OpenBlob(ctx context.Context, d string) (io.ReadSeekCloser, error) {
	if d != r.bad {
		return r.Tree.OpenBlob(ctx, d)
	}
	if r.doubted {
		return nil, syscall.EIO
	}
	return closer{strings.NewReader(strings.Repeat("x", 10_000))}, nil
}

func (r *rotten) DoubtBlob(_ context.Context, d string) { r.doubted = r.doubted || d == r.bad }

// A manifest that has rotted on the disk is neither served nor cached, and the tree is notified.
func TestRottenManifest(t *testing.T) {
	t.Parallel()
	tree := &rotten{}
	s := newPusher(t, func(c *Config) { tree.Tree = c.Tree; c.Tree = tree })
	_, _, text := s.parts("team/app", "one")
	m := s.put("team/app", "v1", typeOCIManifest, text)
	tree.bad = m.String()
	for range 2 {
		status, text := s.as("", "GET", "/v2/team/app/manifests/v1")
		if status != 503 || !strings.Contains(text, "damaged or lost") {
			t.Errorf("%d %s", status, text)
		}
	}
	if !tree.doubted {
		t.Error("the tree was not told")
	}
	tree.bad = ""
	if status, got := s.as("", "GET", "/v2/team/app/manifests/v1"); status != 200 || got != text {
		t.Errorf("%d %s", status, got)
	}
}
