package admin

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/audit/proof"
	"casemate/appliance/pulls"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// showRoutes serves what is known of one image and of one file.
func (a *API) showRoutes(on *routes) {
	on.json("GET /v1/images/show", to(access.Inspect), func(r *http.Request) (any, error) {
		return a.showImage(r.Context(), r.URL.Query().Get("ref"))
	})
	on.json("GET /v1/files/show", to(access.Inspect), func(r *http.Request) (any, error) {
		return a.showFile(r.Context(), r.URL.Query().Get("url"))
	})
}

// Provenance is who brought a name, and when it was last in use.
type Provenance struct {
	Stored  time.Time `json:"stored"`
	Imports []string  `json:"imports"` // that claim the name, the newest first; "by hand" for a push
	// Event is the event of the audit log that wrote the name; absent if there is none any more.
	Event *proof.Event `json:"event,omitempty"`
	// LastPull is the last read of this content under this name that is known; absent if none is.
	LastPull *pulls.Pull `json:"last_pull,omitempty"`
}

// provenance returns who brought a name of the tree.
func (a *API) provenance(ctx context.Context, name string, fi fs.FileInfo) (o Provenance, err error) {
	o.Stored = fi.ModTime()
	for _, c := range a.Tree.ClaimsOf(name) {
		if c.Claim == "" {
			c.Claim = "by hand"
		}
		o.Imports = append(o.Imports, c.Claim)
	}
	events, err := a.Audit.At(ctx, tree.VersionOf(fi))
	if len(events) > 0 {
		o.Event = &events[0]
	}
	return o, err
}

// ImageDetails is what is known of an image.
type ImageDetails struct {
	Image
	Provenance
	Platforms []string `json:"platforms"` // those that are here
	Absent    []string `json:"absent"`    // those that are not
	Tags      []string `json:"tags"`      // of the repository that name the same manifest
	Referrers []string `json:"referrers"` // digests of manifests with this subject: signatures, attestations
	Manifest
}

func (a *API) showImage(ctx context.Context, ref string) (any, error) {
	i, err := a.found(ctx, ref)
	if err != nil {
		return nil, err
	}
	m, err := a.manifestOf(ctx, i)
	if err != nil {
		return nil, err
	}
	dg := ""
	if i.Reference == "" {
		dg = m.Digest
	}
	treeName, err := a.Registry.TreeName(i.Name, i.Reference, dg)
	if err != nil {
		return nil, err
	}
	treeName = "registry/" + treeName
	fi, err := a.Tree.Stat(treeName)
	if err != nil {
		return nil, fmt.Errorf("there is no image %s: %w", ref, err)
	}
	out := ImageDetails{Image: m.Image, Platforms: m.Platforms, Absent: m.Absent, Tags: m.Tags, Manifest: m.Manifest}
	for d := range a.Registry.Referrers(i.Name, out.Digest) {
		out.Referrers = append(out.Referrers, d)
	}
	if out.Provenance, err = a.provenance(ctx, treeName, fi); err != nil {
		return nil, err
	}
	out.LastPull, err = a.Pulls.Last(i.Name, out.Digest)
	return out, err
}

// FileDetails is what is known of a file.
type FileDetails struct {
	File
	Provenance
	Redirects []string `json:"redirects"` // URLs that lead to it
}

func (a *API) showFile(ctx context.Context, url string) (any, error) {
	i, err := a.Files.Stat(url)
	if err != nil {
		return nil, err
	}
	key, err := a.Files.Key(i.URL)
	if err != nil {
		return nil, err
	}
	fi, err := a.Tree.Stat("files/" + key)
	if err != nil {
		return nil, fmt.Errorf("there is no file %s: %w", i.URL, err)
	}
	out := FileDetails{File: File{fileserver.URL(key), i.Digest, i.Size, i.Time}}
	for from, to := range a.Current.State().Redirects {
		if to == i.URL {
			out.Redirects = append(out.Redirects, from)
		}
	}
	slices.Sort(out.Redirects)
	if out.Provenance, err = a.provenance(ctx, "files/"+key, fi); err != nil {
		return nil, err
	}
	out.LastPull, err = a.Pulls.Last(key, i.Digest)
	return out, err
}
