package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"casemate/appliance/doctor"
	"casemate/appliance/nodeconf"
)

func doctorCommand(o *options) *cobra.Command {
	var cfg doctor.Config
	var line bool
	cmd := &cobra.Command{
		Use: "doctor [BASTION...]", Short: "on a node: find out why it cannot use the bastions; exit 3 if something is wrong", Args: cobra.ArbitraryArgs,
		Long: `Check, on a node, in the order of the causes: can each bastion be reached, whom does the node ask for names, do the names lead to bastions, are the clocks right,
does the node trust the CA, does something overrule all that (mirrors, proxies), do the registries answer, and do a pull, a part of a file and a large transfer work.
For each failure it prints what people will have seen, its cause and its cure. Nothing is written, and no daemon is needed here.

BASTION is an address or a name; without one the bastions are those that this node was enrolled with, or those among its resolvers.
On a node that was enrolled with --no-resolver (--mode mirror) it is the bastions' own names and the runtimes' mirrors that are checked, and no resolver is asked for the origins.
Exit code 0: all is well, warnings aside. 3: something is wrong. 2: an argument is wrong. 1: it could not be checked.

With --line, on a bastion, it prints one line for a node's shell that gets this program from a bastion, checks its SHA-256 and runs it.`,
		Example: `  casemate doctor
  casemate doctor 10.0.0.11 --image registry.k8s.io/pause:3.10
  casemate doctor --line`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if line {
				return o.doctorLine(cmd)
			}
			cfg.Bastions = args
			report, err := doctor.Run(cmd.Context(), cfg)
			if errors.Is(err, fs.ErrInvalid) {
				return usageError{err}
			} else if err != nil {
				return err
			}
			if o.output == "json" {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Write(cmd.OutOrStdout())
			}
			if err == nil && report.Failed > 0 {
				err = fmt.Errorf("%d of %d checks failed: %w", report.Failed, len(report.Checks), errDiffers)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&line, "line", false, "on a bastion: print the line that runs this on a node")
	f.StringVar(&cfg.Image, "image", "", "the image to pull (default: a small one that the bastions name)")
	f.StringVar(&cfg.File, "file", "", "the URL of the file to download (default: one that the bastions name)")
	f.StringVar(&cfg.Mode, "mode", "", "how the node finds the bastions, dns or mirror (default: as it was enrolled, or dns)")
	// For tests: bastions without the well-known ports, a node that is a directory.
	f.Uint16Var(&cfg.Ports.HTTP, "port-http", 0, "")
	f.Uint16Var(&cfg.Ports.HTTPS, "port-https", 0, "")
	f.Uint16Var(&cfg.Ports.DNS, "port-dns", 0, "")
	f.StringVar(&cfg.Root, "root", "", "")
	for _, name := range []string{"port-http", "port-https", "port-dns", "root"} {
		f.MarkHidden(name)
	}
	o.printable(cmd)
	return cmd
}

// doctorLine prints the line for nodes.
func (o *options) doctorLine(cmd *cobra.Command) error {
	var b doctor.Executable
	if err := o.client().call(cmd.Context(), "GET", "executable", nil, nil, &b); err != nil {
		return err
	}
	var site nodeconf.Site
	if err := o.client().call(cmd.Context(), "GET", "site", nil, nil, &site); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), doctor.Line(b, site.Addrs()))
	fmt.Fprintf(cmd.ErrOrStderr(), "for a node with %s/%s; it gets %s into a file of its own below $TMPDIR and leaves nothing behind\n", b.OS, b.Arch, size(b.Size))
	return nil
}
