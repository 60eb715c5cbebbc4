package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

func indexOf(mediaType string, children ...digest.Digest) string {
	list := []string{}
	for i, c := range children {
		list = append(list,
			fmt.Sprintf(`{"mediaType":"%s","digest":"%s","size":3,"platform":{"os":"linux","architecture":"arch%d"}}`,
				typeOCIManifest, c, i))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}`, mediaType, strings.Join(list, ","))
}

func TestManifestPut(t *testing.T) {
	s := newPusher(t)
	_, _, text := s.parts("team/app", "one")
	text += "\n  " // byte exact: nothing is normalised
	want := digest.FromString(text)
	res := s.expect(201, "PUT", "/v2/team/app/manifests/v1", text, "Content-Type", typeOCIManifest+"; charset=utf-8")
	if got := res.Header.Get("Location"); got != "/v2/team/app/manifests/"+want.String() {
		t.Errorf("location %q", got)
	}
	if got := res.Header.Get("Docker-Content-Digest"); got != want.String() {
		t.Errorf("digest %q", got)
	}
	for _, ref := range []string{"v1", want.String()} {
		if status, body := s.body(s.own, "/v2/team/app/manifests/"+ref); status != 200 || body != text {
			t.Errorf("%s: %d %q", ref, status, body)
		}
	}
	// By sha512 digest, and a tag under one.
	long := digest.SHA512.FromString(text)
	if got := s.put("team/app", long.String(), typeOCIManifest, text); got != long {
		t.Errorf("by sha512: %s", got)
	}
	s.put("team/app", "v512?digest="+long.String(), typeOCIManifest, text)
	s.want(s.own, "/v2/team/app/manifests/v512", long)
	s.want(s.own, "/v2/team/app/manifests/"+long.String(), long)
	s.expect(400, "PUT", "/v2/team/app/manifests/v3?digest="+digest.FromString("x").String(), text)
	s.want(s.own, "/v2/team/app/manifests/v3", "")

	// Tags as parameters of a PUT by digest.
	res = s.expect(201, "PUT", "/v2/team/app/manifests/"+want.String()+"?tag=a&tag=b", text, "Content-Type",
		typeOCIManifest)
	if got := res.Header.Get("OCI-Tag"); got != "a, b" {
		t.Errorf("OCI-Tag %q", got)
	}
	s.want(s.own, "/v2/team/app/manifests/b", want)
	s.expect(414, "PUT", "/v2/team/app/manifests/"+want.String()+"?tag=a"+strings.Repeat("&tag=a", maxTags), text)
	s.expect(400, "PUT", "/v2/team/app/manifests/"+want.String()+"?tag=-a", text)

	// A tag moves.
	_, _, other := s.parts("team/app", "two")
	s.want(s.own, "/v2/team/app/manifests/v1", want)
	d := s.put("team/app", "v1", "", other)
	s.want(s.own, "/v2/team/app/manifests/v1", d)
	s.want(s.own, "/v2/team/app/manifests/"+want.String(), want)
}

func TestManifestRefused(t *testing.T) {
	s := newPusher(t)
	layer, config, good := s.parts("team/app", "one")
	c := fmt.Sprintf(`"config":{"digest":"%s","size":2}`, config)
	mt := func(t string) string { return fmt.Sprintf(`"mediaType":"%s"`, t) }
	long := strings.Repeat("a", 300)
	for _, bad := range []struct{ name, mediaType, body, code string }{
		{"empty", typeOCIManifest, "", "MANIFEST_INVALID"},
		{"no JSON", typeOCIManifest, "hello", "MANIFEST_INVALID"},
		{"an array", typeOCIManifest, "[]", "MANIFEST_INVALID"},
		{"null", typeOCIManifest, "null", "MANIFEST_INVALID"},
		{"two documents", typeOCIManifest, good + good, "MANIFEST_INVALID"},
		{"something behind", typeOCIManifest, good + "x", "MANIFEST_INVALID"},
		{"schema 1 by type", "application/vnd.docker.distribution.manifest.v1+prettyjws", good, "MANIFEST_INVALID"},
		{"schema 1 by field", "", `{"schemaVersion":1,"name":"x","tag":"y"}`, "MANIFEST_INVALID"},
		{"no schema version", typeOCIManifest, `{` + c + `}`, "MANIFEST_INVALID"},
		{"schema 3", typeOCIManifest, `{"schemaVersion":3,` + c + `}`, "MANIFEST_INVALID"},
		{"a strange type", "text/plain", good, "MANIFEST_INVALID"},
		{"no media type", "a b c", good, "MANIFEST_INVALID"},
		{"types that differ", typeDockerManifest, good, "MANIFEST_INVALID"},
		{"an unknown mediaType", "", `{"schemaVersion":2,` + mt("a/b") + `,` + c + `}`, "MANIFEST_INVALID"},
		{"docker without mediaType", typeDockerManifest, `{"schemaVersion":2,` + c + `}`, "MANIFEST_INVALID"},
		{"no config", typeOCIManifest, `{"schemaVersion":2,"layers":[]}`, "MANIFEST_INVALID"},
		{"an index with a config", typeOCIIndex, `{"schemaVersion":2,` + mt(typeOCIIndex) + `,"manifests":[],` + c +
			`}`, "MANIFEST_INVALID"},
		{"an index with layers", typeOCIIndex, `{"schemaVersion":2,` + mt(typeOCIIndex) +
			`,"manifests":[],"layers":[]}`, "MANIFEST_INVALID"},
		{"a manifest with manifests", typeOCIManifest, `{"schemaVersion":2,` + mt(typeOCIManifest) +
			`,"manifests":[],` + c + `}`, "MANIFEST_INVALID"},
		{"a manifest sent as index", typeOCIIndex, `{"schemaVersion":2,` + c + `}`, "MANIFEST_INVALID"},
		{"a bad digest", typeOCIManifest, `{"schemaVersion":2,"config":{"digest":"sha256:` + long + `"}}`,
			"MANIFEST_INVALID"},
		{"a path for a digest", typeOCIManifest, `{"schemaVersion":2,"config":{"digest":"../../etc"}}`,
			"MANIFEST_INVALID"},
		{"an empty digest", typeOCIManifest, `{"schemaVersion":2,"config":{}}`, "MANIFEST_INVALID"},
		{"a bad subject", typeOCIManifest, `{"schemaVersion":2,` + c + `,"subject":{"digest":"x"}}`,
			"MANIFEST_INVALID"},
		{"a bad child", typeOCIIndex, `{"schemaVersion":2,"manifests":[{"digest":"x"}]}`, "MANIFEST_INVALID"},
		{"a negative size", typeOCIManifest, `{"schemaVersion":2,"config":{"digest":"` + config.String() +
			`","size":-1}}`, "MANIFEST_INVALID"},
		{"a size that is no number", typeOCIManifest, `{"schemaVersion":2,"config":{"digest":"` + config.String() +
			`","size":"2"}}`, "MANIFEST_INVALID"},
		{"an absent config", typeOCIManifest, manifestOf(digest.FromString("x"), layer), "MANIFEST_BLOB_UNKNOWN"},
		{"an absent layer", typeOCIManifest, manifestOf(config, layer, digest.FromString("x")),
			"MANIFEST_BLOB_UNKNOWN"},
	} {
		res := s.send(s.own, "PUT", "/v2/team/app/manifests/v1", strings.NewReader(bad.body), "Content-Type",
			bad.mediaType)
		if res.StatusCode != 400 {
			t.Errorf("%s: %d", bad.name, res.StatusCode)
			continue
		}
		if got := code(t, res); got != bad.code {
			t.Errorf("%s: %s, want %s", bad.name, got, bad.code)
		}
	}
	// A blob of another repository is not one of this.
	s.expect(400, "PUT", "/v2/team/other/manifests/v1", good, "Content-Type", typeOCIManifest)

	// Too large is 413, one byte less is looked at.
	pad := func(n int) string { return good + strings.Repeat(" ", n-len(good)) }
	s.expect(413, "PUT", "/v2/team/app/manifests/v1", pad(maxManifest+1), "Content-Type", typeOCIManifest)
	s.want(s.own, "/v2/team/app/manifests/v1", "")
	s.expect(201, "PUT", "/v2/team/app/manifests/big", pad(maxManifest), "Content-Type", typeOCIManifest)

	for _, ref := range []string{"-x", ".x", strings.Repeat("t", 129), "sha256:abc", "a%20b", "..", "%2e%2e%2f"} {
		res := s.send(s.own, "PUT", "/v2/team/app/manifests/"+ref, strings.NewReader(good))
		if res.StatusCode != 400 && res.StatusCode != 404 {
			t.Errorf("reference %q: %d", ref, res.StatusCode)
		}
	}
	res := s.send(s.own, "PUT", "/v2/team/app/manifests/v9", io.MultiReader(strings.NewReader(good), failing{}))
	if res.StatusCode != 400 || code(t, res) != "SIZE_INVALID" {
		t.Errorf("a body that ends early: %d", res.StatusCode)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestForeignLayers: layers that are fetched from other servers need not be here, in docker's and OCI's form.
func TestForeignLayers(t *testing.T) {
	s := newPusher(t)
	config := s.push("team/win", "{}")
	absent := digest.FromString("windows")
	for i, layer := range []string{
		fmt.Sprintf(
			`{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"%s","size":9,"urls":["https://example.com/x"]}`, absent),
		fmt.Sprintf(
			`{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"%s","size":9}`,
			absent),
		fmt.Sprintf(
			`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":9,"urls":["https://example.com/x"]}`, absent),
	} {
		text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{"digest":"%s","size":2},"layers":[%s]}`,
			typeDockerManifest, config, layer)
		d := s.put("team/win", fmt.Sprint("v", i), typeDockerManifest, text)
		s.want(s.own, fmt.Sprintf("/v2/team/win/manifests/v%d", i), d)
	}
}

// TestSparse: an index is taken although children are absent, and holds those that are there, also those that come
// later.
func TestSparse(t *testing.T) {
	s := newPusher(t)
	for _, mediaType := range []string{typeOCIIndex, typeDockerList} {
		repo := "team/" + map[bool]string{true: "oci", false: "docker"}[mediaType == typeOCIIndex]
		_, _, one := s.parts(repo, "one")
		_, _, two := s.parts(repo, "two")
		here := s.put(repo, digest.FromString(one).String(), typeOCIManifest, one)
		later, never := digest.FromString(two), digest.FromString("never")
		index := s.put(repo, "v1", mediaType, indexOf(mediaType, here, later, never))
		if images := s.images(repo); len(images) != 1 || !images[0].Sparse || images[0].Reference != "v1" {
			t.Errorf("images: %+v, want one, sparse", images)
		}
		s.want(s.own, "/v2/"+repo+"/manifests/v1", index)
		s.put(repo, later.String(), typeOCIManifest, two)
		s.put(repo, "v1", mediaType, indexOf(mediaType, here, later, never)) // again, as a client does
		s.tree.Unpin()
		if gone := s.tree.Collect(); len(gone) != 0 {
			t.Errorf("collected %v", gone)
		}
		// Even when the child's own name goes, the index keeps its bytes.
		s.expect(202, "DELETE", "/v2/"+repo+"/manifests/"+later.String(), "")
		s.tree.Collect()
		if _, err := s.tree.StatBlob(later.String()); err != nil {
			t.Errorf("the index did not hold its child: %v", err)
		}
	}
}

// images lists what the admin API would show of one repository.
func (s *pusher) images(repo string) []Image {
	s.tb.Helper()
	var list []Image
	for i, err := range s.reg.Images(context.Background()) {
		if err != nil {
			s.tb.Fatal(err)
		}
		if i.Name == repo {
			list = append(list, i)
		}
	}
	return list
}

// TestCollect: referenced content stays, unreferenced content is collected, and content that is pushed again is
// complete.
func TestCollect(t *testing.T) {
	s := newPusher(t)
	layer, config, text := s.parts("quay.io/team/app", "one")
	m := s.put("quay.io/team/app", "v1", typeOCIManifest, text)
	orphan := s.push("quay.io/team/app", "never used")
	s.tree.Unpin()
	if gone := s.tree.Collect(); !slices.Equal(gone, []string{orphan.String()}) {
		t.Fatalf("collected %v, want %s", gone, orphan)
	}
	s.want(on("quay.io"), "/v2/team/app/blobs/"+layer.String(), layer)
	s.want(on("quay.io"), "/v2/team/app/blobs/"+orphan.String(), "")

	s.expect(202, "DELETE", "/v2/quay.io/team/app/manifests/"+m.String(), "")
	s.want(on("quay.io"), "/v2/team/app/manifests/v1", "")
	if gone := s.tree.Collect(); len(gone) != 3 {
		t.Fatalf("collected %v, want the manifest, the config and the layer", gone)
	}
	s.want(on("quay.io"), "/v2/team/app/blobs/"+layer.String(), "")

	// No cache remembers: the manifest alone is refused, with its blobs it is whole.
	res := s.expect(400, "PUT", "/v2/quay.io/team/app/manifests/v1", text, "Content-Type", typeOCIManifest)
	if got := code(t, res); got != "MANIFEST_BLOB_UNKNOWN" {
		t.Errorf("code %s", got)
	}
	s.parts("quay.io/team/app", "one")
	s.put("quay.io/team/app", "v1", typeOCIManifest, text)
	for path, d := range map[string]digest.Digest{"manifests/v1": m, "manifests/" + m.String(): m,
		"blobs/" + layer.String(): layer, "blobs/" + config.String(): config} {
		s.want(on("quay.io"), "/v2/team/app/"+path, d)
	}
}

// TestManifestAtOnce: a manifest appears with its tag and its place among the referrers, or not at all.
func TestManifestAtOnce(t *testing.T) {
	subject := digest.FromString("subject")
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprint("happened ", after), func(t *testing.T) {
			s := newPusher(t)
			config := s.push("team/app", "{}")
			text := fmt.Sprintf(
				`{"schemaVersion":2,"config":{"digest":"%s","size":2},"layers":[],"subject":{"digest":"%s","size":1}}`,
				config, subject)
			d := digest.FromString(text)
			s.tree.Fail = func(what string) (error, bool) {
				if what == "update" {
					return syscall.EAGAIN, after
				}
				return nil, true
			}
			s.expect(503, "PUT", "/v2/team/app/manifests/v1", text, "Content-Type", typeOCIManifest)
			s.tree.Fail = nil
			names := 0
			for _, n := range []string{tagPath("team/app", "v1"), revisionPath("team/app", d),
				referrerPath("team/app", subject, d)} {
				if _, err := statLink(s.reg.tree, n); err == nil {
					names++
				}
			}
			if want := map[bool]int{false: 0, true: 3}[after]; names != want {
				t.Errorf("%d of 3 names, want %d", names, want)
			}
			s.put("team/app", "v1", typeOCIManifest, text) // the client's retry
			s.want(s.own, "/v2/team/app/manifests/v1", d)
		})
	}
}

// TestSamePushCostsNothing: pushing existing content writes no entry.
func TestSamePushCostsNothing(t *testing.T) {
	s := newPusher(t)
	_, _, text := s.parts("team/app", "one")
	s.put("team/app", "v1", typeOCIManifest, text)
	s.tree.Fail = func(what string) (error, bool) { return syscall.EAGAIN, false }
	s.put("team/app", "v1", typeOCIManifest, text)
	s.put("team/app", digest.FromString(text).String(), typeOCIManifest, text)
	s.expect(503, "PUT", "/v2/team/app/manifests/v2", text, "Content-Type", typeOCIManifest)
}

func TestDeletes(t *testing.T) {
	s := newPusher(t)
	_, _, text := s.parts("team/app", "one")
	d := s.put("team/app", "v1", typeOCIManifest, text)
	s.put("team/app", "v2", typeOCIManifest, text)
	_, _, text2 := s.parts("team/app", "two")
	d2 := s.put("team/app", "other", typeOCIManifest, text2)

	s.expect(202, "DELETE", "/v2/team/app/manifests/v1", "")
	s.want(s.own, "/v2/team/app/manifests/v1", "")
	s.want(s.own, "/v2/team/app/manifests/v2", d)
	s.expect(404, "DELETE", "/v2/team/app/manifests/v1", "")

	s.put("team/app", "v1", typeOCIManifest, text)
	s.expect(202, "DELETE", "/v2/team/app/manifests/"+d.String(), "")
	for _, ref := range []string{"v1", "v2", d.String()} {
		s.want(s.own, "/v2/team/app/manifests/"+ref, "")
	}
	s.want(s.own, "/v2/team/app/manifests/other", d2)
	s.expect(404, "DELETE", "/v2/team/app/manifests/"+d.String(), "")
	s.expect(404, "DELETE", "/v2/none/none/manifests/"+d.String(), "")

	s.tree.Fail = func(string) (error, bool) { return syscall.EAGAIN, false }
	s.expect(503, "DELETE", "/v2/team/app/manifests/other", "")
	s.expect(503, "DELETE", "/v2/team/app/manifests/"+d2.String(), "")
	s.want(s.own, "/v2/team/app/manifests/other", d2)
}

// TestDeleteAgainstTag: in either order, no tag is left that refers to a deleted manifest.
func TestDeleteAgainstTag(t *testing.T) {
	s := newPusher(t)
	_, _, text := s.parts("team/app", "one")
	d := digest.FromString(text)
	for round := range 50 {
		s.put("team/app", "base", typeOCIManifest, text)
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if i == 0 {
					s.send(s.own, "DELETE", "/v2/team/app/manifests/"+d.String(), nil)
				} else {
					s.send(s.own, "PUT", fmt.Sprintf("/v2/team/app/manifests/t%d", i), strings.NewReader(text),
						"Content-Type", typeOCIManifest)
				}
			})
		}
		wg.Wait()
		_, err := statLink(s.reg.tree, revisionPath("team/app", d))
		for _, tag := range []string{"base", "t1", "t2"} {
			if _, tagErr := statLink(s.reg.tree, tagPath("team/app", tag)); tagErr == nil && err != nil {
				t.Fatalf("round %d: the tag %s names a manifest that is gone", round, tag)
			}
		}
	}
}

// referrersOf asks for the referrers and returns the digests in order, with the answer.
func (s *pusher) referrersOf(target string) ([]descriptor, *http.Response) {
	s.tb.Helper()
	res := s.ask(s.own, "GET", target)
	var list struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || list.Manifests == nil ||
		list.SchemaVersion != 2 || list.MediaType != typeOCIIndex {
		s.tb.Fatalf("%s: %d, %v, %+v: not an index", target, res.StatusCode, err, list)
	}
	if got := res.Header.Get("Content-Type"); got != typeOCIIndex {
		s.tb.Errorf("content type %q", got)
	}
	return list.Manifests, res
}

func TestReferrers(t *testing.T) {
	s := newPusher(t)
	_, _, text := s.parts("team/app", "one")
	subject := digest.FromString(text)
	config := s.push("team/app", "{}")
	artifact := func(artifactType, note string) string {
		return fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":"%s","artifactType":"%s","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[],"subject":{"mediaType":"%[1]s","digest":"%[4]s","size":3},"annotations":{"note":"%[5]s"}}`,
			typeOCIManifest, artifactType, config, subject, note)
	}
	target := "/v2/team/app/referrers/" + subject.String()
	if list, _ := s.referrersOf(target); len(list) != 0 {
		t.Fatalf("before anything: %+v", list)
	}
	// Before its subject is there.
	res := s.expect(201, "PUT", "/v2/team/app/manifests/"+digest.FromString(artifact("a/sig", "1")).String(),
		artifact("a/sig", "1"), "Content-Type", typeOCIManifest)
	if got := res.Header.Get("OCI-Subject"); got != subject.String() {
		t.Errorf("OCI-Subject %q", got)
	}
	s.put("team/app", "v1", typeOCIManifest, text)
	sbom := s.put("team/app", "sbom", typeOCIManifest, artifact("a/sbom", "2"))
	// Without artifactType the config's media type counts; an index has its own only.
	plain := s.put("team/app", "plain", typeOCIManifest, strings.Replace(artifact("", "3"), `"artifactType":"",`, "",
		1))
	index := s.put("team/app", "index", typeOCIIndex,
		fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":"%s","artifactType":"a/list","manifests":[],"subject":{"digest":"%s","size":1}}`, typeOCIIndex, subject))

	list, res := s.referrersOf(target)
	types := map[digest.Digest]string{}
	for _, d := range list {
		types[d.Digest] = d.ArtifactType
	}
	if len(list) != 4 || types[sbom] != "a/sbom" || types[plain] != "application/vnd.oci.empty.v1+json" ||
		types[index] != "a/list" {
		t.Errorf("referrers: %+v", list)
	}
	if res.Header.Get("OCI-Filters-Applied") != "" {
		t.Error("a filter is said to be applied")
	}
	list, res = s.referrersOf(target + "?artifactType=a/sbom")
	if len(list) != 1 || list[0].Digest != sbom || list[0].Annotations["note"] != "2" ||
		list[0].MediaType != typeOCIManifest || list[0].Size != int64(len(artifact("a/sbom", "2"))) {
		t.Errorf("filtered: %+v", list)
	}
	if res.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Error("the filter is not said to be applied")
	}

	// Deleting a referrer takes it out; deleting the subject leaves the others.
	s.expect(202, "DELETE", "/v2/team/app/manifests/"+plain.String(), "")
	s.expect(202, "DELETE", "/v2/team/app/manifests/"+subject.String(), "")
	if list, _ = s.referrersOf(target); len(list) != 3 {
		t.Errorf("after deletes: %+v", list)
	}
	s.tree.Unpin()
	s.tree.Collect()
	if list, _ = s.referrersOf(target); len(list) != 3 {
		t.Errorf("after a collection: %+v", list)
	}
	if res := s.ask(s.own, "GET", "/v2/team/app/referrers/sha256:x"); res.StatusCode != 400 {
		t.Errorf("a bad digest: %d", res.StatusCode)
	}
	if res := s.ask(s.own, "HEAD", target); res.StatusCode != 200 {
		t.Errorf("HEAD: %d", res.StatusCode)
	}
}

