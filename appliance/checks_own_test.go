package appliance

import (
	"testing"

	"casemate/appliance/content"
	"casemate/appliance/setup"
	"casemate/bundle/lists"
)

// What an inventory in mirror mode makes clients ask is what a check of these names finds: the bastions' own names
// stand for their origins.
func TestCheckKnowsTheBastionsOwnNames(t *testing.T) {
	n := freshNode(t, setup.InitOptions{})
	n.pusher()("registry.k8s.io/pause:3.10", imageFor(t, "amd64"))
	n.must("PUT", "files?url=https://dl.k8s.io/release/v1/kubelet", "kubelet", nil)
	for _, c := range []struct {
		name string
		here bool
	}{
		{"https://files.casemate.internal/dl.k8s.io/release/v1/kubelet", true},
		{"http://files.casemate.internal:80/dl.k8s.io/release/v1/kubelet", true},
		{"https://casemate.internal/files/dl.k8s.io/release/v1/kubelet", true},
		{"https://n1.casemate.internal/files/dl.k8s.io/release/v1/kubelet", true},
		{"https://files.casemate.internal/dl.k8s.io/release/v2/kubelet", false},
		{"https://files.casemate.internal/release/v1/kubelet", false},
		{"https://casemate.internal/dl.k8s.io/release/v1/kubelet", false},
		{"https://files.other.internal/dl.k8s.io/release/v1/kubelet", false},
		{"registry.casemate.internal/registry.k8s.io/pause", true},
		{"casemate.internal/registry.k8s.io/pause", true},
		{"registry.casemate.internal/pause", true},
		{"registry.other.internal/registry.k8s.io/pause", false},
	} {
		var req content.CheckRequest
		if c.name[:4] == "http" {
			req.Files = []lists.File{{URL: c.name}}
		} else {
			req.Images = []lists.Image{{Repository: c.name, Tag: "3.10"}}
		}
		var r content.Report
		n.must("POST", "check", req, &r)
		if here := r.Here == 1; here != c.here || r.Luck > 0 {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}
