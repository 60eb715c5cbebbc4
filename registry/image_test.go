package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"casemate/registry/session"

	"github.com/opencontainers/go-digest"
)

func TestImages(t *testing.T) {
	s := newPusher(t)
	_, _, one := s.parts("team/app", "one")
	_, _, two := s.parts("team/app", "two")
	_, _, loose := s.parts("team/app", "loose")
	d1 := s.put("team/app", digest.FromString(one).String(), typeOCIManifest, one)
	d2 := s.put("team/app", "amd64", typeOCIManifest, two)
	d3 := s.put("team/app", digest.FromString(loose).String(), typeOCIManifest, loose)
	index := s.put("team/app", "multi", typeOCIIndex, indexOf(typeOCIIndex, d1, d2, digest.FromString("absent")))
	config := s.push("docker.io/library/art", "{}")
	art := s.put("docker.io/library/art", "v1", typeOCIManifest,
		fmt.Sprintf(
			`{"schemaVersion":2,"artifactType":"a/b","config":{"digest":"%s","size":2},"layers":[],"subject":{"digest":"%s","size":1}}`, config, d1))
	s.push("team-app/blobs-only", "x")

	var got []string
	for i, err := range s.reg.Images(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if i.Stored.IsZero() {
			t.Errorf("%s:%s has no time", i.Name, i.Reference)
		}
		got = append(got, fmt.Sprintf("%s:%s %s %s %s %d %v %v", i.Name, i.Reference, i.Digest.Encoded()[:4],
			i.MediaType, i.ArtifactType, i.Size, i.Platforms, i.Absent))
		if i.Sparse != (len(i.Absent) > 0) {
			t.Errorf("%s:%s is sparse: %v", i.Name, i.Reference, i.Sparse)
		}
	}
	layer := int64(len("layer one"))
	size1 := int64(len(one)) + layer + 2
	size2 := int64(len(two)) + layer + 2
	indexText := indexOf(typeOCIIndex, d1, d2, digest.FromString("absent"))
	want := []string{
		fmt.Sprintf("docker.io/library/art:v1 %s %s a/b %d [] []", art.Encoded()[:4], typeOCIManifest, s.size(art)+2),
		fmt.Sprintf("team/app:amd64 %s %s  %d [] []", d2.Encoded()[:4], typeOCIManifest, size2),
		fmt.Sprintf("team/app:multi %s %s  %d [linux/arch0 linux/arch1] [linux/arch2]", index.Encoded()[:4],
			typeOCIIndex, int64(len(indexText))+size1+size2-2),
		fmt.Sprintf("team/app: %s %s  %d [] []", d3.Encoded()[:4], typeOCIManifest,
			int64(len(loose))+int64(len("layer loose"))+2),
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("images:\n%s\nwant:\n%s", g, w)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range s.reg.Images(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
	}
	for range s.reg.Images(context.Background()) {
		break // a consumer may stop
	}

	for ref, want := range map[string]error{
		"team/app": fs.ErrInvalid, "team/app@x": fs.ErrInvalid, ":v1": fs.ErrInvalid, "../x:v1": fs.ErrInvalid,
		"team/app:":     fs.ErrInvalid,
		"team/app:none": fs.ErrNotExist, "team/none:v1": fs.ErrNotExist,
		"team/app@" + digest.FromString("none").String(): fs.ErrNotExist,
		"team/app:amd64": nil, "team/app@" + index.String(): nil,
	} {
		if err := s.reg.DeleteImage(context.Background(), ref); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("delete %s: %v, want %v", ref, err, want)
		}
	}
	s.want(s.own, "/v2/team/app/manifests/multi", "")
	s.want(s.own, "/v2/team/app/manifests/"+d2.String(), d2) // its tag went alone
}

func (s *pusher) size(d digest.Digest) int64 {
	s.tb.Helper()
	n, err := s.tree.StatBlob(d.String())
	if err != nil {
		s.tb.Fatal(err)
	}
	return n
}

