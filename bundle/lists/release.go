package lists

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"casemate/bundle/digests"
)

// product is a distribution of Kubernetes whose installer asks a channel which release is the newest, and downloads
// that release from GitHub.
type product struct {
	name     string
	build    string // the text between "+" and the number of the build
	script   string // URL of the installer
	channels string // beginning of the channels' URLs
	releases string // beginning of URLs below a release's page: tag/VERSION, download/VERSION/FILE
	files    func(arch string) []string
	images   func(arch string) string // the list of images
	archs    []string
}

var products = []product{
	{
		name: "k3s", build: "k3s", script: "https://get.k3s.io/",
		channels: "https://update.k3s.io/v1-release/channels/",
		releases: "https://github.com/k3s-io/k3s/releases/",
		files: func(arch string) []string {
			suffix := map[string]string{"amd64": "", "arm": "-armhf"}
			s, ok := suffix[arch]
			if !ok {
				s = "-" + arch
			}
			return []string{"k3s" + s}
		},
		images: func(string) string { return "k3s-images.txt" },
		archs:  []string{"amd64", "arm64", "arm", "s390x"},
	},
	{
		name: "rke2", build: "rke2r", script: "https://get.rke2.io/",
		channels: "https://update.rke2.io/v1-release/channels/",
		releases: "https://github.com/rancher/rke2/releases/",
		files:    func(arch string) []string { return []string{"rke2.linux-" + arch + ".tar.gz"} },
		// Of all network plug-ins and add-ons: which of them a cluster uses is not known before its configuration is.
		images: func(arch string) string { return "rke2-images-all.linux-" + arch + ".txt" },
		archs:  []string{"amd64", "arm64", "s390x"},
	},
}

var (
	versionForm = regexp.MustCompile(`^v([0-9]+\.[0-9]+)\.[0-9]+(-[0-9A-Za-z.]+)?\+([a-z0-9]*?)([0-9]+)$`)
	channelForm = regexp.MustCompile(`^(stable|latest|testing|v[0-9]+\.[0-9]+(-testing)?)$`)
)

// Release is a requested release: a version or a channel of a product.
type Release struct {
	Product string // "k3s" or "rke2"
	Version string // "v1.31.5+k3s1"; "" if a channel was requested
	Channel string // "stable", "latest", "testing", "v1.31"; "" if a version was requested
}

// ParseRelease reads a version ("v1.31.5+k3s1", also with %2B and without v) or a channel ("stable", "v1.31").
func ParseRelease(name, text string) (Release, error) {
	p := products[slices.IndexFunc(products, func(p product) bool { return p.name == name })]
	version := strings.ReplaceAll(strings.ReplaceAll(text, "%2B", "+"), "%2b", "+")
	if version != "" && version[0] >= '0' && version[0] <= '9' {
		version = "v" + version
	}
	if channelForm.MatchString(version) {
		return Release{Product: name, Channel: version}, nil
	}
	m := versionForm.FindStringSubmatch(version)
	switch {
	case m == nil:
		return Release{}, fmt.Errorf("must be a version of %s like v1.31.5+%s1, or a channel like stable or v1.31, "+
			"got %q",
			name, p.build, text)
	case m[3] != p.build:
		return Release{}, fmt.Errorf("must be a version of %s, which ends in +%s and a number, got %q", name,
			p.build, text)
	}
	return Release{Product: name, Version: version}, nil
}

// Document reads a small document of a release and returns it with the URL at which redirects ended.
type Document func(ctx context.Context, url string) (content []byte, end string, err error)

// Releases adds what releases of one product publish, for the architectures archs: the installer, the program with its
// checksums, the lists of images and the images in them, and the redirects of the channels. A requested channel leads
// to the release that it has upstream; of the others, that of a minor version leads to its newest requested release,
// and stable and latest to the newest of all.
//
// The errors are those of read, or describe what is wrong with the documents.
func (l *Parser) Releases(ctx context.Context, releases []Release, archs []string, read Document) error {
	if len(releases) == 0 {
		return nil
	}
	p := products[slices.IndexFunc(products, func(p product) bool { return p.name == releases[0].Product })]
	for _, arch := range archs {
		if !slices.Contains(p.archs, arch) {
			return fmt.Errorf("%s has no release for %s: its platforms are linux/%s",
				p.name, arch, strings.Join(p.archs, ", linux/"))
		}
	}
	channels, versions := map[string]string{}, []string{}
	for _, r := range releases {
		version := r.Version
		if r.Channel != "" {
			_, end, err := read(ctx, p.channels+r.Channel)
			if err != nil {
				return fmt.Errorf("channel %s of %s: %w", r.Channel, p.name, err)
			}
			at, err := ParseRelease(p.name, end[strings.LastIndexByte(end, '/')+1:])
			if err != nil || at.Version == "" {
				return fmt.Errorf("channel %s of %s leads to %s, which is not a release: name a version",
					r.Channel, p.name, shown(end))
			}
			version = at.Version
			channels[r.Channel] = version
			l.note("--"+p.name+" "+r.Channel, "the channel leads to %s", version)
		}
		if !slices.Contains(versions, version) {
			versions = append(versions, version)
		}
	}
	for _, v := range versions {
		if err := l.release(ctx, p, v, archs, read); err != nil {
			return fmt.Errorf("%s %s: %w", p.name, v, err)
		}
	}
	if err := l.addFile(File{URL: p.script, Where: "--" + p.name}); err != nil {
		return err
	}
	addChannels(channels, versions)
	for _, name := range slices.Sorted(maps.Keys(channels)) {
		l.wanted.Redirects = append(l.wanted.Redirects, Redirect{
			// As the installers do: they take the version from the address and put it into file names.
			From: p.channels + name, To: p.releases + "tag/" + channels[name], Where: "--" + p.name,
		})
	}
	return nil
}

