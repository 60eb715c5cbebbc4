//go:build bench

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// hugeRepository is a web server with a repository of n packages. Each is a small file that is made when it is asked
// for, and needs two others with lower numbers, so that a request for one brings some twenty.
type hugeRepository struct {
	n     int
	files map[string][]byte // of the metadata, by path
	url   string
}

func newHugeRepository(t *testing.T, n int) *hugeRepository {
	t.Helper()
	r := &hugeRepository{n: n, files: map[string][]byte{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		content, ok := r.files[q.URL.Path]
		if name, isPackage := strings.CutPrefix(q.URL.Path, "/pool/"); isPackage {
			i, err := strconv.Atoi(name[:max(0, strings.IndexByte(name, '.'))])
			content, ok = hugeContent(i), err == nil && i < n
		}
		if !ok {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func hugeContent(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "package %d\n", i), 100) }

func hugeName(i int) string { return fmt.Sprintf("package-%d-of-many", i) }

// hugeNeeds are the packages that one needs.
func hugeNeeds(i int) [2]string { return [2]string{hugeName(i / 2), hugeName(i / 3)} }

// deb writes the metadata of an apt repository, signed by gpg's key.
func (r *hugeRepository) deb(t *testing.T, gpg []string) {
	t.Helper()
	var index bytes.Buffer
	for i := range r.n {
		content := hugeContent(i)
		needs := hugeNeeds(i)
		fmt.Fprintf(&index, "Package: %s\nVersion: 1:2.3.%d-4+deb12u1\nInstalled-Size: 12345\n"+
			"Maintainer: A Maintainer <maintainer@example.org>\nArchitecture: amd64\n"+
			"Provides: virtual-%d (= 1)\nDepends: %s (>= 1:2.0), %s\n"+
			"Description: a package of many\nHomepage: https://example.org/of/this/package\nTag: game::strategy, "+
			"interface::graphical, interface::x11, role::program,\n uitoolkit::sdl, use::gameplaying\nSection: games\n"+
			"Priority: optional\nFilename: pool/%d.deb\nSize: %d\nSHA256: %x\n\n", hugeName(i), i, i%1000, needs[0],
			needs[1], i, len(content), sha256.Sum256(content))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "Packages")
	if err := os.WriteFile(file, index.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "xz", "-1", "--keep", file)
	packed, err := os.ReadFile(file + ".xz")
	if err != nil {
		t.Fatal(err)
	}
	const base = "main/binary-amd64/Packages"
	release := filepath.Join(dir, "Release")
	if err := os.WriteFile(release, fmt.Appendf(nil, "Origin: Example\nSuite: stable\nCodename: stable\nDate: %s GMT\n"+
		"Architectures: amd64\nComponents: main\nSHA256:\n %x %d %s\n %x %d %s.xz\n",
		time.Now().UTC().Add(-time.Minute).Format("Mon, 02 Jan 2006 15:04:05"), sha256.Sum256(index.Bytes()),
		index.Len(), base, sha256.Sum256(packed), len(packed), base), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, append(gpg, "--output", filepath.Join(dir, "InRelease"), "--clearsign", release)...)
	signed, err := os.ReadFile(filepath.Join(dir, "InRelease"))
	if err != nil {
		t.Fatal(err)
	}
	r.files["/dists/stable/InRelease"], r.files["/dists/stable/"+base+".xz"] = signed, packed
}

// rpm writes the metadata of a dnf repository.
func (r *hugeRepository) rpm(t *testing.T) {
	t.Helper()
	var primary, filelists, other, data bytes.Buffer
	fmt.Fprintf(&primary, `<metadata xmlns="http://linux.duke.edu/metadata/common"
xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="%d">`+"\n", r.n)
	fmt.Fprintf(&filelists, `<filelists xmlns="http://linux.duke.edu/metadata/filelists" packages="%d">`+"\n", r.n)
	fmt.Fprintf(&other, `<otherdata xmlns="http://linux.duke.edu/metadata/other" packages="%d">`+"\n", r.n)
	for i := range r.n {
		content, name, needs := hugeContent(i), hugeName(i), hugeNeeds(i)
		sum := sha256.Sum256(content)
		fmt.Fprintf(&primary, `<package type="rpm"><name>%[1]s</name><arch>x86_64</arch>
<version epoch="0" ver="1.2.3" rel="4.el9"/><checksum type="sha256" pkgid="YES">%[2]x</checksum>
<summary>a package of many</summary><description>a package of many, with a description</description>
<packager>A Packager</packager><url>https://example.org/of/this/package</url>
<time file="1700000000" build="1700000000"/>
<size package="%[3]d" installed="12345" archive="12345"/><location href="pool/%[4]d.rpm"/><format>
<rpm:license>MIT</rpm:license><rpm:header-range start="1" end="2"/>
<rpm:provides><rpm:entry name="%[1]s" flags="EQ" epoch="0" ver="1.2.3" rel="4.el9"/>
<rpm:entry name="lib%[4]d.so.1()(64bit)"/></rpm:provides>
<rpm:requires><rpm:entry name="%[5]s"/><rpm:entry name="%[6]s"/></rpm:requires>
<file>/usr/bin/program-%[4]d</file></format></package>
`, name, sum, len(content), i, needs[0], needs[1])
		head := fmt.Sprintf(`<package pkgid="%x" name="%s" arch="x86_64">
<version epoch="0" ver="1.2.3" rel="4.el9"/>`, sum, name)
		fmt.Fprintf(&filelists, "%s<file>/usr/bin/program-%d</file><file>/usr/share/doc/%s/README</file></package>\n",
			head, i, name)
		fmt.Fprintf(&other, "%s</package>\n", head)
	}
	primary.WriteString("</metadata>\n")
	filelists.WriteString("</filelists>\n")
	other.WriteString("</otherdata>\n")
	for _, d := range []struct {
		kind string
		text []byte
	}{{"primary", primary.Bytes()}, {"filelists", filelists.Bytes()}, {"other", other.Bytes()}} {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(d.text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&data, `<data type="%[1]s"><checksum type="sha256">%[2]x</checksum>
<open-checksum type="sha256">%[3]x</open-checksum><location href="repodata/%[1]s.xml.gz"/>
<timestamp>1700000000</timestamp><size>%[4]d</size><open-size>%[5]d</open-size></data>
`, d.kind, sha256.Sum256(packed.Bytes()), sha256.Sum256(d.text), packed.Len(), len(d.text))
		r.files["/repodata/"+d.kind+".xml.gz"] = packed.Bytes()
	}
	r.files["/repodata/repomd.xml"] = fmt.Appendf(nil, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"+
		"<repomd xmlns=\"http://linux.duke.edu/metadata/repo\"><revision>1</revision>\n%s</repomd>\n", data.String())
}

// used is what each run has used.
type used struct{ seconds, cpu, mib []float64 }

// measure runs commands one after the other: the time and CPU time of all, and the largest memory of any process.
func (u *used) measure(t *testing.T, env []string, commands ...[]string) {
	t.Helper()
	began, cpu, mib := time.Now(), time.Duration(0), 0.0
	for _, c := range commands {
		cmd := exec.Command(c[0], c[1:]...)
		cmd.Env = append(os.Environ(), append(env, "http_proxy=", "HTTP_PROXY=", "LC_ALL=C")...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// The kernel's own maximum (ru_maxrss) begins with the memory of the process that started it, this one.
		for running := true; running; {
			select {
			case err := <-done:
				if running = false; err != nil {
					t.Fatalf("%s: %v\n%s", strings.Join(c, " "), err, tail(out.Bytes(), 4000))
				}
			case <-time.After(10 * time.Millisecond):
				for _, pid := range append(children(cmd.Process.Pid), cmd.Process.Pid) {
					mib = max(mib, server{pid: pid}.peak())
				}
			}
		}
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	u.seconds = append(u.seconds, time.Since(began).Seconds())
	u.cpu, u.mib = append(u.cpu, cpu.Seconds()), append(u.mib, mib)
}

func (u *used) print(what, who string) {
	fmt.Printf("BENCH %-34s %-32s %6.1f s  %6.1f CPU s  %5.0f MiB\n", what, who, median(u.seconds), median(u.cpu),
		median(u.mib))
}

// requested are packages whose dependencies are some two hundred in all.
func requested(n int) (names []string) {
	for i := range 20 {
		names = append(names, hugeName(n-1-i*i))
	}
	return names
}

// TestBenchCollectDEB compares collecting some packages from an index of 60 000 with what apt needs to fetch the same.
func TestBenchCollectDEB(t *testing.T) {
	r := newHugeRepository(t, 60_000)
	dir := t.TempDir()
	home := filepath.Join(dir, "gpg")
	gpg := []string{"gpg", "--homedir", home, "--batch", "--passphrase", ""}
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, append(gpg, "--quick-gen-key", "Publisher <p@example.com>", "rsa2048", "sign", "0")...)
	t.Cleanup(func() { run("gpgconf", "--homedir", home, "--kill", "all") })
	key := filepath.Join(dir, "publisher.gpg")
	must(t, append(gpg, "--output", key, "--export")...)
	r.deb(t, gpg)
	names := requested(r.n)
	sources, list := filepath.Join(dir, "sources.list"), filepath.Join(dir, "packages.list")
	for file, text := range map[string]string{
		sources: "deb [arch=amd64 signed-by=" + key + "] " + r.url + " stable main\n",
		list:    strings.Join(names, "\n") + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var ours, apt used
	for i := range scaled(3, 1) {
		at := filepath.Join(dir, fmt.Sprint("round-", i))
		for _, d := range []string{"lists/partial", "archives/partial", "etc", "log"} {
			if err := os.MkdirAll(filepath.Join(at, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(at, "status"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(at, "apt.conf")
		if err := os.WriteFile(conf, []byte(strings.NewReplacer("AT", at, "SOURCES", sources).Replace(`Dir::Etc "AT/etc";
Dir::Etc::parts "none"; Dir::Etc::sourcelist "SOURCES"; Dir::Etc::sourceparts "none"; Dir::State::lists "AT/lists";
Dir::State::status "AT/status"; Dir::Cache "AT"; Dir::Log "AT/log"; APT::Sandbox::User "root";
APT::Architecture "amd64"; APT::Architectures { "amd64"; }; Acquire::Languages "none";
`)), 0o644); err != nil {
			t.Fatal(err)
		}
		ours.measure(t, nil, []string{filepath.Join(repo(t), "bin/casemate"), "bundle", "create",
			filepath.Join(at, "apt.tar"), "--apt", sources, "--packages", list, "--cache", filepath.Join(at, "cache")})
		apt.measure(t, []string{"APT_CONFIG=" + conf}, []string{"apt-get", "update"},
			append([]string{"apt-get", "install", "-y", "--download-only"}, names...))
		if fetched, _ := filepath.Glob(filepath.Join(at, "archives/*.deb")); len(fetched) < 2*len(names) {
			t.Fatalf("apt fetched %d packages", len(fetched))
		}
	}
	const what = "20 of 60 000 packages, apt"
	ours.print(what, "casemate bundle create")
	apt.print(what, "apt-get update, install -d")
	collected(what, ours, "apt-get", apt)
}

// TestBenchCollectRPM compares collecting some packages from a dnf repository with copying it, which is what offline
// sites do with dnf reposync. A quick run has fewer packages, because all of them are copied.
func TestBenchCollectRPM(t *testing.T) {
	if out, err := run("dnf", "--releasever=9", "reposync", "--help"); err != nil {
		t.Fatalf("there is no dnf reposync: cmd/casemate/e2e/prepare bench installs it: %v\n%s", err, out)
	}
	r := newHugeRepository(t, scaled(60_000, 10_000))
	r.rpm(t)
	dir := t.TempDir()
	repoFile, list := filepath.Join(dir, "repos/os.repo"), filepath.Join(dir, "packages.list")
	if err := os.MkdirAll(filepath.Dir(repoFile), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		repoFile: "[os]\nname=os\nbaseurl=" + r.url + "\ngpgcheck=0\n",
		list:     strings.Join(requested(r.n), "\n") + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var ours, dnf used
	for i := range scaled(3, 1) {
		at := filepath.Join(dir, fmt.Sprint("round-", i))
		ours.measure(t, nil, []string{filepath.Join(repo(t), "bin/casemate"), "bundle", "create",
			filepath.Join(dir, fmt.Sprint(i, ".tar")), "--dnf", repoFile, "--packages", list, "--allow-unsigned", r.url,
			"--cache", filepath.Join(at, "cache")})
		dnf.measure(t, nil, []string{"dnf", "--releasever=9", "--forcearch=x86_64", "--setopt=reposdir=" +
			filepath.Dir(repoFile), "--setopt=cachedir=" + at + "/dnf", "--setopt=logdir=" + at,
			"--setopt=varsdir=" + at, "reposync", "--download-metadata", "--repoid=os",
			"--download-path=" + at + "/copy"})
		if fetched, _ := filepath.Glob(filepath.Join(at, "copy/os/pool/*.rpm")); len(fetched) != r.n {
			t.Fatalf("dnf fetched %d packages of %d", len(fetched), r.n)
		}
	}
	what := fmt.Sprintf("20 of %d packages, dnf", r.n)
	ours.print(what, "casemate bundle create")
	dnf.print(what, "dnf reposync")
	collected(what, ours, "dnf reposync", dnf)
}

// collected adds the lines of a comparison: as fast as the peer, and within the memory that is promised.
func collected(what string, ours used, name string, peer used) {
	report(row{what: "collecting " + what, unit: "s", ours: median(ours.seconds), peer: name,
		best: median(peer.seconds), factor: 1})
	report(row{what: "collecting " + what, unit: "s CPU", ours: median(ours.cpu), peer: name, best: median(peer.cpu),
		factor: 1})
	limit("collecting "+what+", peak memory", "MiB", median(ours.mib), 300)
}
