package lists

import (
	"slices"
	"strings"
	"testing"
)

func TestExclude(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct{ pattern, gone string }{
		{"quay.io", "quay.io/team/app:1 quay.io/team/db:2@" + digest},
		{"quay.io/team/", "quay.io/team/app:1 quay.io/team/db:2@" + digest},
		{"quay.io/tea", ""},
		{"quay.io/team/app", "quay.io/team/app:1"},
		{"quay.io/team/app:1", "quay.io/team/app:1"},
		{"quay.io/team/db:2", "quay.io/team/db:2@" + digest},
		{"quay.io/team/db:3", ""},
		{"*/db:?@*", "quay.io/team/db:2@" + digest},
		{"*", "quay.io/team/app:1 quay.io/team/db:2@" + digest + " docker.io/library/nginx:1 " +
			"https://dl.k8s.io/v1/kubeadm?x=1 chart c 1.0 of https://charts.example/x"},
		{"*nginx*", "docker.io/library/nginx:1"},
		{"dl.k8s.io", "https://dl.k8s.io/v1/kubeadm?x=1"},
		{"https://dl.k8s.io/*/kubeadm?x=1", "https://dl.k8s.io/v1/kubeadm?x=1"},
		{"https://charts.example/x c", "chart c 1.0 of https://charts.example/x"},
		{"charts.example/x c 1.0", "chart c 1.0 of https://charts.example/x"},
		{"charts.example/x c 2.0", ""},
		{"(", ""}, {"", ""},
	} {
		w := &Wanted{
			Images: []Image{
				{Repository: "quay.io/team/app", Tag: "1"},
				{Repository: "quay.io/team/db", Tag: "2", Digest: digest},
				{Repository: "docker.io/library/nginx", Tag: "1"},
			},
			Files:  []File{{URL: "https://dl.k8s.io/v1/kubeadm?x=1"}},
			Charts: []Chart{{Repo: "https://charts.example/x", Name: "c", Version: "1.0"}},
		}
		gone, idle := Exclude(w, []string{tt.pattern, "nothing"})
		if got := strings.Join(gone, " "); got != tt.gone {
			t.Errorf("%q: went %q, want %q", tt.pattern, got, tt.gone)
		}
		if !slices.Contains(idle, "nothing") || slices.Contains(idle, tt.pattern) != (tt.gone == "") ||
			len(w.Images)+len(w.Files)+len(w.Charts)+len(gone) != 5 {
			t.Errorf("%q: idle %q, left %+v", tt.pattern, idle, w)
		}
	}
}
