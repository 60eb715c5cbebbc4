package rpm

import (
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dnf is the real dnf with directories of its own, for x86_64.
type dnf struct {
	dir string
}

// newDNF needs dnf, which Debian has.
func newDNF(t *testing.T, repo string) *dnf {
	t.Helper()
	if _, err := exec.LookPath("dnf"); err != nil {
		t.Skip("there is no dnf on this machine")
	}
	d := &dnf{t.TempDir()}
	for name, content := range map[string]string{
		"repos/a.repo": repo, "root/x": "", "vars/x": "",
		"dnf.conf": "[main]\nreposdir=" + d.dir + "/repos\nvarsdir=" + d.dir + "/vars\ncachedir=" + d.dir + "/cache\n" +
			"logdir=" + d.dir + "/log\npersistdir=" + d.dir + "/persist\nplugins=0\nretries=1\ntimeout=30\n" +
			"module_platform_id=platform:el9\nproxy=\n",
	} {
		file := filepath.Join(d.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *dnf) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dnf", append([]string{"--config", filepath.Join(d.dir, "dnf.conf"),
		"--installroot", filepath.Join(d.dir, "root"), "--releasever=9", "--forcearch=x86_64", "-y"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "http_proxy=", "HTTP_PROXY=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// What dnf fetches for a request is among what is collected for it, from the same repository.
func TestRulesAsDNF(t *testing.T) {
	every := 4 // dnf takes seconds for each rule, so all of them belong to a long run
	if os.Getenv("CASEMATE_SOAK") != "" {
		every = 1
	}
	for i, r := range rules {
		if !r.dnf || i%every != 0 {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := newSite()
			server := httptest.NewServer(s)
			defer server.Close()
			base := server.URL + "/el9/os/"
			r.publish(s, base)
			d := newDNF(t, repoFile("os", "baseurl="+base, "gpgcheck=0"))
			args := append([]string{"install", "--downloadonly", "--downloaddir", filepath.Join(d.dir, "packages")},
				r.request...)
			if r.weakless {
				args = append(args, "--setopt=install_weak_deps=False")
			}
			if out, err := d.run(args...); err != nil {
				t.Fatalf("dnf: %v\n%s", err, out)
			}
			fetched, err := filepath.Glob(filepath.Join(d.dir, "packages", "*.rpm"))
			if err != nil || len(fetched) == 0 {
				t.Fatalf("dnf fetched nothing: %v", err)
			}
			ours := r.collect(t)
			for _, file := range fetched {
				want := mustResolve(host, "", "Packages/"+filepath.Base(file))
				if _, ok := ours.Packages[want]; !ok {
					t.Errorf("dnf fetches %s, which is not collected: %s", filepath.Base(file), names(ours))
				}
			}
		})
	}
}

// A repository as it is, by dnf itself: signed repomd.xml and packages.
func TestSignedAsDNF(t *testing.T) {
	s := newSite()
	server := httptest.NewServer(s)
	defer server.Close()
	r := newRepo(pkg("a", "1-1"))
	r.base = server.URL + "/el9/os/"
	r.publish(s)
	s.files[server.URL+"/key.asc"] = testKey().public
	d := newDNF(t, repoFile("os", "baseurl="+r.base, "gpgcheck=1", "repo_gpgcheck=1",
		"gpgkey="+server.URL+"/key.asc"))
	if out, err := d.run("install", "--downloadonly", "a"); err != nil || !strings.Contains(out, "Complete!") {
		t.Fatalf("dnf: %v\n%s", err, out)
	}
}
