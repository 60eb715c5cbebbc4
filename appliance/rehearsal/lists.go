package rehearsal

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/bundle/digests"
	"casemate/fileserver/ospackages"
)

// Images returns the images of a transcript as a list of references, pinned to the digests that were used.
func Images(questions []bundle.Question) (list []string) {
	tagged := map[string]bool{} // repository@digest that a tag has
	for _, wantTag := range []bool{true, false} {
		for _, q := range questions {
			repository, reference, ok := manifest(&q)
			byDigest := strings.Contains(reference, ":")
			if !ok || byDigest == wantTag || q.Status != http.StatusOK && q.Status != http.StatusNotModified {
				continue
			}
			at := repository + "@" + q.Digest
			switch {
			case byDigest && !tagged[repository+"@"+reference]:
				list = append(list, repository+"@"+reference)
			case byDigest:
			case q.Digest == "":
				list = append(list, repository+":"+reference)
			default:
				tagged[at] = true
				list = append(list, repository+":"+reference+"@"+q.Digest)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Files returns the files of a transcript as a list of URLs, each with its digest if it is known.
func Files(questions []bundle.Question) (list []string) {
	for _, q := range questions {
		switch {
		case registryPath(q.URL) || q.Status >= http.StatusBadRequest:
		case digests.Check(q.Digest) == nil:
			list = append(list, q.URL+" "+q.Digest)
		default:
			list = append(list, q.URL)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	// A URL that was also asked before its digest was known.
	return slices.DeleteFunc(list, func(line string) bool {
		i, _ := slices.BinarySearch(list, line+" ")
		return !strings.Contains(line, " ") && i < len(list) && strings.HasPrefix(list[i], line+" ")
	})
}

// Packages returns the packages of operating systems that were downloaded as a list of NAME:ARCH, or NAME for packages
// of all processors. The version is a comment: the names of files do not have its epoch, without which a repository
// does not find it.
func Packages(questions []bundle.Question) (list []string) {
	for _, q := range questions {
		u, err := url.Parse(q.URL)
		if err != nil || q.Status >= http.StatusBadRequest || registryPath(q.URL) {
			continue
		}
		p, ok := ospackages.ParseFileName(path.Base(u.EscapedPath()))
		if !ok {
			continue
		}
		name := p.Name
		if p.Arch != "all" && p.Arch != "noarch" {
			name += ":" + p.Arch
		}
		list = append(list, name+" # "+p.Version)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// manifest returns the repository, with its host, and the tag or digest of a question for a manifest.
func manifest(q *bundle.Question) (repository, reference string, ok bool) {
	u, err := url.Parse(q.URL)
	if err != nil {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	at := strings.LastIndex(rest, "/manifests/")
	if !ok || at <= 0 {
		return "", "", false
	}
	host := u.Host
	if host == "registry-1.docker.io" || host == "index.docker.io" {
		host = "docker.io"
	}
	reference = rest[at+len("/manifests/"):]
	return host + "/" + rest[:at], reference, reference != "" && !strings.Contains(reference, "/")
}

// registryPath reports a URL of a registry's API.
func registryPath(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	return ok && (rest == "" || rest == "_catalog" || strings.Contains(rest, "/manifests/") ||
		strings.Contains(rest, "/blobs/") || strings.Contains(rest, "/tags/list") ||
		strings.Contains(rest, "/referrers/"))
}
