package fileserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"casemate/cluster/tree"
)

const pipAccepts = "Accept: application/vnd.pypi.simple.v1+json, " +
	"application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"

// putPackages puts two wheels and an sdist of one project at an index whose path is not the usual one, and at a usual
// one.
func putPackages(t *testing.T, f *fixture, index string) {
	at := index + "/tiny-x/"
	f.put(t, at+"tiny_x-1.0-py3-none-any.whl", "wheel 1")
	f.put(t, at+"tiny_x-1.0-py3-none-any.whl.metadata",
		"Metadata-Version: 2.1\nName: Tiny.X\nrequires-python: >=3.8,<4\n\nRequires-Python: no\n")
	f.put(t, at+"tiny_x-1.1+local-py3-none-any.whl", "wheel 2")
	f.put(t, at+"tiny_x-1.1+local-py3-none-any.whl.yanked", "it <breaks> \"things\"\nmore")
	f.put(t, at+"tiny-x-0.9.tar.gz", "sdist")
	f.put(t, at+"tiny-x-0.9.tar.gz.metadata", "Requires-Python: >=3.6\n\n")
	f.put(t, at+"other-1.0.tar.gz", "of another project")
	f.put(t, at+"<script>-1.0.tar.gz", "hostile")
	f.put(t, at+"notes.txt", "no package")
}

func TestProjectPage(t *testing.T) {
	for _, index := range []string{"https://files.test/simple", "https://files.test/whl/cpu"} {
		t.Run(index, func(t *testing.T) {
			f := start(t)
			putPackages(t, f, index)
			path := strings.TrimPrefix(index, "https://files.test") + "/tiny-x/"
			r := f.origin("files.test", path, pipAccepts)
			if r.Header.Get("Content-Type") != simpleJSON || r.Header.Get("Vary") != "Accept" {
				t.Errorf("headers %v", r.Header)
			}
			var got projectPage
			if err := json.Unmarshal([]byte(text(t, r)), &got); err != nil {
				t.Fatal(err)
			}
			sum := func(s string) string { return strings.TrimPrefix(tree.Sum([]byte(s), ""), "sha256:") }
			var lines []string
			for _, p := range got.Files {
				lines = append(lines, fmt.Sprint(p.Filename, " ", p.URL, " ", p.Size, " ", p.RequiresPython, " ",
					len(p.CoreMetadata), " ", p.Yanked))
			}
			want := []string{
				"tiny-x-0.9.tar.gz ./tiny-x-0.9.tar.gz 5 >=3.6 0 false",
				"tiny_x-1.0-py3-none-any.whl ./tiny_x-1.0-py3-none-any.whl 7 >=3.8,<4 1 false",
				"tiny_x-1.1+local-py3-none-any.whl ./tiny_x-1.1+local-py3-none-any.whl 7  0 it <breaks> \"things\"",
			}
			if !slices.Equal(lines, want) {
				t.Errorf("got %s\nwant %s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
			}
			if got.Name != "tiny-x" || !slices.Equal(got.Versions, []string{"0.9", "1.0", "1.1+local"}) ||
				got.Files[1].Hashes["sha256"] != sum("wheel 1") {
				t.Errorf("got %+v", got)
			}
			page := text(t, f.origin("files.test", path))
			for _, part := range []string{
				`href="./tiny_x-1.0-py3-none-any.whl#sha256=` + sum("wheel 1") +
					`" data-requires-python="&gt;=3.8,&lt;4"`,
				`data-core-metadata="sha256=`, `data-dist-info-metadata="sha256=`,
				`data-yanked="it &lt;breaks&gt; &#34;things&#34;"`,
			} {
				if !strings.Contains(page, part) {
					t.Errorf("no %s in %s", part, page)
				}
			}
			if strings.Contains(page, "script") || strings.Contains(page, "other") || strings.Contains(page, "notes") {
				t.Errorf("other files in %s", page)
			}
			f.put(t, index+"/tiny-x/tiny_x-2-py3-none-any.whl", "new")
			if page := text(t, f.origin("files.test", path)); !strings.Contains(page, "tiny_x-2-py3") {
				t.Errorf("a new package is not in %s", page)
			}
		})
	}
}

func TestProjectNames(t *testing.T) {
	f := start(t)
	putPackages(t, f, "https://files.test/simple")
	for path, to := range map[string]string{
		"/simple/Tiny.X/": "../tiny-x/", "/simple/tiny__x/": "../tiny-x/", "/simple/tiny-x": "./tiny-x/",
		"/simple/TINY_x": "./tiny-x/",
	} {
		if r := f.origin("files.test", path); r.StatusCode != http.StatusFound || r.Header.Get("Location") != to {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.Header.Get("Location"))
		}
	}
	for _, path := range []string{"/simple/tiny-y/", "/simple/-tiny-x/", "/simple/tiny-x./", "/simple/%3Cb%3E/"} {
		want(t, f.origin("files.test", path, pipAccepts), http.StatusNotFound, "*")
		if m := f.missed(); len(m) != 1 {
			t.Errorf("%s: missed %q", path, m)
		}
	}
	want(t, f.origin("files.test", "/simple/", pipAccepts), http.StatusOK,
		`{"meta":{"api-version":"1.1"},"projects":[{"name":"tiny-x"}]}`+"\n")
	want(t, f.origin("files.test", "/simple/tiny-x/tiny_x-1.0-py3-none-any.whl"), http.StatusOK, "wheel 1")
}

