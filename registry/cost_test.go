package registry

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

// work counts reads of a tree.
type work struct {
	Tree
	walked, looked, bytes atomic.Int64
	onWalk                func() // called for each name that a walk yields
}

// counting makes the registry read its tree through a work.
func counting(w *work) func(*Config) {
	return func(c *Config) { w.Tree, c.Tree = c.Tree, w }
}

// during returns what do reads: names walked, names looked up, bytes of blobs.
func (w *work) during(do func()) (walked, looked, bytes int64) {
	w.walked.Store(0)
	w.looked.Store(0)
	w.bytes.Store(0)
	do()
	return w.walked.Load(), w.looked.Load(), w.bytes.Load()
}

func (w *work) Stat(name string) (fs.FileInfo, error) { w.looked.Add(1); return w.Tree.Stat(name) }

func (w *work) ReadFile(name string) ([]byte, error) {
	data, err := w.Tree.ReadFile(name)
	if strings.Contains(name, "/_summaries/") {
		w.looked.Add(1)
	} else {
		w.bytes.Add(int64(len(data)))
	}
	return data, err
}

func (w *work) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := w.Tree.ReadDir(name)
	w.walked.Add(int64(len(list)))
	return list, err
}

func (w *work) Walk(dir, after string) iter.Seq2[string, fs.FileInfo] {
	return func(yield func(string, fs.FileInfo) bool) {
		for name, fi := range w.Tree.Walk(dir, after) {
			w.walked.Add(1)
			if w.onWalk != nil {
				w.onWalk()
			}
			if !yield(name, fi) {
				return
			}
		}
	}
}

func (w *work) OpenBlob(ctx context.Context, d string) (io.ReadSeekCloser, error) {
	f, err := w.Tree.OpenBlob(ctx, d)
	return countedBlob{f, w}, err
}

type countedBlob struct {
	io.ReadSeekCloser
	w *work
}

func (c countedBlob) Read(p []byte) (int, error) {
	n, err := c.ReadSeekCloser.Read(p)
	c.w.bytes.Add(int64(n))
	return n, err
}

// referrerWith is a manifest that refers to subject, with so many bytes of annotations beside "n".
func referrerWith(config, subject digest.Digest, n int, annotations int, artifactType string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","artifactType":"%s","layers":[],`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},`+
		`"subject":{"digest":"%s","size":1},"annotations":{"n":"%d","pad":"%s"}}`,
		typeOCIManifest, artifactType, config, subject, n, strings.Repeat("x", annotations))
}

// follow goes through all pages of a list of referrers and returns their annotation n, in order, and the largest page.
func (s *pusher) follow(target string) (ns []string, pages, largest int) {
	s.tb.Helper()
	for ; target != ""; pages++ {
		res := s.ask(s.own, "GET", target)
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || pages > 1000 {
			s.tb.Fatalf("%s: %d %.200s, %v, page %d", target, res.StatusCode, text, err, pages)
		}
		largest = max(largest, len(text))
		for _, m := range strings.Split(string(text), `"n":"`)[1:] {
			n, _, _ := strings.Cut(m, `"`)
			ns = append(ns, n)
		}
		link, _, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">")
		target = link
	}
	return ns, pages, largest
}

