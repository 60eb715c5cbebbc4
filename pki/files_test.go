package pki

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"
)

var _ certmagic.Storage = (*files)(nil)

func testFiles(t *testing.T, dir string) *files {
	t.Helper()
	return openFiles(dir, slog.New(slog.NewTextHandler(logTo{t}, nil)))
}

// store stores values of a name as certmagic does.
func (f *files) store(t *testing.T, name string, v values) {
	t.Helper()
	for ext, value := range v {
		key := path.Join(certmagic.StorageKeys.CertsSitePrefix(issuerKey, name), certmagic.StorageKeys.Safe(name)+ext)
		if err := f.Store(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
}

func whole(mark string) values {
	return values{
		".key":  []byte("-----BEGIN EC PRIVATE KEY-----\n" + mark + "\n-----END EC PRIVATE KEY-----\n"),
		".crt":  []byte("-----BEGIN CERTIFICATE-----\n" + mark + "\n-----END CERTIFICATE-----\n"),
		".json": []byte("{\n\t\"sans\": [\n\t\t\"" + mark + "\"\n\t],\n\t\"issuer_data\": null\n}"),
	}
}

// What is stored is there at once, and also for the next process; newer values replace older ones.
func TestFilesKeepWhatIsStored(t *testing.T) {
	dir := t.TempDir()
	f := testFiles(t, dir)
	check := func(when, name, mark string) {
		t.Helper()
		keys := certmagic.StorageKeys
		for ext, key := range map[string]string{
			".key": keys.SitePrivateKey(issuerKey, name), ".crt": keys.SiteCert(issuerKey, name),
			".json": keys.SiteMeta(issuerKey, name),
		} {
			want, there := whole(mark)[ext], mark != ""
			got, err := f.Load(t.Context(), key)
			info, serr := f.Stat(t.Context(), key)
			if there && (err != nil || serr != nil || string(got) != string(want) || info.Size != int64(len(want)) ||
				!info.IsTerminal) {
				t.Errorf("%s, %s: %q, %v, %+v, %v", when, key, got, err, info, serr)
			}
			if !there && (!errors.Is(err, fs.ErrNotExist) || !errors.Is(serr, fs.ErrNotExist)) {
				t.Errorf("%s, %s: %v, %v, want fs.ErrNotExist", when, key, err, serr)
			}
			if f.Exists(t.Context(), key) != there {
				t.Errorf("%s, %s: exists %v", when, key, !there)
			}
		}
	}
	list := func(when string, recursive bool, want ...string) {
		t.Helper()
		got, err := f.List(t.Context(), certs, recursive)
		for i, w := range want {
			want[i] = certs + "/" + w
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", when, got, err, want)
		}
	}
	for _, name := range []string{"docker.io", "fd00::11", "10.0.0.11"} {
		check("at first", name, "")
		f.store(t, name, whole("a"))
		check("stored", name, "a")
		f.flush()
		check("written", name, "a")
		f.store(t, name, whole("b"))
		check("replaced", name, "b")
		f.flush()
		f = testFiles(t, dir)
		check("in the next process", name, "b")
	}
	list("all", false, "10.0.0.11", "docker.io", "fd00--11")
	if err := f.Delete(t.Context(), certs+"/fd00--11"); err != nil {
		t.Error(err)
	}
	check("deleted", "fd00::11", "")
	if err := f.Delete(t.Context(), certs+"/10.0.0.11/10.0.0.11.crt"); err != nil {
		t.Error(err)
	}
	check("one value deleted", "10.0.0.11", "")
	list("what is left", true, "docker.io/docker.io.crt", "docker.io/docker.io.json", "docker.io/docker.io.key")
	check("what is left", "docker.io", "b")
	if err := f.Delete(t.Context(), certs+"/absent"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	for _, key := range []string{certs, "certificates", "", "ocsp/x"} {
		if err := f.Delete(t.Context(), key); err == nil {
			t.Errorf("%q was deleted", key)
		}
	}
	check("after that", "docker.io", "b")
}

// A file that broke off anywhere, or that lacks anything, is as good as absent.
func TestFilesAreWholeOrAbsent(t *testing.T) {
	file := whole("a").encode()
	for n := range file {
		if v, err := decode(file[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken for whole: %q", n, len(file), v)
		}
	}
	if v, err := decode(file); err != nil || string(v.encode()) != string(file) {
		t.Errorf("got %q, %v", v, err)
	}
	// What is stored in part is not written.
	dir := t.TempDir()
	f := testFiles(t, dir)
	for _, ext := range order {
		v := whole("a")
		delete(v, ext)
		f.store(t, "without"+strings.ReplaceAll(ext, ".", "-"), v)
	}
	f.flush()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("%d files (%v)", len(list), err)
	}
}

// Deleted is deleted, whatever is being written at that moment.
func TestFilesDeletedStayDeleted(t *testing.T) {
	dir := t.TempDir()
	f := testFiles(t, dir)
	var wg sync.WaitGroup
	for _, name := range []string{"a.example", "b.example", "c.example", "d.example"} {
		wg.Go(func() {
			for range 20 {
				f.store(t, name, whole("a"))
				if err := f.Delete(t.Context(), certs+"/"+name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	f.flush()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("%d files are left (%v)", len(list), err)
	}
}

// A value replaces its predecessor, whether or not that is on the disk already; the others of the name stay.
func TestFilesReplaceOneValue(t *testing.T) {
	for what, between := range map[string]func(*files){
		"written": func(f *files) { f.flush() },
		"at once": func(*files) {},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			f := testFiles(t, dir)
			want := whole("a")
			f.store(t, "docker.io", want)
			for _, ext := range order {
				between(f)
				want[ext] = whole("b")[ext]
				f.store(t, "docker.io", values{ext: want[ext]})
				if got := f.values("docker.io").encode(); string(got) != string(want.encode()) {
					t.Errorf("%s replaced: got %q", ext, got)
				}
			}
			f.flush()
			if got := testFiles(t, dir).values("docker.io").encode(); string(got) != string(want.encode()) {
				t.Errorf("on the disk: %q", got)
			}
		})
	}
}

// What the disk does not take is there until it takes it.
func TestFilesWithoutDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(path.Join(dir, "docker.io"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := testFiles(t, dir)
	key := certmagic.StorageKeys.SiteCert(issuerKey, "docker.io")
	for _, mark := range []string{"a", "b"} {
		f.store(t, "docker.io", whole(mark))
		f.flush()
		if got, err := f.Load(t.Context(), key); err != nil || string(got) != string(whole(mark)[".crt"]) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if err := os.Remove(path.Join(dir, "docker.io")); err != nil {
		t.Fatal(err)
	}
	f.store(t, "docker.io", whole("c"))
	f.flush()
	f = testFiles(t, dir)
	if got, err := f.Load(t.Context(), key); err != nil || string(got) != string(whole("c")[".crt"]) {
		t.Errorf("got %q, %v", got, err)
	}
}