func TestNormalProject(t *testing.T) {
	for name, want := range map[string]string{
		"Tiny.X_y": "tiny-x-y", "a": "a", "A--b__c..d": "a-b-c-d", "1x": "1x", "": "", "-a": "", "a-": "", "a b": "",
		"a/b": "", "ä": "", "a\x00": "", ".": "", "ruamel.yaml.clib": "ruamel-yaml-clib",
	} {
		if got := normalProject(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

func TestPackageVersion(t *testing.T) {
	for _, c := range []struct{ file, project, version string }{
		{"tiny_x-1.0-py3-none-any.whl", "tiny-x", "1.0"},
		{"tiny_x-1.0-1build-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "tiny-x", "1.0"},
		{"Tiny.X-1!2.0+a.b-py2.py3-none-any.whl", "tiny-x", "1!2.0+a.b"},
		{"tiny_x-1.0.whl", "tiny-x", ""}, {"tiny-x-1.0-py3-none-any.whl", "tiny-x", ""},
		{"python-dateutil-2.8.2.tar.gz", "python-dateutil", "2.8.2"}, {"foo-1.0-1.zip", "foo", "1.0-1"},
		{"foo-2bar-1.0.tar.gz", "foo-2bar", "1.0"}, {"foo-1.0.tar.gz", "bar", ""}, {"foo.tar.gz", "foo", ""},
		{"-1.0.tar.gz", "", ""}, {"foo-1.0.exe", "foo", ""}, {"foo-1.0.tar.gz.metadata", "foo", ""},
	} {
		if got, ok := packageVersion(c.file, c.project); got != c.version || ok != (c.version != "") {
			t.Errorf("%s of %s is %q %v", c.file, c.project, got, ok)
		}
	}
}

func TestSimpleForm(t *testing.T) {
	for accept, want := range map[string]string{
		"": plainHTML, "*/*": plainHTML, "text/html": plainHTML, "garbage;;q": plainHTML,
		"application/vnd.pypi.simple.v1+json": simpleJSON, "application/vnd.pypi.simple.latest+json": simpleJSON,
		"application/vnd.pypi.simple.v1+html, text/html;q=0.5":                     simpleHTML,
		"application/vnd.pypi.simple.v1+json;q=0.2, text/html;q=0.9":               plainHTML,
		"application/vnd.pypi.simple.v1+json;q=0, */*;q=0.1":                       plainHTML,
		strings.TrimPrefix(pipAccepts, "Accept: "):                                 simpleJSON,
		"text/html, application/vnd.pypi.simple.v1+json;q=x, application/json;q=1": plainHTML,
	} {
		r, _ := http.NewRequest("GET", "https://files.test/", nil)
		r.Header.Set("Accept", accept)
		if got := simpleForm(r); got != want {
			t.Errorf("%q: %s", accept, got)
		}
	}
}

func TestIndexOfEverything(t *testing.T) {
	f := start(t)
	cfg := f.config(t)
	cfg.OwnIndex = func() string { return "packages.gap.test" }
	origins["packages.gap.test"] = "packages.gap.test"
	defer delete(origins, "packages.gap.test")
	f.Server = New(cfg)
	f.put(t, "https://dl.k8s.io/simple/tiny-x/tiny_x-1.0-py3-none-any.whl", "of the origin")
	f.put(t, "https://packages.gap.test/simple/tiny-x/tiny_x-1.0-py3-none-any.whl", "own")
	f.put(t, "https://packages.gap.test/simple/own/own-1.tar.gz", "sdist")
	f.put(t, "https://dl.k8s.io/simple/tiny-x/tiny_x-2.0-py3-none-any.whl", "two")
	get := func(path string, headers ...string) *http.Response {
		return f.do(View{Index: true}, "GET", path, nil, headers...)
	}
	want(t, get("/simple/", pipAccepts), http.StatusOK,
		`{"meta":{"api-version":"1.1"},"projects":[{"name":"own"},{"name":"tiny-x"}]}`+"\n")
	page := text(t, get("/simple/tiny-x/"))
	if !strings.Contains(page, "tiny_x-2.0") || strings.Count(page, ">tiny_x-1.0-py3-none-any.whl<") != 1 ||
		!strings.Contains(page, strings.TrimPrefix(tree.Sum([]byte("own"), ""), "sha256:")) {
		t.Error(page)
	}
	want(t, get("/simple/tiny-x/tiny_x-1.0-py3-none-any.whl"), http.StatusOK, "own")
	want(t, get("/simple/tiny-x/tiny_x-2.0-py3-none-any.whl"), http.StatusOK, "two")
	for path, to := range map[string]string{
		"/": "./simple/", "/simple": "./simple/", "/simple/Tiny.x": "./tiny-x/", "/simple/Tiny.x/": "../tiny-x/",
	} {
		if r := get(path); r.StatusCode != http.StatusFound || r.Header.Get("Location") != to {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.Header.Get("Location"))
		}
	}
	f.missed()
	for _, path := range []string{"/simple/none/", "/simple/tiny-x/none.whl", "/else/", "/simple/a/b/c",
		"/simple/%20/"} {
		want(t, get(path), http.StatusNotFound, "*")
		if m := f.missed(); len(m) != 1 {
			t.Errorf("%s: missed %q", path, m)
		}
	}
	want(t, f.do(View{Index: true}, "PUT", "/simple/own/own-2.tar.gz", strings.NewReader("x")),
		http.StatusMethodNotAllowed, "*")
}

func TestResolveOfIndices(t *testing.T) {
	f := start(t)
	cfg := f.config(t)
	cfg.OwnIndex = func() string { return "packages.gap.test" }
	f.Server = New(cfg)
	f.put(t, "https://dl.k8s.io/simple/tiny-x/tiny_x-1.0-py3-none-any.whl", "of the origin")
	for url, want := range map[string]bool{
		"https://dl.k8s.io/simple/tiny-x/": true, "https://dl.k8s.io/simple/Tiny.X": true,
		"https://packages.gap.test/simple/tiny-x/": true, "https://packages.gap.test/simple/tiny-y/": false,
		"https://dl.k8s.io/simple/tiny-y/": false, "https://files.test/simple/tiny-x/": false,
	} {
		if _, _, err := f.Resolve(t.Context(), url); (err == nil) != want {
			t.Errorf("%s: %v", url, err)
		}
	}
}