// TestReferrersCostWhatTheySay: the cost of a list depends on its size and not on the content of the manifests.
func TestReferrersCostWhatTheySay(t *testing.T) {
	w := &work{}
	s := newPusher(t, counting(w))
	const repo, many = "team/app", 6
	subject, other := digest.FromString("subject"), digest.FromString("other")
	config := s.push(repo, "{}")
	var digests []digest.Digest
	put := func(text string) digest.Digest {
		return s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
	}
	for i := range many { // content that no list reports, that a list reads the manifest for, that its record has
		size := []int{maxAnnotations + 1, 2 * maxSummary, 10}[i%3]
		digests = append(digests, put(referrerWith(config, subject, i, size, fmt.Sprint("a/", i%3))))
	}
	put(referrerWith(config, other, 99, 10, "a/0"))
	list := "/v2/" + repo + "/referrers/" + subject.String()
	all := []string{"0", "1", "2", "3", "4", "5"}
	for _, c := range []struct {
		query string
		want  []string
		bytes int64 // of manifests that are read
	}{
		{"", all, 2 * (2*maxSummary + 1000)},
		{"", all, 0}, // they are known by now
		{"?artifactType=a/0", []string{"0", "3"}, 0},
		{"?artifactType=a/2", []string{"2", "5"}, 0},
		{"?artifactType=a/none", nil, 0},
	} {
		var got []string
		var pages, largest int
		walked, looked, bytes := w.during(func() { got, pages, largest = s.follow(list + c.query) })
		slices.Sort(got)
		if !slices.Equal(got, c.want) || pages != 1 || largest > maxReferrers {
			t.Errorf("%s: %q in %d pages of up to %d bytes", c.query, got, pages, largest)
		}
		if walked > 4*many || looked > 8*many || bytes > c.bytes || c.bytes > 0 && bytes < 2*maxSummary {
			t.Errorf("%s: %d names walked, %d looked up, %d bytes read, want about %d", c.query, walked, looked,
				bytes, c.bytes)
		}
	}
	// All annotations of those that the bound lets through; of the others those that are small.
	page, _ := s.referrersOf(list)
	for _, d := range page {
		i := slices.Index(digests, d.Digest)
		pad := map[bool]int{true: 0, false: []int{0, 2 * maxSummary, 10}[i%3]}[i%3 == 0]
		if d.Annotations["n"] != fmt.Sprint(i) || len(d.Annotations["pad"]) != pad || d.Size != size(s, d.Digest) {
			t.Errorf("%d: %d bytes of pad and n %q, %d bytes", i, len(d.Annotations["pad"]), d.Annotations["n"], d.Size)
		}
	}
	// The other lists read no manifest either that has a record.
	_, _, bytes := w.during(func() {
		n := 0
		for i, err := range s.reg.Images(t.Context()) {
			if n++; err != nil || i.Lost {
				t.Error(i, err)
			}
		}
		for range s.reg.Samples(t.Context(), 100) {
			n++
		}
	})
	if bytes > 10_000 {
		t.Errorf("a list of images reads %d bytes", bytes)
	}
	// A record goes with its manifest, and a manifest that an earlier version stored gets one when it is pushed again.
	for _, d := range digests {
		if !isRecord(s, repo, d) {
			t.Error("no record of", d)
		}
	}
	s.update(func(b Batch) { b.Remove(summaryPath(repo, digests[0])) })
	put(referrerWith(config, subject, 0, maxAnnotations+1, "a/0"))
	if !isRecord(s, repo, digests[0]) {
		t.Error("pushed again, it has no record")
	}
	s.expect(202, "DELETE", "/v2/"+repo+"/manifests/"+digests[0].String(), "")
	if isRecord(s, repo, digests[0]) {
		t.Error("the record of a deleted manifest stays")
	}
}

func isRecord(s *pusher, repo string, d digest.Digest) bool {
	_, err := s.tree.Stat(summaryPath(repo, d))
	return err == nil
}

