package lists

import (
	"errors"
	"strings"
	"testing"

	"casemate/bundle/digests"
)

func checksums(t testing.TB, files ...string) *Checksums {
	t.Helper()
	all := &Checksums{}
	for i := 0; i < len(files); i += 2 {
		c, err := ReadChecksums(files[i], strings.NewReader(files[i+1]))
		if err != nil {
			t.Fatal(err)
		}
		all.Add(c)
	}
	return all
}

func TestChecksums(t *testing.T) {
	const hexC, hexD = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
		"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
	c := checksums(t, "dir/SUMS", "# made by sha256sum\n"+
		hexA+"  ./kubelet\r\n"+
		strings.ToUpper(hexB)+" *tool.tar.gz\n"+
		hexA+"  amd64/same\n"+hexB+"  arm64/same\n"+
		hexA+"  one/twice\n"+hexB+"  two/twice\n"+
		hexA+"  again\n"+hexA+"  x/again\n"+
		"\\"+hexC+"  a\\\\b\n"+
		hexA+hexB+"  both\n"+hexC+"  both\n"+
		hexD+"  with space\n\n"+
		"SHA256 (bsd-1.0.tgz) = "+hexC+"\nSHA512 (bsd-2.0.tgz) = "+hexC+hexD+"\nSHA2-256(openssl)= "+hexD+"\n",
		"releases/v1/kubectl.sha256", hexB+"\n",
		"helm.tgz.sha256sum", hexD)
	for _, x := range []struct{ url, digest, known string }{
		{"https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubelet", "sha256:" + hexA, "dir/SUMS:2: kubelet"},
		{"https://x/y/tool.tar.gz?download=1", "sha256:" + hexB, "dir/SUMS:3: tool.tar.gz"},
		{"https://x/v1/amd64/same", "sha256:" + hexA, "dir/SUMS:4: amd64/same"},
		{"https://x/v1/arm64/same", "sha256:" + hexB, "dir/SUMS:5: arm64/same"},
		{"https://x/v1/twice", "", "ambiguous: dir/SUMS:6: one/twice and dir/SUMS:7: two/twice"},
		{"https://x/v1/again", "sha256:" + hexA, "dir/SUMS:8: again"},
		{"https://x/a/b", "sha256:" + hexC, "dir/SUMS:10: a/b"},
		{"https://x/both", "sha256:" + hexC, "dir/SUMS:12: both"},
		{"https://x/with%20space", "sha256:" + hexD, "dir/SUMS:13: with space"},
		{"https://x/bsd-1.0.tgz", "sha256:" + hexC, "dir/SUMS:15: bsd-1.0.tgz"},
		{"https://x/bsd-2.0.tgz", "sha512:" + hexC + hexD, "dir/SUMS:16: bsd-2.0.tgz"},
		{"https://x/openssl", "sha256:" + hexD, "dir/SUMS:17: openssl"},
		{"https://x/kubectl", "sha256:" + hexB, "releases/v1/kubectl.sha256:1: kubectl"},
		{"https://x/helm.tgz", "sha256:" + hexD, "helm.tgz.sha256sum:1: helm.tgz"},
		{"https://x/kubelet.asc", "", ""},
		{"https://x/", "", ""},
		{"::", "", ""},
	} {
		digest, known, ok := c.Find(x.url)
		if digest != x.digest || known != x.known || ok != (x.digest != "") {
			t.Errorf("%s: got %s %q %v", x.url, digest, known, ok)
		}
	}
	if got := c.Other("sha256:" + hexD); got != "with space, openssl, helm.tgz" {
		t.Errorf("other: %q", got)
	}
	if _, _, ok := (*Checksums)(nil).Find("https://x/y"); ok || (*Checksums)(nil).Other("sha256:"+hexA) != "" ||
		new(Checksums).Other("x") != "" {
		t.Error("nothing knows something")
	}
}

