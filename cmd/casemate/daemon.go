package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"casemate/appliance"
	"casemate/appliance/config"
	"casemate/appliance/service"
	"casemate/appliance/setup"
)

// preparedNode is what init, join and restore have made.
type preparedNode struct {
	Node          string   `json:"node"`
	Data          string   `json:"data"`
	ConfigWritten string   `json:"config_written,omitempty"` // absent: it existed
	Resumed       bool     `json:"resumed"`                  // an earlier run was interrupted, this one completed it
	Domain        string   `json:"domain,omitempty"`
	StartWith     string   `json:"start_with"` // a command line
	Firewall      []string `json:"firewall"`   // command lines that let clients in, where firewalld runs
	Notes         []string `json:"notes"`
}

func newPreparedNode(cfg config.Config, p setup.Prepared) preparedNode {
	return preparedNode{
		Node: cfg.Node, Data: cfg.Data, ConfigWritten: p.ConfigFile, Resumed: p.Resumed, StartWith: p.Next,
		Firewall: notNil(p.Firewall), Notes: notNil(p.Notes),
	}
}

// nodeFlags adds the flags that make a node's config.
func nodeFlags(cmd *cobra.Command, config, name, data *string, advertise *[]netip.Addr) {
	f := cmd.Flags()
	configFlag(cmd, config)
	addrsVar(f, advertise, "advertise",
		"`IP` addresses at which clients reach this node, comma-separated (default: those of the default routes)")
	f.StringVar(name, "name", "", "node `NAME` (default: the host's short name)")
	f.StringVar(data, "data", "", "data `DIRECTORY` (default: "+service.DataDir+")")
	cmd.MarkFlagDirname("data")
}

// clockFlag adds the flag with which an operator vouches for the machine's clock.
func clockFlag(cmd *cobra.Command, c *setup.Clock) {
	cmd.Flags().BoolVar(&c.Right, "clock-is-right", false,
		"continue although the clock of this machine seems to be wrong")
}

// configFlag adds the flag with the path of the node's config.
func configFlag(cmd *cobra.Command, path *string) {
	usage := "node config `FILE`"
	if cmd.Name() == "init" || cmd.Name() == "join" || cmd.Name() == "restore" {
		usage += ", written if it does not exist"
	}
	cmd.Flags().StringVar(path, "config", config.DefaultFile, usage)
	cmd.MarkFlagFilename("config", "yaml", "yml")
}

func initCommand(o *options) *cobra.Command {
	var (
		config, name, domain, data string
		advertise                  []netip.Addr
		set                        [][2]string
		opt                        setup.InitOptions
	)
	cmd := &cobra.Command{
		Use: "init", Short: "create the first node of a cluster", Args: cobra.NoArgs,
		Long: `Create the first node of a cluster, and exit: write the node's config if there is
none, create the CA, and bootstrap a cluster of one node.

The domain cannot be changed later. The CA's root certificate permits public
registries and download hosts, the domain, private addresses, and what --permit
adds; "casemate ca rotate --permit" creates a new root that permits more.`,
		Example: "  casemate init --advertise 10.0.0.11 --domain gap.bank.example --set dns.forward=10.1.1.1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, given, err := initConfig(config, name, data, advertise)
			if err != nil {
				return err
			}
			opt.Set = map[string]string{}
			for _, s := range set {
				opt.Set[s[0]] = s[1]
			}
			if domain != "" {
				if old, ok := opt.Set["domain"]; ok && old != domain {
					return usageError{fmt.Errorf("--domain says %s and --set domain=%s: give one of the two",
						domain, old)}
				}
				opt.Set["domain"] = domain
			}
			opt.ConfigFile, opt.Given = config, given
			opt.Log = warnings(cmd)
			opt.Clock.Read(madeAt())
			res, err := setup.Init(cmd.Context(), cfg, opt)
			if err != nil {
				return err
			}
			out := newPreparedNode(cfg, res.Prepared)
			out.Domain = res.Domain
			what := fmt.Sprintf("%s is the first node of %s, its data is in %s", cfg.Node, res.Domain, cfg.Data)
			lines := nextSteps(res.Prepared, what)
			return o.changedTo(cmd, out, append(lines, enrollHost,
				"and every node with the line that this prints: casemate enroll")...)
		},
	}
	nodeFlags(cmd, &config, &name, &data, &advertise)
	f := cmd.Flags()
	f.StringVar(&domain, "domain", "", "`ZONE` of the cluster's own names (default: casemate.internal)")
	zonesVar(f, &opt.Permit, "permit",
		"`ZONE` or CIDR that certificates may be for, besides the public ones; may be repeated")
	zonesVar(f, &opt.Exclude, "exclude", "`ZONE` or CIDR that certificates must never be for; may be repeated")
	clockFlag(cmd, &opt.Clock)
	settingsVar(f, &set, "set", "cluster setting `KEY=VALUE`; may be repeated")
	o.prints(cmd, preparedNode{})
	return cmd
}

