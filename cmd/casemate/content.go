package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type imageInfo struct {
	Name      string `json:"name"`
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Sparse    bool   `json:"sparse"`
	Damaged   bool   `json:"damaged,omitempty"`
}

func imageCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list [PREFIX]", Short: "list the stored images", Args: cobra.MaximumNArgs(1),
		Example:           "  casemate image list registry.k8s.io/",
		ValidArgsFunction: o.complete(theImages),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := noScheme(args...); err != nil {
				return err
			}
			var images []imageInfo
			if err := o.client().call(cmd.Context(), "GET", "images", prefix(args), nil, &images); err != nil {
				return err
			}
			none := o.nothingMatches(cmd, "images", theImages, prefix(args).Get("prefix"), len(images) == 0)
			return o.printRows(cmd, images, none, []any{"IMAGE", "DIGEST", "SIZE", "NOTE"}, func(t *table) {
				for _, i := range images {
					var notes []string
					if i.Sparse {
						notes = append(notes, "sparse: not all of its platforms are stored")
					}
					if i.Damaged {
						notes = append(notes, "its manifest is damaged or lost")
					}
					t.row(i.Reference, i.Digest, size(i.Size), strings.Join(notes, "; "))
				}
			})
		},
	}
	o.prints(list, []imageInfo{})
	var d *deletion
	remove := &cobra.Command{
		Use: "delete IMAGE", Aliases: []string{"remove"}, Args: cobra.ExactArgs(1),
		Short: "delete a tag, a manifest with all its tags, or a repository",
		Long: `Delete what IMAGE names: with :TAG that tag, with @DIGEST a manifest and all its
tags, with neither the whole repository. "casemate gc" frees the disk space.`,
		Example:           "  casemate image delete registry.k8s.io/pause:3.9",
		ValidArgsFunction: o.complete(theImages),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := noScheme(args[0]); err != nil {
				return err
			}
			done, err := d.call(cmd, "DELETE", "images", url.Values{"ref": args}, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theImages, args[0])
			}
			return o.changed(cmd, "image", args[0], "deleted")
		},
	}
	d = o.deletes(remove)
	o.prints(remove, change{})
	return group("image", "list, show and delete stored images", list, imageShowCommand(o), remove)
}

// noScheme refuses the name of an image that is written like a URL: images are kept and listed without a scheme.
func noScheme(names ...string) error {
	for _, n := range names {
		if _, name, ok := strings.Cut(n, "://"); ok {
			return usageError{fmt.Errorf("an image is written without a scheme: %s, got %q", name, n)}
		}
	}
	return nil
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
		Use: "list [URL-PREFIX]", Short: "list the stored files", Args: cobra.MaximumNArgs(1),
		Example:           "  casemate file list https://dl.k8s.io/release/",
		ValidArgsFunction: o.complete(theFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			// Files are kept under their URLs, so a prefix that begins with a host is one behind a scheme.
			if len(args) > 0 && strings.Contains(args[0], ".") && !strings.Contains(args[0], "://") {
				args[0] = "https://" + args[0]
			}
			var files []fileInfo
			if err := o.client().call(cmd.Context(), "GET", "files", prefix(args), nil, &files); err != nil {
				return err
			}
			none := o.nothingMatches(cmd, "files", theFiles, prefix(args).Get("prefix"), len(files) == 0)
			return o.printRows(cmd, files, none, []any{"URL", "SIZE", "DIGEST", "STORED"}, func(t *table) {
				for _, f := range files {
					t.row(f.URL, size(f.Size), f.Digest, t.when(f.Time))
				}
			})
		},
	}
	o.printsTimes(list, []fileInfo{})
	var d *deletion
	remove := &cobra.Command{
		Use: "delete URL", Aliases: []string{"remove"}, Short: "delete a file", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.complete(theFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := d.call(cmd, "DELETE", "files", url.Values{"url": args}, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theFiles, args[0])
			}
			return o.changed(cmd, "file", args[0], "deleted")
		},
	}
	d = o.deletes(remove)
	o.prints(remove, change{})
	return group("file", "list, show, add and delete stored files", list, fileShowCommand(o), filePut(o), remove)
}