// TestReferrersWithoutRecords: in a store written by an earlier version, or by a later one in another form, each page
// reads a bounded number of bytes, nothing is left out, and no manifest is read twice.
func TestReferrersWithoutRecords(t *testing.T) {
	const size = 20 << 10
	defer func(n int64) { maxRead = n }(maxRead)
	maxRead = 4 * size
	for what, with := range map[string]func(b Batch, name string){
		"no records": func(b Batch, name string) { b.Remove(name) },
		"records of a later version": func(b Batch, name string) {
			b.Put(name, []byte(`{"v":2,"subject":"sha256:x","size":1}`))
		},
		"records that are none": func(b Batch, name string) { b.Put(name, []byte("\x00")) },
	} {
		t.Run(what, func(t *testing.T) {
			w := &work{}
			s := newPusher(t, counting(w))
			const repo, many = "team/app", 9
			subject := digest.FromString("subject")
			config := s.push(repo, "{}")
			for i := range many {
				text := referrerWith(config, subject, i, size, "a/b")
				d := s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
				s.update(func(b Batch) { with(b, summaryPath(repo, d)) })
			}
			list := "/v2/" + repo + "/referrers/" + subject.String()
			_, _, first := w.during(func() { s.ask(s.own, "GET", list) })
			if first > maxRead {
				t.Errorf("one page reads %d bytes, at most %d", first, maxRead)
			}
			got, pages, _ := s.follow(list)
			slices.Sort(got)
			if !slices.Equal(got, strings.Split("012345678", "")) || pages < 2 {
				t.Errorf("%q in %d pages", got, pages)
			}
			_, _, bytes := w.during(func() { got, pages, _ = s.follow(list + "?artifactType=a/b") })
			if bytes > 0 || pages != 1 || len(got) != many {
				t.Errorf("asked again: %d of them in %d pages, %d bytes read", len(got), pages, bytes)
			}
			// A page that the filter empties leads on.
			s.reg.read.summaries = summaries{}
			if got, pages, _ := s.follow(list + "?artifactType=a/none"); len(got) != 0 || pages < 2 {
				t.Errorf("%q in %d pages", got, pages)
			}
		})
	}
}

// TestSummariesFit: the record of any manifest fits into the tree and flags what it omits.
func TestSummariesFit(t *testing.T) {
	long := strings.Repeat("é<\x01", maxSummary)
	for _, annotations := range []map[string]string{nil, {"a": "b"}, {"a": long[:maxSummary]}, {long: "x", "a": "b"},
		{"a": long + strings.Repeat("\x01", maxAnnotations/6), "b": "c"}} {
		for _, parts := range []int{0, 5, 100, 20_000} {
			for _, kind := range []string{"a/b", long} {
				m := &manifest{MediaType: typeOCIIndex, ArtifactType: kind, Annotations: annotations,
					Subject: &descriptor{Digest: digest.FromString("x")}, Manifests: []descriptor{}, size: 1 << 20}
				for i := range parts {
					m.Manifests = append(m.Manifests, descriptor{Digest: digest.Digest(fmt.Sprintf("sha256:%064x", i)),
						Platform: []byte(`{"os":"linux","architecture":"amd64"}`)})
				}
				s := summarize(m)
				data := s.encode()
				if len(data) == 0 || len(data) > maxSummary {
					t.Fatalf("%d annotations, %d parts: a record of %d bytes", len(annotations), parts, len(data))
				}
				if len(s.Parts) != parts || len(plainJSON(s.Annotations)) > maxAnnotations ||
					len(s.ArtifactType) > maxMediaType {
					t.Errorf("%d parts of %d, %d bytes of annotations", len(s.Parts), parts,
						len(plainJSON(s.Annotations)))
				}
				if annotations["b"] == "c" && (len(s.Annotations) != 1 || s.Annotations["b"] != "c") {
					t.Errorf("what is small is left out with what is large: %v", s.Annotations)
				}
			}
		}
	}
}

