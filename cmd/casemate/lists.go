package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/rehearsal"
	"casemate/bundle/lists"
)

// listFlags are the flags that select content: the same for bundle create and check.
type listFlags struct {
	images, files, charts, manifests []string // names of lists, "-" is standard input
	git                              []string // the same
	packages                         []string // the same; of operating systems
	requirements                     []string // the same; of Python
	kubespray                        []string // checkouts
	kubesprayInventories             []string // of Ansible, a directory or a file of hosts each
	systems                          []string // of the nodes that Kubespray prepares
	kubesprayVars                    []string // files of variables, over those of the checkouts and inventories
	k3s, rke2                        []lists.Release
	checksums                        []string
	transcripts                      []string // bundles, transcripts, rehearsals: what was asked for and answered
	platforms                        []string
	exclude                          []string // patterns of names to be left out
	// domain returns the domain of the bastions, whose own names in an inventory denote what they mirror; nil if it is
	// unknown.
	domain func() (string, error)
	// document reads the lists of k3s and RKE2 releases.
	document lists.Document
	// repositories finds the files of packages; nil if that is not possible here.
	repositories func(ctx context.Context, w *lists.Wanted) error
	// python finds the files of requirements; nil if that is not possible here.
	python func(ctx context.Context, w *lists.Wanted) error
}

func (l *listFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&l.images, "images", nil, "`LIST` of images, one per line; - reads standard input; may be "+
		"repeated")
	f.StringArrayVar(&l.files, "files", nil,
		"`LIST` of URLs, one per line, each with its checksum if known; - reads standard input; may be repeated")
	f.StringArrayVar(&l.charts, "charts", nil,
		"`LIST` of Helm charts, one per line: oci://HOST/REPOSITORY/CHART:VERSION or https://REPOSITORY CHART "+
			"VERSION; "+
			"may be repeated")
	f.StringArrayVar(&l.manifests, "manifests", nil,
		"Kubernetes manifests `FILE` (YAML, also rendered charts): the images in it are selected; may be repeated")
	f.StringArrayVar(&l.git, "git", nil,
		"`LIST` of Git repositories, one URL per line: their branches and tags, with the program git; may be repeated")
	f.StringArrayVar(&l.kubespray, "kubespray", nil,
		"checkout `DIRECTORY` of Kubespray: what that release downloads, for the processors of --platform (default "+
			"amd64)")
	f.StringArrayVar(&l.kubesprayInventories, "kubespray-inventory", nil,
		"inventory `PATH` for --kubespray, a directory or a hosts file with its group_vars and host_vars, as "+
			"ansible-playbook -i takes it; may be repeated, each is a cluster of its own")
	f.StringArrayVar(&l.kubesprayVars, "kubespray-vars", nil,
		"YAML `FILE` of variables that override those of the checkout and its inventory, as ansible-playbook -e "+
			"takes it; "+
			"may be repeated, the last one wins")
	releaseVar(f, &l.k3s, "k3s",
		"`VERSION` of k3s, like v1.31.5+k3s1, or channel, like stable: its installer, program, images and channels, "+
			"for the processors of --platform (default amd64); may be repeated")
	releaseVar(f, &l.rke2, "rke2",
		"`VERSION` of RKE2, like v1.31.5+rke2r1, or channel, like stable: as --k3s; may be repeated")
	f.StringArrayVar(&l.checksums, "checksums", nil,
		"checksums `FILE`, written by sha256sum or sha512sum, or Kubespray's checksums.yml; may be repeated")
	f.StringArrayVar(&l.exclude, "exclude", nil,
		"leave out names that match `PATTERN`, like quay.io/team/* or dl.k8s.io: * is any text, ? one character; "+
			"may be repeated")
	platformsVar(f, &l.platforms, "platform", "`OS/ARCH` of the nodes, like linux/amd64; may be repeated")
	platforms := []string{"linux/amd64", "linux/arm64"}
	cmd.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions(platforms, cobra.ShellCompDirectiveNoFileComp))
	cmd.MarkFlagDirname("kubespray")
}

// any reports whether anything is selected.
func (l *listFlags) any() bool {
	return len(l.images)+len(l.files)+len(l.charts)+len(l.manifests)+len(l.git)+len(l.packages)+len(l.requirements)+
		len(l.kubespray)+len(l.k3s)+len(l.rke2)+len(l.transcripts) > 0
}

