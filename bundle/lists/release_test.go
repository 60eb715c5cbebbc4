package lists

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestParseRelease(t *testing.T) {
	for _, c := range []struct{ product, text, version, channel string }{
		{"k3s", "v1.31.5+k3s1", "v1.31.5+k3s1", ""},
		{"k3s", "1.31.5+k3s12", "v1.31.5+k3s12", ""},
		{"k3s", "v1.31.5%2Bk3s1", "v1.31.5+k3s1", ""},
		{"k3s", "v1.29.1-rc2%2bk3s1", "v1.29.1-rc2+k3s1", ""},
		{"rke2", "v1.31.5+rke2r1", "v1.31.5+rke2r1", ""},
		{"k3s", "stable", "", "stable"}, {"k3s", "latest", "", "latest"}, {"rke2", "testing", "", "testing"},
		{"rke2", "v1.31", "", "v1.31"}, {"k3s", "1.31", "", "v1.31"}, {"k3s", "v1.31-testing", "", "v1.31-testing"},
	} {
		r, err := ParseRelease(c.product, c.text)
		if err != nil || r.Version != c.version || r.Channel != c.channel || r.Product != c.product {
			t.Errorf("%s %s: %+v, %v", c.product, c.text, r, err)
		}
	}
	for _, c := range [][2]string{
		{"k3s", ""}, {"k3s", "v1.31.5"}, {"k3s", "v1.31.5+rke2r1"}, {"rke2", "v1.31.5+k3s1"}, {"rke2", "v1.31.5+rke2"},
		{"k3s", "v1.31.5+k3s"}, {"k3s", "newest"}, {"k3s", "v1"}, {"k3s", "../v1.31.5+k3s1"}, {"k3s", "v1.31.5+k3s1/x"},
		{"k3s", "v1.31.5+k3s1\n"}, {"k3s", "v1.31.5 k3s1"},
	} {
		if r, err := ParseRelease(c[0], c[1]); err == nil ||
			!strings.HasPrefix(err.Error(), "must be a version of "+c[0]) {
			t.Errorf("%s %q: %+v, %v", c[0], c[1], r, err)
		}
	}
}

// channelsOf says which channels a set of releases has.
func channelsOf(t *testing.T, product string, texts ...string) map[string]string {
	t.Helper()
	var releases []Release
	for _, text := range texts {
		r, err := ParseRelease(product, text)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, r)
	}
	sum := strings.Repeat("ab", 32)
	var p Parser
	err := p.Releases(t.Context(), releases, []string{"amd64"},
		func(_ context.Context, url string) ([]byte, string, error) {
			switch name := url[strings.LastIndexByte(url, '/')+1:]; {
			case name == "stable":
				return nil, "https://github.com/k3s-io/k3s/releases/tag/v1.30.9+k3s2", nil
			case strings.HasPrefix(name, "sha256sum"):
				return []byte(sum + "  k3s-airgap-images-amd64.tar\n" + sum + "  k3s\n" + sum +
					" *rke2.linux-amd64.tar.gz\n"), url, nil
			default:
				return []byte("docker.io/rancher/mirrored-pause:3.6\n"), url, nil
			}
		})
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Images) != 1 {
		t.Errorf("images %+v", w.Images)
	}
	got := map[string]string{}
	for _, r := range w.Redirects {
		got[r.From[strings.LastIndexByte(r.From, '/')+1:]] = r.To[strings.LastIndexByte(r.To, '/')+1:]
	}
	return got
}

