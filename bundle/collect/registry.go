package collect

import (
	"context"
	"fmt"
	"net/http"

	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/oci"
)

// maxPages bounds a list of referrers that does not end.
const maxPages = 50

// referrers fetches the list of referrers of a manifest. ok is false if the registry does not have the API, or answers
// as if it had not: then a tag may have the list. With an error the list is what was received before it.
func (c *collector) referrers(
	ctx context.Context,
	r *remote.Repository,
	digest string,
) (list []oci.Descriptor, ok bool, err error) {
	host := r.Host
	if _, no := c.noReferrers.Load(host); no {
		return nil, false, nil
	}
	// The target of a Link header: a path and query on the registry. The number of pages is bounded.
	next := "referrers/" + digest
	for n := 0; next != ""; n++ {
		if n == maxPages {
			return list, true, fmt.Errorf("more than %d pages of referrers", maxPages)
		}
		var page []oci.Descriptor
		err := c.retry.DoBody(ctx, func() error {
			page, next, err = r.ReferrersPage(ctx, next)
			return err
		})
		switch {
		case err == nil:
		case n > 0:
			return list, true, err
		// Some registries answer 401 or 403 for what they do not have, although the repository itself is accessible.
		case transport.HasStatus(err, http.StatusUnauthorized, http.StatusForbidden):
			return nil, false, nil
		case remote.NoReferrers(err):
			c.noReferrers.Store(host, true)
			return nil, false, nil
		case ctx.Err() != nil:
			return nil, false, nil
		default:
			// Whatever it is, it was retried often enough for the first image.
			if _, again := c.noReferrers.LoadOrStore(host, true); !again {
				c.note("%s: the lists of referrers cannot be fetched, tags are used instead: %v", host, err)
			}
			return nil, false, nil
		}
		list = append(list, page...)
	}
	return list, true, nil
}
