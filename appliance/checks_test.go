package appliance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"casemate/appliance/admin"
	"casemate/appliance/content"
	"casemate/appliance/missing"
	"casemate/appliance/origin"
	"casemate/appliance/secret"
	"casemate/appliance/setup"
	"casemate/appliance/status"
	"casemate/bundle"
	"casemate/bundle/lists"
	"casemate/bundle/signing"
	"casemate/cluster"
)

// pusher pushes to the node as a user.
func (n *node) pusher() func(name string, img remote.Taggable) {
	n.t.Helper()
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	return func(name string, img remote.Taggable) {
		n.t.Helper()
		r, err := ref(n.t.(*testing.T), "registry.casemate.internal/"+name), error(nil)
		opts := []remote.Option{remote.WithTransport(n.client.Transport),
			remote.WithAuth(&authn.Basic{Username: "ada", Password: "correct horse"})}
		switch img := img.(type) {
		case v1.ImageIndex:
			err = remote.WriteIndex(r, img, opts...)
		case v1.Image:
			err = remote.Write(r, img, opts...)
		}
		if err != nil {
			n.t.Fatalf("push %s: %v", name, err)
		}
	}
}

// imageFor makes an image for a processor.
func imageFor(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// The result of a check is what an unmodified client gets.
func TestCheckSaysWhatAClientMeets(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	push := n.pusher()
	arm := imageFor(t, "arm64")
	digest, err := arm.Digest()
	if err != nil {
		t.Fatal(err)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	push("registry.k8s.io/pause:3.10", arm)
	push("registry.k8s.io/pause:3.9", arm)
	push("etcd:3.6", arm)
	push("quay.io/both:1", mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: imageFor(t, "amd64"),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}}))
	const url = "https://dl.k8s.io/kubelet"
	n.must("PUT", "files?url="+url, "kubelet", nil)
	n.storeUnpermitted("www.other.example") // as an import does
	n.must("PUT", "origins/gcr.io", nil, nil)
	push("gcr.io/gone:1", arm)
	n.must("DELETE", "origins/gcr.io", nil, nil)
	sum := sha256.Sum256([]byte("kubelet"))
	right := "sha256:" + hex.EncodeToString(sum[:])

	image := func(repository, tag, digest string) content.CheckRequest {
		return content.CheckRequest{Wanted: lists.Wanted{
			Images: []lists.Image{{Repository: repository, Tag: tag, Digest: digest}}},
			Platforms: []string{"linux/arm64"}}
	}
	file := func(url, digest string) content.CheckRequest {
		return content.CheckRequest{Wanted: lists.Wanted{Files: []lists.File{{URL: url, Digest: digest}}}}
	}
	for _, c := range []struct {
		req     content.CheckRequest
		verdict content.Verdict // "": here
		says    string
	}{
		{image("registry.k8s.io/pause", "3.10", ""), "", ""},
		{image("k8s.gcr.io/pause", "3.10", digest.String()), "", ""},
		{image("quay.io/both", "1", ""), "", ""},
		{image("registry.casemate.internal/etcd", "3.6", ""), "", ""},
		{image("registry.k8s.io/pause", "3.8", ""), content.VerdictMissing, "[3.10 3.9]"},
		{image("registry.k8s.io/pause", "3.10", other), content.VerdictDigest, digest.String()},
		{image("registry.k8s.io/etcd", "3.6", ""), content.VerdictLuck, "etcd:3.6"},
		{image("gcr.io/gone", "1", ""), content.VerdictUnreached, "casemate origin add gcr.io"},
		{image("nowhere.example/gone", "1", ""), content.VerdictUnreached, "casemate origin add nowhere.example"},
		{image("www.other.example/x", "1", ""), content.VerdictUnreached, "not permitted by the root certificate"},
		{file(url, right), "", ""},
		{file("http://DL.k8s.io/kubelet", right), "", ""},
		{file(url, other), content.VerdictChecksum, right},
		{file(url+"2", ""), content.VerdictMissing, ""},
		{file("https://nowhere.example/x", ""), content.VerdictUnreached, "casemate origin add nowhere.example"},
	} {
		var r content.Report
		n.must("POST", "check", c.req, &r)
		switch {
		case c.verdict == "" && (r.Here != 1 || len(r.Findings) != 0):
			t.Errorf("%+v: %+v", c.req, r)
		case c.verdict != "" && (len(r.Findings) != 1 || r.Findings[0].Verdict != c.verdict ||
			!strings.Contains(fmt.Sprint(r.Findings[0]), c.says)):
			t.Errorf("%+v: %+v, want %s %q", c.req, r, c.verdict, c.says)
		}
	}
	var refused content.Report
	n.must("POST", "check", image("www.other.example/x", "1", ""), &refused)
	if d := refused.Findings[0].Detail; !strings.Contains(d, "casemate ca rotate --permit other.example creates a "+
		"root that permits it, then casemate origin add www.other.example") {
		t.Errorf("what helps is not recommended: %s", d)
	}
	only := image("registry.k8s.io/pause", "3.10", "")
	only.Platforms = []string{"linux/amd64"}
	var r content.Report
	if n.must("POST", "check", only, &r); len(r.Findings) != 1 || r.Findings[0].Verdict != content.VerdictPlatform ||
		!slices.Equal(r.Findings[0].Platforms, []string{"linux/arm64"}) {
		t.Errorf("for another processor: %+v", r)
	}
	for _, p := range []string{"amd64", "linux/amd46", "lunix/amd64", "linux/", "/amd64", ""} {
		only.Platforms = []string{p}
		if status, says := n.admin("POST", "check", only, nil); status != 400 ||
			!strings.Contains(says, "got \""+p+"\"") &&
				!strings.Contains(says, `got \"`+p+`\"`) {
			t.Errorf("a platform that is none: %q: %d %s", p, status, says)
		}
	}
	var book []missing.Listed
	if n.must("GET", "missing", nil, &book); len(book) != 0 {
		t.Errorf("a check is no miss: %+v", book)
	}
}

