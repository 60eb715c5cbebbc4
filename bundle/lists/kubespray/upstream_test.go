package kubespray

import (
	"maps"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestKubesprayUpstream(t *testing.T) {
	const role, template = "roles/kubespray_defaults/defaults/main/", "roles/container-engine/containerd/templates/" +
		"hosts.toml.j2"
	files := fstest.MapFS{
		"galaxy.yml": {Data: []byte("version: 9.2.0\n")},
		role + "download.yml": {Data: []byte(`
harbour_url: https://github.com
anchor_download_url: "https://dl.example.io/{{ 'x' | regex_replace('\\.', '_') }}/anchor"
follows_url: "{{ harbour_url }}/x"
own_url: "https://{{ somebody }}:2379"
local_url: https://localhost
webhook_server_url: https://audit.example
git_uri: https://github.com/x/y.git
kube_image_repo: "registry.k8s.io"
follows_image_repo: "{{ kube_image_repo }}/pause"
number_image_repo: 3
downloads: {}
`)},
		"roles/addons/lantern/defaults/main.yml": {Data: []byte(`
lantern_image_repo: busybox
lantern_gpgkey: 'http://keys.example/gpg'
lantern_container: ghcr.io/l/l:1
some_repo: quay.io/no
`)},
		"roles/addons/lantern/molecule/defaults/main.yml":     {Data: []byte("test_image_repo: quay.io/test\n")},
		"roles/network_plugin/cilium/defaults/main.yml":       {Data: []byte("cilium_install_extra_flags: ''\n")},
		"roles/addons/lantern/tests/x/defaults/main.yml":      {Data: []byte("test_url: https://test.example\n")},
		"roles/addons/lantern/templates/nothing/defaults.yml": {Data: []byte("x_url: https://test.example\n")},
		template: {Data: []byte("server = \"{{ item.server | default('https://' + item.prefix) }}\"\n")},
	}
	u, err := ReadUpstream(files)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"harbour_url": "https://github.com",
		"anchor_download_url": `https://dl.example.io/{{ 'x' | regex_replace('\.', '_') }}/anchor`,
		"lantern_gpgkey":      "http://keys.example/gpg"}; !maps.Equal(
		u.URLs,
		want,
	) {
		t.Errorf("URLs %q", u.URLs)
	}
	if want := map[string]string{"kube_image_repo": "registry.k8s.io", "lantern_image_repo": "busybox",
		"lantern_container": "ghcr.io/l/l:1"}; !maps.Equal(
		u.Images,
		want,
	) {
		t.Errorf("images %q", u.Images)
	}
	if u.Release != "v9.2.0" || !u.MirrorServer || u.MirrorCA || !u.CiliumChart || u.CiliumCLI {
		t.Errorf("%+v", u)
	}
	files[template].Data = append(files[template].Data, "{% if mirror.ca is defined %}"...)
	delete(files, "roles/network_plugin/cilium/defaults/main.yml")
	if u, err := ReadUpstream(files); err != nil || !u.MirrorCA || u.CiliumChart {
		t.Errorf("%+v, %v", u, err)
	}

	for _, name := range []string{"galaxy.yml", role + "download.yml"} {
		less := maps.Clone(files)
		delete(less, name)
		if _, err := ReadUpstream(less); err == nil ||
			!strings.Contains(err.Error(), "name a checkout of Kubespray v2.24 or newer") {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if _, err := ReadUpstream(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "name a checkout") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := ReadUpstream(os.DirFS("testdata/kubespray")); err != nil {
		t.Error(err)
	}
}
