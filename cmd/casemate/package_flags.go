package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"casemate/bundle/lists/kubespray"
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
			"package, @ID for a group of dnf; with everything that they need; - reads standard input; may be repeated")
	f.StringArrayVar(&l.systems, "os", nil,
		"operating system `NAME` of the nodes, like debian12, ubuntu24.04 or rocky9: the packages that the release of "+
			"--kubespray installs on it are selected like those of --packages; may be repeated")
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
	cmd.RegisterFlagCompletionFunc("os",
		cobra.FixedCompletions(kubespray.Systems(), cobra.ShellCompDirectiveNoFileComp))
	cmd.MarkFlagFilename("apt", "list", "sources")
	cmd.MarkFlagFilename("dnf", "repo")
	cmd.MarkFlagFilename("keyring", "gpg", "asc")
}

// check finds flags that do not fit each other.
func (r *repositoryFlags) check(l *listFlags) error {
	asked := len(l.packages)+len(l.systems) > 0
	switch any := len(r.apt)+len(r.dnf) > 0; {
	case any && !asked:
		return usageError{errors.New("--apt and --dnf say where packages are, and --packages (or --os, with " +
			"--kubespray) which are wanted: give both (a list with * is every package)")}
	case asked && !any:
		return usageError{errors.New("--packages or --os says which packages are wanted, and --apt or --dnf " +
			"where they are: give the sources of the nodes (a file of /etc/apt/sources.list.d or /etc/yum.repos.d)")}
	case !any && (len(r.keyrings)+len(r.installed)+len(r.unsigned) > 0 || r.noRecommends):
		return usageError{errors.New("--keyring, --installed, --allow-unsigned and --no-recommends are for --apt " +
			"and --dnf, which are missing")}
	case len(r.dnf) == 0 && len(r.vars)+len(r.modules) > 0:
		return usageError{errors.New("--dnf-var and --dnf-module are for --dnf, which is missing")}
	}
	return nil
}

// repositoryInput is what the files say that flags name.
type repositoryInput struct {
	sources  deb.Sources
	repos    rpm.Repos
	keyrings []ospackages.NamedKeyring
	debs     []*deb.Installed
	rpms     []*rpm.Installed
	notes    []string
	stored   bool // the repositories are read from the stored copies
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
