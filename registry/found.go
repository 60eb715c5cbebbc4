package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Found is what a client that asks for a name gets.
type Found struct {
	// Repository is the canonical one that answers; it differs from the one asked for when a tolerance answers.
	Repository string
	Digest     string
	MediaType  string
	// Luck is the sentence of the tolerance that answers, "" if the name is here as it is.
	Luck string
	// Platforms are those that a client can pull under this name ("linux/arm64/v8"): of an index those of its children that are here, of an image its config's,
	// none of other artifacts. A child that says no platform stands as its digest.
	Platforms []string
	// Sparse says that an index lists manifests that are not here, and Absent which, in the same form.
	Sparse bool
	Absent []string
	// Lost are digests of what cannot be pulled because its bytes are damaged or lost here. A child of an index that needs
	// one of them is not among Platforms.
	Lost []string
}

// Resolve looks for a manifest as a read by its full name does, on the host of its origin: the exact repository, then the tolerances. With a digest the tag is
// not looked at, as clients do. It enters nothing in the missing book and counts no luck.
//
// fs.ErrNotExist: a client would get 404; the text says why as far as that is known, and names the candidates where a tolerance found several that differ.
// fs.ErrInvalid: repository, tag or digest can be no name.
func (r *Registry) Resolve(ctx context.Context, repository, tag, dg string) (Found, error) {
	rt := route{kind: kindManifest, asked: repository, reference: tag}
	asked := repository + ":" + tag
	if dg != "" {
		rt.reference, asked = dg, repository+"@"+dg
	}
	refuse := func(fail *apiError) (Found, error) {
		return Found{}, fmt.Errorf("image %.600s: %w", asked, fail.forPeople())
	}
	if !validName(repository) {
		return refuse(errNameInvalid)
	}
	if dg != "" && !validDigest(dg) {
		return refuse(errDigestInvalid.with("a digest is sha256: and 64 or sha512: and 128 lower-case hexadecimal digits"))
	}
	if dg == "" && !validTag(tag) {
		return refuse(errTagInvalid.with("a tag is at most 128 characters of [A-Za-z0-9_.-] and does not begin with . or -"))
	}
	if dg != "" {
		rt.digest = digest.Digest(dg)
	}
	var fail *apiError
	if rt.place, fail = r.locate(repository, "", View{Host: r.cfg.Domain}); fail != nil {
		return refuse(fail)
	}
	h, ok, several := r.find(&rt)
	if !ok {
		why := ambiguity(several)
		if why == "" && rt.digest != "" {
			why = r.sparse(ctx, &rt)
		}
		if why == "" {
			why = "not here"
		}
		return Found{}, fmt.Errorf("image %s: %s: %w", asked, why, fs.ErrNotExist)
	}
	f := Found{Repository: h.repo, Digest: h.digest.String()}
	if h.lucky {
		f.Luck = asked + " is answered with " + rt.wanted(h.repo)
	}
	if err := r.describe(ctx, rt, h, &f); err != nil {
		return Found{}, fmt.Errorf("image %s: %w", asked, err)
	}
	return f, nil
}

// describe reads the manifest that was found and looks for what it lists.
func (r *Registry) describe(ctx context.Context, rt route, h hit, f *Found) error {
	if h.size > maxManifest {
		return fmt.Errorf("manifest %s has %d bytes, at most %d are served: %w", h.digest, h.size, maxManifest, fs.ErrInvalid)
	}
	data, err := r.read.manifests.read(ctx, h.digest, h.size)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", h.digest, err)
	}
	f.MediaType = m.kind()
	seen := map[digest.Digest]bool{}
	lose := func(d digest.Digest, m *manifest) (bool, error) {
		lost, err := r.lostOf(ctx, h.repo, d, m, seen)
		for _, d := range lost {
			f.Lost = append(f.Lost, d.String())
		}
		return len(lost) > 0, err
	}
	if !m.index() {
		if lost, err := lose(h.digest, &m); lost || err != nil {
			return err
		}
		platform, err := r.platformOf(ctx, &m)
		if platform != "" {
			f.Platforms = []string{platform}
		}
		return err
	}
	for _, c := range m.Manifests {
		if err := ctx.Err(); err != nil {
			return err
		}
		platform := c.platform()
		if platform == "" {
			platform = c.Digest.String()
		}
		err := c.Digest.Validate() // before it becomes a path
		if err == nil {
			_, _, err = r.findChild(rt, c.Digest)
		}
		if err == nil {
			if lost, err := lose("", &manifest{Manifests: []descriptor{c}}); err != nil {
				return err
			} else if lost {
				continue
			}
			f.Platforms = append(f.Platforms, platform)
		} else {
			f.Sparse, f.Absent = true, append(f.Absent, platform)
		}
	}
	return nil
}

// maxConfig is the largest config that is looked into, in bytes; usual ones have a few KiB.
const maxConfig = 1 << 20

// platformOf is the platform that an image's config says (image-spec config.md), "" if it is the config of something else.
func (r *Registry) platformOf(ctx context.Context, m *manifest) (string, error) {
	if m.Config == nil || m.Config.Digest.Validate() != nil {
		return "", nil
	}
	size, err := r.tree.StatBlob(m.Config.Digest.String())
	if err != nil || size > maxConfig {
		return "", nil // the manifest is here all the same
	}
	data, err := r.read.manifests.read(ctx, m.Config.Digest, size)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	d := descriptor{Platform: data}
	return d.platform(), err
}
