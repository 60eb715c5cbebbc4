package registry

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

const (
	// maxReferrers bounds one page of referrers in bytes (distribution-spec: clients take 4 MiB); the next is behind a
	// Link.
	maxReferrers = 3 << 20
	// maxExamined bounds how many referrers one page looks at, whether the filter lets them through or not.
	maxExamined = 10_000
)

// maxRead bounds the bytes of manifests that one page reads: of those without a record, and of those whose annotations
// the record has no room for. One is read all the same. Tests lower it.
var maxRead int64 = 8 << 20

// serveReferrers answers GET referrers/DIGEST: an index of the manifests that are here and name the digest as their
// subject, as they are, in the order of their digests. An unknown digest has an empty list, not a 404
// (distribution-spec "Listing referrers").
//
// What a page costs is bounded by what it says and not by what the manifests have in them: it comes from records
// (summary.go). A page may be empty and have a next one: the filter has let nothing of it through.
//
// Clients that met a registry without this API keep such a list under a tag themselves. What it says is not believed:
// its entries may be gone, or be of another type. Those that are here stand in the list by what they say themselves.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {
	q := req.URL.Query()
	want, last := q.Get("artifactType"), q.Get("last")
	if last != "" && !tree.ValidDigest(last) {
		writeError(w, req, errDigestInvalid.with("last is the digest at which the page before ended"))
		return
	}
	var body bytes.Buffer
	body.WriteString(`{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[`)
	page := referrersPage{r: r, subject: rt.digest, want: want}
	next := ""
	for d, repo := range r.referrers(rt, last) {
		if req.Context().Err() != nil {
			return // nobody waits for it any more
		}
		desc, ok, err := page.describe(req.Context(), repo, d)
		if errors.Is(err, errPageFull) {
			next = page.last
			break
		}
		if err != nil {
			writeError(w, req, r.answer(err, errManifestUnknown))
			return
		}
		if ok {
			b := plainJSON(desc)
			if page.said > 0 && body.Len()+len(b) > maxReferrers {
				next = page.last
				break
			}
			if page.said++; page.said > 1 {
				body.WriteByte(',')
			}
			body.Write(b)
			page.done = d
		}
		page.last = d.String()
	}
	body.WriteString("]}")
	h := w.Header()
	h.Set("Content-Type", typeOCIIndex)
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	if want != "" {
		h.Set("OCI-Filters-Applied", "artifactType")
	}
	if next != "" {
		nq := url.Values{"last": {next}}
		if want != "" {
			nq.Set("artifactType", want)
		}
		h.Set("Link", "<"+rt.outward("/v2/"+rt.repo+"/referrers/"+rt.digest.String()+"?"+nq.Encode())+`>; rel="next"`)
	}
	if req.Method != http.MethodHead {
		w.Write(body.Bytes())
	}
}

// referrers yields the links among the referrers of rt's digest behind last, in the order of their digests, with the
// repository that has the link. One that several repositories have comes once for each.
func (r *Registry) referrers(rt route, last string) iter.Seq2[digest.Digest, string] {
	var dirs []listed
	for _, repo := range r.repositories(rt) {
		l := listed{repo: repo, dir: referrersDir(repo, rt.digest)}
		if last != "" {
			l.after = referrerPath(repo, rt.digest, digest.Digest(last))
		}
		dirs = append(dirs, l)
	}
	return func(yield func(digest.Digest, string) bool) {
		for key, repo := range r.merged(dirs) {
			algorithm, rest, _ := strings.Cut(key, "/")
			encoded, _, _ := strings.Cut(rest, "/")
			if d := algorithm + ":" + encoded; tree.ValidDigest(d) && !yield(digest.Digest(d), repo) {
				return
			}
		}
	}
}

// errPageFull says that a page ends before what was to be described.
var errPageFull = errors.New("the page is full")

// referrersPage is one page under way.
type referrersPage struct {
	r        *Registry
	subject  digest.Digest
	want     string // artifactType, "" for all
	said     int
	examined int
	read     int64         // bytes of manifests
	done     digest.Digest // the last one that was said
	last     string        // the last one that was looked at
}

// describe describes the manifest d of repo if it is there, names the subject, is of the type that is wanted and does
// not stand in the page yet. errPageFull: the page has looked at enough.
func (p *referrersPage) describe(ctx context.Context, repo string, d digest.Digest) (descriptor, bool, error) {
	if d == p.done {
		return descriptor{}, false, nil
	}
	if p.examined++; p.examined > maxExamined {
		return descriptor{}, false, errPageFull
	}
	h, err := statLink(p.r.tree, revisionPath(repo, d))
	if err != nil || h.digest != d { // deleted since
		return descriptor{}, false, nil
	}
	s := p.r.known(repo, d, needTypes)
	if s == nil || p.matches(s) && !s.has(needAnnotations) {
		if p.read > 0 && p.read+h.size > maxRead {
			return descriptor{}, false, errPageFull
		}
		p.read += h.size
		var err error
		s, err = p.r.summaryOf(ctx, d, h.size, true)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errUnreadable): // deleted since; or nobody's referrer
			return descriptor{}, false, nil
		case err != nil:
			return descriptor{}, false, err
		}
	}
	if !p.matches(s) {
		return descriptor{}, false, nil
	}
	return descriptor{MediaType: s.MediaType, Digest: d, Size: h.size, ArtifactType: s.artifactType(),
		Annotations: s.Annotations}, true, nil
}

func (p *referrersPage) matches(s *summary) bool {
	return s.Subject == p.subject && (p.want == "" || s.artifactType() == p.want)
}