func TestCheckIsBounded(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	body := `{"files":[` + strings.Repeat(`{"url":"https://dl.k8s.io/`+strings.Repeat("x", 4000)+`"},`, 1000)
	var r content.Report
	n.must("POST", "check", body+`{"url":"https://dl.k8s.io/y"}]}`, &r)
	if r.Missing != 1001 {
		t.Errorf("got %d of 1001", r.Missing)
	}
	if status, says := n.admin("POST", "check", `{"files":[`+strings.Repeat(" ", admin.MaxCheckBody),
		nil); status != 400 || !strings.Contains(says, "too large") {
		t.Errorf("got %d %s", status, says)
	}
}

// An entry is solved when the requested content is available, whatever brought it, and missing again when it is
// deleted.
func TestWhatWasMissedIsSolved(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Permit: []string{"bank.example"}})
	push := n.pusher()
	img := imageFor(t, "amd64")
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	const file, host = "https://dl.k8s.io/kubelet", "registry.bank.example"
	client := netip.MustParseAddr("10.0.0.9")
	names := [][2]string{
		{missing.Image, "registry.k8s.io/pause:3.10"}, {missing.Image, "registry.k8s.io/pause@" + digest.String()}, {
			missing.Image, "registry.k8s.io/pause@" + layer.String()},
		{missing.Image, "registry.k8s.io/pause"}, {missing.Image, "pause:3.10"}, {missing.Image, "quay.io/x/etcd:1"},
		{missing.File, file}, {missing.File, file + "?x=1"}, {missing.File, "/dl.k8s.io/kubelet"},
		{missing.DNS, host}, {missing.TLS, host}, {missing.Host, host}, {missing.DNS, "a.apps.example"},
	}
	never := [][2]string{
		{missing.Image, "registry.k8s.io/pause:3.11"}, {
			missing.Image, "registry.k8s.io/pause@sha256:" + strings.Repeat("0", 64)}, {missing.Image, "quay.io/none"},
		{missing.Image, "NO NAME:?"}, {missing.Image, "../x@sha256:1"}, {missing.File, file + "2"}, {
			missing.File, "/nowhere"}, {missing.File, "?"},
		{missing.DNS, "www.bank.example"}, {missing.TLS, "www.bank.example"}, {missing.Host, "?"}, {
			missing.DNS, `\000.`}, {"new kind", "x"},
	}
	for _, e := range slices.Concat(names, never) {
		n.book.Add(e[0], e[1], "", client)
	}
	list := func() (open [][2]string, by map[[2]string]string) {
		t.Helper()
		var book []missing.Listed
		n.must("GET", "missing", nil, &book)
		by = map[[2]string]string{}
		for i, e := range book {
			k := [2]string{e.Kind, e.Name}
			switch {
			case e.Solved:
				by[k] = e.SolvedBy
			case i > 0 && book[i-1].Solved:
				t.Errorf("%v is open and stands behind what is solved", k)
				fallthrough
			default:
				open = append(open, k)
			}
		}
		return open, by
	}
	if open, by := list(); len(open) != len(names)+len(never) {
		t.Errorf("solved before anything was brought: %v", by)
	}

	push("registry.k8s.io/pause:3.10", img)
	push("etcd:1", img)
	n.must("PUT", "files?url="+file, "kubelet", nil)
	n.must("PUT", "origins/"+host, nil, nil)
	n.must("PUT", "names/*.apps.example/A", map[string]any{"values": []string{"10.0.0.7"}}, nil)
	open, by := list()
	for _, e := range names {
		if by[e] != missing.ByHand {
			t.Errorf("%v: solved by %q", e, by[e])
		}
	}
	for _, e := range never {
		if !slices.Contains(open, e) {
			t.Errorf("%v is not here and solved", e)
		}
	}
	n.book.Add(names[0][0], names[0][1], "", client) // the newest of all, and here
	var st struct{ Misses []status.Miss }
	n.must("GET", "status", nil, &st)
	if len(st.Misses) != 10 || slices.ContainsFunc(st.Misses, func(m status.Miss) bool {
		return slices.Contains(names, [2]string{m.Kind, m.Name})
	}) {
		t.Errorf("status shows %+v", st.Misses)
	}

	n.must("DELETE", "files?url="+file, nil, nil)
	if open, _ := list(); !slices.Contains(open, [2]string{missing.File, file}) {
		t.Error("a file that was deleted is still solved")
	}

	// An import is named by its claim.
	as := n.tree.As("monday")
	err = as.Sub("files").Update(context.Background(), func(b cluster.Batch) error {
		key, err := n.files.Key(file)
		if err == nil {
			n.files.Link(b, key, layer.String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, by := list(); by[[2]string{missing.File, file}] != "monday" {
		t.Errorf("an import's file is solved by %q", by[[2]string{missing.File, file}])
	}
}

// The inventory has every blob that a name refers to, and is always signed by the same key, whichever node made it.
func TestInventory(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	n.must("PUT", "files?url=https://dl.k8s.io/kubelet", "kubelet", nil)
	var key, again, doc string
	n.must("GET", "inventory/key", nil, &key)
	n.must("GET", "inventory", nil, &doc)
	n.must("GET", "inventory/key", nil, &again)
	if key != again {
		t.Error("the key changes")
	}
	pub, err := signing.ReadPublicKey([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	inv, _, err := bundle.ReadInventory([]byte(doc), []ed25519.PublicKey{pub})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("kubelet"))
	if want := "sha256:" + hex.EncodeToString(sum[:]); inv.Domain != "casemate.internal" ||
		!slices.ContainsFunc(inv.Blobs, func(b bundle.Blob) bool { return b.Digest == want && b.Size == 7 }) {
		t.Errorf("got %+v", inv)
	}
	sealed, err := n.tree.ReadFile("secrets/" + secret.Inventory)
	if err != nil || bytes.Contains(sealed, pub) {
		t.Errorf("the key in the tree: %v", err)
	}
	seed, err := secret.ReadOrMake(context.Background(), n.tree, n.cluster, secret.Inventory)
	if err != nil || bytes.Contains(sealed, seed) || !ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey).Equal(
		pub) {
		t.Errorf("the seed stands in the tree in the clear (%v)", err)
	}
	n.must("DELETE", "files?url=https://dl.k8s.io/kubelet", nil, nil)
	n.must("GET", "inventory", nil, &doc)
	if inv, _, err = bundle.ReadInventory([]byte(doc), nil); err != nil ||
		slices.ContainsFunc(inv.Blobs, func(b bundle.Blob) bool { return b.Size == 7 }) {
		t.Errorf("what nothing names may be collected and is promised: %+v, %v", inv, err)
	}
}

// Nodes that create the key concurrently all use the one that was committed first.
func TestOneInventoryKey(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{})
	first, err := secret.ReadOrMake(t.Context(), n.tree, n.cluster, secret.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	again, err := secret.ReadOrMake(t.Context(), behind{n.tree}, n.cluster, secret.Inventory)
	if err != nil || !bytes.Equal(again, first) {
		t.Errorf("the second made another key (%v)", err)
	}
}

// behind is the tree of a node that has not yet received another node's write.
type behind struct{ *cluster.Tree }

func (behind) Stat(name string) (fs.FileInfo, error) {
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// BenchmarkMissing lists a full book, half of it solved.
func BenchmarkMissing(b *testing.B) {
	cfg := testConfig(b, b.TempDir())
	if _, err := setup.Init(b.Context(), cfg, setup.InitOptions{}); err != nil {
		b.Fatal(err)
	}
	a, err := Open(cfg, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	w, err := a.tree.CreateBlob("")
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	digest, err := w.Commit(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	const each = 2500
	err = a.tree.Update(b.Context(), func(batch cluster.Batch) error {
		for i := range each {
			name, err := a.registry.TreeName("quay.io/team/app"+strconv.Itoa(i), "1", "")
			if err != nil {
				return err
			}
			batch.Link("registry/"+name, digest)
			key, err := a.files.Key(fmt.Sprintf("https://dl.k8s.io/here/%d", i))
			if err != nil {
				return err
			}
			batch.Link("files/"+key, digest)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for i := range each {
		a.book.Add(missing.Image, fmt.Sprintf("quay.io/team/app%d:1", i), "", loopback)
		a.book.Add(missing.Image, fmt.Sprintf("quay.io/other/app%d:2", i), "", loopback)
		a.book.Add(missing.File, fmt.Sprintf("https://dl.k8s.io/here/%d", i), "", loopback)
		a.book.Add(missing.DNS, fmt.Sprintf("host%d.example", i), "", loopback)
	}
	for b.Loop() {
		entries, err := a.book.List()
		if err != nil {
			b.Fatal(err)
		}
		pages, err := missing.Pages(entries, missing.Filter{}, missing.Known{Answered: a.lookup.Answered(b.Context()),
			Reach: a.lookup.Enabling, Package: a.repositories.Package}, "")
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for l := range pages {
			if n++; l.Solved != (n > 2*each) {
				b.Fatal("not half of the book is solved")
			}
		}
	}
}

// storeUnpermitted stores the record of an origin that the root does not permit, as an import that brings content of it
// does.
func (n *node) storeUnpermitted(host string) {
	n.t.Helper()
	data, err := origin.Record(origin.Origin{Host: host, Disabled: origin.NotPermitted})
	if err == nil {
		err = n.tree.Update(n.t.Context(), func(b cluster.Batch) error { b.Put("origins/"+host, data); return nil })
	}
	if err == nil {
		err = n.dns.Refresh()
	}
	if err != nil {
		n.t.Fatal(err)
	}
}
