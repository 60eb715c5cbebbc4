package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance"
)

func joinCommand(*options) *cobra.Command {
	var (
		config, name, data string
		advertise          []string
		opt                appliance.JoinOptions
	)
	cmd := &cobra.Command{
		Use: "join ADDR", Short: "make this node a member of the cluster that a member's ADDR and token name", Args: cobra.ExactArgs(1),
		Long: `Make this node a member of a cluster: write the node's config if there is none, prove the token to the member at ADDR (its peer port, 7443 if none is given), take over
the node's identity and the cluster's keys, and exit. Content comes when the node is served; it votes once all of it is there.

The token comes from "casemate token create" on any member. It is bound to the first node that uses it, which may repeat it until it expires.
"--token -" reads it from standard input, "--token @FILE" from a file, so that it need not stand in the list of processes.`,
		Example: "  casemate join --token casemate1.… 10.0.0.11",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := initConfig(config, name, data, advertise)
			if err != nil {
				return err
			}
			if opt.Token, err = readToken(cmd, opt.Token); err != nil {
				return err
			}
			opt.Addr, opt.ConfigFile = args[0], config
			opt.Log, _ = appliance.NewLogger(appliance.Log{Level: 4}, cmd.ErrOrStderr()) // only what is wrong
			appliance.Version, appliance.Commit = version, commit
			p, err := appliance.Join(cmd.Context(), cfg, opt)
			if err != nil {
				return err
			}
			sayNext(cmd, p, cfg.Node+" is a member; its content comes when it runs")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Token, "token", "", "the join token; - reads it from standard input, @FILE from a file (required)")
	f.StringVar(&config, "config", appliance.DefaultConfigFile, "the node's config, written if it is not there")
	f.StringSliceVar(&advertise, "advertise", nil, "addresses at which clients reach this node (default: those of the default routes)")
	f.StringVar(&name, "name", "", "the node's name (default: the host's short name)")
	f.StringVar(&data, "data", "", "the data directory (default: /var/lib/casemate)")
	f.BoolVar(&opt.Wait, "wait", false, "go on trying while the member does not answer or the cluster has no majority")
	return cmd
}

// readToken returns a token that stands on the command line, in a file or on standard input.
func readToken(cmd *cobra.Command, s string) (string, error) {
	switch file, named := strings.CutPrefix(s, "@"); {
	case s == "":
		return "", usageError{fmt.Errorf("--token is required: casemate token create on a member prints one")}
	case s == "-":
		data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 4096))
		return strings.TrimSpace(string(data)), err
	case named:
		data, err := os.ReadFile(file)
		return strings.TrimSpace(string(data)), err
	}
	return s, nil
}

func tokenCommand(o *options) *cobra.Command {
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create", Short: "print a join token for one node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Token, Addr string }
			if err := o.client().call(cmd.Context(), "POST", "tokens", nil, map[string]string{"ttl": ttl.String()}, &out); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), out.Token)
			fmt.Fprintf(cmd.ErrOrStderr(), "good for one node and %s; on that node: casemate join --token TOKEN %s\n", ttl, out.Addr)
			return nil
		},
	}
	create.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good for")
	return group("token", "let nodes join", create)
}

type member struct {
	Node    string    `json:"node"`
	Role    string    `json:"role"`
	Addr    string    `json:"addr"`
	Self    bool      `json:"self"`
	Up      bool      `json:"up"`
	Applied uint64    `json:"applied"`
	Lag     uint64    `json:"lag"`
	Lacks   int       `json:"lacks"`
	Free    int64     `json:"disk_free"`
	Total   int64     `json:"disk_total"`
	Version string    `json:"version"`
	Format  uint64    `json:"format"`
	Joined  time.Time `json:"joined"`
	Seen    time.Time `json:"seen,omitzero"`
	Stopped string    `json:"stopped,omitempty"`
}

func memberCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "the nodes: role, health, lag, blobs still to come, disk, version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var members []member
			if err := o.client().call(cmd.Context(), "GET", "members", nil, nil, &members); err != nil {
				return err
			}
			return o.print(cmd, members, func(t *table) {
				t.line("NODE", "ROLE", "HEALTH", "BEHIND", "TO COME", "DISK FREE", "VERSION", "ADDRESS")
				for _, m := range members {
					health, lacks, behind, disk := "up", fmt.Sprintf("%d blobs", m.Lacks), fmt.Sprintf("%d entries", m.Lag), size(m.Free)+" of "+size(m.Total)
					if !m.Up {
						health = "DOWN"
						if m.Stopped != "" {
							health = "STOPPED"
						}
						if !m.Seen.IsZero() {
							health += " since " + when(m.Seen)
						}
					}
					if m.Lacks < 0 {
						lacks = "?"
					}
					if m.Seen.IsZero() {
						behind, disk = "?", "?"
					}
					name := m.Node
					if m.Self {
						name += " (this)"
					}
					t.line(name, m.Role, health, behind, lacks, disk, m.Version, m.Addr)
				}
			})
		},
	}
	o.printable(list)
	var force bool
	remove := &cobra.Command{
		Use: "remove NAME", Short: "take a node out for good", Args: cobra.ExactArgs(1),
		Long: `Take a node out for good. Its certificate opens nothing any more, its name does not come back, and the cluster's secrets are sealed under a new key, which it does not get.

It is refused while some blob would be left on less than a majority of the nodes that stay; --force does it all the same, and what only that node held is lost.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if force {
				q.Set("force", "1")
			}
			if err := o.client().call(cmd.Context(), http.MethodDelete, "members/"+url.PathEscape(args[0]), q, nil, nil); err != nil {
				return err
			}
			talk := cmd.ErrOrStderr()
			fmt.Fprintf(talk, "node %s is removed; a machine that takes its place joins under another name\n", args[0])
			fmt.Fprintln(talk, "the keys of the CA that clients trust were on that machine: if it is not destroyed, run casemate ca rotate, install the new root on every node, run casemate ca rotate --finish, and take the old root off the nodes")
			return nil
		},
	}
	remove.Flags().BoolVar(&force, "force", false, "also if blobs are lost with it")
	address := &cobra.Command{
		Use: "address NAME ADDR", Short: "tell this node where another one is, after its address has changed", Args: cobra.ExactArgs(2),
		Long: `Tell this node where another one's peer port is: host, address or address:port (7443 if none is given).

A node whose address changes tells the others by itself, as long as it reaches one of them. This is for the day on which
no node finds another: when all addresses have changed. It works without a leader and while the daemon runs, and this
node remembers it until the other one's own record says the same. Whoever answers there has to prove that it is that node.`,
		Example: "  casemate member address n2 10.1.0.12",
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "members/" + url.PathEscape(args[0]) + "/address"
			if err := o.client().call(cmd.Context(), http.MethodPut, path, nil, map[string]string{"addr": args[1]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "node %s is looked for at %s from now on; casemate member list tells whether it answers\n", args[0], args[1])
			return nil
		},
	}
	return group("member", "the cluster's nodes", list, remove, address)
}

func formatCommand(o *options) *cobra.Command {
	var raise bool
	cmd := &cobra.Command{
		Use: "format", Short: "the format of the replicated log that all nodes have agreed to; --raise goes to the newest", Args: cobra.NoArgs,
		Long: `Show the format of the replicated log that all nodes have agreed to, and the newest that this version understands. After an upgrade of every node, --raise lets the
cluster use what came with it. It is refused while some member has not said that it understands that format. Older versions do not start any more after it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var f struct{ Format, Newest uint64 }
			method := http.MethodGet
			if raise {
				method = http.MethodPost
			}
			if err := o.client().call(cmd.Context(), method, "format", nil, nil, &f); err != nil {
				return err
			}
			if raise {
				f.Format = f.Newest
			}
			return o.print(cmd, f, func(t *table) {
				text := "which is the newest that this version understands"
				if f.Format < f.Newest {
					text = fmt.Sprintf("this version understands up to %d: casemate cluster format --raise, once every node has it", f.Newest)
				}
				t.line(fmt.Sprintf("format %d, %s", f.Format, text))
			})
		},
	}
	cmd.Flags().BoolVar(&raise, "raise", false, "go to the newest format that every member understands")
	o.printable(cmd)
	return cmd
}
