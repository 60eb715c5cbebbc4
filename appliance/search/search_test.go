package search

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/appliance/usage"
	"casemate/cluster/tree"
	"casemate/cluster/treetest"
	"casemate/cluster/waittest"
	"casemate/registry"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	waittest.Main(m, goleak.Find, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

// fixture is a search in a tree in memory.
type fixture struct {
	*Search
	t    testing.TB
	tree joined
}

// joined is a tree of which the registry's part is a tree of its own.
type joined struct {
	*treetest.Mem
	registry *treetest.Mem
}

func (j joined) Follow(ctx context.Context, dir string) (<-chan struct{}, func() ([]string, bool)) {
	if dir != "registry" {
		return j.Mem.Follow(ctx, dir)
	}
	changed, take := j.registry.Follow(ctx, ".")
	return changed, func() (names []string, all bool) {
		relative, all := take()
		for _, n := range relative {
			names = append(names, "registry/"+n)
		}
		return names, all
	}
}

// part returns the tree that has a name, and the name there.
func (j joined) part(name string) (*treetest.Mem, string) {
	if rest, ok := strings.CutPrefix(name, "registry/"); ok {
		return j.registry, rest
	}
	return j.Mem, name
}

func (j joined) StatBlob(digest string) (int64, error) { return j.registry.StatBlob(digest) }

func start(t testing.TB) *fixture {
	t.Helper()
	whole := joined{treetest.New(t), treetest.New(t)}
	reg, err := registry.Open(registry.Config{Tree: whole.registry})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{New(Config{Tree: whole, Registry: reg}), t, whole}
	t.Cleanup(func() {
		f.Close()
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// link stores text in the part of the tree that has dir, links it below dir, and returns its digest. HEX in a name
// stands for the digest's.
func (f *fixture) link(dir, text string, names ...string) string {
	f.t.Helper()
	part, dir := f.tree.part(dir)
	w, err := part.CreateBlob("")
	if err != nil {
		f.t.Fatal(err)
	}
	defer w.Close()
	fmt.Fprint(w, text)
	d, err := w.Commit(context.Background(), "")
	if err == nil {
		err = part.Update(context.Background(), func(b tree.Batch) error {
			for _, n := range names {
				b.Link(dir+strings.Replace(n, "HEX", d[7:], 1), d)
			}
			return nil
		})
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *fixture) update(fn func(tree.Batch)) {
	f.t.Helper()
	if err := f.tree.Update(context.Background(), func(b tree.Batch) error { fn(b); return nil }); err != nil {
		f.t.Fatal(err)
	}
}

// image stores a manifest with a tag, which may be "", and a layer of the same bytes.
func (f *fixture) image(repo, tag, text string) string {
	f.t.Helper()
	names := []string{"/_manifests/revisions/sha256/HEX/link", "/_layers/sha256/HEX/link"}
	if tag != "" {
		names = append(names, "/_manifests/tags/"+tag+"/current/link")
	}
	return f.link("registry/repositories/"+repo, text, names...)
}

func (f *fixture) file(key string) string {
	f.t.Helper()
	return f.link("files/", key, key)
}

func (f *fixture) name(owner, kind, values string) {
	f.t.Helper()
	f.update(func(b tree.Batch) { b.Put("names/"+owner+"/"+kind, []byte(`{"values":["`+values+`"]}`)) })
}

// found returns the hits, as kind and name, and checks that a search behind each of them finds the rest.
func (f *fixture) found(text string, public bool) []string {
	f.t.Helper()
	from := func(after string) (names, at []string) {
		for h, err := range f.Find(context.Background(), text, after, Filter{Public: public}) {
			if err != nil {
				f.t.Fatalf("search %q: %v", text, err)
			}
			names, at = append(names, h.Kind+" "+h.Name), append(at, h.At())
		}
		return names, at
	}
	all, at := from("")
	for i := range at {
		if rest, _ := from(at[i]); !slices.Equal(rest, all[i+1:]) {
			f.t.Errorf("search %q after %q: %q, want %q", text, at[i], rest, all[i+1:])
		}
	}
	return all
}

func TestSearch(t *testing.T) {
	f := start(t)
	pause := f.image("registry.k8s.io/pause", "3.10", "pause")
	f.image("registry.k8s.io/pause", "V1.X-Beta", "pause 2")
	child := f.image("docker.io/library/nginx", "", "child")
	f.image("docker.io/library/nginx", "1.25", "nginx")
	f.image("team/nginx-exporter", "cafe", "exporter")
	kubeadm := f.file("dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm?")
	f.file("dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm?x=1")
	f.file("apt.test/pool/main/n/nginx_1.25_amd64.deb?")
	f.file("charts.test/stable/index.yaml?")
	f.file("charts.test/stable/nginx-1.2.tgz?")
	f.file("charts.test/stable/charts/demo-0.1.0.tgz?")
	f.file("dl.test/My%20Tool/%C3%9Cber-1.tgz?")
	f.name("nginx.bank.example", "A", "10.9.8.7")
	f.name("www.bank.example", "CNAME", "nginx.bank.example")
	f.update(func(b tree.Batch) {
		b.Put("imports/base-nginx/record", []byte("{}"))
		b.Put("imports/pending/KEY/record", []byte("{}"))
	})
	for text, want := range map[string][]string{
		"NGINX": {"repository docker.io/library/nginx", "repository team/nginx-exporter",
			"package https://apt.test/pool/main/n/nginx_1.25_amd64.deb",
			"chart https://charts.test/stable/nginx-1.2.tgz",
			"name nginx.bank.example A", "name www.bank.example CNAME", "import base-nginx"},
		"nginx:1":            {"image docker.io/library/nginx:1.25"},
		"library/nginx:1.25": {"image docker.io/library/nginx:1.25"},
		"1.25": {"image docker.io/library/nginx:1.25",
			"package https://apt.test/pool/main/n/nginx_1.25_amd64.deb"},
		"v1.x":                                {"image registry.k8s.io/pause:V1.X-Beta"},
		"cafe":                                {"image team/nginx-exporter:cafe"},
		pause:                                 {"image registry.k8s.io/pause:3.10", "layer registry.k8s.io/pause"},
		pause[7:]:                             {"image registry.k8s.io/pause:3.10", "layer registry.k8s.io/pause"},
		pause[:19]:                            {"image registry.k8s.io/pause:3.10"},
		pause[20:40]:                          {"image registry.k8s.io/pause:3.10"},
		child[10:40]:                          {"image docker.io/library/nginx@" + child},
		"library/nginx@sha256:" + child[7:12]: {"image docker.io/library/nginx@" + child},
		kubeadm[20:40]:                        {"file https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm"},
		"amd64/kube": {"file https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm",
			"file https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm?x=1"},
		"https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm?x": {
			"file https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm?x=1"},
		"demo-0":        {"chart https://charts.test/stable/charts/demo-0.1.0.tgz"},
		"my tool":       {"file https://dl.test/My%20Tool/%C3%9Cber-1.tgz"},
		"Über":          {"file https://dl.test/My%20Tool/%C3%9Cber-1.tgz"},
		"9.8.7":         {"name nginx.bank.example A"},
		"example cname": {"name www.bank.example CNAME"},
		"kuberneetes":   nil, "_manifests": nil, "current/link": nil, "pending": nil, "sha256:zz": nil,
	} {
		if got := f.found(text, false); !slices.Equal(got, want) {
			t.Errorf("search %q:\n%q, want\n%q", text, got, want)
		}
	}
	// In public there are images and files only.
	if got := f.found("nginx", true); len(got) != 4 {
		t.Errorf("in public: %q", got)
	}
	for _, text := range []string{"", "x", " x ", "https://", "a\x00b", "a\nb", "\xff\xfe", strings.Repeat("x", 201)} {
		for _, err := range f.Find(context.Background(), text, "", Filter{}) {
			if !errors.As(err, new(*usage.Error)) {
				t.Errorf("search %q: %v", text, err)
			}
		}
	}
	for kind, want := range map[string]int{KindChart: 2, KindName: 2, KindImport: 1, KindPackage: 1, "x": -1} {
		n := 0
		for h, err := range f.Find(context.Background(), "", "", Filter{Kind: kind}) {
			if n++; err != nil {
				n = -1
			} else if h.Kind != kind {
				t.Errorf("of the kind %s there is %v", kind, h)
			}
		}
		if n != want {
			t.Errorf("%d of the kind %s, want %d", n, kind, want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range f.Find(ended, "nginx", "", Filter{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
	}
}

// TestFollows: a search finds what the tree has at that moment, whatever has changed since the one before.
func TestFollows(t *testing.T) {
	f := start(t)
	want := func(text string, names ...string) {
		t.Helper()
		if got := f.found(text, false); !slices.Equal(got, names) {
			t.Errorf("search %q: %q, want %q", text, got, names)
		}
	}
	remove := func(name string) {
		part, name := f.tree.part(name)
		err := part.Update(context.Background(), func(b tree.Batch) error { b.Remove(name); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	want("demo")
	d := f.image("team/demo", "v1", "one")
	f.image("team/demo/sub", "v1", "one")
	f.file("dl.test/demo/a?")
	f.file("dl.test/demo/sub/a?")
	f.name("demo.example.com", "A", "10.0.0.1")
	want("demo", "repository team/demo", "repository team/demo/sub", "file https://dl.test/demo/a",
		"file https://dl.test/demo/sub/a", "name demo.example.com A")
	f.image("team/demo", "v2", "two")
	want("demo:v", "image team/demo:v1", "image team/demo:v2")
	remove("registry/repositories/team/demo/_manifests/tags/v1")
	want("demo:v", "image team/demo:v2")
	want(d[9:40], "image team/demo@"+d, "image team/demo/sub:v1")
	f.file("dl.test/demo/b?")
	remove("files/dl.test/demo/a?")
	f.name("demo.example.com", "A", "10.0.0.2")
	want("demo/", "repository team/demo/sub", "file https://dl.test/demo/b", "file https://dl.test/demo/sub/a")
	want("10.0.0.2", "name demo.example.com A")
	remove("registry/repositories/team")
	remove("files/dl.test/demo")
	remove("names/demo.example.com")
	f.image("team/demo/other", "v1", "one")
	f.file("dl.test/demo/c?")
	want("demo", "repository team/demo/other", "file https://dl.test/demo/c")
	for i := range 2 * manyChanges {
		f.update(func(b tree.Batch) {
			b.Put(fmt.Sprintf("names/many%d.example.com/A", i), []byte(`{"values":["10.1.1.1"]}`))
		})
	}
	if n := len(f.found("many", true)); n != 0 {
		t.Errorf("%d DNS records in public", n)
	}
	n := 0
	for range f.Find(context.Background(), "many", "", Filter{}) {
		n++
	}
	if n != 2*manyChanges {
		t.Errorf("%d of many records", n)
	}
	remove("names")
	want("many")
}

// TestIdle: the index is dropped when nobody searches, and made again by the next search.
func TestIdle(t *testing.T) {
	f := start(t)
	f.image("team/demo", "v1", "one")
	f.found("demo", false)
	f.idle()
	f.mu.Lock()
	if f.index != nil {
		t.Error("an idle search keeps its index")
	}
	f.mu.Unlock()
	if got := f.found("demo", false); len(got) != 1 {
		t.Errorf("after it was idle: %q", got)
	}
	f.Close()
	for _, err := range f.Find(context.Background(), "demo", "", Filter{}) {
		if err == nil {
			t.Error("a search after Close finds something")
		}
	}
	f.Prepare() // nothing
	if s := New(Config{}); s.cfg.Keep != 30*time.Minute {
		t.Error("no default")
	}
}

// TestPrepare: the index is made, and brought up to date, before it is asked; Close ends that.
func TestPrepare(t *testing.T) {
	f := start(t)
	f.image("team/demo", "v1", "one")
	has := func(n int) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.busy && f.index != nil && len(f.index.units) == n
	}
	for range 10 {
		f.Prepare()
	}
	waittest.Until(t, "the index is made", func() bool { return has(1) })
	f.image("team/other", "v1", "two")
	f.Prepare()
	waittest.Until(t, "the index has the other", func() bool { return has(2) })
	f.Prepare()
	f.Close()
	if f.index != nil {
		t.Error("a closed search keeps its index")
	}
}

// FuzzFind: no text and no position makes a search fail in another way than by a sentence, and a hit contains the text.
func FuzzFind(f *testing.F) {
	for _, s := range []string{"nginx", "a:b", "@sha256:", "sha256:00", ":", "@", "  ", "é", "%20", "/", "1.2.3.4"} {
		f.Add(s, "")
		f.Add(s, "1team/demo\nv1")
	}
	var fx *fixture
	f.Fuzz(func(t *testing.T, text, after string) {
		if fx == nil || fx.t != t {
			fx = start(t)
			fx.image("team/demo", "v1", "one")
			fx.file("dl.test/demo/a%20b?x=1")
			fx.name("demo.example.com", "A", "10.0.0.1")
		}
		for _, err := range fx.Find(context.Background(), text, after, Filter{}) {
			if err != nil && !errors.As(err, new(*usage.Error)) {
				t.Fatal(err)
			}
		}
		// What is left out by the cheap check has no hits.
		q, err := parse(text)
		if err != nil {
			return
		}
		units, err := fx.units(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range units {
			for h := range u.find(q, "", func(dir string) bool { return hasCharts(units, dir) }) {
				if !u.may(q) {
					t.Errorf("%q is left out for %q", h.Name, text)
				}
			}
		}
	})
}
