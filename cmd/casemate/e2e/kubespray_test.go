//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/txtar"
)

// kubesprayLists is what one release of Kubespray downloads: the lists that its contrib/offline/generate_list.sh
// writes, in testdata/kubespray/VERSION.
type kubesprayLists struct {
	version       string
	files, images []string
}

func readKubesprayLists(t *testing.T) (all []kubesprayLists) {
	t.Helper()
	for _, version := range []string{"v2.27.1", "v2.31.0"} {
		k := kubesprayLists{version: version}
		for name, into := range map[string]*[]string{"files.list": &k.files, "images.list": &k.images} {
			text, err := os.ReadFile(filepath.Join("testdata/kubespray", version, name))
			if err != nil {
				t.Fatal(err)
			}
			*into = strings.Fields(string(text))
		}
		all = append(all, k)
	}
	return all
}

// fewer returns the first file of each host and the first image of each registry.
func (k kubesprayLists) fewer() kubesprayLists {
	few, seen := kubesprayLists{version: k.version}, map[string]bool{}
	first := func(name string) bool {
		host, _, _ := strings.Cut(strings.TrimPrefix(name, "https://"), "/")
		again := seen[host]
		seen[host] = true
		return !again
	}
	for _, url := range k.files {
		if first(url) {
			few.files = append(few.files, url)
		}
	}
	for _, ref := range k.images {
		if first(ref) {
			few.images = append(few.images, ref)
		}
	}
	return few
}

// The variables of Kubespray's defaults that its downloads' names begin with.
var (
	kubesprayURLs = map[string]string{"github_url": "https://github.com", "dl_k8s_io_url": "https://dl.k8s.io",
		"storage_googleapis_url": "https://storage.googleapis.com",
		"get_helm_url":           "https://get.helm.sh"}
	kubesprayImages = map[string]string{"kube_image_repo": "registry.k8s.io", "docker_image_repo": "docker.io",
		"quay_image_repo": "quay.io", "github_image_repo": "ghcr.io"}
)

// kubesprayKeeps are the names of the lists that are requested at their own hosts in mirror mode too: none. Names
// without a variable, like the sidecars of some cloud's storage, or with a host that is no origin, like Huawei's and
// NVIDIA's, are in none of the lists.
var kubesprayKeeps = []string{}

// keptHost finds the hosts in the note about unchanged hosts: VARIABLE (HOST).
var keptHost = regexp.MustCompile(`\(([a-z0-9.-]+)\)`)

// template is a name as Kubespray's defaults write it: a variable, and the rest.
func template(name string, vars map[string]string) string {
	for v, value := range vars {
		if rest, ok := strings.CutPrefix(name, value+"/"); ok {
			return "{{ " + v + " }}/" + rest
		}
	}
	return name
}

// kubesprayContent is something under every name of the lists.
type kubesprayContent struct {
	tree, layout string
	sums         map[string]string // of the files, by URL
	digests      map[string]string // of the images, by name
}

