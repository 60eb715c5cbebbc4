// Package byterange bounds what a Range header may cost a server (RFC 9110, section 14).
//
// Each part of a multi-range answer costs a header and a seek, whatever was asked for. After Bound, the cost of an
// answer follows what is sent.
package byterange

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// maxRanges bounds the parts of one multi-range answer; a request for more gets the whole content (RFC 9110, section
// 14.2, allows that).
const maxRanges = 32

// Bound returns r as http.ServeContent may see it for content of size bytes: without a Range header that asks for more
// than 32 parts or in a unit that is not bytes, and with ranges that overlap or touch merged into one, in the order of
// their first bytes (RFC 9110, sections 14.2 and 15.3.7.2). A malformed header is left for http.ServeContent to
// reject. Bound does not change r.
func Bound(r *http.Request, size int64) *http.Request {
	asked := r.Header.Get("Range")
	if asked == "" {
		return r
	}
	specs, isBytes := strings.CutPrefix(asked, "bytes=")
	// An unknown unit must be ignored (RFC 9110, section 14.2); http.ServeContent would answer 416.
	if !isBytes || strings.Count(specs, ",") >= maxRanges {
		return withRange(r, "")
	}
	if merged, ok := merge(specs, size); ok {
		return withRange(r, merged)
	}
	return r
}

func withRange(r *http.Request, value string) *http.Request {
	r = r.Clone(r.Context())
	if r.Header.Del("Range"); value != "" {
		r.Header.Set("Range", value)
	}
	return r
}

// merge merges the ranges of a list that overlap or touch; ok is false if none do, or if an element is not a range.
func merge(specs string, size int64) (merged string, ok bool) {
	type span struct{ first, end int64 } // the bytes from first on and before end
	var spans []span
	for spec := range strings.SplitSeq(specs, ",") {
		if spec = strings.TrimSpace(spec); spec == "" {
			continue
		}
		from, to, dash := strings.Cut(spec, "-")
		first, err1 := strconv.ParseUint(cmp.Or(from, "0"), 10, 63)
		last, err2 := strconv.ParseUint(cmp.Or(to, "0"), 10, 63)
		s := span{int64(first), size}
		switch {
		case !dash || err1 != nil || err2 != nil || from == "" && to == "":
			return "", false
		case from == "":
			s.first = max(0, size-int64(last))
		case to != "" && last < first:
			return "", false
		case to != "":
			s.end = min(size, int64(last)+1)
		}
		if s.first < s.end { // an unsatisfiable range is skipped if another one can be served
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var list []span
	for _, s := range spans {
		if n := len(list); n > 0 && s.first <= list[n-1].end {
			list[n-1].end = max(list[n-1].end, s.end)
		} else {
			list = append(list, s)
		}
	}
	if len(list) == len(spans) {
		return "", false
	}
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d-%d", s.first, s.end-1)
	}
	return "bytes=" + b.String(), true
}
