package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/config"
)

type setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Default string `json:"default"`
	Help    string `json:"help"`
	Set     bool   `json:"set"`
}

func configCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the cluster's settings", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var settings []setting
			if err := o.client().call(cmd.Context(), "GET", "settings", nil, nil, &settings); err != nil {
				return err
			}
			return o.printRows(cmd, settings, "no settings", []any{"SETTING", "VALUE", "SOURCE", "DESCRIPTION"},
				func(t *table) {
					for _, s := range settings {
						source := "(default)"
						if s.Set {
							source = "set"
						}
						t.row(s.Key, s.Value, source, s.Help)
					}
				})
		},
	}
	o.prints(list, []setting{})
	get := &cobra.Command{
		Use: "get KEY", Short: "print one setting", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.complete(theSettings),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s setting
			if err := o.client().call(cmd.Context(), "GET", "settings/"+seg(args[0]), nil, nil, &s); err != nil {
				return o.suggest(cmd, err, theSettings, args[0])
			}
			return o.print(cmd, s, func(t *table) {
				// PEM keys have several lines
				for l := range strings.SplitSeq(strings.TrimSuffix(s.Value, "\n"), "\n") {
					t.line(l)
				}
			})
		},
	}
	o.prints(get, setting{})
	return group("config", "manage the cluster's settings, and check a node's config file",
		list, get, configSet(o), configCheck(o))
}

func configSet(o *options) *cobra.Command {
	var reset bool
	var from string
	set := &cobra.Command{
		Use: "set KEY [VALUE]", Short: "change one setting on every node", Args: cobra.RangeArgs(1, 2),
		Example: `  casemate config set dns.forward 10.1.1.1,10.1.1.2
  casemate config set dns.ttl --default
  casemate config set pki.issuer --from ca-with-key.pem`,
		ValidArgsFunction: o.complete(theSettings),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, path := args[0], "settings/"+seg(args[0])
			if reset {
				if len(args) == 2 {
					return usageError{fmt.Errorf("config set takes a value or --default, not both")}
				}
				if err := o.client().call(cmd.Context(), "DELETE", path, nil, nil, nil); err != nil {
					return o.suggest(cmd, err, theSettings, key)
				}
				return o.changed(cmd, "setting", key, "reset to its default")
			}
			if from != "" {
				if len(args) == 2 {
					return usageError{fmt.Errorf("config set takes a value or --from, not both")}
				}
				text, err := readFile(cmd, from)
				if err != nil {
					return err
				}
				args = append(args, text)
			}
			if len(args) != 2 {
				if key, value, ok := strings.Cut(args[0], "="); ok {
					return usageError{fmt.Errorf("the value is an argument of its own: casemate config set %s %s", key,
						value)}
				}
				return usageError{fmt.Errorf("config set needs a value (usage: %s)", cmd.UseLine())}
			}
			if err := o.client().call(cmd.Context(), "PUT", path, nil, map[string]string{"value": args[1]},
				nil); err != nil {
				return o.suggest(cmd, err, theSettings, key)
			}
			return o.changed(cmd, "setting", key, "changed")
		},
	}
	set.Flags().BoolVar(&reset, "default", false, "reset the setting to its default")
	set.Flags().StringVar(&from, "from", "",
		"read the value from `FILE`, - for standard input, as for keys, which a command line shows to other users")
	o.prints(set, change{})
	return set
}

// nodeConfig is a node's config with defaults.
type nodeConfig struct {
	File      string       `json:"file"`
	Node      string       `json:"node"`
	Data      string       `json:"data"`
	Advertise []netip.Addr `json:"advertise"`
	Listen    struct {
		HTTP  []netip.AddrPort `json:"http"`
		HTTPS []netip.AddrPort `json:"https"`
		DNS   []netip.AddrPort `json:"dns"`
		Peer  string           `json:"peer"` // the first of Peers
		Peers []netip.AddrPort `json:"peers"`
		Admin string           `json:"admin"`
	} `json:"listen"`
	Peers map[string]netip.AddrPort `json:"peers"`
	Log   struct {
		Level  string `json:"level"`
		Format string `json:"format"`
	} `json:"log"`
}

func configCheck(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "check [FILE]", Short: "check a node's config file; no daemon is needed", Args: cobra.MaximumNArgs(1),
		Long: `Check a node's config file as "casemate serve" would read it, and print what it
means on this host, defaults included. No daemon is needed and nothing is
changed. FILE is ` + config.DefaultFile + ` if none is given.

Exit code 0: the file is valid. 2: it is not; the message names the line.`,
		Example: "  casemate config check ./casemate.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			file := config.DefaultFile
			if len(args) > 0 {
				file = args[0]
			}
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			c := nodeConfig{
				File: file, Node: cfg.Node, Data: cfg.Data, Advertise: notNil(cfg.Advertise), Peers: cfg.Peers,
			}
			if c.Peers == nil {
				c.Peers = map[string]netip.AddrPort{}
			}
			c.Listen.HTTP, c.Listen.HTTPS = notNil(cfg.Listen.HTTP), notNil(cfg.Listen.HTTPS)
			c.Listen.DNS, c.Listen.Admin = notNil(cfg.Listen.DNS), cfg.Listen.Admin
			if c.Listen.Peers = notNil(cfg.Listen.Peer); len(cfg.Listen.Peer) > 0 {
				c.Listen.Peer = cfg.Listen.Peer[0].String()
			}
			c.Log.Level, c.Log.Format = strings.ToLower(cfg.Log.Level.String()), cfg.Log.Format
			return o.print(cmd, c, c.show)
		},
	}
	o.prints(cmd, nodeConfig{})
	return cmd
}

func notNil[T any](list []T) []T { return append([]T{}, list...) }

func (c *nodeConfig) show(t *table) {
	usual := func(addrs []netip.AddrPort, port string) string {
		if len(addrs) == 0 {
			return "the advertised addresses, port " + port
		}
		return join(addrs)
	}
	t.line("config", c.File+" is valid")
	t.line("node", c.Node)
	t.line("data", c.Data)
	t.line("advertise", join(c.Advertise))
	t.line("listen.http", usual(c.Listen.HTTP, "80"))
	t.line("listen.https", usual(c.Listen.HTTPS, "443"))
	t.line("listen.dns", usual(c.Listen.DNS, "53"))
	t.line("listen.peer", usual(c.Listen.Peers, "7443"))
	t.line("listen.admin", c.Listen.Admin)
	t.line("log", "level "+c.Log.Level+", format "+c.Log.Format)
}

func join[T fmt.Stringer](items []T) string {
	var texts []string
	for _, i := range items {
		texts = append(texts, i.String())
	}
	return strings.Join(texts, ", ")
}

// readFile reads a value of at most 1 MiB from a file or, with "-", from standard input.
func readFile(cmd *cobra.Command, name string) (string, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && len(text) > most {
		err = usageError{fmt.Errorf("%s is longer than %d bytes", name, most)}
	}
	return string(text), err
}
