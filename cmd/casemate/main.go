// Command casemate replaces the internet for a Kubernetes cluster that has none: a registry, a file server, a DNS
// server and a CA on one bastion or three. See the README.
//
// This package turns flags into calls and errors into exit codes, and decides nothing: 0 done, 1 it could not be done,
// 2 wrong usage, 3 it was checked and something is missing or differs.
package main

import (
	"cmp"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance"
	"casemate/appliance/config"
	"casemate/appliance/reply"
	"casemate/appliance/resolver"
	"casemate/appliance/service"
	usageerror "casemate/appliance/usage"
)

// Set by the linker (see the Makefile).
var (
	version = "unknown"
	commit  = "unknown"
	dated   = "" // when the commit was made, in seconds since 1970
)

// madeAt returns when the newest change of this program was made; zero if that is unknown.
func madeAt() time.Time {
	if s, err := strconv.ParseInt(dated, 10, 64); err == nil {
		return time.Unix(s, 0)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				return at
			}
		}
	}
	return time.Time{}
}

// Exit codes; documented for users.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitDiffers = 3
	exitRemoved = 4 // of serve and dns: this node was removed from its cluster; systemd does not restart them
	// of serve: neither init nor join was run; systemd does not restart it
	exitNoNode = service.ExitNoNode
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main as a function: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The second signal ends the process at once: stop restores the default handling when the first has arrived.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "casemate:", plain(reply.Sentence(err)))
	}
	return exitCode(err)
}

// plain replaces control characters, which could move a terminal's cursor, by '?': names in errors come from untrusted
// archives and lists.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// noNode ends a daemon on a host where neither init nor join was run.
type noNode struct{ error }

// errDiffers ends a command that checked something and found it missing or different.
var errDiffers = errors.New("something is missing or differs")

// differs is an errDiffers whose own words say enough.
type differs struct{ error }

func (d differs) Unwrap() error   { return d.error }
func (differs) Is(err error) bool { return err == errDiffers }

func exitCode(err error) int {
	var wrongArgs usageError
	var wrongConfig *usageerror.Error
	var refused *apiError
	var unmade noNode
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errDiffers):
		return exitDiffers
	case errors.Is(err, appliance.ErrRemoved), errors.Is(err, resolver.ErrStopped):
		return exitRemoved
	case errors.As(err, &unmade):
		return exitNoNode
	case errors.As(err, &wrongArgs), errors.As(err, &wrongConfig):
		return exitUsage
	case errors.As(err, &refused) && refused.status == 400:
		return exitUsage
	}
	return exitFailed
}

// options are the flags that many commands have.
type options struct {
	socket   string
	server   string // a bastion over https; "": the admin socket
	ca       string // file with what vouches for the server
	output   string
	relative bool

	schemas map[*cobra.Command]reflect.Type // types that commands print with -o json
}

// newRoot builds the whole command line; help, completions and man pages come from the same definitions.
func newRoot() *cobra.Command {
	root, _ := newCommandLine()
	return root
}

// newCommandLine is newRoot with the options that only tests and documentation need.
func newCommandLine() (*cobra.Command, *options) {
	o := &options{schemas: map[*cobra.Command]reflect.Type{}}
	root := &cobra.Command{
		Use:   "casemate",
		Short: "mirror of the internet that a Kubernetes cluster needs, for networks without one",
		Long: `Casemate is one daemon on a bastion: an OCI registry, a file server, a DNS
server and a CA that answer for the public registries and download hosts, so
that unmodified nodes install Kubernetes where there is no internet.

Begin with "casemate init", then "systemctl enable --now casemate" or
"casemate serve".`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          needsCommand,
		Annotations:   map[string]string{onlyGroup: "yes"},

		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return cmp.Or(refuseFIPSOnly(cmd), o.chooseServer(cmd))
		},
	}
	socket := os.Getenv("CASEMATE_SOCKET")
	if socket == "" {
		socket = config.DefaultSocket
	}
	root.PersistentFlags().StringVar(&o.socket, "socket", socket,
		"admin socket `PATH` of the daemon, or CASEMATE_SOCKET")
	root.PersistentFlags().StringVar(&o.server, "server", "",
		"bastion at `URL` instead of the local daemon, or CASEMATE_SERVER (see casemate login)")
	root.PersistentFlags().StringVar(&o.ca, "ca", "",
		"PEM `FILE` with what vouches for the server besides what this host trusts")
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(usage)
	root.AddGroup(groups...)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("setup", initCommand(o), joinCommand(o), restoreCommand(o), serveCommand(o), socketsCommand(o))
	add("content", imageCommand(o), fileCommand(o), repoCommand(o), packageCommand(o), originCommand(o), nameCommand(o),
		upstreamCommand(o), contentCommand(o), searchCommand(o))
	add("gap", rehearseCommand(o), rehearsalCommand(o), replayCommand(o), bundleCommand(o), importCommand(o),
		checkCommand(o), missingCommand(o), inventoryCommand(o), egressCommand(o))
	add("nodes", enrollCommand(o), doctorCommand(o), clientCommand(o), mirrorsCommand(o), kubesprayCommand(o))
	add("cluster", configCommand(o), memberCommand(o), tokenCommand(o), clusterCommand(o), caCommand(o), certCommand(o))
	add("access", loginCommand(o), logoutCommand(o), whoamiCommand(o), userCommand(o), roleCommand(o),
		apikeyCommand(o), directoryCommand(o), auditCommand(o))
	add("upkeep", statusCommand(o), trafficCommand(o), gcCommand(o), scrubCommand(o), backupCommand(o),
		reloadCommand(o), versionCommand(o))
	root.AddCommand(manCommand(root), dnsCommand(o))
	addCobrasOwn(root)
	wrongArgs(root)
	describe(root)
	return root, o
}

