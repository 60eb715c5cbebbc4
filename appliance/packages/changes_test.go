package packages

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"casemate/appliance/usage"
	"casemate/cluster/tree"
)

// A repository is removed, or replaced by one of the other format, while packages are sent to it.
func TestRemovedDuringUpload(t *testing.T) {
	for _, format := range []string{"", RPM} {
		f := start(t)
		f.add("tools", DEB)
		sent := false
		_, err := f.Put(t.Context(), "tools", false, func() (string, io.Reader, error) {
			if sent {
				return "", nil, io.EOF
			}
			sent = true
			if err := f.another().Remove(t.Context(), "tools", false); err != nil {
				t.Fatal(err)
			}
			if format != "" {
				f.add("tools", format)
			}
			return "a.deb", bytes.NewReader(app("a", "1", "all", "x")), nil
		})
		want := fs.ErrNotExist
		if format != "" {
			want = fs.ErrExist
			f.check("tools")
			if got := f.labels("tools"); got != nil {
				t.Errorf("the new repository has %q", got)
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("format %q: %v", format, err)
		}
	}
}

// fileOf is the path of a package's file below the repository's host.
func (f *fixture) fileOf(repo, name string) string {
	f.t.Helper()
	for _, p := range f.mustList(repo) {
		if p.Name == name {
			return strings.TrimPrefix(p.URL, "https://"+host+"/")
		}
	}
	f.t.Fatalf("%s has no package %s", repo, name)
	return ""
}

// A client that has read the indices before a package was replaced still gets the file that they list, as long as the
// indices are served. A package that is removed goes at once, with what it has replaced.
func TestReplacedFiles(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	force := func(content string) {
		t.Helper()
		if _, err := f.Put(t.Context(), "tools", true, files(app("a", "1", "all", content))); err != nil {
			t.Fatal(err)
		}
	}
	force("first")
	first := f.fileOf("tools", "a")
	force("second")
	second := f.fileOf("tools", "a")
	if f.read(first) == "" || f.read(second) == "" {
		t.Fatal("a replaced file, or the one that replaced it, is not served")
	}
	for i := range keptGenerations - 2 {
		f.put("tools", app("b", string(rune('1'+i)), "all", "x"))
	}
	if f.read(first) == "" {
		t.Error("the file went before the indices that list it")
	}
	if err := f.Rotate(t.Context()); err != nil { // no change of the indices
		t.Fatal(err)
	}
	if f.read(first) == "" {
		t.Error("the file went with a change that is none of the indices")
	}
	f.put("tools", app("b", "9", "all", "x"))
	if f.read(first) != "" || f.read(second) == "" {
		t.Error("the file did not go with the indices that list it, or its successor did")
	}

	force("first") // back to what is replaced
	if f.fileOf("tools", "a") != first || f.read(first) == "" || f.read(second) == "" {
		t.Error("the same content has another file, or what it replaced is gone")
	}
	if _, err := f.RemovePackages(t.Context(), "tools", "a=1"); err != nil {
		t.Fatal(err)
	}
	if f.read(first) != "" || f.read(second) != "" {
		t.Error("a removed package is still served")
	}
	f.check("tools")
}

// rpm takes a signature file with one signature only.
func TestOneSignature(t *testing.T) {
	f := start(t)
	f.add("r", RPM)
	signer := func() uint64 {
		t.Helper()
		block, err := armor.Decode(strings.NewReader(f.read("r/repodata/repomd.xml.asc")))
		if err != nil {
			t.Fatal(err)
		}
		packets := packet.NewReader(block.Body)
		p, err := packets.Next()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := packets.Next(); err != io.EOF {
			t.Errorf("there is a second packet: %v", err)
		}
		return *p.(*packet.Signature).IssuerKeyId
	}
	old := signer()
	f.now = f.now.Add(time.Hour)
	if err := f.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if signer() != old {
		t.Error("nodes that have only the old key would refuse the repository")
	}
	public, err := f.PublicKey()
	if err != nil || f.read("r/key.asc") != public {
		t.Errorf("the new key is not served: %v", err)
	}
	if err := f.Finish(t.Context()); err != nil || signer() == old {
		t.Errorf("the old key still signs: %v", err)
	}
	f.check("r")
}

// A repository whose state cannot be read is an error for all commands but its removal.
func TestBroken(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	digest, err := f.blob(t.Context(), []byte("no state"))
	if err == nil {
		err = f.tree.Update(t.Context(), func(b tree.Batch) error {
			b.Link(indexOf("tools"), digest)
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.List(t.Context(), "tools"); err == nil || !strings.Contains(err.Error(), "tools cannot be read") {
		t.Errorf("list: %v", err)
	}
	if err := f.Remove(t.Context(), "tools", false); err == nil {
		t.Error("it was removed without force, though nobody knows whether it has packages")
	}
	if err := f.Remove(t.Context(), "tools", true); err != nil || len(f.served()) > 0 {
		t.Errorf("remove: %v, %q", err, f.served())
	}
}

// The metadata of one upload is bounded before it is all in memory.
func TestUploadBound(t *testing.T) {
	was := maxUploadMetadata
	maxUploadMetadata = 4 << 20
	t.Cleanup(func() { maxUploadMetadata = was })
	f := start(t)
	f.add("tools", DEB)
	large := debOf("Package: a\nVersion: 1\nArchitecture: all\nDescription: x\n"+strings.Repeat(" "+
		strings.Repeat("x", 1000)+"\n", 250), "x")
	n := 0
	_, err := f.Put(t.Context(), "tools", false, func() (string, io.Reader, error) {
		n++
		return "x.deb", bytes.NewReader(large), nil
	})
	if !errors.As(err, new(*usage.Error)) || !strings.Contains(err.Error(), "in several steps") || n > 20 {
		t.Errorf("%d packages: %v", n, err)
	}
}

// Each architecture is an index that every change writes.
func TestManyArchitectures(t *testing.T) {
	f := start(t)
	f.add("tools", DEB)
	var many [][]byte
	for i := range maxArchs {
		many = append(many, app("a", "1", fmt.Sprintf("arch%d", i), "x"))
	}
	_, err := f.Put(t.Context(), "tools", false, files(many...))
	if !errors.As(err, new(*usage.Error)) || !strings.Contains(err.Error(), "architectures") ||
		f.labels("tools") != nil {
		t.Errorf("%v, %q", err, f.labels("tools"))
	}
	f.put("tools", many[:maxArchs-len(usualArchs)]...)
}
