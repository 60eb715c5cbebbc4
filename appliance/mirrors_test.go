package appliance

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/nodeconf"
	"casemate/appliance/setup"
	"casemate/bundle/format"
	"casemate/bundle/lists/kubespray"
)

func TestMirrorsByTheAdminAPI(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	var c nodeconf.Conf
	for _, runtime := range nodeconf.Runtimes() {
		if n.must("GET", "mirrors?for="+runtime, nil, &c); len(c.Files) < 3 || len(c.Notes) == 0 {
			t.Errorf("%s: %+v", runtime, c)
		}
	}
	for path, want := range map[string]string{
		"mirrors?for=rkt": `got "rkt"`, "mirrors": `got ""`, "kubespray?mode=x": `must be dns or mirror, got "x"`,
		"kubespray?mode=mirror&version=v9.9.9": `version "v9.9.9" of Kubespray is not known`,
	} {
		if status, sentence := n.admin("GET", path, nil, nil); status != http.StatusBadRequest ||
			!strings.Contains(sentence, want) {
			t.Errorf("%s: %d %s", path, status, sentence)
		}
	}
	if status, sentence := n.admin("POST", "kubespray?mode=dns", `{"release":"v2\n"}`,
		nil); status != http.StatusBadRequest {
		t.Errorf("a hostile release: %d %s", status, sentence)
	}
}

// TestUnlistedRegistriesAreMisses: what the catch-alls of mirror configurations ask for is a quick miss that the
// missing book has.
func TestUnlistedRegistriesAreMisses(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	for path, name := range map[string]string{
		"/v2/team/app/manifests/1?ns=nobody.example":      "nobody.example/team/app:1",
		"/v2/unlisted.invalid/team/app/manifests/2":       "unlisted.invalid/team/app:2",
		"/v2/library/nginx/manifests/3?ns=harbor.corp:80": "harbor.corp/library/nginx:3",
	} {
		if resp, text := n.do("GET", "https://n1.casemate.internal"+path, nil); resp.StatusCode != 404 ||
			!strings.Contains(text, "_UNKNOWN") {
			t.Errorf("%s: %s %s", path, resp.Status, text)
		}
		var book []struct{ Kind, Name string }
		n.must("GET", "missing", nil, &book)
		if !slices.ContainsFunc(book, func(m struct{ Kind, Name string }) bool {
			return m.Kind == "image" && m.Name == name
		}) {
			t.Errorf("%s is not in the book: %+v", name, book)
		}
	}
}

