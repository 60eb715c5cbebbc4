package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"casemate/cluster"
	"casemate/cluster/treetest"

	"github.com/opencontainers/go-digest"
)

// staged are the blobs of an image as an import puts them: known to the tree, without a name.
type staged struct {
	layer, config, manifest digest.Digest
	text                    string
}

func (s *shelf) stage(what string) staged {
	s.tb.Helper()
	i := staged{layer: s.blob("layer "+what, ""), config: s.blob("config "+what, "")}
	i.text = manifestOf(i.config, i.layer)
	i.manifest = s.blob(i.text, "")
	return i
}

func (i staged) image(repo string, tags ...string) Import {
	return Import{Repository: repo, Tags: tags, Digest: i.manifest.String(), MediaType: typeOCIManifest,
		Data: []byte(i.text), With: with(i.layer, i.config)}
}

func with(list ...digest.Digest) func(string) bool {
	return func(d string) bool { return slices.Contains(list, digest.Digest(d)) }
}

// link links in one batch and returns the first refusal.
func (s *shelf) link(list ...Import) error {
	s.tb.Helper()
	var refused error
	err := s.tree.Update(context.Background(), func(b Batch) error {
		for _, im := range list {
			if refused = s.reg.Link(b, im); refused != nil {
				return refused
			}
		}
		return nil
	})
	if err != nil && refused == nil {
		s.tb.Fatalf("the batch was refused: %v", err)
	}
	return refused
}

// A linked image is pulled like a pushed one, and collection leaves it alone.
func TestLink(t *testing.T) {
	s := newShelf(t)
	amd, arm := s.stage("amd64"), s.stage("arm64")
	text := indexOf(typeOCIIndex, amd.manifest, arm.manifest, digest.FromString("absent"))
	index := s.blob(text, "")
	sig := s.stage("signature")
	unsigned := sig.manifest // which is not linked
	sig.text = strings.Replace(sig.text, `"layers"`,
		fmt.Sprintf(`"subject":{"mediaType":"%s","digest":"%s","size":%d},"layers"`, typeOCIIndex, index, len(text)), 1)
	sig.manifest = s.blob(sig.text, "")
	all := with(amd.manifest, arm.manifest, digest.FromString("absent"))
	if err := s.link(
		Import{Repository: "registry.k8s.io/pause", Tags: []string{"3.10", "latest"}, Digest: index.String(),
			MediaType: typeOCIIndex, Data: []byte(text), With: all},
		amd.image("registry.k8s.io/pause"), arm.image("registry.k8s.io/pause"), sig.image("registry.k8s.io/pause"),
	); err != nil {
		t.Fatal(err)
	}
	s.tree.Unpin()
	if gone := s.tree.Collect(); len(gone) != 1 || gone[0] != unsigned.String() {
		t.Errorf("collected %v", gone)
	}
	v := on("registry.k8s.io")
	s.want(v, "/v2/pause/manifests/3.10", index)
	s.want(v, "/v2/pause/manifests/latest", index)
	for _, i := range []staged{amd, arm, sig} {
		s.want(v, "/v2/pause/manifests/"+i.manifest.String(), i.manifest)
		s.want(v, "/v2/pause/blobs/"+i.layer.String(), i.layer)
		s.want(v, "/v2/pause/blobs/"+i.config.String(), i.config)
	}
	if list := body(t, s.ask(v, "GET", "/v2/pause/referrers/"+index.String())); !strings.Contains(list,
		sig.manifest.String()) {
		t.Errorf("the signature is not among the referrers: %s", list)
	}
	// The next import brings nothing but a tag: all is in the repository already.
	again := amd.image("registry.k8s.io/pause", "amd64")
	again.With = nil
	if err := s.link(again); err != nil {
		t.Error(err)
	}
	s.want(v, "/v2/pause/manifests/amd64", amd.manifest)
}

