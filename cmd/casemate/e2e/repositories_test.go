//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// publisher signs the repositories of a test.
type publisher struct {
	entity *pgp.Entity
	public string // armored
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	e, err := pgp.NewEntity("publisher", "", "publisher@example.org",
		&packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return &publisher{e, b.String()}
}

func (p *publisher) clearsign(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, p.entity.PrivateKey, nil)
	if err == nil {
		_, err = w.Write([]byte(text))
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (p *publisher) detach(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := pgp.ArmoredDetachSign(&b, []*pgp.Entity{p.entity}, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// write makes a file below dir.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// buildDEB makes a package without content and returns its file.
func buildDEB(t *testing.T, name, version string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "DEBIAN/control", fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\n"+
		"Maintainer: x <x@example.org>\nDescription: x\n", name, version))
	file := filepath.Join(t.TempDir(), name+"_"+strings.Replace(version, ":", "%3a", 1)+"_all.deb")
	must(t, "dpkg-deb", "--root-owner-group", "--build", dir, file)
	return file
}

// publishDEB writes one generation of an apt repository below dir: only the packages in held have files there.
func (p *publisher) publishDEB(t *testing.T, dir string, until time.Time, held []string, absent ...string) {
	t.Helper()
	var index strings.Builder
	for i, file := range append(append([]string{}, held...), absent...) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, rest, _ := strings.Cut(filepath.Base(file), "_")
		version, _, _ := strings.Cut(rest, "_")
		path := "./pool/main/" + filepath.Base(file)
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: x\nDescription: x\n"+
			"Filename: %s\nSize: %d\nSHA256: %x\n\n", name, strings.Replace(version, "%3a", ":", 1), path, len(content),
			sha256.Sum256(content))
		if i < len(held) {
			write(t, dir, "pool/main/"+filepath.Base(file), string(content))
		}
	}
	const packages = "main/binary-amd64/Packages"
	write(t, dir, "dists/stable/"+packages, index.String())
	p.release(t, dir, packages, index.String(), until)
}

func (p *publisher) release(t *testing.T, dir, name, content string, until time.Time) {
	t.Helper()
	text := fmt.Sprintf("Origin: Example\nSuite: stable\nCodename: stable\nDate: %s\nValid-Until: %s\n"+
		"Architectures: amd64\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n %x %d %s\n",
		time.Now().UTC().Format(time.RFC1123), until.UTC().Format(time.RFC1123), sha256.Sum256([]byte(content)),
		len(content), name)
	write(t, dir, "dists/stable/InRelease", p.clearsign(t, strings.ReplaceAll(text, " UTC\n", " GMT\n")))
}

// TestAptByHash: apt that asks for indices by their sums only is served while the repository is updated, also when it
// has read the older Release file; what is not stored is in the missing book as a package.
func TestAptByHash(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1", "--permit", "example.org")
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	p := newPublisher(t)
	n.write("apt/publisher.asc", p.public)
	apt := newApt(t, n)
	n.write("apt/etc/sources.list.d/test.list", "deb [signed-by="+n.path("apt/publisher.asc")+
		"] https://deb.example.org/debian stable main\n")
	forced := []string{"-o", "Acquire::By-Hash=force"}
	first, second := buildDEB(t, "first", "1.0~rc1+a-1"), buildDEB(t, "second", "1:2.0-1")
	site := t.TempDir()
	until := time.Now().AddDate(0, 0, 10)
	p.publishDEB(t, filepath.Join(site, "deb.example.org/debian"), until, []string{first})
	b.casemate(t, "import", "--name", "old", site)
	for range 2 {
		out := apt.must(t, append([]string{"update"}, forced...)...)
		if strings.Contains(out, "W:") || strings.Contains(out, "Err:") {
			t.Errorf("apt-get update complains:\n%s", out)
		}
	}
	apt.must(t, "install", "--download-only", "-y", "first")

	// The repository is updated between the client's InRelease and its index.
	old := n.must(t, "curl", "-fsS", "https://deb.example.org/debian/dists/stable/InRelease")
	index := "https://deb.example.org/debian/dists/stable/main/binary-amd64/by-hash/SHA256/"
	sumOf := func(release string) string {
		_, sums, _ := strings.Cut(release, "SHA256:\n ")
		return sums[:64]
	}
	p.publishDEB(t, filepath.Join(site, "deb.example.org/debian"), until, []string{first, second},
		buildDEB(t, "third", "3.0-1"))
	b.casemate(t, "import", "--name", "new", site)
	fresh := n.must(t, "curl", "-fsS", "https://deb.example.org/debian/dists/stable/InRelease")
	if sumOf(old) == sumOf(fresh) {
		t.Fatal("the index did not change")
	}
	for _, release := range []string{old, fresh} {
		got := n.must(t, "curl", "-fsS", index+sumOf(release))
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(got))); sum != sumOf(release) {
			t.Errorf("by-hash %s is %s", sumOf(release), sum)
		}
	}
	apt.must(t, append([]string{"update"}, forced...)...)
	apt.must(t, "install", "--download-only", "-y", "second")

	if out, err := apt.try("install", "--download-only", "-y", "third"); err == nil || !strings.Contains(out, "404") {
		t.Errorf("want 404, got %v\n%s", err, out)
	}
	list := b.casemate(t, "missing", "-o", "packages")
	if !strings.Contains(list, "# version 3.0-1 of https://deb.example.org/debian\nthird\n") {
		t.Errorf("the list of packages should have third:\n%s", list)
	}
	if out := b.casemate(t, "missing", "-o", "json"); strings.Count(out, `"name": "https`) != 1 {
		t.Errorf("only the package should be missing:\n%s", out)
	}
	id := fmt.Sprintf("%016X", p.entity.PrimaryKey.KeyId)
	if out := b.casemate(t, "repo", "list"); !strings.Contains(out, "https://deb.example.org/debian") ||
		!strings.Contains(out, id) || !strings.Contains(out, "new") {
		t.Errorf("repo list:\n%s", out)
	}
	if out := b.casemate(t, "status"); !strings.Contains(out, "https://deb.example.org/debian stable expires on") {
		t.Errorf("status should say that the repository expires:\n%s", out)
	}

	// After an undo apt gets an older Release file than it has, which it ignores.
	b.casemate(t, "import", "remove", "--yes", "new")
	apt.must(t, append([]string{"update"}, forced...)...)

	// What status announced: apt refuses an expired Release file.
	p.publishDEB(t, filepath.Join(site, "deb.example.org/debian"), time.Now().AddDate(0, 0, -1), []string{first})
	b.casemate(t, "import", "--name", "expired", site)
	if out, err := apt.try("update"); err == nil || !strings.Contains(out, "is expired") {
		t.Errorf("want that the Release file is expired, got %v\n%s", err, out)
	}
	if out := b.casemate(t, "status"); !strings.Contains(out, "https://deb.example.org/debian stable expired on") {
		t.Errorf("status should say that the repository expired:\n%s", out)
	}
}

