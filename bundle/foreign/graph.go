package foreign

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"casemate/bundle/oci"
)

// maxNested is the maximum nesting depth of indexes. Clients and registries look no deeper.
const maxNested = 32

func errNested(digest string) error {
	return fmt.Errorf("index %s: more than %d indexes are nested, and clients look no deeper: %w",
		digest, maxNested, fs.ErrInvalid)
}

// graph holds the manifests that were read, by digest. It is used by one goroutine.
type graph struct {
	manifests map[string]*oci.Manifest
	edges     int
}

// add adds a manifest. data must have that digest.
func (g *graph) add(digest, mediaType string, data []byte) (*oci.Manifest, error) {
	if m := g.manifests[digest]; m != nil {
		return m, nil
	}
	m, err := oci.Parse(digest, mediaType, data)
	if err != nil {
		return nil, err
	}
	if g.edges += 1 + len(m.Children) + len(m.Blobs); g.edges > maxEntries {
		return nil, fmt.Errorf("manifest %s and those before it name more than %d blobs", digest, maxEntries)
	}
	if g.manifests == nil {
		g.manifests = map[string]*oci.Manifest{}
	}
	g.manifests[digest] = m
	return m, nil
}

// readStored reads a manifest or another small document from the sink.
func (r *Reader) readStored(ctx context.Context, digest string) ([]byte, error) {
	f, err := r.sink.Open(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", digest, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, oci.MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", digest, err)
	}
	if len(data) > oci.MaxDocument {
		return nil, fmt.Errorf("%s has more than the %d bytes of a document", digest, oci.MaxDocument)
	}
	return data, nil
}
