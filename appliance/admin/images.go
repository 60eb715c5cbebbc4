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
	on.json("GET /v1/images", to(access.List), a.getImages)
	on.json("DELETE /v1/images", to(access.Delete).on(a.repository),
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

func (a *API) getImages(r *http.Request) (any, error) {
	prefix := r.URL.Query().Get("prefix")
	// only the repository's part of the prefix; manifests of other repositories are not read
	name, _, _ := strings.Cut(prefix, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return streamOf(a.Registry.ImagesBelow(r.Context(), name), func(i registry.Image) (any, bool) {
		ref := i.Name + ":" + i.Reference
		if i.Reference == "" {
			ref = i.Name + "@" + i.Digest.String()
		}
		info := Image{i.Name, ref, i.Digest.String(), i.MediaType, i.Size, i.Sparse, i.Lost}
		return info, strings.HasPrefix(ref, prefix)
	}), nil
}

// deleteImage deletes a tag (name:tag), a manifest with its tags (name@digest), or all of a repository (name).
func (a *API) deleteImage(ctx context.Context, ref string) error {
	if ref == "" {
		return usage.Errorf("ref is missing")
	}
	if host, rest, ok := strings.Cut(ref, "/"); ok {
		if o, known := a.Current.State().Origins.Canonical(host); known {
			ref = o + "/" + rest
		}
	}
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

// repository is the object of a request about ref.
func (a *API) repository(r *http.Request) access.Object {
	name, _, _ := strings.Cut(r.FormValue("ref"), "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	if host, rest, ok := strings.Cut(name, "/"); ok {
		if o, known := a.Current.State().Origins.Canonical(host); known {
			name = o + "/" + rest
		}
	}
	return access.Image(name)
}
