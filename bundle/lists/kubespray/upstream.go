package kubespray

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// Upstream lists where a release of Kubespray names the public hosts that it uses, in order to redirect it.
type Upstream struct {
	// Release is the version in the checkout's galaxy.yml, "v2.31.0"; between releases it is that of the next one.
	Release string `json:"release"`
	// URLs are the variables whose default is a URL with a literal host, and Images those whose default is an image's
	// repository, or the beginning of one; both as they are written, with the templates after the host. Variables that
	// are derived from these are not listed.
	URLs   map[string]string `json:"urls"`
	Images map[string]string `json:"images"`
	// MirrorServer and MirrorCA report that the elements of containerd_registries_mirrors have server and mirrors[].ca.
	MirrorServer bool `json:"mirror_server"`
	MirrorCA     bool `json:"mirror_ca"`
	// CiliumCLI reports that Cilium's own command line fetches its chart, and CiliumChart that
	// cilium_install_extra_flags can say from where.
	CiliumCLI   bool `json:"cilium_cli"`
	CiliumChart bool `json:"cilium_chart"`
}

const hostsTemplate = "roles/container-engine/containerd/templates/hosts.toml.j2"

var (
	upstreamURL   = regexp.MustCompile(`^https?://[a-z0-9-]+(\.[a-z0-9-]+)+(/|$)`)
	upstreamImage = regexp.MustCompile(
		`^[a-z0-9-]+(\.[a-z0-9-]+)*(/[a-z0-9._/-]+)?(:[A-Za-z0-9_.-]+)?(@sha256:[0-9a-f]{64})?$`,
	)
	urlName  = regexp.MustCompile(`_(url|gpgkey)$`)
	repoName = regexp.MustCompile(`_(image_repo|image|container)$`)
)

// ReadUpstream reads the defaults of all roles of a checkout, v2.24 or newer.
func ReadUpstream(fsys fs.FS) (*Upstream, error) {
	c := newCheckout(fsys)
	if err := c.readRelease(); err != nil {
		return nil, err
	}
	u, err := c.upstream()
	if err != nil {
		return nil, err
	}
	if !c.hasDefault["downloads"] || u.Release == "" {
		return nil, errNoKubespray
	}
	u.CiliumChart = c.hasDefault["cilium_install_extra_flags"]
	_, err = fs.Stat(fsys, ciliumValues)
	u.CiliumCLI = err == nil
	f, err := fsys.Open(hostsTemplate)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxVarsFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", hostsTemplate, err)
	}
	u.MirrorServer, u.MirrorCA = strings.Contains(string(b), "item.server"), strings.Contains(string(b), "mirror.ca ")
	return u, nil
}

// upstream reads URLs and Images.
func (c *checkout) upstream() (*Upstream, error) {
	u := &Upstream{Release: c.release, URLs: map[string]string{}, Images: map[string]string{}}
	err := fs.WalkDir(c.fsys, "roles", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case path.Base(name) == "molecule", path.Base(name) == "tests":
			return fs.SkipDir
		case path.Base(name) != "defaults":
			return nil
		}
		defs, err := c.readDefinitions(path.Dir(name), "defaults")
		if err != nil {
			return err
		}
		for variable, def := range defs {
			text, isText := def.value.(string)
			if s, ok := def.value.(*source); ok {
				text, isText = s.text, true
			}
			switch text = strings.TrimSpace(text); {
			case !isText,
				// the URL of the audit webhook is a destination, not a source
				strings.HasSuffix(variable, "_server_url"):
			case urlName.MatchString(variable) && upstreamURL.MatchString(text):
				u.URLs[variable] = text
			case repoName.MatchString(variable) && upstreamImage.MatchString(text):
				u.Images[variable] = text
			}
		}
		return fs.SkipDir
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // not a role
	}
	return u, err
}