func TestChannelsOfReleases(t *testing.T) {
	for _, c := range []struct {
		asked []string
		want  map[string]string
	}{
		{[]string{"v1.31.5+k3s1"}, map[string]string{"stable": "v1.31.5+k3s1", "latest": "v1.31.5+k3s1",
			"v1.31": "v1.31.5+k3s1"}},
		// Versions are numbers, and so are builds of one version.
		{[]string{"v1.31.10+k3s9", "v1.9.12+k3s1", "v1.31.10+k3s10", "v1.31.9+k3s1"},
			map[string]string{"stable": "v1.31.10+k3s10", "latest": "v1.31.10+k3s10", "v1.31": "v1.31.10+k3s10",
				"v1.9": "v1.9.12+k3s1"}},
		// What upstream says of a channel goes before what follows from the others.
		{[]string{"stable", "v1.32.1+k3s1"}, map[string]string{"stable": "v1.30.9+k3s2", "latest": "v1.32.1+k3s1",
			"v1.30": "v1.30.9+k3s2", "v1.32": "v1.32.1+k3s1"}},
		// A pre-release is no stable release, unless there are only pre-releases.
		{[]string{"v1.32.0-rc1+k3s1", "v1.31.5+k3s1"},
			map[string]string{"stable": "v1.31.5+k3s1", "latest": "v1.31.5+k3s1", "v1.31": "v1.31.5+k3s1",
				"testing": "v1.32.0-rc1+k3s1", "v1.32-testing": "v1.32.0-rc1+k3s1"}},
		{[]string{"v1.32.0-rc1+k3s1"}, map[string]string{"stable": "v1.32.0-rc1+k3s1", "latest": "v1.32.0-rc1+k3s1",
			"testing": "v1.32.0-rc1+k3s1", "v1.32-testing": "v1.32.0-rc1+k3s1"}},
	} {
		if got := channelsOf(t, "k3s", c.asked...); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v: %v, want %v", c.asked, got, c.want)
		}
	}
}

// TestReleasesThatAreSomethingElse: other content in place of a release is an error that names it.
func TestReleasesThatAreSomethingElse(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	good := map[string]string{"sha256sum-amd64.txt": sum + "  k3s\n",
		"k3s-images.txt": "docker.io/rancher/mirrored-pause:3.6\n"}
	for _, c := range []struct{ file, content, want string }{
		{"", "", ""},
		{"sha256sum-amd64.txt", "<html><body>Sign in</body></html>", "has no checksum of k3s"},
		{"sha256sum-amd64.txt", "", "has no checksum of k3s"},
		{"sha256sum-amd64.txt", sum + "  k3s-arm64\n", "has no checksum of k3s"},
		{"sha256sum-amd64.txt", "abcd  k3s\n", "has no checksum of k3s"},
		{"k3s-images.txt", "<html><body>Sign in</body></html>", "k3s-images.txt is not a list of images"},
		{"k3s-images.txt", "# nothing\n", "k3s-images.txt is not a list of images"},
		{"k3s-images.txt", sum + "  k3s\n", "k3s-images.txt is not a list of images"},
		{"gone", "sha256sum-amd64.txt", "sha256sum-amd64.txt does not exist: is the version right"},
		{"gone", "k3s-images.txt", "k3s-images.txt does not exist: is the version right"},
		{"channel", "https://github.com/login", "leads to \"https://github.com/login\", which is not a release"},
		{"channel", "https://github.com/rancher/rke2/releases/tag/v1.31.5+rke2r1", "which is not a release"},
		{"channel", "https://github.com/k3s-io/k3s/releases/tag/v1.31", "which is not a release"},
	} {
		releases := []Release{{Product: "k3s", Version: "v1.31.5+k3s1"}}
		if c.file == "channel" {
			releases = []Release{{Product: "k3s", Channel: "stable"}}
		}
		var p Parser
		err := p.Releases(t.Context(), releases, []string{"amd64"},
			func(_ context.Context, url string) ([]byte, string, error) {
				name := url[strings.LastIndexByte(url, '/')+1:]
				switch {
				case name == "stable":
					return nil, c.content, nil
				case c.file == "gone" && name == c.content:
					return nil, "", fs.ErrNotExist
				case name == c.file:
					return []byte(c.content), url, nil
				}
				return []byte(good[name]), url, nil
			})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.file, err, c.want)
		}
	}
}
