// Command packages builds the DEB and RPM packages of Casemate. It runs in the repository (make packages):
//
//	go run ./packages -root ../.. -version V -commit C [-arch amd64,arm64] [-out dist]
//
// The same commit gives the same bytes: every time in a package is that of the commit (SOURCE_DATE_EPOCH overrides it),
// owners are root, and no property of the build machine is included.
package main

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

const (
	summary     = "images, files, names and certificates for clusters without an internet"
	description = summary + `
 Casemate is one daemon on a bastion, or on three: an OCI registry, a file
 server, a DNS server and a certificate authority that answer for the public
 registries and download hosts, so that unmodified nodes install Kubernetes
 where there is no internet.`
)

func main() {
	log.SetFlags(0)
	root := flag.String("root", ".", "the repository")
	out := flag.String("out", "dist", "where the packages go")
	version := flag.String("version", "", "version, as git describe prints it")
	commit := flag.String("commit", "", "commit")
	arches := flag.String("arch", "amd64,arm64", "architectures, as Go names them")
	flag.Parse()
	if err := run(*root, *out, *version, *commit, strings.Split(*arches, ",")); err != nil {
		log.Fatal(err)
	}
}

func run(root, out, version, commit string, arches []string) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	epoch, err := epochOf(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "casemate-packages-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &builder{root: root, work: work, version: version, commit: commit, epoch: epoch}
	// Man pages and completions come from the program itself, so one has to run here.
	if b.host, err = b.compile(""); err != nil {
		return err
	}
	for _, arch := range arches {
		s, err := b.stage(arch)
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		for _, format := range []string{"deb", "rpm"} {
			path, err := b.pack(s, arch, format, out)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", format, arch, err)
			}
			fmt.Println(path)
		}
	}
	return nil
}

// epochOf is the time that the packages contain.
func epochOf(root string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		cmd := exec.Command("git", "log", "-1", "--format=%ct")
		cmd.Dir = root
		data, err := cmd.Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("the commit's time (SOURCE_DATE_EPOCH names another): %w", err)
		}
		text = strings.TrimSpace(string(data))
	}
	s, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(s, 0).UTC(), err
}

type builder struct {
	root, work      string
	version, commit string
	epoch           time.Time
	host            string // the binary that runs here
}

// compile builds the daemon for an architecture, "" for this machine's.
func (b *builder) compile(arch string) (string, error) {
	path := filepath.Join(b.work, "casemate-"+arch)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+b.version+
		" -X main.commit="+b.commit+fmt.Sprintf(" -X main.dated=%d", b.epoch.Unix()), "-o", path, "./cmd/casemate")
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+arch)
	}
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
}

// packageVersion converts the output of git describe to a version that dpkg and rpm order correctly: v1.2.0-rc1 →
// 1.2.0~rc1, v1.2.0-3-gabc → 1.2.0+3.gabc, and a commit without an earlier tag → 0.0.0+20261127093000.abc.
func packageVersion(describe string, epoch time.Time) string {
	v, dirty := strings.CutSuffix(describe, "-dirty")
	if m := regexp.MustCompile(`^v?([0-9][0-9.]*)(?:-([a-z]+[0-9.]*))?(?:-([0-9]+)-(g[0-9a-f]+))?$`).FindStringSubmatch(
		v); m != nil && strings.Contains(m[1], ".") {
		v = m[1]
		if m[2] != "" {
			v += "~" + m[2]
		}
		if m[3] != "" {
			v += "+" + m[3] + "." + m[4]
		}
	} else {
		v = "0.0.0+" + epoch.Format("20060102150405") + "." + regexp.MustCompile(`[^0-9a-z]`).ReplaceAllString(v, "")
	}
	if dirty {
		v += "+dirty"
	}
	return v
}

// staged is a file of the packages, in a staging directory with the commit's time.
type staged struct {
	path, dst string
	mode      os.FileMode
	only      string // "deb", "rpm", or "" for both
}

