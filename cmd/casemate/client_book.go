package main

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/admin"
)

func clientCommand(o *options) *cobra.Command {
	return group("client", "list who uses the bastions, and show one client", clientListCommand(o),
		clientShowCommand(o))
}

func clientListCommand(o *options) *cobra.Command {
	var match string
	cmd := &cobra.Command{
		Use: "list", Short: "list who uses the bastions", Args: cobra.NoArgs,
		Long: `List who uses the bastions, the newest first: nodes, build hosts, people's machines.
A client is an address, or the /64 of an IPv6 address. Other bastions' part may be a
quarter of an hour old.

ENROLLED is a conclusion from what a client does. "yes": it gets content over TLS, so
it trusts the root. "no": its handshakes fail because it does not. "unknown": it has
shown neither. "casemate client show" has the evidence.

NAME is from records of the bastions (casemate name set), or from a resolver of
dns.forward: for private addresses any, for others only one of their reverse zone. It
is looked up in the background, so it may be there only the next time.`,
		Example: `  casemate client list
  casemate client list --match containerd`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if match != "" {
				query.Set("q", match)
			}
			var list []admin.Client
			if err := o.client().call(cmd.Context(), "GET", "clients", query, nil, &list); err != nil {
				return err
			}
			none := "no client has used the bastions lately"
			if match != "" {
				none = fmt.Sprintf("no client has %q in its address, name, programs or last error", match)
			}
			header := []any{"CLIENT", "NAME", "LAST", "ENROLLED", "ASKS BY", "PROGRAMS", "MISSES", "LAST ERROR"}
			return o.printRows(cmd, list, none, header, func(t *table) {
				for _, c := range list {
					t.row(c.Client.Client, c.Name, t.when(c.Last), c.Enrolled, strings.Join(c.Protocols, " "),
						strings.Join(c.Programs, " "), c.Misses, t.lastError(c))
				}
			})
		},
	}
	cmd.Flags().StringVar(&match, "match", "", "only clients with `TEXT` in the address, the name, a program or the "+
		"last error")
	o.printsTimes(cmd, []admin.Client{})
	return cmd
}

// lastError returns a client's last error with its time, "" if there is none.
func (t *table) lastError(c admin.Client) string {
	if c.LastError == nil {
		return ""
	}
	return fmt.Sprint(t.when(c.LastError.Time), ": ", c.LastError.What)
}

func clientShowCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ADDRESS", Short: "show one client: whether it is enrolled, what it missed", Args: cobra.ExactArgs(1),
		Long: `Show one client: how it asks and with which programs, whether it is enrolled and why
that is concluded, its last error, what it asked for and did not get, which names it
used, and the line that runs the doctor on it. Of misses and names it has the newest
100; "casemate missing --client" and "casemate egress --client" list all.`,
		Example: "  casemate client show 10.0.0.21",
		RunE: func(cmd *cobra.Command, args []string) error {
			var c admin.ClientDetails
			err := o.client().call(cmd.Context(), "GET", "clients/show", url.Values{"client": args}, nil, &c)
			if err != nil {
				return err
			}
			return o.print(cmd, c, func(t *table) {
				t.line("client", c.Client.Client.Client)
				if c.Address != "" {
					t.line("address", c.Address)
				}
				t.line("name", cmp.Or(c.Name, "not known"))
				t.line("enrolled", c.Enrolled+": "+c.Why)
				t.line("first seen", t.when(c.First))
				t.line("last seen", t.when(c.Last))
				t.line("asks by", strings.Join(c.Protocols, ", "))
				t.line("programs", cmp.Or(strings.Join(c.Programs, ", "), "-"))
				t.line("bastions", strings.Join(c.Nodes, ", "))
				t.line("last error", cmp.Or(t.lastError(c.Client), "-"))
				for _, m := range c.Missing {
					t.line("missed", fmt.Sprintf("%s %s, last %s", m.Kind, m.Name, t.when(m.Last)))
				}
				for _, e := range c.Egress {
					t.line("used", fmt.Sprintf("%s by %s: %s, last %s", e.Name, e.Kind, e.Verdict, t.when(e.Last)))
				}
				t.line("doctor", c.Doctor)
			})
		},
	}
	o.printsTimes(cmd, admin.ClientDetails{})
	return cmd
}
