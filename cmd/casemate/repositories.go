package main

import (
	"bufio"
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
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/deb"
	"casemate/bundle/ospackages/openpgp"
	"casemate/bundle/ospackages/rpm"
)

// repositoryFlags are the flags that say where packages of operating systems are, and what nodes have of them.
type repositoryFlags struct {
	apt, dnf, vars, modules       []string
	keyrings, installed, unsigned []string
	noRecommends                  bool
	found                         *ospackages.Result // what resolve found; nil without packages
}

func (r *repositoryFlags) add(cmd *cobra.Command, l *listFlags) {
	f := cmd.Flags()
	f.StringArrayVar(&l.packages, "packages", nil,
		"`LIST` of packages of an operating system, one per line: NAME, NAME=VERSION or NAME:ARCH, * for every "+
			"package; with everything that they need; - reads standard input; may be repeated")
	f.StringArrayVar(&r.apt, "apt", nil,
		"sources `FILE` of the nodes, a sources.list or .sources: the repositories that --packages are in; may be "+
			"repeated")
	f.StringArrayVar(&r.dnf, "dnf", nil,
		".repo `FILE` of the nodes, of /etc/yum.repos.d: the repositories that --packages are in; may be repeated")
	f.StringArrayVar(&r.vars, "dnf-var", nil,
		"`NAME=VALUE` of a variable in --dnf, like releasever=9; may be repeated")
	f.StringArrayVar(&r.modules, "dnf-module", nil,
		"`NAME:STREAM` of a module that nodes enable, beside the default streams; may be repeated")
	f.StringArrayVar(&r.keyrings, "keyring", nil,
		"keyring `FILE` of a publisher, as gpg exports it, for repositories whose key this machine does not have; "+
			"may be repeated")
	f.StringArrayVar(&r.installed, "installed", nil,
		"leave out what nodes have: `FILE` is the /var/lib/dpkg/status of a node, or what dpkg-query -W or rpm -qa "+
			"prints there; may be repeated, once for each kind of node")
	f.BoolVar(&r.noRecommends, "no-recommends", false, "leave out packages that others only recommend")
	f.StringArrayVar(&r.unsigned, "allow-unsigned", nil,
		"take the repository at `URL` although it is not signed, or by an unknown key; may be repeated")
	cmd.MarkFlagFilename("apt", "list", "sources")
	cmd.MarkFlagFilename("dnf", "repo")
	cmd.MarkFlagFilename("keyring", "gpg", "asc")
}

