package content

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"casemate/bundle/lists"
	"casemate/fileserver"
	"casemate/registry"
)

// Verdict classifies a finding in one word.
type Verdict string

// A client that requests something Missing, Unreached or not for its Platform gets a miss; a different Digest or
// Checksum gives it the wrong bytes; it refuses content of a different Size. Luck and Sparse are warnings: the
// request works, but relies on a fallback, or does not work for every client.
const (
	VerdictMissing  Verdict = "missing"  // not stored, or stored but unusable; Detail has the reason
	VerdictPlatform Verdict = "platform" // stored, but not for every requested platform
	// its host is not an enabled origin, so no node gets it, whether or not it is stored
	VerdictUnreached Verdict = "unreached"
	VerdictDigest    Verdict = "digest"    // another manifest is stored than the one pinned
	VerdictChecksum  Verdict = "checksum"  // the stored bytes do not match the checksum
	VerdictSize      Verdict = "size"      // a manifest states a size that differs from its content's
	VerdictSignature Verdict = "signature" // a package has no good signature
	VerdictOptional  Verdict = "optional"  // not stored, but only some installations need it
	VerdictLuck      Verdict = "luck"      // served under another name: a fallback, or a redirect of the settings
	// an index is stored without some of its manifests, and no platform was requested
	VerdictSparse Verdict = "sparse"
)

// CheckRequest lists what must be stored.
type CheckRequest struct {
	lists.Wanted
	// Platforms must all be available for every image that has platforms ("linux/amd64", "linux/arm64/v8"). If empty,
	// one that can be pulled is enough.
	Platforms []string `json:"platforms,omitempty"`
}

// Report is the result of a check. Asked is Here + Missing + Differs + Optional; VerdictLuck and VerdictSparse count
// as Here.
type Report struct {
	Asked   int `json:"asked"`
	Here    int `json:"here"`
	Missing int `json:"missing"` // VerdictMissing, VerdictPlatform, VerdictUnreached
	Differs int `json:"differs"` // VerdictDigest, VerdictChecksum, VerdictSize, VerdictSignature
	Luck    int `json:"luck"`
	Sparse  int `json:"sparse,omitempty"`
	// Optional counts VerdictOptional.
	Optional int `json:"optional"`
	// Findings are the items that differ from the request, in the order of the lists, at most one per item.
	Findings []Finding `json:"findings"`
}

// Finding is one item that differs from the request.
type Finding struct {
	// Kind is "image", "file", "redirect", "chart", "package", "python package" or "repository" (of packages).
	Kind    string  `json:"kind"`
	Name    string  `json:"name"`            // the reference, the URL, or "NAME VERSION of REPOSITORY"
	Where   string  `json:"where,omitempty"` // FILE:LINE of the list
	Verdict Verdict `json:"verdict"`
	// Detail explains the verdict in words.
	Detail string `json:"detail,omitempty"`
	// Want and Got are digests, with VerdictDigest and VerdictChecksum. Known is the source of Want.
	Want  string `json:"want,omitempty"`
	Got   string `json:"got,omitempty"`
	Known string `json:"known,omitempty"`
	// Platforms are the stored platforms, with VerdictPlatform and VerdictSparse.
	Platforms []string `json:"platforms,omitempty"`
	// Tags are other stored tags of the same repository, with VerdictMissing.
	Tags []string `json:"tags,omitempty"`
	// Package describes a package of an operating system that a node would ask for.
	Package *Package `json:"package,omitempty"`
}

// Package is one package of an operating system.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Repository   string `json:"repository"`
	Why          string `json:"why"` // "requested", or the package that needs it
	URL          string `json:"url"`
}

