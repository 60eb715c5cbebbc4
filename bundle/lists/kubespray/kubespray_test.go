package kubespray

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"casemate/bundle/lists"
)

// The checkout in testdata has the shape of Kubespray's and content of our own. Its checksums are numbers, written as
// 64 digits.
func sum(n int) string { return fmt.Sprintf("sha256:%064d", n) }

func TestKubespray(t *testing.T) {
	const chartSum = "sha512:0000000000000000000000000000000000000000000000000000000000000051" +
		"0000000000000000000000000000000000000000000000000000000000000052"
	for _, c := range []struct {
		name          string
		opt           Options
		images, files []string
	}{
		{"as it is", Options{},
			[]string{"docker.io/harbour/store:v3.10", "registry.k8s.io/pause:3.11", "registry.k8s.io/beacon/" +
				"beacon:v1.8.1", "docker.io/library/buoy:1.28-alpine",
				"quay.io/cilium/operator:v1.19.3", "registry.k8s.io/kube-one:v1.36.2", "registry.k8s.io/kube-two:" +
					"v1.36.2"},
			[]string{"https://files.example/v1.36.2/bin/amd64/anchor " + sum(11), "https://files.example/rope/" +
				"rope-2.10.0-x86_64.tar.gz " + sum(31),
				"https://files.example/knot-1.36.5-linux-amd64 " + sum(42), "https://files.example/chart/" +
					"v1.20.tgz " + chartSum}},
		{"arm64", Options{Arch: "arm64"},
			[]string{"docker.io/harbour/store:v3.10", "registry.k8s.io/pause:3.11", "registry.k8s.io/beacon/" +
				"beacon:v1.8.1", "docker.io/library/buoy:1.28-alpine",
				"quay.io/cilium/operator:v1.19.3", "registry.k8s.io/kube-one:v1.36.2", "registry.k8s.io/kube-two:" +
					"v1.36.2"},
			[]string{"https://files.example/v1.36.2/bin/arm64/anchor " + sum(21), "https://files.example/rope/" +
				"rope-2.10.0-aarch64.tar.gz ",
				"https://files.example/knot-1.36.5-linux-arm64 ", "https://files.example/chart/v1.20.tgz " + chartSum}},
		{"an inventory", Options{Vars: []Vars{
			{"all.yml", strings.NewReader("kube_version: 1.36.1\nbeacon_version: 1.6\nstatic_rope: yes\nstore: " +
				"kubeadm\n")},
			{"later.yml", strings.NewReader("kube_version: 1.35.9\npause_by_series: {'1.35': " +
				"9}\nstore_digest_checksum: " + strings.Repeat("e", 64) + "\n")}}},
			[]string{"docker.io/harbour/store:v3.10@sha256:" + strings.Repeat("e", 64), "registry.k8s.io/pause:9",
				"registry.k8s.io/beacon:1.6", "docker.io/library/buoy:1.28-alpine",
				"quay.io/cilium/operator:v1.19.3", "registry.k8s.io/kube-one:v1.35.9", "registry.k8s.io/kube-two:" +
					"v1.35.9"},
			// The rope's entry is about the image of the store now; the file's checksum is found in the table.
			[]string{"https://files.example/v1.35.9/bin/amd64/anchor " + sum(13), "https://files.example/rope/" +
				"static-rope-2.10.0-x86_64.tar.gz " + sum(31),
				"https://files.example/knot-1.35.3-linux-amd64 " + sum(44), "https://files.example/chart/" +
					"v1.20.tgz " + chartSum}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := Read(os.DirFS("testdata/kubespray"), c.opt)
			if err != nil {
				t.Fatal(err)
			}
			if k.Release != "v9.1.0" {
				t.Errorf("release %q", k.Release)
			}
			sameList(t, "images", refsOf(k.Images), c.images)
			sameList(t, "files", urlsOf(k.Files), c.files)
		})
	}
}

