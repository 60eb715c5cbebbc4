package format

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"casemate/bundle"
	"casemate/bundle/canonical"
	"casemate/bundle/digests"
)

// bundleVersion is the version of the tar's layout that this program writes and the newest it reads.
const bundleVersion = 1

// The documents after PartDocument, in their order. Every part contains all of them.
const (
	partSumName   = "casemate/part.json.sha256"
	indexName     = "casemate/index.json"
	signatureName = "casemate/signature.json" // only in a signed bundle
	ociLayoutName = "oci-layout"
	ociIndexName  = "index.json"
)

const maxPartDoc = 4 << 20

// partDoc is the document casemate/part.json: the bundle, the number of the part, and the digests of chunks, which
// follow from nothing else.
type partDoc struct {
	Version int    `json:"version"`
	Bundle  string `json:"bundle"` // the digest of casemate/index.json
	Part    int    `json:"part"`   // from 1
	Parts   int    `json:"parts"`
	Split   int64  `json:"split,omitempty"` // maximum bytes of a part; 0: not split
	Chunk   int64  `json:"chunk,omitempty"` // bytes of every chunk of a blob but the last
	Cut     []cut  `json:"cut,omitempty"`   // the blobs that are cut into chunks, of all parts
}

// cut is a blob that is cut into chunks.
type cut struct {
	Digest string   `json:"digest"`
	Chunks []string `json:"chunks"` // sha256 digests
}

// partReserve is the maximum size of a part document with that many cut blobs and chunks.
func partReserve(cuts, chunks int) int64 { return 512 + 192*int64(cuts) + 80*int64(chunks) }

func (p *partDoc) encode() ([]byte, error) {
	b, err := canonical.Encode(p)
	return append(b, '\n'), err
}

func decodePart(b []byte) (*partDoc, error) {
	line, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return nil, io.ErrUnexpectedEOF
	}
	if err := (&canonical.Cursor{Doc: b}).Version("the bundle", bundleVersion); err != nil {
		return nil, err
	}
	p := &partDoc{}
	if err := canonical.Decode([]byte(line), p); err != nil {
		return nil, err
	}
	if err := digests.Check(p.Bundle); err != nil {
		return nil, err
	}
	if p.Parts < 1 || p.Parts > maxParts || p.Part < 1 || p.Part > p.Parts || p.Split < 0 ||
		p.Split == 0 && p.Parts > 1 {
		return nil, fmt.Errorf("part %d of %d with split size %d is not possible", p.Part, p.Parts, p.Split)
	}
	for _, c := range p.Cut {
		for _, d := range c.Chunks {
			if err := digests.Check(d); err != nil {
				return nil, err
			}
			if len(d) != len(emptyChunk) {
				return nil, fmt.Errorf("chunk %s is not a sha256 digest", d)
			}
		}
	}
	return p, nil
}

// same reports whether the documents of two parts differ only in the number.
func (p *partDoc) same(o *partDoc) bool {
	a, errA := (&partDoc{p.Version, p.Bundle, 1, p.Parts, p.Split, p.Chunk, p.Cut}).encode()
	b, errB := (&partDoc{o.Version, o.Bundle, 1, o.Parts, o.Split, o.Chunk, o.Cut}).encode()
	return errA == nil && errB == nil && string(a) == string(b)
}

