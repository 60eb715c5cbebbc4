package registry

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// Tags yields what tags/list answers, under every name by which Link takes the repository, and nothing for a name that
// no repository can have.
func TestTagsOfARepository(t *testing.T) {
	s := newShelf(t)
	i := s.stage("x")
	if err := s.link(i.image("docker.io/library/nginx", "latest", "1.29", "1.29-alpine"), i.image("team/app", "1"),
		i.image("docker.io/library/nginx/plus", "only-here")); err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]string{
		"docker.io/library/nginx": "1.29 1.29-alpine latest", "docker.io/nginx": "1.29 1.29-alpine latest",
		"index.docker.io/library/nginx": "1.29 1.29-alpine latest", "docker.io/library/nginx/plus": "only-here",
		"team/app": "1", "team": "", "docker.io/library": "", "team/other": "", "../x": "", "Team/App": "", "": "",
	} {
		if got := strings.Join(slices.Collect(s.reg.Tags(repo)), " "); got != want {
			t.Errorf("%s: got %q, want %q", repo, got, want)
		}
	}
	for range s.reg.Tags("docker.io/nginx") {
		break // a consumer that wants one reads one
	}
}

// LayerName is the name that Link gives a layer, so that other rooms can look up its claims in the tree.
func TestLayerName(t *testing.T) {
	s := newShelf(t)
	i := s.stage("x")
	if err := s.link(i.image("docker.io/library/nginx", "latest")); err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"docker.io/library/nginx", "docker.io/nginx"} {
		name, err := s.reg.LayerName(repo, i.layer.String())
		if err != nil {
			t.Fatal(err)
		}
		if info, err := fs.Stat(s.tree, name); err != nil || info.IsDir() {
			t.Errorf("%s: %s is no file of the tree: %v", repo, name, err)
		}
	}
	for _, c := range [][2]string{
		{"../x", i.layer.String()}, {"", i.layer.String()}, {"team/app", "sha256:short"}, {"team/app", ""},
		{"team/app", "../x"},
	} {
		if name, err := s.reg.LayerName(c[0], c[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: got %q, %v", c, name, err)
		}
	}
}
