package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/bundle/collect"
	"casemate/bundle/lists"
	"casemate/bundle/ospackages/deb"
	"casemate/bundle/ospackages/openpgp"
)

// repositoryFlags are the flags that say where packages of operating systems are, and what nodes have of them.
type repositoryFlags struct {
	apt, keyrings, installed, unsigned []string
	noRecommends                       bool
	found                              *deb.Result // what resolve found; nil without packages
}

func (r *repositoryFlags) add(cmd *cobra.Command, l *listFlags) {
	f := cmd.Flags()
	f.StringArrayVar(&l.packages, "packages", nil,
		"`LIST` of packages of an operating system, one per line: NAME, NAME=VERSION or NAME:ARCH, * for every "+
			"package; with everything that they need; - reads standard input; may be repeated")
	f.StringArrayVar(&r.apt, "apt", nil,
		"sources `FILE` of the nodes, a sources.list or .sources: the repositories that --packages are in; may be "+
			"repeated")
	f.StringArrayVar(&r.keyrings, "keyring", nil,
		"keyring `FILE` of a publisher, as gpg exports it, for repositories whose key this machine does not have; "+
			"may be repeated")
	f.StringArrayVar(&r.installed, "installed", nil,
		"leave out what nodes have: `FILE` is the /var/lib/dpkg/status of a node, or what dpkg-query -W prints "+
			"there; may be repeated, once for each kind of node")
	f.BoolVar(&r.noRecommends, "no-recommends", false, "leave out packages that others only recommend")
	f.StringArrayVar(&r.unsigned, "allow-unsigned", nil,
		"take the repository at `URL` although it is not signed, or by an unknown key; may be repeated")
	cmd.MarkFlagFilename("apt", "list", "sources")
	cmd.MarkFlagFilename("keyring", "gpg", "asc")
}

// check finds flags that do not fit each other.
func (r *repositoryFlags) check(l *listFlags) error {
	switch {
	case len(r.apt) > 0 && len(l.packages) == 0:
		return usageError{errors.New("--apt says where packages are, and --packages which are wanted: give both (a " +
			"list with * is every package)")}
	case len(l.packages) > 0 && len(r.apt) == 0:
		return usageError{errors.New("--packages says which packages are wanted, and --apt where they are: give the " +
			"sources of the nodes (/etc/apt/sources.list, or a file of /etc/apt/sources.list.d)")}
	case len(r.apt) == 0 && (len(r.keyrings)+len(r.installed)+len(r.unsigned) > 0 || r.noRecommends):
		return usageError{errors.New("--keyring, --installed, --allow-unsigned and --no-recommends are for --apt, " +
			"which is missing")}
	}
	return nil
}

// resolver returns resolve with its arguments.
func (r *repositoryFlags) resolver(cmd *cobra.Command, l *listFlags,
	opt *collect.Options) func(context.Context, *lists.Wanted) error {
	return func(ctx context.Context, w *lists.Wanted) error { return r.resolve(ctx, cmd, l, w, *opt) }
}

