//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReflink imports a tree on the data directory's own file system, where that can share blocks (xfs): the import
// takes no room for them, and later writes to the source do not change the imported content.
func TestReflink(t *testing.T) {
	l := newLab(t)
	b := &bastion{host: l.host("n1", "")}
	b.config, b.socket = b.path("casemate.yaml"), b.path("admin.sock")
	disk := b.path("disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	image := b.write("disk.img", "")
	if err := os.Truncate(image, 2<<30); err != nil {
		t.Fatal(err)
	}
	must(t, "mkfs.xfs", "-q", "-m", "reflink=1", image)
	if out, err := run("mount", "-o", "loop", image, disk); err != nil {
		t.Skipf("this machine mounts no images: %s", out)
	}
	t.Cleanup(func() { run("umount", disk) })
	b.write("casemate.yaml", fmt.Sprintf("node: n1\ndata: %s/data\nadvertise: [%s]\nlisten:\n  admin: %s\n", disk, b.ip,
		b.socket))
	b.must(t, b.bin(), "init", "--config", b.config)
	b.serve(t)
	c := l.host("client", b.ip)
	c.trust(b.casemate(t, "ca"))

	data := make([]byte, 256<<20+1234) // the last block is not whole
	rand.Read(data)
	source := filepath.Join(disk, "mirror/dl.k8s.io/reflink/large")
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, data, 0o644); err != nil {
		t.Fatal(err)
	}
	used := func() int64 {
		unix.Sync()
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Blocks-st.Bfree) * st.Bsize
	}
	before := used()
	b.casemate(t, "import", filepath.Join(disk, "mirror"))
	if grown := used() - before; grown > int64(len(data))/4 {
		t.Errorf("importing %d MiB took %d MiB of the disk: nothing was shared", len(data)>>20, grown>>20)
	} else {
		t.Logf("importing %d MiB took %d KiB of the disk", len(data)>>20, grown>>10)
	}

	f, err := os.OpenFile(source, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out := c.path("tmp/large")
	c.must(t, "curl", "-fsS", "-o", out, "https://dl.k8s.io/reflink/large")
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the imported content differs from the source at that time (%v)", err)
	}
}
