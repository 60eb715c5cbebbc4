package collect

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"casemate/bundle/collect/diagnose"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
)

// tree serves files by path; other paths are 404. Every file has an ETag, and answers If-None-Match.
func tree(t *testing.T, files map[string]string) *site {
	return serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		content, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", `"`+digests.SHA256([]byte(content))[:20]+`"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	})
}

func hexSum(content string) string {
	return strings.TrimPrefix(digests.SHA256([]byte(content)), "sha256:")
}

func TestFilesSecondRun(t *testing.T) {
	s := tree(
		t,
		map[string]string{
			"/a.tgz":              "\x1f\x8bA",
			"/bin/kubelet":        "K",
			"/bin/kubelet.sha256": hexSum("K"),
			"/pinned":             "P",
			"/same":               "P",
		},
	)
	opt := s.options(t)
	w := wantFiles(s.URL+"/a.tgz", s.URL+"/bin/kubelet", s.URL+"/pinned", s.URL+"/same")
	w.Files[2].Digest = digests.SHA256([]byte("P"))
	c := collect(t, w, opt)
	want := []string{
		s.URL + "/a.tgz",
		s.URL + "/bin/kubelet",
		s.URL + "/bin/kubelet.sha256",
		s.URL + "/pinned",
		s.URL + "/same",
	}
	if got := contents(t, c); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := read(t, c, s.URL+"/bin/kubelet"); string(got) != "K" {
		t.Errorf("got %q", got)
	}
	first, err := c.Index.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	s.forget()
	opt.Now = func() time.Time { return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) }
	c = collect(t, w, opt)
	if second, _ := c.Index.Encode(); !bytes.Equal(first, second) || c.Fetched != 0 {
		t.Errorf("fetched %d bytes; the index is\n%s\nand was\n%s", c.Fetched, second, first)
	}
	if n := len(s.asked("/pinned")); n != 0 {
		t.Errorf("a pinned file was requested %d times", n)
	}
	if got := s.asked("/bin/kubelet"); len(got) != 1 || len(s.requests) != 4 {
		t.Errorf("asked %q", s.requests)
	}
}

func TestChangedFileIsFetchedAgain(t *testing.T) {
	files := map[string]string{"/latest.txt": "1"}
	s := tree(t, files)
	opt := s.options(t)
	w := wantFiles(s.URL + "/latest.txt")
	collect(t, w, opt).Close()
	files["/latest.txt"] = "2"
	opt.Now = func() time.Time { return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) }
	c := collect(t, w, opt)
	if got := read(t, c, s.URL+"/latest.txt"); string(got) != "2" || c.Index.Files[0].On != "2027-01-01" {
		t.Errorf("got %q %+v", got, c.Index.Files[0])
	}
}

// A server that does not compare says the same ETag and length again, and that is enough.
func TestServerThatDoesNotCompare(t *testing.T) {
	for _, tt := range []struct {
		header, first, second string
		fetched               int64
	}{
		{"ETag", `"1"`, `"1"`, 0}, {"ETag", `"1"`, `"2"`, 3}, {"ETag", `W/"1"`, `W/"1"`, 3},
		{"Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT", "Tue, 24 Nov 2026 10:00:00 GMT", 0},
		{"Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT", "Tue, 24 Nov 2026 10:00:01 GMT", 3}, {"X-None", "", "", 3},
	} {
		var run atomic.Int32
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set(tt.header, []string{tt.first, tt.second}[run.Load()])
			w.Header().Set("Content-Length", "3")
			io.WriteString(w, "abc")
		})
		opt := s.options(t)
		w := wantFiles(s.URL + "/a.txt")
		collect(t, w, opt).Close()
		run.Store(1)
		opt.Now = func() time.Time { return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) }
		// The bytes are the same in any case, and so is the day on which they came first.
		if c := collect(t, w, opt); c.Fetched != tt.fetched || c.Index.Files[0].On != "2026-11-24" {
			t.Errorf("%+v: fetched %d, %+v", tt, c.Fetched, c.Index.Files[0])
		}
	}
}

func TestPinnedFiles(t *testing.T) {
	s := tree(t, map[string]string{"/a": "A"})
	sum512 := sha512.Sum512([]byte("A"))
	for _, digest := range []string{digests.SHA256([]byte("A")), "sha512:" + hex.EncodeToString(sum512[:])} {
		opt := s.options(t)
		w := wantFiles(s.URL + "/a")
		w.Files[0].Digest = digest
		for range 2 {
			c := collect(t, w, opt)
			if f := c.Index.Files[0]; f.Digest != digests.SHA256([]byte("A")) {
				t.Errorf("got %+v", f)
			}
			contents(t, c)
			c.Close()
		}
		if got := s.asked("/a"); len(got) != 1 {
			t.Errorf("%s: asked %q", digest, got)
		}
		s.forget()
	}
}

