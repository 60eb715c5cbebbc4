package appliance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/origin"
	"casemate/appliance/setup"
	"casemate/bundle"
	"casemate/bundle/format"
	"casemate/bundle/signing"
	"casemate/cluster"
)

// stick is what a test puts into a bundle.
type stick struct {
	t     testing.TB
	index *bundle.Index
	blobs map[string][]byte
}

func newStick(t testing.TB) *stick {
	return &stick{t, &bundle.Index{Version: bundle.IndexVersion}, map[string][]byte{}}
}

func (s *stick) blob(data []byte) string {
	d := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	if _, ok := s.blobs[d]; !ok {
		s.blobs[d] = data
		s.index.Blobs = append(s.index.Blobs, bundle.Blob{Digest: d, Size: int64(len(data))})
	}
	return d
}

func (s *stick) file(url, text string) *stick {
	s.index.Files = append(s.index.Files, bundle.File{URL: url, Digest: s.blob([]byte(text)), Size: int64(len(text))})
	return s
}

func (s *stick) image(ref string, layer []byte) *stick {
	const media = "application/vnd.oci.image.manifest.v1+json"
	config := []byte(`{"architecture":"amd64","os":"linux"}`)
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		media, s.blob(config), len(config), s.blob(layer), len(layer))
	repo, tag, _ := strings.Cut(ref, ":")
	s.index.Images = append(s.index.Images, bundle.Image{Repository: repo, Tag: tag, Digest: s.blob([]byte(m)),
		MediaType: media, Size: int64(len(m))})
	return s
}

// write makes a bundle and returns its files.
func (s *stick) write(name string, opt format.WriteOptions) []string {
	s.t.Helper()
	open := func(d string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(s.blobs[d])), nil }
	files, err := format.Write(s.t.Context(), filepath.Join(s.t.TempDir(), name), s.index, open, opt)
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// imports does what the command does.
func (n *node) runImport(req handover.Request, paths ...string) (*content.Result, error) {
	n.t.Helper()
	conn, err := net.Dial("unix", n.Addrs().Admin)
	if err != nil {
		n.t.Fatal(err)
	}
	data, err := handover.Run(n.t.Context(), conn, req, paths, nil)
	if err != nil {
		return nil, err
	}
	var r content.Result
	if err := json.Unmarshal(data, &r); err != nil {
		n.t.Fatal(err)
	}
	return &r, nil
}

