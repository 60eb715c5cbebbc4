//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"
)

// indexTargets are what packages beside apt configure it to ask for: command-not-found, appstream and apt-file.
const indexTargets = `Acquire::IndexTargets::deb {
CNF { MetaKey "$(COMPONENT)/cnf/Commands-$(NATIVE_ARCHITECTURE)"; ShortDescription "Commands";
  Description "$(RELEASE)/$(COMPONENT) $(NATIVE_ARCHITECTURE) c-n-f Metadata"; };
DEP-11 { MetaKey "$(COMPONENT)/dep11/Components-$(NATIVE_ARCHITECTURE).yml"; ShortDescription "Components";
  Description "$(RELEASE)/$(COMPONENT) $(NATIVE_ARCHITECTURE) DEP-11 Metadata"; KeepCompressed "true";
  KeepCompressedAs "gz"; };
Contents-deb { MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)"; ShortDescription "Contents";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents (deb)"; KeepCompressed "true"; PDiffs "true"; };
};
`

// TestAptHabits: an apt that is configured as desktops and servers have it finds everything that was collected, in one
// compression, for its sources, also after the repository has changed; and nothing that it asks for on the way is taken
// for a miss.
func TestAptHabits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1", "--permit", "example.org")
	b.serve(t)
	n := l.host("node", b.ip)
	p := newPublisher(t)
	www, dir := t.TempDir(), t.TempDir()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a proxy
		http.ServeFile(w, r, filepath.Join(www, r.URL.Host, filepath.FromSlash(r.URL.Path)))
	}))
	t.Cleanup(server.Close)
	key, list := n.write("apt/publisher.asc", p.public), filepath.Join(dir, "packages.list")
	source := n.write("apt/etc/sources.list.d/test.list", "deb [signed-by="+key+" lang=de,en target+=Contents-deb] "+
		"http://deb.example.org/debian stable main\n")
	write(t, dir, "packages.list", "first\n")
	newApt(t, n)
	n.write("apt/etc/apt.conf.d/50targets", indexTargets)
	n.write("apt/etc/apt.conf.d/60languages", `Acquire::Languages { "environment"; "en"; };`)

	var indices []string
	for i, version := range []string{"1.0-1", "2.0-1"} {
		was := indices
		indices = p.publishHabits(t, filepath.Join(www, "deb.example.org/debian"), buildDEB(t, "first", version), was)
		file := filepath.Join(dir, fmt.Sprintf("%d.tar", i))
		cmd := exec.Command(filepath.Join(repo(t), "bin", "casemate"), "bundle", "create", file, "--packages", list,
			"--apt", source, "--cache", filepath.Join(dir, "cache"))
		cmd.Env = append(os.Environ(), "http_proxy="+server.URL, "HTTP_PROXY="+server.URL)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b.casemate(t, "import", "--name", "generation-"+version, file)
		for _, command := range [][]string{{"update"}, {"update"}, {"install", "--download-only", "-y", "first"}} {
			out, err := n.try(append([]string{"env", "LC_ALL=C.UTF-8", "LANGUAGE=de:en", "APT_CONFIG=" +
				n.path("apt/apt.conf"), "apt-get"}, command...)...)
			if err != nil || strings.Contains(out, "W:") {
				t.Fatalf("apt-get %v: %v\n%s", command, err, out)
			}
		}
		for _, want := range []string{"Packages", "Translation-de", "Translation-en", "Commands-amd64",
			"Components-amd64", "Contents-amd64"} {
			if found, _ := filepath.Glob(n.path("apt/lists/*" + want + "*")); len(found) != 1 {
				t.Errorf("apt has no %s: %v", want, found)
			}
		}
		if found, _ := filepath.Glob(n.path("apt/archives/first_" + version + "_all.deb")); len(found) != 1 {
			t.Errorf("first %s was not fetched", version)
		}
		b.missedNothing(t)
	}
}

