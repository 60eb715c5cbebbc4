package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"casemate/appliance/nodeconf"
)

func enrollCommand(o *options) *cobra.Command {
	var format, dir string
	var repositories []string
	cmd := &cobra.Command{
		Use: "enroll", Short: "print what makes nodes use the bastions and trust their CA", Args: cobra.NoArgs,
		Long: `Print one line for a root shell on every node. It downloads a script from whichever
bastion answers, checks its SHA-256, and runs it: the script points the node's
resolver at the bastions, in a different order on each node, and adds the CA to
the system's trust store. A node gets addresses of the families (IPv4, IPv6) that
it has a route to, and its old resolver back if no name resolves. Arguments
appended to the line are passed to the script: --dry-run shows a diff and changes
nothing, --undo reverts all changes, --no-resolver leaves the resolver alone,
--help lists the rest.

The line is valid until a bastion is added or removed or the CA changes. The
script may be run again at any time; it changes only what differs.

--repo NAME also gives the nodes the source and the key of a repository of your
own packages, for apt or dnf ("casemate repo add").

--format sh prints the script itself, cloud-init prints user data that writes and
runs it, and ansible writes a role to --dir.`,
		Example: `  casemate enroll
  casemate enroll --repo tools
  casemate enroll --format cloud-init > user-data
  casemate enroll --format ansible --dir roles/casemate_enroll`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !o.json() && (format == "ansible") != (dir != "") {
				return usageError{errors.New("--format ansible and --dir go together: the role is several files")}
			}
			var files []nodeconf.File
			query := url.Values{"format": {format}, "repo": repositories}
			if err := o.client().call(cmd.Context(), "GET", "enroll", query, nil, &files); err != nil {
				return err
			}
			for _, f := range files {
				switch {
				case dir != "" && f.Path != "":
					if err := writeGenerated(dir, f); err != nil {
						return err
					}
				case !o.json():
					fmt.Fprint(cmd.OutOrStdout(), f.Text)
				}
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), files)
			}
			talk := cmd.ErrOrStderr()
			switch format {
			case "line":
				fmt.Fprintln(talk, "run it as root on every node: it downloads the script, checks it, points the "+
					"resolver at the "+
					"bastions and installs the CA; append --dry-run to see what it would change, --undo to revert it")
			case "ansible":
				fmt.Fprintf(talk, "the role is in %s\n", dir)
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && slices.Contains(lineOptions, unknown.GetSpecifiedName()) {
			return usageError{fmt.Errorf("--%s is an option of the line that casemate enroll prints: append it to "+
				"that line", unknown.GetSpecifiedName())}
		}
		return flagError(cmd, err)
	})
	choice(cmd, &format, "format", "", "`FORMAT` to print", "line", "sh", "cloud-init", "ansible")
	cmd.Flags().StringVar(&dir, "dir", "", "write the Ansible role to this `DIRECTORY`")
	cmd.MarkFlagDirname("dir")
	cmd.Flags().StringArrayVar(&repositories, "repo", nil, "also install from this `REPOSITORY` of your own packages; "+
		"may be repeated")
	cmd.RegisterFlagCompletionFunc("repo", o.complete(theRepositories))
	o.printsText(cmd, "text", []nodeconf.File{})
	return cmd
}

// lineOptions are the options of the printed line, which people give to casemate enroll too.
var lineOptions = []string{"dry-run", "undo", "force", "no-resolver", "no-restart", "root"}

// writeGenerated writes a generated file below dir, unless it exists.
func writeGenerated(dir string, f nodeconf.File) error {
	name, err := filepath.Localize(f.Path)
	if err != nil {
		return err
	}
	name = filepath.Join(dir, name)
	switch is, err := os.ReadFile(name); {
	case err == nil && bytes.Equal(is, []byte(f.Text)):
		return os.Chmod(name, fs.FileMode(f.Mode))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name, []byte(f.Text), fs.FileMode(f.Mode)); err != nil {
		return err
	}
	return os.Chmod(name, fs.FileMode(f.Mode)) // also if the file existed, or the umask is strict
}
