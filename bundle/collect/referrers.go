package collect

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// cosignSuffixes are the suffixes of the tags that cosign and others attach to a manifest: its digest with "-" for ":",
// and a suffix (https://github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
var cosignSuffixes = []string{".sig", ".att", ".sbom"}

// attached adds what is attached to a manifest and to those below it: its referrers from the API, or from the fallback
// tag of a registry without the API, and cosign's tags; and what is attached to those. Each is a unit of its own: one
// that cannot be fetched is left out with a note, and never makes the image fail. An error ends the run.
func (p *imageResolver) attached(ctx context.Context, digest string, depth int) error {
	if p.seen[digest] {
		return nil
	}
	p.seen[digest] = true
	if depth > maxDepth {
		p.c.note(
			"%s: what is attached to %s is deeper than %d signatures of signatures and is left out",
			p.repo.Name,
			digest,
			maxDepth,
		)
		return nil
	}
	list, ok, err := p.c.referrers(ctx, p.repo, digest)
	if err != nil {
		p.c.note("%s: the list of referrers of %s is incomplete: %v", p.repo.Name, digest, err)
	}
	if !ok {
		if list, err = p.fallback(ctx, digest); err != nil {
			return err
		}
	}
	for _, d := range list {
		if err := p.referrer(ctx, d, digest, depth); err != nil {
			return err
		}
	}
	base := strings.Replace(digest, ":", "-", 1)
	for _, suffix := range cosignSuffixes {
		if _, err := p.attach(ctx, base+suffix, "", depth); err != nil {
			return err
		}
	}
	for _, d := range p.docs[digest].Children {
		if p.docs[d.Digest] == nil {
			continue // of a platform that was not requested
		}
		if err := p.attached(ctx, d.Digest, depth); err != nil {
			return err
		}
	}
	return nil
}

// referrer adds one manifest that refers to another.
func (p *imageResolver) referrer(ctx context.Context, d oci.Descriptor, subject string, depth int) error {
	if err := digests.Check(d.Digest); err != nil {
		p.c.note(
			"%s: the list of referrers of %s contains %.100q, which is not a digest; it is left out",
			p.repo.Name,
			subject,
			d.Digest,
		)
		return nil
	}
	_, err := p.attach(ctx, "", d.Digest, depth)
	return err
}

// fallback adds the index that lists referrers under a tag (OCI distribution specification 1.1, "Referrers Tag
// Schema").
func (p *imageResolver) fallback(ctx context.Context, digest string) ([]oci.Descriptor, error) {
	top, err := p.attach(ctx, remote.ReferrersTag(digest), "", -1)
	if err != nil || top == nil {
		return nil, err
	}
	return top.Children, nil
}

// attach adds a unit for what is attached to the image under a tag or by its digest, and for what is attached to that,
// unless depth is negative. It returns its manifest, nil if there is none or it is left out. An error ends the run.
func (p *imageResolver) attach(ctx context.Context, tag, digest string, depth int) (*oci.Manifest, error) {
	if len(tag) > 128 {
		return nil, nil // longer than a tag may be: tags made from sha512
	}
	q := *p
	q.unit, q.docs = &unit{
		request:       p.request,
		attachedTo:    p.repo.Name + "@" + digest,
		blobs:         map[string]int64{},
		alternateURLs: map[string]string{},
	}, map[string]*oci.Manifest{}
	if tag != "" {
		q.attachedTo = p.repo.Name + ":" + tag
	}
	err := q.resolveAttached(ctx, tag, digest)
	switch {
	case err == nil && len(q.images) == 0: // it does not exist
		return nil, nil
	case isFatal(err) || ctx.Err() != nil:
		return nil, err
	case tag == "" && transport.HasStatus(err, http.StatusNotFound):
		p.c.note("%s: the registry lists the referrer %s and does not have it; it is left out", p.repo.Name, digest)
		return nil, nil
	case err != nil:
		p.c.note("%s is left out: %v", q.attachedTo, err)
		return nil, nil
	}
	top := q.docs[q.images[len(q.images)-1].Digest]
	if depth < 0 {
		return top, nil
	}
	return top, q.attached(ctx, top.Digest, depth+1)
}

// resolveAttached completes the unit of something that is attached to an image. It stays empty if a tag does not exist.
func (p *imageResolver) resolveAttached(ctx context.Context, tag, digest string) error {
	if len(*p.units) >= maxManifests {
		return fmt.Errorf("more than %d things are attached to one image", maxManifests)
	}
	if tag != "" {
		var err error
		digest, err = p.tag(ctx, tag)
		// Some registries answer 401 or 403 for what does not exist, although the repository itself is accessible.
		if transport.HasStatus(err, http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	err := p.name(ctx, tag, digest, false)
	if err == nil {
		err = p.resolveAll()
	}
	return err
}