// refuseFIPSOnly ends every command but those about the program itself in Go's FIPS 140-only mode, in which the cipher
// that seals keys cannot be used.
func refuseFIPSOnly(cmd *cobra.Command) error {
	if !fips140.Enforced() || slices.Contains([]string{"version", "help", "completion", "man"}, cmd.Name()) ||
		cmd.HasParent() && cmd.Parent().Name() == "completion" {
		return nil
	}
	return usageError{errors.New("GODEBUG=fips140=only forbids ChaCha20-Poly1305, which seals the cluster's keys: " +
		"run casemate " +
		"without it, or with fips140=on, which uses the validated module where there is one")}
}

// describe uses the short description as a sentence if a command has no long one.
func describe(cmd *cobra.Command) {
	if cmd.Long == "" && cmd.Short != "" {
		cmd.Long = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + "."
	}
	for _, sub := range cmd.Commands() {
		describe(sub)
	}
}

// addCobrasOwn adds the commands help and completion with our texts; otherwise cobra would add its own later.
func addCobrasOwn(root *cobra.Command) {
	root.SetHelpCommandGroupID("upkeep")
	root.SetCompletionCommandGroupID("upkeep")
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Short = "show the help of a command"
			cmd.Long = "Show the help of a command; \"casemate COMMAND --help\" is the same."
			cmd.Run, cmd.RunE = nil, func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 && found.HasAvailableSubCommands() {
					err = needsCommand(found, rest)
				}
				if err != nil {
					return usageError{err}
				}
				return found.Help()
			}
		case "completion":
			cmd.Short = "print the completion script for a shell"
			cmd.Long = "Print the completion script for a shell. The packages install it for bash, zsh and fish."
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, needsCommand
			cmd.Annotations = map[string]string{onlyGroup: "yes"}
			for _, shell := range cmd.Commands() {
				shell.Short = "print the completion script for " + shell.Name()
			}
		}
	}
}

// wrongArgs makes a wrong number of arguments of any command a usage error that shows the command's usage.
func wrongArgs(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, list []string) error {
			if err := args(cmd, list); err != nil {
				return usageError{fmt.Errorf("%s (usage: %s)", wrongNumber(cmd, list, err), cmd.UseLine())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		wrongArgs(sub)
	}
}

// wrongNumber says which arguments of the command's usage are missing, or that there are too many; err if the arguments
// are wrong in another way.
func wrongNumber(cmd *cobra.Command, list []string, err error) string {
	// Cobra's own wording: of numbers, and of arguments where there should be none.
	if !strings.Contains(err.Error(), "arg(s)") && !strings.HasPrefix(err.Error(), "unknown command") {
		return err.Error()
	}
	var needs, all []string
	words := strings.Fields(cmd.Use)[1:]
	for i, w := range words {
		if strings.HasPrefix(w, "-") || i > 0 && strings.HasPrefix(words[i-1], "-") { // a flag and its value
			continue
		}
		if all = append(all, w); !strings.HasPrefix(w, "[") {
			needs = append(needs, strings.TrimSuffix(w, "…"))
		}
	}
	switch {
	case len(list) < len(needs):
		return fmt.Sprintf("%s needs %s", cmd.CommandPath(), strings.Join(needs[len(list):], " and "))
	case len(all) == 0:
		return fmt.Sprintf("%s takes no arguments, got %q", cmd.CommandPath(), strings.Join(list, " "))
	}
	return fmt.Sprintf("%s takes only %s, got %q besides", cmd.CommandPath(), strings.Join(all, " "),
		strings.Join(list[min(len(all), len(list)):], " "))
}

// onlyGroup is the annotation of commands that only have subcommands.
const onlyGroup = "casemate-group"

// group is a command that only has subcommands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: needsCommand,
		Annotations: map[string]string{onlyGroup: "yes"},
	}
	cmd.AddCommand(subs...)
	return cmd
}

// needsCommand runs where a subcommand is missing.
func needsCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q for %q%s (see %s --help)",
			args[0], cmd.CommandPath(), didYouMean(nearCommands(cmd, args[0])), cmd.CommandPath())}
	}
	return usageError{fmt.Errorf("%s needs one of: %s (see %s --help)",
		cmd.CommandPath(), strings.Join(names, ", "), cmd.CommandPath())}
}

type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func versionCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "print the version, its commit and the Go version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionInfo{version, commit, runtime.Version()}
			return o.print(cmd, v, func(t *table) {
				t.line("casemate", v.Version)
				t.line("commit", v.Commit)
				t.line("go", v.Go)
			})
		},
	}
	o.prints(cmd, versionInfo{})
	return cmd
}