// wanted reads all lists and the checksums of their files. All mistakes in them are one usage error; notes go to
// standard error.
func (l *listFlags) wanted(cmd *cobra.Command) (*lists.Wanted, *lists.Checksums, error) {
	var parser lists.Parser
	var bad []error
	read := &listReader{stdin: cmd.InOrStdin()}
	asked := false
	for _, kind := range []struct {
		names []string
		take  func(string, io.Reader)
		lines bool // a comment means that the list is empty on purpose
	}{
		{l.images, parser.Images, true},
		{l.files, parser.Files, true},
		{l.charts, parser.Charts, true},
		{l.manifests, parser.Manifests, false},
		{l.git, parser.Git, true},
		{l.packages, parser.Packages, true},
	} {
		for _, name := range kind.names {
			asked = true
			take := func(name string, r io.Reader) {
				before, blank := parser.AllNotes(), &blankReader{Reader: r}
				if kind.take(name, blank); parser.AllNotes() == before && (blank.blank() || !kind.lines) {
					bad = append(bad, fmt.Errorf("%s: %w", name, errNamesNothing))
				}
			}
			if err := read.each(name, take); errors.Is(err, fs.ErrNotExist) {
				return nil, nil, fmt.Errorf("there is no file %s: a list is a file with one name on each line, and - "+
					"reads it from standard input", name)
			} else if err != nil {
				return nil, nil, err
			}
		}
	}
	for _, name := range l.transcripts {
		asked = true
		questions, err := readQuestions(cmd, []string{name})
		if err != nil {
			return nil, nil, err
		}
		parser.Images("transcript "+name, strings.NewReader(strings.Join(rehearsal.Images(questions), "\n")))
		parser.Files("transcript "+name, strings.NewReader(strings.Join(rehearsal.Files(questions), "\n")))
	}
	switch {
	case len(l.kubespray) > 0:
	case len(l.kubesprayInventories) > 0:
		return nil, nil, usageError{errors.New("--kubespray-inventory is for --kubespray, which is missing")}
	case len(l.systems) > 0:
		return nil, nil, usageError{errors.New("--os says for which nodes --kubespray prepares packages: give the " +
			"checkout with --kubespray")}
	case len(l.kubesprayVars) > 0:
		return nil, nil, usageError{errors.New("--kubespray-vars is for --kubespray, which is missing")}
	}
	if !asked && len(l.kubespray)+len(l.k3s)+len(l.rke2)+len(l.requirements) == 0 {
		packages := ""
		if l.repositories != nil {
			packages = " --packages, --python,"
		}
		return nil, nil, usageError{errors.New("nothing is selected: give a list with --images, --files, --charts, " +
			"--manifests," + packages + " --git or --kubespray, or a release with --k3s or --rke2")}
	}
	sums := &lists.Checksums{}
	for _, name := range l.checksums {
		err := read.each(name, func(name string, r io.Reader) {
			more, err := lists.ReadChecksums(name, r)
			if err != nil {
				bad = append(bad, err)
			}
			sums.Add(more)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	wanted, err := parser.Wanted()
	if err != nil {
		bad = append(bad, err)
	}
	if len(bad) == 0 { // nothing is fetched before
		for _, releases := range [][]lists.Release{l.k3s, l.rke2} {
			if err := parser.Releases(cmd.Context(), releases, l.processors(), l.document); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, n := range parser.Notes() {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	if len(bad) == 0 {
		set := newWantedSet(wanted)
		if err := l.addKubespray(cmd, set, sums); err != nil {
			return nil, nil, err
		}
		notes, err := sums.Apply(wanted)
		for _, n := range notes {
			fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
		}
		if err == nil {
			if len(wanted.Packages) > 0 {
				if err := l.repositories(cmd.Context(), wanted); err != nil {
					return nil, nil, err
				}
			}
			if len(l.requirements) > 0 {
				if err := l.python(cmd.Context(), wanted); err != nil {
					return nil, nil, err
				}
			}
			if err := l.leaveOut(cmd, wanted); err != nil {
				return nil, nil, err
			}
			return wanted, sums, nil
		}
		bad = append(bad, err)
	}
	return nil, nil, usageError{fmt.Errorf("the lists are not usable, nothing was done:\n%w",
		errors.Join(bad...))}
}

// leaveOut removes the names that --exclude matches.
func (l *listFlags) leaveOut(cmd *cobra.Command, w *lists.Wanted) error {
	if len(w.Images)+len(w.Files)+len(w.Charts)+len(w.Git)+len(w.Unavailable) == 0 {
		all := slices.Concat(l.transcripts, l.images, l.files, l.charts, l.manifests, l.git, l.packages, l.requirements,
			l.kubespray, l.kubesprayInventories)
		return usageError{errors.New("the lists contain no names: " + strings.Join(all, ", "))}
	}
	gone, idle := lists.Exclude(w, l.exclude)
	for _, p := range idle {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: --exclude %s matches nothing\n", p)
	}
	for _, name := range gone {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: excluded %s\n", name)
	}
	if len(w.Images)+len(w.Files)+len(w.Charts)+len(w.Git)+len(w.Unavailable) == 0 {
		return usageError{errors.New("--exclude leaves none of the listed names")}
	}
	return nil
}

// processors are those of the platforms, in the names of container images; amd64 without any.
func (l *listFlags) processors() []string {
	var list []string
	for _, p := range l.platforms {
		_, arch, _ := strings.Cut(strings.ToLower(p), "/")
		arch, _, _ = strings.Cut(arch, "/")
		switch arch { // uname's names
		case "x86_64":
			arch = "amd64"
		case "aarch64":
			arch = "arm64"
		}
		if !slices.Contains(list, arch) {
			list = append(list, arch)
		}
	}
	if list == nil {
		list = append(list, "amd64")
	}
	return list
}

// wantedSet collects the content of lists, each name once. Content that one list requires is not optional because it is
// optional in another.
type wantedSet struct {
	*lists.Wanted
	at map[string]int // in its slice
}

func newWantedSet(w *lists.Wanted) *wantedSet {
	s := &wantedSet{w, map[string]int{}}
	for n, i := range w.Images {
		s.at["image "+i.Ref()] = n
	}
	for n, f := range w.Files {
		s.at["file "+f.URL] = n
	}
	for n, c := range w.Charts {
		s.at["chart "+chartName(c)] = n
	}
	for n, r := range w.Redirects {
		s.at["redirect "+r.From] = n
	}
	for n, p := range w.Packages {
		s.at["package "+p.Label()] = n
	}
	return s
}

func (s *wantedSet) image(i lists.Image) {
	once(s, "image "+i.Ref(), &s.Images, i, func(have *lists.Image) { have.Optional = have.Optional && i.Optional })
}

func (s *wantedSet) file(f lists.File) {
	once(s, "file "+f.URL, &s.Files, f, func(have *lists.File) {
		have.Optional = have.Optional && f.Optional
		if have.Digest == "" {
			have.Digest, have.Known, have.Size = f.Digest, f.Known, f.Size
		}
		if have.Check == nil {
			have.Check = f.Check
		}
	})
}

func (s *wantedSet) chart(c lists.Chart) {
	once(s, "chart "+chartName(c), &s.Charts, c, func(have *lists.Chart) {
		have.Optional = have.Optional && c.Optional
	})
}

func (s *wantedSet) redirect(r lists.Redirect) {
	once(s, "redirect "+r.From, &s.Redirects, r, func(*lists.Redirect) {})
}

func (s *wantedSet) osPackage(p lists.Package) {
	once(s, "package "+p.Label(), &s.Packages, p, func(have *lists.Package) {
		have.Optional = have.Optional && p.Optional
	})
}

// once appends x to list, unless the name is there: then it merges x into what is there.
func once[T any](s *wantedSet, name string, list *[]T, x T, merge func(have *T)) {
	if n, ok := s.at[name]; ok {
		merge(&(*list)[n])
		return
	}
	s.at[name] = len(*list)
	*list = append(*list, x)
}

func chartName(c lists.Chart) string {
	return strings.TrimSpace(c.Repo + " " + c.Name + " " + c.Version)
}

// errNamesNothing reports a source without names: the program that should have written it has failed, or it is the
// wrong file.
var errNamesNothing = errors.New("it contains no names: did the program that writes it fail? If nothing is wanted, " +
	"leave the flag out (in a list of lines a comment is enough: # nothing)")

// blankReader records whether anything but white space was read.
type blankReader struct {
	io.Reader
	seen bool
}

func (b *blankReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.seen = b.seen || len(bytes.TrimSpace(bytes.TrimPrefix(p[:n], []byte("\ufeff")))) > 0
	return n, err
}

func (b *blankReader) blank() bool { return !b.seen }

// listReader opens lists by their names.
type listReader struct {
	stdin io.Reader
	taken bool
}

// each opens each list and passes it to take with its name in messages.
func (l *listReader) each(name string, take func(name string, r io.Reader)) error {
	if name == "-" {
		if l.taken {
			return usageError{errors.New("standard input (-) can be read as one list only")}
		}
		l.taken = true
		take("stdin", l.stdin)
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return err
	} else if st.IsDir() {
		return usageError{fmt.Errorf("%s is a directory: a list is a file", name)}
	}
	take(name, f)
	return nil
}
