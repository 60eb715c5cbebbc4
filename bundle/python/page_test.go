package python

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
)

func TestParsePage(t *testing.T) {
	sum := strings.TrimPrefix(h1, "sha256:")
	for form, page := range map[string]string{
		"HTML": `<!DOCTYPE html><html><head><base href="https://files.test/packages/"></head><body>
			<a href="ab/tiny-1.0-py3-none-any.whl#sha256=` + sum + `" data-requires-python="&gt;=3.8"
			data-core-metadata="sha256=` + sum + `">tiny-1.0-py3-none-any.whl</a><br>
			<A HREF="https://files.test/packages/tiny-0.9.tar.gz" data-yanked="old &lt;b&gt;">x</A>
			<a href="../other/">up</a><a href="javascript:alert(1)">no</a><a href="https://u:p@x.test/a-1.zip">no</a>`,
		"JSON": `{"meta":{"api-version":"1.1"},"name":"tiny","files":[
			{"filename":"tiny-1.0-py3-none-any.whl","url":"https://files.test/packages/ab/tiny-1.0-py3-none-any.whl",
			"hashes":{"sha256":"` + sum + `"},"requires-python":">=3.8","core-metadata":{"sha256":"` + sum + `"},
			"yanked":false},
			{"filename":"tiny-0.9.tar.gz","url":"https://files.test/packages/tiny-0.9.tar.gz","hashes":{},
			"dist-info-metadata":true,"yanked":"old <b>"}]}`,
	} {
		links, err := ParsePage("https://index.test/simple/tiny/", []byte(page))
		want := fmt.Sprint([]Link{
			{File: "tiny-1.0-py3-none-any.whl", URL: "https://files.test/packages/ab/tiny-1.0-py3-none-any.whl",
				Digest: h1, RequiresPython: ">=3.8", Metadata: h1},
			{File: "tiny-0.9.tar.gz", URL: "https://files.test/packages/tiny-0.9.tar.gz", Yanked: true,
				YankedReason: "old <b>"},
		})
		if got := fmt.Sprint(links); err != nil || got != want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", form, err, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	sum := strings.TrimPrefix(h1, "sha256:")
	pages := map[string]string{
		"https://index.test/simple/tiny/": `<a href="/f/tiny-1.0-cp311-cp311-win_amd64.whl#sha256=` + sum + `"></a>
			<a href="/f/tiny-1.0-py3-none-any.whl?x=1#sha256=` + sum + `" data-dist-info-metadata="sha256=` + sum + `"
			data-yanked=""></a>
			<a href="/f/tiny-1.0.tar.gz#sha512=` + strings.TrimPrefix(h2, "sha512:") + `" data-requires-python="&gt;=3"></a>
			<a href="/f/tiny-1.0-py2-none-any.whl#sha256=` + strings.Repeat("0", 64) + `"></a>
			<a href="/f/tiny-2.0-py3-none-any.whl#sha256=` + strings.Repeat("0", 64) + `"></a>`,
		"https://index.test/simple/win/": `<a href="win-1-cp311-cp311-win_amd64.whl#sha256=` + sum + `"></a>`,
	}
	var made []string
	targets, err := NewTargets([]string{"3.11"}, []string{"linux_x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Index: "https://index.test/simple/", Targets: targets,
		Page: func(_ context.Context, url string, _ int64) ([]byte, string, error) {
			if p, ok := pages[url]; ok {
				return []byte(p), url, nil
			}
			return nil, "", fs.ErrNotExist
		},
		Store: func(b []byte) (string, error) { made = append(made, string(b)); return h1, nil },
	}
	all, err := readAll("tiny==1 --hash="+h1+" --hash="+h2+"\nwin==1 --hash="+h1+"\ntiny==1.0 --hash=sha256:"+
		strings.Repeat("3", 64)+"\nnone==1 --hash="+h1, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, missing, err := Find(t.Context(), all, o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.URL+" < "+f.From)
	}
	want := []string{
		"https://index.test/simple/tiny/tiny-1.0-py3-none-any.whl < https://index.test/f/tiny-1.0-py3-none-any.whl?x=1",
		"https://index.test/simple/tiny/tiny-1.0-py3-none-any.whl.metadata < " +
			"https://index.test/f/tiny-1.0-py3-none-any.whl.metadata?x=1",
		"https://index.test/simple/tiny/tiny-1.0-py3-none-any.whl.yanked < ",
		"https://index.test/simple/tiny/tiny-1.0.tar.gz < https://index.test/f/tiny-1.0.tar.gz",
		"https://index.test/simple/tiny/tiny-1.0.tar.gz.requires-python < ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if fmt.Sprintf("%q", made) != `["\n" ">=3\n"]` {
		t.Errorf("made %q", made)
	}
	for i, why := range []string{"none of its 1 files is for", "has a hash of the list", "does not have it"} {
		if i >= len(missing) || !strings.Contains(missing[i].Err.Error(), why) {
			t.Errorf("unavailable %d: %v, want %s", i, missing, why)
		}
	}
	o.Index = ""
	if _, missing, _ = Find(t.Context(), all[:1], o); len(missing) != 1 ||
		!strings.Contains(missing[0].Err.Error(), "--python-index") {
		t.Errorf("without an index: %v", missing)
	}
}

// zipOf returns a zip of files.
func zipOf(t testing.TB, files map[string]string) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range files {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if content == "" {
			h.Method = zip.Store // cheap, for archives of many files
		}
		f, err := w.CreateHeader(h)
		if err == nil {
			_, err = io.WriteString(f, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBombs(t *testing.T) {
	many := map[string]string{"a-1.dist-info/METADATA": "Name: a\nVersion: 1\n\n"}
	for i := range maxMembers + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for why, files := range map[string]map[string]string{
		"more than 4 MiB":       {"a-1.dist-info/METADATA": strings.Repeat("\x00", maxMetadata+1)},
		"files, or a directory": many,
		"twice":                 {"a-1.dist-info/METADATA": "Name: a\n\n", "a-2.dist-info/METADATA": "Name: a\n\n"},
	} {
		b := zipOf(t, files)
		if _, _, err := Metadata("a-1-py3-none-any.whl", bytes.NewReader(b), int64(len(b))); err == nil ||
			!strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add("a-1-py3-none-any.whl", zipOf(f, map[string]string{"a-1.dist-info/METADATA": "Name: a\n\n"}))
	f.Add("a-1.zip", zipOf(f, map[string]string{"a-1/PKG-INFO": "Name: a\nVersion: 1\n\n"}))
	f.Add("a-1.tar.gz", []byte("\x1f\x8b"))
	f.Add("a-1.tar.bz2", []byte("BZh9"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		p, b, err := Metadata(name, bytes.NewReader(content), int64(len(content)))
		if normal, ok := Normalize(p.Project); err == nil && (!ok || normal != p.Project || len(b) > maxMetadata) {
			t.Errorf("%q: %+v", name, p)
		}
	})
}

func FuzzParsePage(f *testing.F) {
	f.Add([]byte(`<base href="/x"><a href="a-1.zip#sha256=00" data-yanked>x</a>`))
	f.Add([]byte(`{"files":[{"filename":"a-1.zip","url":"x","core-metadata":true}]}`))
	f.Fuzz(func(t *testing.T, page []byte) {
		links, _ := ParsePage("https://index.test/simple/a/", page)
		for _, l := range links {
			if !strings.HasPrefix(l.URL, "http") || l.Digest != "" && !hashForm.MatchString(l.Digest) {
				t.Errorf("%+v", l)
			}
		}
	})
}
