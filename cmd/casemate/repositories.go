package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/spf13/cobra"

	"casemate/bundle/collect"
	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/deb"
	"casemate/bundle/ospackages/rpm"
)

// fetcher reads the files of repositories.
type fetcher interface {
	deb.Fetcher
	rpm.Fetcher
}

// resolver returns a function that replaces the wanted packages by their files, which it finds in the repositories of
// the publishers.
func (r *repositoryFlags) resolver(cmd *cobra.Command, l *listFlags,
	opt *collect.Options) func(context.Context, *lists.Wanted) error {
	return func(ctx context.Context, w *lists.Wanted) error {
		in, err := r.read(cmd.InOrStdin(), l)
		if err != nil {
			return usageError{err}
		}
		docs, err := collect.OpenDocuments(*opt)
		if err != nil {
			return err
		}
		found, err := r.collect(ctx, docs, in, l, w)
		if err = errors.Join(err, docs.Close()); err != nil {
			return interrupted(ctx, err, "the fetched content is kept; run the same command again to resume")
		}
		r.replace(cmd, in, found, w)
		return nil
	}
}

// checker is resolver for the stored copies of the repositories.
func (r *repositoryFlags) checker(cmd *cobra.Command, l *listFlags,
	stored *storedContent) func(context.Context, *lists.Wanted) error {
	return func(ctx context.Context, w *lists.Wanted) error {
		in, err := r.read(cmd.InOrStdin(), l)
		if err != nil {
			return usageError{err}
		}
		if in.stored = true; len(in.keyrings) == 0 {
			in.notes = append(in.notes, "the signatures of the repositories were not checked: give the publishers' "+
				"keys with --keyring")
		}
		found, err := r.collect(ctx, stored, in, l, w)
		unusable, err := unusableSources(err)
		if err != nil {
			return err
		}
		found.Unavailable = append(found.Unavailable, unusable...)
		r.replace(cmd, in, found, w)
		return nil
	}
}

// unusableSources takes the sources that cannot be used out of an error.
func unusableSources(err error) (list []lists.Unavailable, rest error) {
	if source := (*ospackages.SourceError)(nil); err != nil && errors.As(err, &source) {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok {
			return []lists.Unavailable{{Name: "repository " + source.Name, Where: source.Where, Err: source.Err}}, nil
		}
		for _, e := range joined.Unwrap() {
			more, err := unusableSources(e)
			list, rest = append(list, more...), errors.Join(rest, err)
		}
		return list, rest
	}
	return nil, err
}

// replace replaces the wanted packages by the files that nodes need for them: the packages, everything that these
// need, and the indices that nodes ask for.
func (r *repositoryFlags) replace(cmd *cobra.Command, in *repositoryInput, found *ospackages.Result, w *lists.Wanted) {
	r.found = found
	for _, n := range append(in.notes, found.Notes...) {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	set := newWantedSet(w)
	for _, f := range found.Files {
		set.file(f)
	}
	for _, d := range found.Redirects {
		set.redirect(d)
	}
	w.Unverified = append(w.Unverified, found.Unverified...)
	w.Unavailable = append(w.Unavailable, found.Unavailable...)
	w.Packages = nil
}

// collect finds the packages in the repositories of both formats.
func (r *repositoryFlags) collect(ctx context.Context, docs fetcher, in *repositoryInput, l *listFlags,
	w *lists.Wanted) (*ospackages.Result, error) {
	near := func(name string, names iter.Seq[string]) string { return didYouMean(nearest(name, names)) }
	now := time.Now // whether something has expired does not depend on the date that the bundle gets
	var found []*ospackages.Result
	var failed []error
	if len(r.apt) > 0 {
		res, err := deb.Collect(ctx, docs, deb.Options{
			Sources: in.sources.List, Packages: w.Packages, Architectures: debArchitectures(l.platforms),
			Installed: in.debs, NoRecommends: r.noRecommends, AllowUnsigned: r.unsigned, Keyrings: in.keyrings,
			Stored: in.stored, ReadFile: os.ReadFile, Now: now, Near: near,
		})
		if err != nil {
			failed = append(failed, err)
		} else {
			found = append(found, res)
		}
	}
	if len(r.dnf) > 0 {
		res, err := rpm.Collect(ctx, docs, rpm.Options{
			Repos: in.repos.List, Packages: w.Packages, Architectures: in.repos.Architectures, Modules: r.modules,
			Installed: in.rpms, NoRecommends: r.noRecommends, AllowUnsigned: r.unsigned, Keyrings: in.keyrings,
			Stored: in.stored, ReadFile: os.ReadFile, Now: now, Near: near,
		})
		if err != nil {
			failed = append(failed, err)
		} else {
			found = append(found, res)
		}
	}
	return ospackages.Join(found...), errors.Join(failed...)
}