// enrollHost is printed after a bastion was made: without it the public names do not resolve on the bastion itself,
// where people try them first.
const enrollHost = "once it runs, enroll this host itself, so that the names resolve and are trusted here: " +
	"casemate enroll | sh"

// nextSteps describes what was made and which commands come next.
func nextSteps(p setup.Prepared, what string) (lines []string) {
	for _, n := range p.Notes {
		lines = append(lines, "note: "+n)
	}
	if p.Resumed {
		lines = append(lines, "note: the data existed already, from a run that was interrupted; "+
			"the missing part is written, and flags other than those for the config are ignored")
	}
	if p.ConfigFile != "" {
		lines = append(lines, "wrote "+p.ConfigFile)
	}
	lines = append(lines, what+"; start it with: "+p.Next)
	if len(p.Firewall) > 0 {
		lines = append(lines, "where firewalld runs, let clients in:")
		for _, line := range p.Firewall {
			lines = append(lines, "  "+line)
		}
	}
	return lines
}

// writtenFiles are the files that a command has written.
type writtenFiles struct {
	Written []string `json:"written"`
}

func socketsCommand(o *options) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "sockets", Short: "update systemd's socket units from the node's config", Args: cobra.NoArgs,
		Long: `Write systemd's drop-ins for the sockets and the data directory again from the
node's config. init, join and restore do this themselves; run this command after
you have changed the config.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			changed, err := setup.WriteSockets(cfg, config)
			if printErr := o.print(cmd, writtenFiles{notNil(changed)}, func(t *table) {
				for _, path := range changed {
					t.line(path)
				}
			}); err == nil {
				err = printErr
			}
			if err != nil || o.json() {
				return err
			}
			if len(changed) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "nothing has changed")
				return nil
			}
			fmt.Fprintln(cmd.ErrOrStderr(),
				"activate it with: systemctl daemon-reload && systemctl stop 'casemate*' && systemctl start casemate")
			return nil
		},
	}
	configFlag(cmd, &config)
	o.prints(cmd, writtenFiles{})
	return cmd
}

// notes are sentences for the operator.
type notes struct {
	Notes []string `json:"notes"`
}

func reloadCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "make the daemon read its config again", Args: cobra.NoArgs,
		Long: `Make the daemon read its config again, and report which changes need a restart.
A config with a mistake is refused and changes nothing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out notes
			if err := o.client().call(cmd.Context(), "POST", "reload", nil, nil, &out); err != nil {
				return err
			}
			var lines []string
			for _, n := range out.Notes {
				lines = append(lines, "note: "+n)
			}
			return o.changedTo(cmd, out, lines...)
		},
	}
	o.prints(cmd, notes{})
	return cmd
}

