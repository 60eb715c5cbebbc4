package appliance

import (
	"net/http"
	"testing"

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
}