func (n *node) mustImport(paths ...string) *content.Result {
	n.t.Helper()
	r, err := n.runImport(handover.Request{}, paths...)
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

func importStatus(err error) int {
	var e *handover.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

func newNode(t testing.TB, opt setup.InitOptions) *node {
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, opt)
	return serveNode(t, cfg)
}

func TestAnImportIsPulledByItsNames(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	s := newStick(t).image("registry.k8s.io/pause:3.10", bytes.Repeat([]byte("layer "), 1000)).file(
		"https://dl.k8s.io/v1/kubeadm", "kubeadm").
		file("https://github.com/x/y/releases/download/v1/y", "y").file("https://new.k8s.io/f", "new").file(
		"https://bank.example.com/f", "bank").
		file("https://casemate.internal/f", "own").file("https://10.1.2.3/f", "address").file("https://get.rke2.io/",
		"removed")
	n.must("DELETE", "origins/get.rke2.io", nil, nil)
	r := n.mustImport(s.write("kubespray.tar", format.WriteOptions{})...)
	if r.State != content.Imported || r.Name != "kubespray" || r.Images != 1 || r.Files != 7 || r.New != 8 ||
		r.Node != "n1" || r.Signer != "" {
		t.Errorf("%+v", r)
	}
	if o := r.Origins; !slices.Equal(o.Enabled, []string{"new.k8s.io"}) ||
		!slices.Equal(o.NotPermitted, []string{"bank.example.com"}) ||
		!slices.Equal(o.Removed, []string{"get.rke2.io"}) ||
		!slices.Equal(o.Refused, []string{"10.1.2.3", "casemate.internal"}) {
		t.Errorf("%+v", o)
	}
	for _, host := range []string{"new.k8s.io", "bank.example.com"} {
		if !strings.Contains(r.Message, host) {
			t.Errorf("%s: %s", host, r.Message)
		}
	}
	// All of it is in one log entry: names, the records of the origins, the record of the import.
	at := map[uint64]string{}
	for _, name := range []string{"files/new.k8s.io/f?", "files/dl.k8s.io/v1/kubeadm?", "origins/new.k8s.io",
		"origins/bank.example.com", "imports/kubespray/record", "pki/state",
		"registry/repositories/registry.k8s.io/pause/_manifests/tags/3.10/current/link"} {
		info, err := n.tree.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		at[info.(interface{ Version() uint64 }).Version()] = name
	}
	if len(at) != 1 {
		t.Errorf("at several entries: %v", at)
	}
	// A client with nothing but the resolver and the root: the new origin is in DNS and has a certificate.
	for url, want := range map[string]string{"https://dl.k8s.io/v1/kubeadm": "kubeadm", "https://new.k8s.io/f": "new",
		"https://github.com/x/y/releases/download/v1/y": "y"} {
		if resp, got := n.do("GET", url, nil); resp.StatusCode != 200 || got != want {
			t.Errorf("%s: %s %q", url, resp.Status, got)
		}
	}
	resp, got := n.do("GET", "https://registry.k8s.io/v2/pause/manifests/3.10", nil)
	if d := s.index.Images[0].Digest; resp.Header.Get("Docker-Content-Digest") != d || got != string(s.blobs[d]) {
		t.Errorf("%s %q", resp.Status, got)
	}
	var st struct {
		Imports  struct{ Complete, Incomplete int }
		Warnings []string
	}
	n.must("GET", "status", nil, &st)
	if st.Imports.Complete != 1 || !slices.ContainsFunc(st.Warnings, func(w string) bool {
		return strings.Contains(w, "bank.example.com")
	}) {
		t.Errorf("%+v", st)
	}
	var list []content.Import
	n.must("GET", "imports", nil, &list)
	if len(list) != 1 || list[0].Name != "kubespray" || len(list[0].Sources) != 1 {
		t.Errorf("%+v", list)
	}
	var d content.Details
	n.must("GET", "imports/kubespray", nil, &d)
	if len(d.Names) != 8 || !d.Intact {
		t.Errorf("%+v", d)
	}
	if _, metrics := n.do("GET", "http://casemate.internal/metrics", nil); !strings.Contains(metrics,
		`casemate_imports{state="imported"} 1`) || !strings.Contains(metrics, "casemate_import_bytes_total") {
		t.Error("no metrics")
	}
	var gone content.Removed
	n.must("DELETE", "imports/kubespray", nil, &gone)
	if len(gone.Vanished) != 8 {
		t.Errorf("%+v", gone)
	}
	if resp, _ := n.do("GET", "https://dl.k8s.io/v1/kubeadm", nil); resp.StatusCode != 404 {
		t.Error(resp.Status)
	}
	if status, text := n.admin("GET", "imports/kubespray", nil, nil); status != 404 ||
		!strings.Contains(text, "no import kubespray") {
		t.Error(status, text)
	}
}

func TestAClientSeesAnImportWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	s := newStick(t)
	const many = 400
	for i := range many {
		s.file(fmt.Sprintf("https://dl.k8s.io/%03d", i), fmt.Sprint("file ", i))
	}
	paths := s.write("b.tar", format.WriteOptions{})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for first, last := false, false; !last; {
			// In the order in which a batch might appear bit by bit: once the last is there, so is the first; once the
			// first is seen, all are.
			resp, _ := n.do("HEAD", fmt.Sprintf("https://dl.k8s.io/%03d", many-1), nil)
			last = resp.StatusCode == 200
			resp, _ = n.do("HEAD", "https://dl.k8s.io/000", nil)
			if was := first; was && !last {
				t.Error("the first name was there and the last is not")
			}
			if first = resp.StatusCode == 200; last && !first {
				t.Error("the last name is there and the first is not")
			}
			select {
			case <-done:
				if !last {
					t.Error("the import is done and not there")
				}
				return
			default:
			}
		}
	})
	n.mustImport(paths...)
	wg.Wait()
	close(done)
}

func TestPartsOverDays(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	s := newStick(t).file("https://dl.k8s.io/small", "small").image("quay.io/a/b:1",
		bytes.Repeat([]byte("0123456789abcdef"), 40<<10))
	files := s.write("b.tar", format.WriteOptions{Split: 256 << 10})
	if len(files) < 3 {
		t.Fatal(files)
	}
	last := files[len(files)-1]
	for i, f := range slices.Backward(files[:len(files)-1]) {
		r := n.mustImport(f)
		if r.State != content.Incomplete || r.Name != "b" ||
			!strings.HasPrefix(r.Message, fmt.Sprintf("part %d of %d is in; missing: ", i+1, len(files))) {
			t.Errorf("%+v", r)
		}
		n.must("POST", "gc?now=true", nil, nil)
		if resp, _ := n.do("GET", "https://dl.k8s.io/small", nil); resp.StatusCode != 404 {
			t.Error(resp.Status)
		}
	}
	var st struct {
		Imports  struct{ Incomplete int }
		Warnings []string
	}
	n.must("GET", "status", nil, &st)
	if st.Imports.Incomplete != 1 || !slices.ContainsFunc(st.Warnings, func(w string) bool {
		return strings.Contains(w, "import b is incomplete")
	}) {
		t.Errorf("%+v", st)
	}
	n.stop()
	n = serveNode(t, n.cfg)
	r := n.mustImport(last)
	if r.State != content.Imported || len(r.Notes) != 0 || r.Bytes != r.BytesNew {
		t.Errorf("%+v", r)
	}
	if r := n.mustImport(files...); r.State != content.Unchanged {
		t.Errorf("%+v", r)
	}
	n.must("POST", "gc?now=true", nil, nil)
	if resp, got := n.do("GET", "https://quay.io/v2/a/b/blobs/"+
		s.blob(bytes.Repeat([]byte("0123456789abcdef"), 40<<10)), nil); resp.StatusCode != 200 || len(got) != 640<<10 {
		t.Error(resp.Status)
	}
}

