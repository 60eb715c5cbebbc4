package content

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/bundle/oci"
	"casemate/cluster/tree"
)

// Selection selects stored content for a bundle.
type Selection struct {
	// Everything is all that clients get now.
	Everything bool
	// Imports are names of imports: what each brought, as far as it was not deleted by hand, even where other content
	// hides it. If several of them have a name, the newest counts.
	Imports []string
	// Names are names in the tree: of images (tags or revisions), files and redirects. An image comes with everything
	// that it lists and with what is attached to it: signatures and other referrers.
	Names []string
	// Platforms select the entries of indexes among Names; none: all that are stored.
	Platforms []oci.Platform
	// Fetch stores a blob of a canonical repository that an image needs and that is not here: of a manifest that a
	// client has only looked at. Nil: the image is a finding.
	Fetch func(ctx context.Context, repository, digest string) error
}

// Exported is what a bundle of stored content contains.
type Exported struct {
	// Index lists the names and blobs. Every blob is stored here.
	Index *bundle.Index `json:"index"`
	// Findings are the selected names that are not in Index, each with its reason.
	Findings []Finding `json:"findings"`
	// Notes say what else the bundle does not contain, one sentence each.
	Notes []string `json:"notes"`
}

// Below counts the files whose URL begins with prefix.
func (x *Exported) Below(prefix string) (n int) {
	for _, f := range x.Index.Files {
		if strings.HasPrefix(f.URL, prefix) {
			n++
		}
	}
	return n
}

// Export lists the names of a selection and the blobs that they need. It reads manifests and the configs of images and
// no other content, so that its memory grows with the names only. fs.ErrNotExist: there is no such import.
// fs.ErrInvalid: an import is incomplete, or the names do not fit into one bundle.
func (e *Engine) Export(ctx context.Context, sel Selection) (*Exported, error) {
	x := &exporter{e: e, ctx: ctx, fetch: sel.Fetch, images: map[manifestKey][]string{},
		files:     map[string]bundle.File{},
		redirects: map[string]string{}, blobs: map[string]int64{}, docs: map[string]*oci.Manifest{},
		out: &Exported{Index: &bundle.Index{Version: bundle.IndexVersion}, Findings: []Finding{}, Notes: []string{}}}
	for _, step := range []func(Selection) error{x.everything, x.imports, x.names} {
		if err := step(sel); err != nil {
			return nil, err
		}
	}
	if err := x.describe(); err != nil {
		return nil, err
	}
	if err := x.recall(sel.Imports); err != nil {
		return nil, err
	}
	if _, err := x.out.Index.Encode(); err != nil {
		return nil, fmt.Errorf("the selection is not a valid bundle: %w: %w", err, fs.ErrInvalid)
	}
	return x.out, nil
}

// exporter collects the content of one bundle. One goroutine uses it.
type exporter struct {
	e         *Engine
	ctx       context.Context
	fetch     func(ctx context.Context, repository, digest string) error
	images    map[manifestKey][]string // the tags of each manifest
	files     map[string]bundle.File   // by URL
	redirects map[string]string        // targets by URL
	blobs     map[string]int64         // sizes of what the names need
	docs      map[string]*oci.Manifest // manifests of the repository that is described, by digest
	out       *Exported
}

// manifestKey is a manifest in a repository.
type manifestKey struct{ repository, digest string }

// everything selects all visible names.
func (x *exporter) everything(sel Selection) error {
	if !sel.Everything {
		return nil
	}
	for _, dir := range []string{imagesDir, filesDir, RedirectsDir} {
		for path, info := range x.e.cfg.Tree.Walk(dir, "") {
			if err := x.ctx.Err(); err != nil {
				return context.Cause(x.ctx)
			}
			text := ""
			if dir == RedirectsDir {
				data, err := x.e.cfg.Tree.ReadFile(path)
				if err != nil {
					continue // removed meanwhile
				}
				text = string(data)
			}
			x.add(path, info, text)
		}
	}
	return nil
}

