package registry

import (
	"context"
	"fmt"
	"io/fs"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// Resolution is the result of resolving a name, and what a client can pull by it.
type Resolution struct {
	// Repository is the canonical one that answers; it differs from the requested one when a tolerance answers.
	Repository string
	Digest     string
	MediaType  string
	// Luck describes the tolerance that answers, "" if the name is here as it is.
	Luck string
	// Platforms are those that a client can pull under this name ("linux/arm64/v8"): for an index those of its entries
	// that are here and those of indexes below it; for an image its config's, even if Missing is not empty; none for
	// other artifacts. An entry without a platform is listed by its digest.
	Platforms []string
	// Sparse means that an index lists entries that are not here; Absent lists them, in the same form.
	Sparse bool
	Absent []string
	// Missing are the digests of absent content without which the manifest, or those below it, cannot be pulled
	// although they are here: at most 64. The digest of a layer that may not be distributed is followed by its
	// location.
	Missing []string
	// Wrong are sizes that descriptors state wrongly: at most 64.
	Wrong []WrongSize
	// Lost are digests of content that is damaged or lost here: at most 64. Images that need it are not among
	// Platforms.
	Lost []string
}

// Resolve resolves the full name of a manifest as a read on the host of its origin does: in the exact repository, then
// through the tolerances. With a digest the tag is ignored, as clients do. It records no miss and counts no tolerance.
//
// fs.ErrNotExist: a client would get 404; the text gives the reason as far as it is known, and lists the candidates
// where a tolerance had several that differ. fs.ErrInvalid: repository, tag or digest is malformed.
func (r *Registry) Resolve(ctx context.Context, repository, tag, dg string) (Resolution, error) {
	rt, h, asked, err := r.resolveName(ctx, repository, tag, dg)
	if err != nil {
		return Resolution{}, err
	}
	f := Resolution{Repository: h.repo, Digest: h.digest.String()}
	if h.byTolerance {
		f.Luck = asked + " is answered with " + rt.nameIn(h.repo)
		if h.namesake {
			f.Luck += ", which is another publisher's"
		}
	}
	if err := r.describe(ctx, rt, h, &f); err != nil {
		return Resolution{}, fmt.Errorf("image %s: %w", asked, err)
	}
	return f, nil
}

// ResolveRepository is Resolve without the description: it returns the repository that answers. It reads no manifest,
// except perhaps to explain why there is none.
func (r *Registry) ResolveRepository(ctx context.Context, repository, tag, dg string) (canonical string, err error) {
	_, h, _, err := r.resolveName(ctx, repository, tag, dg)
	return h.repo, err
}

// resolveName resolves the full name of a manifest. asked is the name in the usual notation.
func (r *Registry) resolveName(
	ctx context.Context, repository, tag, dg string,
) (rt route, h hit, asked string, err error) {
	rt, asked = route{kind: kindManifest, asked: repository, reference: tag}, repository+":"+tag
	if dg != "" {
		rt.reference, asked = dg, repository+"@"+dg
	}
	refuse := func(fail *apiError) (route, hit, string, error) {
		return rt, hit{}, asked, fmt.Errorf("image %.600s: %w", asked, fail.withoutCode())
	}
	if !validName(repository) {
		return refuse(errNameInvalid)
	}
	if dg != "" && !tree.ValidDigest(dg) {
		return refuse(errDigestInvalid.with("a digest has the form " + tree.DigestForm))
	}
	if dg == "" && !validTag(tag) {
		return refuse(errTagInvalid.with("a tag is " + tagForm))
	}
	if dg != "" {
		rt.digest = digest.Digest(dg)
	}
	var fail *apiError
	if rt.place, fail = r.locate(repository, "", View{Host: r.cfg.Domain}); fail != nil {
		return refuse(fail)
	}
	h, ok, several := r.resolve(&rt)
	if !ok {
		why := ambiguity(several)
		if why == "" && rt.digest != "" {
			why = r.unstagedPlatform(ctx, &rt)
		}
		if why == "" {
			why = "not here"
		}
		return rt, hit{}, asked, fmt.Errorf("image %s: %s: %w", asked, why, fs.ErrNotExist)
	}
	return rt, h, asked, nil
}

// describe reads the resolved manifest and everything below it.
func (r *Registry) describe(ctx context.Context, rt route, h hit, f *Resolution) error {
	m, e, err := r.traverse(rt).at(ctx, h, 0)
	if err != nil {
		return err
	}
	f.MediaType, f.Platforms, f.Absent = m.kind(), e.platforms, e.absent
	f.Missing, f.Lost, f.Wrong = e.missing, e.lost, e.wrong
	f.Sparse = m.index() && len(e.absent) > 0
	return nil
}