// The repository is where a push of that name would go.
func TestLinkFoldsNames(t *testing.T) {
	for name, want := range map[string]string{
		"docker.io/nginx": "docker.io/library/nginx", "index.docker.io/library/nginx": "docker.io/library/nginx",
		"docker.io:443/a/b":         "docker.io/a/b",
		"registry.k8s.io:443/pause": "registry.k8s.io/pause", "new.example/x": "new.example/x",
		"new.example:5000/x": "new.example/x",
		"team/app":           "team/app", "pause": "pause",
		"harbor:5000/x": "", "": "", "Team/App": "", "a//b": "", "../x": "", "new.example": "", "docker.io": "",
		"[::1]/x": "", "team/app:v1": "",
		strings.Repeat("a/", 127) + "a": strings.Repeat("a/", 127) + "a", strings.Repeat("a/", 128) + "a": "",
	} {
		s := newShelf(t)
		i := s.stage("x")
		err := s.link(i.image(name, "v1"))
		if (err == nil) != (want != "") || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
		for name := range s.tree.Walk("repositories", "") {
			repo, tag, d, ok := s.reg.NameOf(name)
			if ok && (repo != want || tag != "v1" && d != i.manifest.String()) {
				t.Errorf("%q went to %s:%s@%s", name, repo, tag, d)
			}
		}
	}
}

func TestLinkRefuses(t *testing.T) {
	s := newShelf(t)
	i := s.stage("x")
	elsewhere := s.layer("team/other", "layer of another repository")
	change := func(f func(*Import)) Import {
		im := i.image("team/app", "v1")
		f(&im)
		return im
	}
	for name, c := range map[string]struct {
		im   Import
		want error
		says string
	}{
		"layer that is not in the batch": {change(func(im *Import) { im.With = with(i.config) }), fs.ErrNotExist,
			i.layer.String()},
		"config that is not in the batch": {change(func(im *Import) { im.With = with(i.layer) }), fs.ErrNotExist,
			i.config.String()},
		"nothing in the batch": {change(func(im *Import) { im.With = nil }), fs.ErrNotExist,
			i.config.String() + ", " + i.layer.String()},
		"brought and unknown": {change(func(im *Import) {
			im.Data = []byte(manifestOf(i.config, digest.FromString("unknown")))
			im.Digest, im.With = s.blob(string(im.Data), "").String(), func(string) bool { return true }
		}), fs.ErrNotExist, digest.FromString("unknown").String()},
		"layer of another repository": {change(func(im *Import) {
			im.Data = []byte(manifestOf(i.config, elsewhere))
			im.Digest = s.blob(string(im.Data), "").String()
		}), fs.ErrNotExist, elsewhere.String()},
		"manifest without bytes": {change(func(im *Import) { im.Data, im.Digest = []byte(i.text+" "), "" }),
			fs.ErrNotExist, digest.FromString(i.text + " ").String()},
		"other digest": {change(func(im *Import) { im.Digest = i.layer.String() }), fs.ErrInvalid,
			"digest " + i.manifest.String()},
		"bad digest": {change(func(im *Import) { im.Digest = "md5:1" }), fs.ErrInvalid, "form"},
		"bad tag":    {change(func(im *Import) { im.Tags = []string{"v1", "../x"} }), fs.ErrInvalid, "tag"},
		"other media type": {change(func(im *Import) { im.MediaType = typeDockerManifest }), fs.ErrInvalid,
			typeDockerManifest},
		"no manifest": {change(func(im *Import) { im.Data, im.Digest = []byte("x"), "" }), fs.ErrInvalid,
			"JSON"},
		"too large": {change(func(im *Import) { im.Data = make([]byte, maxManifest+1) }), fs.ErrInvalid,
			"4194304"},
	} {
		err := s.link(c.im)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) ||
			!strings.Contains(err.Error(), "team/app") {
			t.Errorf("%s: %v, want %v that says %s", name, err, c.want, c.says)
		}
	}
	for name := range s.tree.Walk("repositories/team/app", "") {
		t.Errorf("%s was written", name)
	}
}

// A foreign layer may be absent, and a present one is held.
func TestLinkForeignLayers(t *testing.T) {
	s := newShelf(t)
	i := s.stage("x")
	foreign := `{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"` +
		digest.FromString("windows").String() + `","size":7}`
	i.text = strings.Replace(i.text, `"layers":[`, `"layers":[`+foreign+",", 1)
	i.manifest = s.blob(i.text, "")
	if err := s.link(i.image("team/app", "v1")); err != nil {
		t.Fatal(err)
	}
	s.want(s.own, "/v2/team/app/manifests/v1", i.manifest)
}