type stage struct {
	b    *builder
	dir  string
	list []staged
	err  error
}

// put stages data as the file dst.
func (s *stage) put(dst string, mode os.FileMode, data []byte) *staged {
	path := filepath.Join(s.dir, strconv.Itoa(len(s.list)))
	if s.err == nil {
		s.err = os.WriteFile(path, data, mode)
	}
	if s.err == nil {
		s.err = os.Chtimes(path, s.b.epoch, s.b.epoch)
	}
	s.list = append(s.list, staged{path: path, dst: dst, mode: mode})
	return &s.list[len(s.list)-1]
}

// copy stages a file of the repository.
func (s *stage) copy(dst, src string) *staged {
	data, err := os.ReadFile(filepath.Join(s.b.root, src))
	if s.err == nil {
		s.err = err
	}
	return s.put(dst, 0o644, data)
}

// say returns the output of the program.
func (s *stage) say(args ...string) []byte {
	cmd := exec.Command(s.b.host, args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", s.b.epoch.Unix())) // man pages carry a date
	cmd.Stderr = os.Stderr
	data, err := cmd.Output()
	if s.err == nil && err != nil {
		s.err = fmt.Errorf("casemate %s: %w", strings.Join(args, " "), err)
	}
	return data
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // no name and no time
	w.Write(data)
	w.Close()
	return b.Bytes()
}

const docDir = "/usr/share/doc/casemate/"

// stage collects the content of the package for an architecture.
func (b *builder) stage(arch string) (*stage, error) {
	s := &stage{b: b, dir: filepath.Join(b.work, arch)}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	binary, err := b.compile(arch)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	s.put("/usr/bin/casemate", 0o755, data)
	for _, unit := range []string{
		"casemate.service", "casemate-http.socket", "casemate-https.socket",
		"casemate-dns.service", "casemate-dns-udp.socket", "casemate-dns-tcp.socket", "casemate-dns-link.socket",
	} {
		s.copy("/usr/lib/systemd/system/"+unit, "systemd/"+unit)
	}
	s.copy("/usr/lib/sysusers.d/casemate.conf", "systemd/casemate.sysusers.conf")
	s.copy("/usr/lib/tmpfiles.d/casemate.conf", "systemd/casemate.tmpfiles.conf")
	// What casemate init writes is no file of the package's (Debian Policy 10.7.3): this one is to read.
	s.copy("/usr/share/casemate/casemate.yaml", "packaging/casemate.yaml")
	s.copy("/usr/lib/firewalld/services/casemate.xml", "packaging/firewalld/casemate.xml")
	s.copy("/usr/share/casemate/prometheus/casemate.rules.yml", "packaging/prometheus/casemate.rules.yml")
	s.copy("/usr/share/casemate/grafana/casemate.json", "packaging/grafana/casemate.json")

	man := filepath.Join(s.dir, "man")
	if err := os.Mkdir(man, 0o755); err != nil {
		return nil, err
	}
	s.say("man", man)
	pages, err := filepath.Glob(filepath.Join(man, "*.8"))
	if err != nil || len(pages) == 0 {
		return nil, fmt.Errorf("%d man pages: %w", len(pages), err)
	}
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		s.put("/usr/share/man/man8/"+filepath.Base(page)+".gz", 0o644, gzipped(data))
	}
	s.put("/usr/share/bash-completion/completions/casemate", 0o644, s.say("completion", "bash"))
	zsh := s.say("completion", "zsh")
	s.put("/usr/share/zsh/vendor-completions/_casemate", 0o644, zsh).only = "deb"
	s.put("/usr/share/zsh/site-functions/_casemate", 0o644, zsh).only = "rpm"
	s.put("/usr/share/fish/vendor_completions.d/casemate.fish", 0o644, s.say("completion", "fish"))

	s.copy(docDir+"README.md", "README.md")
	docs, err := filepath.Glob(filepath.Join(b.root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	for _, doc := range docs {
		s.copy(docDir+"docs/"+filepath.Base(doc), "docs/"+filepath.Base(doc))
	}
	s.copy(docDir+"security-modules.md", "packaging/security-modules.md")
	mods, err := b.linked(arch, binary)
	if err != nil {
		return nil, err
	}
	for _, m := range mods {
		for _, l := range m.licences {
			s.put(docDir+"licenses/"+m.path+"@"+m.version+"/"+l.name, 0o644, l.text)
		}
	}
	s.copy(docDir+"LICENSE", "LICENSE")
	s.put(docDir+"copyright", 0o644, copyright(b.epoch.Year(), mods)).only = "deb" // its form is Debian's
	s.put(docDir+"changelog.Debian.gz", 0o644, gzipped(b.changelog())).only = "deb"
	s.copy("/usr/share/lintian/overrides/casemate", "packaging/lintian-overrides").only = "deb"
	sbom, err := b.sbom(arch, data, mods)
	if err != nil {
		return nil, err
	}
	s.put(docDir+"casemate.spdx.json", 0o644, sbom)
	return s, s.err
}

func (b *builder) changelog() []byte {
	return fmt.Appendf(nil, "casemate (%s-1) unstable; urgency=medium\n\n  * Built from commit %s.\n\n -- Casemate "+
		"maintainers <maintainers@casemate.invalid>  %s\n",
		packageVersion(b.version, b.epoch), b.commit, b.epoch.Format(time.RFC1123Z))
}

// pack writes one package and returns its path.
func (b *builder) pack(s *stage, arch, format, out string) (_ string, err error) {
	info := &nfpm.Info{
		Name: "casemate", Arch: arch, Platform: "linux", Version: packageVersion(b.version, b.epoch),
		VersionSchema: "none", Release: "1",
		Section: "net", Priority: "optional", Maintainer: "Casemate maintainers <maintainers@casemate.invalid>",
		Description: description,
		License:     "Apache-2.0", MTime: b.epoch, DisableGlobbing: true,
	}
	info.Scripts = nfpm.Scripts{
		PreInstall:  filepath.Join(b.root, "packaging/scripts/preinstall.sh"),
		PostInstall: filepath.Join(b.root, "packaging/scripts/postinstall.sh"),
		PreRemove:   filepath.Join(b.root, "packaging/scripts/preremove.sh"),
		PostRemove:  filepath.Join(b.root, "packaging/scripts/postremove.sh"),
	}
	info.RPM.Scripts.PostTrans = filepath.Join(b.root, "packaging/scripts/posttrans.sh")
	// every dpkg and rpm reads it, and Go writes it ten times as fast as xz
	info.Deb.Compression, info.RPM.Compression = "gzip", "gzip"
	info.RPM.BuildHost, info.RPM.Summary, info.RPM.Group = "casemate", summary, "System Environment/Daemons"
	for _, f := range s.list {
		if f.only != "" && f.only != format {
			continue
		}
		info.Contents = append(info.Contents, &files.Content{
			Source: f.path, Destination: f.dst,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: b.epoch},
		})
	}
	for _, dir := range ownDirs(info.Contents) {
		info.Contents = append(info.Contents, &files.Content{Destination: dir, Type: files.TypeDir,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: 0o755, MTime: b.epoch}})
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return "", err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	var buf bytes.Buffer
	if err := packager.Package(info, &buf); err != nil {
		return "", err
	}
	path := filepath.Join(out, packager.ConventionalFileName(info))
	return path, write(path, &buf)
}

// ownDirs are the directories in which no other package has files: rpm removes only those that a package owns.
func ownDirs(list files.Contents) []string {
	dirs := map[string]bool{}
	for _, c := range list {
		for dir := path.Dir(c.Destination); slices.ContainsFunc([]string{"/usr/share/casemate/", docDir},
			func(own string) bool { return strings.HasPrefix(dir+"/", own) }); dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

func write(path string, r io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".package-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
