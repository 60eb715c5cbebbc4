package format

import (
	"casemate/bundle"
	"casemate/bundle/canonical"
)

// ociLayout is the content of the file oci-layout (OCI image specification 1.1, image-layout.md).
const ociLayout = `{"imageLayoutVersion":"1.0.0"}`

type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// ociIndex returns the layout's index.json, by which other tools find the images: one descriptor for each tag, and one
// without a name for each digest without a tag. Images whose manifest is omitted are left out.
func ociIndex(ix *bundle.Index) ([]byte, error) {
	tagged := map[string]bool{}
	for _, m := range ix.Images {
		if m.Tag != "" {
			tagged[m.Digest] = true
		}
	}
	manifests := []ociDescriptor{}
	for i := range ix.Images {
		m := &ix.Images[i]
		b, _ := ix.Blob(m.Digest)
		if b.Omitted || m.Tag == "" && tagged[m.Digest] {
			continue
		}
		d := ociDescriptor{MediaType: m.MediaType, Digest: m.Digest, Size: b.Size}
		if m.Tag != "" {
			d.Annotations = map[string]string{
				"io.containerd.image.name":          m.Ref(),
				"org.opencontainers.image.ref.name": m.Ref(),
			}
		} else {
			tagged[m.Digest] = true
		}
		manifests = append(manifests, d)
	}
	return canonical.Encode(struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     []ociDescriptor `json:"manifests"`
	}{2, "application/vnd.oci.image.index.v1+json", manifests})
}