// TestFileOriginsAreNoRegistries: an origin that was added by hand and holds nothing but files gets no mirror.
func TestFileOriginsAreNoRegistries(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	for _, host := range []string{"empty.k8s.io", "files.k8s.io", "images.k8s.io", "both.k8s.io"} {
		n.must("PUT", "origins/"+host, nil, nil)
	}
	n.mustImport(newStick(t).file("https://files.k8s.io/f", "f").file("https://both.k8s.io/f", "f").image(
		"both.k8s.io/a/b:1", []byte("layer")).
		image("images.k8s.io/a/b:1", []byte("layer")).image("storage.googleapis.com/a/b:1", []byte("layer")).write(
		"b.tar", format.WriteOptions{})...)
	s, err := n.site()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{"empty.k8s.io": true, "files.k8s.io": false, "images.k8s.io": true,
		"both.k8s.io": true,
		"quay.io":     true, "github.com": false, "storage.googleapis.com": true} {
		if got := slices.Contains(s.Registries(), host); got != want {
			t.Errorf("%s is a registry: %v, want %v", host, got, want)
		}
	}
	var c nodeconf.Conf
	n.must("GET", "mirrors?for=containerd&own=harbor.corp.example:8443", nil, &c)
	paths := map[string]bool{}
	for _, f := range c.Files {
		paths[f.Path] = true
	}
	for path, want := range map[string]bool{"images.k8s.io": true, "files.k8s.io": false, "_default": true,
		"harbor.corp.example:8443": true} {
		if got := paths["/etc/containerd/certs.d/"+path+"/hosts.toml"]; got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if status, sentence := n.admin("GET", "mirrors?for=containerd&own=quay.io", nil,
		nil); status != http.StatusBadRequest || !strings.Contains(sentence, "is an origin that the bastions serve") {
		t.Errorf("%d %s", status, sentence)
	}
}

// TestKubesprayAsksTheBastions computes what a release downloads with the variables of mirror mode, asks for all of it,
// and finds the very lists of that release, by their upstream names, in the missing book: nothing is asked for
// elsewhere, and nothing under a name that means something else here. The checkout in bundle/lists/kubespray/testdata
// has Kubespray's shape; CASEMATE_KUBESPRAY names real ones, divided by colons.
func TestKubesprayAsksTheBastions(t *testing.T) {
	t.Parallel()
	dirs := []string{"../bundle/lists/kubespray/testdata/kubespray"}
	if more := os.Getenv("CASEMATE_KUBESPRAY"); more != "" {
		dirs = append(dirs, strings.Split(more, ":")...)
	} else {
		t.Log("CASEMATE_KUBESPRAY names no real checkout")
	}
	for _, dir := range dirs {
		t.Run(dir, func(t *testing.T) {
			n := freshNode(t, setup.InitOptions{Set: map[string]string{"origins": "default files.example"},
				Permit: []string{"files.example"}})
			release, err := kubespray.ReadUpstream(os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			var conf nodeconf.Conf
			n.must("POST", "kubespray?mode=mirror", release, &conf)
			opt := kubespray.Options{Mirrors: true}
			for _, f := range conf.Files {
				opt.Vars = append(opt.Vars, kubespray.Vars{Name: f.Path, R: strings.NewReader(f.Content)})
			}
			upstream, err := kubespray.Read(os.DirFS(dir), kubespray.Options{})
			if err != nil {
				t.Fatal(err)
			}
			mirrored, err := kubespray.Read(os.DirFS(dir), opt)
			if err != nil {
				t.Fatal(err)
			}

			want, asked := map[string]bool{}, 0
			for _, f := range upstream.Files {
				want["file "+f.URL] = true
			}
			for _, i := range upstream.Images {
				want["image "+i.Ref()] = true
			}
			for _, f := range mirrored.Files {
				if !strings.HasPrefix(f.URL, "https://files.casemate.internal/") {
					t.Errorf("the file %s is asked for elsewhere", f.URL)
					continue
				}
				if resp, body := n.do("GET", f.URL, nil); resp.StatusCode != 404 {
					t.Errorf("%s: %s %s", f.URL, resp.Status, body)
				}
				asked++
			}
			for _, i := range mirrored.Images {
				repository, ok := strings.CutPrefix(i.Repository, "registry.casemate.internal/")
				if !ok {
					t.Errorf("the image %s is asked for elsewhere", i.Ref())
					continue
				}
				// Once by a client that resolves registry.<domain>, once by containerd, which goes to a node and says
				// whom it means.
				for _, url := range []string{
					fmt.Sprintf("https://registry.casemate.internal/v2/%s/manifests/%s", repository, i.Tag),
					fmt.Sprintf("https://n1.casemate.internal/v2/%s/manifests/%s?ns=registry.casemate.internal",
						repository, i.Tag),
				} {
					if resp, body := n.do("GET", url, nil); resp.StatusCode != 404 {
						t.Errorf("%s: %s %s", url, resp.Status, body)
					}
				}
				asked++
			}
			if asked == 0 || asked != len(want) {
				t.Errorf("asked for %d names, upstream has %d", asked, len(want))
			}
			var book []struct{ Kind, Name string }
			n.must("GET", "missing", nil, &book)
			got := map[string]bool{}
			for _, e := range book {
				got[e.Kind+" "+e.Name] = true
			}
			if !maps.Equal(got, want) {
				for _, name := range slices.Sorted(maps.Keys(want)) {
					if !got[name] {
						t.Errorf("nobody asked for %s", name)
					}
				}
				for _, name := range slices.Sorted(maps.Keys(got)) {
					if !want[name] {
						t.Errorf("asked for %s, which the release does not download", name)
					}
				}
			}
			// What is known without a checkout is what the checkout says.
			if known, err := nodeconf.KnownKubespray(release.Release); err == nil {
				if !maps.Equal(known.URLs, release.URLs) {
					t.Errorf("known are %q, the checkout says %q", known.URLs, release.URLs)
				}
				if !maps.Equal(known.Images, release.Images) {
					t.Errorf("known are %q, the checkout says %q", known.Images, release.Images)
				}
				if known.MirrorCA != release.MirrorCA || known.MirrorServer != release.MirrorServer ||
					known.CiliumCLI != release.CiliumCLI || known.CiliumChart != release.CiliumChart {
					t.Errorf("known %+v, the checkout says %+v", known, release)
				}
			}
			t.Logf("%s: %d names", release.Release, asked)
		})
	}
}