func TestSignaturesAreRequired(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	pub, key, _ := signing.GenerateKey()
	other, otherKey, _ := signing.GenerateKey()
	s := newStick(t).file("https://dl.k8s.io/f", "f")
	plain, signed, foreign := s.write("plain.tar", format.WriteOptions{}),
		s.write("signed.tar", format.WriteOptions{Key: key}), s.write("foreign.tar", format.WriteOptions{Key: otherKey})
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "dl.k8s.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dl.k8s.io", "f"), []byte("tree"), 0o644); err != nil {
		t.Fatal(err)
	}
	name := func(keys ...ed25519.PublicKey) (list []string) {
		for _, k := range keys {
			list = append(list, signing.KeyName(k))
		}
		return list
	}
	refused := func(why string, req handover.Request, paths ...string) {
		t.Helper()
		if r, err := n.runImport(req, paths...); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%+v %v", r, err)
		}
		if resp, _ := n.do("GET", "https://dl.k8s.io/f", nil); resp.StatusCode != 404 {
			t.Errorf("it is there: %s", resp.Status)
		}
	}
	n.must("PUT", "settings/import.require_signature", map[string]string{"value": "on"}, nil)
	refused("no key is trusted", handover.Request{}, signed...)
	n.must("PUT", "settings/import.keys", map[string]string{"value": signing.KeyName(pub)}, nil)
	refused("", handover.Request{}, plain...)
	refused("", handover.Request{}, foreign...)
	refused("", handover.Request{Keys: name(other)}, foreign...)
	refused("is not a bundle", handover.Request{}, dir)
	n.must("PUT", "settings/import.require_signature", map[string]string{"value": "off"}, nil)
	refused("not one of import.keys", handover.Request{}, foreign...)
	refused("", handover.Request{Keys: name(other)}, signed...)
	n.must("PUT", "settings/import.require_signature", map[string]string{"value": "on"}, nil)
	r, err := n.runImport(handover.Request{Keys: name(other, pub)}, signed...)
	if err != nil || r.Signer != signing.KeyName(pub) {
		t.Errorf("%+v %v", r, err)
	}
	if status, text := n.admin("PUT", "settings/import.keys", map[string]string{"value": "nonsense"},
		nil); status != 400 {
		t.Error(status, text)
	}
}

