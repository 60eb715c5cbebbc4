package lists

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestParseReference(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"nginx", "docker.io/library/nginx:latest"},
		{"nginx:1.25", "docker.io/library/nginx:1.25"},
		{"team/app:1", "docker.io/team/app:1"},
		{"docker.io/nginx", "docker.io/library/nginx:latest"},
		{"index.docker.io/library/nginx:1", "docker.io/library/nginx:1"},
		{"registry-1.docker.io/nginx:1", "docker.io/library/nginx:1"},
		{"REGISTRY-1.docker.io/team/app:1", "docker.io/team/app:1"},
		{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"},
		{"Quay.IO/calico/node:V3", "quay.io/calico/node:V3"},
		{"registry.k8s.io/coredns/coredns@sha256:" + hexA, "registry.k8s.io/coredns/coredns@sha256:" + hexA},
		{"nginx:1.25@sha256:" + hexA, "docker.io/library/nginx:1.25@sha256:" + hexA},
		{"a.example/b@sha512:" + hexA + hexA, "a.example/b@sha512:" + hexA + hexA},
		{"docker://quay.io/skopeo/stable:latest", "quay.io/skopeo/stable:latest"},
		{"localhost/a/b:1", "localhost/a/b:1"},
		{"localhost:5000/a:1", "localhost:5000/a:1"},
		{"bastion:5000/a:1", "bastion:5000/a:1"},
		{"[fd00::1]:5000/a:1", "[fd00::1]:5000/a:1"},
		{"localhost", "docker.io/library/localhost:latest"},
		{"oci://registry-1.docker.io/bitnamicharts/redis:20.1.0", "docker.io/bitnamicharts/redis:20.1.0"},
		{"oci://ghcr.io/org/charts/app:1.2.3+build.5", "ghcr.io/org/charts/app:1.2.3_build.5"},
		{"oci://ghcr.io/org/charts/app@sha256:" + hexA, "ghcr.io/org/charts/app@sha256:" + hexA},

		{"", "error: is not an image reference"},
		{"https://quay.io/calico/node:v3", "error: --files"},
		{"ftp://x/y", "error: --files"},
		{"Nginx", "error: lower case"},
		{"quay.io/Calico/node:v3", "error: lower case"},
		{"nginx:", "error: write HOST/REPOSITORY:TAG"},
		{"nginx:-x", "error: not an image reference"},
		{"nginx@sha256:abc", "error: not an image reference"},
		{"nginx@md5:" + hexA, "error: not an image reference"},
		{"nginx@sha384:" + hexA + hexA[:32], "error: "},
		{"sha256:" + hexA, "error: a digest without a name"},
		{hexA, "error: a digest without a name"},
		{"oci://ghcr.io/org/charts/app", "error: has no version"},
		{"oci://redis:1", "error: has no registry"},
		{"oci://charts/redis:1", "error: has no registry"},
		{"a/" + strings.Repeat("b", 300), "error: "},
	} {
		w, err := ParseReference(c.in)
		got := w.Ref()
		if err != nil {
			got = "error: " + err.Error()
		}
		if want, ok := strings.CutPrefix(c.want, "error: "); ok && (err == nil || !strings.Contains(got, want)) ||
			!ok && got != c.want {
			t.Errorf("%.100q\ngot  %s\nwant %s", c.in, got, c.want)
		}
		if err != nil {
			continue
		}
		if again, err := ParseReference(got); err != nil || again != w {
			t.Errorf("%s read again is %+v, %v", got, again, err)
		}
	}
}

// given reads one list and returns its names, one a line, or its errors.
func given(read func(*Parser, string, io.Reader), list string) string {
	var l Parser
	read(&l, "list", strings.NewReader(list))
	w, err := l.Wanted()
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, i := range w.Images {
		out = append(out, i.Where+" "+i.Ref())
	}
	for _, f := range w.Files {
		out = append(out, strings.TrimSpace(f.Where+" "+f.URL+" "+f.Digest+" "+f.Known))
	}
	for _, c := range w.Charts {
		out = append(out, strings.TrimSpace(c.Where+" "+c.Repo+" "+c.Name+" "+c.Version))
	}
	return strings.Join(out, "\n")
}