func TestKubesprayForgotten(t *testing.T) {
	k, err := Read(os.DirFS("testdata/kubespray"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range k.Forgotten {
		got = append(got, f.Name()+" | "+f.Variable+" | "+f.Where)
	}
	const download, lantern, harbour = "roles/kubespray_defaults/defaults/main/" +
		"download.yml:", "roles/addons/lantern/", "roles/addons/harbour/"
	sameList(t, "forgotten", got, []string{
		"https://files.example/extra/install.yaml | downloads.extra | " + download + "54",
		"quay.io/harbour/controller:from-vars | quay.io/harbour/controller:{{ " +
			"harbour_tag }} | " + harbour + "templates/values.yaml:2",
		"docker.io/library/buoy:from-the-role | {{ buoy_image_repo }}:{{ buoy_image_tag }} | " + harbour +
			"templates/values.yaml:6",
		"docker.io/library/busybox:latest | busybox:{{ lantern_tag }} | " + lantern + "templates/lantern.yml.j2:3",
		"docker.io/lantern/dpdk:1 | {{ docker_image_repo }}/lantern/dpdk:1 | " + lantern + "templates/lantern.yml.j2:7",
		"docker.io/lantern/plain:latest | {{ docker_image_repo }}/lantern/plain:{{ " +
			"lantern_tag }} | " + lantern + "templates/lantern.yml.j2:7",
		"https://charts.example/lantern lantern 1.1.0 | lantern_chart_ref | " + lantern + "defaults/main.yml:3",
		"https://files.example/lantern.yaml | lantern_install_url | " + lantern + "defaults/main.yml:8",
		"ghcr.io/lantern/light@sha256:0000000000000000000000000000000000000000000000000000000000000007 | " +
			"lantern_light_container | " + lantern + "defaults/main.yml:7",
		"https://helm.cilium.io cilium 1.19.3 | cilium_version | roles/network_plugin/cilium/tasks/apply.yml:1",
		"quay.io/cilium/operator-generic:v1.19.3 | cilium_operator_image_repo | " + download + "27",
	})
	notes := strings.Join(k.Notes, "\n")
	for _, want := range []string{"templates/lantern.yml.j2:6: cannot find out which image {{ item.image }} is: item " +
		"is not defined", "extra/install.yaml may name images",
		"the chart lantern names more images", "lantern.yaml is in no entry of downloads"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q in\n%s", want, notes)
		}
	}
}

// Every error names the variable, its file and its line.
func TestKubesprayErrors(t *testing.T) {
	const role = "roles/kubespray_defaults/defaults/main/"
	for _, c := range []struct {
		name, download string
		want           string
	}{
		{"undefined", "a_download_url: \"https://x/{{ b }}\"\nb: \"{{ c.d[0] }}\"", role + "download.yml:2: the " +
			"variable b cannot be evaluated: c is not defined"},
		{"no such key", "a_download_url: \"https://x/{{ t['1.9'] }}\"\nt: {'1.8': x}", role +
			`download.yml:1: the variable a_download_url cannot be evaluated: t["1.9"] is not defined`},
		{"cycle", "a_download_url: \"{{ b }}\"\nb: \"{{ c }}\"\nc: \"{{ b }}\"", role +
			"download.yml:2: the variable " +
			"b cannot be evaluated: it refers to itself (b → c → b)"},
		{"filter", "a_download_url: \"{{ 'x' | to_nice_json }}\"", role + "download.yml:1: the variable " +
			"a_download_url cannot be evaluated: the filter to_nice_json is not supported"},
		{"syntax", "a_download_url: \"{{ 'x' | }}\"", "download.yml:1: the variable a_download_url cannot be " +
			"evaluated: want a name, got the end"},
		{"no URL", "a_download_url: nowhere", "download.yml:1: the variable a_download_url cannot be evaluated: " +
			"\"nowhere\" has no scheme"},
		{"image", "downloads: {x: {repo: 'case/UPPER', tag: '1'}}", "downloads.x: \"case/UPPER:1\" is not an image " +
			"reference"},
		{"tag", "downloads: {x: {repo: 'a/b', tag: '{{ nobody }}'}}", "downloads.x.tag: " + role + "download.yml:1: " +
			"the variable downloads cannot be evaluated: nobody is not defined"},
		{"vault", "a_download_url: !vault xyz", "download.yml:1: the variable a_download_url cannot be evaluated: it " +
			"is encrypted with ansible-vault"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(c.download, "downloads:") {
				c.download += "\ndownloads: {}"
			}
			_, err := Read(fstest.MapFS{
				role + "download.yml": {Data: []byte(c.download + "\nkube_version: 1\n")},
				generateList: {
					Data: []byte("KUBE_IMAGES=\"a\"\n echo \"r.example/$i:v{{ kube_version }}\"\n"),
				},
				"roles/x": {Mode: fs.ModeDir | 0o755},
			}, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want …%s…", err, c.want)
			}
		})
	}
	if _, err := Read(fstest.MapFS{}, Options{}); err == nil ||
		!strings.Contains(err.Error(), "name a checkout of Kubespray v2.24 or newer") {
		t.Errorf("an empty directory: %v", err)
	}
}

