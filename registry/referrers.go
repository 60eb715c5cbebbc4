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
	// maxReferrers bounds one page of referrers in bytes (distribution-spec: clients accept 4 MiB); the Link header
	// leads to the next.
	maxReferrers = 3 << 20
	// maxExamined bounds how many referrers one page examines, including those that the filter rejects.
	maxExamined = 10_000
)

// maxRead bounds the bytes of manifests that one page reads: those without a record, and those whose annotations do not
// fit the record. At least one is read. Tests lower it.
var maxRead int64 = 8 << 20

// serveReferrers answers GET referrers/DIGEST: an index of the existing manifests whose subject is the digest, in the
// order of their digests. An unknown digest has an empty list, not a 404 (distribution-spec "Listing referrers").
//
// The cost of a page depends on its own size and not on that of the manifests: it comes from records (summary.go). A
// page may be empty and have a next one: the filter has rejected all entries.
//
// Clients that met a registry without this API keep such a list under a tag themselves. That list is ignored: its
// entries may be gone, or be of another type. Those that exist are listed by their own content.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {
	q := req.URL.Query()
	want, last := q.Get("artifactType"), q.Get("last")
	if last != "" && !tree.ValidDigest(last) {
		writeError(w, req, errDigestInvalid.with("last is the digest at which the previous page ended"))
		return
	}
	if err := r.fetchReferrers(req, &rt); err != nil {
		r.refused(w, req, &rt, errManifestUnknown, err)
		return
	}
	var body bytes.Buffer
	body.WriteString(`{"schemaVersion":2,"mediaType":"` + typeOCIIndex + `","manifests":[`)
	page := referrersPage{r: r, subject: rt.digest, want: want}
	next := ""
	for d, repo := range r.referrers(rt, last) {
		if req.Context().Err() != nil {
			return // the client is gone
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

// referrers yields the links among the referrers of rt's digest after last, in the order of their digests, with the
// repository of each link. A referrer that several repositories have is yielded once for each.
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

// errPageFull means that the page ends before the referrer that was to be described.
var errPageFull = errors.New("the page is full")

// referrersPage is one page being built.
type referrersPage struct {
	r        *Registry
	subject  digest.Digest
	want     string // requested artifactType, "" for all
	said     int
	examined int
	read     int64         // bytes of manifests
	done     digest.Digest // the last one on the page
	last     string        // the last one examined
}

// describe adds the manifest d of repo if it exists, has the subject, is of the requested type and is not on the page
// yet. errPageFull: the page has examined enough.
func (p *referrersPage) describe(ctx context.Context, repo string, d digest.Digest) (descriptor, bool, error) {
	if d == p.done {
		return descriptor{}, false, nil
	}
	if p.examined++; p.examined > maxExamined {
		return descriptor{}, false, errPageFull
	}
	h, err := statLink(p.r.tree, revisionPath(repo, d))
	if err != nil || h.digest != d { // deleted meanwhile
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
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errUnreadable): // deleted meanwhile, or not a referrer
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
