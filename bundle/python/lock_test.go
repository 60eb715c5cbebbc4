package python

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// readLock reads a lock file of that name.
func readLock(name, text string) ([]Requirement, error) {
	q := &Requirements{}
	q.Read(name, strings.NewReader(text))
	return q.List(), q.Err()
}

var hex1, hex2 = strings.TrimPrefix(h1, "sha256:"), strings.TrimPrefix(h2, "sha512:")

// pylock is what pip lock and uv export --format pylock.toml write.
var pylock = `lock-version = "1.0"
created-by = "test"
requires-python = ">=3.10"

[[packages]]
name = "Tiny.App"
version = "1.0"
index = "https://index.test/simple"
sdist = { name = "tiny_app-1.0.tar.gz", url = "https://files.test/a/tiny_app-1.0.tar.gz", hashes = {sha256 = "` + hex1 +
	`"} }

[[packages.wheels]]
name = "tiny_app-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
url = "https://files.test/b/tiny_app-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
hashes = {md5 = "00", sha512 = "` + hex2 + `"}

[[packages.wheels]]
name = "tiny_app-1.0-cp311-cp311-win_amd64.whl"
url = "https://files.test/c/tiny_app-1.0-cp311-cp311-win_amd64.whl"
hashes = {sha256 = "` + hex1 + `"}

[[packages]]
name = "archived"
archive = { url = "https://files.test/archive/v1.zip#x", hashes = {sha256 = "` + hex1 + `"} }

[[packages]]
name = "here"
directory = { path = ".", editable = true }
`

var uvLock = `version = 1
revision = 2
requires-python = ">=3.11"

[[package]]
name = "tiny-app"
version = "1.0"
source = { registry = "https://index.test/simple" }
dependencies = [{ name = "other", marker = "sys_platform == 'win32'" }]
sdist = { url = "https://files.test/a/tiny_app-1.0.tar.gz", hash = "` + h1 + `", size = 3 }
wheels = [
    { url = "https://files.test/b/tiny_app-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", hash = "` + h2 + `", size = 4 },
    { url = "https://files.test/c/tiny_app-1.0-cp311-cp311-win_amd64.whl", hash = "` + h1 + `", size = 5 },
]

[[package]]
name = "archived"
source = { url = "https://files.test/archive/v1.zip" }
sdist = { hash = "` + h1 + `" }

[[package]]
name = "here"
version = "0.1"
source = { virtual = "." }
`

// Both formats name the same files, each with its hash, for the targets.
func TestLockFiles(t *testing.T) {
	targets, err := NewTargets([]string{"3.11"}, []string{"linux_x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"dir/pylock.toml": pylock, "pylock.prod.toml": pylock,
		"uv.lock": uvLock} {
		list, err := readLock(name, text)
		if err != nil {
			t.Fatal(err)
		}
		files, unavailable, err := Find(context.Background(), list, Options{Targets: targets})
		if err != nil || len(unavailable) > 0 {
			t.Fatal(unavailable, err)
		}
		var got []string
		for _, f := range files {
			got = append(got, f.URL+" "+f.Digest[:8]+" "+f.Where)
		}
		want := fmt.Sprintf(`https://files.test/b/tiny_app-1.0-cp311-cp311-manylinux_2_17_x86_64.whl sha512:2 %[1]s: %[2]q
https://files.test/a/tiny_app-1.0.tar.gz sha256:1 %[1]s: %[2]q
https://files.test/archive/v1.zip sha256:1 %[1]s: "archived"`, name,
			map[bool]string{true: "Tiny.App", false: "tiny-app"}[text == pylock])
		if strings.Join(got, "\n") != want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, strings.Join(got, "\n"), want)
		}
	}
	windows := strings.Replace(uvLock, "sdist = { url", "other = { url", 1)
	windows = strings.Replace(windows, "manylinux_2_17_x86_64", "win_arm64", 1)
	list, err := readLock("uv.lock", windows)
	if err != nil {
		t.Fatal(err)
	}
	_, unavailable, err := Find(context.Background(), list, Options{Targets: targets})
	if err != nil || len(unavailable) != 1 ||
		!strings.Contains(unavailable[0].Err.Error(), "none of its 2 files is for") {
		t.Errorf("%v %v", unavailable, err)
	}
}

