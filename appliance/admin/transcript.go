package admin

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"casemate/appliance/egress"
	"casemate/appliance/hostname"
	"casemate/bundle"
	"casemate/cluster/tree"
)

// Transcript is the record of a rehearsal.
type Transcript interface {
	Questions() []bundle.Question
	// Compare asks the origins which tags have moved since clients used them, of which Notes say then. It returns a
	// sentence about those that could not be compared, "" if all were.
	Compare(ctx context.Context) string
	// Notes say what is not recorded, one sentence each.
	Notes() []string
}

// unasked names what clients used in other ways than by requests, which are not recorded.
func (a *API) unasked() []string {
	entries, _, err := a.Egress.List(egress.Filter{})
	if err != nil {
		return []string{"names that were only resolved are not known: " + err.Error()}
	}
	domain := a.Current.State().Settings.Domain
	return egress.Unrecorded(entries, func(name string) bool { return hostname.Overlap(name, domain) })
}

// settle makes the answers of a transcript those of the content that the bundle has. A client may have been answered
// before its content was complete, before the content changed for another client, or before that was here of which an
// answer is made: a file's checksum, a by-hash name.
func (a *API) settle(ctx context.Context, ix *bundle.Index) {
	files := map[string]*bundle.File{}
	for i := range ix.Files {
		files[ix.Files[i].URL] = &ix.Files[i]
	}
	list := ix.Questions[:0]
	for _, q := range ix.Questions {
		digest, size := "", int64(0)
		at, err := url.Parse(q.URL)
		if err != nil {
			continue
		}
		name := "https://" + strings.TrimPrefix(strings.TrimPrefix(q.URL, "https://"), "http://")
		repository, reference, manifest := strings.Cut(strings.TrimPrefix(at.Path, "/v2/"), "/manifests/")
		switch {
		case q.Location != "":
		case manifest && strings.HasPrefix(at.Path, "/v2/") && at.RawQuery == "":
			tag, dg := reference, ""
			if tree.ValidDigest(reference) {
				tag, dg = "", reference
			}
			if found, err := a.Registry.Resolve(ctx, at.Host+"/"+repository, tag, dg); err == nil {
				digest = found.Digest
			}
		case files[name] != nil:
			digest, size = files[name].Digest, files[name].Size
		case q.Status == http.StatusNotFound:
			if _, _, err := a.Files.Resolve(ctx, name); err == nil {
				q.Status = http.StatusOK
			}
		}
		switch {
		case digest == "":
		case q.Held == "":
			q.Status = http.StatusOK
			if q.Digest != digest {
				q.Digest, q.Size = digest, size
			}
		case q.Held != digest:
			continue // it was compared with content that is not in the bundle
		}
		list = append(list, q)
	}
	ix.Questions = list
}