// TestReferrersPaged: a list larger than clients accept is returned in pages, each once.
func TestReferrersPaged(t *testing.T) {
	s := newPusher(t)
	subject := digest.FromString("subject")
	config := s.push("team/app", "{}")
	const n = 8
	for i := range n {
		text := fmt.Sprintf(
			`{"schemaVersion":2,"config":{"digest":"%s","size":2},"subject":{"digest":"%s","size":1},"annotations":{"n":"%d","pad":"%s"}}`,
			config, subject, i, strings.Repeat("x", 1<<20))
		s.put("team/app", digest.FromString(text).String(), typeOCIManifest, text)
	}
	seen := map[string]bool{}
	pages := 0
	for target := "/v2/team/app/referrers/" + subject.String() + "?artifactType="; target != ""; pages++ {
		list, res := s.referrersOf(target)
		for _, d := range list {
			if seen[d.Annotations["n"]] {
				t.Errorf("%s came twice", d.Annotations["n"])
			}
			seen[d.Annotations["n"]] = true
		}
		link, _, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">")
		target = link
	}
	if len(seen) != n || pages < 3 {
		t.Errorf("%d of %d referrers in %d pages", len(seen), n, pages)
	}
}

// TestPushDuringCollect: a layer that a pusher was told is there stays until the manifest comes, whatever is collected
// meanwhile.
func TestPushDuringCollect(t *testing.T) {
	s := newPusher(t)
	layer, config, text := s.parts("team/app", "one")
	m := s.put("team/app", "v1", typeOCIManifest, text)
	s.expect(202, "DELETE", "/v2/team/app/manifests/"+m.String(), "")
	s.tree.Unpin()
	for _, d := range []digest.Digest{layer, config} {
		s.expect(200, "HEAD", "/v2/team/app/blobs/"+d.String(), "")
	}
	if gone := s.tree.Collect(); !slices.Equal(gone, []string{m.String()}) {
		t.Fatalf("collected %v, want the manifest %s alone", gone, m)
	}
	s.put("team/app", "v1", typeOCIManifest, text)

	// Who only looks, or has the password wrong, pins nothing, and neither does asking again within the half hour.
	s.expect(202, "DELETE", "/v2/team/app/manifests/"+m.String(), "")
	s.reg.pins.pinned = nil
	s.tree.Fail = func(string) (error, bool) { t.Error("something was written"); return nil, true }
	for _, header := range []string{"", basic("ann", "guess"), "Bearer nonsense"} {
		s.ask(s.own, "HEAD", "/v2/team/app/blobs/"+layer.String(), "Authorization", header)
	}
	s.tree.Fail = nil
	writes := 0
	s.tree.Fail = func(string) (error, bool) { writes++; return nil, true }
	for range 3 {
		s.expect(200, "HEAD", "/v2/team/app/blobs/"+layer.String(), "")
	}
	if writes != 1 {
		t.Errorf("%d writes for one layer", writes)
	}
	s.tree.Fail = func(string) (error, bool) { return syscall.EAGAIN, false }
	s.expect(200, "HEAD", "/v2/team/app/blobs/"+config.String(), "")
}