func TestHeldFileIsNotFetched(t *testing.T) {
	s := tree(t, map[string]string{"/a": "ABC"})
	opt := s.options(t)
	opt.Since = digests.SHA256(nil)
	opt.Have = func(d string) bool { return d == digests.SHA256([]byte("ABC")) }
	w := wantFiles(s.URL + "/a")
	w.Files[0].Digest = digests.SHA256([]byte("ABC"))
	c := collect(t, w, opt)
	contents(t, c)
	if got := s.asked("/a"); len(got) != 1 || got[0] != "HEAD /a" || !c.Index.Blobs[0].Omitted ||
		c.Index.Files[0].Size != 3 {
		t.Errorf("asked %q, got %+v", got, c.Index)
	}
}

func TestDryRunOfFiles(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		switch r.URL.Path {
		case "/a":
			w.Header().Set("Content-Length", "1000000")
		case "/nohead":
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			w.Header().Set("Content-Length", "1000")
			flush(w, make([]byte, 10))
			hangUp()
		case "/unknown":
			w.(http.Flusher).Flush()
		default:
			http.NotFound(w, r)
		}
	})
	opt := s.options(t)
	opt.DryRun = true
	c := collect(t, wantFiles(s.URL+"/a", s.URL+"/nohead", s.URL+"/unknown"), opt)
	var got []int64
	for _, f := range c.Index.Files {
		got = append(got, f.Size)
	}
	if !slices.Equal(got, []int64{1000000, 1000, -1}) || c.Fetched != 1001000 {
		t.Errorf("got %v, %d bytes", got, c.Fetched)
	}
	c.Close()
	if _, err := Collect(t.Context(), wantFiles(s.URL+"/none"), opt); err == nil ||
		!strings.Contains(err.Error(), "files.list:1: "+s.URL+"/none: the server answered 404") {
		t.Errorf("got %v", err)
	}
}

func TestNeighbours(t *testing.T) {
	sum512 := sha512.Sum512([]byte("F"))
	for _, tt := range []struct {
		name, neighbour, content string
		want                     string // error
		taken                    bool   // the neighbour is collected
	}{
		{"alone", ".sha256", hexSum("F"), "", true},
		{"alone with newline and capitals", ".sha256", strings.ToUpper(hexSum("F")) + "\n", "", true},
		{"sha256sum", ".sha256sum", hexSum("F") + "  file\n", "", true},
		{"binary", ".sha256sum", hexSum("F") + " *dist/file\n", "", true},
		{"several", ".sha256", hexSum("other") + "  other\n" + hexSum("F") + "  file\n", "", true},
		{"BSD", ".sha256", "SHA256 (file) = " + hexSum("F") + "\n", "", true},
		{"renamed", ".sha256", hexSum("F") + "  file-1.2.3\n", "", true},
		{"sha512", ".sha512", hex.EncodeToString(sum512[:]), "", true},
		{"wrong", ".sha256", hexSum("G"), "its checksum is wrong, it looks changed", false},
		{"several without it", ".sha256", hexSum("G") + "  g\n" + hexSum("H") + "  h\n", "", false},
		{"a page instead of a 404", ".sha256", "<html>not found", "", false},
		{"nothing in it", ".sha256", "", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tree(t, map[string]string{"/d/file": "F", "/d/file" + tt.neighbour: tt.content})
			c, err := Collect(t.Context(), wantFiles(s.URL+"/d/file"), s.options(t))
			if tt.want != "" {
				var m *diagnose.Mismatch
				if !errors.As(err, &m) || !strings.Contains(err.Error(), tt.want) ||
					m.Known != s.URL+"/d/file"+tt.neighbour {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := len(c.Index.Files) == 2; got != tt.taken {
				t.Errorf("got %+v", c.Index.Files)
			}
		})
	}
}

func TestNeighbourThatCannotBeRead(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		switch r.URL.Path {
		case "/file":
			w.Write([]byte("F"))
		case "/file.sha256":
			w.WriteHeader(http.StatusBadGateway)
		default:
			w.WriteHeader(http.StatusForbidden) // as object stores say it
		}
	})
	c := collect(t, wantFiles(s.URL+"/file"), s.options(t))
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "/file.sha256 could not be read") {
		t.Errorf("notes %q", c.Notes)
	}
}

