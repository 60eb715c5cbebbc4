//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestFullDisk fills the data directory's file system: writes are refused with one clear sentence before it is full,
// pulls continue, and deleting and collecting make room again.
func TestFullDisk(t *testing.T) {
	l := newLab(t)
	b := &bastion{host: l.host("n1", "")}
	b.config, b.socket = b.path("casemate.yaml"), b.path("admin.sock")
	disk := b.path("disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", disk)
	t.Cleanup(func() { run("umount", disk) })
	b.write("casemate.yaml", fmt.Sprintf("node: n1\ndata: %s/data\nadvertise: [%s]\nlisten:\n  admin: %s\n", disk, b.ip,
		b.socket))
	b.must(t, b.bin(), "init", "--config", b.config)
	b.serve(t)
	c := l.host("client", b.ip)
	c.trust(b.casemate(t, "ca"))

	file := b.path("file")
	put := func(i int) (string, error) {
		data := make([]byte, 16<<20)
		rand.Read(data)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return b.try(b.bin(), "--socket", b.socket, "file", "put", fmt.Sprintf("https://dl.k8s.io/fill/%d", i), file)
	}
	stored, refusal := 0, ""
	for i := range 32 {
		out, err := put(i)
		if err != nil {
			refusal = out
			break
		}
		stored++
	}
	t.Logf("%d files of 16 MiB fit, then: %s", stored, strings.TrimSpace(refusal))
	if stored == 0 || refusal == "" {
		t.Fatalf("%d files were stored before a refusal %q", stored, refusal)
	}
	if !strings.Contains(refusal, "reserve") {
		t.Errorf("the refusal does not say that the reserve is reached: %s", refusal)
	}
	c.must(t, "curl", "-fsS", "-o", "/dev/null", "https://dl.k8s.io/fill/0")
	for i := range stored - 1 {
		b.casemate(t, "file", "delete", "--yes", fmt.Sprintf("https://dl.k8s.io/fill/%d", i+1))
	}
	b.casemate(t, "gc", "--now")
	if out, err := put(99); err != nil {
		t.Errorf("there is no room after deleting and collecting: %s", out)
	}
	c.must(t, "curl", "-fsS", "-o", "/dev/null", "https://dl.k8s.io/fill/0")
}
