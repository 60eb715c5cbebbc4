package foreign_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"casemate/bundle"
)

// TestLayoutIndexOfAnything reads layouts whose indexes list all kinds of things: whatever is there comes along, and a
// wrong size is said.
func TestLayoutIndexOfAnything(t *testing.T) {
	const unknown = "application/vnd.example.thing+x"
	absent := map[string]any{"mediaType": ociLayer, "digest": digestOf([]byte("absent")), "size": 6}
	data := base64.StdEncoding.EncodeToString([]byte("data"))
	for _, tt := range []struct {
		name  string
		list  func(l *layoutFixture) []map[string]any
		shown string // after the first line
		blobs int    // besides the index
		notes string
	}{
		{"a build cache", func(l *layoutFixture) []map[string]any {
			return []map[string]any{l.blob(ociLayer, layer("one")), l.blob("application/vnd.buildkit.cacheconfig.v0",
				`{"layers":[{"blob":"sha256:1"}]}`)}
		}, "quay.io/x:1", 2, ""},
		{"in part", func(l *layoutFixture) []map[string]any {
			return []map[string]any{l.blob(ociLayer, layer("one")), absent}
		}, "quay.io/x:1 sparse", 1, ""},
		{"a blob that says to be a manifest", func(l *layoutFixture) []map[string]any {
			return []map[string]any{l.blob(ociManifest, "no manifest")}
		}, "quay.io/x:1", 1, ""},
		{"a manifest of an unknown type", func(l *layoutFixture) []map[string]any {
			return []map[string]any{with(l.image("amd64", "a"), "mediaType", unknown)}
		}, "quay.io/x: [linux/amd64]\nquay.io/x:1 [linux/amd64]", 3, ""},
		{"two levels", func(l *layoutFixture) []map[string]any {
			return []map[string]any{l.index(platformed(l.image("amd64", "a"), "amd64"), l.blob(unknown, "thing"))}
		}, "quay.io/x: [linux/amd64]\nquay.io/x: [linux/amd64]\nquay.io/x:1 [linux/amd64]", 5, ""},
		{"in its descriptor", func(l *layoutFixture) []map[string]any {
			return []map[string]any{{"mediaType": unknown, "digest": digestOf([]byte("data")), "size": 4, "data": data}}
		}, "quay.io/x:1", 1, ""},
		{"a wrong size of a child", func(l *layoutFixture) []map[string]any {
			return []map[string]any{with(platformed(l.image("amd64", "a"), "amd64"), "size", 3)}
		}, "quay.io/x: [linux/amd64]\nquay.io/x:1 [linux/amd64]", 3, "has 3 bytes, it has"},
		{"a wrong size of a blob", func(l *layoutFixture) []map[string]any {
			return []map[string]any{with(l.blob(unknown, "thing"), "size", 3)}
		}, "quay.io/x:1", 1, "has 3 bytes, it has 5"},
		{"a wrong size of a layer", func(l *layoutFixture) []map[string]any {
			return []map[string]any{l.artifact(l.blob(unknown, "{}"), nil, with(l.blob(ociLayer, layer("a")), "size",
				1))}
		}, "quay.io/x:\nquay.io/x:1", 3, "has 1 bytes, it has"},
	} {
		l := newLayout()
		l.top(l.index(tt.list(l)...), "io.containerd.image.name", "quay.io/x:1")
		for way, give := range ways(t, l.tree()) {
			c := read(t, newMemorySink(t), bundle.ReadOptions{}, give())
			if got := shown(c); got != tt.shown || len(c.Absent) != 0 || len(c.Index.Blobs) != tt.blobs+1 {
				t.Errorf("%s, %s: got\n%s\nwant\n%s\nblobs %v, absent %v", tt.name, way, got, tt.shown, c.Index.Blobs,
					c.Absent)
			}
			if notes := strings.Join(c.Notes, "\n"); (notes == "") != (tt.notes == "") || !strings.Contains(notes,
				tt.notes) {
				t.Errorf("%s, %s: notes %q", tt.name, way, notes)
			}
		}
	}
}