// CASEMATE_KUBESPRAY is a checkout of Kubespray, CASEMATE_KUBESPRAY_LISTS a directory with the images.list and
// files.list that its own script made, for CASEMATE_KUBESPRAY_ARCH (amd64) and with the variables in the file
// CASEMATE_KUBESPRAY_VARS.
func TestKubesprayCheckout(t *testing.T) {
	dir := os.Getenv("CASEMATE_KUBESPRAY")
	if dir == "" {
		t.Skip("CASEMATE_KUBESPRAY names no checkout")
	}
	opt := Options{Arch: os.Getenv("CASEMATE_KUBESPRAY_ARCH")}
	if name := os.Getenv("CASEMATE_KUBESPRAY_VARS"); name != "" {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		opt.Vars = append(opt.Vars, Vars{name, f})
	}
	k, err := Read(os.DirFS(dir), opt)
	if err != nil {
		t.Fatal(err)
	}
	digests := 0
	for _, f := range k.Files {
		if f.Digest != "" {
			digests++
		}
	}
	t.Logf(
		"%s: %d images, %d files (%d with digests), %d forgotten",
		k.Release,
		len(k.Images),
		len(k.Files),
		digests,
		len(k.Forgotten),
	)
	for _, n := range k.Notes {
		t.Log(n)
	}
	for _, f := range k.Forgotten {
		t.Logf("forgotten %s: %s: %s", f.Name(), f.Where, f.Variable)
	}
	lists := os.Getenv("CASEMATE_KUBESPRAY_LISTS")
	if lists == "" {
		t.Skip("CASEMATE_KUBESPRAY_LISTS names no directory to compare with")
	}
	var images, files []string
	for _, i := range k.Images {
		images = append(images, i.Ref())
	}
	for _, f := range k.Files {
		files = append(files, f.URL)
	}
	compareList(t, filepath.Join(lists, "images.list"), images)
	compareList(t, filepath.Join(lists, "files.list"), files)
}

func compareList(t *testing.T, name string, got []string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(string(b))
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: %s is missing", name, w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%s: %s is too much", name, g)
		}
	}
	if !t.Failed() && !slices.Equal(got, want) {
		t.Errorf("%s: the order differs", name)
	}
}

func refsOf(images []lists.Image) []string {
	var s []string
	for _, i := range images {
		s = append(s, i.Ref())
	}
	return s
}

func urlsOf(files []lists.File) []string {
	var s []string
	for _, f := range files {
		s = append(s, f.URL+" "+f.Digest)
	}
	return s
}

func sameList(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// A real checkout's table agrees with the checkout's own expressions, for every file of its list for which it has a
// checksum.
func TestChecksumsOfCheckout(t *testing.T) {
	dir := os.Getenv("CASEMATE_KUBESPRAY")
	if dir == "" {
		t.Skip("CASEMATE_KUBESPRAY names no checkout")
	}
	k, err := Read(os.DirFS(dir), Options{})
	if err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(dir + "/roles/kubespray*/*/main/checksums.yml")
	f, err := os.Open(names[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := lists.ReadChecksums("checksums.yml", f)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range k.Files {
		switch digest, known, ok := c.Find(file.URL); {
		case !ok:
			t.Logf("%s: %s", file.URL, known)
		case digest != file.Digest:
			t.Errorf("%s: %s says %s, the checkout's expression %s", file.URL, known, digest, file.Digest)
		default:
			found++
		}
	}
	t.Logf("%d of %d found", found, len(k.Files))
}
