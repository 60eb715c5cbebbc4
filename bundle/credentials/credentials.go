// Package credentials tells which parts of a URL are a credential, so that nothing writes them down: neither those who
// store content under its URL, nor those who record what was asked.
package credentials

import (
	"net/url"
	"slices"
	"strings"
)

var (
	// secrets are parameters of queries that are a credential, in lower case.
	secrets = []string{"token", "access_token", "key", "apikey", "api_key", "password", "auth", "jwt"}
	// signatures are parameters that sign the whole query, and signaturePrefixes how others of that kind begin.
	signatures        = []string{"sig", "signature"}
	signaturePrefixes = []string{"x-amz-", "x-goog-"}
	// versions are parameters of signed queries that select the content (Amazon S3, Google Cloud Storage).
	versions = []string{"versionid", "generation"}
)

// Strip returns a URL without user, password and the parameters of its query that carry a credential. Of a
// signed query (presigned URLs of object stores) nothing is left but the version of the object: everything else in it
// is made anew for each request. The rest keeps its spelling.
func Strip(rawURL string) string {
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
	if query = StripQuery(query); has && query != "" {
		at += "?" + query
	}
	if hasFragment {
		at += "#" + fragment
	}
	return at
}

// StripQuery is Strip for a query alone, without its question mark.
func StripQuery(query string) string {
	if query == "" {
		return ""
	}
	parts := strings.Split(query, "&")
	signed := slices.ContainsFunc(parts, func(p string) bool { return isSignature(parameter(p)) })
	kept := slices.DeleteFunc(parts, func(p string) bool {
		name := parameter(p)
		return slices.Contains(secrets, name) || signed && !slices.Contains(versions, name)
	})
	return strings.Join(kept, "&")
}

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
