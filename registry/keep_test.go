package registry

import (
	"context"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestAPushersHeadMounts: who may push is told of every blob that is here, and has it in his repository by then.
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
		"a token to pull":  {auth: func(s *pusher) string { return "Bearer " + s.token("repository:"+repo+":pull") }, status: 404},
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
			_, _, err := s.reg.digestOf(layerPath(repo, d))
			if (err == nil) != (c.status == 200) {
				t.Errorf("its name in the repository: %v", err)
			}
			// What was promised is not collected before the manifest arrives, whatever happens where it came from.
			if c.status == 200 {
				s.tree.Update(context.Background(), func(b Batch) error { b.Remove(layerPath("team/app", d)); return nil })
				if gone := s.tree.Collect(); slices.Contains(gone, d.String()) {
					t.Error("it was collected")
				}
			}
		})
	}
}