// warnings returns a logger of warnings and errors only, for a command.
func warnings(cmd *cobra.Command) *slog.Logger {
	log, _ := config.NewLogger(config.Log{Level: slog.LevelWarn}, cmd.ErrOrStderr())
	return log
}

// loadConfig reads a config and sets defaults.
func loadConfig(path string) (config.Config, error) {
	cfg, err := config.Load(path)
	if err == nil {
		err = cfg.Complete()
	}
	return cfg, err
}

// initConfig reads the config if there is one, and completes it with what flags give. A flag that contradicts the file
// is an error: nothing that stands in a file is changed.
func initConfig(path, name, data string, addrs []netip.Addr) (cfg, given config.Config, err error) {
	given = config.Config{Node: name, Data: data, Advertise: addrs}
	blank, err := config.Blank(path)
	if err != nil {
		return cfg, given, err
	}
	if !blank {
		if cfg, err = config.Load(path); err != nil {
			return cfg, given, err
		}
	}
	cfg.Node, cfg.Data = cmp.Or(cfg.Node, name), cmp.Or(cfg.Data, data)
	if cfg.Advertise == nil {
		cfg.Advertise = addrs
	}
	if err := cfg.Complete(); err != nil {
		return cfg, given, err
	}
	for _, c := range []struct {
		flag, key string
		given     bool
		same      bool
	}{
		{"--name", "node", name != "", name == cfg.Node},
		{"--data", "data", data != "", data == cfg.Data},
		{"--advertise", "advertise", addrs != nil, slices.Equal(addrs, cfg.Advertise)},
	} {
		if c.given && !c.same {
			return cfg, given,
				usageError{fmt.Errorf("%s exists and contradicts %s: change its %s, or leave the flag out",
					path, c.flag, c.key)}
		}
	}
	return cfg, given, nil
}

// extraGarbage is how many bytes of garbage the daemon may have beyond what is usual.
const extraGarbage = 16 << 20

// keepsRunning makes a write to standard output or standard error that nobody reads any more an error, where it would
// end the process by SIGPIPE otherwise: a service does not end because its log's receiver did.
func keepsRunning() { signal.Ignore(syscall.SIGPIPE) }

func serveCommand(*options) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: "serve", Short: "run the daemon in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == config.DefaultFile { // a file that somebody names is expected to exist
				if err := setup.NeverMade(path, service.DataDir); err != nil {
					return noNode{err}
				}
			}
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			// One processor more than there are cores: large copies take as many turns as there are cores (clientconn,
			// turns.go), and small requests find a processor of the scheduler free. The system shares the cores.
			if os.Getenv("GOMAXPROCS") == "" {
				runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
			}
			// The collector runs when there is as much garbage as there is memory in use. A daemon that holds little
			// would run it after each hundred handshakes, so it is made to count pages that are never touched. Their
			// size bounds the garbage that this adds, however much comes to be in use, as a higher GOGC would not.
			if os.Getenv("GOGC") == "" {
				untouched := make([]byte, extraGarbage)
				defer runtime.KeepAlive(&untouched[0])
			}
			keepsRunning()
			log, level, flush := config.NewServiceLogger(cfg.Log, cmd.ErrOrStderr())
			defer flush()
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP) // from the start: a signal must not end the process while it opens
			defer signal.Stop(hup)
			a, err := appliance.Open(cfg, appliance.Options{
				Version: version, Commit: commit, Log: log, Level: level,
				Load: func() (config.Config, error) { return loadConfig(path) },
				DNS:  os.Getenv("CASEMATE_DNS"), // set by the unit
			})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			reloads := make(chan struct{})
			go func() {
				defer close(reloads)
				for {
					select {
					case <-ctx.Done():
						return
					case <-hup:
					}
					a.Reread() // it logs errors
				}
			}()
			err = a.Run(ctx)
			cancel()
			<-reloads
			return errors.Join(err, a.Close())
		},
	}
	configFlag(cmd, &path)
	return cmd
}
