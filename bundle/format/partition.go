package format

import (
	"fmt"
	"sort"

	"casemate/bundle"
)

// maxParts is the maximum number of parts: they are numbered .001 to .9999.
const maxParts = 9999

// piece is one entry of a part that is content: a blob, or a chunk of one.
type piece struct {
	blob   int   // its position in Index.Blobs
	chunk  int   // number of the chunk; -1 for a whole blob
	size   int64 // of its content, in bytes
	offset int64 // of its header, counted from the end of the documents
}

// partition assigns pieces to parts. It follows from the index, the split size and the size of the documents alone, so
// a reader computes it again and need not trust the bundle.
type partition struct {
	chunk int64 // size of all chunks of a blob but the last; 0 if no blob is cut
	cuts  []int // the blobs that are cut into chunks, in order
	parts [][]piece
}

// newPartition assigns the blobs to parts of at most split bytes; 0 makes a single part without a limit. documents is
// the size of the documents of a part without part.json, and of the end of the archive.
//
// Blobs go in order into the current part while they fit, then into the next one. A blob that does not fit into an
// empty part begins a new part and is cut into chunks that fill parts; the blobs after it may share the part of its
// last chunk. The reserve for part.json depends on the number of chunks, which depends on the reserve; the smallest
// consistent number is used.
func newPartition(blobs []bundle.Blob, documents, split int64) (*partition, error) {
	d := &partition{}
	room := int64(bundle.MaxContent)
	if split > 0 {
		chunks, cuts := 0, 0
		for {
			room = split - documents - entrySize(bundle.PartDocument, partReserve(cuts, chunks))
			d.chunk = (room - headerSize(chunkName(emptyChunk), room)) &^ (tarBlock - 1)
			if d.chunk < tarBlock {
				return nil, errSplitTooSmall
			}
			nowCuts, now := 0, int64(0)
			for i := range blobs {
				// Headers and padding are less than four blocks, so most blobs need no exact computation.
				if b := &blobs[i]; !b.Omitted && b.Size > room-4*tarBlock &&
					entrySize(blobName(b.Digest), b.Size) > room {
					nowCuts++
					now += (b.Size + d.chunk - 1) / d.chunk
				}
				if now > maxParts {
					return nil, errSplitTooSmall
				}
			}
			if nowCuts == cuts && int(now) == chunks {
				break
			}
			cuts, chunks = nowCuts, int(now)
		}
		if chunks == 0 {
			d.chunk = 0
		}
	}
	var part []piece
	var used int64
	next := func() {
		d.parts = append(d.parts, part)
		part, used = nil, 0
	}
	put := func(p piece, size int64) {
		p.offset = used
		part = append(part, p)
		used += size
	}
	for i := range blobs {
		b := &blobs[i]
		if b.Omitted {
			continue
		}
		size := entrySize(blobName(b.Digest), b.Size)
		if size <= room {
			if used+size > room {
				next()
			}
			put(piece{blob: i, chunk: -1, size: b.Size}, size)
			continue
		}
		d.cuts = append(d.cuts, i)
		for n, left := 0, b.Size; left > 0; n++ {
			if used > 0 {
				next()
			}
			p := piece{blob: i, chunk: n, size: min(left, d.chunk)}
			put(p, entrySize(chunkName(emptyChunk), p.size))
			left -= p.size
		}
	}
	next()
	if len(d.parts) > maxParts {
		return nil, errSplitTooSmall
	}
	return d, nil
}

// errSplitTooSmall reports that parts of that size cannot hold the bundle.
var errSplitTooSmall = fmt.Errorf(
	"the documents leave too little room for content, or there would be more than %d parts",
	maxParts,
)

// minSplit returns approximately the smallest split size with which newPartition succeeds.
func minSplit(blobs []bundle.Blob, documents int64) int64 {
	const unit = 64 << 10
	n := sort.Search(1<<44, func(n int) bool {
		_, err := newPartition(blobs, documents, int64(n+1)*unit)
		return err == nil
	})
	return int64(n+1) * unit
}
