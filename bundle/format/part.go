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

// The documents of a bundle after PartDocument, in their order. Every part has them all.
const (
	partSumName   = "casemate/part.json.sha256"
	indexName     = "casemate/index.json"
	signatureName = "casemate/signature.json" // only of a signed one
	ociLayoutName = "oci-layout"
	ociIndexName  = "index.json"
)

const maxPartDoc = 4 << 20

// partDoc is the document casemate/part.json: which bundle this is, which part of it, and the digests of chunks, which
// nothing else tells.
type partDoc struct {
	Version int    `json:"version"`
	Bundle  string `json:"bundle"` // the digest of casemate/index.json
	Part    int    `json:"part"`   // from 1
	Parts   int    `json:"parts"`
	Split   int64  `json:"split,omitempty"` // bytes, the most that a part has; 0: not split
	Chunk   int64  `json:"chunk,omitempty"` // bytes of every chunk of a blob but its last
	Cut     []cut  `json:"cut,omitempty"`   // the blobs that are cut, of all parts
}

// cut is a blob that is cut into chunks.
type cut struct {
	Digest string   `json:"digest"`
	Chunks []string `json:"chunks"` // sha256 digests
}

// partReserve is the most that a part document with so many cut blobs and chunks takes.
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
	if p.Parts < 1 || p.Parts > maxParts || p.Part < 1 || p.Part > p.Parts || p.Split < 0 || p.Split == 0 && p.Parts > 1 {
		return nil, fmt.Errorf("part %d of %d with split size %d cannot be", p.Part, p.Parts, p.Split)
	}
	for _, c := range p.Cut {
		for _, d := range c.Chunks {
			if err := digests.Check(d); err != nil {
				return nil, err
			}
			if len(d) != len(emptyChunk) {
				return nil, fmt.Errorf("chunk %s is no sha256", d)
			}
		}
	}
	return p, nil
}

// same says whether two parts' documents differ in nothing but the number.
func (p *partDoc) same(o *partDoc) bool {
	a, errA := (&partDoc{p.Version, p.Bundle, 1, p.Parts, p.Split, p.Chunk, p.Cut}).encode()
	b, errB := (&partDoc{o.Version, o.Bundle, 1, o.Parts, o.Split, o.Chunk, o.Cut}).encode()
	return errA == nil && errB == nil && string(a) == string(b)
}

// emptyChunk stands for a chunk whose digest is not known yet: its name is as long.
const emptyChunk = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func blobName(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
func chunkName(digest string) string {
	return "casemate/chunks/" + strings.Replace(digest, ":", "/", 1)
}

// document is one document with the name of its entry.
type document struct {
	name    string
	content []byte
}

// bundleLayout is all that is known of a bundle's bytes but the blobs: the writer makes its parts of it, and a reader
// compares parts with it.
type bundleLayout struct {
	index     *bundle.Index
	id        string
	indexJSON []byte
	signature []byte // nil if it is not signed
	ociIndex  []byte
	split     int64
	partition *partition
	chunks    [][]string // of each of dealt.cuts
}

// newBundleLayout deals a bundle. ix must be what indexJSON says. If the error is errSplit, all but what was dealt is there.
func newBundleLayout(ix *bundle.Index, indexJSON, signature []byte, split int64) (*bundleLayout, error) {
	oci, err := ociIndex(ix)
	if err != nil {
		return nil, err
	}
	c := &bundleLayout{index: ix, id: digests.SHA256(indexJSON), indexJSON: indexJSON, signature: signature, ociIndex: oci, split: split}
	c.partition, err = newPartition(ix.Blobs, c.fixedSize(), split)
	return c, err
}

// fixedSize is how much of every part is neither part.json nor content.
func (c *bundleLayout) fixedSize() int64 {
	return documentsSize(c.fixedDocuments(document{partSumName, partSum(nil)})) + endOfArchive
}

// partSum is the document that makes damage of part.json visible, in the format of sha256sum.
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

// partDoc is part.json of part n, counted from 1.
func (c *bundleLayout) partDoc(n int) *partDoc {
	p := &partDoc{Version: bundleVersion, Bundle: c.id, Part: n, Parts: len(c.partition.parts), Split: c.split, Chunk: c.partition.chunk}
	for i, b := range c.partition.cuts {
		p.Cut = append(p.Cut, cut{c.index.Blobs[b].Digest, c.chunks[i]})
	}
	return p
}

// documents are those of part n.
func (c *bundleLayout) documents(n int) ([]document, error) {
	b, err := c.partDoc(n).encode()
	if err != nil {
		return nil, err
	}
	return append([]document{{bundle.PartDocument, b}}, c.fixedDocuments(document{partSumName, partSum(b)})...), nil
}

// nameOf and digestOf are of a piece's entry and content.
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

// frame is the bytes between the content of piece i-1 and that of piece i of a part, all of them determined; i may be
// the number of pieces.
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

// partSize is how many bytes a part has whose documents take so many.
func (c *bundleLayout) partSize(documents int64, pieces []piece) int64 {
	n := documents + endOfArchive
	if len(pieces) > 0 {
		p := &pieces[len(pieces)-1]
		n += p.offset + entrySize(c.nameOf(p), p.size)
	}
	return n
}
