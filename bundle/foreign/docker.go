package foreign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"casemate/bundle"
	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// dockerPart is a docker-archive: what docker save, podman save and skopeo's docker-archive: write (moby image/spec,
// v1.2).
type dockerPart struct {
	a         *archive
	images    []dockerImage
	collected bool // it is one archive among others
}

// dockerImage is one element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string

	config  []byte
	diffIDs []string // sha256 of each uncompressed layer, from the config
	layers  []*entry
	formats []format
	names   []naming
}

// isDocker reports whether a docker-archive begins at root: its manifest.json is a list. (That of skopeo's dir: is a
// manifest.)
func (r *Reader) isDocker(ctx context.Context, a *archive, root string) (bool, error) {
	e := a.file(root + "manifest.json")
	if e == nil {
		return false, nil
	}
	head, err := r.head(ctx, a, e, 512)
	return bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("[")), err
}

// dockerManifest reads a manifest.json.
func (r *Reader) dockerManifest(ctx context.Context, a *archive, e *entry) ([]dockerImage, error) {
	data, err := r.document(ctx, a, e)
	if err != nil {
		return nil, err
	}
	var list []dockerImage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: manifest.json: %w", a.name, err)
	}
	return list, nil
}

// newDocker reads the structure of a docker-archive. listed is the image's name in the list beside it.
func (r *Reader) newDocker(ctx context.Context, a *archive, root, listed string) (*dockerPart, error) {
	p := &dockerPart{a: a}
	var err error
	if p.images, err = r.dockerManifest(ctx, a, a.file(root+"manifest.json")); err != nil {
		return nil, err
	}
	if len(p.images) == 0 {
		return nil, fmt.Errorf("%s: the archive's manifest.json names no image", a.name)
	}
	for i := range p.images {
		if err := p.images[i].inspect(ctx, r, a, root); err != nil {
			return nil, err
		}
		p.images[i].name(r, a, listed)
	}
	p.images = slices.DeleteFunc(p.images, func(m dockerImage) bool { return len(m.names) == 0 })
	return p, nil
}

// inspect finds the image's files and reads its config.
func (m *dockerImage) inspect(ctx context.Context, r *Reader, a *archive, root string) error {
	find := func(name string) (*entry, error) {
		if clean, ok := cleanName(root + name); ok {
			if e := a.file(clean); e != nil {
				return e, nil
			}
		}
		return nil, errIncomplete(a, name)
	}
	e, err := find(m.Config)
	if err != nil {
		return err
	}
	if m.config, err = r.document(ctx, a, e); err != nil {
		return err
	}
	// Every tool names the config by its digest, so a different digest means damage, which nothing else would show.
	if d := configDigest(m.Config); d != "" && d != digests.SHA256(m.config) {
		return fmt.Errorf(
			"%s: %s does not have its digest: the archive is damaged: %w",
			a.name,
			m.Config,
			syscall.EBADMSG,
		)
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(m.config, &config); err != nil {
		return fmt.Errorf("%s: %s: %w", a.name, m.Config, err)
	}
	m.diffIDs = config.RootFS.DiffIDs
	if len(m.diffIDs) != len(m.Layers) {
		return fmt.Errorf(
			"%s: manifest.json has %d layers for %s, its config has %d: the archive is damaged",
			a.name,
			len(m.Layers),
			m.Config,
			len(m.diffIDs),
		)
	}
	for i, name := range m.Layers {
		if err := r.count(len(name)); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if err := digests.Check(m.diffIDs[i]); err != nil {
			return fmt.Errorf("%s: %s: diff_ids: %w", a.name, m.Config, err)
		}
		layer, err := find(name)
		if err != nil {
			return err
		}
		f := layer.format
		if a.open != nil {
			head, err := r.head(ctx, a, layer, 512)
			if err != nil {
				return err
			}
			f = sniff(head)
		}
		switch f {
		case plainTar, gzipped, zstandard:
		default:
			return fmt.Errorf(
				"%s: the layer %s is %s, not a tar that is plain or compressed with gzip or zstd",
				a.name,
				name,
				f.what(),
			)
		}
		m.layers, m.formats = append(m.layers, layer), append(m.formats, f)
	}
	return nil
}

// configDigest returns the digest in a config's name: HEX.json, sha256:HEX, blobs/sha256/HEX.
func configDigest(name string) string {
	base := strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), "sha256:")
	if d := "sha256:" + base; digests.Check(d) == nil {
		return d
	}
	return ""
}

func (p *dockerPart) kind() string {
	if p.collected {
		return bundle.KindKubespray
	}
	return bundle.KindDocker
}

// each calls do once for every layer, with its digest if that is known.
func (p *dockerPart) each(do func(e *entry, digest string)) {
	seen := map[*entry]bool{}
	for _, m := range p.images {
		for i, e := range m.layers {
			if seen[e] {
				continue
			}
			seen[e] = true
			if m.formats[i] == plainTar {
				do(e, m.diffIDs[i])
			} else {
				do(e, "")
			}
		}
	}
}

func (p *dockerPart) need(r *Reader) int64 {
	var n int64
	p.each(func(e *entry, digest string) {
		if digest != "" {
			if _, ok := r.sink.Has(digest); ok {
				return
			}
		}
		if e.digest == "" {
			n += e.size
		}
	})
	for _, m := range p.images {
		n += 2 * int64(len(m.config)) // and the manifest, which is smaller than the config
	}
	return n
}

