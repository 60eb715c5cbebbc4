package bundle

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Media types of manifests, by the OCI image specification 1.1 and Docker's image manifest version 2, schema 2.
const (
	mediaOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	mediaOCIIndex       = "application/vnd.oci.image.index.v1+json"
	mediaOCIConfig      = "application/vnd.oci.image.config.v1+json"
	mediaDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaArtifact       = "application/vnd.oci.artifact.manifest.v1+json" // that OCI 1.1 had for a while; its blobs stand in "blobs"
	mediaDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// descriptor is an OCI content descriptor.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
	Data        []byte            `json:"data,omitempty"`
}

// platform is what an image runs on.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String is os/architecture/variant; "" for what runs nowhere (attestations say unknown/unknown).
func (p *platform) String() string {
	if p == nil || p.OS == "" || p.Architecture == "" || p.OS == "unknown" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// elsewhere says that a layer may not be distributed and is fetched from its own URLs, so that archives lack it
// rightly.
func (d descriptor) elsewhere() bool {
	return strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, ".foreign.")
}

// manifest is what a manifest or an index names.
type manifest struct {
	digest, mediaType string
	size              int64
	index             bool
	children          []descriptor // of an index: all that it lists, manifests or not
	blobs             []descriptor // of a manifest: config and layers
	subject           string
	platform          string // of an image's manifest, by its config
	depth             int    // of an index: how deep the deepest index in it lies
}

// manifestDocument is the JSON of any manifest.
type manifestDocument struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config"`
	Layers        []descriptor `json:"layers"`
	Manifests     []descriptor `json:"manifests"`
	Subject       *descriptor  `json:"subject"`
}

// parseManifest reads a manifest or an index. Every digest in what it returns is well formed and every size at least 0.
func parseManifest(digest, mediaType string, data []byte) (*manifest, error) {
	var doc manifestDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest, err)
	}
	if doc.SchemaVersion == 1 {
		return nil, fmt.Errorf("manifest %s has Docker's old schema 1, which no registry takes any more", digest)
	}
	if doc.MediaType != "" {
		mediaType = doc.MediaType // clients believe the document
	}
	m := &manifest{digest: digest, mediaType: mediaType, size: int64(len(data)), index: doc.Manifests != nil}
	if m.index && (doc.Config != nil || doc.Layers != nil) {
		return nil, fmt.Errorf("manifest %s is an index and an image at once, which clients read in different ways", digest)
	}
	artifact := doc.MediaType == mediaArtifact
	if !m.index && !artifact && doc.Config == nil {
		if doc.Layers != nil {
			return nil, fmt.Errorf("manifest %s names no config, so it is no image and no registry takes it", digest)
		}
		return nil, fmt.Errorf("manifest %s is neither an image nor an index", digest)
	}
	if m.mediaType == "" {
		m.mediaType = mediaOCIManifest
		if m.index {
			m.mediaType = mediaOCIIndex
		}
	}
	m.children = doc.Manifests
	if doc.Config != nil {
		m.blobs = append(m.blobs, *doc.Config)
	}
	m.blobs = append(m.blobs, doc.Layers...)
	if artifact {
		var a struct {
			Blobs []descriptor `json:"blobs"`
		}
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", digest, err)
		}
		m.blobs = a.Blobs
	}
	if doc.Subject != nil {
		m.subject = doc.Subject.Digest
	}
	for _, list := range [][]descriptor{m.children, m.blobs} {
		for i, d := range list {
			if err := checkDigest(d.Digest); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", digest, err)
			}
			if d.Size < 0 || d.Size > maxBlob {
				return nil, fmt.Errorf("manifest %s: a size must be between 0 and %d, got %d", digest, int64(maxBlob), d.Size)
			}
			list[i].Annotations = nil // they are large sometimes, and nobody asks for them here
		}
	}
	return m, nil
}

// isManifestType says whether a descriptor of that type is of a manifest or an index.
func isManifestType(t string) bool {
	switch t {
	case mediaOCIManifest, mediaOCIIndex, mediaDockerManifest, mediaDockerList, mediaArtifact, "":
		return true
	}
	return false
}

// configPlatform is what a config says that an image runs on, "" if it is no image's.
func configPlatform(mediaType string, data []byte) string {
	if mediaType != mediaOCIConfig && mediaType != mediaDockerConfig {
		return ""
	}
	var p platform
	if json.Unmarshal(data, &p) != nil {
		return "" // no client could run it, but it can be stored
	}
	return p.String()
}

// inline is the blob if the descriptor carries it in itself, else nil.
func (d descriptor) inline() []byte {
	if int64(len(d.Data)) == d.Size && digestLike(d.Digest, d.Data) == d.Digest {
		return d.Data
	}
	return nil
}

// maxDocument bounds a JSON document or manifest; registries and containerd have the same limit.
const maxDocument = 4 << 20

// maxBlob bounds the size of one blob, so that sums and offsets cannot overflow.
const maxBlob = 1 << 50

var platformForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+/:-]{0,127}$`)

// validPlatform says whether s may be the name of a platform.
func validPlatform(s string) bool { return platformForm.MatchString(s) }
