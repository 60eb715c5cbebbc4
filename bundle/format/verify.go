package format

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"

	"casemate/bundle"
	"casemate/bundle/digests"
)

// VerifyOptions configure Verify.
type VerifyOptions struct {
	// Keys are the trusted keys: if there are any, a bundle that none of them signed is refused.
	Keys []ed25519.PublicKey
	// Progress is called occasionally, from any goroutine, with the bytes of the inputs that are done.
	Progress func(done, total int64)
}

// Verified is the result of Verify.
type Verified struct {
	// Contents are those of the bundle, as Inspect returns them; nil if no part could be opened.
	Contents *bundle.Contents `json:"contents,omitempty"`
	// Parts are the inputs in their order.
	Parts []VerifiedPart `json:"parts"`
	// Missing are the numbers of the parts that were not given, or whose documents are damaged.
	Missing []int `json:"missing,omitempty"`
}

// VerifiedPart is one file of a bundle.
type VerifiedPart struct {
	Name  string `json:"name"`
	Part  int    `json:"part,omitempty"` // its number; 0 if it is not known
	Size  int64  `json:"size"`           // that it must have, in bytes
	Blobs int    `json:"blobs"`          // number of blobs and chunks that it must have
	// Problem says what is wrong, "" if every byte is right.
	Problem string `json:"problem,omitempty"`
}

// Verify reads every byte of a bundle and reports for each part whether it is right. It continues after a damaged part,
// so that one run names all parts that must be carried again. The error then joins the errors of all parts, and is
// ErrDamaged if bytes are wrong. A missing part is not an error.
func Verify(ctx context.Context, inputs []bundle.Input, opt VerifyOptions) (*Verified, error) {
	o := &openBundle{}
	v := &Verified{}
	var errs []error
	of := map[*openPart]int{} // index in v.Parts
	for _, in := range inputs {
		n := len(o.parts)
		err := o.open(in, opt.Keys)
		if err == nil && len(o.parts) == n {
			continue // the list of checksums
		}
		vp := VerifiedPart{Name: in.Name}
		if err != nil {
			vp.Problem = err.Error()
			errs = append(errs, err)
		} else {
			p := o.parts[n]
			vp.Part, vp.Size, vp.Blobs = p.number, p.size, len(p.pieces)
			of[p] = len(v.Parts)
		}
		v.Parts = append(v.Parts, vp)
	}
	if len(o.parts) == 0 {
		if len(errs) == 0 {
			errs = append(errs, errors.New("no bundle was named"))
		}
		return v, errors.Join(errs...)
	}
	count := progressCounter(o.totalSize(), opt.Progress)
	r := &reader{openBundle: o, sink: verifySink{count}, count: count}
	if err := r.plan(false); err != nil {
		return v, err
	}
	v.Contents, v.Missing = r.contents(), o.missing()
	fail := func(p *openPart, err error) {
		if vp := &v.Parts[of[p]]; vp.Problem == "" {
			vp.Problem = err.Error()
		}
		errs = append(errs, err)
	}
	for _, p := range o.parts {
		var err error
		if p.readerAt != nil {
			err = o.checkFrames(p)
		}
		if err == nil {
			err = r.readPart(ctx, p)
		}
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		if err != nil {
			fail(p, err)
		}
	}
	if len(errs) > 0 {
		return v, errors.Join(errs...)
	}
	// The chunks are right; the creator of the bundle is responsible that they add up to the blob.
	r.sink = verifySink{func(int64) {}}
	for _, i := range o.partition.cuts {
		b := &r.blobs[i]
		if !b.available || b.hasStreamedChunk() {
			continue
		}
		if err := r.assemble(ctx, i); err != nil {
			fail(b.chunks[0].part, err)
		}
	}
	return v, errors.Join(errs...)
}

// hasStreamedChunk reports whether a chunk came from a pipe and cannot be read again.
func (b *blobPlan) hasStreamedChunk() bool {
	for _, c := range b.chunks {
		if c.part.readerAt == nil {
			return true
		}
	}
	return false
}

// Inspect reads the documents of a bundle and returns its contents. Signatures are verified, blobs are not read.
func Inspect(inputs []bundle.Input) (*bundle.Contents, error) {
	o := &openBundle{}
	for _, in := range inputs {
		if err := o.open(in, nil); err != nil {
			return nil, err
		}
	}
	if len(o.parts) == 0 {
		return nil, errors.New("no bundle was named")
	}
	r := &reader{openBundle: o, sink: verifySink{}}
	if err := r.plan(false); err != nil {
		return nil, err
	}
	return r.contents(), nil
}

// verifySink stores nothing and compares everything with its digest.
type verifySink struct{ count func(int64) }

func (verifySink) Has(string) (int64, bool) { return 0, false }

func (s verifySink) Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	in := digests.NewSizedReader(r, digest, size)
	buf := make([]byte, min(max(size, 512), 128<<10))
	for {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		n, err := in.Read(buf)
		s.count(int64(n))
		if err == io.EOF {
			return digest, size, nil
		} else if err != nil {
			return "", 0, err
		}
	}
}

func (verifySink) Open(context.Context, string) (io.ReadSeekCloser, error) {
	return nil, fs.ErrNotExist
}
