package oci

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"casemate/bundle/digests"
)

// Media types of manifests, by the OCI image specification 1.1 and Docker's image manifest version 2, schema 2.
const (
	MediaTypeManifest       = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeIndex          = "application/vnd.oci.image.index.v1+json"
	MediaTypeConfig         = "application/vnd.oci.image.config.v1+json"
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	// was part of OCI 1.1 drafts; its blobs are in "blobs"
	MediaTypeArtifact     = "application/vnd.oci.artifact.manifest.v1+json"
	MediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
)

// Descriptor is an OCI content descriptor.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *Platform         `json:"platform,omitempty"`
	Data        []byte            `json:"data,omitempty"`
}

// Platform is what an image runs on.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String returns os/architecture/variant; "" for what is for no platform (attestations say unknown/unknown).
func (p *Platform) String() string {
	if p == nil || p.OS == "" || p.Architecture == "" || p.OS == "unknown" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// NonDistributable reports whether a layer must not be distributed: it is fetched from its own URLs, and archives need
// not contain it.
func (d Descriptor) NonDistributable() bool {
	return strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, ".foreign.")
}

// Manifest has the references of a manifest or an index.
type Manifest struct {
	Digest, MediaType string
	Size              int64
	IsIndex           bool
	Children          []Descriptor // of an index: everything that it lists, manifests or not
	Blobs             []Descriptor // of a manifest: config and layers
	Subject           string
	Platform          string // of an image's manifest, from its config
	Depth             int    // of an index: the nesting depth of the indexes in it
}

// ManifestDocument is the JSON of any manifest.
type ManifestDocument struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *Descriptor  `json:"config"`
	Layers        []Descriptor `json:"layers"`
	Manifests     []Descriptor `json:"manifests"`
	Subject       *Descriptor  `json:"subject"`
}

// Parse reads a manifest or an index. Every digest in the result is well formed and every size at least 0.
func Parse(digest, mediaType string, data []byte) (*Manifest, error) {
	var doc ManifestDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest, err)
	}
	if doc.SchemaVersion == 1 {
		return nil, fmt.Errorf("manifest %s has Docker's schema 1, which registries no longer accept", digest)
	}
	if doc.MediaType != "" {
		mediaType = doc.MediaType // clients trust the document
	}
	m := &Manifest{Digest: digest, MediaType: mediaType, Size: int64(len(data)), IsIndex: doc.Manifests != nil}
	if m.IsIndex && (doc.Config != nil || doc.Layers != nil) {
		return nil, fmt.Errorf(
			"manifest %s is both an index and an image, which clients read in different ways",
			digest,
		)
	}
	artifact := doc.MediaType == MediaTypeArtifact
	if !m.IsIndex && !artifact && doc.Config == nil {
		if doc.Layers != nil {
			return nil, fmt.Errorf(
				"manifest %s has no config, so it is not an image and no registry accepts it",
				digest,
			)
		}
		return nil, fmt.Errorf("manifest %s is neither an image nor an index", digest)
	}
	if m.MediaType == "" {
		m.MediaType = MediaTypeManifest
		if m.IsIndex {
			m.MediaType = MediaTypeIndex
		}
	}
	m.Children = doc.Manifests
	if doc.Config != nil {
		m.Blobs = append(m.Blobs, *doc.Config)
	}
	m.Blobs = append(m.Blobs, doc.Layers...)
	if artifact {
		var a struct {
			Blobs []Descriptor `json:"blobs"`
		}
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", digest, err)
		}
		m.Blobs = a.Blobs
	}
	if doc.Subject != nil {
		m.Subject = doc.Subject.Digest
	}
	for _, list := range [][]Descriptor{m.Children, m.Blobs} {
		for i, d := range list {
			if err := digests.Check(d.Digest); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", digest, err)
			}
			if d.Size < 0 || d.Size > MaxBlob {
				return nil, fmt.Errorf(
					"manifest %s: size must be between 0 and %d, got %d",
					digest,
					int64(MaxBlob),
					d.Size,
				)
			}
			list[i].Annotations = nil // they can be large and are not needed here
		}
	}
	return m, nil
}

// IsManifestType reports whether a descriptor of that media type refers to a manifest or an index.
func IsManifestType(t string) bool {
	switch t {
	case MediaTypeManifest, MediaTypeIndex, MediaTypeDockerManifest, MediaTypeDockerList, MediaTypeArtifact, "":
		return true
	}
	return false
}

// ConfigPlatform returns the platform in an image's config, "" if the document is not one.
func ConfigPlatform(mediaType string, data []byte) string {
	if mediaType != MediaTypeConfig && mediaType != MediaTypeDockerConfig {
		return ""
	}
	var p Platform
	if json.Unmarshal(data, &p) != nil {
		return "" // no client can run it, but it can be stored
	}
	return p.String()
}

// Inline returns the blob if the descriptor embeds it, else nil.
func (d Descriptor) Inline() []byte {
	if int64(len(d.Data)) == d.Size && digests.Like(d.Digest, d.Data) == d.Digest {
		return d.Data
	}
	return nil
}

// MaxDocument bounds a JSON document or manifest; registries and containerd have the same limit.
const MaxDocument = 4 << 20

// MaxBlob bounds the size of one blob, so that sums and offsets cannot overflow.
const MaxBlob = 1 << 50

var platformForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+/:-]{0,127}$`)

// ValidPlatform reports whether s can be the name of a platform.
func ValidPlatform(s string) bool { return platformForm.MatchString(s) }
