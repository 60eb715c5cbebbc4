package fileserver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"casemate/cluster/tree"
	"casemate/fileserver/ospackages"
)

const (
	maxReleases = 64 // documents of repositories that are remembered
	maxParsing  = 2  // of them read at a time
	generations = 2  // of a Release file that a by-hash name may come from
)

// byHash finds the file of an apt repository under its by-hash name, DIR/by-hash/ALGORITHM/SUM (fs.ErrNotExist: there
// is none). The file must be stored in DIR, by any import that is still here, and a Release file in DIR or above must
// list it with that sum: the visible one, or the one that it replaced. So a client that has read the older Release file
// gets the indices of that one, and nothing else can be read by its digest.
func (s *Server) byHash(ctx context.Context, a address) (storedFile, error) {
	n := len(a.elems)
	if a.slash || n < 3 || a.elems[n-3] != "by-hash" {
		return storedFile{}, fs.ErrNotExist
	}
	algorithm, sum := a.elems[n-2], strings.ToLower(a.elems[n-1])
	if _, err := hex.DecodeString(sum); err != nil {
		return storedFile{}, fs.ErrNotExist
	}
	dir := a.elems[:n-3]
	for above := len(dir); above >= 0; above-- {
		root := address{host: a.host, elems: dir[:above]}.dir()
		below := "."
		if above < len(dir) {
			below = unescape(strings.Join(dir[above:], "/"))
		}
		for _, release := range s.lastReleases(root) {
			rel, err := s.release(ctx, release.digest)
			if err != nil {
				return storedFile{}, err
			}
			name, sums, ok := rel.ByHash(below, algorithm, sum)
			if !ok {
				continue
			}
			file := escape(name[strings.LastIndexByte(name, '/')+1:])
			key := address{host: a.host, elems: append(slices.Clone(dir), file)}.key("")
			if h, err := s.claimed(ctx, key, sums); !errors.Is(err, fs.ErrNotExist) {
				return h, err
			}
		}
	}
	return storedFile{}, fs.ErrNotExist
}

// lastReleases returns the newest Release files of a directory, the visible one first, each content once.
func (s *Server) lastReleases(dir string) (list []storedFile) {
	for _, name := range []string{"/InRelease?", "/Release?"} {
		n := 0
		for _, h := range s.claims(dir + name) {
			if same := func(o storedFile) bool { return o.digest == h.digest }; !slices.ContainsFunc(list, same) {
				if n++; n > generations {
					break
				}
				list = append(list, h)
			}
		}
	}
	return list
}

// claims returns the contents that a name has in all imports, the visible one first. It asks no other node.
func (s *Server) claims(key string) (list []storedFile) {
	if tooLong(key) {
		return nil
	}
	for _, fi := range s.cfg.Claims(key) {
		if h, ok := storedFileOf(key, fi); ok {
			list = append(list, h)
		}
	}
	return list
}

// claimed returns the content of a name that has the sums of a Release file.
func (s *Server) claimed(ctx context.Context, key string, sums ospackages.Sums) (storedFile, error) {
	for _, h := range s.claims(key) {
		switch {
		case sums.SHA256 != "":
			if h.digest == "sha256:"+sums.SHA256 {
				return h, nil
			}
		case sums.SHA512 != "":
			sum, err := s.sum(ctx, h.digest, "sha512")
			if err != nil {
				return storedFile{}, err
			}
			if sum == sums.SHA512 {
				return h, nil
			}
		}
	}
	return storedFile{}, fs.ErrNotExist
}

// release reads a Release file. One that is malformed lists nothing.
func (s *Server) release(ctx context.Context, digest string) (*ospackages.Release, error) {
	return s.releases.get(ctx, digest, func(ctx context.Context) (*ospackages.Release, error) {
		blob, err := s.cfg.Tree.OpenBlob(ctx, digest)
		if err != nil {
			return nil, err
		}
		defer blob.Close()
		content := &failing{r: blob}
		rel, err := ospackages.ParseRelease(content)
		if content.err != nil {
			return nil, fmt.Errorf("read %s: %w", digest, content.err)
		}
		if err != nil {
			s.cfg.Log.Debug("a Release file lists nothing for by-hash", "digest", digest, "err", err)
			return &ospackages.Release{}, nil
		}
		return rel, nil
	})
}

// visible is Config.Claims of a tree without claims.
func visible(t Tree) func(key string) []fs.FileInfo {
	return func(key string) []fs.FileInfo {
		fi, err := t.Stat(key)
		if err != nil || tree.DigestOf(fi) == "" {
			return nil
		}
		return []fs.FileInfo{fi}
	}
}
