package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/content"
	"casemate/bundle/lists"
)

func checkCommand(o *options) *cobra.Command {
	var lists listFlags
	cmd := &cobra.Command{
		Use: "check", Short: "report which listed items are missing", Args: cobra.NoArgs,
		Long: `Report which listed items are missing or different here, as a node would find out:
what is missing, what is stored for other platforms only, which digest differs
from a pinned one, which file fails its checksum, which manifest states a wrong
size, and what works only by a tolerance. Without --platform, an image that is not
stored for all of its platforms is reported with those for which it is. The lists
are those that "casemate bundle create" takes.

Exit code 0: everything is here. 3: something is missing or differs.`,
		Example: `  casemate check --images images.list --files files.list --platform linux/amd64
  casemate missing -o images | casemate check --images -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.inside(cmd.Context(), &lists); err != nil {
				return err
			}
			wanted, sums, err := lists.wanted(cmd)
			if err != nil {
				return err
			}
			var r content.Report
			in := content.CheckRequest{Wanted: *wanted, Platforms: lists.platforms}
			if err := o.client().call(cmd.Context(), "POST", "check", nil, in, &r); err != nil {
				return err
			}
			for i := range r.Findings {
				addChecksums(&r.Findings[i], sums)
			}
			err = o.print(cmd, r, func(t *table) {
				t.header("VERDICT", "KIND", "NAME", "LIST", "DETAIL")
				for _, f := range r.Findings {
					cells := []any{f.Verdict, f.Kind, f.Name, f.Where}
					if words := sentence(f); words != "" {
						cells = append(cells, words)
					}
					t.row(cells...)
				}
				t.line(summary(r))
			})
			if err == nil && r.Missing+r.Differs > 0 {
				n := r.Missing + r.Differs
				err = fmt.Errorf("%d of %s %s missing or different: %w", n, count(r.Asked, "listed item"), are(n),
					errDiffers)
			}
			return err
		},
	}
	lists.add(cmd)
	o.prints(cmd, content.Report{})
	return cmd
}

// inside lets lists be read on a bastion: its domain is known, and documents of releases are stored ones.
func (o *options) inside(ctx context.Context, lists *listFlags) error {
	lists.domain = func() (string, error) {
		var s status
		err := o.client().call(ctx, "GET", "status", nil, nil, &s)
		return s.Domain, err
	}
	for _, r := range slices.Concat(lists.k3s, lists.rke2) {
		if r.Channel != "" {
			return usageError{fmt.Errorf("--%s %s is a channel, and only upstream says which release it has: "+
				"name a version", r.Product, r.Channel)}
		}
	}
	lists.document = func(ctx context.Context, at string) ([]byte, string, error) {
		return storedDocument(ctx, o.client(), at)
	}
	return nil
}

// storedDocument reads a document of a release from the bastion's files.
func storedDocument(ctx context.Context, c *client, at string) (text []byte, end string, err error) {
	resp, err := c.do(ctx, "GET", "files/content", url.Values{"url": {at}}, nil)
	if e := (*apiError)(nil); errors.As(err, &e) && e.status == http.StatusNotFound {
		return nil, "", fmt.Errorf("it is not stored here, so it is unknown what else the release needs: %w",
			errDiffers)
	}
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	return text, resp.Header.Get("Content-Location"), err
}

// addChecksums adds the checksums of bytes that differ from the listed ones.
func addChecksums(f *content.Finding, sums *lists.Checksums) {
	if f.Verdict != content.VerdictChecksum || sums == nil {
		return
	}
	if other := sums.Other(f.Got); other != "" {
		f.Detail = strings.TrimSuffix("it is "+other+"; "+f.Detail, "; ")
	}
}

// sentence returns a finding as a sentence.
func sentence(f content.Finding) string {
	var parts []string
	if f.Detail != "" {
		parts = append(parts, f.Detail)
	}
	if len(f.Platforms) > 0 {
		parts = append(parts, "here for "+strings.Join(f.Platforms, ", "))
	}
	if len(f.Tags) > 0 {
		parts = append(parts, "has "+strings.Join(f.Tags, ", "))
	}
	if f.Want != "" {
		want := "want " + f.Want
		if f.Known != "" {
			want += " (" + f.Known + ")"
		}
		parts = append(parts, want, "here is "+f.Got)
	}
	return strings.Join(parts, "; ")
}

func summary(r content.Report) string {
	s := fmt.Sprintf("%d listed, %d here, %d missing", r.Asked, r.Here, r.Missing)
	if r.Differs > 0 {
		s += fmt.Sprintf(", %d different", r.Differs)
	}
	if r.Optional > 0 {
		s += fmt.Sprintf(", %d optional not here", r.Optional)
	}
	if r.Sparse > 0 {
		s += fmt.Sprintf("; %d of those here not for every platform", r.Sparse)
	}
	if r.Luck > 0 {
		s += fmt.Sprintf("; %d of those here work by luck", r.Luck)
	}
	return s
}

func inventoryCommand(o *options) *cobra.Command {
	var key bool
	cmd := &cobra.Command{
		Use: "inventory", Short: "print a signed list of all stored blobs for bundle create --since",
		Args: cobra.NoArgs,
		Long: `Print a list of all stored blobs as JSON, signed with a key of the cluster. On the
connected side, "casemate bundle create --since" leaves out what is in it. With
--public-key it prints the key that verifies the signature, for --since-key.`,
		Example: "  casemate inventory > inventory.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "inventory"
			if key {
				path = "inventory/key"
			}
			resp, err := o.client().do(cmd.Context(), "GET", path, nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
			return err
		},
	}
	cmd.Flags().BoolVar(&key, "public-key", false, "print the public key instead, PEM")
	oldName(cmd.Flags(), "key", "public-key")
	return cmd
}
