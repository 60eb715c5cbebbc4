package packages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/appliance/usage"
	"casemate/bundle/ospackages/openpgp"
	"casemate/cluster/tree"
	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	newRSA = quickRSA
	waittest.Main(m, goleak.Find)
}

const host = "packages.test"

// quickRSA gives smaller keys, three in turn.
var quickRSA = func() func() (*rsa.PrivateKey, error) {
	var mu sync.Mutex
	var made []*rsa.PrivateKey
	n := 0
	return func() (*rsa.PrivateKey, error) {
		mu.Lock()
		defer mu.Unlock()
		if n++; len(made) < 3 {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			made = append(made, k)
			return k, err
		}
		return made[n%3], nil
	}
}()

// mask is a Sealer that shows whether keys are sealed.
type mask struct{}

func (mask) Seal(plain []byte) ([]byte, error) {
	out := []byte("sealed:")
	for _, b := range plain {
		out = append(out, ^b)
	}
	return out, nil
}

func (mask) Unseal(sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte("sealed:"))
	if !ok {
		return nil, errors.New("not sealed")
	}
	out := make([]byte, len(rest))
	for i, b := range rest {
		out[i] = ^b
	}
	return out, nil
}

// fixture is a store over a tree in memory, with a clock.
type fixture struct {
	*Store
	t    testing.TB
	tree *treetest.Mem
	now  time.Time
}

func start(t testing.TB) *fixture {
	f := &fixture{t: t, tree: treetest.New(t), now: time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC)}
	f.Store = f.another()
	return f
}

// another is the store of another node over the same tree.
func (f *fixture) another() *Store {
	return New(Config{Tree: f.tree, Sealer: mask{}, Host: host, Now: func() time.Time { return f.now },
		Log: slog.New(slog.DiscardHandler), Allow: func(r *http.Request, action, _ string) (context.Context, error) {
			user, password, _ := r.BasicAuth()
			switch {
			case user == "busy":
				return nil, syscall.EAGAIN
			case user == "eve":
				return nil, fmt.Errorf("user eve may not %s: %w", action, fs.ErrPermission)
			case user != "ci" || password != "secret":
				return nil, errors.New("wrong")
			}
			return r.Context(), nil
		}})
}

func (f *fixture) add(name, format string) {
	f.t.Helper()
	if _, err := f.Add(f.t.Context(), name, format); err != nil {
		f.t.Fatal(err)
	}
}

// files are an upload.
func files(list ...[]byte) Source {
	i := 0
	return func() (string, io.Reader, error) {
		if i++; i > len(list) {
			return "", nil, io.EOF
		}
		return fmt.Sprintf("%d.file", i), bytes.NewReader(list[i-1]), nil
	}
}

func (f *fixture) put(repo string, list ...[]byte) {
	f.t.Helper()
	if _, err := f.Put(f.t.Context(), repo, false, files(list...)); err != nil {
		f.t.Fatal(err)
	}
}

