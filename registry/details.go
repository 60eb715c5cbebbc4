package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// Details are what a manifest and its config state, and what is attached to it.
type Details struct {
	// ArtifactType is the manifest's own, or the media type of its config if that is no image's.
	ArtifactType string
	Config       *Content  // nil: there is none
	Layers       []Content // in the order of the manifest
	Manifests    []Content // of an index
	Subject      string    // a digest; "": there is none
	// Platform and Created are what the config of an image states; "" and zero if it states nothing, or is not here.
	Platform string
	Created  time.Time
	// Attached are the manifests that have this one as their subject or are tagged by its digest.
	Attached []Attachment
	// More says that there are more layers, manifests or attachments than are listed (maxContents, maxAttached).
	More bool
}

// Content is a descriptor of a manifest.
type Content struct {
	Digest    string
	MediaType string
	Size      int64 // in bytes, as the descriptor states it
	Platform  string
	Stored    bool // it is here
}

// Attachment is a manifest that is attached to another.
type Attachment struct {
	Digest string
	// Tag is how cosign names it, sha256-HEX.sig; "" for a referrer (distribution-spec, "Listing Referrers").
	Tag          string
	ArtifactType string
	Kind         string // signature, attestation, sbom, or "" for others
}

const (
	// maxAttached bounds the attachments of Details, maxContents its layers and its manifests. Real images have fewer.
	maxAttached = 100
	maxContents = 1000
	// maxPlatform bounds a platform that is reported, in bytes.
	maxPlatform = 128
)

// Details reads a manifest of a canonical repository. It does not ask other nodes. fs.ErrNotExist: the repository does
// not have it. syscall.EIO: its bytes are damaged or lost.
func (r *Registry) Details(ctx context.Context, repo, dg string) (out Details, err error) {
	if !validName(repo) || !tree.ValidDigest(dg) {
		return out, fs.ErrNotExist
	}
	d := digest.Digest(dg)
	n, ok := r.revision(repo, d)
	if !ok {
		return out, fs.ErrNotExist
	}
	m, err := r.manifestOf(ctx, n)
	if err != nil {
		return out, err
	}
	content := func(c descriptor) Content {
		_, err := r.tree.StatBlob(c.Digest.String())
		return Content{c.Digest.String(), boundType(c.MediaType), c.Size, boundPlatform(c.platform()), err == nil}
	}
	if m.Subject != nil {
		out.Subject = m.Subject.Digest.String()
	}
	for _, l := range m.Layers[:min(len(m.Layers), maxContents)] {
		out.Layers = append(out.Layers, content(l))
	}
	for _, c := range m.Manifests[:min(len(m.Manifests), maxContents)] {
		child := content(c)
		// Another repository's copy of the bytes does not make it part of this one.
		_, manifest := r.revision(repo, c.Digest)
		child.Stored = manifest || r.HasLayer(repo, c.Digest.String())
		out.Manifests = append(out.Manifests, child)
	}
	out.ArtifactType = boundType(m.ArtifactType)
	if m.Config != nil {
		config := content(*m.Config)
		out.Config = &config
		switch config.MediaType {
		case typeImageConfig, typeDockerConfig:
			out.Platform, out.Created = r.configOf(ctx, m.Config.Digest)
		default:
			if out.ArtifactType == "" {
				out.ArtifactType = config.MediaType
			}
		}
	}
	out.Attached, out.More = r.attached(ctx, repo, d)
	out.More = out.More || max(len(m.Layers), len(m.Manifests)) > maxContents
	return out, ctx.Err()
}

// Media types of the configs of images.
const (
	typeImageConfig  = "application/vnd.oci.image.config.v1+json"
	typeDockerConfig = "application/vnd.docker.container.image.v1+json"
)

// manifestOf reads a manifest. At most a few large ones are in memory at one time.
func (r *Registry) manifestOf(ctx context.Context, n named) (*manifest, error) {
	if n.size > maxManifest {
		return nil, errors.Join(errUnreadable, fs.ErrInvalid)
	}
	release, err := r.read.manifests.acquireSlot(ctx, n.size)
	if err != nil {
		return nil, err
	}
	defer release()
	data, err := r.read.manifests.read(ctx, n.digest, n.size)
	if err != nil {
		return nil, err
	}
	return decodeManifest(n.digest, data)
}

// configOf returns what the config of an image states (image-spec config.md).
func (r *Registry) configOf(ctx context.Context, d digest.Digest) (platform string, created time.Time) {
	if size, err := r.tree.StatBlob(d.String()); err != nil || size > maxConfig {
		return "", created
	}
	f, err := r.tree.OpenBlob(ctx, d.String())
	if err != nil {
		return "", created
	}
	defer f.Close()
	var c struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
		Created      string `json:"created"`
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil || json.Unmarshal(data, &c) != nil {
		return "", created
	}
	if c.OS != "" && c.Architecture != "" {
		platform = c.OS + "/" + c.Architecture
		if c.Variant != "" {
			platform += "/" + c.Variant
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, c.Created); err == nil && t.Year() > 0 && t.Year() < 10_000 {
		created = t.UTC()
	}
	return boundPlatform(platform), created
}

func boundPlatform(p string) string {
	if len(p) > maxPlatform {
		return ""
	}
	return p
}

// attachments are the suffixes of cosign's tags (https://github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
var attachments = map[string]string{".sig": "signature", ".att": "attestation", ".sbom": "sbom"}

// attached returns what is attached to the manifest d.
func (r *Registry) attached(ctx context.Context, repo string, d digest.Digest) (list []Attachment, more bool) {
	stem := d.Algorithm().String() + "-" + d.Encoded()
	for name, fi := range r.tree.Walk(tagsDir(repo), tagsDir(repo)+"/"+stem) {
		_, tag, _, ok := r.NameOf(name)
		suffix, attached := strings.CutPrefix(tag, stem)
		if !attached || ctx.Err() != nil {
			break
		}
		if kind := attachments[suffix]; ok && kind != "" {
			list = append(list, Attachment{Digest: tree.DigestOf(fi), Tag: tag, Kind: kind})
		}
	}
	for dg := range r.Referrers(repo, d.String()) {
		if len(list) >= maxAttached || ctx.Err() != nil {
			return list, true
		}
		a := Attachment{Digest: dg}
		if n, ok := r.revision(repo, digest.Digest(dg)); ok {
			s, err := r.listable(ctx, repo, n)
			if err != nil {
				s = &summary{}
			}
			a.ArtifactType = s.artifactType()
			a.Kind = kindOfArtifact(a.ArtifactType)
		}
		list = append(list, a)
	}
	return list, false
}

// kindOfArtifact tells by its type what an artifact is: "signature" for those of cosign, Sigstore's bundles and
// Notation, "attestation" and "sbom" for the usual formats, "" for others.
func kindOfArtifact(t string) string {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(t, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("cosign.artifact.sig.", "notary.signature", "cosign.simplesigning", "sigstore.bundle"):
		return "signature"
	case has("in-toto", "dsse.envelope", "slsa"):
		return "attestation"
	case has("spdx", "cyclonedx", "sbom", "syft"):
		return "sbom"
	}
	return ""
}

// TagsOf yields the tags of a canonical repository that name the manifest dg, sorted.
func (r *Registry) TagsOf(repo, dg string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for name, fi := range r.tree.Walk(tagsDir(repo), "") {
			if tree.DigestOf(fi) != dg {
				continue
			}
			if tag := path.Base(path.Dir(path.Dir(name))); IsTag([]byte(name)) && !yield(tag) {
				return
			}
		}
	}
}
