package content

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"casemate/bundle"
	"casemate/cluster"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// RedirectsDir is the part of the tree with the redirects that imports brought. A record there is named as the file
// server names a file of the URL, and its content is the address to which the URL leads. It carries the import's claim:
// of several imports the newest decides, and removing it brings back what the one before said.
const RedirectsDir = "redirects"

// Redirects reads the redirects that imports brought: addresses by URL, as fileserver.CheckRedirect has them.
func Redirects(tree interface {
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
	ReadFile(name string) ([]byte, error)
}) (map[string]string, error) {
	list := map[string]string{}
	for name := range tree.Walk(RedirectsDir, "") {
		data, err := tree.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("redirects of imports: %w", err)
		}
		list[redirectURL(name)] = string(data)
	}
	return list, nil
}

// redirectURL is the URL of a record below RedirectsDir.
func redirectURL(name string) string {
	return fileserver.URL(strings.TrimPrefix(name, RedirectsDir+"/"))
}

// redirect writes one redirect, or says why there can be none.
func (e *Engine) redirect(l *edits, r bundle.Redirect) error {
	if err := fileserver.CheckRedirect(r.From, r.To); err != nil {
		return err
	}
	if strings.HasSuffix(r.From, "/*") {
		return fmt.Errorf("redirect of %s: an import redirects single URLs: %w", r.From, fs.ErrInvalid)
	}
	key, err := e.fileKey(r.From)
	if err != nil {
		return err
	}
	l.add(edit{name: RedirectsDir + "/" + key, digest: textDigest(r.To), record: []byte(r.To)})
	return nil
}

// textDigest stands for the content of a record where those of links are compared.
func textDigest(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// claimDigest is the digest of what a claim has under a name.
func claimDigest(name string, c cluster.Claim) string {
	if strings.HasPrefix(name, RedirectsDir+"/") {
		return textDigest(c.Data)
	}
	return tree.DigestOf(c.FileInfo)
}
