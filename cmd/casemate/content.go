package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func imageCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list [PREFIX]", Short: "list the images that are held", Args: cobra.MaximumNArgs(1),
		Example: "  casemate image list registry.k8s.io/",
		RunE: func(cmd *cobra.Command, args []string) error {
			var images []struct {
				Name      string `json:"name"`
				Reference string `json:"reference"`
				Digest    string `json:"digest"`
				MediaType string `json:"media_type"`
				Size      int64  `json:"size"`
				Sparse    bool   `json:"sparse"`
			}
			if err := o.client().call(cmd.Context(), "GET", "images", prefix(args), nil, &images); err != nil {
				return err
			}
			return o.print(cmd, images, func(t *table) {
				t.line("IMAGE", "DIGEST", "SIZE", "")
				for _, i := range images {
					note := ""
					if i.Sparse {
						note = "sparse: not all platforms are held"
					}
					t.line(i.Reference, i.Digest, size(i.Size), note)
				}
			})
		},
	}
	o.printable(list)
	remove := &cobra.Command{
		Use: "delete IMAGE", Short: "delete a tag, or with @DIGEST a manifest and its tags, or with neither the repository", Args: cobra.ExactArgs(1),
		Example: "  casemate image delete registry.k8s.io/pause:3.9",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.client().call(cmd.Context(), "DELETE", "images", url.Values{"ref": args}, nil, nil)
		},
	}
	return group("image", "look at the images and delete them", list, remove)
}

func prefix(args []string) url.Values {
	if len(args) == 0 {
		return nil
	}
	return url.Values{"prefix": args[:1]}
}