// TestTagsCostTheirPage: a page of tags walks over its own entries only, in however many repositories the name is
// looked up.
func TestTagsCostTheirPage(t *testing.T) {
	w := &work{}
	s := newShelf(t, counting(w))
	const many = 400
	m, _ := s.image("registry.k8s.io/app", "first", "x")
	l, _ := s.image("app", "first", "y")
	s.update(func(b Batch) {
		for i := range many {
			b.Link(tagPath("registry.k8s.io/app", fmt.Sprintf("v%04d", i)), m.String())
			b.Link(tagPath("app", fmt.Sprintf("v%04d-local", i)), l.String())
			b.Link(tagPath("app", fmt.Sprintf("v%04d", i)), l.String())
		}
	})
	for _, c := range []struct {
		view   View
		query  string
		want   []string
		more   bool
		walked int64
	}{
		{on("registry.k8s.io"), "?n=2", []string{"first", "v0000"}, true, 4},
		{on("registry.k8s.io"), "?n=2&last=v0200", []string{"v0201", "v0202"}, true, 4},
		{on("registry.k8s.io"), "?n=2&last=v0200x", []string{"v0201", "v0202"}, true, 4},
		{on("registry.k8s.io"), "?n=5&last=v0398", []string{"v0399"}, false, 4},
		{s.own, "?n=3&last=v0200", []string{"v0200-local", "v0201", "v0201-local"}, true, 10},
		{s.own, "?last=v0399-local", []string{}, false, 4},
		{s.own, "?n=0", []string{}, false, 4},
		{s.own, "?n=2&last=!", []string{"first", "v0000"}, true, 10}, // no tag, so before all of them
	} {
		var got tagList
		var link string
		walked, _, _ := w.during(func() {
			res := s.ask(c.view, "GET", "/v2/app/tags/list"+c.query)
			got, link = decode[tagList](t, res), res.Header.Get("Link")
		})
		if !slices.Equal(got.Tags, c.want) || (link != "") != c.more || walked > c.walked {
			t.Errorf("%s: %q, Link %q, %d names walked, want %q and at most %d", c.query, got.Tags, link, walked,
				c.want, c.walked)
		}
	}
	got := decode[tagList](t, s.ask(s.own, "GET", "/v2/app/tags/list"))
	if len(got.Tags) != 2*many+1 || !slices.IsSorted(got.Tags) {
		t.Errorf("%d tags", len(got.Tags))
	}
}

