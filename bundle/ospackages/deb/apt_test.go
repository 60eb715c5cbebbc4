package deb

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// apt is the real apt-get with directories of its own, for amd64.
type apt struct {
	dir string
}

// newApt needs apt-get, which Debian has.
func newApt(t *testing.T, sources, installed string) *apt {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("there is no apt-get on this machine")
	}
	a := &apt{t.TempDir()}
	for name, content := range map[string]string{
		"etc/sources.list": sources, "status": installed, "lists/partial/x": "", "archives/partial/x": "",
		"etc/apt.conf.d/x": "", "etc/preferences.d/x": "", "log/x": "",
		"etc/trusted.gpg.d/key.asc": string(testKey().public),
		"apt.conf": fmt.Sprintf(`Dir::Etc "%[1]s/etc";
Dir::Etc::parts "apt.conf.d";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "none";
Dir::State "%[1]s";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache::archives "%[1]s/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "%[1]s/log";
Dir::Etc::trusted "none";
Dir::Etc::trustedparts "%[1]s/etc/trusted.gpg.d";
APT::Sandbox::User "root";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
Acquire::Languages "en";
Acquire::Retries "0";
Acquire::Check-Date "false";
`, a.dir),
	} {
		file := filepath.Join(a.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func (a *apt) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C", "http_proxy=",
		"HTTP_PROXY=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// installs returns the URLs of the packages that apt would fetch to install names.
func (a *apt) installs(t *testing.T, names []string, more ...string) []string {
	t.Helper()
	if out, err := a.run("update"); err != nil || strings.Contains(out, "W:") {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	out, err := a.run(append(append([]string{"install", "-y", "--print-uris"}, more...), names...)...)
	if err != nil {
		t.Fatalf("apt-get install: %v\n%s", err, out)
	}
	var urls []string
	for line := range strings.Lines(out) {
		if url, _, ok := strings.Cut(strings.TrimPrefix(line, "'"), "' "); ok && strings.HasPrefix(url, "http") {
			urls = append(urls, url)
		}
	}
	return urls
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, ok := s.files["http://"+r.Host+r.URL.EscapedPath()]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(b)
}

// status is a dpkg status file that says the same as a rule's list of installed packages.
func (r *rule) status() string {
	var b strings.Builder
	for line := range strings.Lines(r.installed) {
		name, version, _ := strings.Cut(strings.TrimSpace(line), "\t")
		name, _, _ = strings.Cut(name, ":")
		fmt.Fprintf(&b, "Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n"+
			"Maintainer: x <x@example.org>\nDescription: x\n", name, version)
		for _, p := range r.packages { // what the index says of it
			if !strings.HasPrefix(p, "Package: "+name+"\nVersion: "+version+"\n") {
				continue
			}
			for line := range strings.Lines(p) {
				if field, _, _ := strings.Cut(line, ":"); field == "Provides" || field == "Depends" ||
					field == "Breaks" {
					b.WriteString(line)
				}
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// What apt fetches for a request is among what is collected for it, from the same repository.
func TestRulesAsApt(t *testing.T) {
	for _, r := range rules {
		if !r.apt {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := newSite()
			server := httptest.NewServer(s)
			defer server.Close()
			a := newApt(t, r.repository(s, server.URL), r.status())
			var more []string
			if r.noRecommends {
				more = append(more, "--no-install-recommends")
			}
			want := a.installs(t, r.request, more...)
			if len(want) == 0 {
				t.Fatal("apt installs nothing")
			}
			res := r.collect(t)
			for _, url := range want {
				// apt spells + as %2b.
				ours := host + strings.ReplaceAll(strings.TrimPrefix(url, server.URL), "%2b", "+")
				if _, ok := res.Packages[ours]; !ok {
					t.Errorf("apt fetches %s, which is not collected: %s", ours, labels(res))
				}
			}
		})
	}
}
