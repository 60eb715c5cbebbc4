package lists

import (
	"strings"
	"testing"
)

// TestForeignLists reads the lists of other tools, or refuses them by name.
func TestForeignLists(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct{ what, text, want, err, note string }{
		{what: "a YAML list", text: "- nginx:1.25\n- quay.io/team/app:1 # a comment\n", want: "docker.io/library/" +
			"nginx:1.25 quay.io/team/app:1"},
		{what: "a YAML list with a typing error", text: "- nginx:1.25\n- No Image\n",
			err: "f.yaml:2: \"No Image\" is " +
				"not an image reference"},
		{what: "a JSON list", text: `["nginx:1.25"]`, want: "docker.io/library/nginx:1.25"},
		{what: "skopeo sync", text: "registry.example.com:5000:\n  tls-verify: false\n  images:\n    busybox: " +
			"[\"1.0\", 3.10]\n    team/app:\n      - " + digest + "\nquay.io:\n  credentials: {username: x}\n  " +
			"images:\n    coreos/etcd: [latest]\n",
			want: "registry.example.com:5000/busybox:1.0 registry.example.com:5000/busybox:3.10 " +
				"registry.example.com:5000/team/app@" + digest + " quay.io/coreos/etcd:latest",
			note: "f.yaml:4: registry.example.com:5000/busybox:1.0 is called registry.example.com/busybox:1.0 " +
				"inside: a port is not part of a name"},
		{what: "skopeo sync, all tags", text: "quay.io:\n  images:\n    coreos/etcd: []\n", err: "f.yaml:3: quay.io/" +
			"coreos/etcd without tags means all of them"},
		{what: "skopeo sync by expressions", text: "quay.io:\n  images-by-tag-regex:\n    coreos/etcd: ^v3\n  " +
			"images:\n    x: [\"1\"]\n", err: "images-by-tag-regex selects tags that the registry lists"},
		{what: "hauler's images", text: "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nmetadata:\n  " +
			"annotations: {hauler.dev/registry: quay.io}\nspec:\n  images:\n    - name: team/app:1\n    - name: " +
			"docker.io/nginx\n      platform: linux/amd64\n",
			want: "quay.io/team/app:1 docker.io/library/nginx:latest"},
		{what: "hauler's files",
			text: "apiVersion: content.hauler.cattle.io/v1alpha1\nkind: Files\nspec:\n  files:\n " +
				"   - path: https://get.k3s.io/x\n      name: k3s.sh\n", want: "https://get.k3s.io/x"},
		{what: "hauler's files on a disk", text: "apiVersion: content.hauler.cattle.io/v1\nkind: Files\nspec:\n  " +
			"files:\n    - path: testdata/x\n", err: "has no scheme"},
		{what: "hauler's charts",
			text: "apiVersion: content.hauler.cattle.io/v1\nkind: Charts\nspec:\n  charts:\n    " +
				"- {name: rancher, repoURL: \"https://charts.example/stable\", version: 2.8.2}\n    - {name: app, " +
				"repoURL: \"oci://quay.io/charts\", version: 1.0.0}\n",
			want: "quay.io/charts/app:1.0.0 chart rancher 2.8.2 of https://charts.example/stable"},
		{what: "hauler's local charts", text: "apiVersion: content.hauler.cattle.io/v1\nkind: Charts\nspec:\n  " +
			"charts:\n    - name: rancher\n", err: "has no repository"},
		{what: "hauler's lists elsewhere", text: "apiVersion: content.hauler.cattle.io/v1\nkind: " +
			"ImageTxts\nspec: {}\n", err: "hauler's \"ImageTxts\" is not supported"},
		{what: "hauler without images", text: "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nspec:\n  " +
			"images: []\n", err: "its list of images is empty"},
		{what: "oc-mirror", text: "apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\nmirror:\n  " +
			"platform:\n    channels: [{name: stable-4.15}]\n  additionalImages:\n    - name: " +
			"registry.redhat.io/ubi8/ubi:latest\n  helm:\n    repositories:\n      - name: p\n        url: " +
			"https://charts.example\n        charts: [{name: podinfo, version: 5.0.0}]\n",
			want: "registry.redhat.io/ubi8/ubi:latest chart podinfo 5.0.0 of " +
				"https://charts.example", note: "f.yaml:5: mirror.platform is left out"},
		{what: "oc-mirror without images", text: "apiVersion: mirror.openshift.io/v1alpha2\nkind: " +
			"ImageSetConfiguration\nmirror:\n  operators: [{catalog: x}]\n", err: "it names no image"},
		{what: "zarf", text: "kind: ZarfPackageConfig\ncomponents: []\n", err: "packages of zarf are not supported"},
		{what: "kustomize", text: "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nimages: [{name: " +
			"nginx, newTag: \"1\"}]\n", err: "render it (kubectl kustomize"},
		{what: "regsync", text: "version: 1\nsync:\n  - source: nginx:1\n    type: image\n", err: "configurations of " +
			"regsync are not supported"},
		{what: "a chart", text: "apiVersion: v2\nname: x\nversion: 1.0.0\n", err: "render the chart"},
	} {
		var l Parser
		l.Manifests("f.yaml", strings.NewReader(tt.text))
		w, err := l.Wanted()
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v", tt.what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		var got []string
		for _, i := range w.Images {
			got = append(got, i.Ref())
		}
		for _, f := range w.Files {
			got = append(got, f.URL)
		}
		for _, c := range w.Charts {
			got = append(got, c.Label())
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.what, s, tt.want)
		}
		if notes := strings.Join(l.Notes(), "\n"); tt.note == "" && notes != "" || !strings.Contains(notes, tt.note) {
			t.Errorf("%s: notes %q", tt.what, notes)
		}
	}
}

// TestSaid: what names nothing says nothing; a name that was given before, and a line that is wrong, say something.
func TestSaid(t *testing.T) {
	for text, said := range map[string]bool{"": false, "# a comment\n\n": false, "nginx:1": true, "No Image": true} {
		var l Parser
		if l.Images("f", strings.NewReader(text)); (l.AllNotes() > 0) != said {
			t.Errorf("%q said %d times something", text, l.AllNotes())
		}
	}
	for text, said := range map[string]bool{"": false, "# nothing\n---\n": false, "null\n": false,
		"apiVersion: v1\nkind: ConfigMap\n": false, "- {x: y}\n": false, "image: nginx:1\n": true} {
		var l Parser
		if l.Manifests("f", strings.NewReader(text)); (l.AllNotes() > 0) != said {
			t.Errorf("%q said %d times something", text, l.AllNotes())
		}
	}
}
