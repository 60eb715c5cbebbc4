package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"casemate/appliance/nodeconf"
)

func enrollCommand(o *options) *cobra.Command {
	var format, dir string
	cmd := &cobra.Command{
		Use: "enroll", Short: "print what makes nodes ask the bastions and trust their CA", Args: cobra.NoArgs,
		Long: `Print one line for a root shell on every node. It downloads a script from whichever bastion answers, checks its SHA-256, and runs it: the script points the node's resolver
at the bastions, in an order of each node's own, and puts the CA into the system's trust store. What stands behind the line goes to the script: --dry-run shows
a diff and changes nothing, --undo puts everything back, --no-resolver leaves the resolver alone, --help says the rest.

The line is good until a bastion comes or goes or the CA changes; the script may be run again at any time and changes what differs.

--format sh prints the script itself, cloud-init user data that writes and runs it, ansible writes a role to --dir.`,
		Example: "  casemate enroll\n  casemate enroll --format cloud-init > user-data\n  casemate enroll --format ansible --dir roles/casemate_enroll",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (format == "ansible") != (dir != "") {
				return usageError{errors.New("--format ansible and --dir go together: the role is several files")}
			}
			var files []nodeconf.File
			if err := o.client().call(cmd.Context(), "GET", "enroll", url.Values{"format": {format}}, nil, &files); err != nil {
				return err
			}
			for _, f := range files {
				if f.Path == "" {
					fmt.Fprint(cmd.OutOrStdout(), f.Text)
					continue
				}
				if err := writeGenerated(dir, f); err != nil {
					return err
				}
			}
			talk := cmd.ErrOrStderr()
			switch format {
			case "line":
				fmt.Fprintln(talk, "as root on every node: it downloads the script, checks it, points the resolver at the bastions and installs the CA; with --dry-run behind it, it only shows what it would change, with --undo it puts everything back")
			case "ansible":
				fmt.Fprintf(talk, "the role is in %s\n", dir)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "line", "line, sh, cloud-init or ansible")
	f.StringVar(&dir, "dir", "", "where the Ansible role goes")
	return cmd
}

// writeGenerated writes a generated file below dir, unless it stands there already.
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
	return os.Chmod(name, fs.FileMode(f.Mode)) // also where it was there, or the umask is strict
}
