package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

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
			page, next, err = c.referrersPage(ctx, r, next)
			return err
		})
		switch {
		case err == nil:
		case n > 0:
			return list, true, err
		// Some registries answer 401 or 403 for what they do not have, although the repository itself is accessible.
		case transport.HasStatus(err, http.StatusUnauthorized, http.StatusForbidden):
			return nil, false, nil
		// The API answers with an empty list for a digest without referrers; registries without it answer 404, some 400
		// or 405, and some an HTML page.
		case transport.HasStatus(err, http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed,
			http.StatusNotAcceptable),
			errors.Is(err, errNoReferrers):
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

// errNoReferrers says that an answer does not come from the referrers API.
var errNoReferrers = errors.New("the answer is not a list of referrers")

// referrersPage fetches one page of a list of referrers, and returns where the next one is.
func (c *collector) referrersPage(
	ctx context.Context,
	r *remote.Repository,
	at string,
) (page []oci.Descriptor, next string, err error) {
	resp, err := r.Send(ctx, http.MethodGet, at, "application/vnd.oci.image.index.v1+json")
	if err != nil {
		return nil, at, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxDocument+1))
	if err != nil {
		return nil, at, transport.BrokenError{Err: err}
	}
	if len(b) > oci.MaxDocument {
		return nil, at, fmt.Errorf("a list of referrers is larger than %d bytes", oci.MaxDocument)
	}
	var doc struct {
		Manifests *[]oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Manifests == nil && !bytes.Contains(b, []byte(`"manifests"`)) {
		return nil, at, errNoReferrers
	}
	if doc.Manifests != nil {
		page = *doc.Manifests
	}
	return page, nextPage(r, resp), nil
}

// nextPage returns the target of a Link header (RFC 8288) with rel="next", below the repository's address.
func nextPage(r *remote.Repository, resp *http.Response) string {
	target, params, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return ""
	}
	u, err := resp.Request.URL.Parse(target)
	if err != nil {
		return ""
	}
	rest, ok := strings.CutPrefix(u.RequestURI(), "/v2/"+r.Path+"/")
	if !ok {
		return ""
	}
	return rest
}
