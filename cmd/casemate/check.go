package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/content"
	"casemate/bundle/lists"
)

func checkCommand(o *options) *cobra.Command {
	var lists listFlags
	var repos repositoryFlags
	var py pythonFlags
	cmd := &cobra.Command{
		Use: "check", Short: "report which listed items are missing", Args: cobra.NoArgs,
		Long: `Report which listed items are missing or different here, as a node would find out:
what is missing, what is stored for other platforms only, which digest differs
from a pinned one, which file fails its checksum, which manifest states a wrong
size, and what works only by a tolerance. Without --platform, an image that is not
stored for all of its platforms is reported with those for which it is. The lists
are those that "casemate bundle create" takes.

With --packages and the sources of nodes (--apt, --dnf) it reports which packages a
node cannot install from what is stored here. It reads dependencies from the stored
indices, by the rules of "casemate bundle create", and checks the signatures of the
repositories with the keys of --keyring.

With --transcript it reports what a rehearsal was answered with and is not here: the
images and files of its transcript, with the digests that were used. Nothing is asked
over the network; "casemate replay" does that.

Exit code 0: everything is here. 3: something is missing or differs.`,
		Example: `  casemate check --images images.list --files files.list --platform linux/amd64
  casemate missing -o images | casemate check --images -
  casemate check --transcript debian12.tar
  casemate check --apt debian.sources --keyring debian-archive-keyring.gpg --packages nodes.list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.inside(cmd.Context(), &lists); err != nil {
				return err
			}
			if err := repos.check(&lists); err != nil {
				return err
			}
			stored := &storedContent{o.client()}
			lists.repositories = repos.checker(cmd, &lists, stored)
			var err error
			if lists.python, err = py.checker(cmd, &lists, stored); err != nil {
				return err
			}
			wanted, sums, err := lists.wanted(cmd)
			if err != nil {
				return err
			}
			r := content.Report{Findings: []content.Finding{}}
			if asks(wanted) {
				in := content.CheckRequest{Wanted: *wanted, Platforms: lists.platforms}
				if err := o.client().call(cmd.Context(), "POST", "check", nil, in, &r); err != nil {
					return err
				}
			}
			for i := range r.Findings {
				addChecksums(&r.Findings[i], sums)
			}
			if err := repos.complete(cmd.Context(), &r, wanted, stored); err != nil {
				return err
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
	cmd.Flags().StringArrayVar(&lists.transcripts, "transcript", nil,
		"transcript `FILE` of a rehearsal, or a bundle with one; may be repeated")
	repos.add(cmd, &lists)
	py.add(cmd, &lists)
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
	stored := &storedContent{o.client()}
	lists.document = func(ctx context.Context, at string) ([]byte, string, error) {
		text, end, err := stored.Page(ctx, at, maxDocument)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("it is not stored here, so it is unknown what else the release needs: %w", errDiffers)
		}
		return text, end, err
	}
	return nil
}

// asks reports whether the daemon has something to look for.
func asks(w *lists.Wanted) bool {
	return len(w.Images)+len(w.Files)+len(w.Charts)+len(w.Git)+len(w.Redirects) > 0
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
