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

// Verdict says in one word what a check found.
type Verdict string

// A client that asks for what is Missing, Unreached or not for its Platform gets a miss, for what has another Digest or
// Checksum the wrong bytes, and refuses what has another Size. Luck and Sparse are warnings: it works, by something
// that is not meant to be relied on, or not for everybody.
const (
	VerdictMissing   Verdict = "missing"   // not here, or here and of no use; Detail says why
	VerdictPlatform  Verdict = "platform"  // here, but not for every platform that was asked for
	VerdictUnreached Verdict = "unreached" // its host is not answered for, so no node gets it, whether or not it is here
	VerdictDigest    Verdict = "digest"    // another manifest is here than the one pinned
	VerdictChecksum  Verdict = "checksum"  // other bytes are here than the checksum says
	VerdictSize      Verdict = "size"      // a manifest states a size that its content does not have
	VerdictOptional  Verdict = "optional"  // not here, which matters to some installations only
	VerdictLuck      Verdict = "luck"      // another name answers: a tolerance, a redirect of the settings
	VerdictSparse    Verdict = "sparse"    // an index is here without some of what it lists, and nobody asked for a platform
)

// CheckRequest is what a check is asked: is all of this here?
type CheckRequest struct {
	lists.Wanted
	// Platforms must all be here of every image that has platforms ("linux/amd64", "linux/arm64/v8"). None: it is
	// enough that something can be pulled.
	Platforms []string `json:"platforms,omitempty"`
}

// Report is what a check found. Asked is Here + Missing + Differs + Optional; those that are here by luck, or sparse,
// count as here.
type Report struct {
	Asked   int `json:"asked"`
	Here    int `json:"here"`
	Missing int `json:"missing"` // VerdictMissing, VerdictPlatform, VerdictUnreached
	Differs int `json:"differs"` // VerdictDigest, VerdictChecksum, VerdictSize
	Luck    int `json:"luck"`
	Sparse  int `json:"sparse,omitempty"`
	// Optional counts VerdictOptional.
	Optional int `json:"optional"`
	// Findings are what is not as it was asked for, in the order of the lists, at most one for each thing.
	Findings []Finding `json:"findings"`
}

// Finding is one thing that is not as it was asked for.
type Finding struct {
	Kind    string  `json:"kind"`            // "image", "file", "redirect" or "chart"
	Name    string  `json:"name"`            // the reference, the URL, or "NAME VERSION of REPOSITORY"
	Where   string  `json:"where,omitempty"` // FILE:LINE of the list
	Verdict Verdict `json:"verdict"`
	// Detail is the rest in words.
	Detail string `json:"detail,omitempty"`
	// Want and Got are digests, with VerdictDigest and VerdictChecksum. Known says who knows Want.
	Want  string `json:"want,omitempty"`
	Got   string `json:"got,omitempty"`
	Known string `json:"known,omitempty"`
	// Platforms are those that are here, with VerdictPlatform and VerdictSparse.
	Platforms []string `json:"platforms,omitempty"`
	// Tags are others of the same repository that are here, with Missing.
	Tags []string `json:"tags,omitempty"`
}

