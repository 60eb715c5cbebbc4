package appliance

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"casemate/appliance/admin"
	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/parts"
	"casemate/appliance/setup"
	"casemate/bundle/format"
)

// sendAll sends the files of a session from where it goes on until it has finished, or has sent as many bytes, and
// returns the last state and how many bytes it has sent.
func (n *node) sendAll(s parts.State, files [][]byte, most int) (parts.State, int) {
	n.t.Helper()
	sent := 0
	for !s.Finished && sent < most {
		path := "imports/parts/" + s.ID
		if s.File < 0 {
			n.must("GET", path, nil, &s)
			continue
		}
		data := files[s.File][min(int(s.Offset), len(files[s.File])):]
		part := data[:min(len(data), s.Most)]
		sum := sha256.Sum256(part)
		path += fmt.Sprintf("?file=%d&offset=%d&last=%v", s.File, s.Offset, len(part) == len(data))
		resp := n.raw("PATCH", path, part, map[string]string{
			"Content-Digest": "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"})
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			n.t.Fatal(err)
		}
		switch resp.StatusCode {
		case http.StatusOK:
			sent += len(part)
			if err := json.Unmarshal(body, &s); err != nil {
				n.t.Fatal(err)
			}
		case http.StatusConflict: // what was wanted ahead is stored already
			s.File = -1
		default:
			n.t.Fatalf("%s: %s", resp.Status, body)
		}
	}
	return s, sent
}

// raw sends a request to the admin socket.
func (n *node) raw(method, path string, body []byte, header map[string]string) *http.Response {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://casemate/v1/"+path, bytes.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.Addrs().Admin)
		}}}
	resp, err := c.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func inputs(paths []string, files [][]byte) (list []handover.Named) {
	for i, p := range paths {
		list = append(list, handover.Named{Name: filepath.Base(p), Size: int64(len(files[i]))})
	}
	return list
}

func contents(t *testing.T, paths []string) (list [][]byte) {
	t.Helper()
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, data)
	}
	return list
}

// An upload that was ended half way is begun again with the same files: what is stored is not sent again, large blobs
// neither, and it ends staged, as it was asked for. Parts of a split bundle come in any order.
func TestAnUploadGoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	s := newStick(t)
	const layers, mib = 30, 1 << 20
	for i := range layers {
		s.image(fmt.Sprintf("registry.k8s.io/app%d:v1", i), noise(uint64(i), mib))
	}
	s.image("registry.k8s.io/large:v1", noise(100, 70*mib)) // a blob that is stored in pieces
	whole := s.write("a.tar", format.WriteOptions{})
	const name = "whole"
	paths := whole
	files := contents(t, paths)
	size := 0
	for _, f := range files {
		size += len(f)
	}
	q := handover.Request{Name: name, Hold: true, Inputs: inputs(paths, files)}
	var state parts.State
	n.must("POST", "imports/parts", q, &state)
	if state.Total != int64(size) {
		t.Errorf("%+v", state)
	}
	state, sent := n.sendAll(state, files, size*2/3)
	var list []parts.Listed
	n.must("GET", "imports/parts", nil, &list)
	if len(list) != 1 || list[0].ID != state.ID || !list[0].Hold || list[0].Files[0].Size != int64(len(files[0])) ||
		list[0].Files[0].Name != filepath.Base(paths[0]) {
		t.Errorf("%+v", list)
	}
	n.must("DELETE", "imports/parts/"+state.ID, nil, nil)
	q.Wait = true // for the first one to end
	n.must("POST", "imports/parts", q, &state)
	state, again := n.sendAll(state, files, 2*size)
	if state.Error != "" {
		t.Fatal(state.Error)
	}
	t.Logf("%d of %d bytes were sent, then %d", sent, size, again)
	if again > size-sent+3*parts.MaxPart {
		t.Errorf("%d of %d bytes were sent before, and %d again", sent, size, again)
	}
	var res content.Result
	if err := json.Unmarshal(state.Result, &res); err != nil || res.State != content.Staged || res.NeedsApproval {
		t.Fatalf("%+v, %v", res, err)
	}
	var waiting []content.Import
	n.must("GET", "approvals", nil, &waiting)
	if len(waiting) != 1 || waiting[0].Name != name {
		t.Errorf("%+v", waiting)
	}
	var diff content.Effect
	n.must("GET", "approvals/"+name, nil, &diff)
	n.must("POST", "imports/"+name+"/publish", map[string]string{"diff": diff.Diff}, &res)
	if res.State != content.Imported || res.New != layers+1 {
		t.Errorf("%+v", res)
	}
	// The same content in parts, in another order: only their beginnings are sent.
	paths = s.write("b.tar", format.WriteOptions{Split: 40 * mib})
	slices.Reverse(paths)
	files = contents(t, paths)
	n.must("POST", "imports/parts", handover.Request{Inputs: inputs(paths, files)}, &state)
	state, again = n.sendAll(state, files, 2*size)
	if err := json.Unmarshal(state.Result, &res); err != nil || res.State != content.Unchanged ||
		again > len(files)*mib {
		t.Errorf("%+v, %v after %d bytes", state, err, again)
	}
}