func filePut(o *options) *cobra.Command {
	var digest string
	put := &cobra.Command{
		Use: "put URL PATH", Short: "store a file under its upstream URL", Args: cobra.ExactArgs(2),
		Long:    "Store the file PATH under its upstream URL. PATH - reads standard input.",
		Example: "  casemate file put https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm ./kubeadm",
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Contains(args[1], "://") && !strings.Contains(args[0], "://") {
				return usageError{fmt.Errorf("the URL comes first: casemate file put %s %s", args[1], args[0])}
			}
			body := cmd.InOrStdin()
			if args[1] != "-" {
				// Opened here: the daemon runs as another user in a sandbox and might be unable to.
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
	put.Flags().StringVar(&digest, "digest", "", "refuse the file unless it has this `DIGEST`, sha256:… or sha512:…")
	o.prints(put, fileInfo{})
	return put
}

type originInfo struct {
	Host    string   `json:"host"`
	Aliases []string `json:"aliases"`
	Enabled bool     `json:"enabled"`
	Builtin bool     `json:"builtin"`
	Reason  string   `json:"reason,omitempty"`
}

func originCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the origins", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var origins []originInfo
			if err := o.client().call(cmd.Context(), "GET", "origins", nil, nil, &origins); err != nil {
				return err
			}
			return o.printRows(cmd, origins, "no origins", []any{"ORIGIN", "ENABLED", "ALIASES", "NOTE"},
				func(t *table) {
					for _, r := range origins {
						t.row(r.Host, yes(r.Enabled), strings.Join(r.Aliases, " "), r.Reason)
					}
				})
		},
	}
	o.prints(list, []originInfo{})
	var aliases []string
	add := &cobra.Command{
		Use: "add HOST", Short: "add an origin: answer for a public host", Args: cobra.ExactArgs(1),
		Long: `Answer for a public host: its DNS name, TLS certificate, registry and files.
The CA's root certificate has to permit the host; if it does not, nothing is
stored, and the error names the "casemate ca rotate" that makes a root that does.`,
		Example: "  casemate origin add charts.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			var r originInfo
			in := map[string]any{"aliases": aliases}
			if err := o.client().call(cmd.Context(), "PUT", "origins/"+seg(args[0]), nil, in, &r); err != nil {
				return err
			}
			return o.changedTo(cmd, r, fmt.Sprintf("origin %s added", r.Host))
		},
	}
	add.Flags().StringSliceVar(&aliases, "alias", nil, "another `NAME` of the same host; may be repeated")
	o.prints(add, originInfo{})
	var d *deletion
	remove := &cobra.Command{
		Use: "remove HOST", Aliases: []string{"delete"}, Args: cobra.ExactArgs(1),
		Short:             "remove an origin; its content stays stored",
		ValidArgsFunction: o.complete(theOrigins),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := d.call(cmd, "DELETE", "origins/"+seg(args[0]), nil, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theOrigins, args[0])
			}
			return o.changed(cmd, "origin", args[0], "removed")
		},
	}
	d = o.deletes(remove)
	o.prints(remove, change{})
	return group("origin", "manage the public hosts that Casemate answers for", list, add, remove)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type nameInfo struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Values []string `json:"values"`
	TTL    string   `json:"ttl,omitempty"`
}

func nameCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list your DNS records", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []nameInfo
			if err := o.client().call(cmd.Context(), "GET", "names", nil, nil, &names); err != nil {
				return err
			}
			return o.printRows(cmd, names, "no DNS records are set", []any{"NAME", "TYPE", "TTL", "VALUES"},
				func(t *table) {
					for _, n := range names {
						ttl := n.TTL
						if ttl == "" {
							ttl = "(default)"
						}
						t.row(n.Name, n.Type, ttl, strings.Join(n.Values, " "))
					}
				})
		},
	}
	o.prints(list, []nameInfo{})
	var ttl time.Duration
	set := &cobra.Command{
		Use: "set NAME TYPE VALUE…", Short: "set a DNS record", Args: cobra.MinimumNArgs(3),
		Long: `Set the DNS record of a name and type: A, AAAA, CNAME, TXT or SRV. It replaces
the record that was set before. *.NAME is a wildcard.`,
		Example: "  casemate name set api.cluster.example A 10.0.0.20 10.0.0.21",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]any{"values": args[2:]}
			if ttl != 0 {
				in["ttl"] = ttl.String()
			}
			kind := strings.ToUpper(args[1])
			if err := o.client().call(cmd.Context(), "PUT", "names/"+seg(args[0], kind), nil, in, nil); err != nil {
				return err
			}
			return o.changed(cmd, "DNS record", args[0]+" "+kind, "set")
		},
	}
	durationVar(set.Flags(), &ttl, "ttl", "`TIME` to live (default: the setting dns.ttl)")
	o.prints(set, change{})
	var d *deletion
	remove := &cobra.Command{
		Use: "delete NAME [TYPE]", Aliases: []string{"remove"}, Args: cobra.RangeArgs(1, 2),
		Short:             "delete your DNS records of a name",
		ValidArgsFunction: o.complete(theNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, what := args[0], args[0]
			if len(args) == 2 {
				args[1] = strings.ToUpper(args[1])
				what += " " + args[1]
			}
			done, err := d.call(cmd, "DELETE", "names/"+seg(args...), nil, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theNames, name)
			}
			return o.changed(cmd, "DNS record", what, "deleted")
		},
	}
	d = o.deletes(remove)
	o.prints(remove, change{})
	return group("name", "manage DNS records of your own, and explain what DNS answers", list, set, remove,
		nameExplain(o), nameForwarders(o))
}