func makeKubesprayContent(t *testing.T, all []kubesprayLists) *kubesprayContent {
	t.Helper()
	dir := t.TempDir()
	c := &kubesprayContent{tree: filepath.Join(dir, "files"), layout: filepath.Join(dir, "images"),
		sums: map[string]string{}, digests: map[string]string{}}
	p, err := layout.Write(c.layout, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		for _, url := range k.files {
			size := 2000 + len(url)
			if strings.HasSuffix(url, "/kubelet") || strings.Contains(url, "/kata-static") {
				size = 5<<20 + 1
			}
			data := make([]byte, size)
			rand.NewChaCha8(sha256.Sum256([]byte(url))).Read(data)
			c.sums[url] = fmt.Sprintf("%x", sha256.Sum256(data))
			name := filepath.Join(c.tree, strings.TrimPrefix(url, "https://"))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, ref := range k.images {
			if c.digests[ref] != "" {
				continue // in both lists
			}
			as := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})
			var d v1.Hash
			// one image with Docker's media types, as there are many on the Hub
			if strings.HasPrefix(ref, "docker.io/") {
				img := smallImage(t, ref, goarch(), types.DockerManifestSchema2, types.DockerConfigJSON,
					types.DockerLayer)
				if d, err = img.Digest(); err == nil {
					err = p.AppendImage(img, as)
				}
			} else {
				idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
				for _, arch := range []string{"s390x", goarch()} {
					idx = mutate.AppendManifests(idx,
						mutate.IndexAddendum{Add: smallImage(t, ref, arch, types.OCIManifestSchema1,
							types.OCIConfigJSON, types.OCILayer),
							Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
				}
				if d, err = idx.Digest(); err == nil {
					err = p.AppendIndex(idx, as)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			c.digests[ref] = d.String()
		}
	}
	return c
}

// kubespray publishes files and images. Assets of releases at github.com are redirects, as they are there.
func (n *internet) kubespray(t *testing.T, c *kubesprayContent) {
	t.Helper()
	for url, sum := range c.sums {
		at := strings.TrimPrefix(url, "https://")
		data, err := os.ReadFile(filepath.Join(c.tree, at))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(at, "github.com/") {
			asset := "release-assets.githubusercontent.com/" + sum
			n.moved[at] = "https://" + asset + "?sig=s3cretquery"
			at = asset
		}
		n.files[at] = data
	}
	p, err := layout.FromPath(c.layout)
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	for ref, digest := range c.digests {
		h, err := v1.NewHash(digest)
		if err != nil {
			t.Fatal(err)
		}
		var content remote.Taggable
		if rest, hub := strings.CutPrefix(ref, "docker.io/"); hub {
			ref = "index.docker.io/" + rest
			content, err = all.Image(h)
		} else {
			content, err = all.ImageIndex(h)
		}
		if err != nil {
			t.Fatal(err)
		}
		n.put(t, ref, content)
	}
}

// smallImage is an image with one file that identifies it.
func smallImage(t *testing.T, name, arch string, manifest, config, layer types.MediaType) v1.Image {
	t.Helper()
	var buf bytes.Buffer
	text := name + " " + arch + "\n"
	w := tar.NewWriter(&buf)
	w.WriteHeader(&tar.Header{Name: "name", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
	io.WriteString(w, text)
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(layer))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), config), l)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// The steps are Kubespray's (roles/download, roles/container-engine/containerd), without the ways round that an
// inventory has to ask for. A file that Kubespray knows no checksum for is fetched without one: get_url then asks
// whether it has changed.
const (
	kubesprayBook = `
- hosts: all
  gather_subset: ["!all"]
  roles: [kubespray_defaults, containerd, download]
`
	kubesprayContainerd = `
- name: Write hosts.toml
  template: {src: hosts.txtar.j2, dest: "{{ containerd_cfg_dir }}.txtar", mode: "0640"}
`
	// All of them in one file, for every run of a module takes half a second.
	kubesprayHosts = `{% for r in containerd_registries_mirrors %}
-- {{ r.prefix }}/hosts.toml --
server = "{{ r.server | default('https://' + r.prefix) }}"
{% for m in r.mirrors %}
[host."{{ m.host }}"]
  capabilities = {{ [m.capabilities] | flatten | to_json }}
  skip_verify = {{ m.skip_verify | default(false) | bool | to_json }}
  override_path = {{ m.override_path | default(false) | bool | to_json }}
{% if m.ca is defined %}
  ca = {{ [m.ca] | flatten | to_json }}
{% endif %}
{% endfor %}
{% endfor %}
`
	kubesprayDownload = `
- name: Download items
  get_url:
    url: "{{ item.url }}"
    dest: "{{ local_release_dir }}/{{ item.dest }}"
    mode: "0755"
    checksum: "{{ item.checksum }}"
    validate_certs: "{{ download_validate_certs }}"
    timeout: 10
  register: got
  until: got.msg is search('OK|file already exists') or got.status_code | default(0) == 304
  retries: "{{ download_retries }}"
  delay: "{{ retry_stagger | default(5) }}"
  loop: "{{ files }}"
- name: Download items without a checksum
  get_url:
    url: "{{ item.url }}"
    dest: "{{ local_release_dir }}/{{ item.dest }}"
    mode: "0755"
    validate_certs: "{{ download_validate_certs }}"
  register: unsure
  until: unsure.msg is search('OK|file already exists') or unsure.status_code | default(0) == 304
  retries: "{{ download_retries }}"
  delay: "{{ retry_stagger | default(5) }}"
  loop: "{{ one_of_each_host }}"
  when: again | bool
- name: Say what was done
  copy:
    dest: "{{ local_release_dir }}.json"
    content: "{{ {'files': got.results, 'unsure': unsure.results, 'images': images} | to_json }}"
`
)

// kubespray is a small checkout with an inventory, on the host that it installs.
type kubespray struct {
	kubesprayLists
	host *host
	dir  string // below the host's directory
	sums map[string]string
}

// downloaded is Ansible's result for the files, and the images' names after it, in the lists' order.
type downloaded struct {
	Files, Unsure []struct {
		URL, Msg   string
		Changed    bool
		StatusCode int `json:"status_code"`
	}
	Images []string
}

func (h *host) kubespray(c *kubesprayContent, l kubesprayLists) *kubespray {
	k := &kubespray{kubesprayLists: l, host: h, dir: "kubespray-" + l.version, sums: c.sums}
	type file struct {
		URL      string `json:"url"`
		Dest     string `json:"dest"`
		Checksum string `json:"checksum"`
	}
	var files, each []file
	hosts := map[string]bool{}
	for _, url := range l.files {
		f := file{template(url, kubesprayURLs), k.dest(url), "sha256:" + c.sums[url]}
		files = append(files, f)
		if up := strings.Split(url, "/")[2]; !hosts[up] {
			hosts[up], each = true, append(each, f)
		}
	}
	var images []string
	for _, ref := range l.images {
		images = append(images, template(ref, kubesprayImages))
	}
	vars := map[string]any{"files": files, "one_of_each_host": each, "images": images,
		"containerd_registries_mirrors": []string{},
		"containerd_cfg_dir":            h.path(k.dir + "/containerd"),
		"local_release_dir":             h.path(k.dir + "/releases"), "download_retries": 4,
		"download_validate_certs": true}
	for _, m := range []map[string]string{kubesprayURLs, kubesprayImages} {
		for name, value := range m {
			vars[name] = value
		}
	}
	defaults, err := json.Marshal(vars) // which is YAML
	if err != nil {
		h.lab.t.Fatal(err)
	}
	for name, content := range map[string]string{
		"cluster.yml": kubesprayBook, "inventory/hosts.ini": "node ansible_connection=local " +
			"ansible_python_interpreter=/usr/bin/python3\n",
		"roles/kubespray_defaults/defaults/main.yml": string(defaults),
		"roles/download/tasks/main.yml":              kubesprayDownload,
		"roles/containerd/tasks/main.yml":            kubesprayContainerd,
		"roles/containerd/templates/hosts.txtar.j2":  kubesprayHosts,
		"releases/.keep":                             "",
	} {
		h.write(k.dir+"/"+name, content)
	}
	return k
}

// knowsItself gives the host a name, which Ansible looks up and a real node has.
func (h *host) knowsItself(t *testing.T) {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	h.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 "+name+"\n")
}

func (k *kubespray) dest(url string) string {
	return strings.ReplaceAll(strings.TrimPrefix(url, "https://"), "/", "-")
}

// play runs Ansible, and compares every file with its checksum. The files without a checksum are only asked for where
// they are there already.
func (k *kubespray) play(again bool) (*downloaded, error) {
	out, err := k.host.try("env", "LC_ALL=C.UTF-8", "ANSIBLE_PIPELINING=1", "ansible-playbook", "-i",
		k.host.path(k.dir+"/inventory/hosts.ini"),
		"-e", fmt.Sprintf("again=%v", again), k.host.path(k.dir+"/cluster.yml"))
	if err != nil {
		return nil, fmt.Errorf("%s: ansible-playbook: %w\n%s", k.version, err, out)
	}
	text, err := os.ReadFile(k.host.path(k.dir + "/releases.json"))
	if err != nil {
		return nil, err
	}
	var d downloaded
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, err
	}
	if len(d.Files) != len(k.files) || len(d.Images) != len(k.images) {
		return nil, fmt.Errorf("%s: %d files of %d, %d images of %d", k.version, len(d.Files), len(k.files),
			len(d.Images), len(k.images))
	}
	for _, url := range k.files {
		data, err := os.ReadFile(k.host.path(k.dir + "/releases/" + k.dest(url)))
		if err != nil {
			return nil, err
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != k.sums[url] {
			return nil, fmt.Errorf("%s: %s has the checksum %s, not %s", k.version, url, got, k.sums[url])
		}
	}
	return &d, nil
}

// playAll runs Ansible for all releases at once: most of it is Python getting up.
func playAll(all []*kubespray, again bool) ([]*downloaded, error) {
	done, errs := make([]*downloaded, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	for i, k := range all {
		wg.Go(func() { done[i], errs[i] = k.play(again) })
	}
	wg.Wait()
	return done, errors.Join(errs...)
}

// hosts writes the hosts.toml that the containerd role made, and returns their directory.
func (k *kubespray) hosts(t *testing.T) string {
	t.Helper()
	ar, err := txtar.ParseFile(k.host.path(k.dir + "/containerd.txtar"))
	if err != nil || len(ar.Files) == 0 {
		t.Fatalf("no hosts.toml: %v", err)
	}
	for _, f := range ar.Files {
		k.host.write(k.dir+"/containerd/"+f.Name, string(f.Data))
	}
	return k.host.path(k.dir + "/containerd")
}

// pullAll pulls images with containerd, into a namespace that shares no content with others, and compares their
// digests.
func (h *host) pullAll(t *testing.T, sock, namespace, hosts string, want map[string]string) {
	t.Helper()
	ctr := []string{"ctr", "-a", sock, "-n", namespace, "images"}
	pull := append([]string{"xargs", "-P", "4", "-n", "1"}, append(ctr, "pull", "--snapshotter", "native")...)
	if hosts != "" {
		pull = append(pull, "--hosts-dir", hosts)
	}
	if out, err := h.tryIn(strings.Join(slices.Sorted(maps.Keys(want)), "\n"), pull...); err != nil {
		t.Fatalf("%s: %v\n%s", namespace, err, out)
	}
	got := map[string]string{}
	for line := range strings.Lines(h.must(t, append(ctr, "list")...)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] != "REF" {
			got[f[0]] = f[2]
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(want)) {
		if got[ref] != want[ref] {
			t.Errorf("%s: %s is %s, not %s", namespace, ref, got[ref], want[ref])
		}
	}
}

// isolated starts a containerd whose namespaces share no content, so that every one of them really pulls.
func (h *host) isolated(t *testing.T) string {
	t.Helper()
	dir := h.path("tmp/containerd")
	sock := dir + ".sock"
	h.write("etc/containerd.toml", `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "isolated"
`)
	h.daemon(t, "containerd", "containerd", "-c", h.path("etc/containerd.toml"), "--root", dir+"/root", "--state",
		dir+"/state", "-a", sock)
	until(t, "containerd answers", func() error {
		out, err := h.try("ctr", "-a", sock, "version")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return sock
}

func (b *bastion) missedNothing(t *testing.T) {
	t.Helper()
	if out := b.casemate(t, "missing", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("the missing book of %s:\n%s", b.name, out)
	}
}

// TestKubespray makes the downloads of two releases of Kubespray, all names of its lists, as its roles do: with
// Ansible's get_url and with containerd. Once with only the bastions as resolvers, once without them and with the
// generated variables; in the middle of that the bastion that is first everywhere dies.
func TestKubespray(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("ansible-playbook"); err != nil {
		t.Fatalf("%v: cmd/casemate/e2e/prepare installs it", err)
	}
	lists := readKubesprayLists(t)
	content := makeKubesprayContent(t, lists)
	l := newLab(t)
	tr := newTrio(t, l)
	n1, n2 := tr.nodes[0], tr.nodes[1]
	ca := n1.casemate(t, "ca")

	began := time.Now()
	lap := func(what string) {
		t.Logf("%-40s %5.1f s", what, time.Since(began).Seconds())
		began = time.Now()
	}
	n1.casemate(t, "import", "--name", "kubespray-files", content.tree)
	n1.casemate(t, "import", "--name", "kubespray-images", content.layout)
	tr.whole(3)
	lap(fmt.Sprintf("import %d files, %d images", len(content.sums), len(content.digests)))

	t.Run("DNS and no offline variable", func(t *testing.T) {
		node := l.host("node", "")
		node.write("etc/resolv.conf", fmt.Sprintf("nameserver %s\nnameserver %s\nnameserver %s\n", n1.ip, n2.ip,
			tr.nodes[2].ip))
		node.trust(ca)
		node.knowsItself(t)
		var all []*kubespray
		for _, list := range lists {
			k := node.kubespray(content, list)
			n1.casemate(t, "kubespray", "vars", "--mode", "dns", "--dir", node.path(k.dir+"/inventory"))
			all = append(all, k)
		}
		done, err := playAll(all, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range done {
			for j, f := range d.Files {
				if f.URL != lists[i].files[j] || !f.Changed || f.StatusCode != 200 {
					t.Errorf("%s: %+v", lists[i].files[j], f)
				}
			}
			if !slices.Equal(d.Images, lists[i].images) {
				t.Errorf("%s: images are %v", lists[i].version, d.Images)
			}
		}
		lap("DNS: get_url")
		if done, err = playAll(all, true); err != nil {
			t.Fatal(err)
		}
		for _, d := range done {
			if len(d.Unsure) == 0 {
				t.Error("no file was asked for without a checksum")
			}
			for _, f := range d.Files {
				if f.Changed {
					t.Errorf("%s was fetched again: %+v", f.URL, f)
				}
			}
			for _, f := range d.Unsure {
				if f.Changed || f.StatusCode != 304 {
					t.Errorf("%s: should be 304 Not Modified: %+v", f.URL, f)
				}
			}
		}
		lap("DNS: get_url again")
		node.pullAll(t, node.isolated(t), "upstream", "", content.digests)
		lap("DNS: containerd")
		// What nodes ask besides, by their search lists and about themselves.
		node.must(t, "dig", "+short", "node1", "node1.cluster.local", "node1.default.svc.cluster.local",
			"quay.io.default.svc.cluster.local", "registry.k8s.io.lab.example", "_http._tcp.deb.nowhere.example", "A")
		node.must(t, "dig", "+short", "-x", node.ip)
		n1.missedNothing(t) // while it lives: it may have misses that it has not sent to any node yet
	})

	t.Run("mirror variables", func(t *testing.T) {
		node := l.fresh(t, "mirrored")
		node.write("etc/resolv.conf", "") // a program that looks up a name outside its hosts file fails at once
		node.must(t, "sh", node.write("tmp/enroll.sh", n1.casemate(t, "enroll", "--format", "sh")), "--no-resolver",
			"--no-restart")
		said := map[string]bool{} // the hosts that the command reports as unchanged
		var all []*kubespray
		for _, list := range lists {
			k := node.kubespray(content, list)
			vars := []string{"kubespray", "vars", "--mode", "mirror", "--version", k.version}
			n1.casemate(t, append(vars, "--dir", node.path(k.dir+"/inventory"))...)
			var conf struct{ Notes []string }
			if err := json.Unmarshal([]byte(n1.casemate(t, append(vars, "-o", "json")...)), &conf); err != nil {
				t.Fatal(err)
			}
			for _, m := range keptHost.FindAllStringSubmatch(strings.Join(conf.Notes, "\n"), -1) {
				said[m[1]] = true
			}
			all = append(all, k)
		}
		var done []*downloaded
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { done, err = playAll(all, false) })
		until(t, "some files are there", func() error {
			files, err := os.ReadDir(node.path(all[0].dir + "/releases"))
			if err == nil && len(files) < 8 {
				err = fmt.Errorf("%d are", len(files))
			}
			return err
		})
		tr.kill(n1)
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		lap("mirrors: get_url, one bastion dies")

		sock := node.isolated(t)
		const files, registry = "https://files.casemate.internal/", "registry.casemate.internal/"
		keep := []string{}
		for i, d := range done {
			upstream, mirrored := map[string]string{}, map[string]string{}
			for j, f := range d.Files {
				if url := lists[i].files[j]; f.URL != files+strings.TrimPrefix(url, "https://") {
					keep = append(keep, url)
				}
			}
			for j, ref := range d.Images {
				name := lists[i].images[j]
				upstream[name], mirrored[ref] = content.digests[name], content.digests[name]
				if ref != registry+name {
					keep = append(keep, name)
				}
			}
			hosts := all[i].hosts(t)
			node.pullAll(t, sock, "mirrored-"+all[i].version, hosts, mirrored)
			node.pullAll(t, sock, "upstream-"+all[i].version, hosts, upstream)
		}
		lap("mirrors: containerd, by both names")
		if !slices.Equal(keep, kubesprayKeeps) {
			t.Errorf("these keep their host: %v, not %v", keep, kubesprayKeeps)
		}
		announced := []string{}
		for _, list := range lists {
			for _, name := range slices.Concat(list.files, list.images) {
				if host, _, _ := strings.Cut(strings.TrimPrefix(name, "https://"), "/"); said[host] {
					announced = append(announced, name)
				}
			}
		}
		if len(said) == 0 || !slices.Equal(announced, keep) {
			t.Errorf("it is said that %v keep their host (hosts %v), and %v do", announced, said, keep)
		}
	})

	t.Run("nothing was asked for in vain", func(t *testing.T) { n2.missedNothing(t) })
	t.Run("check says that all is here", func(t *testing.T) {
		var args []string
		for _, list := range lists {
			var sums strings.Builder
			for _, url := range list.files {
				fmt.Fprintf(&sums, "%s sha256:%s\n", url, content.sums[url])
			}
			args = append(args, "--files", n2.write(list.version+".files", sums.String()), "--images",
				n2.write(list.version+".images", strings.Join(list.images, "\n")))
		}
		n2.casemate(t, append([]string{"check", "--platform", "linux/" + goarch()}, args...)...)
	})
}