// check finds flags that do not fit each other.
func (r *repositoryFlags) check(l *listFlags) error {
	switch any := len(r.apt)+len(r.dnf) > 0; {
	case any && len(l.packages) == 0:
		return usageError{errors.New("--apt and --dnf say where packages are, and --packages which are wanted: give " +
			"both (a list with * is every package)")}
	case len(l.packages) > 0 && !any:
		return usageError{errors.New("--packages says which packages are wanted, and --apt or --dnf where they are: " +
			"give the sources of the nodes (a file of /etc/apt/sources.list.d or /etc/yum.repos.d)")}
	case !any && (len(r.keyrings)+len(r.installed)+len(r.unsigned) > 0 || r.noRecommends):
		return usageError{errors.New("--keyring, --installed, --allow-unsigned and --no-recommends are for --apt " +
			"and --dnf, which are missing")}
	case len(r.dnf) == 0 && len(r.vars)+len(r.modules) > 0:
		return usageError{errors.New("--dnf-var and --dnf-module are for --dnf, which is missing")}
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
	in, err := r.read(cmd.InOrStdin(), l)
	if err != nil {
		return usageError{err}
	}
	docs, err := collect.OpenDocuments(opt)
	if err != nil {
		return err
	}
	r.found, err = r.collect(ctx, docs, in, l, w)
	if err = errors.Join(err, docs.Close()); err != nil {
		return interrupted(ctx, err, "the fetched content is kept; run the same command again to resume")
	}
	for _, n := range append(in.notes, r.found.Notes...) {
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

// collect finds the packages in the repositories of both formats.
func (r *repositoryFlags) collect(ctx context.Context, docs *collect.Documents, in *repositoryInput, l *listFlags,
	w *lists.Wanted) (*ospackages.Result, error) {
	near := func(name string, names iter.Seq[string]) string { return didYouMean(nearest(name, names)) }
	now := time.Now // whether something has expired does not depend on the date that the bundle gets
	var found []*ospackages.Result
	if len(r.apt) > 0 {
		res, err := deb.Collect(ctx, docs, deb.Options{
			Sources: in.sources.List, Packages: w.Packages, Architectures: debArchitectures(l.platforms),
			Installed: in.debs, NoRecommends: r.noRecommends, AllowUnsigned: r.unsigned, Keyrings: in.keyrings,
			ReadFile: os.ReadFile, Now: now, Near: near,
		})
		if err != nil {
			return nil, err
		}
		found = append(found, res)
	}
	if len(r.dnf) > 0 {
		res, err := rpm.Collect(ctx, docs, rpm.Options{
			Repos: in.repos.List, Packages: w.Packages, Architectures: in.repos.Architectures, Modules: r.modules,
			Installed: in.rpms, NoRecommends: r.noRecommends, AllowUnsigned: r.unsigned, Keyrings: in.keyrings,
			ReadFile: os.ReadFile, Now: now, Near: near,
		})
		if err != nil {
			return nil, err
		}
		found = append(found, res)
	}
	return ospackages.Join(found...), nil
}

// repositoryInput is what the files say that flags name.
type repositoryInput struct {
	sources  deb.Sources
	repos    rpm.Repos
	keyrings []ospackages.NamedKeyring
	debs     []*deb.Installed
	rpms     []*rpm.Installed
	notes    []string
}

// read reads the files that flags name.
func (r *repositoryFlags) read(stdin io.Reader, l *listFlags) (*repositoryInput, error) {
	files := &listReader{stdin: stdin}
	in := &repositoryInput{repos: rpm.Repos{Vars: map[string]string{}, Architectures: rpmArchitectures(l.platforms)}}
	for _, v := range r.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("--dnf-var must be NAME=VALUE, got %q", v)
		}
		in.repos.Vars[name] = value
	}
	for _, m := range r.modules {
		if name, _, ok := strings.Cut(m, ":"); !ok || name == "" {
			return nil, fmt.Errorf("--dnf-module must be NAME:STREAM, got %q", m)
		}
	}
	for _, name := range r.apt {
		if err := files.each(name, in.sources.Read); err != nil {
			return nil, err
		}
	}
	for _, name := range r.dnf {
		if err := files.each(name, in.repos.Read); err != nil {
			return nil, err
		}
	}
	err := errors.Join(in.sources.Err(), in.repos.Err())
	if err == nil && len(r.dnf) > 0 && len(in.repos.List) == 0 {
		err = fmt.Errorf("no repository is enabled in %s: set enabled=1 for those that nodes use",
			strings.Join(r.dnf, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("the sources are not usable, nothing was done:\n%w", err)
	}
	in.notes = append(in.sources.Notes, in.repos.Notes...)
	for _, name := range r.keyrings {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		k, err := openpgp.ReadKeyring(b)
		if err != nil {
			return nil, fmt.Errorf("--keyring %s: %w", name, err)
		}
		in.keyrings = append(in.keyrings, ospackages.NamedKeyring{Name: name, Keyring: k})
	}
	for _, name := range r.installed {
		var failed error
		err := files.each(name, func(_ string, content io.Reader) { failed = r.readInstalled(in, content) })
		if err = errors.Join(err, failed); err != nil {
			return nil, fmt.Errorf("--installed %s: %w", name, err)
		}
	}
	return in, nil
}

// readInstalled reads a list of what nodes have. If there are sources of both formats, its first line decides.
func (r *repositoryFlags) readInstalled(in *repositoryInput, content io.Reader) error {
	buffered := bufio.NewReaderSize(content, 64<<10)
	head, _ := buffered.Peek(16 << 10)
	if len(r.dnf) > 0 && (len(r.apt) == 0 || rpm.IsInstalled(head)) {
		i, err := rpm.ReadInstalled(buffered)
		in.rpms = append(in.rpms, i)
		return err
	}
	i, err := deb.ReadInstalled(buffered)
	in.debs = append(in.debs, i)
	return err
}

// rpmArchitectures are the names that rpm has for the processors of platforms.
func rpmArchitectures(platforms []string) (list []string) {
	for _, p := range platforms {
		_, arch, _ := strings.Cut(strings.ToLower(p), "/")
		arch, variant, _ := strings.Cut(arch, "/")
		switch arch {
		case "amd64":
			arch = "x86_64"
			if variant == "v2" || variant == "v3" || variant == "v4" {
				arch += "_" + variant
			}
		case "arm64":
			arch = "aarch64"
		case "386":
			arch = "i686"
		case "arm":
			arch = "armv7hl"
		}
		list = append(list, arch)
	}
	return list
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

// suiteRead describes a suite, or a repository without suites, in the summary.
type suiteRead struct {
	Name       string     `json:"name"` // URI and suite; of a .repo file its ID and URL
	Date       time.Time  `json:"date"` // of its Release file, or of its newest index
	ValidUntil *time.Time `json:"valid_until,omitempty"`
	Signers    []string   `json:"signers,omitempty"` // none: the signature was not checked
	Packages   int        `json:"packages"`          // that its indices list
	// Checked says that the signature of each collected package is checked.
	Checked bool `json:"packages_checked,omitempty"`
}

func (s suiteRead) sentence() string {
	text := fmt.Sprintf("%s of %s, %s listed", s.Name, s.Date.Format(time.DateOnly), count(s.Packages, "package"))
	if s.ValidUntil != nil {
		text += ", expires " + s.ValidUntil.Format(time.DateOnly)
	}
	switch {
	case len(s.Signers) == 0 && s.Checked:
		return text + ", each package signed"
	case len(s.Signers) == 0:
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
		d := suiteRead{Name: s.Name, Date: s.Date, Signers: s.Signers, Packages: s.Packages, Checked: s.Checked}
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
