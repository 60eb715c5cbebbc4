//go:build e2e

package e2e

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestOwnPackagesApt: packages of one's own are put, by the command and over https, and a real apt verifies the
// cluster's signature, sees a change, and goes on with an old key file while the key is being rotated.
func TestOwnPackagesApt(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	b.casemate(t, "repo", "add", "tools", "--format", "deb")
	n := l.fresh(t, "node")
	was := tree(t, n.path("etc/apt"))
	enroll := func(args string) {
		t.Helper()
		line, _, ok := strings.Cut(b.casemate(t, "enroll", "--repo", "tools"), " --repo tools\n")
		if !ok {
			t.Fatalf("the line does not name the repository: %s", line)
		}
		n.must(t, "sh", "-c", line+args)
	}
	enroll(" --repo tools")
	apt := newApt(t, n)
	conf, err := os.ReadFile(n.path("apt/apt.conf"))
	if err != nil {
		t.Fatal(err)
	}
	n.write("apt/apt.conf", string(conf)+`Dir::Etc::sourceparts "-";
Dir::Etc::sourcelist "/etc/apt/sources.list.d/casemate-tools.sources";
`)
	update := func() {
		t.Helper()
		if out := apt.must(t, "update"); strings.Contains(out, "W:") || strings.Contains(out, "Err:") ||
			strings.Contains(out, "N:") {
			t.Errorf("apt-get update complains:\n%s", out)
		}
	}
	update() // an empty repository
	update()
	b.casemate(t, "package", "put", "tools", buildDEB(t, "first", "1.0~rc1+a-1"), buildDEB(t, "second", "1:2.0-1"))
	update()
	apt.must(t, "install", "--download-only", "-y", "first", "second")

	// Over https, as a build does it; apt is told only the sums of the indices.
	if out, err := b.tryIn("correct horse\n", b.bin(), "--socket", b.socket, "user", "add", "ci",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	third := buildDEB(t, "third", "3.0-1")
	n.fails(t, "401", "curl", "-fsS", "-T", third, "https://packages.casemate.internal/tools/")
	n.must(t, "curl", "-fsS", "-u", "ci:correct horse", "-T", third, "https://packages.casemate.internal/tools/")
	for range 2 {
		apt.must(t, "update", "-o", "Acquire::By-Hash=force")
	}
	apt.must(t, "install", "--download-only", "-y", "third")

	b.casemate(t, "repo", "key", "rotate")
	b.casemate(t, "package", "put", "tools", buildDEB(t, "fourth", "4.0-1"))
	update() // with the old key
	apt.must(t, "install", "--download-only", "-y", "fourth")
	b.casemate(t, "repo", "key", "rotate", "--finish")
	if out, err := apt.try("update", "-o", "APT::Update::Error-Mode=any"); err == nil {
		t.Errorf("the old key is still accepted:\n%s", out)
	}
	enroll(" --repo tools")
	update()

	b.casemate(t, "package", "remove", "--yes", "tools", "first")
	if err := os.MkdirAll(n.path("apt/none/partial"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := apt.try("install", "--reinstall", "--download-only", "-y", "-o", "Dir::Cache::archives="+
		n.path("apt/none"), "first"); err == nil || !strings.Contains(out, "404") {
		t.Errorf("want 404, got %v\n%s", err, out)
	}
	if list := b.casemate(t, "missing", "-o", "packages"); !strings.Contains(list,
		"# version 1.0~rc1+a-1 of https://packages.casemate.internal/tools\nfirst\n") {
		t.Errorf("the list of packages should have first:\n%s", list)
	}
	update()
	if out, err := apt.try("install", "--download-only", "-y", "first"); err == nil {
		t.Errorf("apt still finds first:\n%s", out)
	}
	if out := b.casemate(t, "repo", "list"); !strings.Contains(out, "https://packages.casemate.internal/tools") {
		t.Errorf("repo list:\n%s", out)
	}
	enroll(" --undo")
	sameTree(t, was, tree(t, n.path("etc/apt")))
}

// TestOwnPackagesDNF: a real dnf verifies the signature of the metadata of packages of one's own, also with an old key
// file while the key is being rotated, and finds what createrepo_c would have told it.
func TestOwnPackagesDNF(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	b.casemate(t, "repo", "add", "el9", "--format", "rpm")
	n := l.fresh(t, "node")
	for _, dir := range []string{"etc/yum.repos.d", "vars"} {
		if err := errors.Join(os.RemoveAll(n.path(dir)), os.MkdirAll(n.path(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	enroll := func() {
		t.Helper()
		line, _, _ := strings.Cut(b.casemate(t, "enroll", "--repo", "el9"), "\n")
		n.must(t, "sh", "-c", line)
	}
	enroll()
	dnf := func(cache string, args ...string) (string, error) {
		return n.try(append([]string{"dnf", "-y", "--noplugins", "--setopt=reposdir=/etc/yum.repos.d",
			"--setopt=cachedir=" + n.path(cache),
			"--setopt=logdir=" + n.path("."), "--setopt=varsdir=" + n.path("vars"), "--setopt=retries=1",
			"--refresh", // by age alone, metadata of the same second may count as current
			"--installroot=" + n.path("root"), "--releasever=9", "--forcearch=x86_64"}, args...)...)
	}
	must := func(cache string, args ...string) string {
		t.Helper()
		out, err := dnf(cache, args...)
		if err != nil {
			t.Fatalf("dnf %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	must("cache", "makecache")
	b.casemate(t, "package", "put", "el9", buildRPM(t, "first", "1.0~rc1+a"), buildRPM(t, "second", "2.0^git1"))
	must("cache", "install", "--downloadonly", "first", "second")
	out := must("cache", "repoquery", "--whatprovides", "first = 1.0~rc1+a-1")
	if !strings.Contains(out, "first-0:1.0") {
		t.Errorf("repoquery:\n%s", out)
	}

	b.casemate(t, "repo", "key", "rotate")
	b.casemate(t, "package", "put", "el9", buildRPM(t, "third", "3.0"))
	must("cache", "install", "--downloadonly", "third") // with the old key
	b.casemate(t, "repo", "key", "rotate", "--finish")
	b.casemate(t, "package", "put", "el9", buildRPM(t, "fourth", "4.0"))
	if out, err := dnf("other", "install", "--downloadonly", "fourth"); err == nil {
		t.Errorf("the old key is still accepted:\n%s", out)
	}
	enroll()
	must("third", "install", "--downloadonly", "fourth")

	b.casemate(t, "package", "remove", "--yes", "el9", "first=1.0~rc1+a-1")
	if out, err := dnf("third", "install", "--downloadonly", "first"); err == nil {
		t.Errorf("dnf still finds first:\n%s", out)
	}
}
