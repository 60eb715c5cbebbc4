package format

import (
	"context"
	"fmt"
	"io"
	"slices"

	"casemate/bundle/digests"
)

// chunkSource says where a chunk can be read.
type chunkSource struct {
	digest string
	size   int64
	part   *openPart // nil if none of the given parts contains it
	at     int64     // offset of its content in the part
	inSink bool      // the sink has it
}

// assemble puts a blob that was cut into chunks, if all of them are available.
func (r *reader) assemble(ctx context.Context, blob int) error {
	b := &r.blobs[blob]
	if b.chunks == nil || !b.available {
		return nil
	}
	i := slices.IndexFunc(r.parts, func(p *openPart) bool { return p == b.chunks[len(b.chunks)-1].part })
	in := &chunks{r: r, ctx: ctx, left: b.chunks, direct: b.direct}
	defer in.close()
	return r.putEntry(
		ctx,
		r.parts[max(i, 0)],
		blobName(r.index.Blobs[blob].Digest),
		r.index.Blobs[blob].Digest,
		r.index.Blobs[blob].Size,
		in,
	)
}

// chunks reads the chunks of a blob one after another and checks each, so that an error names the damaged part and not
// only the blob.
type chunks struct {
	r      *reader
	ctx    context.Context
	left   []chunkSource
	direct bool // chunks in regular files have not been put
	open   io.Closer
	in     io.Reader
}

func (c *chunks) Read(b []byte) (int, error) {
	for {
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		if c.in == nil {
			if len(c.left) == 0 {
				return 0, io.EOF
			}
			if err := c.next(); err != nil {
				return 0, err
			}
		}
		n, err := c.in.Read(b)
		if c.direct && c.left[0].part != nil {
			c.r.count(int64(n))
		}
		if err == io.EOF {
			c.close()
			c.in, c.left, err = nil, c.left[1:], nil
		}
		if err != nil && c.left[0].part != nil {
			err = c.left[0].part.stream.damaged(-1, chunkName(c.left[0].digest), "its content is damaged", err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next opens the next chunk: in a file if one contains it, else in the sink.
func (c *chunks) next() error {
	s := &c.left[0]
	if s.part != nil && s.part.readerAt != nil {
		c.in = digests.NewReader(io.NewSectionReader(s.part.readerAt, s.at, s.size), s.digest)
		return nil
	}
	f, err := c.r.sink.Open(c.ctx, s.digest)
	if err != nil {
		return fmt.Errorf("chunk %s: %w", s.digest, err)
	}
	c.open, c.in = f, digests.NewReader(f, s.digest)
	return nil
}

func (c *chunks) close() {
	if c.open != nil {
		_ = c.open.Close() // opened for reading only
		c.open = nil
	}
}