func TestADirectoryIsImported(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	dir := filepath.Join(t.TempDir(), "Mirror")
	for name, text := range map[string]string{"deb.k8s.io/dists/stable/InRelease": "signed",
		"deb.k8s.io/pool/a.deb": strings.Repeat("deb", 1000), "dl.k8s.io/v1/x": "x"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := n.runImport(handover.Request{DryRun: true}, dir)
	if err != nil || plan.State != content.Planned || plan.New != 3 || len(plan.Changes) != 3 || plan.Need == 0 ||
		!slices.Equal(plan.Origins.Enabled, []string{"deb.k8s.io"}) {
		t.Errorf("%+v %v", plan, err)
	}
	var list []content.Import
	if n.must("GET", "imports", nil, &list); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	r := n.mustImport(dir)
	if r.State != content.Imported || r.Name != "mirror" || r.Kind != bundle.KindTree || r.ID != plan.ID {
		t.Errorf("%+v", r)
	}
	if resp, got := n.do("GET", "https://deb.k8s.io/pool/a.deb", nil); resp.StatusCode != 200 ||
		got != strings.Repeat("deb", 1000) {
		t.Error(resp.Status)
	}
	if r := n.mustImport(dir); r.State != content.Unchanged {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(filepath.Join(dir, "dl.k8s.io/v1/x"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if plan, err = n.runImport(handover.Request{DryRun: true}, dir); err != nil || plan.Changed != 1 ||
		plan.Unchanged != 2 {
		t.Errorf("%+v %v", plan, err)
	}
	if i := slices.IndexFunc(plan.Changes, func(c content.Change) bool {
		return c.What == content.ChangeOther
	}); i < 0 || plan.Changes[i].From == plan.Changes[i].To || plan.Changes[i].From == "" {
		t.Errorf("%+v", plan.Changes)
	}
	if r := n.mustImport(dir); r.Name != "mirror-2" || r.Changed != 1 {
		t.Errorf("%+v", r)
	}
}

func TestAFlippedByteIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	s := newStick(t).file("https://dl.k8s.io/f", strings.Repeat("f", 5000)).image("quay.io/a/b:1", []byte("layer"))
	path := s.write("b.tar", format.WriteOptions{})[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 100; at < len(data); at += 997 {
		bad := bytes.Clone(data)
		bad[at] ^= 0x10
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := n.runImport(handover.Request{}, path)
		if err == nil || !strings.Contains(err.Error(), "b.tar") || importStatus(err) == http.StatusBadRequest {
			t.Errorf("byte %d: %d %v", at, importStatus(err), err)
		}
		if resp, _ := n.do("GET", "https://dl.k8s.io/f", nil); resp.StatusCode != 404 {
			t.Errorf("byte %d: it is there", at)
		}
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	n.mustImport(path)
}

func TestImportsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	path := newStick(t).file("https://dl.k8s.io/f", "f").write("b.tar", format.WriteOptions{})[0]
	for _, c := range []struct {
		req    handover.Request
		status int
		why    string
	}{
		{handover.Request{Name: "No Name"}, 400, "the name of an import"},
		{handover.Request{Keys: []string{"x"}}, 400, "public key"},
	} {
		if _, err := n.runImport(c.req, path); importStatus(err) != c.status || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%+v: %v", c.req, err)
		}
	}
	if status, text := n.admin("POST", "imports", "", nil); status != http.StatusUpgradeRequired ||
		!strings.Contains(text, "casemate import") {
		t.Error(status, text)
	}
	if status, text := n.admin("DELETE", "imports/nothing", nil, nil); status != 404 {
		t.Error(status, text)
	}
	n.mustImport(path)
	other := newStick(t).file("https://dl.k8s.io/g", "g").write("b.tar", format.WriteOptions{})[0]
	if _, err := n.runImport(handover.Request{Name: "b"}, other); importStatus(err) != 409 ||
		!strings.Contains(err.Error(), "--name") {
		t.Error(err)
	}
}

// TestAnImportMeetsAnotherChange: the enabled names change between the plan and the batch, so both are made again.
func TestAnImportMeetsAnotherChange(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	tries := 0
	err := n.changes.PublishImport(t.Context(), []content.Host{{Name: "new.k8s.io"}, {
		Name: "other.k8s.io", Registry: true}}, func(b cluster.Batch, o content.Origins) error {
		if tries++; tries == 1 {
			data, err := origin.Record(origin.Origin{Host: "new.k8s.io", Aliases: []string{"alias.k8s.io"}})
			if err != nil {
				return err
			}
			if err := n.tree.Update(t.Context(), func(b cluster.Batch) error {
				b.Put("origins/new.k8s.io", data)
				return nil
			}); err != nil {
				return err
			}
		}
		b.Put("imports/x/record", []byte(strings.Join(o.Enabled, " ")))
		return nil
	})
	if err != nil || tries != 2 {
		t.Error(tries, err)
	}
	if data, err := n.tree.ReadFile("imports/x/record"); string(data) != "other.k8s.io" {
		t.Errorf("%q %v", data, err)
	}
	for _, host := range []string{"new.k8s.io", "alias.k8s.io", "other.k8s.io"} {
		if addrs, err := n.resolver().LookupHost(t.Context(), host+"."); err != nil || len(addrs) != 1 {
			t.Error(host, addrs, err)
		}
		if resp, _ := n.do("GET", "https://"+host+"/nothing", nil); resp.StatusCode != 404 { // with a certificate
			t.Error(host, resp.Status)
		}
	}
}

func TestAStopEndsAnImport(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	data, err := os.ReadFile(newStick(t).file("https://dl.k8s.io/f", strings.Repeat("f", 5000)).write("b.tar",
		format.WriteOptions{})[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data[:4096]); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		conn, err := net.Dial("unix", n.Addrs().Admin)
		if err == nil {
			_, err = handover.Run(context.Background(), conn, handover.Request{},
				[]string{fmt.Sprintf("/proc/self/fd/%d", r.Fd())}, nil)
		}
		failed <- err
	}()
	for running := ""; running == ""; {
		running = n.importRunning()
	}
	n.stop()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "this node is stopping") {
		t.Error(err)
	}
	r.Close()
}

// importRunning is the name of the import that the node reads now.
func (n *node) importRunning() string { return n.Appliance.imports.Running() }
