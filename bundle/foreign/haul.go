package foreign

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"casemate/bundle/oci"
)

// Annotations that hauler (hauler.dev, pkg/consts) writes into the index.json of its store. A haul is a tar of the
// store.
const (
	// dev.hauler/image, imageIndex, sigs, atts, sboms, referrers/HEX; dev.cosignproject.cosign/… once
	annotationKind = "kind"
	// an image's name, a file's URL or path, a chart's REPOSITORY|NAME:VERSION
	annotationOriginal = "hauler.dev/original-ref"

	// configs of files: http.config, local.config, directory.config
	haulerFiles = "application/vnd.content.hauler.file."
	haulerHTTP  = haulerFiles + "http.config.v1+json"
	mediaChart  = "application/vnd.cncf.helm.config.v1+json"
	haulerSpace = "hauler/" // the repository in which hauler serves what has none
)

// haulFile is a file that a haul contains as an artifact.
type haulFile struct {
	url, digest string
	size        int64
}

// haulKind returns hauler's kind of a manifest: "image", "imageIndex", "sigs", …; "" if it has none.
func haulKind(d oci.Descriptor) string {
	for _, prefix := range []string{"dev.hauler/", "dev.cosignproject.cosign/"} {
		if kind, ok := strings.CutPrefix(d.Annotations[annotationKind], prefix); ok {
			return kind
		}
	}
	return ""
}

func isHaul(d oci.Descriptor) bool {
	return haulKind(d) != "" || d.Annotations[annotationOriginal] != ""
}

// nameHaul gives everything in a haul the name under which hauler found it.
func (p *layoutPart) nameHaul(ctx context.Context, r *Reader) error {
	bases := map[string]top{} // images by the name that their signatures have too
	var tops, attached []top
	var nowhere []string // left out because nothing says where it comes from
	for _, t := range p.tops {
		switch kind := haulKind(t.Descriptor); {
		case kind != "" && kind != "image" && kind != "imageIndex":
			attached = append(attached, t)
			continue
		}
		done, err := p.haulArtifact(ctx, r, &t)
		if err != nil {
			return err
		}
		if done {
			continue
		}
		if t.name.repository == "" {
			name := t.Annotations[annotationOriginal]
			if name == "" {
				name = t.Annotations[annotationContainerd]
			}
			switch ref := t.Annotations[annotationRef]; {
			case name != "":
				if t.name, err = r.parseName(p.a, name); err != nil {
					r.refused.Add(name, fmt.Errorf("%s: index.json: %w", p.a.name, err))
					continue
				}
			case p.unnamed.repository != "": // cosign save writes neither
				if t.name = p.unnamed; tagOnly.MatchString(ref) {
					t.name.tag = ref
				}
			default:
				nowhere = append(nowhere, cmp.Or(ref, t.Digest))
				continue
			}
		}
		bases[t.Annotations[annotationRef]] = t
		tops = append(tops, t)
	}
	for _, t := range attached {
		base, ok := bases[t.Annotations[annotationRef]]
		if !ok {
			r.note("%s: left out what belongs to %q, which is not in the haul", p.a.name, t.Annotations[annotationRef])
			continue
		}
		t.name = naming{repository: base.name.repository}
		suffix := map[string]string{"sigs": ".sig", "atts": ".att", "sboms": ".sbom"}[haulKind(t.Descriptor)]
		if suffix != "" { // as cosign tags them; referrers have no tag
			t.name.tag = strings.Replace(base.Digest, ":", "-", 1) + suffix
		}
		tops = append(tops, t)
	}
	for _, ref := range nowhere {
		if len(tops)+len(p.files) == 0 {
			r.refused.Add(ref, needsRepository(p.a, fmt.Sprintf("nothing says where the image %s comes from", ref)))
			continue
		}
		r.note("%s: left out %q, the haul does not say where it comes from", p.a.name, ref)
	}
	p.tops = tops
	return nil
}

// haulArtifact adds a haul's files and charts. done: it is not an image, and was added or noted.
func (p *layoutPart) haulArtifact(ctx context.Context, r *Reader, t *top) (done bool, err error) {
	m := r.graph.manifests[t.Digest]
	if m.IsIndex || len(m.Blobs) == 0 {
		return false, nil
	}
	original, config := t.Annotations[annotationOriginal], m.Blobs[0]
	switch {
	case strings.HasPrefix(config.MediaType, haulerFiles):
		if original == "" && config.MediaType == haulerHTTP {
			if original, err = p.haulReference(ctx, r, config); err != nil {
				return false, err
			}
		}
		u, ok := fileURL(original)
		if !ok || len(m.Blobs) != 2 {
			r.note("%s: left out the file %q, the haul does not have its URL", p.a.name, t.Annotations[annotationRef])
			return true, nil
		}
		p.files = append(p.files, haulFile{u, m.Blobs[1].Digest, m.Blobs[1].Size})
		return true, nil
	case config.MediaType == mediaChart:
		repo, name, _ := strings.Cut(original, "|")
		if name == "" {
			name = t.Annotations[annotationRef]
		}
		if host, ok := strings.CutPrefix(repo, "oci://"); ok {
			t.name, err = r.parseName(p.a, strings.TrimSuffix(host, "/")+"/"+path.Base(name))
			return false, err
		}
		// The haul has the chart as an artifact, and not the URL that the index.yaml of its repository gives it.
		if t.name, err = r.parseName(nil, "localhost/"+haulerSpace+path.Base(name)); err != nil {
			return false, err
		}
		r.note(
			"%s: the chart %s comes from no registry, so it becomes %s:%s",
			p.a.name,
			path.Base(name),
			t.name.repository,
			t.name.tag,
		)
	}
	return false, nil
}

// haulReference returns the URL in the config of a file.
func (p *layoutPart) haulReference(ctx context.Context, r *Reader, config oci.Descriptor) (string, error) {
	e := p.blobs[config.Digest]
	if e == nil {
		return "", nil
	}
	data, err := r.document(ctx, p.a, e)
	if err != nil {
		return "", err
	}
	var c struct {
		Reference string `json:"reference"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return "", fmt.Errorf("%s: %s: %w", p.a.name, config.Digest, err)
	}
	return c.Reference, nil
}

// fileURL returns the URL under which a file is imported, if s is a URL that a web server can have.
func fileURL(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHost(u.Hostname()) {
		return "", false
	}
	u.Scheme, u.User, u.Fragment, u.RawFragment = "https", nil, "", ""
	u.Host = strings.ToLower(u.Hostname())
	return u.String(), true
}
