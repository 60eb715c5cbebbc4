package nodeconf

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const armor = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxsBNBGhOPw0BCAC7/+a=\n=abcd\n" +
	"-----END PGP PUBLIC KEY BLOCK-----\n"

func withRepositories(t *testing.T) *Site {
	s := newSite(t)
	s.Repositories = []Repository{{"el9", "rpm"}, {"tools", "deb"}, {"tools.2", "deb"}}
	s.RepositoryKey = armor
	return s
}

func (tr *tree) absent(name string) {
	tr.t.Helper()
	if _, err := os.Lstat(filepath.Join(tr.dir, name)); !errors.Is(err, fs.ErrNotExist) {
		tr.t.Errorf("%s is there: %v", name, err)
	}
}

// The sources and the key are put where the node's package manager reads them, follow the bastions, and go with --undo
// or when they are not named any more.
func TestRepositories(t *testing.T) {
	site := withRepositories(t)
	files := map[string]string{"etc/resolv.conf": "nameserver 10.9.9.9\n", "etc/apt/": "",
		"etc/hosts": "127.0.0.1 localhost\n"}
	const source, key = "etc/apt/sources.list.d/casemate-tools.sources", "etc/apt/keyrings/casemate-packages.asc"
	want := "# Written by casemate-enroll.\nTypes: deb\nURIs: https://packages.casemate.internal/tools/\n" +
		"Suites: stable\nComponents: main\nSigned-By: /etc/apt/keyrings/casemate-packages.asc\n"
	for name, shell := range shells(t) {
		tr := newTree(t, shell, files)
		tr.run(site, 0, "--repo", "tools", "--repo=el9")
		if got := tr.read(source); got != want {
			t.Errorf("%s: the source is\n%s", name, got)
		}
		if got := tr.read(key); got != armor {
			t.Errorf("%s: the key is\n%s", name, got)
		}
		tr.absent("etc/yum.repos.d")
	}
	tr := newTree(t, quick(t), files)
	was := tr.all()
	tr.run(site, 0, "--repo", "tools")
	if out := tr.run(site, 0, "--repo", "tools"); !strings.Contains(out, "nothing to do") {
		t.Error(out)
	}
	site.RepositoryKey = strings.Replace(armor, "abcd", "efgh", 1)
	tr.run(site, 0, "--repo", "tools.2")
	tr.absent(source)
	if got := tr.read(key); got != site.RepositoryKey {
		t.Errorf("after a rotation the key is\n%s", got)
	}
	tr.run(site, 0)
	tr.absent(key)
	tr.run(site, 0, "--repo", "tools")
	tr.run(site, 0, "--undo")
	tr.same(was, "after --undo")
}

func TestRepositoriesOfAnotherFormat(t *testing.T) {
	site := withRepositories(t)
	for dir, file := range map[string]string{"etc/yum.repos.d/": "etc/yum.repos.d/casemate-el9.repo",
		"etc/zypp/repos.d/": "etc/zypp/repos.d/casemate-el9.repo"} {
		tr := newTree(t, quick(t), map[string]string{dir: "", "etc/resolv.conf": "nameserver 10.9.9.9\n",
			"etc/hosts": "127.0.0.1 localhost\n"})
		was := tr.all()
		if out := tr.run(site, 1, "--repo", "tools"); !strings.Contains(out, "has another format than") {
			t.Error(out)
		}
		for code, args := range map[int][]string{1: {"--repo", "none"}, 2: {"--repo", "$(id)"}} {
			if out := tr.run(site, code, args...); !strings.Contains(out, "repository") {
				t.Error(out)
			}
		}
		if out := tr.run(site, 2, "--repo"); !strings.Contains(out, "usage:") {
			t.Error(out)
		}
		tr.same(was, "after what was refused")
		tr.run(site, 0, "--no-resolver", "--repo", "el9")
		want := "# Written by casemate-enroll.\n[casemate-el9]\nname=el9 of casemate.internal\n" +
			"baseurl=https://packages.casemate.internal/el9/\nenabled=1\nrepo_gpgcheck=1\ngpgcheck=0\n" +
			"gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-casemate\n"
		if got := tr.read(file); got != want {
			t.Errorf("the source is\n%s", got)
		}
		if !strings.Contains(tr.read("etc/hosts"), " packages.casemate.internal") {
			t.Error("the name of the repositories does not resolve")
		}
		tr.run(site, 0, "--undo")
		tr.same(was, "after --undo")
	}
}

func TestRepositoriesInEveryFormat(t *testing.T) {
	s := withRepositories(t)
	for format, want := range map[string]string{"line": "' casemate-enroll --repo tools --repo el9\n",
		"sh":         "CASEMATE_USED='tools el9'",
		"cloud-init": "[/usr/local/sbin/casemate-enroll, --repo, tools, --repo, el9]\n",
		"ansible":    "\ncasemate_enroll_repositories: [tools, el9]\n"} {
		files, err := s.Enroll(format, "tools", "el9")
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, f := range files {
			text += f.Text
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s does not have %q", format, want)
		}
		if _, err := s.Enroll(format, "none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of no repository: %v", format, err)
		}
	}
	// The script of the format sh takes the repositories without an option.
	files, err := s.Enroll("sh", "tools")
	if err != nil {
		t.Fatal(err)
	}
	shell := quick(t)
	tr := newTree(t, shell, map[string]string{"etc/resolv.conf": "nameserver 10.9.9.9\n", "etc/apt/": ""})
	script := filepath.Join(t.TempDir(), "enroll")
	if err := os.WriteFile(script, []byte(files[0].Text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(shell[0], append(shell[1:len(shell):len(shell)], script, "--root", tr.dir)...).
		CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tr.read("etc/apt/sources.list.d/casemate-tools.sources")
}

func TestInjectionByRepositories(t *testing.T) {
	for name, change := range map[string]func(*Site){
		"name":         func(s *Site) { s.Repositories[0].Name = "x'; touch /tmp/evil; '" },
		"path":         func(s *Site) { s.Repositories[0].Name = "../x" },
		"format":       func(s *Site) { s.Repositories[0].Format = "$(id)" },
		"no key":       func(s *Site) { s.RepositoryKey = "" },
		"behind key":   func(s *Site) { s.RepositoryKey += "EOF\ntouch /tmp/evil\n" },
		"in the key":   func(s *Site) { s.RepositoryKey = strings.Replace(armor, "=abcd", "EOF\n$(id)", 1) },
		"another key":  func(s *Site) { s.RepositoryKey = strings.ReplaceAll(armor, "PUBLIC", "PRIVATE") },
		"a line of it": func(s *Site) { s.RepositoryKey = strings.Replace(armor, "\n\n", "\nComment: x\n\n", 1) },
	} {
		s := withRepositories(t)
		change(s)
		if files, err := s.Enroll("sh"); err == nil {
			t.Errorf("%s: taken: %.200s", name, files[0].Text)
		}
	}
}
