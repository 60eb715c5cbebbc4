package content

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/bundle"
	"casemate/bundle/signing"
	"casemate/cluster"
	"casemate/cluster/tree"
	"casemate/cluster/waittest"
	"casemate/registry"

	"go.uber.org/goleak"
)

// Each of distribution's handlers.App has one goroutine that cannot be stopped; it waits for events that are never
// sent.
func TestMain(m *testing.M) {
	waittest.Main(m, goleak.Find, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

// site is a cluster of one node with a registry, and an engine that imports what tests make.
type site struct {
	t    testing.TB
	cfg  cluster.Config
	node *cluster.Cluster
	tree *faulty
	reg  *registry.Registry
	*Engine
	config Config
	policy func(Policy) // sets what the engine has

	mu  sync.Mutex
	now time.Time
}

func newSite(t testing.TB, tune ...func(*Config)) *site {
	s := &site{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.cfg = cluster.Config{
		Dir: filepath.Join(t.TempDir(), "cluster"), Node: "n1", Log: slog.New(slog.DiscardHandler), Now: s.clock,
		LeaderWait: 10 * time.Minute, // for busy machines; no test depends on it
	}
	if err := cluster.Bootstrap(s.cfg); err != nil {
		t.Fatal(err)
	}
	s.open(tune...)
	t.Cleanup(s.close)
	return s
}

func (s *site) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// pass lets time pass.
func (s *site) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *site) open(tune ...func(*Config)) {
	s.t.Helper()
	var err error
	if s.node, err = cluster.Open(s.cfg); err != nil {
		s.t.Fatal(err)
	}
	s.tree = &faulty{Tree: s.node.Tree()}
	canonical := func(host string) (string, bool) {
		return strings.Replace(host, "index.docker.io", "docker.io", 1), strings.HasSuffix(host, "docker.io")
	}
	s.reg, err = registry.Open(registry.Config{Tree: s.node.Tree().Sub("registry"), Canonical: canonical,
		Origins: func() []string { return []string{"docker.io", "quay.io"} }})
	if err != nil {
		s.t.Fatal(err)
	}
	s.config = Config{Tree: s.tree, Images: s.reg, Read: readPack, Now: s.clock, Node: "n1", largeAt: 64 << 10,
		Canonical: func(h string) string { h, _ = canonical(h); return h }}
	for _, f := range tune {
		f(&s.config)
	}
	s.Engine = New(s.config)
}

func (s *site) close() {
	s.Engine.Close()
	if err := errors.Join(s.reg.Close(), s.node.Close()); err != nil {
		s.t.Error(err)
	}
}

// restart is a node that was stopped, or killed, and comes back.
func (s *site) restart(tune ...func(*Config)) {
	s.t.Helper()
	s.close()
	s.open(tune...)
}

// gc collects an hour later, when no pin holds any more.
func (s *site) gc() {
	s.t.Helper()
	s.pass(2 * time.Hour)
	if _, err := s.node.GC(s.t.Context(), false); err != nil {
		s.t.Fatal(err)
	}
}

// do imports packs, which are the parts of one bundle or one complete input.
func (s *site) do(name string, packs ...*pack) (*Result, error) {
	req := Request{Name: name}
	for _, p := range packs {
		req.Inputs = append(req.Inputs, bundle.Input{Name: p.file, File: p})
	}
	return s.Import(s.t.Context(), req)
}

func (s *site) must(name string, packs ...*pack) *Result {
	s.t.Helper()
	r, err := s.do(name, packs...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// tag is what a client gets that pulls the image; "" for a 404.
func (s *site) tag(ref string) string {
	s.t.Helper()
	repo, tag, _ := strings.Cut(ref, ":")
	host, path, _ := strings.Cut(repo, "/")
	w := httptest.NewRecorder()
	s.reg.Serve(w, httptest.NewRequest("GET", "/v2/"+path+"/manifests/"+tag, nil),
		registry.View{Origin: host, Host: host})
	switch w.Code {
	case 200:
		return w.Header().Get("Docker-Content-Digest")
	case 404:
		return ""
	}
	s.t.Fatalf("%s: %d %s", ref, w.Code, w.Body)
	return ""
}

// file is the digest at a URL, "" if there is none.
func (s *site) file(url string) string {
	s.t.Helper()
	key, err := s.fileKey(url)
	if err != nil {
		s.t.Fatal(err)
	}
	info, err := s.tree.Stat("files/" + key)
	if err != nil {
		return ""
	}
	return tree.DigestOf(info)
}

// world is all that the tree says, with the content of records but without times, and all blobs that something keeps.
func (s *site) world() map[string]string {
	w := map[string]string{}
	for name, info := range s.tree.Walk(".", "") {
		w[name] = tree.DigestOf(info)
		if w[name] == "" {
			data, err := s.tree.ReadFile(name)
			if err != nil {
				s.t.Fatal(err)
			}
			var r Record
			if json.Unmarshal(data, &r) == nil {
				r.Time = time.Time{}
				data, _ = json.Marshal(r)
			}
			w[name] = string(data)
		}
		for _, c := range s.tree.ClaimsOf(name) {
			w[name] += " " + c.Claim
		}
	}
	for d, n := range s.tree.Kept() {
		w["blob "+d] = fmt.Sprint(n)
	}
	return w
}

func differ(t testing.TB, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s is there: %q", k, v)
		}
	}
}

// faulty is the tree, whose writes fail when a test wants it.
type faulty struct {
	*cluster.Tree
	mu    sync.Mutex
	steps int
	// fail is asked before each write, with its number from 1. An error ends it; with after it happens all the same.
	fail func(step int, what string) (err error, after bool)
	// wrote is told of bytes that were written.
	wrote func(n int)
}

func (f *faulty) step(what string) (error, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps++
	if f.fail == nil {
		return nil, false
	}
	return f.fail(f.steps, what)
}

func (f *faulty) Update(ctx context.Context, fn func(cluster.Batch) error) error {
	err, after := f.step("update")
	if err != nil && !after {
		return err
	}
	return errors.Join(f.Tree.Update(ctx, fn), err)
}

func (f *faulty) CreateBlob(id string) (cluster.BlobWriter, error) {
	if err, _ := f.step("create"); err != nil {
		return nil, err
	}
	w, err := f.Tree.CreateBlob(id)
	return &faultyWriter{w, f}, err
}

func (f *faulty) ResumeBlob(id string) (cluster.BlobWriter, error) {
	w, err := f.Tree.ResumeBlob(id)
	if err != nil {
		return nil, err
	}
	return &faultyWriter{w, f}, nil
}

type faultyWriter struct {
	cluster.BlobWriter
	f *faulty
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	if err, _ := w.f.step("write"); err != nil {
		n, _ := w.BlobWriter.Write(p[:len(p)/2])
		return n, err
	}
	n, err := w.BlobWriter.Write(p)
	if w.f.wrote != nil {
		w.f.wrote(n)
	}
	return n, err
}

func (w *faultyWriter) Commit(ctx context.Context, d string) (string, error) {
	err, after := w.f.step("commit")
	if err != nil && !after {
		return "", err
	}
	got, cerr := w.BlobWriter.Commit(ctx, d)
	return got, errors.Join(cerr, err)
}

// Sum is the writer's own.
func (w *faultyWriter) Sum() (string, int64, error) {
	return w.BlobWriter.(tree.Summer).Sum()
}

// CommitBlobs is a step for each writer.
func (f *faulty) CommitBlobs(ctx context.Context, ws []cluster.BlobWriter, digests []string) ([]string, error) {
	var inner []cluster.BlobWriter
	var at []int
	var names []string
	var faults []error
	failed := map[int]bool{}
	for i, w := range ws {
		err, after := f.step("commit")
		faults = append(faults, err)
		if failed[i] = err != nil; err == nil || after {
			inner, at, names = append(inner, w.(*faultyWriter).BlobWriter), append(at, i), append(names, digests[i])
		}
	}
	got, err := f.Tree.CommitBlobs(ctx, inner, names)
	done := make([]string, len(ws))
	for i, d := range got {
		if !failed[at[i]] {
			done[at[i]] = d
		}
	}
	return done, errors.Join(append(faults, err)...)
}

// pack is what a test imports: images and files with their bytes, as one input. It stands for a bundle (kind
// KindBundle), whole or a part, or for another kind.
type pack struct {
	file   string
	kind   string
	index  *bundle.Index
	blobs  map[string][]byte
	order  []string
	parts  int // 0: not split
	number int
	signer string
	broken bool // its last blob has other bytes than it says

	// beforePut, if it is not nil, is called before each Put.
	beforePut func(digest string)
}

func (p *pack) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (p *pack) Read([]byte) (int, error)   { return 0, io.EOF }
func (p *pack) Close() error               { return nil }

func newPack(file string) *pack {
	return &pack{file: file, kind: bundle.KindBundle, index: &bundle.Index{Version: 1}, blobs: map[string][]byte{}}
}

func (p *pack) blob(data []byte) string {
	d := "sha256:" + hexOf(data)
	if _, ok := p.blobs[d]; !ok {
		p.blobs[d] = data
		p.order = append(p.order, d)
		p.index.Blobs = append(p.index.Blobs, bundle.Blob{Digest: d, Size: int64(len(data))})
	}
	return d
}

func hexOf(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
)

// image adds an image with one layer and returns its manifest's digest.
func (p *pack) image(ref string, layer []byte) string {
	config := p.blob([]byte(`{"architecture":"amd64","os":"linux","x":"` + hexOf(layer) + `"}`))
	l := p.blob(layer)
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		mediaManifest, config, len(p.blobs[config]), l, len(layer))
	return p.manifest(ref, mediaManifest, m)
}

func (p *pack) manifest(ref, media, text string) string {
	d := p.blob([]byte(text))
	repo, tag, _ := strings.Cut(ref, ":")
	p.index.Images = append(p.index.Images, bundle.Image{Repository: repo, Tag: tag, Digest: d, MediaType: media,
		Size: int64(len(text))})
	return d
}

// multi adds an index of images without tags.
func (p *pack) multi(ref string, layers ...string) string {
	repo, _, _ := strings.Cut(ref, ":")
	var list []string
	for i, l := range layers {
		d := p.image(repo, []byte(l))
		list = append(list,
			fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"a%d"}}`,
				mediaManifest, d, len(p.blobs[d]), i))
	}
	return p.manifest(ref, mediaIndex, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, mediaIndex,
		strings.Join(list, ",")))
}

func (p *pack) addFile(url string, data []byte) string {
	d := p.blob(data)
	p.index.Files = append(p.index.Files, bundle.File{URL: url, Digest: d, Size: int64(len(data))})
	return d
}

// split distributes the blobs to parts in turn.
func (p *pack) split(n int) []*pack {
	var parts []*pack
	for i := range n {
		part := *p
		part.file = fmt.Sprintf("%s.part%d", p.file, i+1)
		part.parts, part.number, part.order = n, i+1, nil
		for k, d := range p.order {
			if k%n == i {
				part.order = append(part.order, d)
			}
		}
		parts = append(parts, &part)
	}
	return parts
}

// readPack is a reader as bundle.Read is one, for packs.
func readPack(ctx context.Context, inputs []bundle.Input, sink bundle.Sink, opt bundle.ReadOptions) (*bundle.Contents,
	error) {
	first := inputs[0].File.(*pack)
	c := &bundle.Contents{Kind: first.kind, Parts: first.parts, Signer: first.signer}
	doc, err := first.index.Encode()
	if err != nil {
		return nil, err
	}
	if len(opt.Keys) > 0 && !slices.ContainsFunc(opt.Keys, func(k ed25519.PublicKey) bool {
		return signing.KeyName(k) == first.signer
	}) {
		return nil, fmt.Errorf("not signed by a trusted key: %w", fs.ErrPermission)
	}
	whole := *first.index
	id := "sha256:" + hexOf(doc)
	if first.kind == bundle.KindBundle {
		c.ID, c.Index = id, &whole
	}
	var need int64
	for _, in := range inputs {
		p := in.File.(*pack)
		if p.parts > 0 {
			c.Numbers = append(c.Numbers, p.number)
		}
		for _, d := range p.order {
			if _, ok := sink.Has(d); !ok {
				need += int64(len(p.blobs[d]))
			}
		}
	}
	slices.Sort(c.Numbers)
	c.Have = len(c.Numbers)
	if err := opt.Plan(c, need); errors.Is(err, bundle.ErrStop) {
		return c, nil
	} else if err != nil {
		return nil, err
	}
	c.ID, c.Index = id, &whole
	for _, in := range inputs {
		p := in.File.(*pack)
		for i, d := range p.order {
			if p.beforePut != nil {
				p.beforePut(d)
			}
			if _, ok := sink.Has(d); ok {
				continue
			}
			data := p.blobs[d]
			if p.broken && i == len(p.order)-1 {
				data = append(bytes.Clone(data[:len(data)-1]), data[len(data)-1]^1)
			}
			asked := d
			if p.kind == bundle.KindTree {
				asked = ""
			}
			if _, _, err := sink.Put(ctx, asked, int64(len(data)), bytes.NewReader(data)); err != nil {
				if errors.Is(err, syscall.EBADMSG) {
					return nil, fmt.Errorf("%s: blob %s: %w", p.file, d, err)
				}
				return nil, err
			}
			opt.Progress(int64(i+1), int64(len(p.order)))
		}
	}
	for _, b := range first.index.Blobs {
		if _, ok := sink.Has(b.Digest); !ok {
			c.Absent = append(c.Absent, b.Digest)
		}
	}
	return c, nil
}

// sample is two images, one of them for two platforms, and two files.
func sample(file string) *pack {
	p := newPack(file)
	p.multi("docker.io/library/nginx:1.29", "layer one", "layer two")
	p.image("quay.io/team/app:2", bytes.Repeat([]byte("large "), 1<<14))
	p.addFile("https://dl.k8s.io/v1/kubeadm", []byte("kubeadm"))
	p.addFile("https://github.com/x/y/releases/download/v1/y.tgz?z=1", []byte("y"))
	return p
}

// names of sample that clients ask for.
func (s *site) sees(p *pack) map[string]string {
	m := map[string]string{}
	for _, im := range p.index.Images {
		if im.Tag != "" {
			m[im.Repository+":"+im.Tag] = s.tag(im.Repository + ":" + im.Tag)
		}
	}
	for _, f := range p.index.Files {
		m[f.URL] = s.file(f.URL)
	}
	return m
}

func wanted(p *pack) map[string]string {
	m := map[string]string{}
	for _, im := range p.index.Images {
		if im.Tag != "" {
			m[im.Repository+":"+im.Tag] = im.Digest
		}
	}
	for _, f := range p.index.Files {
		m[f.URL] = f.Digest
	}
	return m
}

func none(p *pack) map[string]string {
	m := wanted(p)
	for k := range maps.Keys(m) {
		m[k] = ""
	}
	return m
}