// Checker checks whether a node would get the listed items. All fields but Has are required; each Check uses them
// from one goroutine.
type Checker struct {
	// Images and Files resolve names as for clients; *registry.Registry and *fileserver.Server implement them.
	Images interface {
		Resolve(ctx context.Context, repository, tag, digest string) (registry.Resolution, error)
	}
	Files interface {
		Resolve(ctx context.Context, url string) (info fileserver.Info, luck string, err error)
	}
	// Open opens a blob.
	Open func(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	// Has returns an error if a blob's bytes are unavailable: syscall.EIO if they are damaged or lost. Nil: all blobs
	// are available.
	Has func(ctx context.Context, digest string) (int64, error)
	// Tags returns the tags of a canonical repository.
	Tags func(repository string) []string
	// Unreached returns why requests for a host do not reach the bastions, and what to do; "" if they do.
	Unreached func(host string) string
	// Found is called, unless it is nil, with what answers each item that is neither missing nor different.
	Found func(Answer)

	answers []Answer // of the item that is checked
}

// maxPlatforms limits the platforms in a request.
const maxPlatforms = 64

// Check checks everything that req lists. It returns the context's error, a disk error, or fs.ErrInvalid for an
// invalid request.
func (c *Checker) Check(ctx context.Context, req CheckRequest) (*Report, error) {
	if len(req.Platforms) > maxPlatforms {
		return nil, fmt.Errorf("at most %d platforms can be given, got %d: %w", maxPlatforms, len(req.Platforms),
			fs.ErrInvalid)
	}
	for _, p := range req.Platforms {
		if !validPlatform(p) {
			return nil, fmt.Errorf("a platform must have the form linux/amd64 or linux/arm64/v8, got %q: %w", p,
				fs.ErrInvalid)
		}
	}
	if len(req.Images)+len(req.Files)+len(req.Charts)+len(req.Redirects)+len(req.Git) == 0 {
		return nil, fmt.Errorf("the request is empty: a check needs an image, a file or a chart: %w", fs.ErrInvalid)
	}
	r := &Report{Findings: []Finding{}}
	for _, w := range req.Images {
		f, err := c.image(ctx, w, req.Platforms)
		if err != nil {
			return nil, err
		}
		c.count(r, f, w.Optional)
	}
	for _, w := range req.Files {
		f, err := c.file(ctx, w)
		if err != nil {
			return nil, err
		}
		c.count(r, f, w.Optional)
	}
	indexes := map[string]*lists.ChartIndex{}
	for _, w := range req.Git { // if the refs of a clone are stored, so are their objects: they were imported together
		f, err := c.file(ctx, lists.File{URL: w.Refs(), Where: w.Where})
		if err != nil {
			return nil, err
		}
		if f != nil && f.Verdict == VerdictLuck { // with or without .git, as requested
			f = nil
		}
		c.count(r, f, false)
	}
	for _, w := range req.Redirects {
		f, err := c.redirect(ctx, w)
		if err != nil {
			return nil, err
		}
		c.count(r, f, false)
	}
	for _, w := range req.Charts {
		f, err := c.chart(ctx, w, indexes)
		if err != nil {
			return nil, err
		}
		c.count(r, f, w.Optional)
	}
	return r, nil
}

// Add adds a finding of an item that was not in the request.
func (r *Report) Add(f Finding) { r.count(&f, false) }

// count counts one item; a nil finding means that it is as requested.
func (r *Report) count(f *Finding, optional bool) {
	r.Asked++
	if f == nil {
		r.Here++
		return
	}
	switch f.Verdict {
	case VerdictMissing, VerdictUnreached, VerdictPlatform:
		if optional {
			if f.Verdict == VerdictMissing && f.Detail == "" {
				f.Detail = "not here"
			}
			f.Verdict = VerdictOptional
		}
	}
	switch f.Verdict {
	case VerdictOptional:
		r.Optional++
	case VerdictDigest, VerdictChecksum, VerdictSize, VerdictSignature:
		r.Differs++
	case VerdictLuck:
		r.Here++
		r.Luck++
	case VerdictSparse:
		r.Here++
		r.Sparse++
	default:
		r.Missing++
	}
	r.Findings = append(r.Findings, *f)
}

// image checks one reference. Where a list pins a tag to a digest, both the tag and the digest must resolve to it:
// clients pull by either.
func (c *Checker) image(ctx context.Context, w lists.Image, platforms []string) (*Finding, error) {
	f := &Finding{Kind: "image", Name: w.Ref(), Where: w.Where}
	asked := w.Repository
	found, here, err := c.resolve(ctx, w.Repository, w.Tag, w.Digest, f)
	if err == nil && !here { // a host that is not an origin is stored under another name
		if place, perr := lists.Place(w.Repository); perr == nil && place != w.Repository {
			found, here, err = c.resolve(ctx, place, w.Tag, w.Digest, f)
			w.Repository = place
		}
	}
	if err != nil {
		return nil, err
	}
	if host, _, ok := strings.Cut(asked, "/"); ok && strings.ContainsAny(host, ".:") && c.unreached(host, here, f) {
		return f, nil
	}
	if w.Digest != "" && w.Tag != "" {
		by := &Finding{}
		tagged, tagHere, err := c.resolve(ctx, w.Repository, w.Tag, "", by)
		switch {
		case err != nil:
			return nil, err
		case tagHere && tagged.Digest != w.Digest:
			f.Verdict, f.Detail, f.Want, f.Got = VerdictDigest, "", w.Digest, tagged.Digest
			if here {
				f.Detail = "the pinned digest is stored too, but without the tag"
			}
			return f, nil
		case here && !tagHere:
			f.Verdict, f.Detail, f.Tags = VerdictMissing, "the pinned digest is stored, but without the tag",
				nearest(c.Tags(found.Repository), w.Tag)
			return f, nil
		}
	}
	absent, wrong := lacking(found, platforms), mattering(found.Wrong, platforms)
	switch {
	case !here:
		f.Tags = nearest(c.Tags(w.Repository), w.Tag)
	case len(found.Lost) > 0 && (len(platforms) == 0 || len(found.Platforms) == 0 || len(absent) > 0):
		f.lose(found.Lost)
	case len(found.Missing) > 0 && !found.Sparse:
		f.Verdict, f.Detail = VerdictMissing,
			"its manifest is stored without "+strings.Join(found.Missing[:min(len(found.Missing), 3)], ", ")
	case len(absent) > 0:
		f.Verdict, f.Detail, f.Platforms = VerdictPlatform, "not for "+strings.Join(absent, ", "),
			realPlatforms(found.Platforms)
	case hollow(found) != "":
		f.Verdict, f.Detail = VerdictMissing, hollow(found)
	case len(wrong) > 0:
		f.Verdict, f.Detail = VerdictSize, sizesText(wrong)
	case found.Luck != "":
		f.Verdict, f.Detail = VerdictLuck, found.Luck
	case found.Sparse && (len(platforms) == 0 || len(realPlatforms(found.Platforms)) == 0):
		f.Verdict, f.Detail, f.Platforms = VerdictSparse, sparse(found), realPlatforms(found.Platforms)
	default:
		return nil, nil
	}
	return f, nil
}

// resolve calls Images.Resolve. A miss is recorded in f; any other error is returned.
func (c *Checker) resolve(ctx context.Context, repository, tag, digest string, f *Finding) (found registry.Resolution,
	here bool, err error) {
	found, err = c.Images.Resolve(ctx, repository, tag, digest)
	if f.missed(err) {
		return found, false, nil
	}
	if err == nil {
		if digest != "" {
			tag = ""
		}
		c.answers = append(c.answers, Answer{Repository: found.Repository, Tag: tag, Digest: found.Digest})
	}
	return found, err == nil, err
}

// missed reports whether err is a miss; if so, it sets f's verdict, with the reason if err has one.
func (f *Finding) missed(err error) bool {
	if errors.Is(err, syscall.EIO) {
		f.lose(nil)
		return true
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
		return false
	}
	// The errors have the form "image NAME: reason: sentinel"; the reason is optional.
	_, reason, _ := strings.Cut(err.Error(), ": ")
	for _, e := range []error{fs.ErrNotExist, fs.ErrInvalid} {
		reason = strings.TrimSuffix(strings.TrimSuffix(reason, e.Error()), ": ")
	}
	f.Verdict, f.Detail = VerdictMissing, strings.TrimPrefix(reason, "not here")
	return true
}

// lose records in f that only the name is stored: a client would not get the bytes.
func (f *Finding) lose(digests []string) {
	f.Verdict, f.Detail = VerdictMissing, lostDetail
	if n := len(digests); n > 0 {
		f.Detail += " (" + strings.Join(digests[:min(n, maxTags)], ", ")
		if n > maxTags {
			f.Detail += fmt.Sprintf(" and %d more", n-maxTags)
		}
		f.Detail += ")"
	}
}

const lostDetail = "its bytes are damaged or lost: import or push it again"

// maxTags is how many other tags a finding lists.
const maxTags = 5

// nearest returns those of tags that are most similar to tag, the most similar first: an installer often requests a
// neighbouring version. Tags of signatures and the like (sha256-….sig) are skipped.
func nearest(tags []string, tag string) []string {
	alike := func(t string) (n int) {
		for n < min(len(t), len(tag)) && t[n] == tag[n] {
			n++
		}
		return n
	}
	tags = slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return strings.HasPrefix(t, "sha256-") })
	slices.SortStableFunc(tags, func(a, b string) int { return cmp.Compare(alike(b), alike(a)) })
	return tags[:min(len(tags), maxTags)]
}