// What does not fit beside the disk's reserve is refused before it is sent, by the sizes of its files.
func TestAnUploadThatDoesNotFit(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	var tree bytes.Buffer
	w := tar.NewWriter(&tree)
	w.WriteHeader(&tar.Header{Name: "dl.k8s.io/x", Size: 1 << 20, Mode: 0o644})
	w.Write(noise(1, 1<<20))
	w.Close()
	var state parts.State
	q := handover.Request{Inputs: []handover.Named{{Name: "x.tar", Size: 1 << 49}}}
	n.must("POST", "imports/parts", q, &state)
	state, sent := n.sendAll(state, [][]byte{tree.Bytes()}, 1<<30)
	if state.Status != http.StatusInsufficientStorage ||
		!strings.Contains(state.Error, "are free besides the disk's") ||
		sent > 256<<10 {
		t.Errorf("%+v after %d bytes", state, sent)
	}
}

// form is multipart/form-data of fields and files.
func form(t *testing.T, fields [][2]string, paths ...string) (kind string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range fields {
		if err := w.WriteField(f[0], f[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range paths {
		f, err := w.CreateFormFile("file", filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

// A plain form imports its files one by one, parts of a bundle in any order, and reports each.
func TestAForm(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	send := func(kind string, body []byte) (int, []admin.FormImport, string) {
		t.Helper()
		resp := n.raw("POST", "imports/form", body, map[string]string{"Content-Type": kind})
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var list []admin.FormImport
		json.Unmarshal(data, &list)
		return resp.StatusCode, list, string(data)
	}
	s := newStick(t)
	for i := range 3 {
		s.image(fmt.Sprintf("registry.k8s.io/app%d:v1", i), noise(uint64(i), 1<<20))
	}
	paths := s.write("a.tar", format.WriteOptions{Split: 2 << 20})
	if len(paths) < 2 {
		t.Fatal(paths)
	}
	sums := filepath.Join(filepath.Dir(paths[0]), "a.tar.sha256")
	broken := filepath.Join(t.TempDir(), "broken.tar")
	if err := os.WriteFile(broken, noise(1, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	order := append([]string{sums, broken}, paths[1:]...)
	kind, body := form(t, [][2]string{{"hold", "on"}, {"name", ""}}, append(order, paths[0])...)
	status, list, text := send(kind, body)
	if status != 200 || len(list) != len(paths)+2 {
		t.Fatalf("%d %s", status, text)
	}
	if list[0].Result != nil || list[0].Error != "" || list[1].Status < 400 ||
		!strings.Contains(list[1].Error, "broken.tar is no archive") {
		t.Errorf("%s", text)
	}
	for i, one := range list[2:] {
		want := content.Incomplete
		if i == len(paths)-1 {
			want = content.Staged
		}
		if one.Status != 200 || one.Result == nil || one.Result.State != want {
			t.Errorf("%s: %+v", one.File, one)
		}
	}
	for what, c := range map[string]struct {
		kind, body, want string
		status           int
	}{
		"no form":     {"application/json", "{}", "multipart/form-data", 400},
		"cut":         {kind, string(body[:300]), "the form", 400},
		"no boundary": {"multipart/form-data", "x", "multipart/form-data", 400},
	} {
		if status, _, text := send(c.kind, []byte(c.body)); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	for what, fields := range map[string][][2]string{
		"unknown field":  {{"nmae", "x"}},
		"checked twice":  {{"hold", "perhaps"}},
		"a long field":   {{"name", strings.Repeat("x", 5000)}},
		"not a name":     {{"name", "A b"}},
		"exclusive":      {{"hold", "on"}, {"dry_run", "on"}},
		"not a key":      {{"key", "x"}},
		"a reserved one": {{"name", "parts"}},
	} {
		kind, body := form(t, fields, broken)
		if status, _, text := send(kind, body); status != 400 || !strings.Contains(text, `"error"`) {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	status, _, text = send(form(t, [][2]string{{"name", "x"}}))
	if status != 400 || !strings.Contains(text, "no file") {
		t.Errorf("without a file: %d %s", status, text)
	}
	// A connection that is lost in a file: what was read is kept, and the same form goes on.
	s.image("registry.k8s.io/late:v1", noise(9, 1<<20))
	kind, body = form(t, nil, s.write("b.tar", format.WriteOptions{})...)
	if status, list, text := send(kind, body[:len(body)/2]); status != 200 || len(list) < 1 || list[0].Error == "" {
		t.Errorf("cut: %d %s", status, text)
	}
	if status, list, text := send(kind, body); status != 200 || list[0].Result == nil ||
		list[0].Result.State != content.Imported {
		t.Errorf("again: %d %s", status, text)
	}
}

// Two uploads at once are imported one after the other, parts of a bundle in any order.
func TestTwoUploadsAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	var wg sync.WaitGroup
	for i, name := range []string{"one", "two"} {
		s := newStick(t)
		for k := range 8 {
			s.image(fmt.Sprintf("registry.k8s.io/%s%d:v1", name, k), noise(uint64(10*i+k), 1<<20))
		}
		paths := s.write(name+".tar", format.WriteOptions{Split: 3 << 20})
		slices.Reverse(paths)
		files := contents(t, paths)
		wg.Go(func() {
			var state parts.State
			q := handover.Request{Wait: true, Hold: true, Inputs: inputs(paths, files)}
			n.must("POST", "imports/parts", q, &state)
			state, _ = n.sendAll(state, files, 1<<30)
			var res content.Result
			err := json.Unmarshal(state.Result, &res)
			if err != nil || res.State != content.Staged || res.Name != name {
				t.Errorf("%+v, %v", state, err)
			}
		})
	}
	wg.Wait()
}