func (p *dockerPart) load(ctx context.Context, r *Reader) error {
	var entries []*entry
	var digests []string
	p.each(func(e *entry, digest string) { entries, digests = append(entries, e), append(digests, digest) })
	err := parallel(ctx, len(entries), func(ctx context.Context, i int) error {
		return r.put(ctx, p.a, entries[i], digests[i])
	})
	if err != nil {
		return err
	}
	if err := p.verify(ctx, r); err != nil {
		return err
	}
	for _, m := range p.images {
		digest, err := m.manifest(ctx, r, p.a)
		if err != nil {
			return err
		}
		for _, n := range m.names {
			r.addImage(n, digest, p.a.name)
		}
	}
	return nil
}

// verify compares the layers with the config's diff_ids, the only checksums in a docker-archive. The digests of plain
// layers were computed when they were put; compressed ones are decompressed once more.
func (p *dockerPart) verify(ctx context.Context, r *Reader) error {
	type pair struct {
		e      *entry
		f      format
		diffID string
	}
	var pairs []pair
	seen := map[pair]bool{}
	for _, m := range p.images {
		for i, e := range m.layers {
			if q := (pair{e, m.formats[i], m.diffIDs[i]}); !seen[q] {
				seen[q] = true
				pairs = append(pairs, q)
			}
		}
	}
	return parallel(ctx, len(pairs), func(ctx context.Context, i int) error {
		q, got := pairs[i], pairs[i].e.digest
		if q.f != plainTar || !strings.HasPrefix(q.diffID, "sha256:") {
			var err error
			if got, err = r.plainDigest(ctx, q.e, q.f, q.diffID); errors.Is(err, fs.ErrNotExist) {
				return nil // the sink of a dry run stores only small documents
			} else if err != nil {
				return p.a.failed(q.e.name, err)
			}
		}
		if got != q.diffID {
			return fmt.Errorf(
				"%s: the layer %s has %s and should have %s: the archive is damaged: %w",
				p.a.name,
				q.e.name,
				got,
				q.diffID,
				syscall.EBADMSG,
			)
		}
		return nil
	})
}

// plainDigest returns the digest of a stored blob without its compression, of the same algorithm as like.
func (r *Reader) plainDigest(ctx context.Context, e *entry, f format, like string) (string, error) {
	blob, err := r.sink.Open(ctx, e.digest)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	plain, closing, err := decompress(contextReader{ctx, blob}, f)
	if err != nil {
		return "", err
	}
	defer closing()
	r.verified.in.Add(e.size)
	h := digests.NewHash(like)
	if _, err := io.Copy(h, r.verified.reader(plain)); err != nil {
		return "", err
	}
	return digests.Encode(like, h), nil
}

// contextReader fails when its context ends.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// manifest creates the manifest of the image, always the same for the same image, puts it and the config, and returns
// its digest.
//
// The layers stay as they are. An archive does not contain the manifest that the image had in a registry: docker
// unpacks the layers, so that digest cannot be restored. This manifest is the one that containerd creates when it
// imports the same archive.
func (m *dockerImage) manifest(ctx context.Context, r *Reader, a *archive) (string, error) {
	type blob struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	media := map[format]string{
		plainTar: "application/vnd.docker.image.rootfs.diff.tar",
		gzipped:  "application/vnd.docker.image.rootfs.diff.tar.gzip",
	}
	doc := struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Config        blob   `json:"config"`
		Layers        []blob `json:"layers"`
	}{2, oci.MediaTypeDockerManifest, blob{oci.MediaTypeDockerConfig, digests.SHA256(m.config), int64(len(m.config))},
		[]blob{}}
	for _, f := range m.formats {
		if f == zstandard { // which Docker's schema does not define
			media = map[format]string{
				plainTar:  "application/vnd.oci.image.layer.v1.tar",
				gzipped:   "application/vnd.oci.image.layer.v1.tar+gzip",
				zstandard: "application/vnd.oci.image.layer.v1.tar+zstd",
			}
			doc.MediaType, doc.Config.MediaType = oci.MediaTypeManifest, oci.MediaTypeConfig
		}
	}
	for i, e := range m.layers {
		doc.Layers = append(doc.Layers, blob{media[m.formats[i]], e.digest, e.size})
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return "", err
	}
	if len(data) > oci.MaxDocument {
		return "", fmt.Errorf(
			"%s: the image has %d layers; its manifest would be larger than %d bytes",
			a.name,
			len(m.layers),
			oci.MaxDocument,
		)
	}
	digest := digests.SHA256(data)
	if err := errors.Join(r.putBytes(ctx, doc.Config.Digest, m.config), r.putBytes(ctx, digest, data)); err != nil {
		return "", fmt.Errorf("%s: %w", a.name, err)
	}
	_, err = r.graph.add(digest, doc.MediaType, data)
	return digest, err
}

// name finds the image's names. Invalid names are refused.
func (m *dockerImage) name(r *Reader, a *archive, listed string) {
	tags := m.RepoTags
	if len(tags) == 0 && listed != "" {
		tags = []string{listed}
	}
	if len(tags) == 0 {
		if r.unnamed.repository == "" {
			r.refused.Add(
				a.name,
				needsRepository(a, fmt.Sprintf("the image with the config %s has no name (no RepoTags)", m.Config)),
			)
			return
		}
		m.names = []naming{r.unnamed}
	}
	for _, tag := range tags {
		n, err := r.parseName(a, tag)
		if err != nil {
			r.refused.Add(tag, fmt.Errorf("%s: manifest.json: %w", a.name, err))
			continue
		}
		m.names = append(m.names, n)
	}
}

// putBytes puts a small blob unless the sink has it.
func (r *Reader) putBytes(ctx context.Context, digest string, data []byte) error {
	if size, ok := r.sink.Has(digest); ok && size == int64(len(data)) {
		return nil
	}
	_, _, err := r.sink.Put(ctx, digest, int64(len(data)), bytes.NewReader(data))
	return err
}
