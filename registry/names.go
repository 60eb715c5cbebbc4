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

// Tags yields the tags of a repository, by name; none where there is no such repository. It asks nobody else whether a
// repository that is not here exists.
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

// LayerName is the name in the registry's tree that Link gives a layer in a repository, which is folded as Link does.
// fs.ErrInvalid: repository or digest can be no name.
func (r *Registry) LayerName(repository, dg string) (string, error) {
	repo, err := r.canonical(repository)
	if err == nil && !tree.ValidDigest(dg) {
		err = fmt.Errorf("%.200q is no digest: %w", dg, fs.ErrInvalid)
	}
	if err != nil {
		return "", fmt.Errorf("layer %.300s: %w", repository, err)
	}
	return layerPath(repo, digest.Digest(dg)), nil
}