// emptyChunk is used for a chunk whose digest is not known yet; its name has the same length.
const emptyChunk = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func blobName(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
func chunkName(digest string) string {
	return "casemate/chunks/" + strings.Replace(digest, ":", "/", 1)
}

// document is a document and the name of its entry.
type document struct {
	name    string
	content []byte
}

// bundleLayout determines all bytes of a bundle but the content of blobs: the writer writes parts from it, and the
// reader compares parts with it.
type bundleLayout struct {
	index     *bundle.Index
	id        string
	indexJSON []byte
	signature []byte // nil if it is not signed
	ociIndex  []byte
	split     int64
	partition *partition
	chunks    [][]string // of each of partition.cuts
}

// newBundleLayout computes the parts of a bundle. ix must be the decoded indexJSON. If the error is errSplitTooSmall,
// everything but the partition is set.
func newBundleLayout(ix *bundle.Index, indexJSON, signature []byte, split int64) (*bundleLayout, error) {
	oci, err := ociIndex(ix)
	if err != nil {
		return nil, err
	}
	c := &bundleLayout{
		index:     ix,
		id:        digests.SHA256(indexJSON),
		indexJSON: indexJSON,
		signature: signature,
		ociIndex:  oci,
		split:     split,
	}
	c.partition, err = newPartition(ix.Blobs, c.fixedSize(), split)
	return c, err
}

// fixedSize is the number of bytes of every part that are neither part.json nor content.
func (c *bundleLayout) fixedSize() int64 {
	return documentsSize(c.fixedDocuments(document{partSumName, partSum(nil)})) + endOfArchive
}

// partSum is the document that reveals damage of part.json, in the format of sha256sum.
func partSum(partJSON []byte) []byte {
	return []byte(strings.TrimPrefix(digests.SHA256(partJSON), "sha256:") + "  part.json\n")
}

// fixedDocuments are the documents that follow part.json.
func (c *bundleLayout) fixedDocuments(sum document) []document {
	docs := []document{sum, {indexName, c.indexJSON}}
	if c.signature != nil {
		docs = append(docs, document{signatureName, c.signature})
	}
	return append(docs, document{ociLayoutName, []byte(ociLayout)}, document{ociIndexName, c.ociIndex})
}

// partDoc returns part.json of part n, counted from 1.
func (c *bundleLayout) partDoc(n int) *partDoc {
	p := &partDoc{
		Version: bundleVersion,
		Bundle:  c.id,
		Part:    n,
		Parts:   len(c.partition.parts),
		Split:   c.split,
		Chunk:   c.partition.chunk,
	}
	for i, b := range c.partition.cuts {
		p.Cut = append(p.Cut, cut{c.index.Blobs[b].Digest, c.chunks[i]})
	}
	return p
}

// documents returns the documents of part n.
func (c *bundleLayout) documents(n int) ([]document, error) {
	b, err := c.partDoc(n).encode()
	if err != nil {
		return nil, err
	}
	return append([]document{{bundle.PartDocument, b}}, c.fixedDocuments(document{partSumName, partSum(b)})...), nil
}

// nameOf and digestOf return the entry name and the digest of a piece.
func (c *bundleLayout) nameOf(p *piece) string {
	if p.chunk < 0 {
		return blobName(c.digestOf(p))
	}
	return chunkName(c.digestOf(p))
}

func (c *bundleLayout) digestOf(p *piece) string {
	if p.chunk < 0 {
		return c.index.Blobs[p.blob].Digest
	}
	return c.chunks[sort.SearchInts(c.partition.cuts, p.blob)][p.chunk]
}

// frame returns the bytes between the content of piece i-1 and that of piece i of a part. i may be the number of
// pieces.
func (c *bundleLayout) frame(pieces []piece, i int) []byte {
	var b []byte
	if i > 0 {
		b = make([]byte, padding(pieces[i-1].size))
	}
	if i == len(pieces) {
		return append(b, make([]byte, endOfArchive)...)
	}
	return append(b, tarHeader(c.nameOf(&pieces[i]), pieces[i].size)...)
}

// writeDocuments writes documents as entries.
func writeDocuments(w io.Writer, docs []document) error {
	for _, d := range docs {
		size := int64(len(d.content))
		for _, b := range [][]byte{tarHeader(d.name, size), d.content, make([]byte, padding(size))} {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
	return nil
}

func documentsSize(docs []document) int64 {
	var n int64
	for _, d := range docs {
		n += entrySize(d.name, int64(len(d.content)))
	}
	return n
}

// partSize returns the size of a part whose documents have that size.
func (c *bundleLayout) partSize(documents int64, pieces []piece) int64 {
	n := documents + endOfArchive
	if len(pieces) > 0 {
		p := &pieces[len(pieces)-1]
		n += p.offset + entrySize(c.nameOf(p), p.size)
	}
	return n
}
