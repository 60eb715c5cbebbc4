package format

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"

	"casemate/bundle"
	"casemate/bundle/canonical"
	"casemate/bundle/digests"
	"casemate/bundle/signing"
)

// openBundle holds the parts of one bundle whose documents were read and verified.
type openBundle struct {
	*bundleLayout
	signer ed25519.PublicKey // nil if it is not signed
	parts  []*openPart       // in the order of the inputs
	first  *partDoc
	notes  []string
}

// openPart is a part whose documents were read.
type openPart struct {
	name     string
	number   int
	pieces   []piece
	start    int64       // offset of the header of the first piece
	size     int64       // that the part must have
	readerAt io.ReaderAt // a regular file; nil for a pipe, whose stream is at start
	fileSize int64       // of the regular file
	stream   *stream
}

// open reads and checks the documents of one more part. After an error nothing has changed.
func (o *openBundle) open(in bundle.Input, keys []ed25519.PublicKey) error {
	if in.File == nil {
		return fmt.Errorf("%s is a directory; name the files of the bundle", in.Name)
	}
	info, err := in.File.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", in.Name, err)
	}
	s := &stream{r: in.File, input: in.Name, end: -1}
	p := &openPart{name: in.Name, stream: s}
	if at, ok := in.File.(io.ReaderAt); ok && info.Mode().IsRegular() {
		p.readerAt, p.fileSize = at, info.Size()
		s.r = io.NewSectionReader(at, 0, info.Size())
	}
	head := make([]byte, tarBlock)
	n, err := io.ReadFull(s, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return s.readError("", err)
	}
	if bundle.IsChecksums(path.Base(in.Name), head[:n]) {
		o.notes = append(o.notes, in.Name+" is the list of checksums of the bundle's files and was not read.")
		return nil
	}
	if !bundle.IsBundle(head[:n]) {
		return s.damaged(0, "", "it is not a bundle, or its first block is damaged", nil)
	}
	s.r, s.off = bundle.Unread(head[:n], s.r), 0

	partJSON, err := s.document(bundle.PartDocument, maxPartDoc)
	if err != nil {
		return err
	}
	// The checksum comes first: a changed digit must not look like another version, bundle or part.
	if err := writeDocuments(&comparer{stream: s, entry: bundle.PartDocument + " or " + partSumName},
		[]document{{partSumName, partSum(partJSON)}}); err != nil {
		return err
	}
	doc, err := decodePart(partJSON)
	if err != nil {
		return s.damaged(-1, bundle.PartDocument, "it is wrong", err)
	}
	if doc.Split > 0 {
		s.part = fmt.Sprintf("part %d of %d", doc.Part, doc.Parts)
	}
	p.number = doc.Part
	c, signer := o.bundleLayout, o.signer
	if c == nil {
		if c, signer, err = s.firstDocument(doc, keys); err != nil {
			return err
		}
	} else if err := o.addPart(s, doc); err != nil {
		return err
	}
	docs, err := c.documents(doc.Part)
	if err != nil {
		return err
	}
	p.pieces = c.partition.parts[doc.Part-1]
	p.start = documentsSize(docs)
	p.size = c.partSize(p.start, p.pieces)
	s.end = p.size
	for _, d := range docs {
		if !skippedParts(d.name, o.bundleLayout == nil) {
			if err := writeDocuments(&comparer{stream: s, entry: d.name}, []document{d}); err != nil {
				return err
			}
		}
	}
	if o.bundleLayout == nil {
		o.bundleLayout, o.signer, o.first = c, signer, doc
	}
	o.parts = append(o.parts, p)
	return nil
}

// skippedParts reports whether a document was read before: of the first part everything that cannot be derived.
func skippedParts(name string, first bool) bool {
	return name == bundle.PartDocument || name == partSumName || first && (name == indexName || name == signatureName)
}

// addPart compares the document of one more part with that of the first one.
func (o *openBundle) addPart(s *stream, doc *partDoc) error {
	first := o.parts[0].name
	if doc.Bundle != o.id {
		return fmt.Errorf(
			"%s is a part of bundle %s and %s of bundle %s: name the parts of one bundle at a time",
			first,
			o.id,
			s.input,
			doc.Bundle,
		)
	}
	for _, p := range o.parts {
		if p.number == doc.Part {
			return fmt.Errorf(
				"%s and %s are both part %d of bundle %s: name each part once",
				p.name,
				s.input,
				doc.Part,
				o.id,
			)
		}
	}
	if !doc.same(o.first) {
		return fmt.Errorf(
			"%s and %s belong to bundle %s, but were split in different ways: name the parts of one run of \"bundle "+
				"create\"",
			first,
			s.input,
			o.id,
		)
	}
	return nil
}