func TestChecksumsComponents(t *testing.T) {
	c := checksums(t, "checksums.yml", `---
# a table in the shape of Kubespray's
kubelet_checksums:
  arm64:
    v1.35.4: sha256:`+hexA[:62]+`01
  amd64:
    v1.35.4: sha256:`+hexA[:62]+`02
    v1.35.3: `+hexA[:62]+`03
    v1.35.2: 0
containerd_archive_checksums:
  amd64:
    2.2.2: sha256:`+hexA[:62]+`04
containerd_static_archive_checksums:
  amd64:
    2.2.2: sha256:`+hexA[:62]+`05
nerdctl_archive_checksums:
  amd64:
    2.2.2: sha256:`+hexA[:62]+`06
gvisor_runsc_binary_checksums:
  amd64: {20240305: `+hexA[:62]+`07}
gvisor_containerd_shim_binary_checksums:
  amd64: {20240305: `+hexA[:62]+`08}
krew_archive_checksums:
  linux: {amd64: {v0.4.4: `+hexA[:62]+`09}}
  darwin: {amd64: {v0.4.4: `+hexA[:62]+`0a}}
ciliumcli_binary_checksums:
  amd64: {0.18.9: 'sha256:`+hexA[:62]+`0b'}
crio_archive_checksums:
  amd64: {1.35.0: 'sha256:`+hexA[:62]+`0c'}
calico_crds_checksums:
  no_arch: {3.31.5: 'sha256:`+hexA[:62]+`0d'}
gateway_api_standard_crds_checksums:
  no_arch: {1.5.1: 'sha256:`+hexA[:62]+`0e'}
gateway_api_experimental_crds_checksums:
  no_arch: {1.5.1: 'sha256:`+hexA[:62]+`0f'}
crun_checksums:
  amd64: {'1.17': 'sha256:`+hexA[:62]+`10', '1.1': 'sha256:`+hexA[:62]+`11'}
calico_crds_archive_checksums:
  v3.29.4: `+hexA[:62]+`12
note: not a table
`)
	const gh = "https://github.com/"
	for _, x := range []struct{ url, end, known string }{
		{"https://dl.k8s.io/release/v1.35.4/bin/linux/arm64/kubelet", "01", "checksums.yml:5: kubelet arm64 v1.35.4"},
		{"https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubelet", "02", "checksums.yml:7: kubelet amd64 v1.35.4"},
		{"https://dl.k8s.io/release/v1.35.3/bin/linux/amd64/kubelet", "03", "checksums.yml:8: kubelet amd64 v1.35.3"},
		{"https://dl.k8s.io/release/v1.35.2/bin/linux/amd64/kubelet", "", ""},
		{"https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubectl", "", ""},
		{"https://dl.k8s.io/release/v1.35.40/bin/linux/amd64/kubelet", "", ""},
		{"https://dl.k8s.io/release/v1.35.4-rc.1/bin/linux/amd64/kubelet", "", ""},
		{"https://dl.k8s.io/release/v1.35.4%2Bk3s1/bin/linux/amd64/kubelet", "", ""},
		{gh + "containerd/containerd/releases/download/v2.2.2/containerd-2.2.2-linux-amd64.tar.gz", "04",
			"checksums.yml:12: containerd amd64 2.2.2"},
		{gh + "containerd/containerd/releases/download/v2.2.2/containerd-static-2.2.2-linux-amd64.tar.gz", "05",
			"checksums.yml:15: containerd_static amd64 2.2.2"},
		{gh + "containerd/nerdctl/releases/download/v2.2.2/nerdctl-2.2.2-linux-amd64.tar.gz", "06",
			"checksums.yml:18:" +
				" nerdctl amd64 2.2.2"},
		{gh + "containerd/other/releases/download/v2.2.2/other-2.2.2-linux-amd64.tar.gz", "", ""},
		{"https://storage.googleapis.com/gvisor/releases/release/20240305/x86_64/runsc", "07", "checksums.yml:20: " +
			"gvisor_runsc amd64 20240305"},
		{"https://storage.googleapis.com/gvisor/releases/release/20240305/x86_64/" +
			"containerd-shim-runsc-v1", "08", "checksums.yml:22: gvisor_containerd_shim amd64 20240305"},
		{gh + "kubernetes-sigs/krew/releases/download/v0.4.4/krew-linux_amd64.tar.gz", "09", "checksums.yml:24: krew " +
			"linux amd64 v0.4.4"},
		{gh + "kubernetes-sigs/krew/releases/download/v0.4.4/krew-darwin_amd64.tar.gz", "0a",
			"checksums.yml:25: krew " +
				"darwin amd64 v0.4.4"},
		{gh + "cilium/cilium-cli/releases/download/v0.18.9/cilium-linux-amd64.tar.gz", "0b", "checksums.yml:27: " +
			"ciliumcli amd64 0.18.9"},
		{"https://storage.googleapis.com/cri-o/artifacts/cri-o.amd64.v1.35.0.tar.gz", "0c", "checksums.yml:29: crio " +
			"amd64 1.35.0"},
		{gh + "projectcalico/calico/raw/v3.31.5/manifests/crds.yaml", "0d", "checksums.yml:31: calico_crds 3.31.5"},
		{gh + "kubernetes-sigs/gateway-api/releases/download/v1.5.1/standard-install.yaml", "0e", "checksums.yml:33: " +
			"gateway_api_standard_crds 1.5.1"},
		{gh + "kubernetes-sigs/gateway-api/releases/download/v1.5.1/experimental-install.yaml", "0f", "checksums.yml:" +
			"35: gateway_api_experimental_crds 1.5.1"},
		{gh + "projectcalico/calico/releases/download/v3.31.5/calicoctl-linux-amd64", "", ""},
		{gh + "containers/crun/releases/download/1.17/crun-1.17-linux-amd64", "10", "checksums.yml:37: crun " +
			"amd64 1.17"},
		{gh + "containers/crun/releases/download/1.17/crun-1.17-linux-arm64", "", ""},
	} {
		digest, known, ok := c.Find(x.url)
		want := ""
		if x.end != "" {
			want = "sha256:" + hexA[:62] + x.end
		}
		if digest != want || known != x.known || ok != (want != "") {
			t.Errorf("%s: got %s %q %v", x.url, digest, known, ok)
		}
	}
	if got := c.Other("sha256:" + hexA[:62] + "01"); got != "kubelet arm64 v1.35.4" {
		t.Errorf("other: %q", got)
	}
}

func TestChecksumsErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "SUMS: no checksum in it"},
		{"a: b\n", "SUMS: no checksum in it"},
		{"x_checksums: [\n", "SUMS: yaml: "},
		{"x_checksums:\n  amd64:\n    1.0: abc\n", `SUMS:3: x_checksums amd64 1.0: "abc" is not a checksum`},
		{"d41d8cd98f00b204e9800998ecf8427e  f\n" + hexA + "  g\nhello world\n",
			"only sha256 and sha512 are accepted: " +
				"use one of those\nSUMS:3: \"hello world\": not a line of a file of checksums: write HEX, two spaces " +
				"and " +
				"the file's name, as sha256sum does"},
		{"SHA256 (f) = " + hexA + hexB + "\n", "not a line of a file of checksums"},
		{strings.Repeat("x", maxListLine+1), "SUMS:1: bufio.Scanner: token too long"},
		{strings.Repeat("\n", maxChecksums+1), "SUMS: a file of checksums has at most 16 MiB"},
	} {
		if _, err := ReadChecksums("SUMS", strings.NewReader(c.in)); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%.50q: got %v", c.in, err)
		}
	}
}

func TestChecksumsApply(t *testing.T) {
	c := checksums(t, "SUMS", hexA+"  f\n"+hexA+"  x/g\n"+hexB+"  y/g\n")
	w := &Wanted{Files: []File{
		{URL: "https://a.example/f"}, {URL: "https://a.example/g"}, {URL: "https://a.example/h"},
		{
			URL:    "https://b.example/f",
			Digest: "sha256:" + hexA,
			Known:  "list:4",
		}, {URL: "https://c.example/f", Digest: "sha512:" + hexA + hexB, Known: "list:5"},
	}}
	notes, err := c.Apply(w)
	if err != nil || len(notes) != 1 ||
		notes[0] != "https://a.example/g is not checked, its checksum is ambiguous: SUMS:2: x/g and SUMS:3: y/g" {
		t.Errorf("got %q, %v", notes, err)
	}
	wantList(
		t,
		"files",
		urls(w.Files),
		[]string{
			"https://a.example/f sha256:" + hexA,
			"https://a.example/g ",
			"https://a.example/h ",
			"https://b.example/f sha256:" + hexA,
			"https://c.example/f sha512:" + hexA + hexB,
		},
	)
	if w.Files[0].Known != "SUMS:1: f" || w.Files[3].Known != "list:4" {
		t.Errorf("known %q, %q", w.Files[0].Known, w.Files[3].Known)
	}
	w.Files = append(
		w.Files,
		File{URL: "https://d.example/f", Digest: "sha256:" + hexB, Known: "list:6", Where: "list:6"},
	)
	var bad *BadLists
	if _, err := c.Apply(w); !errors.As(err, &bad) ||
		err.Error() != "list:6: https://d.example/f has sha256:"+hexB+" (list:6), but SUMS:1: f says "+
			"sha256:"+hexA+": remove the one that is wrong" {
		t.Errorf("got %v", err)
	}
}

func FuzzChecksums(f *testing.F) {
	for _, s := range []string{hexA + "  f\n", "SHA256 (f) = " + hexA + "\n", hexA, "x_checksums:\n  amd64: {1.0: " +
		hexA + "}\n", "\\" + hexA + " *a\\nb\n", "---\nx_checksums: &a [*a]\n"} {
		f.Add(s, "https://a.example/v1.0/amd64/f")
	}
	f.Fuzz(func(t *testing.T, s, u string) {
		c, err := ReadChecksums("SUMS", strings.NewReader(s))
		if err != nil {
			return
		}
		if digest, _, ok := c.Find(u); ok && (digests.Check(digest) != nil || c.Other(digest) == "") {
			t.Fatalf("found %q", digest)
		}
	})
}
