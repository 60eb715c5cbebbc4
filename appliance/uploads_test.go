package appliance

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"casemate/appliance/access"
	"casemate/appliance/setup"
	"casemate/registry"
)

// TestStatusTellsOfUploads: the uploads that a node holds stand in its status.
func TestStatusTellsOfUploads(t *testing.T) {
	n := newNode(t, setup.InitOptions{})
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)
	res, _ := n.do("POST", "https://registry.casemate.internal/v2/team/app/blobs/uploads/", nil, func(r *http.Request) {
		r.SetBasicAuth("ada", "correct horse")
	})
	if res.StatusCode != 202 {
		t.Fatal(res.Status)
	}
	var s struct{ Uploads registry.Uploads }
	n.must("GET", "status", nil, &s)
	if u := s.Uploads; u.Open != 1 || u.Share == 0 || len(u.Users) != 1 || u.Users[0].User != "ada" ||
		u.Users[0].Open != 1 {
		t.Errorf("%+v", u)
	}
	// Whoever may not list users does not see them here.
	n.must("POST", "users", map[string]any{"name": "rob", "password": "correct horse",
		"roles": []access.Grant{{Role: "reader"}}}, nil)
	_, body := n.do("GET", "https://casemate.internal/v1/status", nil, func(r *http.Request) {
		r.SetBasicAuth("rob", "correct horse")
	})
	s.Uploads = registry.Uploads{}
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Uploads.Open != 1 || s.Uploads.Users == nil ||
		len(s.Uploads.Users) != 0 || strings.Contains(body, "ada") {
		t.Errorf("a reader sees %v %s", err, body)
	}
}
