package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/bundle"
	"casemate/cluster"
)

func TestAnImportAppearsAsAWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("/mnt/stick/Kubespray-2.31.tar.zst")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			state := s.node.Tree().Walk(".", "") // one state
			names := 0
			for name := range state {
				if strings.HasSuffix(name, "/current/link") || strings.HasPrefix(name, "files/") {
					names++
				}
			}
			if names != 0 && names != 4 {
				t.Errorf("%d of 4 names are there", names)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	p.beforePut = func(string) {
		if got := s.sees(p); !maps.Equal(got, none(p)) {
			t.Errorf("names before the end: %v", got)
		}
	}
	r := s.must("", p)
	close(done)
	wg.Wait()
	differ(t, s.sees(p), wanted(p))
	if r.State != Imported || r.Name != "kubespray-2.31" || r.New != 6 || r.Images != 2 || r.Manifests != 2 ||
		r.Files != 2 || r.Blobs != len(p.order) || r.Bytes != r.BytesNew || r.Bytes == 0 {
		t.Errorf("%+v", r)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].State != Imported || list[0].Claims != r.Claims ||
		!list[0].Time.Equal(s.clock()) {
		t.Errorf("%+v %v", list, err)
	}
	// All of it is kept by its names alone.
	s.gc()
	s.restart()
	differ(t, s.sees(p), wanted(p))
	for _, d := range p.order {
		if _, err := s.tree.StatBlob(d); err != nil {
			t.Error(err)
		}
	}
}

func TestTheSameAgainWritesNothing(t *testing.T) {
	for _, kind := range []string{bundle.KindBundle, bundle.KindLayout, bundle.KindTree} {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t)
			p := sample("a.tar")
			p.kind = kind
			s.must("", p)
			before := s.world()
			applied := s.node.Status().Applied
			for _, name := range []string{"", "other"} {
				r := s.must(name, p)
				if r.State != Unchanged || r.Name != "a" ||
					!strings.Contains(r.Message, "as a on 2026-01-02T03:04:05Z") {
					t.Errorf("%+v", r)
				}
			}
			if now := s.node.Status().Applied; kind != bundle.KindTree && now != applied {
				t.Errorf("%d entries were written", now-applied)
			}
			differ(t, s.world(), before)
		})
	}
}

func TestWhatWasDeletedByHandComesBack(t *testing.T) {
	for _, kind := range []string{bundle.KindBundle, bundle.KindTree} {
		t.Run(kind, func(t *testing.T) { deletedByHand(t, kind) })
	}
}

func deletedByHand(t *testing.T, kind string) {
	s := newSite(t)
	p := sample("a.tar")
	p.kind = kind
	s.must("", p)
	if err := s.reg.DeleteImage(t.Context(), "quay.io/team/app:2"); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Show("a"); err != nil || d.Intact {
		t.Errorf("intact: %+v %v", d, err)
	}
	if r := s.must("", p); r.State != Imported || r.Name != "a" || r.New != 1 || r.Unchanged != 5 {
		t.Errorf("%+v", r)
	}
	differ(t, s.sees(p), wanted(p))
	if list, _ := s.List(); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}

func TestClaimsAreInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one, two := newPack("one.tar"), newPack("two.tar")
	const app, kubeadm, only = "quay.io/team/app:2", "https://dl.k8s.io/v1/kubeadm", "https://dl.k8s.io/v1/only"
	app1, app2 := one.image(app, []byte("one")), two.image(app, []byte("two"))
	file1, file2 := one.addFile(kubeadm, []byte("one")), two.addFile(kubeadm, []byte("two"))
	two.addFile(only, []byte("only"))
	for _, p := range []*pack{one, two} {
		p.addFile("https://a.io/both", []byte("both"))
	}
	s.must("", one)
	if r := s.must("", two); r.New != 1 || r.Changed != 2 || r.Unchanged != 1 {
		t.Errorf("%+v", r)
	}
	if s.tag(app) != app2 || s.file(kubeadm) != file2 {
		t.Error("the newer import does not show")
	}
	d, err := s.Show("one")
	if err != nil || len(d.Names) != 3 || d.Names[0].Behind != "" || d.Names[1].Behind != "two" ||
		d.Names[1].Name.Name != kubeadm || d.Names[2].Digest != app1 || !d.Intact {
		t.Errorf("%+v %v", d, err)
	}
	if r := s.must("", one); r.State != Unchanged ||
		!strings.Contains(r.Message, "hidden behind newer imports or pushes: two") {
		t.Errorf("%+v", r)
	}
	// A push by hand goes before both.
	hand := s.put(kubeadm, "hand")
	if d, _ := s.Show("two"); d.Names[1].Behind != ByHand {
		t.Errorf("%+v", d.Names)
	}
	r, err := s.Remove(t.Context(), "two")
	if err != nil || len(r.Vanished) != 1 || r.Vanished[0].Name != only || len(r.Back) != 1 ||
		r.Back[0].Name.Name != app || r.Back[0].Digest != app1 || r.Back[0].From != app2 ||
		r.Back[0].By != "one" || r.Kept != 2 {
		t.Errorf("%+v %v", r, err)
	}
	if s.tag(app) != app1 || s.file(kubeadm) != hand || s.file(only) != "" {
		t.Error("what was before does not show")
	}
	if _, err := s.Remove(t.Context(), "two"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.tree.Update(t.Context(), func(b cluster.Batch) error {
		b.Remove("files/dl.k8s.io/v1/kubeadm?")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Remove(t.Context(), "one"); err != nil || len(r.Vanished) != 2 || s.tag(app) != "" || file1 == "" {
		t.Errorf("%+v %v", r, err)
	}
	s.gc()
	for d := range s.tree.Kept() {
		t.Errorf("%s is kept", d)
	}
}

// put puts a file by hand.
func (s *site) put(url, text string) string {
	s.t.Helper()
	w, err := s.node.Tree().CreateBlob("")
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write([]byte(text)); err != nil {
		s.t.Fatal(err)
	}
	d, err := w.Commit(s.t.Context(), "")
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := s.fileKey(url)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.node.Tree().Update(s.t.Context(), func(b cluster.Batch) error {
		b.Link("files/"+key, d)
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func TestNamesOfImports(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one, two := newPack("x.tar"), newPack("x.tar")
	one.addFile("https://a.io/1", []byte("1"))
	two.addFile("https://a.io/2", []byte("2"))
	s.must("", one)
	if r := s.must("", two); r.Name != "x-2" {
		t.Error(r.Name)
	}
	three := newPack("three")
	three.addFile("https://a.io/3", []byte("3"))
	for _, kind := range []string{bundle.KindBundle, bundle.KindTree} {
		if list, err := s.List(); err != nil || len(list) != 2 {
			t.Errorf("%+v %v", list, err)
		}
		three.kind = kind
		if _, err := s.do("x", three); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "--name") ||
			s.file("https://a.io/3") != "" {
			t.Error(kind, err)
		}
	}
	for _, bad := range []string{"pending", "-x", "a/b", "A", "", strings.Repeat("x", 64)} {
		if err := CheckName(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for source, want := range map[string]string{
		"/mnt/Bundle.TAR": "bundle", "k8s-1.35.4.tar.gz": "k8s-1.35.4", "b.part01of05.tar": "b", "b.tar.part2": "b",
		"b.tar.003": "b", "-": "import", "": "import", "pending.tar": "import",
		"/srv/mirror/": "mirror", "Größe x.tar": "gr--e-x", "b-2-of-5.tar": "b",
		strings.Repeat("n", 99): strings.Repeat("n", 56), "a.tar.zst": "a",
	} {
		if got := defaultName(source); got != want {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
}

func TestPartsComeInAnyOrder(t *testing.T) {
	whole := sample("b.tar")
	undisturbed := newSite(t)
	undisturbed.must("b", whole)
	want := undisturbed.world()
	for _, order := range [][]int{{2, 1, 3}, {3, 3, 1, 2}, {1, 2, 3}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			s := newSite(t)
			parts := sample("b.tar").split(3)
			in := map[int]bool{}
			for i, n := range order {
				in[n] = true
				r := s.must("", parts[n-1])
				if i == len(order)-1 {
					if r.State != Imported || r.BytesNew != r.Bytes ||
						!slices.Equal(r.Sources, []string{"b.tar.part1", "b.tar.part2", "b.tar.part3"}) {
						t.Errorf("%+v", r)
					}
					break
				}
				if r.State != Incomplete || len(r.Have) != len(in) || len(r.Missing) != 3-len(in) ||
					!strings.HasPrefix(r.Message, fmt.Sprintf("part %d of 3 is in; missing: ", n)) {
					t.Errorf("%+v", r)
				}
				differ(t, s.sees(whole), none(whole))
				list, err := s.List()
				if err != nil || len(list) != 1 || list[0].State != Incomplete || list[0].Name != "b" ||
					!slices.Equal(list[0].Missing, r.Missing) || list[0].Bytes == 0 {
					t.Errorf("%+v %v", list, err)
				}
				if d, err := s.Show("b"); err != nil || len(d.Names) == 0 || d.New != len(d.Names) ||
					d.Images+d.Manifests+d.Files != len(d.Names) {
					t.Errorf("%+v %v", d, err)
				}
				s.pass(72 * time.Hour) // days between the parts
				s.gc()
				s.restart()
			}
			got := s.world()
			for _, w := range []map[string]string{got, want} {
				for k := range w {
					if strings.HasSuffix(k, "/record") {
						w[k] = "" // its sources differ
					}
				}
			}
			differ(t, got, want)
		})
	}
	t.Run("removed", func(t *testing.T) {
		s := newSite(t)
		s.must("", whole.split(3)[1])
		if _, err := s.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		s.gc()
		differ(t, s.world(), map[string]string{})
	})
	t.Run("forgotten", func(t *testing.T) {
		s := newSite(t)
		s.must("", whole.split(3)[1])
		s.pass(29 * 24 * time.Hour)
		if err := s.Upkeep(t.Context()); err != nil || len(s.world()) == 0 {
			t.Fatal(err)
		}
		s.pass(2 * 24 * time.Hour)
		if err := s.Upkeep(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.gc()
		differ(t, s.world(), map[string]string{})
	})
}

func TestWhatAnInventoryPromisedIsNotHere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("b.tar")
	p.index.Since = "sha256:" + hexOf([]byte("inventory"))
	p.index.Blobs[0].Omitted = true
	first := p.order[0]
	p.order = p.order[1:]
	p.beforePut = func(string) { t.Error("it was read") }
	if _, err := s.do("", p); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "without --since") ||
		!strings.Contains(err.Error(), first) {
		t.Error(err)
	}
	differ(t, s.world(), map[string]string{})
	p.beforePut = nil
	q := newPack("q")
	q.addFile("https://a.io/1", p.blobs[first])
	s.must("", q)
	if r := s.must("", p); r.State != Imported || r.Bytes-r.BytesNew != int64(len(p.blobs[first])) {
		t.Errorf("%+v", r)
	}
	differ(t, s.sees(p), wanted(p))
}

func TestBlobsThatNobodyBrings(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("b.tar")
	p.order = p.order[1:]
	if _, err := s.do("", p); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "neither in it") {
		t.Error(err)
	}
	differ(t, s.sees(p), none(p))
	p = newPack("two.tar")
	p.image("docker.io/library/nginx:1", []byte("1"))
	p.image("index.docker.io/library/nginx:1", []byte("2"))
	if _, err := s.do("", p); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "two of its names resolve to the same name") {
		t.Error(err)
	}
}

func TestDamageIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("b.tar")
	p.broken = true
	_, err := s.do("", p)
	if !errors.Is(err, syscall.EBADMSG) || !strings.Contains(err.Error(), "b.tar") {
		t.Error(err)
	}
	differ(t, s.world(), map[string]string{})
	// A damaged part costs only itself.
	parts := sample("b.tar").split(2)
	s.must("", parts[0])
	parts[1].broken = true
	if _, err := s.do("", parts[1]); !errors.Is(err, syscall.EBADMSG) {
		t.Error(err)
	}
	parts[1].broken = false
	if r := s.must("", parts[1]); r.State != Imported {
		t.Errorf("%+v", r)
	}
	differ(t, s.sees(p), wanted(p))
}

func TestRoom(t *testing.T) {
	t.Parallel()
	room := int64(100)
	s := newSite(t, func(c *Config) { c.Room = func() int64 { return room } })
	p := sample("b.tar")
	_, err := s.do("", p)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "98.0 KiB") ||
		!strings.Contains(err.Error(), "100 bytes") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	differ(t, s.world(), map[string]string{})
	room = 2 << 20
	s.must("", p)
}

func TestOneAtATimeAndStopping(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("b.tar")
	inside, on := make(chan struct{}, 99), make(chan struct{})
	p.beforePut = func(string) { inside <- struct{}{}; <-on }
	failed := make(chan error)
	go func() {
		_, err := s.do("", p)
		failed <- err
	}()
	<-inside
	q := newPack("q")
	q.addFile("https://a.io/1", []byte("1"))
	if _, err := s.do("", q); !errors.Is(err, fs.ErrExist) ||
		!strings.Contains(err.Error(), "import b is running since") {
		t.Error(err)
	}
	closed := make(chan struct{})
	go func() { s.Engine.Close(); close(closed) }()
	<-s.base.Done()
	close(on)
	if err := <-failed; !errors.Is(err, errStopping) {
		t.Error(err)
	}
	<-closed
	if _, err := s.do("", q); !errors.Is(err, errStopping) {
		t.Error(err)
	}
	differ(t, s.sees(p), none(p))
	s.restart()
	p.beforePut = nil
	s.must("", p)
	differ(t, s.sees(p), wanted(p))
}

// A user who interrupts an import and runs it again at once does not have to wait for the end of the first.
func TestOneThatEndsIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, q := sample("b.tar"), sample("b.tar")
	inside, on := make(chan struct{}, 99), make(chan struct{})
	p.beforePut = func(string) { inside <- struct{}{}; <-on }
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := s.Import(ctx, Request{Inputs: []bundle.Input{{Name: p.file, File: p}}})
		gone <- err
	}()
	<-inside
	cancel()
	waits := make(chan struct{})
	again := make(chan error, 1)
	go func() {
		_, err := s.Import(&firstLook{t.Context(), waits, &sync.Once{}},
			Request{Inputs: []bundle.Input{{Name: q.file, File: q}}})
		again <- err
	}()
	select {
	case err := <-again:
		t.Errorf("it did not wait: %v", err)
		close(on)
		<-gone
		return
	case <-waits: // it looks at its context only when it has to wait: the first one holds its place until on is closed
	}
	close(on)
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-again; err != nil {
		t.Error(err)
	}
	differ(t, s.sees(q), wanted(q))
}

// firstLook is a context that says when it is looked at for the first time.
type firstLook struct {
	context.Context
	looked chan struct{}
	once   *sync.Once
}

func (c *firstLook) Done() <-chan struct{} {
	c.once.Do(func() { close(c.looked) })
	return c.Context.Done()
}

func TestTheCommandGoesAway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("b.tar")
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	p.beforePut = func(string) {
		if n++; n == 4 {
			cancel()
		}
	}
	_, err := s.Import(ctx, Request{Inputs: []bundle.Input{{Name: p.file, File: p}}})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.gc()
	if list, _ := s.List(); len(list) != 1 || list[0].State != Incomplete || list[0].Blobs < 2 {
		t.Errorf("%+v", list)
	}
	p.beforePut = nil
	s.must("", p)
	differ(t, s.sees(p), wanted(p))
}
