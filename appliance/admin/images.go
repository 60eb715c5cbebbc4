package admin

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"casemate/appliance/access"
	"casemate/appliance/usage"
	"casemate/registry"
)

// imageRoutes serves images.
func (a *API) imageRoutes(on *routes) {
	on.pages("GET /v1/images", to(access.List).toAnyone(), a.getImages)
	on.removes("DELETE /v1/images", to(access.Delete).on(a.repository), a.imagesToRemove,
		func(r *http.Request) (any, error) { return nil, a.deleteImage(r.Context(), r.FormValue("ref")) })
}

type Image struct {
	Name      string `json:"name"`
	Reference string `json:"reference"` // name:tag, or name@digest for a manifest without a tag
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Sparse    bool   `json:"sparse"`
	Damaged   bool   `json:"damaged,omitempty"` // its manifest's bytes are damaged or lost
}

func (a *API) getImages(r *http.Request, p page) (pagedAnswer, error) {
	prefix := r.URL.Query().Get("prefix")
	convert := func(i registry.Image) (any, string, bool) {
		info := imageOf(i)
		return info, info.Reference, strings.HasPrefix(info.Reference, prefix)
	}
	if p == (page{}) {
		// From one state of the tree. Only manifests of repositories with the prefix are read.
		return pagedAnswer{list: listOf(a.Registry.ImagesBelow(r.Context(), repositoryOf(prefix)), convert)}, nil
	}
	return pagedAnswer{list: listOf(a.Registry.ImagesAfter(r.Context(), prefix, p.after), convert)}, nil
}

func imageOf(i registry.Image) Image {
	ref := i.Name + ":" + i.Reference
	if i.Reference == "" {
		ref = i.Name + "@" + i.Digest.String()
	}
	return Image{i.Name, ref, i.Digest.String(), i.MediaType, i.Size, i.Sparse, i.Lost}
}

// deleteImage deletes a tag (name:tag), a manifest with its tags (name@digest), or all of a repository (name).
func (a *API) deleteImage(ctx context.Context, ref string) error {
	if ref == "" {
		return usage.Errorf("ref is missing")
	}
	ref = a.canonical(ref)
	if strings.Contains(ref, "@") || strings.Contains(ref[strings.LastIndexByte(ref, '/')+1:], ":") {
		return a.Registry.DeleteImage(ctx, ref)
	}
	// Manifests that only an index referred to become visible when the index is gone, so it takes several rounds.
	for round := 0; ; round++ {
		var digests []string
		seen := map[string]bool{}
		for i, err := range a.Registry.ImagesBelow(ctx, ref) {
			if err != nil {
				return err
			}
			if d := i.Digest.String(); i.Name == ref && !seen[d] {
				seen[d] = true
				digests = append(digests, d)
			}
		}
		if len(digests) == 0 {
			if round == 0 {
				return fmt.Errorf("there is no image %s: %w", ref, fs.ErrNotExist)
			}
			return nil
		}
		for _, d := range digests {
			if err := a.Registry.DeleteImage(ctx, ref+"@"+d); err != nil {
				return err
			}
		}
	}
}

// canonical returns the reference with the origin of its host, if that is an alias.
func (a *API) canonical(ref string) string {
	if host, rest, ok := strings.Cut(ref, "/"); ok {
		if o, known := a.Current.State().Origins.Canonical(host); known {
			return o + "/" + rest
		}
	}
	return ref
}

// repositoryOf cuts the tag or digest off a reference.
func repositoryOf(ref string) string {
	name, _, _ := strings.Cut(ref, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// imagesToRemove lists what deleteImage would delete.
func (a *API) imagesToRemove(r *http.Request) (*Removal, error) {
	ref := r.FormValue("ref")
	if ref == "" {
		return nil, usage.Errorf("ref is missing")
	}
	ref = a.canonical(ref)
	name, out, counted := repositoryOf(ref), &Removal{}, map[string]bool{}
	for i, err := range a.Registry.ImagesBelow(r.Context(), name) {
		if err != nil {
			return nil, err
		}
		info := imageOf(i)
		if i.Name != name || ref != name && ref != info.Reference && ref != i.Name+"@"+info.Digest {
			continue
		}
		if bytes := i.Size; !counted[info.Digest] {
			counted[info.Digest] = true
			out.add("image", info.Reference, bytes)
		} else {
			out.add("image", info.Reference, 0)
		}
	}
	if _, digest, ok := strings.Cut(ref, "@"); ok && out.Count == 0 { // part of an index, which lists do not show
		path, err := a.Registry.TreeName(name, "", digest)
		if err == nil {
			if _, err = a.Tree.Stat("registry/" + path); err == nil {
				out.add("image", ref, 0)
			}
		}
	}
	if out.Count == 0 {
		return nil, fmt.Errorf("there is no image %s: %w", ref, fs.ErrNotExist)
	}
	return out, nil
}

// repository is the object of a request about ref.
func (a *API) repository(r *http.Request) access.Object {
	return access.Image(a.canonical(repositoryOf(r.FormValue("ref"))))
}
