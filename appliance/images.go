package appliance

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
)

type imageInfo struct {
	Name      string `json:"name"`
	Reference string `json:"reference"` // name:tag, or name@digest where there is no tag
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Sparse    bool   `json:"sparse"`
	Damaged   bool   `json:"damaged,omitempty"` // its manifest's bytes are damaged or lost
}

func (a *Appliance) getImages(r *http.Request) (any, error) {
	list := []imageInfo{}
	prefix := r.URL.Query().Get("prefix")
	for i, err := range a.registry.Images(r.Context()) {
		if err != nil {
			return nil, err
		}
		ref := i.Name + ":" + i.Reference
		if i.Reference == "" {
			ref = i.Name + "@" + i.Digest.String()
		}
		if strings.HasPrefix(ref, prefix) {
			list = append(list, imageInfo{i.Name, ref, i.Digest.String(), i.MediaType, i.Size, i.Sparse, i.Lost})
		}
	}
	return list, nil
}

// deleteImage deletes a tag (name:tag), a manifest with its tags (name@digest), or all of a repository (name).
func (a *Appliance) deleteImage(ctx context.Context, ref string) error {
	if ref == "" {
		return usage("ref is missing")
	}
	if host, rest, ok := strings.Cut(ref, "/"); ok {
		if o, known := a.now.Load().origins.Canonical(host); known {
			ref = o + "/" + rest
		}
	}
	if strings.Contains(ref, "@") || strings.Contains(ref[strings.LastIndexByte(ref, '/')+1:], ":") {
		return a.registry.DeleteImage(ctx, ref)
	}
	// What an index spoke for shows only when the index is gone, so it takes a few rounds.
	for round := 0; ; round++ {
		var digests []string
		for i, err := range a.registry.Images(ctx) {
			if err != nil {
				return err
			}
			if i.Name == ref && !slices.Contains(digests, i.Digest.String()) {
				digests = append(digests, i.Digest.String())
			}
		}
		if len(digests) == 0 {
			if round == 0 {
				return fmt.Errorf("there is no image %s: %w", ref, fs.ErrNotExist)
			}
			return nil
		}
		for _, d := range digests {
			if err := a.registry.DeleteImage(ctx, ref+"@"+d); err != nil {
				return err
			}
		}
	}
}