// unreached reports whether requests for host do not reach the bastions; if so, it sets f's verdict.
func (c *Checker) unreached(host string, here bool, f *Finding) bool {
	why := c.Unreached(host)
	if why == "" {
		return false
	}
	f.Verdict, f.Detail = VerdictUnreached, "it is not stored, and "+why
	if here {
		f.Detail = "it is stored, but " + why
	}
	return true
}

// file checks one URL. The sha256 is in the tree; for a sha512 the file is read.
func (c *Checker) file(ctx context.Context, w lists.File) (*Finding, error) {
	f := &Finding{Kind: "file", Name: w.URL, Where: w.Where}
	info, luck, err := c.Files.Resolve(ctx, w.URL)
	missed := f.missed(err)
	if err != nil && !missed {
		return nil, err
	}
	if !missed {
		c.answers = append(c.answers, Answer{URL: w.URL, At: info})
	}
	if !missed && c.Has != nil { // generated content has no blob
		if _, err := c.Has(ctx, info.Digest); errors.Is(err, syscall.EIO) {
			f.lose([]string{info.Digest})
			missed = true
		}
	}
	if c.unreached(hostOf(w.URL), !missed, f) || missed {
		return f, nil
	}
	if w.Digest != "" {
		got, err := c.digest(ctx, info.Digest, w.Digest)
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", w.URL, err)
		}
		if got != w.Digest {
			f.Verdict, f.Detail, f.Want, f.Got, f.Known = VerdictChecksum, luck, w.Digest, got, w.Known
			return f, nil
		}
	}
	if luck != "" {
		f.Verdict, f.Detail = VerdictLuck, luck
		return f, nil
	}
	return nil, nil
}

