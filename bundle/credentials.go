package bundle

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

var (
	// credentials are parameters of queries that are a credential, in lower case.
	credentials = []string{"token", "access_token", "key", "apikey", "api_key", "password", "auth", "jwt"}
	// signatures are parameters that sign the whole query, and signaturePrefixes how others of that kind begin.
	signatures        = []string{"sig", "signature"}
	signaturePrefixes = []string{"x-amz-", "x-goog-"}
	// versions are parameters of signed queries that select the content (Amazon S3, Google Cloud Storage).
	versions = []string{"versionid", "generation"}
)

// WithoutCredentials returns a URL without user, password and the parameters of its query that carry a credential. Of a
// signed query (presigned URLs of object stores) nothing is left but the version of the object: everything else in it
// is made anew for each request. The rest keeps its spelling.
func WithoutCredentials(rawURL string) string {
	rest, fragment, hasFragment := strings.Cut(rawURL, "#")
	at, query, has := strings.Cut(rest, "?")
	if scheme, host, ok := strings.Cut(at, "://"); ok {
		authority, path, slash := strings.Cut(host, "/")
		if i := strings.LastIndexByte(authority, '@'); i >= 0 {
			at = scheme + "://" + authority[i+1:]
			if slash {
				at += "/" + path
			}
		}
	}
	if query = WithoutSecrets(query); has && query != "" {
		at += "?" + query
	}
	if hasFragment {
		at += "#" + fragment
	}
	return at
}

// WithoutSecrets is WithoutCredentials for a query alone, without its question mark.
func WithoutSecrets(query string) string {
	if query == "" {
		return ""
	}
	parts := strings.Split(query, "&")
	signed := slices.ContainsFunc(parts, func(p string) bool { return isSignature(parameter(p)) })
	kept := slices.DeleteFunc(parts, func(p string) bool {
		name := parameter(p)
		return slices.Contains(credentials, name) || signed && !slices.Contains(versions, name)
	})
	return strings.Join(kept, "&")
}

// Signed reports whether a URL has a parameter that carries a credential.
func Signed(u *url.URL) bool { return WithoutSecrets(u.RawQuery) != u.RawQuery }

// parameter returns the name of a part of a query, in lower case.
func parameter(part string) string {
	name, _, _ := strings.Cut(part, "=")
	if plain, err := url.QueryUnescape(name); err == nil {
		name = plain
	}
	return strings.ToLower(name)
}

func isSignature(name string) bool {
	return slices.Contains(signatures, name) ||
		slices.ContainsFunc(signaturePrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// DropCredentials removes the credentials from the URLs of an index that is to be written, see WithoutCredentials. Names
// that are the same then are one. An error names two that have different content.
func (ix *Index) DropCredentials() error {
	files := map[string]string{}
	var err error
	ix.Files = slices.DeleteFunc(ix.Files, func(f File) bool {
		url := WithoutCredentials(f.URL)
		digest, known := files[url]
		if known && digest != f.Digest {
			err = fmt.Errorf("%s has two contents, which only a credential in its address tells apart: leave one of them "+
				"out", url)
		}
		files[url] = f.Digest
		return known
	})
	for i := range ix.Files {
		ix.Files[i].URL, ix.Files[i].From = WithoutCredentials(ix.Files[i].URL), WithoutCredentials(ix.Files[i].From)
	}
	for i := range ix.Images {
		ix.Images[i].From = WithoutCredentials(ix.Images[i].From)
	}
	from := map[string]bool{}
	ix.Redirects = slices.DeleteFunc(ix.Redirects, func(r Redirect) bool {
		url := WithoutCredentials(r.From)
		_, file := files[url]
		known := from[url] || file || url == WithoutCredentials(r.To)
		from[url] = true
		return known
	})
	for i, r := range ix.Redirects {
		ix.Redirects[i] = Redirect{WithoutCredentials(r.From), WithoutCredentials(r.To)}
	}
	for i, a := range ix.Absent {
		name := WithoutCredentials(a.Name)
		ix.Absent[i] = Absent{name, strings.ReplaceAll(a.Why, a.Name, name)}
	}
	slices.SortStableFunc(ix.Absent, func(a, b Absent) int { return cmp.Compare(a.Name, b.Name) })
	ix.Absent = slices.CompactFunc(ix.Absent, func(a, b Absent) bool { return a.Name == b.Name })
	for i := range ix.Unverified {
		ix.Unverified[i].URL = WithoutCredentials(ix.Unverified[i].URL)
	}
	return err
}