// imports selects the names of imports.
func (x *exporter) imports(sel Selection) error {
	for _, name := range sel.Imports {
		if err := CheckName(name); err != nil {
			return err
		}
		if _, err := x.e.readRecord(name); err != nil {
			if p, ok, perr := x.e.pendingNamed(name); perr == nil && ok {
				return fmt.Errorf("import %s is not complete: import the rest of it first: %w", p.Name, fs.ErrInvalid)
			}
			return err
		}
		for path := range x.e.cfg.Tree.Claimed(name) {
			if err := x.ctx.Err(); err != nil {
				return context.Cause(x.ctx)
			}
			for _, c := range x.e.cfg.Tree.ClaimsOf(path) { // the newest first
				if slices.Contains(sel.Imports, c.Claim) {
					x.add(path, c.FileInfo, c.Data)
					break
				}
			}
		}
	}
	return nil
}

// names selects names of the tree, with what belongs to them.
func (x *exporter) names(sel Selection) error {
	for _, path := range sel.Names {
		if err := x.ctx.Err(); err != nil {
			return context.Cause(x.ctx)
		}
		claims := x.e.cfg.Tree.ClaimsOf(path)
		if len(claims) == 0 {
			continue // deleted meanwhile
		}
		if k, ok := x.add(path, claims[0].FileInfo, claims[0].Data); ok {
			if err := x.attached(k, sel.Platforms); err != nil {
				return err
			}
		}
	}
	return nil
}

// add selects one name of the tree; names that no client asks for are ignored. isImage reports whether it is that of a
// manifest. text is the content of a record.
func (x *exporter) add(path string, info fs.FileInfo, text string) (k manifestKey, isImage bool) {
	n, ok := x.e.nameOf(path, tree.DigestOf(info))
	switch {
	case !ok:
	case n.Kind == KindRedirect:
		x.redirects[n.Name] = text
	case n.Digest == "":
	case n.Kind == KindFile:
		x.files[n.Name] = bundle.File{URL: n.Name, Digest: n.Digest, Size: info.Size()}
	default:
		repository, tag, _, _ := x.e.cfg.Images.NameOf(path[len(imagesDir)+1:])
		k = manifestKey{repository, n.Digest}
		if tags := x.images[k]; tag != "" && !slices.Contains(tags, tag) {
			x.images[k] = append(tags, tag)
		} else if tags == nil {
			x.images[k] = nil
		}
		return k, true
	}
	return manifestKey{}, false
}

// attached selects what an index lists for the platforms, and what refers to each of its manifests: referrers, and
// cosign's tags with the manifest's digest in their names.
func (x *exporter) attached(k manifestKey, platforms []oci.Platform) error {
	queue, seen := []string{k.digest}, map[string]bool{k.digest: true}
	follow := func(tag, digest string) {
		path, err := x.e.cfg.Images.TreeName(k.repository, tag, digest)
		if err != nil {
			return // such a tag would be too long
		}
		info, err := x.e.cfg.Tree.Stat(imagesDir + "/" + path)
		if err != nil {
			return
		}
		if to, ok := x.add(imagesDir+"/"+path, info, ""); ok && !seen[to.digest] {
			seen[to.digest] = true
			queue = append(queue, to.digest)
		}
	}
	for len(queue) > 0 {
		digest := queue[0]
		queue = queue[1:]
		for referrer := range x.e.cfg.Images.Referrers(k.repository, digest) {
			follow("", referrer)
		}
		for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
			follow(fileOf(digest)+suffix, "")
		}
		m, raw, err := x.read(digest)
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		if err != nil {
			continue // it becomes a finding
		}
		children, _, err := oci.Choose(m, raw, platforms, true)
		if err != nil {
			return fmt.Errorf("image %s@%s: %w", k.repository, digest, err)
		}
		for _, c := range children {
			follow("", c.Digest)
		}
	}
	return nil
}

// read reads a manifest.
func (x *exporter) read(digest string) (*oci.Manifest, []byte, error) {
	raw, err := readManifest(x.ctx, stored{x.e.cfg.Tree}, digest)
	if err != nil {
		return nil, nil, err
	}
	m, err := oci.Parse(digest, "", raw)
	return m, raw, err
}

// stored opens blobs of the tree.
type stored struct{ Tree }

func (s stored) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	return s.OpenBlob(ctx, digest)
}