func TestRedirects(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("F")) }))
	defer plain.Close()
	other := tree(t, map[string]string{"/there": "F"})
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		switch r.URL.Path {
		case "/file":
			http.Redirect(w, r, other.URL+"/there?sig=secret", http.StatusFound)
		case "/down":
			http.Redirect(w, r, plain.URL, http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	})
	opt := s.options(t)
	c := collect(t, wantFiles(s.URL+"/file"), opt)
	if f := c.Index.Files[0]; f.URL != s.URL+"/file" || f.From != other.URL+"/there" {
		t.Errorf("got %+v", f)
	}
	c.Close()
	w := wantFiles(s.URL + "/down")
	if _, err := Collect(t.Context(), w, opt); err == nil || !strings.Contains(err.Error(), "plain http") {
		t.Errorf("got %v", err)
	}
	w.Files[0].Digest = digests.SHA256([]byte("F"))
	collect(t, w, opt)
}

func TestBadURLs(t *testing.T) {
	for _, u := range []string{"ftp://example.com/x", "https://user:word@example.com/x", "https://", "/x",
		"https://exa mple.com"} {
		if checkURL(u) == nil {
			t.Errorf("%s was taken", u)
		}
	}
}

func TestPagesInsteadOfArchives(t *testing.T) {
	s := tree(
		t,
		map[string]string{
			"/a.tgz":      "<!DOCTYPE html><title>Login</title>",
			"/b.deb":      "Not here, sorry.",
			"/script":     "<html>sorry",
			"/index.html": "<html>right",
		},
	)
	_, err := Collect(
		t.Context(),
		wantFiles(s.URL+"/a.tgz", s.URL+"/b.deb", s.URL+"/script", s.URL+"/index.html"),
		s.options(t),
	)
	var ce *Error
	if !errors.As(err, &ce) || len(ce.Failed) != 2 || !strings.Contains(ce.Failed[0].Err.Error(), "HTML") ||
		!strings.Contains(ce.Failed[1].Err.Error(), "Not here, sorry.") {
		t.Errorf("got %v", err)
	}
	c := collect(t, wantFiles(s.URL+"/script", s.URL+"/index.html"), s.options(t))
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "/script: no checksum is known") {
		t.Errorf("notes %q", c.Notes)
	}
}

// program is an ELF header of a program for a machine, with a section table at its end.
func program(machine elf.Machine) []byte {
	b := make([]byte, 64+64)
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(
		elf.ELFCLASS64,
	), byte(
		elf.ELFDATA2LSB,
	), byte(
		elf.EV_CURRENT,
	)
	b[16], b[18], b[19], b[20] = byte(elf.ET_EXEC), byte(machine), byte(machine>>8), byte(elf.EV_CURRENT)
	b[40] = 64 // section table
	b[52] = 64
	b[54] = 56
	b[58], b[60] = 64, 1
	return b
}

// tarball is a .tgz of names and contents.
func tarball(t *testing.T, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, files[i+1])
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func FuzzVerdict(f *testing.F) {
	f.Add([]byte("<html>"), "https://example.com/amd64/kubelet")
	f.Add(program(elf.EM_AARCH64), "https://example.com/amd64/kubelet")
	f.Add([]byte("\x1f\x8b\x08\x00"), "https://example.com/a.tgz")
	f.Fuzz(func(t *testing.T, content []byte, url string) {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		file.Write(content)
		m := &diagnose.Mismatch{Looks: diagnose.Changed, Size: int64(len(content)), Got: digests.SHA256(content)}
		m.Diagnose(url, "", file, nil)
		if m.Detail == "" || m.Looks == "" {
			t.Errorf("no word about %q", content)
		}
		if d := sumOf(content, "name"); d != "" && digests.Check(d) != nil {
			t.Errorf("sum %q", d)
		}
		diagnose.ServerMessage("", content)
	})
}

func TestProxyFromTheEnvironment(t *testing.T) {
	u := newUpstream(t)
	u.picture(t, "x", "v1", "linux/amd64", "layer")
	far := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/file.txt" {
			w.Write([]byte("F"))
			return
		}
		u.handler.ServeHTTP(w, r)
	}))
	defer far.Close()
	var tunnels, plain atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			plain.Add(1)
			fmt.Fprint(w, "by proxy: ", r.URL)
			return
		}
		if r.Host != "example.com:443" {
			t.Errorf("CONNECT %s", r.Host)
		}
		tunnels.Add(1)
		to, err := net.Dial("tcp", far.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { defer to.Close(); io.Copy(to, from) }()
		go func() { defer from.Close(); io.Copy(from, to) }()
	}))
	defer proxy.Close()
	opt := quick(t)
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(v, proxy.URL)
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	tr := transport.New()
	roots := x509.NewCertPool()
	roots.AddCert(far.Certificate())
	tr.TLSClientConfig = &tls.Config{RootCAs: roots}
	opt.Transport = tr
	w := wantImages("example.com/x:v1")
	w.Files = wantFiles("https://example.com/file.txt", "http://files.example/a.txt").Files
	c := collect(t, w, opt)
	contents(t, c)
	if got := read(t, c, "http://files.example/a.txt"); string(got) != "by proxy: http://files.example/a.txt" {
		t.Errorf("got %q", got)
	}
	if tunnels.Load() == 0 || plain.Load() != 1 {
		t.Errorf("%d tunnels, %d plain", tunnels.Load(), plain.Load())
	}
}