// resolve adds the files of the wanted packages, of everything that they need, and of the indices that nodes ask for.
func (r *repositoryFlags) resolve(ctx context.Context, cmd *cobra.Command, l *listFlags, w *lists.Wanted,
	opt collect.Options) error {
	o := deb.Options{
		Packages: w.Packages, Architectures: debArchitectures(l.platforms), NoRecommends: r.noRecommends,
		AllowUnsigned: r.unsigned, ReadFile: os.ReadFile,
		Now:  time.Now, // whether something has expired does not depend on the date that the bundle gets
		Near: func(name string, names iter.Seq[string]) string { return didYouMean(nearest(name, names)) },
	}
	notes, err := r.read(cmd.InOrStdin(), &o)
	if err != nil {
		return usageError{err}
	}
	docs, err := collect.OpenDocuments(opt)
	if err != nil {
		return err
	}
	r.found, err = deb.Collect(ctx, docs, o)
	if err = errors.Join(err, docs.Close()); err != nil {
		return interrupted(ctx, err, "the fetched content is kept; run the same command again to resume")
	}
	for _, n := range append(notes, r.found.Notes...) {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	set := newWantedSet(w)
	for _, f := range r.found.Files {
		set.file(f)
	}
	w.Unavailable = append(w.Unavailable, r.found.Unavailable...)
	w.Packages = nil
	return nil
}

// read reads the files that flags name, and returns notes about them.
func (r *repositoryFlags) read(stdin io.Reader, o *deb.Options) (notes []string, err error) {
	files := &listReader{stdin: stdin}
	var sources deb.Sources
	for _, name := range r.apt {
		if err := files.each(name, sources.Read); err != nil {
			return nil, err
		}
	}
	if err := sources.Err(); err != nil {
		return nil, fmt.Errorf("the sources are not usable, nothing was done:\n%w", err)
	}
	o.Sources = sources.List
	for _, name := range r.keyrings {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		k, err := openpgp.ReadKeyring(b)
		if err != nil {
			return nil, fmt.Errorf("--keyring %s: %w", name, err)
		}
		o.Keyrings = append(o.Keyrings, deb.NamedKeyring{Name: name, Keyring: k})
	}
	for _, name := range r.installed {
		var failed error
		err := files.each(name, func(name string, in io.Reader) {
			i, err := deb.ReadInstalled(in)
			o.Installed, failed = append(o.Installed, i), err
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, fmt.Errorf("--installed %s: %w", name, err)
		}
	}
	return sources.Notes, nil
}

// debArchitectures are the names that dpkg has for the processors of platforms.
func debArchitectures(platforms []string) (list []string) {
	for _, p := range platforms {
		_, arch, _ := strings.Cut(strings.ToLower(p), "/")
		arch, variant, _ := strings.Cut(arch, "/")
		switch arch {
		case "x86_64":
			arch = "amd64"
		case "aarch64":
			arch = "arm64"
		case "386":
			arch = "i386"
		case "ppc64le":
			arch = "ppc64el"
		case "mips64le":
			arch = "mips64el"
		case "mipsle":
			arch = "mipsel"
		case "arm":
			if arch = "armhf"; variant == "v5" || variant == "v6" {
				arch = "armel"
			}
		}
		list = append(list, arch)
	}
	return list
}

// suiteRead describes a suite in the summary.
type suiteRead struct {
	Name       string     `json:"name"` // URI and suite
	Date       time.Time  `json:"date"` // of its Release file
	ValidUntil *time.Time `json:"valid_until,omitempty"`
	Signers    []string   `json:"signers,omitempty"` // none: the signature was not checked
	Packages   int        `json:"packages"`          // that its indices list
}

func (s suiteRead) sentence() string {
	text := fmt.Sprintf("%s of %s, %s listed", s.Name, s.Date.Format(time.DateOnly), count(s.Packages, "package"))
	if s.ValidUntil != nil {
		text += ", expires " + s.ValidUntil.Format(time.DateOnly)
	}
	if len(s.Signers) == 0 {
		return text + ", not signed by a known key"
	}
	return text + ", signed by " + strings.Join(s.Signers, " and ")
}

// describe adds to a summary what was found in repositories.
func (r *repositoryFlags) describe(c *created) {
	if r.found == nil {
		return
	}
	for _, s := range r.found.Suites {
		d := suiteRead{Name: s.Name, Date: s.Date, Signers: s.Signers, Packages: s.Packages}
		if !s.ValidUntil.IsZero() {
			d.ValidUntil = &s.ValidUntil
		}
		c.Suites = append(c.Suites, d)
	}
	for i := range c.Sizes {
		c.Sizes[i].Why = r.found.Why[c.Sizes[i].Name]
	}
}

// showSizes prints the sizes of a dry run, with a column for the reasons if there are any.
func showSizes(t *table, sizes []nameSize) {
	reasons := false
	for _, n := range sizes {
		reasons = reasons || n.Why != ""
	}
	if !reasons {
		t.header("NAME", "SIZE")
	} else {
		t.header("NAME", "SIZE", "WHY")
	}
	for _, n := range sizes {
		cells := []any{n.Name, sizeOrUnknown(n.Size)}
		if n.Why != "" {
			cells = append(cells, n.Why)
		}
		t.row(cells...)
	}
}
