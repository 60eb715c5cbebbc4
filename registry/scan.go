package registry

import (
	"context"
	"iter"
	"strings"

	"casemate/cluster/tree"
)

// Named is what a repository calls a manifest: a tag, or the manifest itself.
type Named struct {
	Repository string // canonical
	Tag        string // "": the manifest by its digest
	Digest     string
}

// scanAlong is how many names of a directory that has none to yield are passed one by one before a seek past it.
const scanAlong = 24

// Names yields the manifests and then the tags of each repository at or below a path ("" for all). It reads no
// manifests. It ends with the context's error when ctx does.
func (r *Registry) Names(ctx context.Context, below string) iter.Seq2[Named, error] {
	if below == "" {
		return r.namesIn(ctx, "repositories")
	}
	return r.namesIn(ctx, repoDir(below))
}

// NamesIn is Names of one repository.
func (r *Registry) NamesIn(ctx context.Context, repo string) iter.Seq2[Named, error] {
	return r.namesIn(ctx, repoDir(repo)+"/_manifests")
}

func (r *Registry) namesIn(ctx context.Context, dir string) iter.Seq2[Named, error] {
	return func(yield func(Named, error) bool) {
		from := ""
		for again := true; again; {
			again = false
			passed, seen := 0, 0
			for name, fi := range r.tree.Walk(dir, from) {
				if seen++; seen&1023 == 0 && ctx.Err() != nil {
					break
				}
				i := strings.Index(name, "/_")
				if i < 0 {
					continue // no name of a repository
				}
				if strings.HasPrefix(name[i:], "/_manifests/") {
					passed = 0
					n := Named{Digest: tree.DigestOf(fi)}
					var ok bool
					if n.Repository, n.Tag, _, ok = r.NameOf(name); ok && n.Digest != "" && !yield(n, nil) {
						return
					}
					continue
				}
				if passed++; passed >= scanAlong {
					from, again = name[:i]+"/_manifests", true
					if name[i:] > "/_manifests/" {
						from = name[:i] + "/_\U0010ffff"
					}
					break
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Named{}, err)
		}
	}
}
