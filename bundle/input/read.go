package input

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"casemate/bundle"
	"casemate/bundle/foreign"
	"casemate/bundle/format"
)

// Read reads the inputs of an import, of whatever kind: every blob goes to sink, and the Contents are the names. The
// kind of an input is detected by its content, never by its name. Inputs of several kinds may be mixed, but bundles
// only with bundles.
//
// A regular file that is an uncompressed tar, and a directory, are scanned before anything is put: their kind is known
// when Plan is called, and blobs that the sink has are not read. Everything else (compressed or a pipe) is read once
// from its beginning to its end, and each blob is stored as it arrives: Contents.Kind is "" at Plan if nothing better
// is known, and need counts such a file with its own size; a pipe makes need -1. Content that grows beyond that may end
// in the sink's ENOSPC.
//
// A name that means two things in the inputs is an error. Contents.Notes lists what is left out, and why.
func Read(
	ctx context.Context,
	inputs []bundle.Input,
	sink bundle.Sink,
	opt bundle.ReadOptions,
) (*bundle.Contents, error) {
	inputs = slices.Clone(inputs)
	if len(inputs) == 0 {
		return nil, errors.New("no input was named")
	}
	r, err := foreign.New(sink, opt)
	if err != nil {
		return nil, err
	}
	files := make([]*foreign.File, len(inputs))
	var bundles []string
	sums := 0
	for i, in := range inputs {
		if in.FS != nil {
			continue
		}
		if files[i], err = foreign.OpenFile(in); err != nil {
			return nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		inputs[i].File = files[i].Whole()
		if bundle.IsBundle(files[i].Head) {
			bundles = append(bundles, in.Name)
		} else if bundle.IsChecksums(path.Base(in.Name), files[i].Head) {
			sums++
		}
	}
	switch {
	case len(bundles) > 0 && len(bundles)+sums == len(inputs):
		return format.Read(ctx, inputs, sink, opt)
	case len(bundles) > 0:
		return nil, fmt.Errorf("%s is a bundle and other inputs are not; import bundles separately", bundles[0])
	case len(opt.Keys) > 0:
		return nil, fmt.Errorf(
			"%s is not a bundle, so it cannot be signed, and a signature by a trusted key is required",
			inputs[0].Name,
		)
	}
	return r.Read(ctx, inputs, files)
}
