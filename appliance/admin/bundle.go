package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"syscall"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/usage"
	"casemate/bundle/oci"
	"casemate/cluster/tree"
)

// bundleRoutes serves what a bundle of this cluster contains.
func (a *API) bundleRoutes(on *routes) {
	on.json("POST /v1/bundle", to(access.List), a.postBundle)
	on.stream("GET /v1/blobs/{digest}", to(access.Pull), a.getBlob)
}

// BundleRequest selects content of this cluster: everything, or any of imports and lists.
type BundleRequest struct {
	content.CheckRequest
	Everything bool     `json:"everything,omitempty"`
	Imports    []string `json:"imports,omitempty"`
}

// maxBundleImports limits the imports of a request.
const maxBundleImports = 1000

// postBundle answers with the index of a bundle, and what of the selection is not in it.
func (a *API) postBundle(r *http.Request) (any, error) {
	var req BundleRequest
	if err := readUpTo(r, &req, MaxCheckBody); err != nil {
		return nil, err
	}
	if len(req.Imports) > maxBundleImports {
		return nil, usage.Errorf("at most %d imports can be named, got %d", maxBundleImports, len(req.Imports))
	}
	listed := len(req.Images)+len(req.Files)+len(req.Charts)+len(req.Redirects)+len(req.Git) > 0
	switch {
	case req.Everything && (listed || len(req.Imports) > 0):
		return nil, usage.Errorf("everything includes all imports and lists: select it alone")
	case !req.Everything && !listed && len(req.Imports) == 0:
		return nil, usage.Errorf("nothing is selected: name an import, a list or everything")
	}
	sel := content.Selection{Everything: req.Everything, Imports: req.Imports}
	if a.Transcript != nil {
		sel.Fetch = a.Upstream.FetchBlob // clients look at manifests whose layers they do not pull
	}
	for _, p := range req.Platforms {
		platform, err := oci.ParsePlatform(p)
		if err != nil {
			return nil, &usage.Error{Err: err}
		}
		sel.Platforms = append(sel.Platforms, platform)
	}
	var notes []string
	report := &content.Report{}
	if listed {
		var err error
		if sel.Names, notes, report, err = a.Lookup.Stored(r.Context(), req.CheckRequest); err != nil {
			return nil, err
		}
	}
	out, err := a.Imports.Export(r.Context(), sel)
	if err != nil {
		return nil, err
	}
	for _, f := range report.Findings {
		switch f.Verdict {
		case content.VerdictLuck, content.VerdictSparse:
		case content.VerdictOptional:
			notes = append(notes, fmt.Sprintf("%s is left out: %s", f.Name, f.Detail))
		default:
			out.Findings = append(out.Findings, f)
		}
	}
	if req.Everything && a.Transcript != nil {
		out.Index.Questions = a.Transcript.Questions()
		a.settle(r.Context(), out.Index)
		if note := a.Transcript.Compare(r.Context()); note != "" {
			notes = append(notes, note)
		}
		notes = append(append(notes, a.Transcript.Notes()...), a.unasked()...)
	}
	own := "https://" + a.Current.State().Settings.PackagesHost() + "/"
	if n := out.Below(own); n > 0 {
		notes = append(notes, fmt.Sprintf("%d files are at %s, the own name of these bastions: a cluster with another "+
			"domain does not serve them in its index of packages", n, own))
	}
	out.Notes = append(out.Notes, notes...)
	return out, nil
}

// getBlob sends the bytes of a blob. Their digest is for the client to verify.
func (a *API) getBlob(w http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("digest")
	if !tree.ValidDigest(digest) {
		a.adminError(w, r, usage.Errorf("%.100q is not a digest: it has the form %s", digest, tree.DigestForm))
		return
	}
	size, err := a.Tree.HasBlob(r.Context(), digest)
	var b io.ReadSeekCloser
	if err == nil {
		b, err = a.Tree.OpenBlob(r.Context(), digest)
	}
	switch {
	case errors.Is(err, syscall.EIO):
		err = fmt.Errorf("blob %s: its bytes are damaged or lost: import or push it again: %w", digest, fs.ErrNotExist)
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("blob %s is not stored: it was deleted meanwhile: %w", digest, fs.ErrNotExist)
	}
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	defer b.Close()
	stop := context.AfterFunc(r.Context(), func() { b.Close() })
	defer stop()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if n, err := io.Copy(w, b); err != nil || n != size {
		if r.Context().Err() == nil {
			a.Log.Warn("a blob could not be sent", "blob", digest, "sent", n, "size", size, "err", err)
		}
		panic(http.ErrAbortHandler) // the client must not take it for complete
	}
}
