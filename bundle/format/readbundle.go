package format

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"casemate/bundle"
	"casemate/bundle/signing"
)

// partWorkers is the number of blobs of a regular file that are read at once: hashing takes most of the time, and a
// spinning disk becomes slower with many more.
const partWorkers = 4

// reader reads the parts of one bundle.
type reader struct {
	*openBundle
	sink  bundle.Sink
	blobs []blobPlan // one for each of Index.Blobs
	count func(n int64)
	// perPiece says that count is called here after each piece, because the sink does not call it.
	perPiece bool
}

// blobPlan says how one blob is read.
type blobPlan struct {
	inSink    bool          // the sink has it
	available bool          // one of the parts contains it, or all its chunks are available
	chunks    []chunkSource // of a cut blob that the sink does not have
	// all chunks are in regular files or the sink, so the blob is assembled without storing chunks
	direct bool
}

// Read reads a bundle: its only part, or some or all of several parts, in any order.
func Read(
	ctx context.Context,
	inputs []bundle.Input,
	sink bundle.Sink,
	opt bundle.ReadOptions,
) (*bundle.Contents, error) {
	o := &openBundle{}
	for _, in := range inputs {
		if err := o.open(in, opt.Keys); err != nil {
			return nil, err
		}
	}
	if len(o.parts) == 0 {
		return nil, errors.New("no bundle was named")
	}
	for _, p := range o.parts {
		if p.readerAt == nil {
			continue
		}
		if err := o.checkFrames(p); err != nil {
			return nil, err
		}
	}
	r := &reader{openBundle: o, sink: sink, perPiece: true}
	if err := r.plan(true); err != nil {
		return nil, err
	}
	c := r.contents()
	var refused bundle.NameErrors
	c.Index, _ = localNames(c.Index, &refused)
	if err := refused.Err(); err != nil && !opt.Partial {
		return nil, fmt.Errorf("%s: %w", inputs[0].Name, err)
	}
	c.Refused = refused.List
	if opt.Plan != nil {
		if err := opt.Plan(c, r.need()); errors.Is(err, bundle.ErrStop) {
			return c, nil
		} else if err != nil {
			return nil, err
		}
	}
	r.count = progressCounter(o.totalSize(), opt.Progress)
	for _, p := range o.parts {
		if err := r.readPart(ctx, p); err != nil {
			return nil, err
		}
	}
	for i := range r.blobs {
		if err := r.assemble(ctx, i); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// progressCounter turns a progress function into one that counts.
func progressCounter(total int64, progress func(done, total int64)) func(int64) {
	if progress == nil {
		return func(int64) {}
	}
	var done atomic.Int64
	return func(n int64) { progress(done.Add(n), total) }
}

// totalSize is the size that the given parts must have together.
func (o *openBundle) totalSize() int64 {
	var n int64
	for _, p := range o.parts {
		n += p.size
	}
	return n
}

// plan asks the sink for its blobs and finds the others in the parts. Without direct, the chunks of cut blobs are put
// one by one.
func (r *reader) plan(direct bool) error {
	r.blobs = make([]blobPlan, len(r.index.Blobs))
	for i := range r.index.Blobs {
		b := &r.index.Blobs[i]
		had, err := r.has(b.Digest, b.Size)
		if err != nil {
			return err
		}
		r.blobs[i].inSink = had
	}
	for i, b := range r.partition.cuts {
		if r.blobs[b].inSink {
			continue
		}
		left := r.index.Blobs[b].Size
		for _, d := range r.chunks[i] {
			c := chunkSource{digest: d, size: min(left, r.partition.chunk)}
			var err error
			if c.inSink, err = r.has(d, c.size); err != nil {
				return err
			}
			r.blobs[b].chunks = append(r.blobs[b].chunks, c)
			left -= c.size
		}
	}
	for _, p := range r.parts {
		for i := range p.pieces {
			e := &p.pieces[i]
			b := &r.blobs[e.blob]
			if e.chunk < 0 {
				b.available = true
			} else if b.chunks != nil {
				b.chunks[e.chunk].part, b.chunks[e.chunk].at = p, p.contentAt(r.openBundle, i)
			}
		}
	}
	for _, i := range r.partition.cuts {
		b := &r.blobs[i]
		b.available = !slices.ContainsFunc(b.chunks, func(c chunkSource) bool { return c.part == nil && !c.inSink })
		b.direct = direct && b.available && !b.inSink &&
			!slices.ContainsFunc(b.chunks, func(c chunkSource) bool { return !c.inSink && c.part.readerAt == nil })
	}
	return nil
}

// has asks the sink for a blob. Two sizes of one digest are an error.
func (r *reader) has(digest string, size int64) (bool, error) {
	n, ok := r.sink.Has(digest)
	if ok && n != size {
		return false, fmt.Errorf(
			"bundle %s says that %s has %d bytes, but here it has %d: %w",
			r.id,
			digest,
			size,
			n,
			syscall.EBADMSG,
		)
	}
	return ok, nil
}

// need returns the number of bytes that will be put.
func (r *reader) need() int64 {
	var n int64
	for i, b := range r.blobs {
		if b.available && !b.inSink {
			n += r.index.Blobs[i].Size
		}
		for _, c := range b.chunks {
			if !b.direct && !c.inSink && c.part != nil {
				n += c.size
			}
		}
	}
	return n
}

// contents describes the content of the parts, according to the plan.
func (r *reader) contents() *bundle.Contents {
	c := &bundle.Contents{Kind: bundle.KindBundle, ID: r.id, Index: r.index, Notes: slices.Clone(r.notes)}
	for i, b := range r.blobs {
		if !b.inSink && !b.available {
			c.Absent = append(c.Absent, r.index.Blobs[i].Digest)
		}
	}
	_, renamed := localNames(r.index, &bundle.NameErrors{})
	c.Notes = append(c.Notes, renamed...)
	c.Notes = append(c.Notes, unsigned(r.index)...)
	for _, a := range r.index.Absent {
		c.Notes = append(
			c.Notes,
			fmt.Sprintf("%s is not in the bundle because it could not be collected: %s", a.Name, a.Why),
		)
	}
	if r.split > 0 {
		c.Parts, c.Have = len(r.partition.parts), len(r.parts)
		for _, p := range r.parts {
			c.Numbers = append(c.Numbers, p.number)
		}
		slices.Sort(c.Numbers)
		if lost := r.missing(); len(lost) > 0 && len(c.Absent) > 0 {
			var s []string
			for _, n := range lost {
				s = append(s, strconv.Itoa(n))
			}
			c.Notes = append(
				c.Notes,
				fmt.Sprintf("Of %d parts, these are missing: %s.", c.Parts, strings.Join(s, ", ")),
			)
		}
	}
	if r.signer != nil {
		c.Signer = signing.KeyName(r.signer)
	}
	return c
}

// missing returns the numbers of the parts that were not given.
func (o *openBundle) missing() []int {
	var lost []int
	for n := 1; n <= len(o.partition.parts); n++ {
		if !slices.ContainsFunc(o.parts, func(p *openPart) bool { return p.number == n }) {
			lost = append(lost, n)
		}
	}
	return lost
}

// isWanted reports whether a piece of a part is put.
func (r *reader) isWanted(e *piece) bool {
	b := &r.blobs[e.blob]
	return !b.inSink && (e.chunk < 0 || !b.direct && !b.chunks[e.chunk].inSink)
}

// readPart puts the wanted pieces of a part.
func (r *reader) readPart(ctx context.Context, p *openPart) error {
	overhead := p.size
	for i := range p.pieces {
		overhead -= p.pieces[i].size
	}
	r.count(overhead)
	if p.readerAt == nil {
		return r.readStream(ctx, p)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(partWorkers)
	for i := range p.pieces {
		e := &p.pieces[i]
		if gctx.Err() != nil {
			break
		}
		if !r.isWanted(e) {
			if !r.blobs[e.blob].direct {
				r.count(e.size)
			}
			continue
		}
		g.Go(func() error {
			return r.putPiece(gctx, p, e, io.NewSectionReader(p.readerAt, p.contentAt(r.openBundle, i), e.size))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// minSkip is the number of bytes from which on bytes of a stream are skipped. Fewer are read and compared.
const minSkip = 64 << 10

// skipUnwanted skips pieces that nobody needs, from the frame before piece i on, if the stream can do that. It returns
// the number of the frame at which the stream is then. What is between two such pieces is skipped too: it follows from
// the index, and nobody would read anything by it.
func (r *reader) skipUnwanted(p *openPart, i int) (int, error) {
	if !p.stream.skips() {
		return i, nil
	}
	to, size := i, int64(0)
	for to < len(p.pieces) && !r.isWanted(&p.pieces[to]) {
		size += p.pieces[to].size
		to++
	}
	from, _ := p.frameAt(r.openBundle, i)
	end, entry := p.frameAt(r.openBundle, to)
	if to == i || end-from < minSkip {
		return i, nil
	}
	if err := p.stream.skip(end - from); err != nil {
		return i, p.stream.readError(entry, err)
	}
	r.count(size)
	return to, nil
}

// readStream reads a pipe from the end of its documents.
func (r *reader) readStream(ctx context.Context, p *openPart) error {
	for i := 0; i <= len(p.pieces); i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if i, err = r.skipUnwanted(p, i); err != nil {
			return err
		}
		_, entry := p.frameAt(r.openBundle, i)
		if _, err := (&comparer{stream: p.stream, entry: entry}).Write(r.frame(p.pieces, i)); err != nil {
			return err
		}
		if i == len(p.pieces) {
			break
		}
		e := &p.pieces[i]
		in := &content{ctx: ctx, stream: p.stream, entry: r.nameOf(e), left: e.size}
		if r.isWanted(e) {
			var from io.Reader = in
			if p.stream.skips() {
				from = skippingContent{in}
			}
			if err := r.putPiece(ctx, p, e, from); in.err != nil {
				return in.err
			} else if err != nil {
				return err
			}
		} else {
			r.count(e.size)
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
	}
	return p.trailing(p.stream)
}

// content is the content of one entry in a stream.
type content struct {
	ctx    context.Context
	stream *stream
	entry  string
	left   int64
	err    error // of the stream
}

// skippingContent is content of a stream that skips.
type skippingContent struct{ *content }

// Skip implements bundle.Skipper.
func (c skippingContent) Skip(n int64) error {
	if n > c.left {
		c.err = io.ErrUnexpectedEOF
		return c.err
	}
	if c.err = c.ctx.Err(); c.err != nil {
		return c.err
	}
	if err := c.stream.skip(n); err != nil {
		c.err = c.stream.readError(c.entry, err)
		return c.err
	}
	c.left -= n
	return nil
}

func (c *content) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	if c.err = c.ctx.Err(); c.err != nil {
		return 0, c.err
	}
	n, err := c.stream.Read(b[:min(int64(len(b)), c.left)])
	if c.left -= int64(n); err != nil && c.left > 0 {
		c.err = c.stream.readError(c.entry, err)
		return n, c.err
	}
	return n, nil
}

// putPiece puts the content of a piece.
func (r *reader) putPiece(ctx context.Context, p *openPart, e *piece, in io.Reader) error {
	digest, entry := r.digestOf(e), r.nameOf(e)
	if err := r.putEntry(ctx, p, entry, digest, e.size, in); err != nil {
		return err
	}
	if r.perPiece {
		r.count(e.size)
	}
	return nil
}

// putEntry puts the content of an entry. An error about damage names its part.
func (r *reader) putEntry(ctx context.Context, p *openPart, entry, digest string, size int64, in io.Reader) error {
	got, n, err := r.sink.Put(ctx, digest, size, in)
	switch {
	case errors.Is(err, ErrDamaged):
		return err
	case errors.Is(err, syscall.EBADMSG), errors.Is(err, io.ErrUnexpectedEOF):
		return p.stream.damaged(-1, entry, "its content is damaged", err)
	case err != nil:
		return fmt.Errorf("%s: %s: %w", p.name, entry, err)
	case got != digest || n != size:
		return fmt.Errorf("%s: %s: stored as %s with %d bytes, not %s with %d", p.name, entry, got, n, digest, size)
	}
	return nil
}
