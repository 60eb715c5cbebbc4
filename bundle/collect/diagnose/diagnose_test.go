package diagnose

import (
	"testing"
)

func TestArchitecture(t *testing.T) {
	for text, want := range map[string]string{
		"/release/v1.2.3/bin/linux/amd64/kubelet": "amd64", "runc.arm64": "arm64",
		"cni-plugins-linux-ppc64le-v1.tgz": "ppc64le", "yq_linux_amd64": "amd64", "tool-x86_64.tar.gz": "amd64",
		"charm-1.tgz": "", "amd64-and-arm64": "", "": "", "k3s-armhf": "arm", "sha256sum-amd64.txt": "amd64",
		"Linux_x86_64": "amd64",
	} {
		if got := architecture(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