func TestNameOf(t *testing.T) {
	s := newShelf(t)
	d, layer := s.image("registry.k8s.io/pause", "3.10", "pause")
	for name, want := range map[string]string{
		tagPath("registry.k8s.io/pause", "3.10"):      "registry.k8s.io/pause 3.10  true",
		revisionPath("registry.k8s.io/pause", d):      "registry.k8s.io/pause  " + d.String() + " true",
		layerPath("registry.k8s.io/pause", layer):     "   false",
		referrerPath("registry.k8s.io/pause", d, d):   "   false",
		tagPath("a", "3.10") + "/link":                "   false",
		tagsDir("a") + "/3.10/index/link":             "   false",
		tagsDir("a") + "/.x/current/link":             "   false",
		revisionsDir("a") + "/sha256/xx/link":         "   false",
		"x/" + tagPath("a", "v1"):                     "   false",
		"repositories/_manifests/tags/a/current/link": "   false",
		"":             "   false",
		"repositories": "   false",
	} {
		repo, tag, dg, ok := s.reg.NameOf(name)
		if got := fmt.Sprint(repo, " ", tag, " ", dg, " ", ok); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// What a push used stays when the import that brought it is removed. On the cluster, because the tree in memory has no
// claims.
func TestPushOutlivesTheImport(t *testing.T) {
	cfg := cluster.Config{Dir: t.TempDir(), Node: "n1", Log: slog.New(slog.DiscardHandler)}
	if err := cluster.Bootstrap(cfg); err != nil {
		t.Fatal(err)
	}
	node, err := cluster.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	tree := node.Tree().Sub("registry")
	s := newPusher(t, func(c *Config) { c.Tree = tree })
	put := func(data string) digest.Digest {
		w, err := tree.CreateBlob("")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.Write([]byte(data))
		d, err := w.Commit(t.Context(), treetest.DigestOf([]byte(data), ""))
		if err != nil {
			t.Fatal(err)
		}
		return digest.Digest(d)
	}
	stage := func(what string) staged {
		i := staged{layer: put("layer " + what), config: put("config " + what)}
		i.text = manifestOf(i.config, i.layer)
		i.manifest = put(i.text)
		return i
	}
	same, child, base := stage("same"), stage("child"), stage("base")
	err = tree.Update(t.Context(), func(b Batch) error {
		b = cluster.As(b, "jan")
		return errors.Join(s.reg.Link(b, same.image("team/app", "same")),
			s.reg.Link(b, child.image("team/app", "child")),
			s.reg.Link(b, base.image("team/app", "base")), s.reg.Link(b, base.image("team/app", "pulled")))
	})
	if err != nil {
		t.Fatal(err)
	}
	// Pushed again as it is; a manifest on a layer of the import; an index over a child of it.
	s.put("team/app", "same", typeOCIManifest, same.text)
	config := s.push("team/app", "own config")
	derived := s.put("team/app", "derived", typeOCIManifest, manifestOf(config, base.layer))
	index := s.put("team/app", "index", typeOCIIndex, indexOf(typeOCIIndex, child.manifest))
	if err := node.Tree().DropClaims(t.Context(), "jan"); err != nil {
		t.Fatal(err)
	}
	if _, err := node.GCNow(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s.want(s.own, "/v2/team/app/manifests/same", same.manifest)
	s.want(s.own, "/v2/team/app/blobs/"+same.layer.String(), same.layer)
	s.want(s.own, "/v2/team/app/blobs/"+same.config.String(), same.config)
	s.want(s.own, "/v2/team/app/manifests/derived", derived)
	s.want(s.own, "/v2/team/app/blobs/"+base.layer.String(), base.layer)
	s.want(s.own, "/v2/team/app/manifests/index", index)
	s.want(s.own, "/v2/team/app/manifests/"+child.manifest.String(), child.manifest)
	s.want(s.own, "/v2/team/app/blobs/"+child.layer.String(), child.layer)
	s.want(s.own, "/v2/team/app/manifests/base", "")
	s.want(s.own, "/v2/team/app/blobs/"+base.config.String(), "")
}
