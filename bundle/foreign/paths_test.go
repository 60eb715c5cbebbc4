package foreign_test

import (
	"errors"
	"path"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/input"
)

// transported writes images as skopeo's dir: transport does: the manifest, and blobs by their sha256 alone.
func transported(l *layoutFixture, top map[string]any) tree {
	out := tree{"version": "Directory Transport Version: 1.1\n"}
	for name, content := range l.files {
		if hex := path.Base(name); strings.HasPrefix(name, "blobs/") {
			out[hex] = content
			if strings.HasPrefix(content, "{") && strings.Contains(content, "schemaVersion") {
				delete(out, hex)
				out[hex+".manifest.json"] = content
			}
		}
	}
	hex := strings.TrimPrefix(top["digest"].(string), "sha256:")
	out["manifest.json"] = out[hex+".manifest.json"]
	delete(out, hex+".manifest.json")
	return out
}

// TestImagesByTheirPaths reads images in directories of hosts: as skopeo sync --scoped makes them for air gaps, layouts
// and archives. They are images, and files beside them are files.
func TestImagesByTheirPaths(t *testing.T) {
	one, list, layout, tagged := newLayout(), newLayout(), newLayout(), newLayout()
	single := one.image("amd64", "one")
	index := list.index(platformed(list.image("amd64", "a"), "amd64"), platformed(list.image("arm64", "b"), "arm64"))
	layout.top(layout.image("amd64", "layout"))
	tagged.top(tagged.image("amd64", "tagged"), "org.opencontainers.image.ref.name", "1.0")
	files := transported(one, single).under("registry.example.com/team/app:1.0").
		with(transported(list, index).under("registry.example.com:5000/busybox:latest")).
		with(transported(one, single).under("docker.io/library/one@" + single["digest"].(string))).
		with(layout.tree().under("quay.io/team/layout:2")).
		with(tagged.tree().under("quay.io/team/tagged")).
		with(tree{"registry.example.com/team/app:1.0/signature-1": "sig", "dl.k8s.io/v1/kubeadm": "file",
			"dl.k8s.io/v1/manifest.json": "{}", "dl.k8s.io/v1/version": "1", "dl.k8s.io/v1/index.json": "{}"})
	sameInAllWays(t, files, "oci-layout+tree", strings.TrimSpace(`
docker.io/library/one: [linux/amd64]
https://dl.k8s.io/v1/index.json
https://dl.k8s.io/v1/kubeadm
https://dl.k8s.io/v1/manifest.json
https://dl.k8s.io/v1/version
quay.io/team/layout:2 [linux/amd64]
quay.io/team/tagged:1.0 [linux/amd64]
registry.example.com/busybox: [linux/amd64]
registry.example.com/busybox: [linux/arm64]
registry.example.com/busybox:latest [linux/amd64 linux/arm64]
registry.example.com/team/app:1.0 [linux/amd64]`), bundle.ReadOptions{})

	// An archive with the name of an image is one; any other is a file of a web server.
	archives := tree{
		"quay.io/team/app:1.0.tar": string(dockerArchive(map[string][]string{"": {layer("a")}}).tar()),
		"quay.io/team/db:1.tar.gz": string(
			gz(dockerArchive(map[string][]string{"": {layer("b")}}).tar()),
		),
		"github.com/k3s-io/k3s/images-amd64.tar": string(
			dockerArchive(map[string][]string{"docker.io/x:1": {layer("c")}}).tar(),
		),
		"github.com/k3s-io/k3s/some:thing.tar": "no archive",
	}
	want := "https://github.com/k3s-io/k3s/images-amd64.tar\nhttps://github.com/k3s-io/k3s/some:thing.tar\nquay.io/" +
		"team/app:1.0 [linux/amd64]\nquay.io/team/db:1 [linux/amd64]"
	for _, in := range []bundle.Input{{Name: "directory", FS: archives.mapFS()}, regular(t, archives.tar())} {
		if got := shown(read(t, newMemorySink(t), bundle.ReadOptions{}, in)); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	if _, err := input.Read(t.Context(), []bundle.Input{piped(archives.tar())}, newMemorySink(t),
		bundle.ReadOptions{}); err == nil ||
		!strings.Contains(err.Error(), "unpack it first") {
		t.Errorf("a pipe: %v", err)
	}

	// One that says no registry is refused, or named by who imports it.
	plain := transported(one, single)
	_, err := input.Read(
		t.Context(),
		[]bundle.Input{{Name: "d", FS: plain.under("app:1.0").with(plain.under("db:1.0")).mapFS()}},
		newMemorySink(t),
		bundle.ReadOptions{},
	)
	if err == nil || strings.Count(err.Error(), "skopeo sync --scoped") != 2 {
		t.Errorf("got %v", err)
	}
	c := read(
		t,
		newMemorySink(t),
		bundle.ReadOptions{Repository: "quay.io/team/app:3"},
		bundle.Input{Name: "d", FS: plain.mapFS()},
	)
	if got := shown(c); got != "quay.io/team/app:3 [linux/amd64]" {
		t.Errorf("got %s", got)
	}
	// Damage is damage there too.
	broken := transported(one, single).under("quay.io/a:1")
	for name := range broken {
		if strings.HasSuffix(name, strings.TrimPrefix(digestOf([]byte(layer("one"))), "sha256:")) {
			broken[name] = strings.Replace(broken[name], "one", "two", 1)
		}
	}
	if _, err := input.Read(t.Context(), []bundle.Input{{Name: "d", FS: broken.mapFS()}}, newMemorySink(t),
		bundle.ReadOptions{}); err == nil {
		t.Error("a damaged layer was taken")
	}
}

// TestTreeSpellings: a file answers under the URL that was fetched, whichever tool made the tree's names of it.
func TestTreeSpellings(t *testing.T) {
	for name, want := range map[string]string{
		"registry.npmjs.example/@scope%2Fname": "https://registry.npmjs.example/@scope%252Fname " +
			"https://registry.npmjs.example/@scope%2Fname",
		"dl.example/v1.31.5%2Bk3s1/k3s": "https://dl.example/v1.31.5%252Bk3s1/k3s " +
			"https://dl.example/v1.31.5%2Bk3s1/k3s",
		"dl.example/a b%":              "https://dl.example/a%20b%25",
		"dl.example/100%zz":            "https://dl.example/100%25zz",
		"dl.example/x%00y":             "https://dl.example/x%2500y",
		"dl.example:8443/a":            "https://dl.example/a",
		"localhost:8080/a/b":           "https://localhost/a/b",
		"10.0.0.5:80/a":                "https://10.0.0.5/a",
		"mirror/dl.example:8443/a?x=1": "https://dl.example/a?x=1",
	} {
		c := read(t, newMemorySink(t), bundle.ReadOptions{}, bundle.Input{Name: "d", FS: tree{name: "content"}.mapFS()})
		if got := strings.ReplaceAll(shown(c), "\n", " "); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
		if strings.Contains(
			name,
			":8",
		) != (len(c.Notes) == 1 && strings.Contains(c.Notes[0], "addresses inside have no port")) {
			t.Errorf("%s: notes %q", name, c.Notes)
		}
	}
	// Two files whose names mean one URL are no guess.
	if _, err := input.Read(t.Context(), []bundle.Input{{Name: "d", FS: tree{"a.example:1/x": "1",
		"a.example:2/x": "2"}.mapFS()}}, newMemorySink(t), bundle.ReadOptions{}); err == nil {
		t.Error("two ports were taken for one host")
	}
}

// TestObstacles: all obstacles are reported at once, or left out with their reasons.
func TestObstacles(t *testing.T) {
	l, other := newLayout(), newLayout()
	for _, name := range []string{"harbor:443/team/app:1.0", "quay.io/good:1", "[fd00::1]:5000/app:1",
		"quay.io/twice:1"} {
		l.top(l.image("amd64", name), "io.containerd.image.name", name)
	}
	l.top(l.image("amd64", "no name"), "org.opencontainers.image.ref.name", "1.0")
	other.top(other.image("amd64", "another"), "io.containerd.image.name", "quay.io/twice:1")
	docker := dockerArchive(
		map[string][]string{"harbor2:443/team/app:1.0": {layer("x")}, "[fd00::2]/x:1": {layer("y")}},
	)
	inputs := func() []bundle.Input {
		return []bundle.Input{
			{Name: "layout", FS: l.tree().mapFS()},
			{Name: "other", FS: other.tree().mapFS()},
			{Name: "docker", FS: docker.mapFS()},
		}
	}
	_, err := input.Read(t.Context(), inputs(), newMemorySink(t), bundle.ReadOptions{})
	var o *bundle.NameErrors
	if !errors.As(err, &o) || len(o.List) != 3 ||
		!strings.HasPrefix(
			err.Error(),
			"3 names cannot be imported, --partial leaves them out:\nlayout: index.json: ",
		) {
		t.Errorf("got %v", err)
	}
	c := read(t, newMemorySink(t), bundle.ReadOptions{Partial: true}, inputs()...)
	if got := shown(c); got != "harbor/team/app:1.0 [linux/amd64]\nharbor2/team/app:1.0 [linux/amd64]\nquay.io/good:1 "+
		"[linux/amd64]" {
		t.Errorf("got %s", got)
	}
	var refused []string
	for _, r := range c.Refused {
		refused = append(refused, r.Name)
		if r.Why == "" {
			t.Errorf("no reason for %s", r.Name)
		}
	}
	if len(refused) != 4 || refused[3] != "quay.io/twice:1" {
		t.Errorf("refused %q", refused)
	}
}

// TestEverythingLeftOutIsListed, however much it is.
func TestEverythingLeftOutIsListed(t *testing.T) {
	files := tree{"dl.example/a": "a"}
	for _, n := range strings.Split("bcdefghijkl", "") {
		files["elsewhere/"+n] = n
	}
	c := read(t, newMemorySink(t), bundle.ReadOptions{}, bundle.Input{Name: "d", FS: files.mapFS()})
	if len(c.Skipped) != 11 || c.Skipped[10] != (bundle.Skipped{Name: "d: elsewhere/l", Why: "under no host's name"}) ||
		len(c.Notes) != 1 ||
		!strings.Contains(c.Notes[0], "which --verbose and -o json list") {
		t.Errorf("got %+v, notes %q", c.Skipped, c.Notes)
	}
}

// TestCosignSave reads what cosign save writes: a layout whose manifests have a kind and no name.
func TestCosignSave(t *testing.T) {
	l := newLayout()
	top := l.image("amd64", "app")
	l.top(top, "kind", "dev.cosignproject.cosign/image")
	l.top(
		l.artifact(l.blob(ociConfig, "{}"), nil, l.blob("text/plain", "signature")),
		"kind",
		"dev.cosignproject.cosign/sigs",
	)
	sameInAllWays(
		t,
		l.tree(),
		bundle.KindHaul,
		"quay.io/team/app:1 [linux/amd64]\nquay.io/team/app:DIGEST.sig",
		bundle.ReadOptions{Repository: "quay.io/team/app:1"},
	)
	_, err := input.Read(
		t.Context(),
		[]bundle.Input{{Name: "d", FS: l.tree().mapFS()}},
		newMemorySink(t),
		bundle.ReadOptions{},
	)
	if err == nil || !strings.Contains(err.Error(), "--repository") {
		t.Errorf("got %v", err)
	}
}
