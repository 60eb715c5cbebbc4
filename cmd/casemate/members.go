package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/forecast"
	"casemate/appliance/setup"
)

func joinCommand(o *options) *cobra.Command {
	var (
		config, name, data string
		advertise          []netip.Addr
		opt                setup.JoinOptions
	)
	cmd := &cobra.Command{
		Use: "join --token TOKEN ADDR", Short: "join this node to a cluster", Args: cobra.ExactArgs(1),
		Long: `Join this node to a cluster through the member at ADDR (its peer port; 7443 if
no port is given), and exit. This writes the node's config if there is none, and
fetches the node's identity and the cluster's keys. The node fetches the content
after "casemate serve" has started it, and votes once it has all of it.

The token comes from "casemate token create" on any member. The first node that
uses a token owns it and may repeat the command until the token expires.
"--token -" reads it from standard input and "--token @FILE" from a file, so that
it does not appear in the list of processes.`,
		Example: "  casemate join --token casemate1.… 10.0.0.11",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, given, err := initConfig(config, name, data, advertise)
			if err != nil {
				return err
			}
			if opt.Token, err = readToken(cmd, opt.Token); err != nil {
				return err
			}
			opt.Addr, opt.ConfigFile, opt.Given = args[0], config, given
			opt.Log = warnings(cmd)
			opt.Clock.Read(madeAt())
			opt.Version = version
			p, err := setup.Join(cmd.Context(), cfg, opt)
			if err != nil {
				return err
			}
			out := newPreparedNode(cfg, p)
			steps := nextSteps(p, cfg.Node+" is a member; its content comes when it runs")
			return o.changedTo(cmd, out, append(steps, enrollHost)...)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Token, "token", "", "join `TOKEN`; - reads it from standard input, @FILE from a file (required)")
	nodeFlags(cmd, &config, &name, &data, &advertise)
	clockFlag(cmd, &opt.Clock)
	f.BoolVar(&opt.Wait, "wait", false, "retry while the member does not answer or the cluster has no majority")
	o.prints(cmd, preparedNode{})
	return cmd
}

// readToken returns a token from the command line, a file or standard input.
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

type joinToken struct {
	Token   string    `json:"token"`
	Addr    string    `json:"addr"` // the first of Addrs
	Addrs   []string  `json:"addrs"`
	Expires time.Time `json:"expires"`
}

func tokenCommand(o *options) *cobra.Command {
	ttl := time.Hour
	create := &cobra.Command{
		Use: "create", Short: "print a join token for one node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out joinToken
			in := map[string]string{"ttl": ttl.String()}
			if err := o.client().call(cmd.Context(), "POST", "tokens", nil, in, &out); err != nil {
				return err
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), out)
			}
			fmt.Fprintln(cmd.OutOrStdout(), out.Token)
			fmt.Fprintf(cmd.ErrOrStderr(), "good for one node and %s; on that node: casemate join --token TOKEN %s\n",
				ttl, strings.Join(out.Addrs, " (or "+")"))
			return nil
		},
	}
	durationVar(create.Flags(), &ttl, "ttl", "`TIME` for which the token is valid, between 1m and 30d")
	o.prints(create, joinToken{})
	return group("token", "create join tokens for new nodes", create)
}

type member struct {
	Node         string    `json:"node"`
	Role         string    `json:"role"`
	Addr         string    `json:"addr"`
	Addrs        []string  `json:"addrs"`
	Self         bool      `json:"self"`
	Up           bool      `json:"up"`
	Applied      uint64    `json:"applied"`
	Lag          uint64    `json:"lag"`
	MissingBlobs int       `json:"lacks"`
	Free         int64     `json:"disk_free"`
	Total        int64     `json:"disk_total"`
	Reserve      int64     `json:"disk_reserve,omitempty"`
	Version      string    `json:"version"`
	Format       uint64    `json:"format"`
	Joined       time.Time `json:"joined"`
	Seen         time.Time `json:"seen,omitzero"`
	Stopped      string    `json:"stopped,omitempty"`
	ClockAhead   *float64  `json:"clock_ahead_seconds,omitempty"`
	RunsAt       []string  `json:"runs_at,omitempty"`

	Forecast *forecast.Forecast `json:"forecast,omitempty"`

	EntriesBehind uint64 `json:"entries_behind"` // lag
	BlobsToCome   int    `json:"blobs_to_come"`  // lacks
}

// forecastDays is how many days ahead tables show that a disk will be full.
const forecastDays = 60

// explain fills the fields with descriptive names from the daemon's shorter ones, which stay for compatibility.
func explain(members []member) {
	for i := range members {
		m := &members[i]
		m.EntriesBehind, m.BlobsToCome = m.Lag, m.MissingBlobs
	}
}

func memberCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the nodes with role, health, lag, missing blobs, disk and version",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var members []member
			if err := o.client().call(cmd.Context(), "GET", "members", nil, nil, &members); err != nil {
				return err
			}
			explain(members)
			header := []any{"NODE", "ROLE", "HEALTH", "BEHIND", "TO COME", "DISK FREE", "VERSION", "ADDRESS"}
			return o.printRows(cmd, members, "no members", header, func(t *table) {
				for _, m := range members {
					m.row(t)
				}
			})
		},
	}
	o.printsTimes(list, []member{})
	return group("member", "manage the cluster's nodes", list, memberRemove(o), memberAddress(o))
}

func (m *member) row(t *table) {
	health, toCome, behind := "up", count(m.MissingBlobs, "blob"), "0 entries"
	if m.Lag > 0 {
		behind = count(m.Lag, "entry")
	}
	disk := size(m.Free) + " of " + size(m.Total)
	if !m.Up {
		health = "DOWN"
		if m.Stopped != "" {
			health = "STOPPED"
		}
		if !m.Seen.IsZero() {
			health += " since " + t.when(m.Seen)
		}
	}
	if f := m.Forecast; f != nil && f.Days < forecastDays {
		disk += ", full " + relative(t.now, f.Full)
	}
	if m.MissingBlobs < 0 {
		toCome = "?"
	}
	if m.Seen.IsZero() {
		behind, disk = "?", "?"
	}
	name := m.Node
	if m.Self {
		name += " (this)"
	}
	t.row(name, m.Role, health, behind, toCome, disk, m.Version, strings.Join(m.Addrs, ", "))
}

func memberRemove(o *options) *cobra.Command {
	var force bool
	var d *deletion
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"delete"}, Short: "remove a node permanently", Args: cobra.ExactArgs(1),
		Long: `Remove a node permanently. Its certificate is no longer accepted, its name cannot
be used again, and the cluster's secrets are sealed under a new key that the
node does not get.

The command is refused while some blob would be left on less than a majority of
the remaining nodes. With --force the node is removed anyway, and what only that
node held is lost.`,
		ValidArgsFunction: o.complete(theMembers),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if force {
				q.Set("force", "1")
			}
			path := "members/" + url.PathEscape(args[0])
			done, err := d.call(cmd, http.MethodDelete, path, q, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theMembers, args[0])
			}
			return o.changedTo(cmd, change{"node", args[0], "removed"},
				fmt.Sprintf("node %s is removed; a machine that takes its place joins under another name", args[0]),
				"the keys of the CA that clients trust were on that machine: if it is not destroyed, run casemate ca "+
					"rotate, "+
					"install the new root on every node, run casemate ca rotate --finish, and remove the old root "+
					"from the nodes")
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove the node even if blobs are lost with it")
	d = o.deletes(cmd)
	o.prints(cmd, change{})
	return cmd
}

func memberAddress(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "address NAME ADDR", Short: "tell this node the new address of another node", Args: cobra.ExactArgs(2),
		Long: `Tell this node the new address of another node's peer port: HOST, ADDRESS or
ADDRESS:PORT (7443 if no port is given).

A node whose address changes tells the others by itself, as long as it reaches
one of them. This command is for the case that no node finds another because all
addresses have changed. It works without a leader and while the daemon runs, and
this node remembers the address until the other node's own record contains it.
The node that answers at the address must prove its identity.`,
		Example:           "  casemate member address n2 10.1.0.12",
		ValidArgsFunction: o.complete(theMembers),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "members/" + url.PathEscape(args[0]) + "/address"
			in := map[string]string{"addr": args[1]}
			if err := o.client().call(cmd.Context(), http.MethodPut, path, nil, in, nil); err != nil {
				return o.suggest(cmd, err, theMembers, args[0])
			}
			return o.changedTo(cmd, change{"node", args[0], "has the address " + args[1]}, fmt.Sprintf(
				"node %s is looked for at %s from now on; casemate member list shows whether it answers", args[0],
				args[1]))
		},
	}
	o.prints(cmd, change{})
	return cmd
}

type logFormat struct {
	Format uint64 `json:"format"`
	Newest uint64 `json:"newest"`
}

func formatCommand(o *options) *cobra.Command {
	var raise bool
	cmd := &cobra.Command{
		Use: "format", Short: "show or raise the format of the replicated log", Args: cobra.NoArgs,
		Long: `Show the format of the replicated log that all nodes have agreed to, and the
newest one that this version understands. After an upgrade of every node, --raise
lets the cluster use the features of the new version. It is refused while a member
has not reported that it understands the new format. After it, older versions no
longer start.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var f logFormat
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
					text = fmt.Sprintf("this version understands up to %d: casemate cluster format --raise, "+
						"once every node has it", f.Newest)
				}
				t.line(fmt.Sprintf("format %d, %s", f.Format, text))
			})
		},
	}
	cmd.Flags().BoolVar(&raise, "raise", false, "raise the format to the newest that every member understands")
	o.prints(cmd, logFormat{})
	return cmd
}
