package appliance

import (
	"crypto/tls"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"casemate/appliance/setup"
)

// A rotation is not finished while a client that was seen has not fetched the new root, and status says so.
func TestFinishWaitsForClients(t *testing.T) {
	t.Parallel()
	n := freshNode(t, setup.InitOptions{Set: map[string]string{"pki.overlap": "off"}})
	come := func(service, path, from string, status int) {
		r := httptest.NewRequest("GET", "https://casemate.internal"+path, nil)
		r.TLS, r.RemoteAddr = &tls.ConnectionState{}, from+":40000"
		n.requested(service, r, status, 1, time.Millisecond)
	}
	come("registry", "/v2/", "10.0.0.30", 200) // before
	n.must("POST", "ca/rotate", map[string]any{"permit": []string{"new.example"}}, nil)
	come("pages", "/enroll", "10.0.0.31", 200)
	come("registry", "/v2/", "10.0.0.31", 200)
	come("files", "/ca.crt", "10.0.0.32", 200) // a file of that name
	come("pages", "/ca.crt", "10.0.0.33", 503)
	finish := map[string]any{"finish": true}
	status, says := n.admin("POST", "ca/rotate", finish, nil)
	if status != 409 || !strings.Contains(says, "2 clients that were here within 24 hours have not fetched the new "+
		"root: 10.0.0.32, 10.0.0.33") {
		t.Fatalf("got %d %s", status, says)
	}
	var st struct{ Warnings []string }
	n.must("GET", "status", nil, &st)
	if all := strings.Join(st.Warnings, "\n"); !strings.Contains(all,
		"clients that have fetched the new one: 1; 2 clients") {
		t.Errorf("status warns: %s", all)
	}
	come("pages", "/ca.crt", "10.0.0.32", 200)
	come("pages", "/enroll", "10.0.0.33", 200)
	n.must("POST", "ca/rotate", finish, nil)
	var undone struct{ Undone string }
	n.must("POST", "ca/rotate", map[string]any{"undo": true}, &undone)
	if undone.Undone != "finish" {
		t.Errorf("got %+v", undone)
	}
	if status, says := n.admin("POST", "ca/rotate", map[string]any{"undo": true, "finish": true}, nil); status != 400 {
		t.Errorf("got %d %s", status, says)
	}
}