// addChannels adds the channels that versions imply to the known ones.
func addChannels(channels map[string]string, versions []string) {
	slices.SortFunc(versions, compareReleases)
	implied := map[string]string{}
	for _, v := range versions { // the newest comes last
		m := versionForm.FindStringSubmatch(v)
		if m[2] == "" {
			implied["v"+m[1]], implied["stable"] = v, v
		} else { // a pre-release
			implied["v"+m[1]+"-testing"], implied["testing"] = v, v
		}
		implied["latest"] = cmp.Or(implied["stable"], v)
	}
	if implied["stable"] == "" { // only pre-releases, which are used then
		implied["stable"] = implied["latest"]
	}
	for name, v := range implied {
		if channels[name] == "" {
			channels[name] = v
		}
	}
}

// compareReleases orders versions, builds of one version by their numbers.
func compareReleases(a, b string) int {
	build := func(v string) int {
		// digits; a number that is too long becomes the largest
		n, _ := strconv.Atoi(versionForm.FindStringSubmatch(v)[4])
		return n
	}
	return cmp.Or(compareSemver(a, b), cmp.Compare(build(a), build(b)))
}

// release adds one version.
func (l *Parser) release(ctx context.Context, p product, version string, archs []string, read Document) error {
	// GitHub accepts both spellings of the plus sign; its own pages use %2B.
	base := p.releases + "download/" + strings.ReplaceAll(version, "+", "%2B") + "/"
	add := func(f File) error {
		f.Where = "--" + p.name + " " + version
		return l.addFile(f)
	}
	listed := map[string]bool{}
	for _, arch := range archs {
		sumsURL := base + "sha256sum-" + arch + ".txt"
		content, _, err := read(ctx, sumsURL)
		if err != nil {
			return noSuchRelease(sumsURL, err)
		}
		if err := add(File{URL: sumsURL}); err != nil {
			return err
		}
		for _, name := range p.files(arch) {
			digest := sumOf(content, name)
			if digest == "" {
				return fmt.Errorf("%s has no checksum of %s: is there something else than the release?", sumsURL, name)
			}
			if err := add(File{URL: base + name, Digest: digest, Known: sumsURL}); err != nil {
				return err
			}
		}
		listURL := base + p.images(arch)
		if listed[listURL] {
			continue
		}
		listed[listURL] = true
		if content, _, err = read(ctx, listURL); err != nil {
			return noSuchRelease(listURL, err)
		}
		var list Parser
		list.Images(listURL, bytes.NewReader(content))
		wanted, err := list.Wanted()
		if err != nil || len(wanted.Images) == 0 {
			return fmt.Errorf("%s is not a list of images: is there something else than the release?", listURL)
		}
		for _, i := range wanted.Images {
			if err := l.addImage(i); err != nil {
				return fmt.Errorf("%s: %w", i.Where, err)
			}
		}
		if err := add(File{URL: listURL}); err != nil {
			return err
		}
	}
	return nil
}

// noSuchRelease adds the requested URL to an error.
func noSuchRelease(url string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist: is the version right?: %w", url, err)
	}
	return fmt.Errorf("%s: %w", url, err)
}

// sumOf finds the sha256 of a file in the output of sha256sum.
func sumOf(content []byte, name string) string {
	for s := bufio.NewScanner(bytes.NewReader(content)); s.Scan(); {
		sum, of, _ := strings.Cut(strings.TrimSpace(s.Text()), " ")
		of = strings.TrimLeft(of, " *")
		digest := "sha256:" + strings.ToLower(sum)
		if (of == name || strings.HasSuffix(of, "/"+name)) && digests.Check(digest) == nil {
			return digest
		}
	}
	return ""
}
