package content

import (
	"fmt"
	"io/fs"
	"net/http/httptest"
	"strings"
	"testing"

	"casemate/registry"
)

// TestReferrersOfAnImport: what lists say of a referrer comes with the import under its claim and goes with it, is
// everything that the claim has, and stays when somebody has pushed the same by hand.
func TestReferrersOfAnImport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPack("b.tar")
	subject := p.image("quay.io/app:1", []byte("layer"))
	config := p.blob([]byte("{}"))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/sbom",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
		`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"1"}}`,
		mediaManifest, config, mediaManifest, subject)
	d := p.manifest("quay.io/app", mediaManifest, text)
	record := "registry/repositories/quay.io/app/_summaries/" + strings.Replace(d, ":", "/", 1)
	listed := func() string {
		w := httptest.NewRecorder()
		s.reg.Serve(w, httptest.NewRequest("GET", "/v2/app/referrers/"+subject, nil),
			registry.View{Origin: "quay.io", Host: "quay.io"})
		return w.Body.String()
	}
	has := func() bool { _, err := s.tree.Stat(record); return err == nil }
	r := s.must("", p)
	if !strings.Contains(listed(), `"annotations":{"n":"1"}`) || !has() {
		t.Errorf("imported: %s, record %v", listed(), has())
	}
	if again := s.must("", p); again.State != Unchanged { // it has all that it has brought
		t.Errorf("again: %+v", again)
	}
	data, err := fs.ReadFile(s.node.Tree(), record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), r.Name); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(listed(), d) || has() {
		t.Errorf("removed: %s, record %v", listed(), has())
	}
	r = s.must("", p)
	if _, err := s.reg.PutManifest(t.Context(), "quay.io/app", d, "", []byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), r.Name); err != nil {
		t.Fatal(err)
	}
	got, err := fs.ReadFile(s.node.Tree(), record)
	if err != nil || string(got) != string(data) || !strings.Contains(listed(), d) {
		t.Errorf("pushed as well, and the import removed: %s, %v, %s", got, err, listed())
	}
}