// redirect checks that a URL redirects to the target in the list, and that the target is served.
func (c *Checker) redirect(ctx context.Context, w lists.Redirect) (*Finding, error) {
	f := &Finding{Kind: KindRedirect, Name: w.From, Where: w.Where, Known: w.Where}
	info, luck, err := c.Files.Resolve(ctx, w.From)
	missed := f.missed(err)
	if err != nil && !missed {
		return nil, err
	}
	if c.unreached(hostOf(w.From), !missed, f) || missed {
		return f, nil
	}
	want, _, err := c.Files.Resolve(ctx, w.To)
	if !f.missed(err) && err != nil {
		return nil, err
	}
	if err == nil && luck != "" && info.Digest == want.Digest {
		c.answers = append(c.answers, Answer{URL: w.From, At: info})
		return nil, nil
	}
	f.Verdict, f.Detail = VerdictDigest, "it does not lead to "+w.To
	if luck != "" {
		f.Detail += ": " + luck
	}
	return f, nil
}

// hostOf returns the host of a URL as written, with its port.
func hostOf(url string) string {
	if _, rest, ok := strings.Cut(url, "://"); ok {
		url = rest
	}
	if i := strings.IndexAny(url, "/?#"); i >= 0 {
		url = url[:i]
	}
	return url[strings.LastIndexByte(url, '@')+1:]
}
