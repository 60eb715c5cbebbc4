package registry

import (
	"context"
	"fmt"
	"io/fs"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// Resolution is what a name resolves to, and what a client can pull by it.
type Resolution struct {
	// Repository is the canonical one that answers; it differs from the one asked for when a tolerance answers.
	Repository string
	Digest     string
	MediaType  string
	// Luck is the sentence of the tolerance that answers, "" if the name is here as it is.
	Luck string
	// Platforms are those that a client can pull under this name ("linux/arm64/v8"): of an index those of its entries
	// that are here and those of indexes below it; of an image its config's, whether or not Missing has something; none
	// of other artifacts. An entry of which nobody says a platform stands as its digest.
	Platforms []string
	// Sparse says that an index lists what is not here, and Absent what, in the same form.
	Sparse bool
	Absent []string
	// Missing are the digests, of the manifest or of those below it, without which they cannot be pulled although they
	// are here: at most 64. Behind the digest of a layer that may not be distributed stands where it lies.
	Missing []string
	// Wrong are sizes that descriptors state wrongly: at most 64.
	Wrong []WrongSize
	// Lost are digests of what cannot be pulled because its bytes are damaged or lost here: at most 64. What needs one
	// of them is not among Platforms.
	Lost []string
}

// Resolve resolves the full name of a manifest as a read does on the host of its origin: in the exact repository, then
// through the tolerances. With a digest the tag is ignored, as clients do. It enters nothing in the missing book and
// counts no luck.
//
// fs.ErrNotExist: a client would get 404; the text says why as far as that is known, and names the candidates where a
// tolerance had several that differ. fs.ErrInvalid: repository, tag or digest is malformed.
func (r *Registry) Resolve(ctx context.Context, repository, tag, dg string) (Resolution, error) {
	rt, h, asked, err := r.resolveName(ctx, repository, tag, dg)
	if err != nil {
		return Resolution{}, err
	}
	f := Resolution{Repository: h.repo, Digest: h.digest.String()}
	if h.lucky {
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

// resolveName resolves the full name of a manifest. asked is the name as people write it.
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

// describe reads the manifest that was found and everything that it leads to.
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
