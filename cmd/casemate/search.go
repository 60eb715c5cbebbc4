package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/search"
)

func searchCommand(o *options) *cobra.Command {
	var limit int
	var kind string
	cmd := &cobra.Command{
		Use: "search TEXT", Short: "find what is stored by any part of a name or of a digest", Args: cobra.ExactArgs(1),
		Long: `Find what is stored by any part of its name, of at least two characters; upper and
lower case are the same. Names are those of repositories of images, tags, URLs of
files (also packages and charts), DNS records and their values, and imports. From
four hexadecimal digits on, a part of the digest of an image or a file is found as
well; "sha256:" and digits find digests that begin so. The whole digest of a layer
finds the repositories that have it.`,
		Example: `  casemate search coredns
  casemate search sha256:1ff6c18fbef2045a`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usageError{fmt.Errorf("--limit must be a number from 0 on, got %d", limit)}
			}
			hits, more, err := o.search(cmd, args[0], kind, limit)
			if err != nil {
				return err
			}
			none := fmt.Sprintf("nothing matches %q", args[0])
			err = o.printRows(cmd, hits, none, []any{"KIND", "NAME", "DIGEST OR VALUES"}, func(t *table) {
				for _, h := range hits {
					t.row(h.Kind, h.Name, cmp.Or(h.Digest, h.Detail))
				}
			})
			if err == nil && more {
				fmt.Fprintf(cmd.ErrOrStderr(), "there are more: --limit 0 shows all\n")
			}
			return err
		},
	}
	choice(cmd, &kind, "kind", "", "find only this `KIND`, and all of it if TEXT is empty",
		append([]string{""}, search.Kinds()...)...)
	cmd.Flags().IntVar(&limit, "limit", 100, "show at most `N`; 0: all")
	o.prints(cmd, []search.Hit{})
	return cmd
}

// mostHits is the largest page that the daemon answers with.
const mostHits = 1000

// search returns at most limit hits, all if it is 0, and whether there are more.
func (o *options) search(cmd *cobra.Command, text, kind string, limit int) (hits []search.Hit, more bool, err error) {
	query := url.Values{"q": {text}}
	if kind != "" {
		query.Set("kind", kind)
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(min(limit, mostHits)))
	}
	for {
		resp, err := o.client().do(cmd.Context(), "GET", "search", query, nil)
		if err != nil {
			return nil, false, err
		}
		var page []search.Hit
		err = json.NewDecoder(resp.Body).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return nil, false, fmt.Errorf("read the daemon's answer: %w", err)
		}
		hits = append(hits, page...)
		next := nextPage(resp.Header.Get("Link"))
		if limit > 0 && len(hits) >= limit {
			return hits[:limit], next != "" || len(hits) > limit, nil
		}
		if next == "" {
			return hits, false, nil
		}
		query.Set("after", next)
	}
}

// nextPage returns the cursor of the next page in a header Link (RFC 8288), "" if there is none.
func nextPage(link string) string {
	target, _, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Query().Get("after")
}
