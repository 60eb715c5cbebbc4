package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestReferrersTellTheTruth: what clients wrote under the fallback tag is not believed. The list has the manifests that
// are here with that subject, as they are.
func TestReferrersTellTheTruth(t *testing.T) {
	const repo = "team/app"
	s := newPusher(t)
	_, _, text := s.parts(repo, "one")
	subject := s.put(repo, "v1", typeOCIManifest, text)
	config := s.push(repo, "{}")
	of := func(subject digest.Digest, artifactType, note string) string {
		return fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":"%s","artifactType":"%s","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[],"subject":{"mediaType":"%[1]s","digest":"%[4]s","size":3},"annotations":{"note":"%[5]s"}}`,
			typeOCIManifest, artifactType, config, subject, note)
	}
	push := func(repo, text string) digest.Digest {
		return s.put(repo, digest.FromString(text).String(), typeOCIManifest, text)
	}
	real, deleted := push(repo, of(subject, "a/sbom", "real")), push(repo, of(subject, "a/sig", "deleted"))
	s.expect(202, "DELETE", "/v2/"+repo+"/manifests/"+deleted.String(), "")
	other := push(repo, of(digest.FromString("another"), "a/sig", "of another"))
	s.push("team/other", "{}")
	elsewhere := push("team/other", of(subject, "a/sig", "of another repository"))
	loose := push(repo, strings.Replace(of(subject, "a/sig", "no subject"), `"subject"`, `"nobody"`, 1))
	asBlob := s.push(repo, of(subject, "a/sig", "a blob"))
	entries := []any{
		map[string]any{"mediaType": typeOCIManifest, "digest": real, "size": 1, "artifactType": "a/lie",
			"annotations": map[string]string{"note": "lie"}},
	}
	for _, d := range []digest.Digest{deleted, other, elsewhere, loose, asBlob, subject, digest.FromString("never")} {
		entries = append(entries, map[string]any{"mediaType": typeOCIManifest, "digest": d, "size": 7,
			"artifactType": "a/sig"})
	}
	for n, list := range [][]any{entries, entries[:1], nil} {
		body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": list})
		if err != nil {
			t.Fatal(err)
		}
		if list != nil {
			s.put(repo, "sha256-"+subject.Encoded(), typeOCIIndex, string(body))
		} else {
			s.expect(202, "DELETE", "/v2/"+repo+"/manifests/sha256-"+subject.Encoded(), "")
		}
		for _, filter := range []string{"", "?artifactType=a/sbom"} {
			got, _ := s.referrersOf("/v2/" + repo + "/referrers/" + subject.String() + filter)
			if len(got) != 1 || got[0].Digest != real || got[0].ArtifactType != "a/sbom" ||
				got[0].Annotations["note"] != "real" || got[0].MediaType != typeOCIManifest || got[0].Size != size(s,
				real) {
				t.Errorf("%d%s: %+v", n, filter, got)
			}
		}
		for _, filter := range []string{"a/sig", "a/lie"} {
			if got, _ := s.referrersOf("/v2/" + repo + "/referrers/" + subject.String() + "?artifactType=" +
				filter); len(got) != 0 {
				t.Errorf("%d: with the filter %s: %+v", n, filter, got)
			}
		}
	}

	// Links that no push would make, as an older version or a hand may have left them, are not believed either.
	s.update(func(b Batch) {
		b.Link(referrerPath(repo, subject, other), other.String())
		b.Link(referrerPath(repo, subject, elsewhere), elsewhere.String())
		b.Link(referrerPath(repo, subject, asBlob), asBlob.String())
	})
	if got, _ := s.referrersOf("/v2/" + repo + "/referrers/" + subject.String()); len(got) != 1 ||
		got[0].Digest != real {
		t.Errorf("links: %+v", got)
	}
	// An artifact manifest, which has no schemaVersion, refers as well.
	text = fmt.Sprintf(
		`{"mediaType":"%s","artifactType":"a/old","blobs":[{"mediaType":"a/b","digest":"%s","size":2}],"subject":{"mediaType":"%s","digest":"%s","size":3}}`,
		typeArtifact, config, typeOCIManifest, other)
	old := s.put(repo, digest.FromString(text).String(), typeArtifact, text)
	if got, _ := s.referrersOf("/v2/" + repo + "/referrers/" + other.String()); len(got) != 1 || got[0].Digest != old ||
		got[0].MediaType != typeArtifact || got[0].ArtifactType != "a/old" {
		t.Errorf("of an artifact manifest: %+v", got)
	}
	// Every entry of the list can be pulled by the name of the list.
	for _, name := range []string{repo, "registry.k8s.io/" + repo} {
		got, _ := s.referrersOf("/v2/" + name + "/referrers/" + subject.String())
		if len(got) != 1 {
			t.Errorf("%s: %+v", name, got)
		}
		for _, d := range got {
			if res := s.ask(s.own, "GET", "/v2/"+name+"/manifests/"+d.Digest.String()); res.StatusCode != 200 {
				text, _ := io.ReadAll(res.Body)
				t.Errorf("%s@%s: %d %s", name, d.Digest, res.StatusCode, text)
			}
		}
	}
}