// buildRPM makes a package without content and returns its file.
func buildRPM(t *testing.T, name, version string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "x.spec", fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: x\nLicense: x\n"+
		"BuildArch: noarch\n%%description\nx\n%%files\n", name, version))
	must(t, "rpmbuild", "-bb", "--define", "_topdir "+dir, filepath.Join(dir, "x.spec"))
	found, err := filepath.Glob(filepath.Join(dir, "RPMS/noarch/*.rpm"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}

// TestDnfMirrors: dnf finds a repository by the publisher's metalink and mirrorlist, whose packages are elsewhere on
// the host, and verifies the publisher's signature of its metadata.
func TestDnfMirrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1", "--permit", "example.org")
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	p := newPublisher(t)
	key := n.write("publisher.asc", p.public)

	site := t.TempDir()
	const base = "rpm.example.org/9/BaseOS/x86_64/os"
	pool, repository := filepath.Join(site, "rpm.example.org/9/BaseOS/pool"), filepath.Join(site, base)
	if err := errors.Join(os.MkdirAll(pool, 0o755), os.MkdirAll(repository, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{buildRPM(t, "held", "1.0~rc1+a"), buildRPM(t, "absent", "2.0")} {
		must(t, "cp", file, pool)
	}
	must(t, "createrepo_c", "--quiet", "--location-prefix", "../../pool", "--outputdir", repository, pool)
	absent, err := filepath.Glob(filepath.Join(pool, "absent-*.rpm"))
	if err != nil || len(absent) != 1 || os.Remove(absent[0]) != nil {
		t.Fatal(absent, err)
	}
	repomd, err := os.ReadFile(filepath.Join(repository, "repodata/repomd.xml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, repository, "repodata/repomd.xml.asc", p.detach(t, string(repomd)))
	b.casemate(t, "import", "--name", "os", site)
	b.casemate(t, "origin", "add", "mirrors.example.org")
	const mirrors = "https://mirrors.example.org/"
	redirects := ""
	for _, kind := range []string{"metalink", "mirrorlist"} {
		redirects += fmt.Sprintf("%s%s?repo=BaseOS-9&arch=x86_64=>https://%s/repodata/repomd.xml.%s ", mirrors, kind,
			base, kind)
	}
	b.casemate(t, "config", "set", "files.redirects", redirects)

	for _, kind := range []string{"metalink", "mirrorlist"} {
		t.Run(kind, func(t *testing.T) {
			repos := filepath.Dir(n.write(kind+"/test.repo", fmt.Sprintf("[test]\nname=test\n%s=%s%s?repo=BaseOS-9&"+
				"arch=x86_64\nenabled=1\ngpgcheck=0\nrepo_gpgcheck=1\ngpgkey=file://%s\n", kind, mirrors, kind, key)))
			dnf := func(args ...string) (string, error) {
				return n.try(append([]string{"dnf", "-y", "--noplugins", "--setopt=reposdir=" + repos,
					"--setopt=cachedir=" + n.path(kind+"/cache"), "--setopt=logdir=" + n.path(kind),
					"--setopt=varsdir=" + repos, "--setopt=retries=1", "--installroot=" + n.path(kind+"/root"),
					"--releasever=9", "--forcearch=x86_64"}, args...)...)
			}
			if out, err := dnf("install", "--downloadonly", "held"); err != nil {
				t.Fatalf("dnf install: %v\n%s", err, out)
			}
			if out, err := dnf("install", "--downloadonly", "absent"); err == nil || !strings.Contains(out, "404") {
				t.Errorf("want 404, got %v\n%s", err, out)
			}
		})
	}
	list := b.casemate(t, "missing", "-o", "packages")
	if !strings.Contains(list, "# version 2.0-1 of https://"+base+"\nabsent\n") {
		t.Errorf("the list of packages should have absent:\n%s", list)
	}
	if out := b.casemate(t, "missing", "-o", "json"); strings.Count(out, `"name": "https`) != 1 {
		t.Errorf("only the package should be missing:\n%s", out)
	}
	if out := b.casemate(t, "repo", "list"); !strings.Contains(out, "https://"+base) ||
		!strings.Contains(out, fmt.Sprintf("%016X", p.entity.PrimaryKey.KeyId)) {
		t.Errorf("repo list:\n%s", out)
	}
}
