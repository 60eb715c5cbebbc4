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

// RedirectsDir is the part of the tree with the redirects of imports. A record there is named like the URL's file in
// the file server, and its content is the target address. It has the import's claim: of several imports the newest
// applies, and removing it makes the previous redirect reappear.
const RedirectsDir = "redirects"

// Redirects returns the redirects of imports: target addresses by URL, in the form of fileserver.CheckRedirect.
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

// redirectURL returns the URL of a record below RedirectsDir.
func redirectURL(name string) string {
	return fileserver.URL(strings.TrimPrefix(name, RedirectsDir+"/"))
}

// redirect writes one redirect, or returns why it is invalid.
func (e *Engine) redirect(l *edits, r bundle.Redirect) error {
	if err := fileserver.CheckRedirect(r.From, r.To); err != nil {
		return err
	}
	if strings.HasSuffix(r.From, "/*") {
		return fmt.Errorf("redirect of %s: an import can only redirect single URLs: %w", r.From, fs.ErrInvalid)
	}
	key, err := e.fileKey(r.From)
	if err != nil {
		return err
	}
	l.add(edit{name: RedirectsDir + "/" + key, digest: textDigest(r.To), record: []byte(r.To)})
	return nil
}

// textDigest returns a digest of a record's content, for comparison where links have digests.
func textDigest(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// claimDigest returns the digest of what a claim has under a name.
func claimDigest(name string, c cluster.Claim) string {
	if strings.HasPrefix(name, RedirectsDir+"/") {
		return textDigest(c.Data)
	}
	return tree.DigestOf(c.FileInfo)
}
