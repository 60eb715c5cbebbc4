package registry

import "testing"

// IsTag says of every name what NameOf says.
func TestIsTag(t *testing.T) {
	r := new(Registry)
	for name, want := range map[string]bool{
		tagPath("team/app", "v1"):                                       true,
		tagPath("registry.k8s.io/pause", "current"):                     true,
		tagsDir("team/app") + "/v1/index/sha256/abc/link":               false,
		"repositories/team/app/_layers/sha256/current/link":             false,
		"repositories/team/app/_manifests/revisions/sha256/abc/link":    false,
		"team/app/_manifests/tags/v1/current/link":                      false,
		"repositories/team/app/_manifests/tags/v1/current/link/further": false,
		"repositories/current/link":                                     false,
		"current/link":                                                  false,
		"":                                                              false,
	} {
		if got := IsTag([]byte(name)); got != want {
			t.Errorf("%q: %v", name, got)
		}
		if _, tag, _, _ := r.NameOf(name); (tag != "") != want {
			t.Errorf("%q: NameOf says %q", name, tag)
		}
	}
}
