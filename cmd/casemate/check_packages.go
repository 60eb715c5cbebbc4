package main

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"casemate/appliance/content"
	"casemate/bundle/lists"
)

// complete adds to a report what is known of packages: which files are packages, which requested ones cannot be
// installed, and which have no good signature.
func (r *repositoryFlags) complete(ctx context.Context, report *content.Report, w *lists.Wanted,
	stored *storedContent) error {
	found := map[string]bool{}
	for i := range report.Findings {
		f := &report.Findings[i]
		found[f.Name] = true
		r.describeFinding(f)
	}
	for _, u := range w.Unavailable {
		f := content.Finding{Name: u.Name, Where: u.Where, Verdict: content.VerdictMissing, Detail: u.Err.Error()}
		for _, kind := range []string{"repository", "python package", "package"} {
			if name, ok := strings.CutPrefix(u.Name, kind+" "); ok {
				f.Kind, f.Name = kind, name
				break
			}
		}
		report.Add(f)
	}
	for _, file := range w.Files {
		if file.Check == nil || found[file.URL] {
			continue
		}
		body, err := stored.Content(ctx, file.URL, file.Digest, file.Size)
		if err != nil {
			return err
		}
		err = errors.Join(file.Check(body), body.Close())
		if ctx.Err() != nil || errors.Is(err, syscall.EIO) {
			return errors.Join(ctx.Err(), err)
		}
		if err != nil {
			f := content.Finding{Kind: "file", Name: file.URL, Where: file.Where, Verdict: content.VerdictSignature,
				Detail: err.Error()}
			r.describeFinding(&f)
			report.Here-- // it was counted as good
			report.Asked--
			report.Add(f)
		}
	}
	return nil
}

// describeFinding adds to the finding of a file which package it is. Its detail says why a node needs it.
func (r *repositoryFlags) describeFinding(f *content.Finding) {
	if r.found == nil || f.Kind != "file" {
		return
	}
	p, ok := r.found.Packages[f.Name]
	if !ok {
		return
	}
	f.Package = &content.Package{Name: p.Name, Version: p.Version, Architecture: p.Arch, Repository: p.Repository,
		Why: p.Why, URL: f.Name}
	f.Kind, f.Name = "package", p.Label()+" of "+p.Repository
	f.Detail = strings.TrimPrefix(f.Detail+"; "+p.Why, "; ")
}