type fileInfo struct {
	URL    string    `json:"url"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
}

func fileCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list [URL-PREFIX]", Short: "list the files that are held", Args: cobra.MaximumNArgs(1),
		Example: "  casemate file list https://dl.k8s.io/release/",
		RunE: func(cmd *cobra.Command, args []string) error {
			var files []fileInfo
			if err := o.client().call(cmd.Context(), "GET", "files", prefix(args), nil, &files); err != nil {
				return err
			}
			return o.print(cmd, files, func(t *table) {
				t.line("URL", "SIZE", "DIGEST", "SINCE")
				for _, f := range files {
					t.line(f.URL, size(f.Size), f.Digest, when(f.Time))
				}
			})
		},
	}
	o.printable(list)
	var digest string
	put := &cobra.Command{
		Use: "put URL PATH", Short: "put a file under its upstream URL (PATH - reads standard input)", Args: cobra.ExactArgs(2),
		Example: "  casemate file put https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm ./kubeadm",
		RunE: func(cmd *cobra.Command, args []string) error {
			body := cmd.InOrStdin()
			if args[1] != "-" {
				// Opened here: the daemon runs as its own user in a sandbox and might not be able to.
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				if st, err := f.Stat(); err != nil {
					return err
				} else if st.IsDir() {
					return usageError{fmt.Errorf("%s is a directory: file put takes one file", args[1])}
				}
				body = f
			}
			query := url.Values{"url": args[:1]}
			if digest != "" {
				query.Set("digest", digest)
			}
			resp, err := o.client().do(cmd.Context(), "PUT", "files", query, body)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var f fileInfo
			if err := decode(resp.Body, &f); err != nil {
				return err
			}
			return o.print(cmd, f, func(t *table) { t.line(f.URL, size(f.Size), f.Digest) })
		},
	}
	put.Flags().StringVar(&digest, "digest", "", "refuse the file unless it has this digest (sha256:… or sha512:…)")
	o.printable(put)
	remove := &cobra.Command{
		Use: "delete URL", Short: "delete a file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.client().call(cmd.Context(), "DELETE", "files", url.Values{"url": args}, nil, nil)
		},
	}
	return group("file", "look at the files, put them in and delete them", list, put, remove)
}

func originCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the public hosts that are answered for", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var origins []struct {
				Host    string   `json:"host"`
				Aliases []string `json:"aliases"`
				Enabled bool     `json:"enabled"`
				Builtin bool     `json:"builtin"`
				Reason  string   `json:"reason"`
			}
			if err := o.client().call(cmd.Context(), "GET", "origins", nil, nil, &origins); err != nil {
				return err
			}
			return o.print(cmd, origins, func(t *table) {
				t.line("ORIGIN", "ENABLED", "ALIASES", "")
				for _, r := range origins {
					t.line(r.Host, yes(r.Enabled), strings.Join(r.Aliases, " "), r.Reason)
				}
			})
		},
	}
	o.printable(list)
	var aliases []string
	add := &cobra.Command{
		Use: "add HOST", Short: "answer for a public host: DNS, certificate, registry and files", Args: cobra.ExactArgs(1),
		Example: "  casemate origin add charts.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			var r struct {
				Enabled bool   `json:"enabled"`
				Reason  string `json:"reason"`
			}
			if err := o.client().call(cmd.Context(), "PUT", "origins/"+seg(args[0]), nil, map[string]any{"aliases": aliases}, &r); err != nil {
				return err
			}
			if !r.Enabled {
				return fmt.Errorf("%s is stored but not enabled: %s", args[0], r.Reason)
			}
			return nil
		},
	}
	add.Flags().StringSliceVar(&aliases, "alias", nil, "other names of the same host")
	remove := &cobra.Command{
		Use: "remove HOST", Short: "stop answering for a public host; its content stays", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.client().call(cmd.Context(), "DELETE", "origins/"+seg(args[0]), nil, nil, nil)
		},
	}
	return group("origin", "the public hosts that are answered for", list, add, remove)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func nameCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the DNS records that were set", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []struct {
				Name   string   `json:"name"`
				Type   string   `json:"type"`
				Values []string `json:"values"`
				TTL    string   `json:"ttl"`
			}
			if err := o.client().call(cmd.Context(), "GET", "names", nil, nil, &names); err != nil {
				return err
			}
			return o.print(cmd, names, func(t *table) {
				t.line("NAME", "TYPE", "TTL", "VALUES")
				for _, n := range names {
					t.line(n.Name, n.Type, n.TTL, strings.Join(n.Values, " "))
				}
			})
		},
	}
	o.printable(list)
	var ttl time.Duration
	set := &cobra.Command{
		Use: "set NAME TYPE VALUE…", Short: "set a DNS record: A, AAAA, CNAME, TXT or SRV; *.NAME is a wildcard", Args: cobra.MinimumNArgs(3),
		Example: "  casemate name set api.cluster.example A 10.0.0.20 10.0.0.21",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]any{"values": args[2:]}
			if ttl != 0 {
				in["ttl"] = ttl.String()
			}
			return o.client().call(cmd.Context(), "PUT", "names/"+seg(args[0], strings.ToUpper(args[1])), nil, in, nil)
		},
	}
	set.Flags().DurationVar(&ttl, "ttl", 0, "time to live (default: the setting dns.ttl)")
	remove := &cobra.Command{
		Use: "delete NAME [TYPE]", Short: "delete DNS records that were set", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				args[1] = strings.ToUpper(args[1])
			}
			return o.client().call(cmd.Context(), "DELETE", "names/"+seg(args...), nil, nil, nil)
		},
	}
	return group("name", "DNS records of your own", list, set, remove)
}

func gcCommand(o *options) *cobra.Command {
	var dry, now bool
	cmd := &cobra.Command{
		Use: "gc", Short: "delete the blobs that nothing names, while everything goes on", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if dry {
				query.Set("dry_run", "true")
			}
			if now {
				query.Set("now", "true")
			}
			var r struct {
				Blobs  int64 `json:"blobs"`
				Bytes  int64 `json:"bytes"`
				Kept   int64 `json:"kept"`
				DryRun bool  `json:"dry_run"`
			}
			if err := o.client().call(cmd.Context(), "POST", "gc", query, nil, &r); err != nil {
				return err
			}
			return o.print(cmd, r, func(t *table) {
				verb := "deleted"
				if r.DryRun {
					verb = "would delete"
				}
				t.line(fmt.Sprintf("%s %d blobs, %s; %d are kept", verb, r.Blobs, size(r.Bytes), r.Kept))
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted")
	cmd.Flags().BoolVar(&now, "now", false, "do not wait an hour for what was pushed and is not named yet; a push under way may have to be repeated")
	o.printable(cmd)
	return cmd
}

func scrubCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "scrub", Short: "read every blob and compare it with its digest; exit 3 if one is damaged or not here", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r struct {
				Checked int64    `json:"checked"`
				Bytes   int64    `json:"bytes"`
				Damaged []string `json:"damaged"`
				Missing []string `json:"missing"`
				Mended  int      `json:"mended"`
			}
			if err := o.client().call(cmd.Context(), "POST", "scrub", nil, nil, &r); err != nil {
				return err
			}
			err := o.print(cmd, r, func(t *table) {
				t.line(fmt.Sprintf("%d blobs, %s: %d damaged, %d not here", r.Checked, size(r.Bytes), len(r.Damaged), len(r.Missing)))
				if r.Mended > 0 {
					t.line(fmt.Sprintf("%d more were, and are right again: their bytes came from another node", r.Mended))
				}
				for _, d := range r.Damaged {
					t.line(d)
				}
				for _, d := range r.Missing {
					t.line(d + " is not here")
				}
			})
			if err == nil && len(r.Damaged)+len(r.Missing) > 0 {
				err = fmt.Errorf("damaged blobs, importing or pushing them again repairs them: %w", errDiffers)
			}
			return err
		},
	}
	o.printable(cmd)
	return cmd
}

var errNoPassword = errors.New("no password: give it on standard input with --password-stdin, or run this in a terminal")
