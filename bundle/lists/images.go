package lists

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/distribution/reference"

	"casemate/bundle/digests"
)

// Images reads a list of image references, one a line: Kubespray's images.list, `kubeadm config images list`,
// `casemate missing -o images`. name is the list's name in messages.
func (l *Parser) Images(name string, r io.Reader) {
	l.eachLine(name, r, func(where, line string) error {
		switch {
		case strings.Contains(line, "{{"):
			return fmt.Errorf(
				"%s is a template: use the list that was rendered from it (images.list, not images.list.template)",
				shown(line),
			)
		case strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "image:"):
			return fmt.Errorf(
				"%s is YAML: pass the file as a manifest (--manifests), or write one reference a line",
				shown(line),
			)
		case len(strings.Fields(line)) > 1:
			return fmt.Errorf("%s is more than one word: write one reference a line, comments after #", shown(line))
		}
		return l.image(where, line)
	})
}

// image adds a reference from any kind of list.
func (l *Parser) image(where, ref string) error {
	w, err := ParseReference(ref)
	if err != nil {
		return err
	}
	w.Where = where
	return l.addImage(w)
}

// addImage adds an image. A tag that is pinned to two digests is refused: the far side can serve only one of them.
func (l *Parser) addImage(w Image) error {
	if w.Tag != "" && w.Digest != "" {
		name := w.Repository + ":" + w.Tag
		if before, again := l.first("pin "+name, request{digest: w.Digest, where: w.Where}); again &&
			before.digest != w.Digest {
			return fmt.Errorf(
				"%s is pinned to %s here and to %s at %s: a tag has one digest, remove one of the lines",
				name,
				w.Digest,
				before.digest,
				before.where,
			)
		}
	}
	if _, again := l.first("image "+w.Ref(), request{where: w.Where}); !again {
		if err := l.checkPlace(w); err != nil {
			return err
		}
		l.wanted.Images = append(l.wanted.Images, w)
	}
	return nil
}

var (
	hexName   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	urlScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)
)

// ParseReference reads an image reference as Docker does ("nginx" is docker.io/library/nginx:latest), except that a tag
// beside a digest is kept. Docker Hub's other names (index.docker.io, registry-1.docker.io) are docker.io. A prefix
// "docker://" (skopeo) is ignored; "oci://" (Helm) is the prefix of a chart, which must have a version, and "+" in it
// becomes "_" in the tag, as Helm stores it. Errors say what to do. Where is left empty.
func ParseReference(s string) (Image, error) {
	var none Image
	ref, chart := strings.CutPrefix(s, "oci://")
	ref = strings.TrimPrefix(ref, "docker://")
	if scheme := urlScheme.FindString(ref); scheme != "" {
		return none, fmt.Errorf(
			"%s is a URL, not an image: it belongs in a list of files (--files), an image is written without %s",
			shown(s),
			scheme,
		)
	}
	if strings.HasPrefix(ref, "sha256:") || hexName.MatchString(ref) {
		return none, fmt.Errorf("%s is a digest without a name: write repository@sha256:…", shown(s))
	}
	host, path, ok := strings.Cut(ref, "/")
	if ok && (strings.ContainsAny(host, ".:") || strings.EqualFold(host, "localhost")) {
		if host = strings.ToLower(host); host == "registry-1.docker.io" {
			host = "docker.io"
		}
		ref = host + "/" + path
	} else if chart {
		return none, fmt.Errorf("%s has no registry: write oci://HOST/REPOSITORY/CHART:VERSION", shown(s))
	}
	if chart {
		ref = strings.ReplaceAll(ref, "+", "_")
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return none, fmt.Errorf(
			"%s is not an image reference (%s): write HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST",
			shown(s),
			why(err),
		)
	}
	w := Image{Repository: named.Name()}
	if t, ok := named.(reference.Tagged); ok {
		w.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		w.Digest = d.Digest().String()
		if err := digests.Check(w.Digest); err != nil {
			return none, fmt.Errorf("%s: %w", shown(s), err)
		}
	}
	if w.Tag == "" && w.Digest == "" {
		if chart {
			return none, fmt.Errorf("%s has no version: write oci://HOST/REPOSITORY/CHART:VERSION", shown(s))
		}
		w.Tag = "latest"
	}
	return w, nil
}

// why shortens the reason of the reference package.
func why(err error) string {
	switch {
	case errors.Is(err, reference.ErrReferenceInvalidFormat):
		return "not of that form"
	// the package has two errors for this, one of them without a sentinel
	case strings.Contains(err.Error(), "must be lowercase"):
		return "the name of a repository is lower case"
	}
	return strings.TrimPrefix(err.Error(), "invalid reference format: ")
}
