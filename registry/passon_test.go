package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A request is passed on only if it is part of a push, by its path and method, and its user may push.
func TestWhatIsPassedOn(t *testing.T) {
	var to []string
	s := newPusher(t, func(c *Config) {
		c.Node = "n1"
		c.PassOn = func(w http.ResponseWriter, r *http.Request, node string) bool {
			to = append(to, node)
			w.WriteHeader(http.StatusTeapot)
			return true
		}
	})
	const session = "/v2/team/app/blobs/uploads/00000000-0000-4000-8000-000000000000"
	ann := basic("ann", "secret")
	plain := View{Host: "registry.casemate.internal", Plain: true}
	passed := s.own
	passed.Passed = true
	for _, c := range []struct {
		view                View
		method, target, who string
		want                string // the node that it is passed on to, "any", or "" for none
	}{
		{s.own, "GET", session + "?_node=n2", ann, "n2"},
		{s.own, "PATCH", session + "?_state=x&_node=n2", ann, "n2"},
		{s.own, "PUT", session + "?_node=n2&digest=sha256:" + strings.Repeat("0", 64), ann, "n2"},
		{s.own, "DELETE", session + "?_node=n2", ann, "n2"},
		{s.own, "POST", "/v2/team/app/blobs/uploads/", ann, "any"},
		{s.own, "POST", "/v2/team/app/blobs/uploads/?_node=n2", ann, "any"},
		{s.own, "PUT", "/v2/team/app/manifests/1", ann, "any"},
		{s.own, "GET", session + "?_node=n1", ann, ""},
		{s.own, "GET", session, ann, ""},
		{passed, "GET", session + "?_node=n2", ann, ""}, // once
		{passed, "POST", "/v2/team/app/blobs/uploads/", ann, ""},
		// A user who may not push is refused here.
		{s.own, "GET", session + "?_node=n2", "", ""},
		{s.own, "GET", session + "?_node=n2", basic("ann", "guess"), ""},
		{s.own, "POST", "/v2/team/app/blobs/uploads/", "", ""},
		{plain, "GET", session + "?_node=n2", "", ""},
		{plain, "GET", session + "?_node=n2", ann, ""},
		{View{Origin: "docker.io", Host: "docker.io"}, "GET", "/v2/library/app/blobs/uploads/x?_node=n2", ann, ""},
		// What is no push is answered here, whatever it says.
		{s.own, "GET", "/v2/team/app/manifests/1?_node=n2", ann, ""},
		{s.own, "DELETE", "/v2/team/app/manifests/1?_node=n2", ann, ""},
		{s.own, "GET", "/v2/team/app/tags/list?_node=n2", ann, ""},
		{s.own, "GET", "/v2/?_node=n2", ann, ""},
		{s.own, "GET", "/v2/team/app/blobs/sha256:" + strings.Repeat("0", 64) + "?_node=n2", ann, ""},
		// Paths that another program might interpret differently.
		{s.own, "GET", "/v2/x/blobs/uploads/../../../../../member?_node=n2", ann, ""},
		{s.own, "POST", "/v2/x/blobs/uploads/../../../../../member?_node=n2", ann, ""},
		{s.own, "POST", "/v2/x/blobs/uploads/..?_node=n2", ann, ""},
		{s.own, "GET", "/v2/x/blobs/uploads/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/member?_node=n2", ann, ""},
		{s.own, "GET", "/v2/x/blobs/uploads/..%2f..%2f..%2f..%2f..%2fmember?_node=n2", ann, ""},
		{s.own, "PUT", "/v2/x/blobs/uploads//../../../../propose?_node=n2", ann, ""},
		{s.own, "GET", "/v2/../x/blobs/uploads/a?_node=n2", ann, ""},
		{s.own, "GET", "/v2//blobs/uploads/a?_node=n2", ann, ""},
		{s.own, "PUT", "/v2/x/manifests/..?_node=n2", ann, ""},
		{s.own, "POST", "/v2/x/blobs/uploads/./?_node=n2", ann, ""},
	} {
		to = nil
		r := httptest.NewRequest(c.method, "https://"+c.view.Host+c.target, nil)
		if c.who != "" {
			r.Header.Set("Authorization", c.who)
		}
		w := httptest.NewRecorder()
		s.reg.Serve(w, r, c.view)
		got := strings.Join(to, ",")
		if len(to) == 1 && to[0] == "" {
			got = "any"
		}
		if got != c.want || (w.Code == http.StatusTeapot) != (c.want != "") {
			t.Errorf("%s %s by %.12q: passed on to %q with %d, want %q", c.method, c.target, c.who, got, w.Code, c.want)
		}
		if p := Pushes(r); c.want != "" && !p {
			t.Errorf("%s %s: the other node would not take it", c.method, c.target)
		}
	}
}

// A node accepts from other nodes only requests that are part of a push.
func TestPushes(t *testing.T) {
	for _, c := range []struct {
		request string
		want    bool
	}{
		{"POST /v2/a/blobs/uploads/", true}, {"POST /v2/a/blobs/uploads", true},
		{"PATCH /v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000", true},
		{"GET /v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000", true}, {"PUT /v2/a/b/manifests/1", true},
		{"GET /v2/a/manifests/1", false}, {"DELETE /v2/a/manifests/1", false}, {"GET /v2/", false},
		{"GET /token", false},
		{"GET /v2/_catalog", false}, {"GET /member", false}, {"POST /propose", false}, {"GET /", false},
		{"GET /metrics", false},
		{"PUT /dl.k8s.io/x", false}, {"POST /v2/A/blobs/uploads/", false}, {"POST /v2/../blobs/uploads/", false},
		{"GET /v2/a/blobs/uploads/", false},
	} {
		method, target, _ := strings.Cut(c.request, " ")
		if got := Pushes(httptest.NewRequest(method, fmt.Sprint("https://x", target), nil)); got != c.want {
			t.Errorf("%s: %v", c.request, got)
		}
	}
}
