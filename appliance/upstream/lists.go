package upstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/oci"
	"casemate/cluster/share"
	"casemate/cluster/tree"
)

const (
	maxPages     = 50          // of a list
	maxReferrers = 256         // that are fetched for one digest
	maxTags      = 10_000      // of a repository
	maxTagLists  = 32          // that are remembered
	tagsFor      = time.Minute // how long a list of tags is not asked for again
)

// tagList is what an origin's repository had, and until when that is not asked again.
type tagList struct {
	tags  []string
	until time.Time
}

// Tags implements registry.Upstream.
func (u images) Tags(req *http.Request, repo string) ([]string, error) {
	key := "tags " + repo
	if err := u.known(key); err != nil {
		return nil, err
	}
	u.mu.Lock()
	list, ok := u.tags.See(repo)
	u.mu.Unlock()
	if ok && u.cfg.Now().Before(list.until) {
		return list.tags, nil
	}
	of := Event{Kind: "tags", Name: repo, Host: hostOf(repo)}
	f, err := u.fly(key, share.OfText(req.RemoteAddr), of, nil, func(ctx context.Context, f *flight) error {
		ctx = from(ctx, f.event.Host)
		defer u.take("manifests of "+f.event.Host, f.client)()
		var err error
		if f.tags, err = u.fetchTags(ctx, repo); err != nil {
			err = told(f.event.Host, err)
			u.remember(key, err)
			return err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.tags.Add(repo, tagList{f.tags, u.cfg.Now().Add(tagsFor)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := f.wait(req.Context()); err != nil {
		return nil, err
	}
	return f.tags, nil
}

func (u images) fetchTags(ctx context.Context, repo string) ([]string, error) {
	link, err := u.current()
	if err != nil {
		return nil, err
	}
	at, err := link.remote.Repository(ctx, repo)
	if err != nil {
		return nil, err
	}
	tags := []string{}
	next := "tags/list"
	for range maxPages {
		var page []string
		err := u.retry().DoBody(ctx, func() (err error) {
			page, next, err = at.TagsPage(ctx, next)
			return err
		})
		if err != nil {
			return nil, err
		}
		tags = append(tags, page[:min(len(page), maxTags-len(tags))]...)
		if next == "" || len(tags) == maxTags {
			break
		}
	}
	return tags, nil
}

// Referrers implements registry.Upstream.
func (u images) Referrers(req *http.Request, repo, digest string) error {
	name := "referrers of " + repo + "@" + digest
	known, before := u.record(name)
	if before && u.fresh(known) {
		return nil
	}
	if err := u.known(name); err != nil {
		return err
	}
	of := Event{Kind: "referrers", Name: repo + "@" + digest, Host: hostOf(repo)}
	f, err := u.fly(name, share.OfText(req.RemoteAddr), of, nil, func(ctx context.Context, f *flight) error {
		ctx = from(ctx, f.event.Host)
		defer u.take("manifests of "+f.event.Host, f.client)()
		err := told(f.event.Host, u.referrers(ctx, f, repo, digest))
		switch {
		case err == nil:
			u.note(ctx, record{Name: name})
		case before:
			u.cannotCompare(known, err)
		default:
			u.remember(name, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err = f.wait(req.Context()); before {
		return nil // what was here then is served, and status says how old it is
	}
	return err
}

// referrers makes sure that the manifests are here that refer to a digest. One that the origin lists and does not have
// is left out.
func (u images) referrers(ctx context.Context, f *flight, repo, digest string) error {
	link, err := u.current()
	if err != nil {
		return err
	}
	at, err := link.remote.Repository(ctx, repo)
	if err != nil {
		return err
	}
	list, err := u.listReferrers(ctx, at, digest)
	if err != nil {
		return err
	}
	if len(list) > maxReferrers {
		u.cfg.Log.Warn("not all referrers are fetched", "repository", repo, "digest", digest, "referrers", len(list),
			"most", maxReferrers)
	}
	for _, d := range list[:min(len(list), maxReferrers)] {
		if !tree.ValidDigest(d.Digest) || u.cfg.Images().HasManifest(repo, d.Digest) {
			continue
		}
		if _, err := u.manifest(ctx, f, repo, d.Digest, ""); err != nil &&
			!transport.HasStatus(err, http.StatusNotFound) {
			return fmt.Errorf("the referrer %s: %w", d.Digest, err)
		}
	}
	f.event.Digest = ""
	return nil
}

// listReferrers asks the API, or a registry without it for the tag that has the list.
func (u images) listReferrers(ctx context.Context, at *remote.Repository, digest string) ([]oci.Descriptor, error) {
	var list []oci.Descriptor
	next := "referrers/" + digest
	for range maxPages {
		var page []oci.Descriptor
		err := u.retry().DoBody(ctx, func() (err error) {
			page, next, err = at.ReferrersPage(ctx, next)
			return err
		})
		// Some registries answer 401 or 403 for what they do not have, although the repository itself is accessible.
		if remote.NoReferrers(err) || transport.HasStatus(err, http.StatusUnauthorized, http.StatusForbidden) {
			return u.taggedReferrers(ctx, at, digest)
		}
		if err != nil {
			return nil, err
		}
		if list = append(list, page...); next == "" || len(list) > maxReferrers {
			break
		}
	}
	return list, nil
}

func (u images) taggedReferrers(ctx context.Context, at *remote.Repository, digest string) ([]oci.Descriptor, error) {
	tagged, data, err := at.Manifest(ctx, remote.ReferrersTag(digest))
	if transport.HasStatus(err, http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden) ||
		errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	index, err := oci.Parse(tagged, "", data)
	if err != nil {
		return nil, err
	}
	return index.Children, nil
}
