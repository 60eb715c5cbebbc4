package foreign_test

import (
	"slices"
	"strings"
	"testing"

	"casemate/bundle"
)

// haul writes the output of `hauler store save`: its store, an OCI layout whose index.json gives the kind of each
// manifest.
func haul() tree {
	l := newLayout()
	top := func(d map[string]any, kind, ref, containerd, original string) {
		a := []string{"kind", kind, "org.opencontainers.image.ref.name", ref}
		if containerd != "" {
			a = append(a, "io.containerd.image.name", containerd)
		}
		if original != "" {
			a = append(a, "hauler.dev/original-ref", original)
		}
		l.top(d, a...)
	}
	list := l.index(platformed(l.image("amd64", "nginx"), "amd64"), platformed(l.image("arm64", "nginx arm"), "arm64"))
	const nginx, full = "library/nginx:1.25", "index.docker.io/library/nginx:1.25"
	empty := l.blob("application/vnd.oci.empty.v1+json", "{}")
	top(list, "dev.hauler/imageIndex", nginx, full, full)
	top(
		l.artifact(l.blob(ociConfig, "{}"), nil, l.blob("text/plain", "signature")),
		"dev.hauler/sigs",
		nginx,
		full,
		full,
	)
	top(
		l.artifact(l.blob(ociConfig, "{}"), nil, l.blob("text/plain", "attestation")),
		"dev.cosignproject.cosign/atts",
		nginx,
		full,
		"",
	)
	top(l.artifact(empty, list, l.blob("text/plain", "bundle")), "dev.hauler/referrers/0123", nginx, full, full)
	top(
		l.image("amd64", "rewritten"),
		"dev.hauler/image",
		"mine/pause:1",
		"registry.example.com/mine/pause:1",
		"registry.k8s.io/pause:3.10",
	)

	file := func(configType, reference, content string) map[string]any {
		return l.artifact(
			l.blob(
				"application/vnd.content.hauler.file."+configType+".config.v1+json",
				object(map[string]string{"reference": reference}),
			),
			nil,
			with(
				l.blob("application/vnd.content.hauler.file.layer.v1", content),
				"annotations",
				map[string]string{"org.opencontainers.image.title": "f"},
			),
		)
	}
	top(
		file("http", "https://get.k3s.io/install.sh", "install"),
		"dev.hauler/image",
		"hauler/install.sh:latest",
		"",
		"https://get.k3s.io/install.sh",
	)
	top(file("http", "http://dl.k8s.io/old", "of an old hauler"), "dev.hauler/image", "hauler/old:latest", "", "")
	top(file("local", "/root/notes.txt", "notes"), "dev.hauler/image", "hauler/notes.txt:latest", "", "/root/notes.txt")

	chart := func(content string) map[string]any {
		return l.artifact(l.blob("application/vnd.cncf.helm.config.v1+json", `{"name":"`+content+`"}`), nil,
			l.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", string(gz([]byte(layer(content))))))
	}
	top(
		chart("rancher"),
		"dev.hauler/image",
		"hauler/rancher:2.8.0",
		"",
		"https://releases.rancher.com/server-charts/stable|hauler/rancher:2.8.0",
	)
	top(
		chart("cert-manager"),
		"dev.hauler/image",
		"hauler/cert-manager:v1.17.0",
		"",
		"oci://quay.io/jetstack/charts|hauler/cert-manager:v1.17.0",
	)

	files := l.tree()
	files["store.json"] = "{}"
	files["manifest.json"] = object(
		[]any{map[string]any{"Config": "blobs/sha256/0", "RepoTags": []string{"nginx:1.25"}}},
	)
	return files
}

func TestHaul(t *testing.T) {
	files := haul()
	sameInAllWays(t, files, bundle.KindHaul, strings.TrimSpace(`
docker.io/library/nginx:
docker.io/library/nginx: [linux/amd64]
docker.io/library/nginx: [linux/arm64]
docker.io/library/nginx:1.25 [linux/amd64 linux/arm64]
docker.io/library/nginx:DIGEST.att
docker.io/library/nginx:DIGEST.sig
hauler/rancher:2.8.0
https://dl.k8s.io/old
https://get.k3s.io/install.sh
quay.io/jetstack/charts/cert-manager:v1.17.0
registry.k8s.io/pause:3.10 [linux/amd64]`), bundle.ReadOptions{})

	s := newMemorySink(t)
	delete(files, "oci-layout") // hauler store save --containerd
	c := read(t, s, bundle.ReadOptions{}, regular(t, zst(files.tar())))
	var list, sig string
	for _, m := range c.Index.Images {
		switch {
		case m.Tag == "1.25":
			list = m.Digest
		case strings.HasSuffix(m.Tag, ".sig"):
			sig = m.Tag
		}
	}
	if sig != strings.Replace(list, ":", "-", 1)+".sig" {
		t.Errorf("the signature of %s is %s", list, sig)
	}
	for _, want := range []string{"notes.txt", "hauler/rancher:2.8.0"} {
		if !slices.ContainsFunc(c.Notes, func(n string) bool { return strings.Contains(n, want) }) {
			t.Errorf("no note about %s: %q", want, c.Notes)
		}
	}
	for _, f := range c.Index.Files {
		if got := string(s.blobs[f.Digest]); f.URL == "https://get.k3s.io/install.sh" && got != "install" {
			t.Errorf("%s is %q", f.URL, got)
		}
	}
}
