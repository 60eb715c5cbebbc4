package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/usage"
	"casemate/registry"
)

// browseRoutes serves the content as a tree, one level at a time, and what a manifest states.
func (a *API) browseRoutes(on *routes) {
	on.pages("GET /v1/browse", to(access.List).toAnyone(), a.getBrowse)
	on.json("GET /v1/images/manifest", to(access.List).on(a.repository).toAnyone(), func(r *http.Request) (any, error) {
		return a.showManifest(r.Context(), r.URL.Query().Get("ref"))
	})
}

// Browse is one level of the images or of the files.
type Browse struct {
	Path    string        `json:"path"`
	Entries []BrowseEntry `json:"entries"`
}

// BrowseEntry is what is directly below a path.
type BrowseEntry struct {
	Name string `json:"name"`
	// Path is that of a directory or repository, for GET /v1/browse; the reference of a tag or a manifest; the URL of a
	// file.
	Path   string    `json:"path"`
	Kind   string    `json:"kind"` // directory, repository, tag, manifest or file
	Digest string    `json:"digest,omitempty"`
	Size   int64     `json:"size,omitempty"` // bytes
	Time   time.Time `json:"time,omitzero"`  // when it was stored
}

// maxPath bounds a path that a request names, in bytes.
const maxPath = 4096

func (a *API) getBrowse(r *http.Request, p page) (pagedAnswer, error) {
	q := r.URL.Query()
	path := strings.Trim(q.Get("path"), "/")
	if len(path) > maxPath {
		return pagedAnswer{}, usage.Errorf("path has at most %d bytes, got %d", maxPath, len(path))
	}
	var phase, last string
	if err := positioned(p, &phase, &last); err != nil {
		return pagedAnswer{}, err
	}
	answer := pagedAnswer{around: struct {
		Path string `json:"path"`
	}{path}, field: "entries"}
	switch kind := q.Get("kind"); kind {
	case "image":
		path = a.canonical(path)
		answer.list = a.browseImages(r.Context(), path, phase, last)
	case "file":
		answer.list = a.browseFiles(path, last)
	default:
		return pagedAnswer{}, usage.Errorf("kind must be image or file, got %.40q", kind)
	}
	return answer, nil
}

// browseImages yields the directories and repositories below a path, and then the images of the repository itself.
func (a *API) browseImages(ctx context.Context, path, phase, last string) list {
	return func(yield func(element, error) bool) {
		if phase != "image" {
			for elem, repository := range a.Registry.Level(path, last) {
				if err := ctx.Err(); err != nil {
					yield(element{}, err)
					return
				}
				e := BrowseEntry{Name: elem, Path: strings.TrimPrefix(path+"/"+elem, "/"), Kind: "directory"}
				if repository {
					e.Kind = "repository"
				}
				if !yield(element{e, position("level", elem)}, nil) {
					return
				}
			}
			last = ""
		}
		if path == "" {
			return
		}
		// "NAME:" and "NAME@" are the beginnings of the references of this repository alone.
		if !strings.Contains(last, "@") {
			if !a.browseTags(ctx, path+":", last, yield) {
				return
			}
			last = ""
		}
		a.browseTags(ctx, path+"@", last, yield)
	}
}

// browseTags yields the images whose reference begins with prefix, and reports whether to go on.
func (a *API) browseTags(ctx context.Context, prefix, last string, yield func(element, error) bool) bool {
	for i, err := range a.Registry.ImagesAfter(ctx, prefix, last) {
		if err != nil {
			yield(element{}, err)
			return false
		}
		info := imageOf(i)
		e := BrowseEntry{Name: i.Reference, Path: info.Reference, Kind: "tag", Digest: info.Digest, Size: i.Size,
			Time: i.Stored}
		if i.Reference == "" {
			e.Name, e.Kind = info.Digest, "manifest"
		}
		if !yield(element{e, position("image", info.Reference)}, nil) {
			return false
		}
	}
	return true
}

// browseFiles yields what is directly below a path of files.
func (a *API) browseFiles(path, last string) list {
	return func(yield func(element, error) bool) {
		for c, err := range a.Files.Level(path, last) {
			if err != nil {
				yield(element{}, err)
				return
			}
			e := BrowseEntry{Name: c.Name, Path: c.Path, Kind: "directory"}
			if f := c.File; f != nil {
				e = BrowseEntry{c.Name, f.URL, "file", f.Digest, f.Size, f.Time}
			}
			if !yield(element{e, position("level", c.Element)}, nil) {
				return
			}
		}
	}
}