func TestLockFilesThatAreRefused(t *testing.T) {
	pkg := func(fields string) string { return "[[package]]\nname = \"a\"\nversion = \"1\"\n" + fields }
	for _, c := range []struct{ name, text, why string }{
		{"poetry.lock", pkg(""), "poetry export"},
		{"Pipfile.lock", "{}", "pipenv requirements --hash"},
		{"x/pyproject.toml", "[project]", "pip-compile"},
		{"uv.lock", "", "it has no packages"},
		{"uv.lock", "a = 1\nb = ]", "uv.lock:2: it is no lock file"},
		{"uv.lock", "package = 3", "it is no lock file"},
		{"uv.lock", "[[package]]\nname = \"-\"", `uv.lock: "-": this is not the name`},
		{"uv.lock", pkg(`source = { registry = "https://index.test/simple" }`), "lock it again"},
		{"uv.lock", pkg(`source = { git = "https://files.test/a?rev=1" }`), "pip wheel"},
		{"uv.lock", pkg(`source = { path = "a-1-py3-none-any.whl" }`), "import the file"},
		{"uv.lock", pkg(`wheels = [{ path = "a-1-py3-none-any.whl", hash = "` + h1 + `" }]`), "no URL"},
		{"uv.lock", pkg(`wheels = [{ url = "https://files.test/a-1-py3-none-any.whl" }]`), "no sha256 or sha512 hash"},
		{"uv.lock", pkg(`wheels = [{ url = "file:///a-1-py3-none-any.whl", hash = "` + h1 + `" }]`),
			"not the URL of a file"},
		{"uv.lock", pkg(`wheels = [{ url = "https://u:secret@files.test/a.whl", hash = "` + h1 + `" }]`),
			"has a user name"},
		{"uv.lock", pkg(`wheels = [{ url = "https://files.test/../a.whl", hash = "` + h1 + `" }]`), "refused inside"},
		{"pylock.toml", "[[packages]]\nname = \"a\"\nvcs = { type = \"git\", url = \"https://files.test/a\" }",
			"pip wheel"},
		{"uv.lock", strings.Repeat("#\n", maxLock/2+1), "is larger than"},
	} {
		list, err := readLock(c.name, c.text)
		if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: %.100q: %v, want %s", c.name, c.text, err, c.why)
		}
		if err != nil && strings.Contains(err.Error(), "secret") || len(list) > 0 {
			t.Errorf("%s: %v, %v", c.name, list, err)
		}
	}
}

// Lines of requirements files that name a file by its URL.
func TestDirectRequirements(t *testing.T) {
	const at = "https://files.test/d-1.0-py3-none-any.whl"
	fragment := strings.Replace(h1, ":", "=", 1)
	for line, why := range map[string]string{
		"d @ " + at + " --hash=" + h1:                                     "",
		"d @ " + at + "#" + fragment + " --hash=" + h1:                    "",
		"d[x] @ " + at + "#egg=d&" + fragment + " ; python_version > '3'": "",
		at + "#" + fragment:                                               "",
		at + " --hash=" + h1:                                              "",
		at:                                                                HowToPin,
		"d @ " + at + " --hash=" + h1 + " --hash=" + h2:                   "needs one hash",
		"d @ https://u:secret@files.test/d.whl#" + fragment:               "has a user name",
		"https://files.test/%zz.whl --hash=" + h1:                         "not the URL of a file",
	} {
		list, err := readAll(line, nil)
		if why != "" {
			if err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v, want %s", line, err, why)
			}
			continue
		}
		if err != nil || len(list) != 1 || len(list[0].Files) != 1 || list[0].Files[0] != (Direct{at, h1}) {
			t.Errorf("%q: %+v, %v", line, list, err)
		}
	}
}

func FuzzLock(f *testing.F) {
	f.Add(pylock)
	f.Add(uvLock)
	f.Add("[[packages]]\nname = 1")
	f.Fuzz(func(t *testing.T, text string) {
		list, _ := readLock("uv.lock", text)
		for _, r := range list {
			if normal, ok := Normalize(r.Project); !ok || normal != r.Project || len(r.Files) == 0 {
				t.Errorf("%+v", r)
			}
			for _, d := range r.Files {
				if !hashForm.MatchString(d.Digest) || !strings.HasPrefix(d.URL, "http") {
					t.Errorf("%+v", d)
				}
			}
		}
	})
}
