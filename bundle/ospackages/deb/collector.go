package deb

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
)

// Options say what is collected.
type Options struct {
	Sources []Source
	// Packages are the requested packages.
	Packages []lists.Package
	// Architectures are those of the nodes, in dpkg's names. None: those that the sources name, or amd64.
	Architectures []string
	// Installed is what nodes of each kind have already. None: nothing is known of them.
	Installed []*Installed
	// NoRecommends leaves out recommended packages, as APT::Install-Recommends "false" does.
	NoRecommends bool
	// Stored says that the fetcher reads the copy that is served to nodes: nothing changes while it is read, and what
	// is absent was not brought. Without Keyrings no signature is checked then.
	Stored bool
	// AllowUnsigned are the URIs of repositories whose signatures are not required.
	AllowUnsigned []string
	// Keyrings are those that the operator gave.
	Keyrings []ospackages.NamedKeyring
	// ReadFile reads a keyring that a source names in Signed-By.
	ReadFile func(path string) ([]byte, error)
	// Now is the clock.
	Now func() time.Time
	// Near returns the end of a message with the names that are similar to one that does not exist.
	Near func(name string, names iter.Seq[string]) string
}

// Collector reads the suites of sources.
type Collector struct {
	fetch Fetcher
	opt   Options
}

// Collect reads all sources, and finds what the requested packages need. If a source cannot be used the error names all
// of these: nodes ask all sources for their indices, and install nothing if one is not right.
func Collect(ctx context.Context, fetch Fetcher, opt Options) (*ospackages.Result, error) {
	c := &Collector{fetch: fetch, opt: opt}
	sources := merge(opt.Sources)
	c.opt.Architectures = architectures(opt.Architectures, sources)
	sources = expandArch(sources, c.opt.Architectures)
	var bad []error
	u, res := newUniverse(), &ospackages.Result{Packages: map[string]ospackages.Package{}}
	for i := range sources {
		s, err := c.readSuite(ctx, &sources[i])
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			bad = append(bad, &ospackages.SourceError{Where: sources[i].Where, Name: sources[i].String(), Err: err})
			continue
		}
		res.Files = append(res.Files, s.files...)
		res.Notes = append(res.Notes, s.notes...)
		if s.unverified != nil {
			res.Unverified = append(res.Unverified, *s.unverified)
		}
		res.Suites = append(res.Suites, describe(s))
		for _, p := range s.packages {
			if err := u.add(p); err != nil {
				return nil, err
			}
		}
		s.packages = nil
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	u.sort()
	c.choose(u, res)
	return res, nil
}

func describe(s *suite) ospackages.Suite {
	d := ospackages.Suite{Name: s.Source.String(), Date: s.Date, ValidUntil: s.ValidUntil, Packages: len(s.packages)}
	for _, k := range s.signers {
		d.Signers = append(d.Signers, strings.TrimSpace(k.Name+" "+k.Fingerprint))
	}
	return d
}

// merge joins sources of the same suite.
func merge(list []Source) (merged []Source) {
	for _, s := range list {
		i := slices.IndexFunc(merged, func(m Source) bool { return m.Base() == s.Base() })
		if i < 0 {
			merged = append(merged, s)
			continue
		}
		m := &merged[i]
		m.Components = union(m.Components, s.Components)
		m.Targets = union(m.Targets, s.Targets)
		// Without any, a source means the usual ones: they are not replaced by those of the other source.
		m.Architectures = unionOf(m.Architectures, s.Architectures)
		m.Languages = unionOf(m.Languages, s.Languages)
		if m.SignedBy == "" {
			m.SignedBy = s.SignedBy
		}
	}
	return merged
}

func union(a, b []string) []string {
	a = slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// unionOf is union for lists where nil means the usual ones.
func unionOf(a, b []string) []string {
	if a == nil || b == nil {
		return nil
	}
	return union(a, b)
}

// architectures returns those of the nodes.
func architectures(given []string, sources []Source) []string {
	if len(given) > 0 {
		return given
	}
	var named []string
	for _, s := range sources {
		named = union(named, s.Architectures)
	}
	if len(named) == 0 {
		return []string{"amd64"}
	}
	return named
}

// expandArch replaces $(ARCH) in sources, as apt does with the architecture of the node.
func expandArch(sources []Source, archs []string) (list []Source) {
	for _, s := range sources {
		if !strings.Contains(s.URI+s.Suite, "$(ARCH)") {
			list = append(list, s)
			continue
		}
		for _, a := range archs {
			one := s
			one.URI = strings.ReplaceAll(s.URI, "$(ARCH)", a)
			one.Suite = strings.ReplaceAll(s.Suite, "$(ARCH)", a)
			list = append(list, one)
		}
	}
	return list
}