// firstDocument reads and checks the index and the signature of the first part that is opened.
func (s *stream) firstDocument(doc *partDoc, keys []ed25519.PublicKey) (*bundleLayout, ed25519.PublicKey, error) {
	indexJSON, err := s.document(indexName, canonical.MaxDocument)
	if err != nil {
		return nil, nil, err
	}
	if got := digests.SHA256(indexJSON); got != doc.Bundle {
		return nil, nil, s.damaged(-1, indexName, "its content is "+got+" and must be "+doc.Bundle, nil)
	}
	ix, err := bundle.DecodeIndex(indexJSON)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", s.input, err)
	}
	sigJSON, signer, err := s.signature(indexJSON, keys)
	if err != nil {
		return nil, nil, err
	}
	c, err := newBundleLayout(ix, indexJSON, sigJSON, doc.Split)
	if err != nil {
		return nil, nil, s.damaged(-1, bundle.PartDocument, "it is wrong", err)
	}
	c.chunks = make([][]string, len(c.partition.cuts))
	wrong := doc.Parts != len(c.partition.parts) || doc.Chunk != c.partition.chunk ||
		len(doc.Cut) != len(c.partition.cuts)
	for i := 0; !wrong && i < len(doc.Cut); i++ {
		b := ix.Blobs[c.partition.cuts[i]]
		c.chunks[i] = doc.Cut[i].Chunks
		wrong = doc.Cut[i].Digest != b.Digest ||
			int64(len(c.chunks[i])) != (b.Size+c.partition.chunk-1)/c.partition.chunk
	}
	if wrong {
		return nil, nil, s.damaged(
			-1,
			bundle.PartDocument,
			fmt.Sprintf("it contradicts the index, which gives %d parts", len(c.partition.parts)),
			nil,
		)
	}
	return c, signer, nil
}

// signature reads the signature if it is the next entry. Otherwise the stream does not move.
func (s *stream) signature(indexJSON []byte, keys []ed25519.PublicKey) ([]byte, ed25519.PublicKey, error) {
	head, err := s.readN(signatureName, tarBlock)
	if err != nil {
		return nil, nil, err
	}
	s.r, s.off = bundle.Unread(head, s.r), s.off-tarBlock
	if !bytes.HasPrefix(head, []byte(signatureName+"\x00")) {
		if len(keys) > 0 {
			return nil, nil, fmt.Errorf(
				"%s: the bundle is not signed, and a signature by %s is required",
				s.input,
				signing.KeyNames(keys),
			)
		}
		return nil, nil, nil
	}
	b, err := s.document(signatureName, signing.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	var sig signing.Signature
	line, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok {
		return nil, nil, s.damaged(-1, signatureName, "it does not end in a line feed", nil)
	}
	if err := canonical.Decode(line, &sig); err != nil {
		return nil, nil, s.damaged(-1, signatureName, "it is wrong", err)
	}
	signer, err := sig.Verify(signing.PurposeIndex, indexJSON)
	if err != nil {
		return nil, nil, s.damaged(-1, signatureName, "the signature is wrong", err)
	}
	if len(keys) > 0 && !signing.Trusted(signer, keys) {
		return nil, nil, fmt.Errorf(
			"%s: the bundle is signed by %s, and a signature by %s is required",
			s.input,
			signing.KeyName(signer),
			signing.KeyNames(keys),
		)
	}
	return b, signer, nil
}

// document reads an entry whose size only its header tells.
func (s *stream) document(name string, limit int64) ([]byte, error) {
	at := s.off
	head, err := s.readN(name, tarBlock)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseInt(string(head[124:135]), 8, 64)
	if err != nil || size > limit || !bytes.Equal(head, tarHeader(name, size)) {
		return nil, s.damaged(
			at,
			name,
			fmt.Sprintf("its header is not that of %s with at most %d bytes", name, limit),
			nil,
		)
	}
	b, err := s.readN(name, size)
	if err != nil {
		return nil, err
	}
	_, err = (&comparer{stream: s, entry: name}).Write(make([]byte, padding(size)))
	return b, err
}

// checkFrames compares the size of a regular file and all of its bytes that are not content with what they must be.
// After it, only content can be wrong.
func (o *openBundle) checkFrames(p *openPart) error {
	if p.fileSize < p.size { // reported for the end of the file, not for the first header after it
		return p.stream.damaged(
			p.fileSize,
			"",
			fmt.Sprintf("truncated: the file ends here and must have %d bytes", p.size),
			io.ErrUnexpectedEOF,
		)
	}
	for i := range len(p.pieces) + 1 {
		want := o.frame(p.pieces, i)
		at, entry := p.frameAt(o, i)
		s := *p.stream
		s.r, s.off = io.NewSectionReader(p.readerAt, at, int64(len(want))), at
		if _, err := (&comparer{stream: &s, entry: entry}).Write(want); err != nil {
			return err
		}
	}
	return p.trailing(io.NewSectionReader(p.readerAt, p.size, 1))
}

// frameAt returns where frame i begins and the entry that it belongs to.
func (p *openPart) frameAt(o *openBundle, i int) (int64, string) {
	if i == len(p.pieces) {
		if i == 0 {
			return p.start, "the end"
		}
		return p.contentAt(o, i-1) + p.pieces[i-1].size, "the end"
	}
	if i == 0 {
		return p.start, "before " + o.nameOf(&p.pieces[i])
	}
	return p.contentAt(o, i-1) + p.pieces[i-1].size, "before " + o.nameOf(&p.pieces[i])
}

// contentAt returns where the content of piece i begins.
func (p *openPart) contentAt(o *openBundle, i int) int64 {
	e := &p.pieces[i]
	return p.start + e.offset + headerSize(o.nameOf(e), e.size)
}

// trailing refuses bytes after the end.
func (p *openPart) trailing(r io.Reader) error {
	n, err := io.ReadFull(r, make([]byte, 1))
	switch {
	case n > 0:
		return p.stream.damaged(
			p.size,
			"the end",
			fmt.Sprintf("the file continues after the %d bytes that it must have", p.size),
			nil,
		)
	case err != io.EOF:
		return fmt.Errorf("%s: byte %d: %w", p.name, p.size, err)
	}
	return nil
}