func TestOrigin(t *testing.T) {
	for _, tt := range [][3]string{
		{"https://a/x", "https://a/x", ""}, {"https://a/x", "", ""}, {"https://a/x", "https://b/y?sig=1#f",
			"https://b/y"}, {"https://a/x", "https://a/x?token=1", ""},
		{"https://a/x", "https://me:word@b/y", "https://b/y"}, {"https://a/x", "://", ""},
	} {
		if got := origin(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s → %s: got %q", tt[0], tt[1], got)
		}
	}
}

func TestVerdicts(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(noise(5, 10_000))
	z.Close()
	arm := program(elf.EM_AARCH64)
	known := map[string]string{
		digests.SHA256([]byte("kubelet arm")): "kubelet_checksums arm64 1.35.4",
		digests.SHA256([]byte("kubelet old")): "kubelet_checksums amd64 1.35.3",
	}
	for _, tt := range []struct {
		name, path, content string
		want                diagnose.Looks
		detail              string
	}{
		{"empty", "/kubelet", "", diagnose.Truncated, "empty"},
		{"known of another architecture", "/amd64/kubelet", "kubelet arm", diagnose.OtherArchitecture,
			"it is kubelet_checksums arm64 1.35.4"},
		{"known of another version", "/amd64/kubelet", "kubelet old", diagnose.OtherVersion,
			"it is kubelet_checksums " +
				"amd64 1.35.3"},
		{"program of another architecture", "/linux/amd64/kubelet", string(arm), diagnose.OtherArchitecture,
			"a program for arm64, and its URL says amd64"},
		{"program of the right architecture", "/linux/arm64/kubelet", string(arm), diagnose.Changed,
			"other content now"},
		{"a program's beginning", "/linux/arm64/kubelet", string(arm[:100]), diagnose.Truncated, "the end of the " +
			"program is missing"},
		{"a few bytes of a program", "/linux/arm64/kubelet", string(arm[:10]), diagnose.Truncated,
			"beginning of a program"},
		{"cut archive", "/a.tgz", zipped.String()[:zipped.Len()-100], diagnose.Truncated, "gzip stream ends early"},
		{"whole archive", "/a.tgz", zipped.String(), diagnose.Changed, "other content now"},
		{"archive of another architecture", "/cni-plugins-linux-amd64-v1.tgz", tarball(t, "README", "read this",
			"./bridge", string(arm)), diagnose.OtherArchitecture,
			"programs in it are for arm64, and its URL says amd64"},
		{"archive of the right architecture", "/cni-plugins-linux-arm64-v1.tgz", tarball(t, "./bridge", string(arm)),
			diagnose.Changed, "other content now"},
		{"HTML", "/kubelet", "\n<!doctype HTML><html>Log in", diagnose.ErrorPage, "HTML"},
		{"object store", "/kubelet", `<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>`, diagnose.ErrorPage,
			"NoSuchKey"},
		{"text", "/a.tgz", "404: Not Found", diagnose.ErrorPage, "404: Not Found"},
		{"something", "/kubelet", "something", diagnose.Changed, "other content now"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tree(t, map[string]string{tt.path: tt.content})
			opt := s.options(t)
			opt.Other = func(d string) string { return known[d] }
			w := wantFiles(s.URL + tt.path)
			w.Files[0].Digest, w.Files[0].Known = digests.SHA256(
				[]byte("right"),
			), "checksums.yml: kubelet_checksums amd64 1.35.4"
			_, err := Collect(t.Context(), w, opt)
			var m *diagnose.Mismatch
			if !errors.As(err, &m) {
				t.Fatalf("got %v", err)
			}
			if m.Looks != tt.want || !strings.Contains(m.Detail, tt.detail) || m.Size != int64(len(tt.content)) ||
				m.Got != digests.SHA256([]byte(tt.content)) {
				t.Errorf("got %+v", m)
			}
			if !strings.Contains(err.Error(), "by checksums.yml: kubelet_checksums amd64 1.35.4") {
				t.Errorf("got %v", err)
			}
			// The wrong content is not gone on with.
			if parts, err := os.ReadDir(opt.Cache + "/parts"); err != nil || len(parts) != 0 {
				t.Errorf("%d parts are left, %v", len(parts), err)
			}
		})
	}
}