// publishHabits writes a generation of a repository with every kind of index, in several compressions, and with the
// difference to the indices of the one before, which are given.
func (p *publisher) publishHabits(t *testing.T, dir, deb string, before []string) (packages []string) {
	t.Helper()
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	name, rest, _ := strings.Cut(filepath.Base(deb), "_")
	version, _, _ := strings.Cut(rest, "_")
	write(t, dir, "pool/main/"+filepath.Base(deb), string(content))
	index := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: x\nDescription: x\n"+
		"Description-md5: 9dd4e461268c8034f5c8564e155c67a6\nFilename: pool/main/%s\nSize: %d\nSHA256: %x\n\n", name,
		version, filepath.Base(deb), len(content), sha256.Sum256(content))
	translation := "Package: " + name + "\nDescription-md5: 9dd4e461268c8034f5c8564e155c67a6\nDescription-%[1]s: " +
		version + "\n %[1]s\n\n"
	files := map[string]string{
		"main/binary-amd64/Packages":            index,
		"main/i18n/Translation-de":              fmt.Sprintf(translation, "de"),
		"main/i18n/Translation-en":              fmt.Sprintf(translation, "en"),
		"main/i18n/Translation-fr":              fmt.Sprintf(translation, "fr"),
		"main/cnf/Commands-amd64":               "suite: stable\ncomponent: main\nversion: " + version + "\n",
		"main/dep11/Components-amd64.yml":       "---\nFile: DEP-11\nVersion: '1.0'\nTime: " + version + "\n",
		"main/dep11/icons-48x48.tar":            version,
		"main/Contents-amd64":                   "usr/bin/" + name + " main/" + name + " " + version + "\n",
		"main/source/Sources":                   version,
		"main/binary-amd64/Packages.diff/Index": diffIndex(append(before, index)),
	}
	for name, text := range files {
		if strings.HasSuffix(name, "/Index") {
			continue
		}
		var z, x bytes.Buffer
		gz := gzip.NewWriter(&z)
		xw, err := xz.NewWriter(&x)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []interface {
			Write([]byte) (int, error)
			Close() error
		}{gz, xw} {
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		files[name+".gz"], files[name+".xz"] = z.String(), x.String()
	}
	var sums strings.Builder
	for name, text := range files {
		sum := sha256.Sum256([]byte(text))
		fmt.Fprintf(&sums, " %x %d %s\n", sum, len(text), name)
		write(t, dir, "dists/stable/"+name, text)
		write(t, dir, fmt.Sprintf("dists/stable/%s/by-hash/SHA256/%x", filepath.Dir(name), sum), text)
	}
	write(t, dir, "dists/stable/InRelease", p.clearsign(t, fmt.Sprintf("Origin: Example\nSuite: stable\n"+
		"Codename: stable\nDate: %s GMT\nArchitectures: amd64\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n%s",
		time.Now().UTC().Add(time.Duration(len(before))*time.Second-time.Minute).Format("Mon, 02 Jan 2006 15:04:05"),
		sums.String())))
	return append(before, index)
}

// diffIndex says how the last of some generations of an index is made of the ones before (apt's pdiffs).
func diffIndex(generations []string) string {
	last := generations[len(generations)-1]
	line := func(text, name string) string {
		return fmt.Sprintf(" %x %d %s\n", sha256.Sum256([]byte(text)), len(text), name)
	}
	out := fmt.Sprintf("SHA1-Current: %x %d\nSHA256-Current: %x %d\nSHA256-History:\n", sha1.Sum([]byte(last)),
		len(last), sha256.Sum256([]byte(last)), len(last))
	patches, downloads := "SHA256-Patches:\n", "SHA256-Download:\n"
	for i, text := range generations[:len(generations)-1] {
		name := fmt.Sprintf("T-2026-01-0%d-0000.00-F-2026-01-0%d-0000.00", len(generations), i+1)
		out += line(text, name)
		patches += line("1,8c\n"+last+".\n", name)
		downloads += line("compressed", name+".gz")
	}
	return out + patches + downloads
}
