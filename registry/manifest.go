package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types that a manifest may have.
const (
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	// typeArtifact was in the release candidates of image-spec 1.1. Signatures of that time use it, so it occurs
	// together with images.
	typeArtifact = "application/vnd.oci.artifact.manifest.v1+json"
)

// maxManifest is the size of the largest manifest that is accepted and served, in bytes (distribution-spec: at least 4
// MiB).
const maxManifest = 4 << 20

// descriptor has the fields of image-spec descriptor.md that the registry uses.
type descriptor struct {
	MediaType    string            `json:"mediaType,omitempty"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Platform     json.RawMessage   `json:"platform,omitempty"`
	Data         json.RawMessage   `json:"data,omitempty"`
}

// manifest has the fields of image manifests, indexes and artifact manifests that the registry uses.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        []descriptor      `json:"layers"` // of an artifact manifest its blobs
	Manifests     []descriptor      `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`

	size int64 // of its bytes
}

// readBlobs makes the blobs of an artifact manifest its layers. In other manifests a field of that name has no defined
// meaning.
func (m *manifest) readBlobs(data []byte) error {
	var a struct {
		Blobs []descriptor `json:"blobs"`
	}
	err := json.Unmarshal(data, &a)
	m.Layers = a.Blobs
	return err
}

// index reports whether m lists manifests.
func (m *manifest) index() bool { return m.kind() == typeOCIIndex || m.kind() == typeDockerList }

// kind is the media type: the one that the manifest states, or, where OCI omits it, the one that its fields imply.
func (m *manifest) kind() string {
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return typeOCIIndex
	}
	return typeOCIManifest
}

// mediaTypeOf returns the media type of stored manifest bytes. It is a function of the bytes alone, so it may be cached
// by digest.
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

// foreign reports whether a layer may be fetched from another server and so need not be here.
func (d descriptor) foreign() bool {
	return len(d.URLs) > 0 || strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.")
}

// checkManifest does the checks of every way of storing a manifest that need no tree. d may be "": then it is the
// sha256 of the bytes.
func checkManifest(d digest.Digest, tags []string, contentType string, data []byte) (digest.Digest, *manifest, error) {
	for _, t := range tags {
		if !validTag(t) {
			return "", nil, errTagInvalid.with("a tag is " + tagForm)
		}
	}
	m, err := parseManifest(data, contentType)
	if err != nil {
		return "", nil, err
	}
	alg := digest.SHA256
	if d != "" {
		alg = d.Algorithm()
	}
	if got := alg.FromBytes(data); d == "" {
		d = got
	} else if got != d {
		return "", nil, errDigestInvalid.with("the manifest has the digest " + got.String())
	}
	return d, m, nil
}

// parseManifest reads a manifest or index of image-spec or docker's schema 2. contentType may be "".
func parseManifest(data []byte, contentType string) (*manifest, error) {
	refuse := func(why string) (*manifest, error) { return nil, errManifestInvalid.with(why) }
	if contentType != "" {
		t, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return refuse("the content type is not a media type")
		}
		contentType = t
	}
	switch {
	case strings.HasPrefix(contentType, "application/vnd.docker.distribution.manifest.v1+"):
		return refuse("docker schema 1 is not supported: push the image again with a current client")
	case contentType == "", contentType == typeDockerManifest, contentType == typeDockerList,
		contentType == typeOCIManifest, contentType == typeOCIIndex,
		contentType == typeArtifact:
	default:
		return refuse("the content type " + contentType + " is not that of a manifest")
	}
	var m manifest
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&m); err != nil {
		return refuse("the manifest is not JSON of a manifest: " + err.Error())
	}
	if _, err := dec.Token(); err != io.EOF {
		return refuse("the manifest is followed by something else")
	}
	if m.SchemaVersion == 1 {
		return refuse("docker schema 1 is not supported: push the image again with a current client")
	}
	if m.SchemaVersion != 2 && m.MediaType != typeArtifact { // which has none
		return refuse("schemaVersion is not 2")
	}
	if contentType != "" && m.MediaType != "" && m.MediaType != contentType {
		return refuse("mediaType is " + m.MediaType + " and the content type " + contentType)
	}
	if m.MediaType == "" && contentType != "" && contentType != typeOCIManifest && contentType != typeOCIIndex {
		return refuse("mediaType is missing")
	}
	kind := m.kind()
	if contentType != "" && kind != contentType {
		return refuse("the fields are not those of " + contentType)
	}
	switch kind {
	case typeDockerManifest, typeOCIManifest:
		if m.Manifests != nil {
			return refuse("a manifest has no manifests")
		}
		if m.Config == nil {
			return refuse("config is missing")
		}
	case typeDockerList, typeOCIIndex:
		if m.Config != nil || m.Layers != nil {
			return refuse("an index has no config and no layers")
		}
	case typeArtifact:
		if m.Config != nil || m.Layers != nil || m.Manifests != nil {
			return refuse("an artifact manifest has blobs, and no config, layers or manifests")
		}
		if err := m.readBlobs(data); err != nil {
			return refuse("the manifest is not JSON of a manifest: " + err.Error())
		}
	default:
		return refuse("mediaType " + kind + " is not that of a manifest")
	}
	check := slices.Concat(m.Layers, m.Manifests)
	for _, d := range []*descriptor{m.Config, m.Subject} {
		if d != nil {
			check = append(check, *d)
		}
	}
	for _, d := range check {
		if _, fail := parseDigest(d.Digest.String()); fail != nil {
			return refuse(fmt.Sprintf("the digest %.200q is not of the form sha256:… or sha512:…", d.Digest))
		}
		if d.Size < 0 {
			return refuse("the size of " + d.Digest.String() + " is negative")
		}
	}
	m.size = int64(len(data))
	return &m, nil
}
