package fileserver

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"casemate/cluster/byterange"
	"casemate/cluster/tree"
)

const (
	maxSums    = 4096 // checksums remembered: under 2 MiB
	maxHashing = 2    // files hashed at a time
)

// sumKind is a kind of checksum file.
type sumKind struct {
	suffix, algorithm string
	list              bool // always "<hex>  <name>"
}

var sumKinds = []sumKind{
	{".sha256", "sha256", false}, {".sha512", "sha512", false},
	{".sha256sum", "sha256", true}, {".sha512sum", "sha512", true},
}

// sumOf returns the file that a checksum file of that name belongs to.
func sumOf(name string) (of string, kind sumKind, ok bool) {
	for _, k := range sumKinds {
		if of, ok := strings.CutSuffix(name, k.suffix); ok && of != "" {
			return of, k, true
		}
	}
	return "", sumKind{}, false
}

// bareSums are the places whose .sha256 and .sha512 files contain the bare digest, without newline and name. Clients
// rely on it: the Kubernetes manual uses `echo "$(cat kubectl.sha256) kubectl" | sha256sum --check`, Helm's installer
// compares the whole content. Everywhere else it is "<hex> <name>", which `sha256sum -c` reads (gVisor, CNI plugins,
// Cilium) and of which Ansible and awk take the first word.
var bareSums = []string{"dl.k8s.io/", "cdn.dl.k8s.io/", "get.helm.sh/", "storage.googleapis.com/kubernetes-release/"}

// sendSum answers with a checksum file that is not stored.
func (s *Server) sendSum(w http.ResponseWriter, r *http.Request, h storedFile, name string, kind sumKind) {
	text, err := s.sumText(r.Context(), h, name, kind)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("ETag", `"`+tree.Sum([]byte(text), "")+`"`)
	http.ServeContent(w, byterange.Bound(r, int64(len(text))), "", h.mod, strings.NewReader(text))
}

// sumText is the content of a checksum file of h under that name.
func (s *Server) sumText(ctx context.Context, h storedFile, name string, kind sumKind) (string, error) {
	sum, err := s.sum(ctx, h.digest, kind.algorithm)
	if err != nil {
		return "", err
	}
	if !kind.list {
		for _, place := range bareSums {
			if strings.HasPrefix(h.key, place) {
				return sum, nil
			}
		}
	}
	return sum + "  " + name + "\n", nil
}

// sums caches computed digests. They are in memory and not in the tree: a read must not write, least of all without a
// quorum, and a digest lost at a restart costs one reading of the file.
type sums struct {
	mu    sync.Mutex
	busy  map[string]chan struct{} // closed when that computation ends, with or without error
	known map[string]string
}

// sum returns the hex digest of a blob in another algorithm than the one that names it.
func (s *Server) sum(ctx context.Context, digest, algorithm string) (string, error) {
	if sum, ok := strings.CutPrefix(digest, algorithm+":"); ok {
		return sum, nil
	}
	key := algorithm + " of " + digest
	done := make(chan struct{})
	for {
		s.sums.mu.Lock()
		if sum, ok := s.sums.known[key]; ok {
			s.sums.mu.Unlock()
			return sum, nil
		}
		wait, running := s.sums.busy[key]
		if !running && len(s.sums.busy) >= maxHashing {
			for _, wait = range s.sums.busy {
				break // any of them: a slot is free when it ends
			}
			running = true
		}
		if !running {
			s.sums.busy[key] = done
			s.sums.mu.Unlock()
			break
		}
		s.sums.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	// A client that gives up does not stop the computation: it will ask again, and a file that takes longer to hash
	// than the client waits would never get its checksum.
	sum, err := s.hash(context.WithoutCancel(ctx), digest, algorithm)
	s.sums.mu.Lock()
	delete(s.sums.busy, key)
	if err == nil {
		for old := range s.sums.known {
			if len(s.sums.known) < maxSums {
				break
			}
			delete(s.sums.known, old)
		}
		s.sums.known[key] = sum
	}
	s.sums.mu.Unlock()
	close(done)
	return sum, err
}

func (s *Server) hash(ctx context.Context, digest, algorithm string) (string, error) {
	blob, err := s.cfg.Tree.OpenBlob(ctx, digest)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	h := tree.NewHash(algorithm + ":")
	if _, err := io.Copy(h, blob); err != nil {
		return "", fmt.Errorf("hash %s: %w", digest, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
