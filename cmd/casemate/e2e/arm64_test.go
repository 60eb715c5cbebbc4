//go:build e2e

package e2e

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// binfmt tells the kernel which program runs binaries of another architecture (binfmt_misc).
const binfmt = "/proc/sys/fs/binfmt_misc"

// emulateArm64 lets the kernel run arm64 binaries with Debian's qemu-user, as qemu-user-static sets it up where systemd
// runs. What was not there before is gone after the test.
func emulateArm64(t *testing.T) {
	t.Helper()
	if runtime.GOARCH == "arm64" {
		return
	}
	if _, err := os.Stat(filepath.Join(binfmt, "register")); err != nil {
		must(t, "mount", "-t", "binfmt_misc", "binfmt_misc", binfmt)
		t.Cleanup(func() { run("umount", binfmt) })
	}
	if _, err := os.Stat(filepath.Join(binfmt, "qemu-aarch64")); err == nil {
		return
	}
	line, err := os.ReadFile("/usr/lib/binfmt.d/qemu-aarch64.conf")
	if err != nil {
		t.Fatal(err)
	}
	line = bytes.Replace(line, []byte("qemu-aarch64"), []byte("casemate-e2e-aarch64"), 1)
	if err := os.WriteFile(filepath.Join(binfmt, "register"), line, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(filepath.Join(binfmt, "casemate-e2e-aarch64"), []byte("-1"), 0) })
}

// TestArm64 runs the binary that is built for arm64: a bastion, DNS in its own process, an import, a pull by upstream
// name, and doctor on the node.
func TestArm64(t *testing.T) {
	t.Parallel()
	emulateArm64(t)
	arm := filepath.Join(t.TempDir(), "casemate")
	build := exec.Command("go", "build", "-trimpath", "-o", arm, "./cmd/casemate")
	build.Dir, build.Env = repo(t), append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := elf.Open(arm)
	if err != nil {
		t.Fatal(err)
	}
	program.Close()
	if program.Machine != elf.EM_AARCH64 {
		t.Fatalf("want a program for arm64, got one for %s", program.Machine)
	}
	l := newLab(t)
	b := newBastionOf(t, l, "b1", arm)
	b.serve(t)
	img := pauseImage(t)
	b.casemate(t, "import", "--name", "pause", writeImage(t, b.path("pause"), img), "--repository",
		"registry.k8s.io/pause:3.10")

	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	if out := n.must(t, "dig", "+short", "registry.k8s.io"); strings.TrimSpace(out) != b.ip {
		t.Errorf("want registry.k8s.io to be %s, got %q", b.ip, out)
	}
	n.must(t, client(t, "crane"), "pull", "--format", "oci", "registry.k8s.io/pause:3.10", n.path("pulled"))
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := readImage(n.path("pulled"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pulled.Digest(); err != nil || got != want {
		t.Errorf("want the image %s, got %s %v", want, got, err)
	}
	n.doctorOf(t, arm, 0)
	b.casemate(t, "check", "--images", b.write("list", "registry.k8s.io/pause:3.10\n"))
}
