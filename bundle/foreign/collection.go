package foreign

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"casemate/bundle"
	"casemate/bundle/digests"
)

// collection interprets an archive that is not an image archive itself: files under hosts' names are a tree, and
// archives among the others are opened, as Kubespray's contrib/offline creates them.
func (r *Reader) collection(ctx context.Context, a *archive, depth int) ([]part, error) {
	listed, err := r.containerImages(ctx, a)
	if err != nil {
		return nil, err
	}
	parts, inside, err := r.canonicalPath(ctx, a)
	if err != nil {
		return nil, err
	}
	var files, packages []*entry
	var left []bundle.Skipped
	for _, e := range a.entries {
		at, host := hostPath(e.name)
		image, isImage := pathArchive(at)
		switch {
		case a.byName[e.name] != e: // a later one replaced it
			continue
		case inside(e.name):
			if strings.HasPrefix(path.Base(e.name), "signature-") {
				left = append(
					left,
					bundle.Skipped{
						Name: e.name,
						Why:  "a signature for which registries have no place: sign with cosign",
					},
				)
			}
			continue
		case host && isEditorFile(e.name):
			left = append(left, bundle.Skipped{Name: e.name, Why: "a file of an editor or a desktop"})
			continue
		case host && isImage && e.link == "" && a.open != nil:
			inner, err := r.nested(ctx, a, e, depth, image)
			if err != nil {
				return nil, err
			}
			if inner == nil {
				files = append(files, e)
			}
			parts = append(parts, inner...)
			continue
		case host && isImage && e.link == "":
			r.refused.Add(
				image,
				fmt.Errorf(
					"%s: %s has the name of an image, and can be opened only in a directory or an uncompressed tar: "+
						"unpack it first",
					a.name,
					e.name,
				),
			)
			continue
		case host && e.link == "":
			files = append(files, e)
			continue
		case host || path.Base(e.name) == "container-images.txt":
			continue
		case isWheel(e.name) && e.link == "":
			packages = append(packages, e)
			continue
		}
		inner, err := r.nested(ctx, a, e, depth, listed[path.Base(e.name)])
		switch {
		case err != nil:
			return nil, err
		case inner == nil && e.link == "" && r.isSdist(ctx, a, e):
			packages = append(packages, e)
		case inner == nil && e.link == "":
			left = append(left, bundle.Skipped{Name: e.name, Why: "under no host's name"})
		}
		parts = append(parts, inner...)
	}
	tree, err := r.newTree(a, files)
	if err != nil {
		return nil, err
	}
	if tree != nil {
		parts = append(parts, tree)
	}
	if p := newPython(a, packages); p != nil {
		parts = append(parts, p)
	}
	switch {
	case len(parts) > 0 || len(r.refused.List) > 0:
		r.skipFiles(a, left)
		return parts, nil
	case depth > 0:
		return nil, nil
	case len(a.entries) == 0:
		return nil, fmt.Errorf("%s contains no files; %s", a.name, supportedInputs)
	}
	number := "1 file"
	if n := len(a.entries); n > 1 {
		number = fmt.Sprintf("%d files", n)
	}
	return nil, fmt.Errorf(
		"%s has %s (%s), but no index.json of an OCI layout, no manifest.json of a docker-archive, no file "+
			"under a host's name (dl.k8s.io/…), no Python package "+
			"and no archive of images; %s",
		a.name,
		number,
		examples(a),
		supportedInputs,
	)
}

