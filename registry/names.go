package registry

import (
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"casemate/cluster/tree"
)

// Tags yields the tags of a repository, by name; none if there is no such repository. It reads the local state only.
func (r *Registry) Tags(repository string) iter.Seq[string] {
	return func(yield func(string) bool) {
		repo, err := r.canonical(repository)
		if err != nil {
			return
		}
		dir := tagsDir(repo)
		for name := range r.tree.Walk(dir, "") {
			rest := strings.TrimPrefix(name, dir+"/")
			if tag := path.Dir(path.Dir(rest)); IsTag([]byte(name)) && !yield(tag) {
				return
			}
		}
	}
}

// Referrers yields the digests of the manifests of a repository whose subject is the manifest dg, sorted; none if there
// is no such repository. It reads the local state only.
func (r *Registry) Referrers(repository, dg string) iter.Seq[string] {
	return func(yield func(string) bool) {
		repo, err := r.canonical(repository)
		if err != nil || !tree.ValidDigest(dg) {
			return
		}
		dir := referrersDir(repo, digest.Digest(dg))
		for name := range r.tree.Walk(dir, "") {
			algorithm, rest, _ := strings.Cut(strings.TrimPrefix(name, dir+"/"), "/")
			encoded, _, _ := strings.Cut(rest, "/")
			if d := algorithm + ":" + encoded; tree.ValidDigest(d) && !yield(d) {
				return
			}
		}
	}
}

// LayerName returns the name in the registry's tree that Link gives a layer in a repository, which is canonicalised as
// Link does. fs.ErrInvalid: repository or digest is malformed.
func (r *Registry) LayerName(repository, dg string) (string, error) {
	repo, err := r.canonical(repository)
	if err == nil && !tree.ValidDigest(dg) {
		err = fmt.Errorf("%.200q is not a digest: %w", dg, fs.ErrInvalid)
	}
	if err != nil {
		return "", fmt.Errorf("layer %.300s: %w", repository, err)
	}
	return layerPath(repo, digest.Digest(dg)), nil
}