// Manifest is what a manifest and its config state, and what is attached to it.
type Manifest struct {
	ArtifactType string     `json:"artifact_type,omitempty"`
	Config       *Content   `json:"config,omitempty"`
	Layers       []Content  `json:"layers"`
	Manifests    []Content  `json:"manifests"` // of an index
	Subject      string     `json:"subject,omitempty"`
	Platform     string     `json:"platform,omitempty"` // that the config states
	Created      time.Time  `json:"created,omitzero"`   // that the config states
	Attached     []Attached `json:"attached"`
	// More says that not all are listed: the first 1000 layers and manifests, and 100 of what is attached.
	More bool `json:"more,omitempty"`
}

// Content is a descriptor of a manifest.
type Content struct {
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Platform  string `json:"platform,omitempty"`
	Stored    bool   `json:"stored"` // it is here
}

// Attached is a manifest that is attached to another one, as a referrer or by a tag of cosign.
type Attached struct {
	Digest       string `json:"digest"`
	Tag          string `json:"tag,omitempty"`
	ArtifactType string `json:"artifact_type,omitempty"`
	Kind         string `json:"kind,omitempty"` // signature, attestation or sbom; nobody has verified it here
}

// ImageManifest is an image with what its manifest states, for everybody who may list images.
type ImageManifest struct {
	Image
	Platforms []string `json:"platforms"`
	Absent    []string `json:"absent"`
	Tags      []string `json:"tags"`
	Manifest
}

// found is an image that a request names by NAME:TAG or NAME@DIGEST.
func (a *API) found(ctx context.Context, ref string) (registry.Image, error) {
	name, tag, dg := splitReference(ref)
	if name == "" || (tag == "") == (dg == "") {
		return registry.Image{}, usage.Errorf("an image is NAME:TAG or NAME@DIGEST, got %.300q", ref)
	}
	name = a.canonical(name)
	i, err := a.Registry.ImageAt(ctx, name, tag, dg)
	if errors.Is(err, fs.ErrNotExist) {
		// Stat asks the leader whether it exists, for whoever has pushed it to another node just now.
		if at, terr := a.Registry.TreeName(name, tag, dg); terr == nil {
			if _, serr := a.Tree.Stat("registry/" + at); serr == nil {
				i, err = a.Registry.ImageAt(ctx, name, tag, dg)
			}
		}
	}
	if err != nil {
		return i, fmt.Errorf("there is no image %.300s: %w", ref, err)
	}
	return i, nil
}

// splitReference splits NAME:TAG or NAME@DIGEST.
func splitReference(ref string) (name, tag, dg string) {
	name, dg, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	return name, tag, dg
}

func (a *API) showManifest(ctx context.Context, ref string) (any, error) {
	i, err := a.found(ctx, ref)
	if err != nil {
		return nil, err
	}
	return a.manifestOf(ctx, i)
}

// manifestOf returns what the manifest of an image states. Of one that is damaged or lost nothing is known.
func (a *API) manifestOf(ctx context.Context, i registry.Image) (out ImageManifest, err error) {
	out = ImageManifest{Image: imageOf(i), Platforms: append([]string{}, i.Platforms...),
		Absent: append([]string{}, i.Absent...), Tags: []string{},
		Manifest: Manifest{Layers: []Content{}, Manifests: []Content{}, Attached: []Attached{}}}
	for tag := range a.Registry.TagsOf(i.Name, out.Digest) {
		out.Tags = append(out.Tags, tag)
	}
	if i.Lost {
		return out, nil
	}
	d, err := a.Registry.Details(ctx, i.Name, out.Digest)
	if err != nil {
		return out, err
	}
	m := &out.Manifest
	m.ArtifactType, m.Subject, m.Platform, m.Created, m.More = d.ArtifactType, d.Subject, d.Platform, d.Created, d.More
	if d.Config != nil {
		config := Content(*d.Config)
		m.Config = &config
	}
	for _, l := range d.Layers {
		m.Layers = append(m.Layers, Content(l))
	}
	for _, c := range d.Manifests {
		m.Manifests = append(m.Manifests, Content(c))
	}
	for _, at := range d.Attached {
		m.Attached = append(m.Attached, Attached{at.Digest, at.Tag, at.ArtifactType, at.Kind})
	}
	return out, nil
}
