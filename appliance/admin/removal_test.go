package admin

import (
	"maps"
	"net/http"
	"strings"
	"testing"
)

// unplanned are the requests that remove something and have no dry run, with the reason.
var unplanned = map[string]string{
	"DELETE /v1/directory/{source}/secret": "what goes is a secret that the caller can set again",
	"DELETE /v1/imports/parts/{id}":        "it ends an upload that the same command has begun",
	"DELETE /v1/missing/entries":           "the caller names each entry",
	"DELETE /v1/settings/{key}":            "the setting has its default again",
	"DELETE /v1/upstream/logins/{host}":    "what goes is a secret that the caller can set again",
}

// Every request that removes something answers ?dry-run=1.
func TestRemovalsHaveADryRun(t *testing.T) {
	on := &routes{a: &API{}, mux: http.NewServeMux()}
	on.a.register(on)
	left := maps.Clone(unplanned)
	for _, r := range on.all {
		removes := strings.HasPrefix(r.pattern, "DELETE ") || strings.HasSuffix(r.pattern, "/revoke")
		if removes && !r.planned && unplanned[r.pattern] == "" {
			t.Errorf("%s has no dry run", r.pattern)
		}
		if removes && !r.planned {
			delete(left, r.pattern)
		}
	}
	if len(left) > 0 {
		t.Errorf("exceptions that are none: %v", left)
	}
}
