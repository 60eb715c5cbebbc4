//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstallers runs the installers of k3s and RKE2, as their projects publish them, on an enrolled machine: by the
// public names alone, with no setting, and without one miss. The scripts are not in this repository:
// CASEMATE_INSTALLERS names a directory with k3s.sh (what https://get.k3s.io/ answers) and rke2.sh (what
// https://get.rke2.io/ answers). The story installers.txtar makes the same requests without them.
func TestInstallers(t *testing.T) {
	scripts := os.Getenv("CASEMATE_INSTALLERS")
	if scripts == "" {
		t.Skip("CASEMATE_INSTALLERS names no directory with k3s.sh and rke2.sh")
	}
	l := newLab(t)
	up := newInternet(t, l)
	for _, c := range []struct{ product, version, program string }{
		{"k3s", "v1.31.5+k3s1", "/usr/local/bin/k3s"},
		{"rke2", "v1.31.5+rke2r1", "/usr/local/bin/rke2"},
	} {
		t.Run(c.product, func(t *testing.T) {
			script, err := os.ReadFile(filepath.Join(scripts, c.product+".sh"))
			if err != nil {
				t.Fatal(err)
			}
			program := up.release(t, c.product, c.version, script)
			col := l.host("col"+c.product, "")
			col.trust(up.pem)
			hosts := "127.0.0.1 localhost\n"
			for _, name := range []string{"get.k3s.io", "update.k3s.io", "get.rke2.io", "update.rke2.io", "github.com",
				"docker.io", "index.docker.io", "registry-1.docker.io"} {
				hosts += up.ip + " " + name + "\n"
			}
			col.write("etc/hosts", hosts)
			col.must(t, filepath.Join(repo(t), "bin", "casemate"), "bundle", "create", col.path("b.tar"), "--cache",
				col.path("cache"), "--"+c.product, c.version, "--platform", "linux/"+goarch())

			b := newBastion(t, l, "b"+c.product)
			b.serve(t)
			b.casemate(t, "import", col.path("b.tar"), "--name", c.product)
			m := l.boot(t, c.product, plainMachine)
			m.sh(t, b.line(t))
			for _, how := range []string{
				"INSTALL_K3S_SKIP_START=true", // the newest release of the channel "stable"
				"INSTALL_K3S_SKIP_START=true INSTALL_K3S_CHANNEL=v1.31 INSTALL_RKE2_CHANNEL=v1.31",
				"INSTALL_K3S_SKIP_START=true INSTALL_K3S_CHANNEL=latest INSTALL_RKE2_CHANNEL=latest",
				"INSTALL_K3S_SKIP_START=true K3S_URL=https://10.77.0.9:6443 K3S_TOKEN=x INSTALL_RKE2_TYPE=agent",
				"INSTALL_K3S_SKIP_START=true INSTALL_" + strings.ToUpper(c.product) + "_VERSION=" + c.version,
			} {
				m.sh(t, "rm -f "+c.program)
				out := m.says(t, c.version, "curl -sfL https://get."+c.product+".io > /root/install && "+how+
					" sh /root/install 2>&1")
				if got, err := os.ReadFile(m.root + c.program); err != nil || !bytes.Equal(got, program) {
					t.Errorf("%s: the program is another one: %v\n%s", how, err, out)
				}
			}
			if out := b.casemate(t, "missing", "-o", "json"); strings.Contains(out, `"kind"`) {
				t.Errorf("the missing book is not empty:\n%s", out)
			}
		})
	}
}

// release plays what a project publishes with a release, and returns the program in it.
func (n *internet) release(t *testing.T, product, version string, script []byte) []byte {
	t.Helper()
	program := append([]byte("#!/bin/sh\n# "), rand.Text()...)
	at, file, images := "github.com/k3s-io/k3s/releases/download/", "k3s", "k3s-images.txt"
	content := program
	if goarch() != "amd64" {
		file += "-" + goarch()
	}
	if product == "rke2" {
		at, file = "github.com/rancher/rke2/releases/download/", "rke2.linux-"+goarch()+".tar.gz"
		images = "rke2-images-all.linux-" + goarch() + ".txt"
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		err := w.WriteHeader(&tar.Header{Name: "bin/rke2", Mode: 0o755, Size: int64(len(program))})
		if err == nil {
			_, err = w.Write(program)
		}
		if err = errors.Join(err, w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		content = b.Bytes()
	}
	n.files["get."+product+".io/"] = script
	n.files[at+version+"/"+file] = content
	n.files[at+version+"/sha256sum-"+goarch()+".txt"] = fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(content), file)
	n.files[at+version+"/"+images] = []byte("docker.io/rancher/mirrored-pause:3.6\n")
	n.put(t, "index.docker.io/rancher/mirrored-pause:3.6", platforms(t, pauseImage(t)))
	return program
}