func examples(a *archive) string {
	var names []string
	for _, e := range a.entries[:min(len(a.entries), 3)] {
		names = append(names, fmt.Sprintf("%.100q", e.name))
	}
	if len(a.entries) > len(names) {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// nested opens an archive in an archive. It returns nil if the file is not a supported archive. listed is the image's
// name in the list beside it.
func (r *Reader) nested(ctx context.Context, a *archive, e *entry, depth int, listed string) ([]part, error) {
	if e.nested != nil { // streamed with the archive around it
		return r.interpret(ctx, e.nested, depth+1, listed)
	}
	if a.open == nil || e.link != "" || depth >= maxArchiveDepth {
		return nil, nil
	}
	head, err := r.head(ctx, a, e, headSize)
	if err != nil {
		return nil, err
	}
	if bundle.IsBundle(head) {
		return nil, fmt.Errorf("%s: %s is a bundle or a part of one; import it separately", a.name, e.name)
	}
	f := sniff(head)
	if !looksNested(head, f) {
		return nil, nil
	}
	name := a.name + ": " + e.name
	if f != plainTar {
		return []part{&streamPart{name: name, depth: depth + 1, format: f, size: e.size, listed: listed,
			open: func() (io.Reader, func() error, error) { return a.open(e) }}}, nil
	}
	inner, err := r.scanTar(name, func() (io.ReaderAt, func() error, error) {
		content, closing, err := a.open(e)
		if err != nil {
			return nil, nil, err
		}
		at, ok := content.(io.ReaderAt)
		if !ok {
			return nil, nil, errors.Join(
				fmt.Errorf("%s cannot be read at several offsets: %w", e.name, errors.ErrUnsupported),
				closing(),
			)
		}
		return at, closing, nil
	}, e.size)
	if err != nil {
		return nil, err
	}
	return r.interpret(ctx, inner, depth+1, listed)
}

// looksNested reports whether a tar, perhaps compressed, that begins with head is an archive that is opened inside
// another one: its first names are those of an image archive, or of files under hosts.
func looksNested(head []byte, f format) bool {
	plain, closing, err := decompress(bytes.NewReader(head), f)
	if err != nil || f != plainTar && f != gzipped && f != zstandard {
		return false
	}
	defer closing()
	tr := tar.NewReader(io.LimitReader(plain, headSize))
	for range 16 {
		h, err := tr.Next()
		if err != nil {
			return false
		}
		name, _ := cleanName(h.Name)
		first, _, _ := strings.Cut(name, "/")
		_, host := hostPath(name)
		if host || isDocument(name) || isLayerName(name) || first == "blobs" || first == "container-images" {
			return true
		}
		if h.Typeflag != tar.TypeDir {
			return false
		}
	}
	return false
}

// isLayerName reports whether a file has the name of a layer or a config in a docker-archive: 64 hex digits, or
// layer.tar.
func isLayerName(name string) bool {
	for elem := range strings.SplitSeq(name, "/") {
		elem = strings.TrimPrefix(elem, "sha256:")
		stem, _, _ := strings.Cut(elem, ".")
		if elem == "layer.tar" || digests.Check("sha256:"+stem) == nil {
			return true
		}
	}
	return false
}

// containerImages reads the list that Kubespray's script writes beside the archives: lines "FILE IMAGE".
func (r *Reader) containerImages(ctx context.Context, a *archive) (map[string]string, error) {
	for _, e := range a.entries {
		if path.Base(e.name) != "container-images.txt" || e.link != "" {
			continue
		}
		data, err := r.document(ctx, a, e)
		if err != nil {
			return nil, err
		}
		listed := map[string]string{}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 2 {
				listed[f[0]] = listedName(f[0], f[1])
			}
		}
		return listed, nil
	}
	return nil, nil
}

// listedName returns the whole name of an image in container-images.txt. The script removes well-known hosts from it,
// but the file name contains the whole name with "-" for "/" and ":", so the host can be restored.
func listedName(file, image string) string {
	flat := strings.NewReplacer("/", "-", ":", "-").Replace(image) + ".tar"
	if host, ok := strings.CutSuffix(file, "-"+flat); ok && isHost(host) {
		return host + "/" + image
	}
	return image
}

// streamPart is an archive that can only be read once, in order.
type streamPart struct {
	name   string
	open   func() (io.Reader, func() error, error)
	format format
	size   int64 // compressed size; -1: a pipe
	claims int64 // the size that a pipe says it will have; 0 if it does not
	depth  int
	listed string
	parts  []part // set when it was read
}

func (p *streamPart) kind() string {
	kinds := Reader{}
	for _, q := range p.parts {
		kinds.kinds = append(kinds.kinds, q.kind())
	}
	return kinds.kind()
}

func (p *streamPart) need(*Reader) int64 {
	if p.size < 0 && p.claims > 0 {
		return p.claims
	}
	return p.size
}

func (p *streamPart) load(ctx context.Context, r *Reader) error {
	src, closing, err := p.open()
	if err != nil {
		return explainReadError(p.name, err)
	}
	defer closing()
	read := &progressReader{Reader: src, r: r, counts: p.size < 0}
	if p.size > 0 {
		r.expanded.in.Add(p.size)
	}
	plain, closing, err := decompress(read, p.format)
	if err != nil {
		return explainReadError(p.name, err)
	}
	defer closing()
	if p.format != plainTar {
		plain = r.expanded.reader(plain)
	}
	a, err := r.streamTar(ctx, p.name, plain, p.depth, p.format != plainTar)
	if err != nil {
		return err
	}
	p.parts, err = r.interpret(ctx, a, p.depth, p.listed)
	for _, q := range p.parts {
		if err == nil {
			err = q.load(ctx, r)
		}
	}
	return err
}

// progressReader reports how much of the input was read.
type progressReader struct {
	io.Reader
	r      *Reader
	counts bool // of a pipe only the bytes read so far are known
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.r.progress(int64(n))
	if p.counts {
		p.r.expanded.in.Add(int64(n))
	}
	return n, err
}

// Skip implements bundle.Skipper.
func (p *progressReader) Skip(n int64) error {
	err := bundle.Skip(p.Reader, n)
	if err == nil {
		p.r.progress(n)
	}
	return err
}
