package foreign

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// pathImage is a directory in a collection that is one image, or several: an OCI layout, or written by skopeo's dir:.
// Its path is its name: skopeo sync --scoped writes HOST/REPOSITORY:TAG.
type pathImage struct {
	root string // with a trailing slash
	dir  bool   // of the dir: transport
}

// pathImages finds them. Files in one of them belong to it and are nothing else.
func (r *Reader) pathImages(a *archive) []pathImage {
	var list []pathImage
	dirs := a.digestDirs()
	for _, e := range a.entries {
		root, base := path.Split(e.name)
		switch {
		case root == "" || !a.readable(e):
		case base == "index.json" && a.file(root+"oci-layout") != nil && a.readable(a.file(root+"oci-layout")):
			list = append(list, pathImage{root, false})
		case base == "manifest.json" && a.isDir(root, dirs):
			list = append(list, pathImage{root, true})
		}
	}
	slices.SortFunc(list, func(a, b pathImage) int { return cmp.Compare(a.root, b.root) })
	kept := list[:0]
	for _, i := range list {
		if len(kept) == 0 || !strings.HasPrefix(i.root, kept[len(kept)-1].root) {
			kept = append(kept, i)
		}
	}
	return kept
}

// readable reports whether a file's content is still available.
func (a *archive) readable(e *entry) bool {
	return a.open != nil || e != nil && (e.data != nil || e.digest != "")
}

// isDir reports whether the output of skopeo's dir: transport begins at root: the manifest, the file "version", and
// blobs that are named by their sha256 alone (containers/image, directory/directory_transport.go). with are the
// directories of such blobs.
func (a *archive) isDir(root string, with map[string]bool) bool {
	v := a.file(root + "version")
	return with[root] && a.file(root+"manifest.json") != nil && v != nil && v.size <= 64
}

// digestDirs returns the directories that have files named by a sha256 alone.
func (a *archive) digestDirs() map[string]bool {
	dirs := map[string]bool{}
	for _, e := range a.entries {
		if dir, base := path.Split(e.name); digests.Check("sha256:"+strings.TrimSuffix(base, ".manifest.json")) == nil {
			dirs[dir] = true
		}
	}
	return dirs
}

// findInDir is layoutPart.find for the dir: transport.
func (p *layoutPart) findInDir(digest string) *entry {
	hex := strings.TrimPrefix(digest, "sha256:")
	if len(p.tops) > 0 && digest == p.tops[0].Digest {
		return p.a.file(p.root + "manifest.json")
	}
	if e := p.a.file(p.root + hex); e != nil {
		return e
	}
	return p.a.file(p.root + hex + ".manifest.json")
}

// newDir reads the structure of the dir: transport's output.
func (r *Reader) newDir(ctx context.Context, a *archive, root string, unnamed naming) (*layoutPart, error) {
	p := &layoutPart{
		a:       a,
		root:    root,
		dir:     true,
		unnamed: unnamed,
		blobs:   map[string]*entry{},
		inline:  map[string][]byte{},
	}
	data, err := r.document(ctx, a, a.file(root+"manifest.json"))
	if err != nil {
		return nil, err
	}
	var head struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("%s: %smanifest.json: %w", a.name, root, err)
	}
	p.tops = []top{
		{Descriptor: oci.Descriptor{MediaType: head.MediaType, Digest: digests.SHA256(data), Size: int64(len(data))}},
	}
	return p, p.resolve(ctx, r)
}

// canonicalPath returns the images in a collection. inside are the entries that belong to them.
func (r *Reader) canonicalPath(
	ctx context.Context,
	a *archive,
) (parts []part, inside func(name string) bool, err error) {
	images := r.pathImages(a)
	inside = func(name string) bool {
		i, found := slices.BinarySearchFunc(
			images,
			name,
			func(p pathImage, name string) int { return cmp.Compare(p.root, name) },
		)
		return found || i > 0 && strings.HasPrefix(name, images[i-1].root)
	}
	for _, i := range images {
		unnamed := r.unnamed
		at, ok := hostPath(strings.TrimSuffix(i.root, "/"))
		if ok {
			if unnamed, err = r.pathName(a, at); err != nil {
				r.refused.Add(
					at,
					fmt.Errorf("%s: %s is an image, and its path is not the name of one: %w", a.name, at, err),
				)
				continue
			}
		} else if i.dir && unnamed.repository == "" {
			r.refused.Add(i.root, fmt.Errorf("%s: %s is an image under no host's name, so its registry is unknown: "+
				"create it with skopeo sync --scoped, or import it separately with --repository", a.name, i.root))
			continue
		}
		var p *layoutPart
		if i.dir {
			p, err = r.newDir(ctx, a, i.root, unnamed)
		} else {
			p, err = r.newLayout(ctx, a, i.root, unnamed)
		}
		if err != nil {
			return nil, nil, err
		}
		parts = append(parts, p)
	}
	return parts, inside, nil
}

// pathName returns the name in a path below a host; it is empty without a tag.
func (r *Reader) pathName(a *archive, at string) (naming, error) {
	n, err := r.parseName(a, at)
	if !strings.ContainsAny(at[strings.LastIndexByte(at, '/')+1:], ":@") {
		n.tag = ""
	}
	return n, err
}

// pathArchive returns the name in the path of an archive of one image: HOST/REPOSITORY:TAG.tar. Files of a web server
// do not have such names.
func pathArchive(at string) (name string, ok bool) {
	base := at[strings.LastIndexByte(at, '/')+1:]
	for _, end := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if stem, ok := strings.CutSuffix(base, end); ok && strings.Contains(stem, ":") {
			return strings.TrimSuffix(at, end), true
		}
	}
	return "", false
}
