package appliance

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"casemate/appliance/access"
	"casemate/appliance/setup"
)

// TestALimitedAccountStaysInItsPrefixes tries to get with an account for images below "team" and files below
// dl.k8s.io/tools to anything else, by every entry point and spelling, where reading needs an account.
func TestALimitedAccountStaysInItsPrefixes(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	add := func(name string, g access.Grant) {
		n.must("POST", "users", map[string]any{"name": name, "password": "correct horse",
			"roles": []access.Grant{g}}, nil)
	}
	add("boss", access.Grant{Role: "admin"})
	add("ci", access.Grant{Role: "pusher", Images: []string{"team"}, Files: []string{"dl.k8s.io/tools"}})
	add("eye", access.Grant{Role: "reader", Images: []string{"team"}, Files: []string{"dl.k8s.io/tools"}})
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	const (
		images = "https://registry.casemate.internal"
		files  = "https://files.casemate.internal"
		own    = "https://n1.casemate.internal"
	)
	as := func(name string) func(*http.Request) {
		return func(r *http.Request) {
			r.SetBasicAuth(name, "correct horse")
			r.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		}
	}
	do := func(want int, name, method, url, body string) string {
		t.Helper()
		resp, text := n.do(method, url, strings.NewReader(body), as(name))
		if resp.StatusCode != want {
			t.Fatalf("%s %s by %s: %d %s", method, url, name, resp.StatusCode, text)
		}
		return text
	}
	const layer = "the secret layer"
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(layer)))
	index := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	subject := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(index)))
	for _, repo := range []string{"team/app", "teams/app", "secret/app"} {
		do(201, "boss", "PUT", images+"/v2/"+repo+"/manifests/1", index)
	}
	resp, _ := n.do("POST", images+"/v2/secret/app/blobs/uploads/?digest="+digest, strings.NewReader(layer), as("boss"))
	if resp.StatusCode != 201 && resp.StatusCode != 202 {
		t.Fatal(resp.Status)
	}
	for _, path := range []string{"tools/x", "toolsecret/x", "secret/x"} {
		do(201, "boss", "PUT", files+"/dl.k8s.io/"+path, "x")
	}
	type try struct{ method, url, body string }
	refused := func(name string, list ...try) {
		t.Helper()
		for _, c := range list {
			resp, body := n.do(c.method, c.url, strings.NewReader(c.body), as(name))
			if resp.StatusCode/100 != 4 {
				t.Errorf("%s %s by %s: %d %.200s", c.method, c.url, name, resp.StatusCode, body)
			}
		}
	}
	refused("ci",
		try{"GET", images + "/v2/secret/app/manifests/1", ""},
		try{"HEAD", images + "/v2/secret/app/manifests/1", ""},
		try{"GET", images + "/v2/secret/app/manifests/" + subject, ""},
		try{"GET", images + "/v2/secret/app/tags/list", ""},
		try{"GET", images + "/v2/secret/app/referrers/" + subject, ""},
		try{"GET", images + "/v2/secret/app/blobs/" + digest, ""},
		try{"HEAD", images + "/v2/secret/app/blobs/" + digest, ""},
		try{"GET", images + "/v2/team/app/blobs/" + digest, ""},
		try{"HEAD", images + "/v2/team/app/blobs/" + digest, ""},
		try{"PUT", images + "/v2/teams/app/manifests/2", index},
		try{"PUT", images + "/v2/Team/app/manifests/2", index},
		try{"PUT", images + "/v2/TEAM/manifests/2", index},
		try{"PUT", images + "/v2/team/../secret/app/manifests/2", index},
		try{"PUT", images + "/v2/team/%2e%2e/secret/app/manifests/2", index},
		try{"PUT", images + "/v2/team%2f..%2fsecret/app/manifests/2", index},
		try{"PUT", images + "/v2/team//../secret/app/manifests/2", index},
		try{"PUT", images + "/v2/secret/app/manifests/2?ns=team", index},
		try{"PUT", images + "/v2/app/manifests/2?ns=team", index},
		try{"PUT", images + "/v2/team/app/manifests/2?ns=registry.k8s.io", index},
		try{"PUT", images + "/v2/registry.k8s.io/team/app/manifests/2", index},
		try{"PUT", images + "/v2/docker.io/team/app/manifests/2", index},
		try{"DELETE", images + "/v2/secret/app/manifests/1", ""},
		try{"DELETE", images + "/v2/secret/app/manifests/" + subject, ""},
		try{"DELETE", images + "/v2/teams/app/manifests/1", ""},
		try{"DELETE", images + "/v2/secret/app/blobs/" + digest, ""},
		try{"POST", images + "/v2/secret/app/blobs/uploads/", ""},
		try{"POST", images + "/v2/secret/app/blobs/uploads/?mount=" + digest + "&from=secret/app", ""},
		try{"PUT", files + "/dl.k8s.io/secret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/toolsecret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/Tools/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools/../secret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools/%2e%2e/secret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools/%2E./secret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools%2f..%2fsecret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools/..%2fsecret/x", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools%2fx", "evil"},
		try{"PUT", files + "/dl.k8s.io/tools?x", "evil"},
		try{"PUT", files + "/registry.k8s.io/tools/x", "evil"},
		try{"DELETE", files + "/dl.k8s.io/secret/x", ""},
		try{"DELETE", files + "/dl.k8s.io/tools/../secret/x", ""},
		try{"PUT", own + "/v1/files?url=https://dl.k8s.io/secret/x", "evil"},
		try{"PUT", own + "/v1/files?url=https://dl.k8s.io/tools/../secret/x", "evil"},
		try{"PUT", own + "/v1/files?url=https://dl.k8s.io/tools/%252e%252e/secret/x", "evil"},
		try{"PUT", own + "/v1/files?url=dl.k8s.io/secret/x://dl.k8s.io/tools/x", "evil"},
		try{"PUT", own + "/v1/files?url=https://dl.k8s.io/secret/x%23://dl.k8s.io/tools/x", "evil"},
		try{"PUT", own + "/v1/files?url=https://dl.k8s.io/secret/x&url=https://dl.k8s.io/tools/x", "evil"},
		try{"DELETE", own + "/v1/files?url=https://dl.k8s.io/secret/x", ""},
		try{"DELETE", own + "/v1/images?ref=secret/app:1", ""},
		try{"DELETE", own + "/v1/images?ref=secret/app:1&ref=team/app:1", ""},
		try{"DELETE", own + "/v1/images?ref=teams/app", ""},
		try{"DELETE", own + "/v1/images?ref=secret/app@" + subject, ""},
		try{"DELETE", own + "/v1/images?ref=team/../secret/app:1", ""},
		try{"GET", own + "/v1/images", ""}, try{"GET", own + "/v1/files", ""},
		try{"GET", own + "/v1/browse?kind=image", ""}, try{"GET", own + "/v1/search?q=secret", ""},
		try{"GET", own + "/v1/blobs/" + digest, ""}, try{"GET", own + "/v1/inventory", ""},
		try{"GET", own + "/v1/files/content?url=https://dl.k8s.io/secret/x", ""},
		try{"GET", own + "/v1/images/manifest?ref=secret/app:1", ""},
		try{"GET", own + "/v1/images/show?ref=secret/app:1", ""},
		try{"POST", own + "/v1/check", `{"images":[{"repository":"secret/app"}]}`},
		try{"POST", own + "/v1/bundle", `{"everything":true}`},
		try{"POST", own + "/v1/apikeys", `{"name":"x","roles":[{"role":"pusher"}]}`},
		try{"PUT", own + "/v1/users/boss", `{"password":"mine now"}`},
		try{"PUT", own + "/v1/settings/registry.anonymous", `{"value":"pull"}`},
	)
	refused("eye",
		try{"PUT", images + "/v2/team/app/manifests/2", index},
		try{"DELETE", images + "/v2/team/app/manifests/1", ""},
		try{"POST", images + "/v2/team/app/blobs/uploads/", ""},
		try{"PUT", files + "/dl.k8s.io/tools/y", "x"},
		try{"DELETE", own + "/v1/images?ref=team/app:1", ""},
		try{"PATCH", images + "/v2/team/app/blobs/uploads/00000000-0000-0000-0000-000000000000", "x"},
	)
	// A layer of another repository is not mounted: the client has to send it.
	do(202, "ci", "POST", images+"/v2/team/app/blobs/uploads/?mount="+digest+"&from=secret/app", "")
	do(202, "ci", "POST", images+"/v2/team/app/blobs/uploads/?mount="+digest, "")
	refused("ci", try{"GET", images + "/v2/team/app/blobs/" + digest, ""})
	// Lists have what it may read.
	for _, name := range []string{"ci", "eye"} {
		if text := do(200, name, "GET", images+"/v2/_catalog", ""); strings.Contains(text, "secret") ||
			strings.Contains(text, "teams") || !strings.Contains(text, "team/app") {
			t.Errorf("the catalog of %s: %s", name, text)
		}
		if text := do(200, name, "GET", images+"/v2/_catalog?n=1&last=secret", ""); strings.Contains(text, "secret") ||
			strings.Contains(text, "teams") {
			t.Errorf("a page of the catalog of %s: %s", name, text)
		}
	}
	// A token has no more than the account, whatever it is asked for.
	var token struct{ Token string }
	scope := "/token?scope=repository:team/app:pull,push&scope=repository:secret/app:pull,push,delete,*" +
		"&scope=registry:catalog:*"
	if err := json.Unmarshal([]byte(do(200, "ci", "GET", images+scope, "")), &token); err != nil {
		t.Fatal(err)
	}
	bearer := func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+token.Token)
		r.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	}
	for _, c := range []struct {
		method, url string
		may         bool
	}{
		{"GET", images + "/v2/team/app/manifests/1", true}, {"PUT", images + "/v2/team/app/manifests/2", true},
		{"GET", images + "/v2/secret/app/manifests/1", false}, {"PUT", images + "/v2/secret/app/manifests/2", false},
		{"PUT", images + "/v2/team/other/manifests/2", false}, // the token was not asked for it
		{"DELETE", images + "/v2/secret/app/manifests/1", false}, {"GET", own + "/v1/whoami", false},
		{"PUT", files + "/dl.k8s.io/tools/z", false},
	} {
		if resp, body := n.do(c.method, c.url, strings.NewReader(index), bearer); (resp.StatusCode/100 == 2) != c.may {
			t.Errorf("%s %s with a token: %d %s", c.method, c.url, resp.StatusCode, body)
		}
	}
	// What it may is what it could all the time.
	do(201, "ci", "PUT", images+"/v2/team/app/manifests/3", index)
	do(201, "ci", "PUT", files+"/dl.k8s.io/tools/y", "y")
	do(200, "ci", "PUT", own+"/v1/files?url=https://dl.k8s.io/tools/y", "z")
	do(204, "ci", "DELETE", own+"/v1/images?ref=team/app:3", "")
	// A role that is taken away ends the token, and so does the end of the user.
	n.must("DELETE", "accounts/ci/roles/pusher", nil, nil)
	if resp, body := n.do("GET", images+"/v2/team/app/manifests/1", nil, bearer); resp.StatusCode != 401 {
		t.Errorf("a token after its role was revoked: %d %s", resp.StatusCode, body)
	}
	refused("ci", try{"GET", images + "/v2/team/app/manifests/1", ""})
	// Everything is as it was.
	for _, path := range []string{"toolsecret/x", "secret/x"} {
		if text := do(200, "boss", "GET", own+"/v1/files/content?url=https://dl.k8s.io/"+path, ""); text != "x" {
			t.Errorf("%s is %q", path, text)
		}
	}
	for _, repo := range []string{"teams/app", "secret/app"} {
		text := do(200, "boss", "GET", images+"/v2/"+repo+"/tags/list", "")
		if !strings.Contains(text, `"tags":["1"]`) {
			t.Errorf("%s has %s", repo, text)
		}
	}
}
