package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"casemate/appliance"
)

func initCommand(*options) *cobra.Command {
	var (
		config, name, domain, data string
		advertise, set             []string
		opt                        appliance.InitOptions
	)
	cmd := &cobra.Command{
		Use: "init", Short: "make the first node of a cluster: its config, its CA and an empty tree", Args: cobra.NoArgs,
		Long: `Make the first node of a cluster: write the node's config if there is none, make the CA, bootstrap a cluster of one, and exit.

What the root certificate permits is fixed here: public registries and download hosts, the own domain, private addresses, and what --permit adds.`,
		Example: "  casemate init --advertise 10.0.0.11 --domain gap.bank.example --set dns.forward=10.1.1.1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := initConfig(config, name, data, advertise)
			if err != nil {
				return err
			}
			opt.Set = map[string]string{}
			for _, s := range set {
				key, value, ok := strings.Cut(s, "=")
				if !ok {
					return usageError{fmt.Errorf("--set must be KEY=VALUE, got %q", s)}
				}
				opt.Set[key] = value
			}
			if domain != "" {
				if old, ok := opt.Set["domain"]; ok && old != domain {
					return usageError{fmt.Errorf("--domain says %s and --set domain=%s: give one of the two", domain, old)}
				}
				opt.Set["domain"] = domain
			}
			opt.ConfigFile = config
			opt.Log, _ = appliance.NewLogger(appliance.Log{Level: 4}, cmd.ErrOrStderr()) // only what is wrong
			res, err := appliance.Init(cmd.Context(), cfg, opt)
			if err != nil {
				return err
			}
			for _, n := range res.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
			}
			sayNext(cmd, res.Prepared, fmt.Sprintf("%s is the first node of %s, its data is in %s", cfg.Node, res.Domain, cfg.Data))
			fmt.Fprintln(cmd.ErrOrStderr(), "when it runs, for the nodes: casemate enroll")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", appliance.DefaultConfigFile, "the node's config, written if it is not there")
	f.StringSliceVar(&advertise, "advertise", nil, "addresses at which clients reach this node (default: those of the default routes)")
	f.StringVar(&name, "name", "", "the node's name (default: the host's short name)")
	f.StringVar(&domain, "domain", "", "the own zone (default: casemate.internal)")
	f.StringVar(&data, "data", "", "the data directory (default: /var/lib/casemate)")
	f.StringArrayVar(&opt.Permit, "permit", nil, "a zone or CIDR that certificates may be for, beside the public ones")
	f.StringArrayVar(&opt.Exclude, "exclude", nil, "a zone or CIDR that certificates may never be for")
	f.StringArrayVar(&set, "set", nil, "a setting of the cluster, KEY=VALUE")
	return cmd
}

// sayNext says what was made and what to type next.
func sayNext(cmd *cobra.Command, p appliance.Prepared, what string) {
	talk := cmd.ErrOrStderr()
	if p.Resumed {
		fmt.Fprintln(talk, "note: the data was there already, from a run that was cut short; what was missing beside it is written, and no other flags than those for the config are looked at")
	}
	if p.ConfigFile != "" {
		fmt.Fprintf(talk, "wrote %s\n", p.ConfigFile)
	}
	fmt.Fprintf(talk, "%s; start it with: %s\n", what, p.Next)
	if len(p.Firewall) > 0 {
		fmt.Fprintln(talk, "where firewalld runs, let clients in:")
		for _, line := range p.Firewall {
			fmt.Fprintln(talk, " ", line)
		}
	}
}

func socketsCommand(*options) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "sockets", Short: "tell systemd the addresses that the config says now", Args: cobra.NoArgs,
		Long: `Write systemd's drop-ins for the sockets and the data directory anew, from the config. init, join and restore do it by themselves; this is for a config that has changed since.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			changed, err := appliance.WriteSockets(cfg, config)
			for _, path := range changed {
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			if err != nil {
				return err
			}
			if len(changed) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "nothing has changed")
				return nil
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "take it up with: systemctl daemon-reload && systemctl stop 'casemate*' && systemctl start casemate")
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", appliance.DefaultConfigFile, "the node's config")
	return cmd
}

func reloadCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "let the daemon read its config again; says what needs a restart", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Notes []string }
			if err := o.client().call(cmd.Context(), "POST", "reload", nil, nil, &out); err != nil {
				return err
			}
			for _, n := range out.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
			}
			return nil
		},
	}
}

// loadConfig reads a config and completes it.
func loadConfig(path string) (appliance.Config, error) {
	cfg, err := appliance.LoadConfig(path)
	if err == nil {
		err = cfg.Complete()
	}
	return cfg, err
}

// initConfig reads the config if there is one, else makes one of the flags. A flag that contradicts the file is an
// error: init does not change a file.
func initConfig(path, name, data string, advertise []string) (appliance.Config, error) {
	var addrs []netip.Addr
	for _, s := range advertise {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return appliance.Config{}, usageError{fmt.Errorf("--advertise must be IP addresses, got %q", s)}
		}
		addrs = append(addrs, a.Unmap())
	}
	if appliance.BlankConfig(path) {
		cfg := appliance.Config{Node: name, Data: data, Advertise: addrs}
		return cfg, cfg.Complete()
	}
	cfg, err := appliance.LoadConfig(path)
	if err != nil {
		return cfg, err
	}
	if err := cfg.Complete(); err != nil {
		return cfg, err
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
			return cfg, usageError{fmt.Errorf("%s is there already and says something else than %s: change its %s, or leave the flag out", path, c.flag, c.key)}
		}
	}
	return cfg, nil
}

func serveCommand(*options) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "serve", Short: "run the daemon in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			appliance.Version, appliance.Commit = version, commit
			log, level := appliance.NewLogger(cfg.Log, cmd.ErrOrStderr())
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP) // from the start: it must not end the process while it opens
			defer signal.Stop(hup)
			a, err := appliance.Open(cfg, appliance.Options{
				Log: log, Level: level, Load: func() (appliance.Config, error) { return loadConfig(config) },
				DNS: os.Getenv("CASEMATE_DNS"), // of the unit
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
					a.Reread() // it logs what is wrong
				}
			}()
			err = a.Run(ctx)
			cancel()
			<-reloads
			return errors.Join(err, a.Close())
		},
	}
	cmd.Flags().StringVar(&config, "config", appliance.DefaultConfigFile, "the node's config")
	return cmd
}
