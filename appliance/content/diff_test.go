package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"syscall"
	"testing"

	"casemate/bundle"
	"casemate/cluster"
)

// plan is a dry run.
func (s *site) plan(packs ...*pack) (*Result, error) {
	req := Request{DryRun: true}
	for _, p := range packs {
		req.Inputs = append(req.Inputs, bundle.Input{Name: p.file, File: p})
	}
	return s.Import(s.t.Context(), req)
}

func TestADryRunSaysWhatWouldChange(t *testing.T) {
	for _, kind := range []string{bundle.KindBundle, bundle.KindTree} {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, func(c *Config) {
				c.Origins = func(h []Host) (Origins, error) {
					return Origins{NotPermitted: []string{fmt.Sprint(h)}}, nil
				}
			})
			one, two := newPack("one.tar"), newPack("two.tar")
			const app, kubeadm, same, fresh = "quay.io/team/app:2", "https://dl.k8s.io/v1/kubeadm",
				"https://dl.k8s.io/v1/same", "https://get.helm.sh/fresh"
			one.kind, two.kind = kind, kind
			app1, app2 := one.image(app, []byte("one")), two.image(app, bytes.Repeat([]byte("two"), 1<<20))
			file1, file2 := one.addFile(kubeadm, []byte("one")), two.addFile(kubeadm, []byte("two"))
			held, new := one.addFile(same, []byte("same")), two.addFile(fresh, []byte("fresh"))
			two.addFile(same, []byte("same"))
			s.must("", one)
			before, applied := s.world(), s.node.Status().Applied
			if kind == bundle.KindBundle {
				two.beforePut = func(string) { t.Error("more than the index was read") }
			}
			r, err := s.plan(two)
			if err != nil {
				t.Fatal(err)
			}
			want := []Change{
				{ChangeOther, KindFile, kubeadm, file1, file2}, {ChangeNone, KindFile, same, held, held}, {
					ChangeNew, KindFile, fresh, "", new}, {ChangeOther, KindImage, app, app1, app2},
			}
			if fmt.Sprint(r.Changes) != fmt.Sprint(want) {
				t.Errorf("%v, want %v", r.Changes, want)
			}
			if r.State != Planned || r.New != 1 || r.Changed != 2 || r.Unchanged != 1 || r.Images != 1 ||
				r.Files != 3 || r.Need < 3<<20 || r.Need != r.BytesNew || r.Bytes != r.Need+4 ||
				fmt.Sprint(r.Origins.NotPermitted) != "[[{dl.k8s.io false} {get.helm.sh false} {quay.io true}]]" {
				t.Errorf("%+v", r)
			}
			if now := s.node.Status().Applied; now != applied {
				t.Errorf("%d entries were written", now-applied)
			}
			differ(t, s.world(), before)
			two.beforePut = nil
			done := s.must("", two)
			if done.ID != r.ID || done.New != r.New || done.Changed != r.Changed || done.BytesNew != r.BytesNew {
				t.Errorf("planned %+v, done %+v", r, done)
			}
			if r, err = s.plan(one); err != nil || r.Name != "one" ||
				!strings.Contains(r.Message, "nothing would change: the same content was imported as one") {
				t.Errorf("%+v %v", r, err)
			}
			what := map[string]string{}
			for _, c := range r.Changes {
				what[c.Name] = c.What
			}
			if !maps.Equal(what, map[string]string{app: ChangeHidden, kubeadm: ChangeHidden, same: ChangeNone}) {
				t.Errorf("%v", what)
			}
		})
	}
}

func TestADryRunKeepsOnlyDocuments(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := &dry{e: s.Engine, small: map[string][]byte{}, put: map[string]int64{}}
	put := func(text string) string {
		got, n, err := d.Put(t.Context(), "", -1, strings.NewReader(text))
		if err != nil || n != int64(len(text)) || got != "sha256:"+hexOf([]byte(text)) {
			t.Errorf("%s %d %v", got, n, err)
		}
		return got
	}
	doc, other, long := put(`{"a":1}`), put("layer"), put("{"+strings.Repeat(" ", maxManifest))
	f, err := d.Open(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(f); err != nil || string(text) != `{"a":1}` || f.Close() != nil {
		t.Error(string(text), err)
	}
	for _, x := range []string{other, long} {
		if _, err := d.Open(t.Context(), x); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	if d.bytes != 7 {
		t.Error(d.bytes)
	}
	d.bytes = maxSmall
	if _, _, err := d.Put(t.Context(), "", -1, strings.NewReader("{}")); err == nil {
		t.Error("it keeps without end")
	}
	if _, _, err := d.Put(t.Context(), doc, -1, strings.NewReader("{ }")); !errors.Is(err, syscall.EBADMSG) {
		t.Error(err)
	}
	if _, _, err := d.Put(t.Context(), "", 3, strings.NewReader("{ }}")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// TestManyNames: a batch that is far too large for one log entry still appears at one.
func TestManyNames(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const many = 20_000
	p := newPack("many.tar")
	for i := range many {
		p.addFile(fmt.Sprintf("https://deb.k8s.io/pool/%05d.deb", i), fmt.Append(nil, i%10))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	looks := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			looks++
			n := 0
			for range s.node.Tree().Walk("files", "") {
				n++
			}
			if n != 0 && n != many {
				t.Errorf("%d of %d names are there", n, many)
			}
		}
	})
	r := s.must("", p)
	cancel()
	wg.Wait()
	if r.Files != many || r.New != many || r.Claims != many+2 || looks == 0 {
		t.Errorf("%+v", r)
	}
	if d, err := s.Show("many"); err != nil || len(d.Names) != many || !d.Intact {
		t.Error(len(d.Names), err)
	}
	if r := s.must("", p); r.State != Unchanged {
		t.Errorf("%+v", r)
	}
	if r, err := s.Remove(t.Context(), "many"); err != nil || len(r.Vanished) != many {
		t.Error(len(r.Vanished), err)
	}
	s.gc()
	differ(t, s.world(), map[string]string{})
}

// TestDamagedRecords: one record that cannot be read does not hide the others, and can be removed.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := sample("a.tar")
	s.must("", p)
	parts := newPack("p.tar")
	parts.addFile("https://a.io/1", []byte("1"))
	parts.addFile("https://a.io/2", []byte("2"))
	s.must("", parts.split(2)[0])
	pendings, err := s.pendings()
	if err != nil || len(pendings) != 1 {
		t.Fatal(pendings, err)
	}
	err = s.node.Tree().Update(t.Context(), func(b cluster.Batch) error {
		cluster.As(b, "a").Put("imports/a/record", []byte("nonsense"))
		for _, p := range pendings {
			b.Put(p.dir()+"/record", []byte("nonsense"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" || len(list[0].Notes) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	if _, err := s.Show("a"); err == nil || !strings.Contains(err.Error(), "remove the import") {
		t.Error(err)
	}
	for _, i := range list {
		if _, err := s.Remove(t.Context(), i.Name); err != nil {
			t.Error(i.Name, err)
		}
	}
	s.gc()
	differ(t, s.world(), map[string]string{})
}
