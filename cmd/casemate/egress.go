package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/admin"
	"casemate/appliance/egress"
)

func egressCommand(o *options) *cobra.Command {
	var since, client string
	cmd := &cobra.Command{
		Use: "egress", Short: "list which names clients used, and what became of each", Args: cobra.NoArgs,
		Long: `List which names clients used, and what became of each: "answered" from what is
here, "forwarded" to the resolvers of the site (dns.forward), or "refused". This is
the evidence of what left the nodes for the outside: only what was forwarded did.

KIND is dns for questions, tls for names in TLS handshakes, handshake for those
without a request, and http for hosts of requests without TLS. CLASS marks names
that are known: telemetry, time, certificate status, update check, connectivity
check, resolver. A client is an address, or the /64 of an IPv6 address. Other
bastions' part may be 15 minutes old.

What does not pass the bastions is not in the list. Its last lines name these ways,
and "casemate doctor" tries them on a node.`,
		Example: `  casemate egress --since 2026-01-31
  casemate egress --since base --client 10.0.0.0/24 -o csv > egress.csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if since != "" {
				query.Set("since", since)
			}
			if client != "" {
				query.Set("client", client)
			}
			var r admin.Egress
			if err := o.client().call(cmd.Context(), "GET", "egress", query, nil, &r); err != nil {
				return err
			}
			if o.output == "csv" {
				return writeEgress(cmd.OutOrStdout(), r.Entries)
			}
			return o.print(cmd, r, func(t *table) {
				t.header("CLIENT", "KIND", "NAME", "VERDICT", "COUNT", "FIRST", "LAST", "CLASS")
				for _, e := range r.Entries {
					t.row(e.Client, e.Kind, e.Name, e.Verdict, e.Count, t.when(e.First), t.when(e.Last), e.Class)
				}
				if r.Dropped > 0 {
					t.line(fmt.Sprintf("%s dropped because the book was full", count(r.Dropped, "entry")))
				}
				t.line("not seen here: " + strings.Join(r.Unseen, "; "))
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "only names that were used since this `TIME|IMPORT`: 2026-01-31, "+
		"2026-01-31T15:04:05Z, or when an import was made")
	f.StringVar(&client, "client", "", "only clients in this `CIDR`, or the client with this address")
	o.printsTimes(cmd, admin.Egress{}, "csv")
	return cmd
}

// writeEgress writes entries as CSV (RFC 4180), with a header.
func writeEgress(out io.Writer, entries []egress.Entry) error {
	w := csv.NewWriter(out)
	w.Write([]string{"client", "kind", "name", "verdict", "count", "first", "last", "class", "nodes"})
	for _, e := range entries {
		name := e.Name
		if name != "" && strings.ContainsAny(name[:1], "=+-@") { // spreadsheets would take it for a formula
			name = "'" + name
		}
		w.Write([]string{e.Client, e.Kind, name, e.Verdict, strconv.FormatUint(e.Count, 10),
			e.First.UTC().Format(time.RFC3339), e.Last.UTC().Format(time.RFC3339), e.Class, strings.Join(e.Nodes, " ")})
	}
	w.Flush()
	return w.Error()
}
