package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"casemate/bundle/collect"
	"casemate/bundle/lists"
	"casemate/bundle/python"
)

// pythonFlags are the flags that say which Python packages are collected, and for which machines.
type pythonFlags struct {
	index               string
	versions, platforms []string
}

func (p *pythonFlags) add(cmd *cobra.Command, l *listFlags) {
	f := cmd.Flags()
	f.StringArrayVar(&l.requirements, "python", nil,
		"requirements `FILE` of Python packages, pinned with hashes as "+
			"pip-compile --generate-hashes writes it: the files that have these hashes; - reads standard input; may "+
			"be repeated")
	f.StringVar(&p.index, "python-index", "",
		"`URL` of the index for --python, like https://HOST/simple/, if the file names none; clients ask the same one")
	f.StringArrayVar(&p.versions, "python-version", nil,
		"`VERSION` of Python on the nodes, like 3.11: only wheels for it; may be repeated (default: all wheels)")
	f.StringArrayVar(&p.platforms, "python-platform", nil,
		"`PLATFORM` of the nodes, like linux_x86_64 or linux_aarch64: only wheels for it; may be repeated (default: "+
			"all wheels)")
	cmd.MarkFlagFilename("python", "txt")
}

// finder returns find with its arguments, and checks the flags.
func (p *pythonFlags) finder(cmd *cobra.Command, l *listFlags, opt *collect.Options) (
	func(context.Context, *lists.Wanted) error, error) {
	o, err := p.options(l)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w *lists.Wanted) error {
		all, err := readRequirements(cmd, l.requirements)
		if err != nil {
			return err
		}
		docs, err := collect.OpenDocuments(*opt)
		if err != nil {
			return err
		}
		o.Store = docs.Put
		o.Page = func(ctx context.Context, url string, limit int64) ([]byte, string, error) {
			return collect.Document(ctx, url, limit, *opt)
		}
		err = errors.Join(findPython(ctx, w, all, o), docs.Close())
		return interrupted(ctx, err, "the fetched content is kept; run the same command again to resume")
	}, nil
}

// checker is finder for what is stored: nodes get an index that is made of the stored packages.
func (p *pythonFlags) checker(cmd *cobra.Command, l *listFlags, stored *storedContent) (
	func(context.Context, *lists.Wanted) error, error) {
	o, err := p.options(l)
	if err != nil {
		return nil, err
	}
	o.Store, o.Page = stored.Put, stored.Page
	return func(ctx context.Context, w *lists.Wanted) error {
		all, err := readRequirements(cmd, l.requirements)
		if err != nil {
			return err
		}
		return findPython(ctx, w, all, o)
	}, nil
}

// options are what the flags say.
func (p *pythonFlags) options(l *listFlags) (o python.Options, err error) {
	if len(l.requirements) == 0 && (p.index != "" || len(p.versions)+len(p.platforms) > 0) {
		return o, usageError{errors.New("--python-index, --python-version and --python-platform are for --python, " +
			"which is missing")}
	}
	if o.Targets, err = python.NewTargets(p.versions, p.platforms); err != nil {
		return o, usageError{err}
	}
	if p.index != "" {
		if o.Index, err = python.CheckIndex(p.index); err != nil {
			return o, usageError{fmt.Errorf("--python-index: %w", err)}
		}
	}
	return o, nil
}

// readRequirements reads the files of --python with those that they include.
func readRequirements(cmd *cobra.Command, names []string) ([]python.Requirement, error) {
	q := &python.Requirements{Open: func(name string) (io.ReadCloser, error) { return os.Open(name) }}
	read := &listReader{stdin: cmd.InOrStdin()}
	for _, name := range names {
		if err := read.each(name, q.Read); err != nil {
			return nil, err
		}
	}
	if err := q.Err(); err != nil {
		return nil, usageError{fmt.Errorf("the requirements are not usable, nothing was done:\n%w", err)}
	}
	return q.List(), nil
}

// findPython adds the files of requirements.
func findPython(ctx context.Context, w *lists.Wanted, all []python.Requirement, o python.Options) error {
	files, unavailable, err := python.Find(ctx, all, o)
	if err != nil {
		return err
	}
	set := newWantedSet(w)
	for _, f := range files {
		set.file(f)
	}
	w.Unavailable = append(w.Unavailable, unavailable...)
	return nil
}
