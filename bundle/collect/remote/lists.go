package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"casemate/bundle/collect/transport"
	"casemate/bundle/oci"
)

// errNoReferrers says that an answer does not come from the referrers API.
var errNoReferrers = errors.New("the answer is not a list of referrers")

// NoReferrers reports whether an error of ReferrersPage means that the registry does not have the API, or answers as if
// it had not: then a tag may have the list (ReferrersTag). The API answers with an empty list for a digest without
// referrers; registries without it answer 404, some 400 or 405, and some an HTML page.
func NoReferrers(err error) bool {
	return errors.Is(err, errNoReferrers) || transport.HasStatus(err, http.StatusNotFound, http.StatusBadRequest,
		http.StatusMethodNotAllowed, http.StatusNotAcceptable)
}

// ReferrersTag is the tag whose index lists the referrers of a digest in a registry without the API (OCI distribution
// specification 1.1, "Referrers Tag Schema").
func ReferrersTag(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return algorithm + "-" + hex[:min(len(hex), 64)]
}

// ReferrersPage fetches one page of the list of referrers of a digest. at is "referrers/DIGEST", or next of the page
// before; next is "" after the last one.
func (r *Repository) ReferrersPage(ctx context.Context, at string) (page []oci.Descriptor, next string, err error) {
	var doc struct {
		Manifests *[]oci.Descriptor `json:"manifests"`
	}
	b, next, err := r.page(ctx, at, "application/vnd.oci.image.index.v1+json")
	if err != nil {
		return nil, at, err
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Manifests == nil && !bytes.Contains(b, []byte(`"manifests"`)) {
		return nil, at, errNoReferrers
	}
	if doc.Manifests != nil {
		page = *doc.Manifests
	}
	return page, next, nil
}

// TagsPage fetches one page of a repository's tags. at is "tags/list", or next of the page before; next is "" after the
// last one.
func (r *Repository) TagsPage(ctx context.Context, at string) (tags []string, next string, err error) {
	var doc struct {
		Tags []string `json:"tags"`
	}
	b, next, err := r.page(ctx, at, "application/json")
	if err != nil {
		return nil, at, err
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, at, errors.New("the registry's answer is not a list of tags")
	}
	// What is no tag could be of any size.
	return slices.DeleteFunc(doc.Tags, func(tag string) bool { return !tagForm.MatchString(tag) }), next, nil
}

// tagForm is the form of tags (OCI distribution specification 1.1, "Pulling manifests").
var tagForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// page fetches one page of a list, and returns where the next one is.
func (r *Repository) page(ctx context.Context, at, accept string) (b []byte, next string, err error) {
	resp, err := r.Send(ctx, http.MethodGet, at, accept)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(io.LimitReader(resp.Body, oci.MaxDocument+1)); err != nil {
		return nil, "", transport.BrokenError{Err: err}
	}
	if len(b) > oci.MaxDocument {
		return nil, "", fmt.Errorf("a page of a list is larger than %d bytes", oci.MaxDocument)
	}
	return b, r.nextPage(resp), nil
}

// nextPage returns the target of a Link header (RFC 8288) with rel="next", below the repository's address.
func (r *Repository) nextPage(resp *http.Response) string {
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
