package registry

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
)

// Media types that a manifest may have.
const (
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
)

// maxManifest is the largest manifest that is taken and served, in bytes (distribution-spec: at least 4 MiB).
const maxManifest = 4 << 20

// descriptor is as in image-spec descriptor.md, as far as the registry looks into it.
type descriptor struct {
	MediaType    string            `json:"mediaType,omitempty"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Platform     json.RawMessage   `json:"platform,omitempty"`
}

// manifest is what an image manifest and an index have in common with what the registry needs of both.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Manifests     []descriptor      `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// index reports whether m lists manifests.
func (m *manifest) index() bool { return m.kind() == typeOCIIndex || m.kind() == typeDockerList }

// kind is the media type: what the manifest says, or where OCI leaves it out what its fields say.
func (m *manifest) kind() string {
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return typeOCIIndex
	}
	return typeOCIManifest
}

// mediaTypeOf returns the media type of stored manifest bytes. It is a function of the bytes alone, so it may be cached by digest.
func mediaTypeOf(b []byte) string {
	var m struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if json.Unmarshal(b, &m) != nil {
		return typeOCIManifest
	}
	switch {
	case m.MediaType != "":
		return m.MediaType
	case len(m.Manifests) > 0 && m.Manifests[0] == '[': // not null
		return typeOCIIndex
	}
	return typeOCIManifest
}
