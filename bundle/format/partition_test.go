package format

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"casemate/bundle"
)

// TestPartition partitions many random bundles: every byte of every blob is in one part, in order, and no part exceeds
// its size.
func TestPartition(t *testing.T) {
	cutSome, several := 0, 0
	for seed := range uint64(3000 / every(5)) {
		r := rand.New(rand.NewPCG(seed, 1))
		scale := int64(1) << (8 + r.IntN(32)) // from bytes to more than a ustar header can say
		var blobs []bundle.Blob
		for i := range r.IntN(30) {
			digest := fmt.Sprintf("sha256:%064x", i)
			if r.IntN(4) == 0 {
				digest = fmt.Sprintf("sha512:%0128x", i)
			}
			blobs = append(blobs, bundle.Blob{Digest: digest, Size: r.Int64N(scale), Omitted: r.IntN(5) == 0})
		}
		documents := 4096 + r.Int64N(100)*tarBlock
		split := documents + 1024 + r.Int64N(scale)
		d, err := newPartition(blobs, documents, split)
		if errors.Is(err, errSplitTooSmall) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		chunks := 0
		var at piece // the next byte that must be dealt
		at.chunk = -1
		var from int64
		skip := func() {
			for at.blob < len(blobs) && blobs[at.blob].Omitted {
				at.blob++
			}
		}
		for n, part := range d.parts {
			var size int64
			for _, e := range part {
				skip()
				name := blobName(blobs[e.blob].Digest)
				if e.chunk >= 0 {
					name = chunkName(emptyChunk)
					chunks++
				}
				if e.blob != at.blob || e.offset != size || e.chunk >= 0 && int64(e.chunk)*d.chunk != from ||
					e.size == 0 && blobs[e.blob].Size > 0 {
					t.Fatalf("seed %d: part %d: %+v after %d bytes of blob %d", seed, n, e, from, at.blob)
				}
				size += entrySize(name, e.size)
				if from += e.size; from == blobs[e.blob].Size {
					at.blob, from = at.blob+1, 0
				}
			}
			if all := documents + entrySize(bundle.PartDocument, partReserve(len(d.cuts), chunksOf(d))) +
				size; all > split {
				t.Fatalf("seed %d: part %d has %d bytes, more than %d", seed, n, all, split)
			}
		}
		if skip(); at.blob != len(blobs) || from != 0 {
			t.Fatalf("seed %d: only %d of %d blobs, and %d bytes", seed, at.blob, len(blobs), from)
		}
		if chunks > 0 {
			cutSome++
		}
		if len(d.parts) > 1 {
			several++
		}
	}
	if cutSome < 100/every(5) || several < 300/every(5) {
		t.Errorf("only %d bundles with cut blobs and %d of several parts", cutSome, several)
	}
}

// chunksOf counts the chunks of all parts.
func chunksOf(d *partition) int {
	n := 0
	for _, part := range d.parts {
		for _, e := range part {
			if e.chunk >= 0 {
				n++
			}
		}
	}
	return n
}

// TestPartReserve: part.json never takes more than was set aside for it.
func TestPartReserve(t *testing.T) {
	for _, cuts := range []int{0, 1, 4999} {
		p := &partDoc{
			Version: bundleVersion,
			Bundle:  someDigest,
			Part:    maxParts,
			Parts:   maxParts,
			Split:   1<<63 - 1,
			Chunk:   1<<63 - 1,
		}
		for range cuts {
			p.Cut = append(p.Cut, cut{fmt.Sprintf("sha512:%0128x", 0), []string{emptyChunk, emptyChunk}})
		}
		b, err := p.encode()
		if err != nil || int64(len(b)) > partReserve(cuts, 2*cuts) || len(b) > maxPartDoc {
			t.Errorf("%d cut blobs: %d bytes, set aside %d (%v)", cuts, len(b), partReserve(cuts, 2*cuts), err)
		}
	}
}

const (
	someDigest  = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	otherDigest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)
