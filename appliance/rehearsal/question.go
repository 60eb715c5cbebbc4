package rehearsal

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"casemate/bundle"
	"casemate/bundle/credentials"
	"casemate/bundle/digests"
)

// Reasons why a request is not in the transcript.
const (
	NotRead   = "only GET and HEAD can be asked again"
	NeedsGit  = "it needs git: list the repository for casemate bundle create --git"
	NotServed = "its name is not an origin"
	Invalid   = "its address is not a valid one"
)

const maxGapName = 1024 // bytes

// ours reports a name of the rehearsal's own zone, or an address.
func ours(host, own string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || host == "" || host == own || strings.HasSuffix(host, "."+own)
}

// gapOf describes a request that is not recorded. The query is left out: it may be the credential.
func gapOf(r *http.Request, why string) *Gap {
	path := r.URL.EscapedPath()
	if why == NotRead && (strings.HasSuffix(path, "/git-upload-pack") || strings.HasSuffix(path, "/git-receive-pack")) {
		why = NeedsGit
	}
	return &Gap{Name: fmt.Sprintf("%.16s %.253s%.512s", r.Method, r.Host, path), Why: why}
}

// question describes a request and its answer; false if the answer is not the same the next time.
func question(r *http.Request, host string, status int, answer http.Header) (q bundle.Question, ok bool) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	q = bundle.Question{
		Method: r.Method, URL: credentials.Strip(scheme + "://" + host + r.URL.RequestURI()),
		Client: clientOf(r.UserAgent()), Status: status,
	}
	q.Digest = bundle.DigestIn(answer)
	if n, err := strconv.ParseInt(answer.Get("Content-Length"), 10, 64); err == nil && n > 0 {
		q.Size = n
	}
	if strings.Contains(r.URL.Path, "/manifests/") {
		q.Accept = strings.Join(r.Header.Values("Accept"), ", ")
	}
	if listing(r.URL.Path) {
		q.Digest, q.Size = "", 0
	}
	switch status {
	case http.StatusOK:
	case http.StatusPartialContent:
		q.Status, q.Size = http.StatusOK, 0
		if _, total, found := strings.Cut(answer.Get("Content-Range"), "/"); found {
			if n, err := strconv.ParseInt(total, 10, 64); err == nil && n > 0 {
				q.Size = n
			}
		}
	case http.StatusNotModified:
		q.Held, q.Size = strings.Trim(r.Header.Get("If-None-Match"), `"`), 0
		if digests.Check(q.Held) != nil { // it was a date, or another server's tag
			q.Held, q.Status = "", http.StatusOK
		}
	case http.StatusNotFound, http.StatusGone:
		q.Digest, q.Size = "", 0
	default:
		to, err := url.Parse(answer.Get("Location"))
		if err != nil || status < 300 || status > 399 {
			return q, false
		}
		to = r.URL.ResolveReference(to)
		if to.Host == "" {
			to.Scheme, to.Host = scheme, host
		}
		to.RawQuery, to.ForceQuery, to.Fragment, to.User = "", false, "", nil
		q.Location, q.Digest, q.Size = to.String(), "", 0
	}
	return q, true
}

// listing reports a path whose answer lists what there is, which grows: only its status is the same again.
func listing(path string) bool {
	return strings.HasPrefix(path, "/v2/") && (strings.HasSuffix(path, "/tags/list") ||
		strings.HasSuffix(path, "/_catalog") || strings.Contains(path, "/referrers/"))
}

// programs are the known clients, as their User-Agent begins. Others are not written: a User-Agent may be anything.
var programs = []string{
	"containerd", "docker", "buildkit", "cri-o", "podman", "skopeo", "crane", "go-containerregistry", "nerdctl", "helm",
	"oras", "curl", "wget", "debian apt-http", "libdnf", "pip", "uv", "ansible-httpget", "git", "go-http-client",
	"python-urllib",
}

func clientOf(agent string) string {
	agent = strings.ToLower(agent)
	for _, p := range programs {
		if strings.HasPrefix(agent, p) {
			return p
		}
	}
	return ""
}
