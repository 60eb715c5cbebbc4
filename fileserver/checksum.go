package fileserver

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"

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
	http.ServeContent(w, byterange.Bound(r, int64(len(text))), "", s.validDate(w, h), strings.NewReader(text))
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

// sum returns the hex digest of a blob in another algorithm than the one that names it.
func (s *Server) sum(ctx context.Context, digest, algorithm string) (string, error) {
	if sum, ok := strings.CutPrefix(digest, algorithm+":"); ok {
		return sum, nil
	}
	return s.sums.get(ctx, algorithm+" of "+digest, func(ctx context.Context) (string, error) {
		return s.hash(ctx, digest, algorithm)
	})
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