// TestListsEndWithTheClient: a list ends when the client hangs up.
func TestListsEndWithTheClient(t *testing.T) {
	w := &work{}
	s := newPusher(t, counting(w))
	const repo, many = "team/app", 200
	subject, m := digest.FromString("subject"), digest.Digest("")
	config := s.push(repo, "{}")
	for i := range many {
		text := referrerWith(config, subject, i, 10, "a/b")
		m = s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
	}
	s.update(func(b Batch) {
		for i := range many {
			b.Link(tagPath(repo, fmt.Sprint("t", i)), m.String())
		}
	})
	for what, list := range map[string]func(ctx context.Context){
		"referrers": func(ctx context.Context) {
			rec := httptest.NewRecorder()
			req := httptest.NewRequest("GET", "/v2/"+repo+"/referrers/"+subject.String(), nil).WithContext(ctx)
			s.reg.Serve(rec, req, s.own)
			if rec.Body.Len() > 0 {
				t.Errorf("an answer without a client: %.100s", rec.Body)
			}
		},
		"images": func(ctx context.Context) {
			for i, err := range s.reg.Images(ctx) {
				if err == nil {
					t.Error("an image without a client", i)
				}
			}
		},
		"samples": func(ctx context.Context) {
			for range s.reg.Samples(ctx, many) {
			}
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s.reg.read.names.fresh()
		n := 0
		w.onWalk = func() {
			if n++; n == 5 {
				cancel()
			}
		}
		list(ctx)
		if w.onWalk = nil; n > 10 {
			t.Errorf("%s: %d names walked, who asked has gone after 5", what, n)
		}
		cancel()
	}
}

// TestSamplesAreBounded: the cost of Samples does not depend on the stored content.
func TestSamplesAreBounded(t *testing.T) {
	w := &work{}
	s := newShelf(t, counting(w))
	m, _ := s.image("registry.k8s.io/aaa", "first", "x")
	large := imageOf(s.layer("registry.k8s.io/zzz", "z"))
	large = large[:len(large)-1] + `,"annotations":{"pad":"` + strings.Repeat("x", 3<<20) + `"}}`
	s.update(func(b Batch) {
		for i := range 2000 {
			b.Link(tagPath("registry.k8s.io/aaa", fmt.Sprint("t", i)), m.String())
		}
	})
	for i := range 6 {
		text := strings.Replace(large, "xxx", fmt.Sprint("xx", i), 1)
		s.manifest("registry.k8s.io/zzz", fmt.Sprint("v", i), text, "")
	}
	entries := make([]string, 20*sampleParts)
	for i := range entries {
		entries[i] = fmt.Sprintf(`{"digest":"sha256:%064x","size":1}`, i)
	}
	s.manifest("registry.k8s.io/mmm", "wide", `{"schemaVersion":2,"mediaType":"`+typeOCIIndex+`","manifests":[`+
		strings.Join(entries, ",")+`]}`, "")
	s.reg.read.names.fresh()
	seen := map[string]int{}
	walked, looked, bytes := w.during(func() {
		for i := range s.reg.Samples(t.Context(), 200) {
			seen[i.Name]++
		}
	})
	if walked > 30 || looked > 200 || bytes > sampleBytes || seen["registry.k8s.io/aaa"] != sampleTags ||
		seen["registry.k8s.io/zzz"] != 6 {
		t.Errorf("%d names walked, %d looked up, %d bytes read, %v", walked, looked, bytes, seen)
	}
}

// TestADeepIndexIsBounded: indexes in indexes are looked into as deep as clients may come, by every list.
func TestADeepIndexIsBounded(t *testing.T) {
	s := newPusher(t)
	const repo = "team/app"
	_, _, text := s.parts(repo, "one")
	at := s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
	for i := range 3 * maxNested {
		// Each level lists the next one twice: who goes down both ways has 2 to the power of the depth to go.
		one := fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%[1]s","digest":"%s","size":1},`+
				`{"mediaType":"%[1]s","digest":"%[2]s","size":2}],"annotations":{"n":"%d"}}`, typeOCIIndex, at, i)
		at = s.put(repo, digest.FromString(one).String(), typeOCIIndex, one)
	}
	s.update(func(b Batch) { b.Link(tagPath(repo, "deep"), at.String()) })
	n := 0
	for i, err := range s.reg.Images(t.Context()) {
		if n++; err != nil || i.Reference != "deep" || !i.Sparse {
			t.Errorf("%+v, %v", i, err)
		}
	}
	if n != 1 {
		t.Errorf("%d images", n)
	}
	f, err := s.reg.Resolve(t.Context(), repo, "deep", "")
	if err != nil || !f.Sparse {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestAPushReadsFewWhoWait: what awaits a manifest does not make pushing it dear.
func TestAPushReadsFewWhoWait(t *testing.T) {
	w := &work{}
	s := newPusher(t, counting(w))
	_, _, text := s.parts("team/app", "one")
	for i := range 4 * maxWarned {
		pad := strings.Repeat("x", (i%2)*2*keepManifest)
		one := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","manifests":[{"digest":"%s","size":1}],`+
			`"annotations":{"n":"%d%s"}}`, typeOCIIndex, digest.FromString(text), i, pad)
		s.put("team/app", digest.FromString(one).String(), typeOCIIndex, one)
	}
	_, _, bytes := w.during(func() { s.put("team/app", "v1", typeOCIManifest, text) })
	if bytes > maxWarned*1000 {
		t.Errorf("%d bytes of others' manifests are read for one push", bytes)
	}
}

// TestAClaimTakesItsRecordAlong checks another room's batch, such as an import's: it has all names of a manifest that
// its claim must cover.
func TestAClaimTakesItsRecordAlong(t *testing.T) {
	s := newPusher(t)
	config := s.push("team/app", "{}")
	text := referrerWith(config, digest.FromString("subject"), 1, 10, "a/b")
	d := s.blob(text, "")
	s.update(func(b Batch) { b.LinkWeak(layerPath("team/app", config), config.String()) })
	var names []string
	if err := s.tree.Update(t.Context(), func(b Batch) error {
		return s.reg.Link(noting{b, &names}, Import{Repository: "team/app", Data: []byte(text)})
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, summaryPath("team/app", d)) || !isRecord(s, "team/app", d) {
		t.Errorf("an import brings %q", names)
	}
}

type noting struct {
	Batch
	names *[]string
}

func (n noting) Put(name string, data []byte) {
	*n.names = append(*n.names, name)
	n.Batch.Put(name, data)
}