// TestPut: an image put in by hand is served like one that was pushed.
func TestPut(t *testing.T) {
	s := newPusher(t)
	ctx := context.Background()
	layer, config := digest.FromString("layer"), digest.FromString("{}")
	if err := s.reg.PutBlob(ctx, "registry.k8s.io/pause", layer, strings.NewReader("other")); !errors.Is(err,
		syscall.EBADMSG) {
		t.Errorf("wrong bytes: %v", err)
	}
	text := manifestOf(config, layer)
	if _, err := s.reg.PutManifest(ctx, "registry.k8s.io/pause", "3.10", "", []byte(text)); err == nil ||
		!strings.Contains(err.Error(), layer.String()) {
		t.Errorf("without its blobs: %v", err)
	}
	for d, content := range map[digest.Digest]string{layer: "layer", config: "{}"} {
		if err := s.reg.PutBlob(ctx, "registry.k8s.io/pause", d, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := s.reg.PutManifest(ctx, "registry.k8s.io/pause", "3.10", "", []byte(text))
	if err != nil || d != digest.FromString(text) {
		t.Fatal(d, err)
	}
	s.want(on("registry.k8s.io"), "/v2/pause/manifests/3.10", d)
	s.want(on("registry.k8s.io"), "/v2/pause/blobs/"+layer.String(), layer)
	for _, bad := range [][2]string{{"../x", "v1"}, {"Team", "v1"}, {"a", "-x"}, {"a", "sha256:x"}} {
		if _, err := s.reg.PutManifest(ctx, bad[0], bad[1], "", []byte(text)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := s.reg.PutManifest(ctx, "a", "v1", "", make([]byte, maxManifest+1)); err == nil {
		t.Error("a manifest that is too large is taken")
	}
}

// TestErrors: errors of the tree, and the answers to clients.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		retry  bool
	}{
		{fs.ErrNotExist, 404, "BLOB_UNKNOWN", false},
		{&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}, 404, "BLOB_UNKNOWN", false},
		{fmt.Errorf("x: %w", syscall.EBADMSG), 400, "DIGEST_INVALID", false},
		{fmt.Errorf("x: %w", syscall.EAGAIN), 503, "UNAVAILABLE", true},
		{fmt.Errorf("x: %w: %w", syscall.EINPROGRESS, syscall.EAGAIN), 503, "UNAVAILABLE", true},
		{context.DeadlineExceeded, 503, "UNAVAILABLE", true},
		{fmt.Errorf("x: %w", syscall.ENOSPC), 507, "UNAVAILABLE", false},
		{errDenied.with("no"), 403, "DENIED", false},
		{fmt.Errorf("x: %w", errRangeInvalid), 416, "BLOB_UPLOAD_INVALID", false},
		{session.ErrBusy, 429, "TOOMANYREQUESTS", true},
		{session.ErrBody, 400, "SIZE_INVALID", false},
		{&session.TooManyError{}, 429, "TOOMANYREQUESTS", false},
		{&session.Refusal{Status: 404, Code: "BLOB_UPLOAD_UNKNOWN", Message: "unknown"}, 404, "BLOB_UPLOAD_UNKNOWN",
			false},
		{&session.Refusal{Status: 416, Code: "RANGE_INVALID", Message: "range"}, 416, "BLOB_UPLOAD_INVALID", false},
		{&session.Refusal{Status: 400}, 400, "BLOB_UPLOAD_INVALID", false},
		{errors.New("the inside"), 500, "UNKNOWN", false},
	} {
		e := asAPI(c.err, errBlobUnknown)
		if e.status != c.status || e.code != c.code || (e.retry > 0) != c.retry {
			t.Errorf("%v: %+v", c.err, e)
		}
		if errors.Is(c.err, syscall.EINPROGRESS) != strings.Contains(e.message, "not known whether this was done") {
			t.Errorf("%v: %q", c.err, e.message)
		}
		if strings.Contains(e.Error(), "inside") {
			t.Errorf("%v is revealed to the client", c.err)
		}
	}
}

// TestOpenRefuses: a Config without a tree is an error.
func TestOpenRefuses(t *testing.T) {
	if _, err := Open(Config{}); err == nil {
		t.Error("a registry without a tree")
	}
}
