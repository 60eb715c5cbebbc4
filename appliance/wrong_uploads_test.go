package appliance

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/user"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"casemate/appliance/access"
	"casemate/appliance/admin"
	"casemate/appliance/handover"
	"casemate/appliance/parts"
	"casemate/appliance/setup"
	"casemate/bundle/format"
)

// tarred is a tar of entries.
func tarred(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(noise(1, int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// However an upload is wrong, its sender gets a sentence and a status that says whose mistake it is: never 500, and
// nothing is stored under a name.
func TestWrongUploads(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	s := newStick(t).image("registry.k8s.io/app:v1", noise(1, 1<<20)).file("https://dl.k8s.io/x", "x")
	good := contents(t, s.write("a.tar", format.WriteOptions{}))[0]
	split := contents(t, s.write("b.tar", format.WriteOptions{Split: 512 << 10}))
	other := contents(t, newStick(t).file("https://dl.k8s.io/y", "y").image("registry.k8s.io/o:v1", noise(2, 2<<20)).
		write("b.tar", format.WriteOptions{Split: 512 << 10}))
	squeezed := func(make func(io.Writer) io.WriteCloser, data []byte) []byte {
		var b bytes.Buffer
		w := make(&b)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zst := squeezed(func(w io.Writer) io.WriteCloser {
		e, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}, good)
	gz := squeezed(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, good)
	var zipped bytes.Buffer
	z := zip.NewWriter(&zipped)
	if f, err := z.Create("wheel/METADATA"); err != nil {
		t.Fatal(err)
	} else if _, err := f.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	z.Close()
	half := func(b []byte) []byte { return b[:len(b)/2] }
	flipped := func(b []byte, at int) []byte {
		b = slices.Clone(b)
		b[at] ^= 1
		return b
	}
	newer := bytes.Replace(good, []byte(`"version":1`), []byte(`"version":9`), 1)
	type file struct {
		name string
		data []byte
	}
	one := func(data []byte) []file { return []file{{"a.tar", data}} }
	for what, c := range map[string]struct {
		files []file
		edit  func(*handover.Request)
	}{
		"empty":          {one(nil), nil},
		"one byte":       {one([]byte("x")), nil},
		"noise":          {one(noise(1, 100_000)), nil},
		"zeros":          {one(make([]byte, 100_000)), nil},
		"text":           {one([]byte("https://dl.k8s.io/x\n")), nil},
		"html":           {one([]byte("<!doctype html><html><body>404</body></html>")), nil},
		"json":           {one([]byte(`{"schemaVersion":2}`)), nil},
		"zip":            {[]file{{"a.zip", zipped.Bytes()}}, nil},
		"wheel of noise": {[]file{{"a-1.0-py3-none-any.whl", zipped.Bytes()}}, nil},
		"magic of zstd":  {[]file{{"a.tar.zst", []byte{0x28, 0xb5, 0x2f, 0xfd}}}, nil},
		"magic of gzip":  {[]file{{"a.tar.gz", []byte{0x1f, 0x8b, 8}}}, nil},
		"magic of xz":    {[]file{{"a.tar.xz", []byte("\xfd7zXZ\x00")}}, nil},
		"noise behind zstd": {[]file{{"a.tar.zst", append([]byte{0x28, 0xb5, 0x2f, 0xfd}, noise(3,
			9999)...)}}, nil},
		"noise behind gzip": {[]file{{"a.tgz", append([]byte{0x1f, 0x8b, 8, 0}, noise(3, 9999)...)}},
			nil},
		"cut zstd":     {[]file{{"a.tar.zst", half(zst)}}, nil},
		"cut gzip":     {[]file{{"a.tar.gz", half(gz)}}, nil},
		"damaged gzip": {[]file{{"a.tar.gz", flipped(gz, len(gz)-6)}}, nil},
		"zstd of noise": {[]file{{"a.tar.zst", squeezed(func(w io.Writer) io.WriteCloser {
			e,
				_ := zstd.NewWriter(w)
			return e
		}, noise(4, 9999))}}, nil},
		"cut bundle":          {one(half(good)), nil},
		"cut header":          {one(good[:300]), nil},
		"damaged header":      {one(flipped(good, 3)), nil},
		"damaged content":     {one(flipped(good, len(good)/2)), nil},
		"damaged end":         {one(flipped(good, len(good)-2000)), nil},
		"another version":     {one(newer), nil},
		"absolute path":       {one(tarred(t, tar.Header{Name: "/etc/passwd", Size: 10})), nil},
		"path upwards":        {one(tarred(t, tar.Header{Name: "../../etc/passwd", Size: 10})), nil},
		"path upwards inside": {one(tarred(t, tar.Header{Name: "dl.k8s.io/../../x", Size: 10})), nil},
		"no host":             {one(tarred(t, tar.Header{Name: "x", Size: 10})), nil},
		"empty tar":           {one(tarred(t)), nil},
		"only a directory": {one(tarred(t, tar.Header{Name: "dl.k8s.io/", Typeflag: tar.TypeDir})),
			nil},
		"link": {one(tarred(t, tar.Header{Name: "dl.k8s.io/x", Typeflag: tar.TypeSymlink,
			Linkname: "/etc/passwd"})), nil},
		"device": {one(tarred(t, tar.Header{Name: "dl.k8s.io/x", Typeflag: tar.TypeChar})),
			nil},
		"control characters in a tar": {one(tarred(t, tar.Header{Name: "dl.k8s.io/a\x1b[31m\nb", Size: 10})),
			nil},
		"an OCI layout without its index": {one(tarred(t, tar.Header{Name: "oci-layout", Size: 10})), nil},
		"a manifest that is none":         {one(tarred(t, tar.Header{Name: "manifest.json", Size: 10})), nil},
		"a name with control characters":  {[]file{{"a\x1b[31m\n.tar", noise(1, 999)}}, nil},
		"a name that is no UTF-8":         {[]file{{"a\xff.tar", noise(1, 999)}}, nil},
		"a name with a path":              {[]file{{"../../../etc/a.tar", noise(1, 999)}}, nil},
		"a name of dots":                  {[]file{{"..", noise(1, 999)}}, nil},
		"parts of two bundles":            {[]file{{"b.tar.001", split[0]}, {"b.tar.002", other[1]}}, nil},
		"a part twice":                    {[]file{{"b.tar.001", split[0]}, {"b.tar.002", split[0]}}, nil},
		"a part and an archive": {[]file{{"b.tar.001", split[0]}, {"x.tar", tarred(t,
			tar.Header{Name: "dl.k8s.io/x", Size: 9})}}, nil},
		"two archives":       {[]file{{"x.tar", half(good)}, {"y.tar", noise(1, 99)}}, nil},
		"a reserved name":    {one(good), func(q *handover.Request) { q.Name = "parts" }},
		"a wrong name":       {one(good), func(q *handover.Request) { q.Name = "A b\n" }},
		"a key that is none": {one(good), func(q *handover.Request) { q.Keys = []string{"x"} }},
		"a wrong repository": {one(noise(1, 9)), func(q *handover.Request) { q.Repository = "\x00" }},
		"a wrong index": {one(noise(1, 9)),
			func(q *handover.Request) { q.PythonIndex = "file:///x" }},
		"exclusive":       {one(good), func(q *handover.Request) { q.Hold, q.DryRun = true, true }},
		"no file":         {nil, nil},
		"too many files":  {make([]file, 300), nil},
		"a negative size": {one(good), func(q *handover.Request) { q.Inputs[0].Size = -1 }},
		"a huge size":     {one(good), func(q *handover.Request) { q.Inputs[0].Size = 1 << 60 }},
		"smaller than declared": {one(half(good)),
			func(q *handover.Request) { q.Inputs[0].Size = 2 * int64(len(good)) }},
		"larger than declared": {one(half(good)), func(q *handover.Request) { q.Inputs[0].Size = 10 }},
		"no name":              {[]file{{"", noise(1, 9)}}, nil},
		"a directory":          {one(good), func(q *handover.Request) { q.Inputs[0].Dir = true }},
	} {
		q := handover.Request{Wait: true}
		var files [][]byte
		for _, f := range c.files {
			q.Inputs = append(q.Inputs, handover.Named{Name: f.name, Size: int64(len(f.data))})
			files = append(files, f.data)
		}
		if c.edit != nil {
			c.edit(&q)
		}
		var state parts.State
		status, sentence := n.admin("POST", "imports/parts", q, &state)
		if status < 400 {
			state, _ = n.sendAll(state, files, 1<<30)
			status, sentence = state.Status, state.Error
			n.must("DELETE", "imports/parts/"+state.ID, nil, nil)
		}
		if status != 400 && status != 409 && status != 422 || sentence == "" || strings.Contains(sentence, "\x1b") {
			t.Errorf("%s: %d %q %s", what, status, sentence, state.Result)
		} else {
			t.Logf("%s: %d %s", what, status, sentence)
		}
	}
	for _, path := range []string{"files", "images", "imports"} {
		var list []json.RawMessage
		if n.must("GET", path, nil, &list); len(list) > 0 {
			t.Errorf("%s: %s", path, list)
		}
	}
}

// However a part is wrong, it is refused and the upload goes on where it was.
func TestWrongParts(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	data := contents(t, newStick(t).image("registry.k8s.io/app:v1", noise(1, 4<<20)).
		write("a.tar", format.WriteOptions{}))[0]
	var first parts.State
	n.must("POST", "imports/parts", handover.Request{Inputs: []handover.Named{{Name: "a.tar", Size: int64(len(data))}}},
		&first)
	owner, err := user.Current() // of the socket, too
	if err != nil {
		t.Fatal(err)
	}
	digest := func(b []byte) string {
		sum := sha256.Sum256(b)
		return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	}
	// Not over a connection: most are refused before they have been sent.
	h := n.Appliance.admin.Handler()
	send := func(what, query string, body []byte, sum string, want int) {
		t.Helper()
		r := httptest.NewRequest("PATCH", "/v1/imports/parts/"+first.ID+query, bytes.NewReader(body))
		r.Header.Set("Content-Digest", sum)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(admin.WithSubject(r.Context(), access.Socket(owner.Username))))
		if w.Code != want || !strings.Contains(w.Body.String(), `"error"`) {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	part := data[:first.Most]
	const begin = "?file=0&offset=0"
	send("no digest", begin, part, "", 400)
	send("a digest that is none", begin, part, "sha-256=:x:", 400)
	send("a wrong digest", begin, part, digest(nil), 503)
	send("another algorithm", begin, part, strings.Replace(digest(part), "256", "512", 1), 400)
	send("no file", "?offset=0", part, digest(part), 400)
	send("a file that there is not", "?file=1&offset=0", part, digest(part), 400)
	send("a negative file", "?file=-1&offset=0", part, digest(part), 400)
	send("a huge file", "?file=99999999999999999999&offset=0", part, digest(part), 400)
	send("a negative offset", "?file=0&offset=-5", part, digest(part), 409)
	send("an offset ahead", "?file=0&offset=100", part, digest(part), 409)
	send("a huge offset", "?file=0&offset=9223372036854775808", part, digest(part), 400)
	send("a part that overlaps", fmt.Sprint("?file=0&offset=", first.Most/2), part, digest(part), 409)
	send("an empty part", begin, nil, digest(nil), 400)
	large := data[:first.Most+1]
	send("a part that is too large", begin, large, digest(large), 400)
	huge := make([]byte, parts.MaxPart+1)
	send("a huge part", begin, huge, digest(huge), 400)
	var now parts.State
	n.must("GET", "imports/parts/"+first.ID, nil, &now)
	if now.File != 0 || now.Offset != 0 {
		t.Errorf("%+v", now)
	}
	end, _ := n.sendAll(now, [][]byte{data}, 1<<30)
	if end.Status != http.StatusOK || end.Error != "" {
		t.Errorf("%+v", end)
	}
	send("a part after the end", begin, part, digest(part), 409)
}
