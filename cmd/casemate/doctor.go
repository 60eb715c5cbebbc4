package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"casemate/appliance/doctor"
	"casemate/appliance/nodeconf"
)

func doctorCommand(o *options) *cobra.Command {
	var cfg doctor.Config
	var line bool
	cmd := &cobra.Command{
		Use: "doctor [BASTION…]", Short: "find out on a node why it cannot use the bastions", Args: cobra.ArbitraryArgs,
		Long: `Check on a node, causes before effects: whether each bastion can be reached, and
over which of IPv4 and IPv6, which resolvers the node asks, whether names lead to
the bastions, whether the clocks agree, whether the node trusts the CA, whether
mirrors or proxies override all that, whether the registries answer, and whether a
pull, a part of a file and a large transfer work; and at the end, whether the node
can leave the site. Each failure comes with the messages that users will have seen,
its cause and its cure. Nothing is written, and no daemon is needed here.

BASTION is an IPv4 or IPv6 address or a name. Without one, the bastions are those
that this node was enrolled with, or those among its resolvers. On a node that was
enrolled with --no-resolver (--mode mirror), the bastions' own names and the
runtimes' mirrors are checked, and no resolver is asked for the origins.

Exit code 0: all is well, warnings aside. 3: something is wrong. 2: an argument is
wrong. 1: the check could not be done.

A node of a closed site reaches nothing outside. Port 53 and port 443 of two public
resolvers (9.9.9.9 and 1.1.1.1, also by IPv6) are tried, and an answer is a warning.
--outside tries other addresses, where an answer is a failure; --outside "" tries
none.

With --line, on a bastion, it prints one line for a node's shell that downloads
this program from a bastion, checks its SHA-256 and runs it.`,
		Example: `  casemate doctor
  casemate doctor 10.0.0.11 --image registry.k8s.io/pause:3.10
  casemate doctor fd00::11
  casemate doctor --line`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if line {
				return o.doctorLine(cmd)
			}
			cfg.Bastions = args
			cfg.Closed = cmd.Flags().Changed("outside")
			cfg.Outside = slices.DeleteFunc(cfg.Outside, func(at string) bool { return at == "" })
			report, err := doctor.Run(cmd.Context(), cfg)
			if errors.Is(err, fs.ErrInvalid) {
				return usageError{err}
			} else if err != nil {
				return err
			}
			if o.json() {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Write(cmd.OutOrStdout())
			}
			if err == nil && report.Failed > 0 {
				err = fmt.Errorf("%d of %s failed: %w", report.Failed, count(len(report.Checks), "check"), errDiffers)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&line, "line", false, "on a bastion: print the line that runs the doctor on a node")
	f.StringVar(&cfg.Image, "image", "", "`IMAGE` to pull (default: a small one that the bastions name)")
	f.StringVar(&cfg.File, "file", "", "`URL` of the file to download (default: one that the bastions name)")
	f.StringArrayVar(&cfg.Outside, "outside", doctor.Outside,
		"`ADDRESS:PORT` that must be closed to this node, like 192.0.2.1:443; may be repeated")
	choice(cmd, &cfg.Mode, "mode", "",
		"`MODE` in which the node finds the bastions (default: as it was enrolled, else dns)", "", "dns", "mirror")
	// For tests: bastions on other ports, a node that is a directory.
	f.Uint16Var(&cfg.Ports.HTTP, "port-http", 0, "")
	f.Uint16Var(&cfg.Ports.HTTPS, "port-https", 0, "")
	f.Uint16Var(&cfg.Ports.DNS, "port-dns", 0, "")
	f.StringVar(&cfg.Root, "root", "", "")
	for _, name := range []string{"port-http", "port-https", "port-dns", "root"} {
		f.MarkHidden(name)
	}
	o.printsText(cmd, "text", &doctor.Report{})
	return cmd
}

// doctorLine is what doctor --line prints.
type doctorLine struct {
	Line   string `json:"line"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	OS     string `json:"os"`
	Arch   string `json:"arch"`
}

// doctorLine prints the line for nodes.
func (o *options) doctorLine(cmd *cobra.Command) error {
	return o.printLine(cmd, "doctor", true)
}

// printLine prints the line for nodes that runs a command of this program there, with the bastions' addresses or
// without.
func (o *options) printLine(cmd *cobra.Command, command string, addrs bool) error {
	var b doctor.Executable
	if err := o.client().call(cmd.Context(), "GET", "executable", nil, nil, &b); err != nil {
		return err
	}
	var site nodeconf.Site
	if err := o.client().call(cmd.Context(), "GET", "site", nil, nil, &site); err != nil {
		return err
	}
	var words []string
	if addrs {
		for _, a := range site.Addrs() {
			words = append(words, a.String())
		}
	}
	out := doctorLine{doctor.Line(b, site.Addrs(), command, words...), b.SHA256, b.Size, b.OS, b.Arch}
	if o.json() {
		return printJSON(cmd.OutOrStdout(), out)
	}
	fmt.Fprintln(cmd.OutOrStdout(), out.Line)
	fmt.Fprintf(cmd.ErrOrStderr(),
		"for a node with %s/%s; it downloads %s to a file below $TMPDIR and leaves nothing behind\n",
		b.OS, b.Arch, size(b.Size))
	return nil
}
