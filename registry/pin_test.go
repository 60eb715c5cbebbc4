package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestAPushersHeadMounts: a pusher's HEAD finds every blob of the cluster, and by then the blob is in the named
// repository.
func TestAPushersHeadMounts(t *testing.T) {
	t.Parallel()
	const repo = "other/tool"
	for name, c := range map[string]struct {
		auth   func(s *pusher) string
		before func(s *pusher, d digest.Digest)
		status int
	}{
		"a token to push":  {auth: func(s *pusher) string { return s.bearer(repo) }, status: 200},
		"a password":       {auth: func(*pusher) string { return basic("ann", "secret") }, status: 200},
		"a wrong password": {auth: func(*pusher) string { return basic("ann", "guess") }, status: 404},
		"nobody":           {auth: func(*pusher) string { return "" }, status: 404},
		"nonsense":         {auth: func(*pusher) string { return "Bearer x" }, status: 404},
		"a token to pull": {auth: func(s *pusher) string { return "Bearer " + s.token("repository:"+repo+":pull") },
			status: 404},
		"a token for another repository": {
			auth: func(s *pusher) string { return s.bearer("team/app") }, status: 404,
		},
		"it was deleted here": {
			auth: func(s *pusher) string { return s.bearer(repo) },
			before: func(s *pusher, d digest.Digest) {
				s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String(), "")
				s.expect(202, "DELETE", "/v2/"+repo+"/blobs/"+d.String(), "")
			},
			status: 404,
		},
		"it was deleted elsewhere": {
			auth: func(s *pusher) string { return s.bearer(repo) },
			before: func(s *pusher, d digest.Digest) {
				s.expect(202, "DELETE", "/v2/team/app/blobs/"+d.String(), "")
			},
			status: 200,
		},
		"it was deleted and came back": {
			auth: func(s *pusher) string { return s.bearer(repo) },
			before: func(s *pusher, d digest.Digest) {
				s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String(), "")
				s.expect(202, "DELETE", "/v2/"+repo+"/blobs/"+d.String(), "")
				s.expect(201, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String(), "")
			},
			status: 200,
		},
		"its bytes are lost": {
			auth: func(s *pusher) string { return s.bearer(repo) },
			before: func(s *pusher, d digest.Digest) {
				s.tree.Damage(d.String())
			},
			status: 404,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPusher(t)
			d := s.push("team/app", "a layer")
			if c.before != nil {
				c.before(s, d)
			}
			auth := c.auth(s)
			if got, _ := s.as(auth, "HEAD", "/v2/"+repo+"/blobs/"+d.String()); got != c.status {
				t.Fatalf("HEAD answered %d, want %d", got, c.status)
			}
			_, err := statLink(s.reg.tree, layerPath(repo, d))
			if (err == nil) != (c.status == 200) {
				t.Errorf("its name in the repository: %v", err)
			}
			// What was promised is not collected before the manifest arrives, whatever happens where it came from.
			if c.status == 200 {
				s.tree.Update(context.Background(), func(b Batch) error {
					b.Remove(layerPath("team/app",
						d))
					return nil
				})
				if gone := s.tree.Collect(); slices.Contains(gone, d.String()) {
					t.Error("it was collected")
				}
			}
		})
	}
}

// TestLayersOfAnotherMomentAreNoMistake: while no leader can be asked, a manifest with layers that this node does not
// see yet is not refused for good.
func TestLayersOfAnotherMomentAreNoMistake(t *testing.T) {
	t.Parallel()
	s := newPusher(t)
	text := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"layers":[],"config":{"mediaType":"application/vnd.oci.image.config.v1+json",`+
			`"digest":%q,"size":2}}`, typeOCIManifest, digest.FromString("{}"))
	put := func() (int, string) {
		res := s.send(s.own, "PUT", "/v2/team/app/manifests/v1", strings.NewReader(text), "Content-Type",
			typeOCIManifest,
			"Authorization", s.bearer("team/app"))
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	s.tree.Fail = func(string) (error, bool) { return syscall.EAGAIN, false }
	if status, body := put(); status != http.StatusServiceUnavailable {
		t.Errorf("without a leader: %d %s", status, body)
	}
	s.tree.Fail = nil
	if status, body := put(); status != http.StatusNotFound && status != http.StatusBadRequest ||
		!strings.Contains(body, "MANIFEST_BLOB_UNKNOWN") {
		t.Errorf("with one: %d %s", status, body)
	}
}
