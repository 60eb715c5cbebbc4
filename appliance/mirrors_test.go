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
		"kubespray?mode=mirror&version=v9.9.9": `no Kubespray "v9.9.9" is known`,
	} {
		if status, sentence := n.admin("GET", path, nil, nil); status != http.StatusBadRequest || !strings.Contains(sentence, want) {
			t.Errorf("%s: %d %s", path, status, sentence)
		}
	}
	if status, sentence := n.admin("POST", "kubespray?mode=dns", `{"release":"v2\n"}`, nil); status != http.StatusBadRequest {
		t.Errorf("a hostile release: %d %s", status, sentence)
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
			n := freshNode(t, setup.InitOptions{Set: map[string]string{"origins": "default files.example"}, Permit: []string{"files.example"}})
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
					fmt.Sprintf("https://n1.casemate.internal/v2/%s/manifests/%s?ns=registry.casemate.internal", repository, i.Tag),
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
				if known.MirrorCA != release.MirrorCA || known.MirrorServer != release.MirrorServer || known.CiliumCLI != release.CiliumCLI || known.CiliumChart != release.CiliumChart {
					t.Errorf("known %+v, the checkout says %+v", known, release)
				}
			}
			t.Logf("%s: %d names", release.Release, asked)
		})
	}
}