// read is a file of a repository as a client gets it, "" if there is none.
func (f *fixture) read(file string) string {
	f.t.Helper()
	fi, err := f.tree.Stat("files/" + host + "/" + file + "?")
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		f.t.Fatal(err)
	}
	blob, err := f.tree.OpenBlob(f.t.Context(), tree.DigestOf(fi))
	if err != nil {
		f.t.Fatal(err)
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func (f *fixture) unpacked(file string) string {
	f.t.Helper()
	z, err := gzip.NewReader(strings.NewReader(f.read(file)))
	if err != nil {
		f.t.Fatalf("%s: %v", file, err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func (f *fixture) labels(repo string) (list []string) {
	f.t.Helper()
	all, err := f.List(f.t.Context(), repo)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, p := range all {
		list = append(list, p.Name+"="+p.Version+":"+p.Arch)
	}
	return list
}

// served are all files below the store's host, with their digests.
func (f *fixture) served() (list []string) {
	for name, fi := range f.tree.Walk("files", "") {
		list = append(list, name+" "+tree.DigestOf(fi))
	}
	return list
}

func member(name string, content []byte) []byte {
	out := fmt.Appendf(nil, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(content))
	out = append(out, content...)
	if len(content)%2 == 1 {
		out = append(out, '\n')
	}
	return out
}

// debOf is a package with this control file and this content.
func debOf(control, content string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "./control", Mode: 0o644, Size: int64(len(control))})
	_, err2 := io.WriteString(w, control)
	if err := errors.Join(err, err2, w.Close(), z.Close()); err != nil {
		panic(err)
	}
	out := append([]byte("!<arch>\n"), member("debian-binary", []byte("2.0\n"))...)
	out = append(out, member("control.tar.gz", b.Bytes())...)
	return append(out, member("data.tar", []byte(content))...)
}

// app is a package.
func app(name, version, arch, content string) []byte {
	return debOf(fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: x\nDescription: x\n y\n", name,
		version, arch), content)
}

// check reads the metadata of a repository as its clients do: the signature first, then the sums of the indices. It
// returns the indices, expanded, by the names of their files.
func (f *fixture) check(repo string) map[string]string {
	f.t.Helper()
	public, err := f.PublicKey()
	if err != nil {
		f.t.Fatal(err)
	}
	keys, err := openpgp.ReadKeyring([]byte(public))
	if err != nil {
		f.t.Fatal(err)
	}
	indices := map[string]string{}
	if r, err := f.Get(repo); err != nil {
		f.t.Fatal(err)
	} else if r.Format == RPM {
		repomd := f.read(repo + "/repodata/repomd.xml")
		if _, err := openpgp.Detached([]byte(repomd), []byte(f.read(repo+"/repodata/repomd.xml.asc")), keys,
			f.now); err != nil {
			f.t.Errorf("repomd.xml.asc: %v", err)
		}
		for _, m := range location.FindAllStringSubmatch(repomd, -1) {
			packed := f.read(repo + "/repodata/" + m[1] + m[2])
			if fmt.Sprintf("%x", sha256.Sum256([]byte(packed))) != m[1] {
				f.t.Errorf("%s has another sum", m[0])
			}
			indices[strings.TrimPrefix(m[2], "-")] = f.unpacked(repo + "/repodata/" + m[1] + m[2])
		}
		return indices
	}
	dir := repo + "/dists/stable/"
	release, _, err := openpgp.Clearsigned([]byte(f.read(dir+"InRelease")), keys, f.now)
	if err != nil {
		f.t.Errorf("InRelease: %v", err)
	}
	if string(release) != f.read(dir+"Release") {
		f.t.Errorf("InRelease and Release differ:\n%s\n%s", release, f.read(dir+"Release"))
	}
	if _, err := openpgp.Detached(release, []byte(f.read(dir+"Release.gpg")), keys, f.now); err != nil {
		f.t.Errorf("Release.gpg: %v", err)
	}
	_, sums, _ := strings.Cut(string(release), "SHA256:\n")
	for line := range strings.Lines(sums) {
		var sum, name, got string
		var size int
		if _, err := fmt.Sscan(line, &sum, &size, &name); err != nil {
			f.t.Fatalf("%q: %v", line, err)
		}
		if plain, packed := strings.CutSuffix(name, ".gz"); packed {
			got = f.read(dir + name)
			if f.read(dir+path.Dir(plain)+"/by-hash/SHA256/"+sum) != got {
				f.t.Errorf("%s is not there by its hash", name)
			}
		} else {
			got = f.unpacked(dir + name + ".gz")
			indices[strings.TrimPrefix(name, "main/")] = got
		}
		if len(got) != size || fmt.Sprintf("%x", sha256.Sum256([]byte(got))) != sum {
			f.t.Errorf("%s has not the sum or size of the Release file", name)
		}
	}
	return indices
}

var location = regexp.MustCompile(`href="repodata/([0-9a-f]{64})(-[a-z]+\.xml\.gz)"`)

func TestDEB(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	if indices := f.check("tools"); len(indices) != 3 || indices["binary-amd64/Packages"] != "" {
		t.Errorf("an empty repository: %q", indices)
	}
	f.now = f.now.Add(time.Minute)
	f.put("tools", app("b", "1:2.0~rc1+x-1", "amd64", "b"), app("a", "1.0", "all", "a"), app("c", "1", "riscv64", "c"))
	for name, want := range map[string]string{"all": "a_1.0_all.deb", "amd64": "b_2.0~rc1+x-1_amd64.deb",
		"riscv64": "c_1_riscv64.deb", "arm64": ""} {
		got := f.check("tools")["binary-"+name+"/Packages"]
		_, file, _ := strings.Cut(got, "Filename: ")
		file, _, _ = strings.Cut(file, "\n")
		if strings.Count(got, "Package: ") != strings.Count(want, "deb") || !strings.HasSuffix(file, want) {
			t.Errorf("%s: want %q in\n%s", name, want, got)
		}
		if file != "" && f.read("tools/"+file) == "" {
			t.Errorf("%s is not served", file)
		}
	}
	if got := f.labels("tools"); !slices.Equal(got, []string{"a=1.0:all", "b=1:2.0~rc1+x-1:amd64", "c=1:riscv64"}) {
		t.Errorf("the list: %q", got)
	}

	// A clock that goes back does not make a Release file that apt ignores as the older one.
	date := func() string { return regexp.MustCompile("Date: .*").FindString(f.read("tools/dists/stable/Release")) }
	was := date()
	f.now = f.now.Add(-30 * time.Second)
	f.put("tools", app("d", "1", "all", "d"))
	if date() != was {
		t.Errorf("the clock went back: %s, want %s", date(), was)
	}
	f.now = f.now.Add(time.Hour)

	// Indices stay by their hashes for some changes, packages that are removed go at once.
	hashed := func() (n int) {
		for _, line := range f.served() {
			if strings.Contains(line, "binary-all/by-hash/") {
				n++
			}
		}
		return n
	}
	for i := range 2 * keptGenerations {
		f.put("tools", app("e", fmt.Sprint(i+1), "all", "e"))
	}
	if hashed() != keptGenerations {
		t.Errorf("%d generations of an index are served, want %d", hashed(), keptGenerations)
	}
	if _, err := f.RemovePackages(t.Context(), "tools", "e=2"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.RemovePackages(t.Context(), "tools", "a"); err != nil {
		t.Fatal(err)
	}
	f.check("tools")
	if text := fmt.Sprint(f.served()); strings.Contains(text, "a_1.0_all") || strings.Contains(text, "e_2_all") ||
		!strings.Contains(text, "e_3_all") {
		t.Errorf("after the removal: %s", text)
	}
	for _, what := range []string{"a", "e=2", "e=", "=", ""} {
		if _, err := f.RemovePackages(t.Context(), "tools", what); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("remove %q: %v", what, err)
		}
	}
	if err := f.Remove(t.Context(), "tools", false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a repository with packages was removed: %v", err)
	}
	if err := f.Remove(t.Context(), "tools", true); err != nil || len(f.served()) > 0 {
		t.Errorf("remove: %v, %q", err, f.served())
	}
	if err := f.Remove(t.Context(), "tools", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestNames(t *testing.T) {
	f := start(t)
	for _, name := range []string{"", "simple", "A", "a/b", "..", ".a", "a.", "a b", "a?", "ä", "-a", "a\n",
		strings.Repeat("a", 63)} {
		if _, err := f.Add(t.Context(), name, DEB); !errors.As(err, new(*usage.Error)) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := f.Put(t.Context(), name, false, files(nil)); !errors.As(err, new(*usage.Error)) {
			t.Errorf("put into %q: %v", name, err)
		}
	}
	if _, err := f.Add(t.Context(), "a", "zip"); !errors.As(err, new(*usage.Error)) {
		t.Errorf("a wrong format: %v", err)
	}
	for _, name := range []string{"a", "a.b-c_d", "0", strings.Repeat("a", 62)} {
		f.add(name, DEB)
		if _, err := f.Add(t.Context(), name, RPM); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s was added twice: %v", name, err)
		}
	}
	if all, err := f.All(); err != nil || len(all) != 4 || all[1] != (Repository{"a", DEB, "https://" + host + "/a"}) {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := f.Put(t.Context(), "b", false, files(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("put into no repository: %v", err)
	}
}

// What is refused says why, and changes nothing.
func TestRefused(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	f.put("tools", app("have", "1", "amd64", "x"))
	was := f.served()
	good := app("good", "1", "amd64", "x")
	broken := errors.New("broken")
	mistake := new(*usage.Error)
	evil := debOf("Package: a\nVersion: 1\nArchitecture: all\nFilename: ../../x\n", "")
	for name, c := range map[string]struct {
		next  Source
		says  string
		class any
	}{
		"not a package":      {files(good, []byte("zip")), "2.file: it is not a DEB package", mistake},
		"cut off":            {files(good[:len(good)-8]), "not complete", mistake},
		"nothing":            {files(), "no package was sent", mistake},
		"twice":              {files(good, app("good", "1", "amd64", "y")), "with different content", mistake},
		"other content":      {files(good, app("have", "1", "amd64", "y")), "give it another version", fs.ErrExist},
		"Filename":           {files(evil), "the field Filename", mistake},
		"the sender's error": {func() (string, io.Reader, error) { return "", nil, broken }, "broken", broken},
		"a broken body": {func() (string, io.Reader, error) {
			return "x", io.MultiReader(bytes.NewReader(good[:40]), errorReader{broken}), nil
		}, "broken", broken},
	} {
		_, err := f.Put(t.Context(), "tools", false, c.next)
		is := err != nil && strings.Contains(err.Error(), c.says)
		if target, ok := c.class.(error); ok {
			is = is && errors.Is(err, target)
		} else {
			is = is && errors.As(err, c.class)
		}
		if !is {
			t.Errorf("%s: %v", name, err)
		}
		if now := f.served(); !slices.Equal(now, was) {
			t.Errorf("%s: something changed:\n%q\n%q", name, was, now)
		}
	}
}

type errorReader struct{ error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.error }

func TestSamePackage(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	f.put("tools", app("a", "1", "amd64", "x"))
	was := f.served()
	f.now = f.now.Add(time.Hour)
	f.put("tools", app("a", "1", "amd64", "x"))
	if !slices.Equal(f.served(), was) {
		t.Error("the same package once more is a change")
	}
	list, err := f.Put(t.Context(), "tools", true, files(app("a", "1", "amd64", "y")))
	if err != nil || len(list) != 1 || len(f.labels("tools")) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if !strings.Contains(f.check("tools")["binary-amd64/Packages"], strings.TrimPrefix(list[0].Digest, "sha256:")) {
		t.Error("the package was not replaced")
	}
}

// Two nodes write at the same time and lose nothing.
func TestTwoWriters(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	const each = 15
	var wg sync.WaitGroup
	for i, s := range []*Store{f.Store, f.another()} {
		wg.Go(func() {
			for j := range each {
				if _, err := s.Put(t.Context(), "tools", false, files(app(fmt.Sprintf("a%d", i), fmt.Sprint(j), "all",
					"x"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(f.labels("tools")); n != 2*each {
		t.Errorf("%d packages, want %d", n, 2*each)
	}
	f.check("tools")
}

// Whatever step fails, or fails but happens, a client sees the repository before the change or after it.
func TestFaults(t *testing.T) {
	for _, happened := range []bool{false, true} {
		for step := 0; ; step++ {
			f := start(t)
			f.add("tools", DEB)
			f.put("tools", app("a", "1", "all", "x"))
			n := 0
			f.tree.Fail = func(string) (error, bool) {
				if n++; n == step+1 {
					return syscall.EAGAIN, happened
				}
				return nil, false
			}
			_, err := f.Put(t.Context(), "tools", false, files(app("b", "1", "all", "x")))
			f.tree.Fail = nil
			if n <= step {
				if err != nil || step < 5 {
					t.Errorf("%d steps: %v", n, err)
				}
				break
			}
			if !errors.Is(err, syscall.EAGAIN) {
				t.Errorf("step %d: %v", step, err)
			}
			got := strings.Count(f.check("tools")["binary-all/Packages"], "Package:")
			if got != len(f.labels("tools")) {
				t.Errorf("step %d: %d packages in the index, %d listed", step, got, len(f.labels("tools")))
			}
			f.put("tools", app("b", "1", "all", "x")) // once more does no harm
			if len(f.labels("tools")) != 2 {
				t.Errorf("step %d: %q", step, f.labels("tools"))
			}
		}
	}
}

func TestRotation(t *testing.T) {
	f := start(t)
	if err := f.Rotate(t.Context()); !errors.As(err, new(*usage.Error)) {
		t.Errorf("a rotation without a key: %v", err)
	}
	if _, err := f.PublicKey(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key without a repository: %v", err)
	}
	f.add("d", DEB)
	f.add("r", RPM)
	old, err := f.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	// accepted are the repositories whose signatures keys verify.
	accepted := func(keys string) (n int) {
		ring, err := openpgp.ReadKeyring([]byte(keys))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := openpgp.Clearsigned([]byte(f.read("d/dists/stable/InRelease")), ring, f.now); err == nil {
			n++
		}
		if _, err := openpgp.Detached([]byte(f.read("r/repodata/repomd.xml")),
			[]byte(f.read("r/repodata/repomd.xml.asc")), ring, f.now); err == nil {
			n++
		}
		return n
	}
	if err := f.Finish(t.Context()); !errors.As(err, new(*usage.Error)) {
		t.Errorf("the end of no rotation: %v", err)
	}
	f.now = f.now.Add(time.Hour)
	// It breaks off after the key: the next one completes it.
	n := 0
	f.tree.Fail = func(string) (error, bool) {
		if n++; n > 1 {
			return syscall.EAGAIN, false
		}
		return nil, false
	}
	if err := f.Rotate(t.Context()); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a rotation that breaks off: %v", err)
	}
	f.tree.Fail = nil
	if err := f.Rotate(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second rotation: %v", err)
	}
	both, err := f.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if accepted(old) != 2 || accepted(both) != 2 {
		t.Errorf("in the overlap %d repositories are accepted with the old key, %d with both", accepted(old),
			accepted(both))
	}
	if keys, err := f.Keys(); err != nil || len(keys) != 2 || keys[0].State != "current" ||
		keys[1].State != "retiring" || !keys[0].Created.After(keys[1].Created) {
		t.Errorf("%+v, %v", keys, err)
	}
	if f.read("d/key.asc") != both || f.read("r/key.asc") != both {
		t.Error("the served key is not that of repo key")
	}
	if err := f.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if accepted(old) != 0 || accepted(both) != 2 {
		t.Errorf("after it %d repositories are accepted with the old key, %d with both", accepted(old), accepted(both))
	}
	for name := range f.tree.Walk("packages/keys", "") {
		if data, err := f.tree.ReadFile(name); err != nil || !bytes.HasPrefix(data, []byte("sealed:")) {
			t.Errorf("%s is not sealed: %v", name, err)
		}
	}
}

func TestWrite(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	do := func(method, target, body string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "https://"+host+target, strings.NewReader(body))
		r.SetBasicAuth("ci", "secret")
		for _, e := range edit {
			e(r)
		}
		w := httptest.NewRecorder()
		f.Write(w, r)
		return w
	}
	first, other := string(app("a", "1", "all", "x")), string(app("a", "1", "all", "y"))
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	form := "--x\r\nContent-Disposition: form-data; name=note\r\n\r\nhello\r\n--x\r\nContent-Disposition: form-data; " +
		"name=file; filename=b.deb\r\n\r\n" + string(app("b", "1", "all", "x")) + "\r\n--x--\r\n"
	for _, c := range []struct {
		name, method, target, body string
		edit                       func(*http.Request)
		code                       int
	}{
		{"without a user", "PUT", "/tools/a.deb", first, func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		{"wrong password", "PUT", "/tools/a.deb", first, func(r *http.Request) { r.SetBasicAuth("ci", "x") }, 401},
		{"not allowed", "PUT", "/tools/a.deb", first, func(r *http.Request) { r.SetBasicAuth("eve", "secret") }, 403},
		{"no majority", "PUT", "/tools/a.deb", first, func(r *http.Request) { r.SetBasicAuth("busy", "x") }, 503},
		{"no repository", "PUT", "/none/a.deb", first, nil, 404},
		{"no name", "PUT", "/", first, nil, 400},
		{"python", "PUT", "/simple/a.deb", first, nil, 400},
		{"not a package", "PUT", "/tools/a.deb", "zip", nil, 400},
		{"a part", "PUT", "/tools/a.deb", first, header("Content-Range", "bytes 0-1/2"), 400},
		{"put", "PUT", "/tools/", first, nil, 201},
		{"again", "PUT", "/tools/any.name", first, nil, 201},
		{"other content", "PUT", "/tools/", other, nil, 409},
		{"force", "PUT", "/tools/?force=true", other, nil, 201},
		{"a form", "POST", "/tools/", form, header("Content-Type", "multipart/form-data; boundary=x"), 201},
		{"half a form", "POST", "/tools/", form[:200], header("Content-Type", "multipart/form-data; boundary=x"), 400},
		{"no form", "POST", "/tools/", first, nil, 400},
		{"delete what is not there", "DELETE", "/tools/pool/x", "", nil, 404},
		{"delete metadata", "DELETE", "/tools/dists/stable/InRelease", "", nil, 404},
		{"patch", "PATCH", "/tools/", "", nil, 405},
	} {
		edit := c.edit
		if edit == nil {
			edit = func(*http.Request) {}
		}
		if w := do(c.method, c.target, c.body, edit); w.Code != c.code || c.code >= 400 && w.Body.Len() < 10 {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if got := f.labels("tools"); !slices.Equal(got, []string{"a=1:all", "b=1:all"}) {
		t.Errorf("%q", got)
	}
	for _, p := range f.mustList("tools") {
		if w := do("DELETE", strings.TrimPrefix(p.URL, "https://"+host), ""); w.Code != 204 {
			t.Errorf("delete %s: %d %s", p.URL, w.Code, w.Body)
		}
	}
	if got := f.labels("tools"); got != nil {
		t.Errorf("after all were deleted: %q", got)
	}
}

func (f *fixture) mustList(repo string) []Package {
	f.t.Helper()
	list, err := f.List(f.t.Context(), repo)
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

// BenchmarkPut puts one package into a repository that has 5000, each with as much metadata as Debian's.
func BenchmarkPut(b *testing.B) {
	f := start(b)
	f.add("tools", DEB)
	long := strings.Repeat(" some words about this package\n", 25)
	pkg := func(i int) []byte {
		return debOf(fmt.Sprintf("Package: app%d\nVersion: 1.0-%d\nArchitecture: amd64\nMaintainer: x\n"+
			"Description: x\n%s", i, i, long), "x")
	}
	var all [][]byte
	for i := range 5000 {
		all = append(all, pkg(i))
	}
	if _, err := f.Put(b.Context(), "tools", false, files(all...)); err != nil {
		b.Fatal(err)
	}
	for i := 5000; b.Loop(); i++ {
		if _, err := f.Put(b.Context(), "tools", false, files(pkg(i))); err != nil {
			b.Fatal(err)
		}
	}
}
