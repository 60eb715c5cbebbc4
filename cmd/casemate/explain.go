package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	explained "casemate/appliance/explain"
)

func nameExplain(o *options) *cobra.Command {
	var kind, client string
	cmd := &cobra.Command{
		Use: "explain NAME", Short: "print what DNS would answer to whom, and why", Args: cobra.ExactArgs(1),
		Long: `Print what this bastion's DNS would answer to a question for NAME, the reasons in
the order in which it decides, and the command that would change a refusal or a
name that does not exist. It is decided by the same code as answers to clients,
and resolvers of dns.forward are asked. Nothing enters the missing book.

An address as NAME means its reverse name. Without --client it is the answer to
a client that may ask.

Exit code 0 for every answer.`,
		Example: `  casemate name explain registry.k8s.io --client 10.0.0.50
  casemate name explain intranet.corp.example --type AAAA`,
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"name": args}
			if kind != "" {
				query.Set("type", kind)
			}
			if client != "" {
				query.Set("client", client)
			}
			var a explained.Answer
			if err := o.client().call(cmd.Context(), "GET", "explain", query, nil, &a); err != nil {
				return err
			}
			return o.print(cmd, a, func(t *table) {
				t.line(fmt.Sprintf("%s %s: %s", a.Name, a.Type, a.Rcode))
				for _, r := range a.Records {
					t.line(r)
				}
				if a.Cut > 0 {
					t.line("and " + count(a.Cut, "more record"))
				}
				for i, why := range a.Why {
					if i == 0 {
						t.line()
					}
					t.line(why)
				}
				if a.Cure != "" {
					t.line()
					t.line("This would change it: " + a.Cure)
				}
				if len(a.Forwarders) > 0 {
					t.line()
					t.header(forwarderHeader...)
					t.forwarders(a.Forwarders)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "type", "", "`TYPE` of the question, like AAAA (default: A; of an address PTR)")
	f.StringVar(&client, "client", "", "`ADDRESS` of the client that would ask")
	o.prints(cmd, explained.Answer{})
	return cmd
}

var forwarderHeader = []any{"ZONE", "RESOLVER", "UP", "ANSWERED", "FAILED", "LATENCY", "LAST ERROR"}

// forwarders adds a row for each resolver.
func (t *table) forwarders(list []explained.Forwarder) {
	for _, f := range list {
		up, latency, last := yes(f.Up), "-", "-"
		if f.Answered+f.Failed == 0 {
			up = "not asked yet"
		}
		if f.LatencyMS > 0 {
			latency = fmt.Sprintf("%.1f ms", f.LatencyMS)
		}
		if f.LastError != "" {
			last = t.when(f.LastFailure) + ": " + f.LastError
		}
		t.row(f.Zone, f.Server, up, f.Answered, f.Failed, latency, last)
	}
}

func nameForwarders(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "forwarders", Short: "list the resolvers of dns.forward and how they are", Args: cobra.NoArgs,
		Long: `List the resolvers that dns.forward names, as this bastion's DNS knows them: whether
they answer, how often they did since DNS started here, how long they need, and
what was wrong last. Each bastion asks them itself.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []explained.Forwarder
			if err := o.client().call(cmd.Context(), "GET", "forwarders", nil, nil, &list); err != nil {
				return err
			}
			return o.printRows(cmd, list,
				"no resolvers: dns.forward is not set, so names that are not here do not exist",
				forwarderHeader, func(t *table) { t.forwarders(list) })
		},
	}
	o.printsTimes(cmd, []explained.Forwarder{})
	return cmd
}
