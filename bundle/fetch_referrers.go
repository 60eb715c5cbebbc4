package bundle

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// cosignSuffixes are the tags that cosign and others hang on a manifest: its digest with "-" for ":", and what it is
// (https://github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
var cosignSuffixes = []string{".sig", ".att", ".sbom"}

// attached adds what was hung on a manifest and on those below it: its referrers by the API, or by the tag that stands in for it where a registry does
// not have the API, and cosign's tags. What is hung on those comes too.
func (p *picture) attached(ctx context.Context, digest string, depth int) error {
	if p.seen[digest] {
		return nil
	}
	p.seen[digest] = true
	if depth > maxDepth {
		p.c.note("%s: what hangs on %s is deeper than %d signatures of signatures and is left out", p.repo.name, digest, maxDepth)
		return nil
	}
	list, ok, err := p.repo.referrers(ctx, p.c, digest)
	if err != nil {
		return err
	}
	if !ok {
		if list, err = p.fallback(ctx, digest); err != nil {
			return err
		}
	}
	for _, d := range list {
		if err := p.referrer(ctx, d, depth); err != nil {
			return err
		}
	}
	base := strings.Replace(digest, ":", "-", 1)
	for _, suffix := range cosignSuffixes {
		if _, err := p.hung(ctx, base+suffix, depth); err != nil {
			return err
		}
	}
	for _, d := range p.docs[digest].children {
		if p.docs[d.Digest] == nil {
			continue // of a platform that nobody asked for
		}
		if err := p.attached(ctx, d.Digest, depth); err != nil {
			return err
		}
	}
	return nil
}

// referrer adds one manifest that refers to another.
func (p *picture) referrer(ctx context.Context, d descriptor, depth int) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if err := p.name(ctx, "", d.Digest, false); hasStatus(err, http.StatusNotFound) {
		p.c.note("%s: the registry lists the referrer %s and does not have it; it is left out", p.repo.name, d.Digest)
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return p.attached(ctx, d.Digest, depth+1)
}

// fallback adds the index that lists referrers under a tag (OCI distribution specification 1.1, "Referrers Tag Schema").
func (p *picture) fallback(ctx context.Context, digest string) ([]descriptor, error) {
	algorithm, hex, _ := strings.Cut(digest, ":")
	top, err := p.hung(ctx, algorithm+"-"+hex[:64], -1)
	if err != nil || top == "" {
		return nil, err
	}
	return p.docs[top].children, nil
}

// hung adds what has a tag, if the tag exists, and what hangs on that, unless depth is negative. It returns its digest.
func (p *picture) hung(ctx context.Context, tag string, depth int) (string, error) {
	if len(tag) > 128 {
		return "", nil // longer than a tag may be: those of sha512
	}
	digest, err := p.tag(ctx, tag)
	// Some registries say 401 or 403 for what does not exist, and the repository itself let us in.
	if hasStatus(err, http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", tag, err)
	}
	if err := p.name(ctx, tag, digest, false); err != nil {
		return "", fmt.Errorf("%s: %w", tag, err)
	}
	if depth < 0 {
		return digest, nil
	}
	return digest, p.attached(ctx, digest, depth+1)
}
