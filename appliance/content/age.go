package content

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"casemate/bundle"
)

// ages refuses images that were built less than import.policy.min_age ago. The time is "created" of the image's config
// (OCI image specification, config.md), which its builder has written. An image without one has no age, and neither do
// files and artifacts.
func (j *job) ages(ctx context.Context, ix *bundle.Index, blobs opener) error {
	if j.policy.MinAge == 0 {
		return nil
	}
	now := j.e.cfg.Now()
	for im := range manifestsOf(ix) {
		built, err := builtAt(ctx, blobs, im.Digest)
		if err != nil {
			return fmt.Errorf("image %s@%s: %w", im.Repository, im.Digest, err)
		}
		if err := j.policy.checkAge(im.Repository+"@"+im.Digest, built, now); err != nil {
			return err
		}
	}
	return nil
}

// builtAt returns when an image was built, as its config says; zero if it says nothing, or is no image's.
func builtAt(ctx context.Context, blobs opener, manifest string) (time.Time, error) {
	data, err := readManifest(ctx, blobs, manifest)
	if err != nil {
		return time.Time{}, err
	}
	var m struct {
		Config struct {
			Digest string `json:"digest"`
			Size   int64  `json:"size"`
		} `json:"config"`
	}
	if json.Unmarshal(data, &m) != nil || m.Config.Digest == "" || m.Config.Size > maxManifest {
		return time.Time{}, nil
	}
	config, err := readManifest(ctx, blobs, m.Config.Digest)
	if err != nil {
		return time.Time{}, err
	}
	var c struct {
		Created time.Time `json:"created"`
	}
	if json.Unmarshal(config, &c) != nil {
		return time.Time{}, nil // an artifact's config may be anything
	}
	return c.Created, nil
}