type listCase struct{ name, in, want string }

func runLists(t *testing.T, read func(*Parser, string, io.Reader), cases []listCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := given(read, c.in)
			if want, ok := strings.CutSuffix(c.want, "…"); ok && strings.HasPrefix(got, want) {
				return
			}
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestImages(t *testing.T) {
	runLists(t, (*Parser).Images, []listCase{
		{"empty", "", ""},
		{
			"comments and blanks",
			"# all\n\n  nginx:1 # this one\r\n\t\n#\nquay.io/a/b:2#no\n",
			"list:6: \"quay.io/a/b:2#no\" is not an image reference…",
		},
		{
			"order, doubles, short names",
			"b:1\na:1\ndocker.io/library/b:1\n b:1\t\n",
			"list:1 docker.io/library/b:1\nlist:2 docker.io/library/a:1",
		},
		{"byte order mark and no newline at the end", "\ufeffnginx:1", "list:1 docker.io/library/nginx:1"},
		{
			"kubeadm",
			"registry.k8s.io/kube-apiserver:v1.35.4\nregistry.k8s.io/etcd:3.6.6-0\n",
			"list:1 registry.k8s.io/kube-apiserver:v1.35.4\nlist:2 registry.k8s.io/etcd:3.6.6-0",
		},
		{
			"template",
			"{{ kube_image_repo }}/pause:3.10\n",
			"list:1: \"{{ kube_image_repo }}/pause:3.10\" is a template: use the list that was rendered from it " +
				"(images.list, not images.list.template)",
		},
		{
			"yaml",
			"- nginx\nimage: nginx\n",
			"list:1: \"- nginx\" is YAML: pass the file as a manifest (--manifests), or write one reference a " +
				"line\nlist:2: \"image: nginx\" is YAML…",
		},
		{"two words", "a b\n", "list:1: \"a b\" is more than one word…"},
		{
			"all bad lines",
			"a b\nok:1\nhttps://x/y\n",
			"list:1: \"a b\" is more than one word: write one reference a line, comments after #\nlist:3: " +
				"\"https://x/y\" is a URL, not an image: it belongs in a list of files (--files), an image is " +
				"written " +
				"without https://",
		},
		{"latin 1", "nginx:1\n# caf\xe9\n", "list:2: the line is not UTF-8: save the list as UTF-8 text"},
		{"utf 16", "\xff\xfen\x00g\x00", "list:1: the list is UTF-16: save it as UTF-8"},
		{
			"binary",
			"nginx\x00:1\n",
			"list:1: \"nginx\\x00:1\" has characters that cannot be printed: is this a text file?",
		},
		{
			"long line",
			strings.Repeat("a", maxListLine+5) + "\nb:1\nc d\n",
			"list:1: the line is longer than 16384 bytes: is this a list, with one name a line?\nlist:3: \"c d\" is " +
				"more than one word…",
		},
		{"pinned twice", "a:1@sha256:" + hexA + "\na:1@sha256:" + hexA + "\na:1@sha256:" + hexB + "\n",
			"list:3: docker.io/library/a:1 is pinned to sha256:" + hexB + " here and to sha256:" + hexA +
				" at list:1: a tag has one digest, remove one of the lines"},
		{
			"two digests without a tag",
			"a@sha256:" + hexA + "\na@sha256:" + hexB + "\n",
			"list:1 docker.io/library/a@sha256:" + hexA + "\nlist:2 docker.io/library/a@sha256:" + hexB,
		},
	})
}

func TestFiles(t *testing.T) {
	runLists(t, (*Parser).Files, []listCase{
		{
			"plain",
			"https://DL.k8s.io/release/v1.35.4/bin/linux/amd64/kubelet # the " +
				"kubelet\nHTTP://a.example:8080/X?y=Z\nhttps://get.k3s.io\nhttps://get.k3s.io/?x\n",
			"list:1 https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubelet\nlist:2 " +
				"http://a.example:8080/X?y=Z\nlist:3 https://get.k3s.io/\nlist:4 https://get.k3s.io/?x",
		},
		{"query without a path", "https://get.k3s.io?x=1", "list:1 https://get.k3s.io/?x=1"},
		{
			"checksums",
			"https://a.example/f sha256:" + hexA + "\nhttps://a.example/g\t" + strings.ToUpper(
				hexB,
			) + " # note\nhttps://a.example/h " + hexA + hexB + "\n",
			"list:1 https://a.example/f sha256:" + hexA + " list:1\nlist:2 https://a.example/g " +
				"sha256:" + hexB + " list:2\nlist:3 https://a.example/h sha512:" + hexA + hexB + " list:3",
		},
		{
			"a checksum comes later",
			"https://a.example/f\nhttps://a.example/f " + hexA + "\nhttps://a.example/f\n",
			"list:1 https://a.example/f sha256:" + hexA + " list:2",
		},
		{"two checksums", "https://a.example/f\nhttps://a.example/f " + hexA + "\nhttps://A.example/f " + hexB + "\n",
			"list:3: https://a.example/f has sha256:" + hexB + " here and sha256:" + hexA + " at list:2: remove the " +
				"line that is wrong"},
		{
			"bad checksum",
			"https://a.example/f sha1:abc\nhttps://a.example/f " + hexA[:63] + "\n",
			"list:1: \"sha1:abc\" is not a checksum: write sha256: and 64 hex digits, or sha512: and 128\nlist:2: …",
		},
		{
			"no scheme",
			"dl.k8s.io/release/v1.35.4/kubelet\n",
			"list:1: \"dl.k8s.io/release/v1.35.4/kubelet\" has no scheme: write " +
				"https://dl.k8s.io/release/v1.35.4/kubelet",
		},
		{
			"an image",
			"registry.k8s.io/pause:3.10\n",
			"list:1: \"registry.k8s.io/pause:3.10\" is an image, not a URL: it belongs in a list of images (--images)",
		},
		{
			"a chart",
			"oci://ghcr.io/a/b:1\n",
			"list:1: \"oci://ghcr.io/a/b:1\" is an image, not a file: it belongs in a list of images (--images)",
		},
		{
			"ftp",
			"ftp://a.example/f\n",
			"list:1: \"ftp://a.example/f\": only https and http can be fetched, write https://a.example/f",
		},
		{
			"user",
			"https://me:secret@a.example/f\n",
			"list:1: \"https://…@a.example/f\": user and password must not be in a list, because the bundle would " +
				"contain them: write the URL without them",
		},
		{"fragment", "https://a.example/f#x\n", "list:1: \"https://a.example/f#x\" has a fragment…"},
		{"no host", "https:///f\n", "list:1: \"https:///f\" has no host"},
		{"only a port", "https://:80/f\n", "list:1: \"https://:80/f\" has no host"},
		{
			"dots",
			"https://a.example/x/../f\nhttps://a.example/x/%2e%2e/f\n",
			"list:1: \"https://a.example/x/../f\" has \"..\" in its path: write the resolved path\nlist:2: …",
		},
		{
			"space in it",
			"https://a.example/a b c\n",
			"list:1: \"https://a.example/a b c\" is more than a URL and a checksum…",
		},
		{
			"umlaut",
			"https://a.example/ä\n",
			"list:1: \"https://a.example/ä\" has characters that a URL must not contain: percent-encode them",
		},
		{
			"broken escape",
			"https://a.example/%zz\n",
			"list:1: \"https://a.example/%zz\" is not a URL: invalid URL escape \"%zz\"",
		},
		{
			"template",
			"{{ dl_k8s_io_url }}/kubelet\n",
			"list:1: \"{{ dl_k8s_io_url }}/kubelet\" is a template: use the list that was rendered from it " +
				"(files.list, not files.list.template)",
		},
		{"long", "https://a.example/" + strings.Repeat("a", maxURL), "list:1: …"},
	})
}

func TestCharts(t *testing.T) {
	runLists(t, (*Parser).Charts, []listCase{
		{
			"both kinds",
			"oci://ghcr.io/org/app:1.2.3\noci://ghcr.io/org/app 1.2.4+x # newer\nhttps://Charts.jetstack.io/ " +
				"cert-manager v1.15.3\nhttps://charts.example/a/index.yaml b\nhttps://charts.example/a b\n",
			"list:1 ghcr.io/org/app:1.2.3\nlist:2 ghcr.io/org/app:1.2.4_x\nlist:3 https://charts.jetstack.io " +
				"cert-manager v1.15.3\nlist:4 https://charts.example/a b",
		},
		{
			"oci without version",
			"oci://ghcr.io/org/app\n",
			"list:1: \"oci://ghcr.io/org/app\" has no version: write oci://HOST/REPOSITORY/CHART:VERSION",
		},
		{
			"oci with two",
			"oci://ghcr.io/org/app:1 2\n",
			"list:1: \"oci://ghcr.io/org/app:1\" has a version already: remove \"2\"",
		},
		{
			"oci with a word",
			"oci://ghcr.io/org/app newest\noci://ghcr.io/org/app 1 2\n",
			"list:1: \"newest\" is no version: write one such as 1.2.3\nlist:2: …",
		},
		{
			"range",
			"https://charts.example app ^1.2\n",
			"list:1: \"^1.2\" is not a version: write one such as 1.2.3, ranges are not supported",
		},
		{
			"no chart",
			"https://charts.example\n",
			"list:1: \"https://charts.example/\" names a repository but no chart: write https://charts.example/ " +
				"CHART " +
				"VERSION",
		},
		{
			"archive",
			"https://charts.example/app-1.tgz\n",
			"list:1: \"https://charts.example/app-1.tgz\" is a chart's archive: it belongs in a list of files " +
				"(--files)",
		},
		{
			"a name of helm repo add",
			"jetstack/cert-manager 1\n",
			"list:1: \"jetstack/cert-manager\" is neither oci://… nor the URL of a chart repository…",
		},
		{
			"path as a name",
			"https://charts.example ../x 1\nhttps://charts.example?q x 1\nhttps://charts.example a 1 b\n",
			"list:1: \"../x\" is not the name of a chart: write https://charts.example/ CHART VERSION\nlist:2: …",
		},
	})
}

func TestListsBounds(t *testing.T) {
	var l Parser
	l.Images("many", strings.NewReader(strings.Repeat("a b\n", maxBadLines+7)))
	_, err := l.Wanted()
	var bad *BadLists
	if !errors.As(err, &bad) || len(bad.Lines) != maxBadLines || bad.More != 7 ||
		!strings.HasSuffix(err.Error(), "\nand 7 more") {
		t.Errorf("got %v", err)
	}
	l = Parser{}
	l.Files("large", io.LimitReader(endless(strings.Repeat(" ", 4000)+"\n"), maxListSize+1))
	if _, err := l.Wanted(); err == nil || !strings.Contains(err.Error(), "the list is larger than 64 MiB") {
		t.Errorf("got %v", err)
	}
	l = Parser{}
	l.Images("broken", io.MultiReader(strings.NewReader("a:1\nb"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if _, err := l.Wanted(); err == nil || err.Error() != "broken:2: read: unexpected EOF" {
		t.Errorf("got %v", err)
	}
}

// endless is a text again and again.
type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n+len(e) <= len(p) {
		n += copy(p[n:], e)
	}
	return max(n, copy(p, e)), nil
}

func TestListsTogether(t *testing.T) {
	var l Parser
	l.Images("a.list", strings.NewReader("nginx:1\n"))
	l.Manifests("b.yaml", strings.NewReader("spec:\n  containers:\n  - image: nginx:1\n  - image: pause:3\n"))
	l.Charts("c.list", strings.NewReader("oci://ghcr.io/a/b:1\n"))
	l.Images("d.list", strings.NewReader("pause:3\n"))
	l.Files("e.list", strings.NewReader("https://a.example/f sha256:"+hexA+"\n"))
	l.Files("f.list", strings.NewReader("https://a.example/f\n"))
	w, err := l.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(w.Images, w.Files)
	want := fmt.Sprint(
		[]Image{
			{"docker.io/library/nginx", "1", "", "a.list:1", false},
			{"docker.io/library/pause", "3", "", "b.yaml:4", false},
			{"ghcr.io/a/b", "1", "", "c.list:1", false},
		},
		[]File{{URL: "https://a.example/f", Digest: "sha256:" + hexA, Known: "e.list:1", Where: "e.list:1"}},
	)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	l.Files("g.list", strings.NewReader("https://a.example/f sha256:"+hexB+"\n"))
	if _, err := l.Wanted(); err == nil ||
		!strings.HasPrefix(err.Error(), "g.list:1: https://a.example/f has sha256:bb") {
		t.Errorf("got %v", err)
	}
}

// Parser that Kubespray's own script made are read without a complaint, and keep their names.
func TestKubespraysLists(t *testing.T) {
	dir := os.Getenv("CASEMATE_KUBESPRAY_LISTS")
	if dir == "" {
		t.Skip("CASEMATE_KUBESPRAY_LISTS names no directory")
	}
	for name, read := range map[string]func(*Parser, string, io.Reader){"images.list": (*Parser).Images,
		"files.list": (*Parser).Files} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var l Parser
		read(&l, name, strings.NewReader(string(b)))
		w, err := l.Wanted()
		if err != nil {
			t.Fatal(err)
		}
		got := refs(w.Images)
		for _, f := range w.Files {
			got = append(got, f.URL)
		}
		wantList(t, name, got, strings.Fields(string(b)))
	}
}

func FuzzLists(f *testing.F) {
	f.Add(byte(0), "nginx:1\n# x\nquay.io/a/b@sha256:"+hexA+"\noci://ghcr.io/a/b:1+2\n")
	f.Add(byte(1), "https://a.example/f "+hexA+"\nhttp://b.example/%20?x\n")
	f.Add(byte(2), "oci://ghcr.io/a/b 1.2\nhttps://charts.example c v1\n")
	reads := []func(*Parser, string, io.Reader){(*Parser).Images, (*Parser).Files, (*Parser).Charts}
	f.Fuzz(func(t *testing.T, kind byte, s string) {
		var l Parser
		reads[int(kind)%len(reads)](&l, "list", strings.NewReader(s))
		w, err := l.Wanted()
		if err != nil {
			return
		}
		for _, i := range w.Images {
			if again, err := ParseReference(i.Ref()); err != nil || again.Ref() != i.Ref() {
				t.Fatalf("%q is read again as %q, %v", i.Ref(), again.Ref(), err)
			}
		}
		for _, file := range w.Files {
			if again, err := ParseFileURL(file.URL); err != nil || again != file.URL {
				t.Fatalf("%q is read again as %q, %v", file.URL, again, err)
			}
		}
	})
}

func refs(images []Image) []string {
	var s []string
	for _, i := range images {
		s = append(s, i.Ref())
	}
	return s
}

func urls(files []File) []string {
	var s []string
	for _, f := range files {
		s = append(s, f.URL+" "+f.Digest)
	}
	return s
}

func wantList(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}
