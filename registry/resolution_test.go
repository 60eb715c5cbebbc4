package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// String says a Resolution in one line.
func (f Resolution) String() string {
	return fmt.Sprintf("%s@%s %s luck=%q platforms=%v sparse=%v absent=%v", f.Repository, f.Digest, f.MediaType,
		f.Luck, f.Platforms, f.Sparse, f.Absent)
}

func TestResolve(t *testing.T) {
	s := newShelf(t, namesakes(NamesakesAll))
	// An image with a platform, a tagged index with one of two children, an artifact.
	config := s.layer("registry.k8s.io/pause", `{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{}}`)
	layer := s.layer("registry.k8s.io/pause", "layer")
	pause := s.manifest("registry.k8s.io/pause", "3.10", manifestOf(config, layer), "")
	lost := digest.FromString("lost")
	child, _ := s.image("docker.io/library/nginx", "", "child")
	index := s.manifest("docker.io/library/nginx", "1.27", indexOf(typeOCIIndex, child, lost), "")
	wide := s.manifest("quay.io/wide", "v1", manifestOf(config, layer), "sha512:")
	local, _ := s.image("pause", "local", "local pause")
	s.image("quay.io/a/same", "v1", "one")
	s.image("quay.io/b/same", "v1", "other")
	for name, want := range map[string]string{
		"registry.k8s.io/pause:3.10": fmt.Sprintf(
			"registry.k8s.io/pause@%s %s luck=%q platforms=[linux/arm64/v8] sparse=false absent=[]", pause,
			typeOCIManifest, ""),
		"registry.k8s.io/pause@" + pause.String(): fmt.Sprintf(
			"registry.k8s.io/pause@%s %s luck=%q platforms=[linux/arm64/v8] sparse=false absent=[]", pause,
			typeOCIManifest, ""),
		"docker.io/library/nginx:1.27": fmt.Sprintf(
			"docker.io/library/nginx@%s %s luck=%q platforms=[linux/arch0] sparse=true absent=[linux/arch1]", index,
			typeOCIIndex, ""),
		"docker.io/nginx:1.27": fmt.Sprintf(
			"docker.io/library/nginx@%s %s luck=%q platforms=[linux/arch0] sparse=true absent=[linux/arch1]", index,
			typeOCIIndex, "docker.io/nginx:1.27 is answered with docker.io/library/nginx:1.27"),
		"docker.io/library/nginx@" + child.String(): fmt.Sprintf("docker.io/library/nginx@%s %s luck=%q platforms=[] "+
			"sparse=false absent=[]", child, typeOCIManifest, ""),
		"quay.io/wide:v1": fmt.Sprintf("quay.io/wide@%s %s luck=%q platforms=[linux/arm64/v8] "+
			"sparse=false absent=[]", wide, typeOCIManifest, ""),
		"registry.k8s.io/pause:local": fmt.Sprintf("pause@%s %s luck=%q platforms=[] sparse=false absent=[]", local,
			typeOCIManifest, "registry.k8s.io/pause:local is answered with pause:local"),
		"pause:local": fmt.Sprintf("pause@%s %s luck=%q platforms=[] sparse=false absent=[]", local,
			typeOCIManifest, ""),
		"quay.io/a/same:v1": "quay.io/a/same",
		// Misses, with why as far as it is known.
		"quay.io/c/same:v1": "! ambiguous, held with different content: quay.io/a/same, " +
			"quay.io/b/same",
		"docker.io/library/nginx:1.28": "! not here",
		"unknown.example/x:v1":         "! not here",
		"docker.io/library/nginx@" + lost.String(): "! linux/arch1 of docker.io/library/nginx:1.27 is not staged for " +
			"this platform",
		"Docker.io/x:v1":       "?",
		"docker.io/x:..":       "?",
		"docker.io/x@sha256:1": "?",
		"docker.io/x:":         "?",
	} {
		repo, dg, _ := strings.Cut(name, "@")
		tag := ""
		if dg == "" && !strings.Contains(name, "@") {
			i := strings.LastIndexByte(name, ':')
			repo, tag = name[:i], name[i+1:]
		}
		f, err := s.reg.Resolve(context.Background(), repo, tag, dg)
		switch {
		case want == "?":
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %v, want fs.ErrInvalid", name, err)
			}
		case want[0] == '!':
			if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), want[2:]) ||
				!strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v, want a miss that says %s", name, err, want[2:])
			}
		case err != nil || !strings.HasPrefix(f.String(), want):
			t.Errorf("%s:\n%s, %v, want\n%s", name, f, err, want)
		}
	}
	// With a digest the tag is not looked at.
	if f, err := s.reg.Resolve(context.Background(), "registry.k8s.io/pause", "moved", pause.String()); err != nil ||
		f.Digest != pause.String() {
		t.Errorf("tag and digest: %v, %v", f, err)
	}
	if misses, luck := s.taken(); len(misses)+len(luck) > 0 {
		t.Errorf("looking was counted: misses %q, luck %q", misses, luck)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.reg.Resolve(ctx, "docker.io/library/nginx", "1.27", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// Resolve agrees with a GET for every name, view and variant of naming.
func TestResolveAgreesWithReads(t *testing.T) {
	s := newShelf(t)
	for i, repo := range []string{"registry.k8s.io/coredns/coredns", "registry.k8s.io/pause",
		"docker.io/library/nginx", "quay.io/x/app", "quay.io/y/tool", "docker.io/y/tool", "pause", "team/app",
		"library/only"} {
		for _, tag := range []string{"v1", fmt.Sprint("only", i)} {
			s.image(repo, tag, repo+tag)
		}
	}
	hits := 0
	for _, origin := range testOrigins {
		for _, path := range []string{"coredns", "coredns/coredns", "pause", "nginx", "library/nginx", "x/app", "app",
			"tool", "team/app", "only", "library/only", "none"} {
			for _, tag := range []string{"v1", "only0", "only1", "only2", "only6", "only8", "none"} {
				f, err := s.reg.Resolve(context.Background(), origin+"/"+path, tag, "")
				_, counted := s.taken()
				res := s.ask(on(origin), "GET", "/v2/"+path+"/manifests/"+tag)
				_, luck := s.taken()
				if got := res.Header.Get("Docker-Content-Digest"); got != f.Digest ||
					(res.StatusCode == 200) != (err == nil) || (f.Luck != "") != (len(luck) > 0) || len(counted) > 0 {
					t.Errorf("%s/%s:%s: a GET has %d %s and luck %q, Resolve %s, %v", origin, path, tag,
						res.StatusCode, got, luck, f, err)
				}
				if err == nil {
					hits++
				}
			}
		}
	}
	if hits < 20 {
		t.Errorf("only %d names were found: this test compares nothing", hits)
	}
}