// Checker answers whether things are here as a node would get them. All fields but Has are required, and they are used
// from one goroutine for each Check.
type Checker struct {
	// Images and Files answer as they answer clients; *registry.Registry and *fileserver.Server do.
	Images interface {
		Resolve(ctx context.Context, repository, tag, digest string) (registry.Resolution, error)
	}
	Files interface {
		Resolve(ctx context.Context, url string) (info fileserver.Info, luck string, err error)
	}
	// Open opens a blob.
	Open func(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	// Has says whether a blob's bytes can be had: syscall.EIO if they are damaged or lost. Nil: all can.
	Has func(ctx context.Context, digest string) (int64, error)
	// Tags returns the tags of a canonical repository.
	Tags func(repository string) []string
	// Unreached says why clients that ask a host do not come here, and the way out; "" if they do.
	Unreached func(host string) string
}

// maxPlatforms bounds what a request may ask of every image.
const maxPlatforms = 64

// Check looks for everything that req wants. Its error is the context's, that of a disk, or fs.ErrInvalid for a request
// that nobody can mean.
func (c *Checker) Check(ctx context.Context, req CheckRequest) (*Report, error) {
	if len(req.Platforms) > maxPlatforms {
		return nil, fmt.Errorf("at most %d platforms can be asked for, got %d: %w", maxPlatforms, len(req.Platforms), fs.ErrInvalid)
	}
	for _, p := range req.Platforms {
		if !validPlatform(p) {
			return nil, fmt.Errorf("a platform is written like linux/amd64 or linux/arm64/v8, got %q: %w", p, fs.ErrInvalid)
		}
	}
	if len(req.Images)+len(req.Files)+len(req.Charts)+len(req.Redirects)+len(req.Git) == 0 {
		return nil, fmt.Errorf("nothing is asked for: a check needs an image, a file or a chart: %w", fs.ErrInvalid)
	}
	r := &Report{Findings: []Finding{}}
	for _, w := range req.Images {
		f, err := c.image(ctx, w, req.Platforms)
		if err != nil {
			return nil, err
		}
		r.count(f, w.Optional)
	}
	for _, w := range req.Files {
		f, err := c.file(ctx, w)
		if err != nil {
			return nil, err
		}
		r.count(f, w.Optional)
	}
	indexes := map[string]*lists.ChartIndex{}
	for _, w := range req.Git { // a clone that finds the refs finds what they name: they came together
		f, err := c.file(ctx, lists.File{URL: w.Refs(), Where: w.Where})
		if err != nil {
			return nil, err
		}
		if f != nil && f.Verdict == VerdictLuck { // with or without .git, as it is asked for
			f = nil
		}
		r.count(f, false)
	}
	for _, w := range req.Redirects {
		f, err := c.redirect(ctx, w)
		if err != nil {
			return nil, err
		}
		r.count(f, false)
	}
	for _, w := range req.Charts {
		f, err := c.chart(ctx, w, indexes)
		if err != nil {
			return nil, err
		}
		r.count(f, w.Optional)
	}
	return r, nil
}

// count adds one thing; nil is one that is as it was asked for.
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
	case VerdictDigest, VerdictChecksum, VerdictSize:
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

// image checks one reference. Where a list pins a tag to a digest both names must lead there: some clients pull by the
// one and some by the other.
func (c *Checker) image(ctx context.Context, w lists.Image, platforms []string) (*Finding, error) {
	f := &Finding{Kind: "image", Name: w.Ref(), Where: w.Where}
	asked := w.Repository
	found, here, err := c.resolve(ctx, w.Repository, w.Tag, w.Digest, f)
	if err == nil && !here { // where a host has no place of its own it is called otherwise here
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
				f.Detail = "the pinned one is here too, without the tag"
			}
			return f, nil
		case here && !tagHere:
			f.Verdict, f.Detail, f.Tags = VerdictMissing, "the pinned digest is here, without the tag", nearest(c.Tags(found.Repository), w.Tag)
			return f, nil
		}
	}
	lacks, wrong := lacking(found, platforms), mattering(found.Wrong, platforms)
	switch {
	case !here:
		f.Tags = nearest(c.Tags(w.Repository), w.Tag)
	case len(found.Lost) > 0 && (len(platforms) == 0 || len(found.Platforms) == 0 || len(lacks) > 0):
		f.lose(found.Lost)
	case len(found.Missing) > 0 && !found.Sparse:
		f.Verdict, f.Detail = VerdictMissing,
			"its manifest is here without "+strings.Join(found.Missing[:min(len(found.Missing), 3)], ", ")
	case len(lacks) > 0:
		f.Verdict, f.Detail, f.Platforms = VerdictPlatform, "not for "+strings.Join(lacks, ", "), realPlatforms(found.Platforms)
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

// resolve is Images.Resolve with a miss, which f tells, apart from an error.
func (c *Checker) resolve(ctx context.Context, repository, tag, digest string, f *Finding) (found registry.Resolution, here bool, err error) {
	found, err = c.Images.Resolve(ctx, repository, tag, digest)
	if f.missed(err) {
		return found, false, nil
	}
	return found, err == nil, err
}

// missed reports whether err says that a client would get a miss, and then makes f say so, with the reason if there is
// more to say than that.
func (f *Finding) missed(err error) bool {
	if errors.Is(err, syscall.EIO) {
		f.lose(nil)
		return true
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
		return false
	}
	// The errors have the form "image NAME: reason: sentinel", and the reason may be left out.
	_, reason, _ := strings.Cut(err.Error(), ": ")
	for _, e := range []error{fs.ErrNotExist, fs.ErrInvalid} {
		reason = strings.TrimSuffix(strings.TrimSuffix(reason, e.Error()), ": ")
	}
	f.Verdict, f.Detail = VerdictMissing, strings.TrimPrefix(reason, "not here")
	return true
}

// lose makes f say that it is here by name only: a client would not get its bytes.
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

const lostDetail = "its bytes are damaged or lost here: import or push it again"

// maxTags is how many other tags a finding names.
const maxTags = 5

// nearest returns those of tags that are most like tag, the likest first: what the installer asks for is often one
// version beside. Tags of signatures and the like (sha256-….sig) are nobody's version.
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

// unreached reports whether clients that ask host do not come here, and then makes f say so.
func (c *Checker) unreached(host string, here bool, f *Finding) bool {
	why := c.Unreached(host)
	if why == "" {
		return false
	}
	f.Verdict, f.Detail = VerdictUnreached, "it is not here, and "+why
	if here {
		f.Detail = "it is here, but " + why
	}
	return true
}

// file checks one URL. A sha256 stands in the tree; for a sha512 the file is read.
func (c *Checker) file(ctx context.Context, w lists.File) (*Finding, error) {
	f := &Finding{Kind: "file", Name: w.URL, Where: w.Where}
	info, luck, err := c.Files.Resolve(ctx, w.URL)
	missed := f.missed(err)
	if err != nil && !missed {
		return nil, err
	}
	if !missed && c.Has != nil { // what is made is no blob
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

// redirect checks that a URL leads to where the list says, and that this is answered.
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
		return nil, nil
	}
	f.Verdict, f.Detail = VerdictDigest, "it does not lead to "+w.To
	if luck != "" {
		f.Detail += ": " + luck
	}
	return f, nil
}

// hostOf is the host of a URL as it stands there, with its port.
func hostOf(url string) string {
	if _, rest, ok := strings.Cut(url, "://"); ok {
		url = rest
	}
	if i := strings.IndexAny(url, "/?#"); i >= 0 {
		url = url[:i]
	}
	return url[strings.LastIndexByte(url, '@')+1:]
}
