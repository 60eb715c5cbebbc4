package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"casemate/bundle"
)

// listFlags are the flags with which people say what they want: the same for bundle create and check.
type listFlags struct {
	images, files, charts, manifests []string // names of lists, "-" is standard input
	checksums                        []string
	platforms                        []string
}

func (l *listFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&l.images, "images", nil, "list of images, one a line; - reads standard input")
	f.StringArrayVar(&l.files, "files", nil, "list of URLs, one a line, each perhaps with its checksum; - reads standard input")
	f.StringArrayVar(&l.charts, "charts", nil, "list of Helm charts, one a line: oci://HOST/REPOSITORY/CHART:VERSION or https://REPOSITORY CHART VERSION")
	f.StringArrayVar(&l.manifests, "manifests", nil, "Kubernetes manifests (YAML, rendered charts too) whose images are wanted")
	f.StringArrayVar(&l.checksums, "checksums", nil, "checksums of files: what sha256sum or sha512sum wrote, or Kubespray's checksums.yml")
	f.StringSliceVar(&l.platforms, "platform", nil, "platform of the nodes, like linux/amd64; may be repeated")
}

// wanted reads all lists and what checksums say about their files. Everything that is wrong with them is one usage error; what is only to be known
// goes to standard error.
func (l *listFlags) wanted(cmd *cobra.Command) (*bundle.Wanted, *bundle.Checksums, error) {
	var lists bundle.Lists
	var bad []error
	read := &listReader{stdin: cmd.InOrStdin()}
	asked := false
	for _, kind := range []struct {
		names []string
		take  func(string, io.Reader)
	}{
		{l.images, lists.Images}, {l.files, lists.Files}, {l.charts, lists.Charts}, {l.manifests, lists.Manifests},
	} {
		for _, name := range kind.names {
			asked = true
			if err := read.each(name, kind.take); err != nil {
				return nil, nil, err
			}
		}
	}
	if !asked {
		return nil, nil, usageError{errors.New("nothing is asked for: give a list with --images, --files, --charts or --manifests")}
	}
	sums := &bundle.Checksums{}
	for _, name := range l.checksums {
		err := read.each(name, func(name string, r io.Reader) {
			more, err := bundle.ReadChecksums(name, r)
			if err != nil {
				bad = append(bad, err)
			}
			sums.Add(more)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	wanted, err := lists.Wanted()
	if err != nil {
		bad = append(bad, err)
	}
	if len(bad) == 0 {
		notes, err := sums.Apply(wanted)
		for _, n := range notes {
			fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
		}
		if err == nil {
			return wanted, sums, nil
		}
		bad = append(bad, err)
	}
	return nil, nil, usageError{fmt.Errorf("the lists cannot be taken as they are, nothing was done:\n%w", errors.Join(bad...))}
}

// listReader opens lists by their names.
type listReader struct {
	stdin io.Reader
	taken bool
}

// each opens one list and gives it to take with the name that it has in messages.
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
