package main

import (
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/series"
	"casemate/appliance/totals"
)

func trafficCommand(o *options) *cobra.Command {
	var span string
	cmd := &cobra.Command{
		Use: "traffic", Short: "show what clients asked this node for in the last hour or day", Args: cobra.NoArgs,
		Long: `Show what clients asked this node for: requests of images and files, the bytes that
were sent for them, misses, and answers of DNS by their response code. Each row is
a minute of the last hour, or a quarter of an hour of the last day; the newest is
not over. Requests of operators and noise do not count. The node remembers since it
was started.`,
		Example: "  casemate traffic --span day",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r series.Report
			query := url.Values{"span": {span}}
			if err := o.client().call(cmd.Context(), "GET", "series", query, nil, &r); err != nil {
				return err
			}
			header, steps := []any{"FROM"}, 0
			for _, s := range r.Series {
				header = append(header, strings.ToUpper(strings.ReplaceAll(s.Name, "_", " ")))
				steps = len(s.Values)
			}
			return o.printRows(cmd, r, "nothing is known yet", header, func(t *table) {
				for i := range steps {
					row := []any{t.when(r.Start.Add(time.Duration(i*r.StepSeconds) * time.Second))}
					for _, s := range r.Series {
						if s.Unit == "bytes" {
							row = append(row, size(int64(s.Values[i])))
						} else {
							row = append(row, s.Values[i])
						}
					}
					t.row(row...)
				}
			})
		},
	}
	choice(cmd, &span, "span", "", "`SPAN` to show", series.Hour, series.Day)
	o.printsTimes(cmd, series.Report{})
	return cmd
}

func contentCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "content", Short: "show how much is stored of each origin", Args: cobra.NoArgs,
		Long: `Show how much is stored of each origin: images (by tag), files, and the size of
what they need, each blob once. What two origins share counts for both. Images that
were pushed under a name of your own have no origin.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []totals.Origin
			if err := o.client().call(cmd.Context(), "GET", "content", nil, nil, &list); err != nil {
				return err
			}
			header := []any{"ORIGIN", "IMAGES", "FILES", "SIZE"}
			return o.printRows(cmd, list, "nothing is stored", header, func(t *table) {
				for _, c := range list {
					origin := c.Origin
					if origin == "" {
						origin = "(none)"
					}
					t.row(origin, c.Images, c.Files, size(c.Bytes))
				}
			})
		},
	}
	o.prints(cmd, []totals.Origin{})
	return cmd
}
