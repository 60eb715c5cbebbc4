package main

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"casemate/appliance/admin"
)

func imageShowCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show IMAGE", Short: "show one image: what it is, and who brought it", Args: cobra.ExactArgs(1),
		Long: `Show one image, NAME:TAG or NAME@DIGEST: its digest, size and platforms, when it was
stored, by whom and with which imports, when a client last asked for its manifest, and
what refers to it. Who brought it is from the audit log; nothing is known of what was
stored before there was one. The last pull is a sample: it has the pulls of this node at
once and those of others after up to an hour, and nodes forget the least recent ones.`,
		Example:           "  casemate image show registry.k8s.io/pause:3.10",
		ValidArgsFunction: o.complete(theImages),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := noScheme(args...); err != nil {
				return err
			}
			var i admin.ImageDetails
			err := o.client().call(cmd.Context(), "GET", "images/show", url.Values{"ref": args}, nil, &i)
			if err != nil {
				return o.suggest(cmd, err, theImages, args[0])
			}
			return o.print(cmd, i, func(t *table) {
				t.line("image", i.Reference)
				t.line("digest", i.Digest)
				t.line("type", cmp.Or(i.MediaType, "-"))
				t.line("size", size(i.Size))
				t.line("platforms", cmp.Or(strings.Join(i.Platforms, ", "), "-"))
				if len(i.Absent) > 0 {
					t.line("not here", strings.Join(i.Absent, ", "))
				}
				if i.Damaged {
					t.line("damaged", "its manifest is damaged or lost")
				}
				t.provenance(i.Provenance)
				t.line("tags", cmp.Or(strings.Join(i.Tags, ", "), "-"))
				t.manifest(i)
			})
		},
	}
	o.printsTimes(cmd, admin.ImageDetails{})
	return cmd
}

func fileShowCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show URL", Short: "show one file: what it is, and who brought it", Args: cobra.ExactArgs(1),
		Long: `Show one file: its digest and size, when it was stored, by whom and with which imports,
when a client last read it, and what redirects to it. Who brought it is from the audit
log; nothing is known of what was stored before there was one. The last pull is a
sample: it has the pulls of this node at once and those of others after up to an hour,
and nodes forget the least recent ones.`,
		Example:           "  casemate file show https://dl.k8s.io/release/v1.32.5/bin/linux/amd64/kubeadm",
		ValidArgsFunction: o.complete(theFiles),
		RunE: func(cmd *cobra.Command, args []string) error {
			var f admin.FileDetails
			err := o.client().call(cmd.Context(), "GET", "files/show", url.Values{"url": args}, nil, &f)
			if err != nil {
				return o.suggest(cmd, err, theFiles, args[0])
			}
			return o.print(cmd, f, func(t *table) {
				t.line("file", f.URL)
				t.line("digest", f.Digest)
				t.line("size", size(f.Size))
				t.provenance(f.Provenance)
				for _, from := range f.Redirects {
					t.line("redirect", from)
				}
			})
		},
	}
	o.printsTimes(cmd, admin.FileDetails{})
	return cmd
}

// manifest adds what the manifest of an image states, and what is attached to it.
func (t *table) manifest(i admin.ImageDetails) {
	if i.Platform != "" {
		t.line("platform", i.Platform)
	}
	if !i.Created.IsZero() {
		t.line("created", t.when(i.Created))
	}
	if i.ArtifactType != "" {
		t.line("artifact", i.ArtifactType)
	}
	if i.Subject != "" {
		t.line("subject", i.Subject)
	}
	for _, c := range i.Manifests {
		t.line("manifest", c.Digest+" "+cmp.Or(c.Platform, c.MediaType)+absent(c))
	}
	for _, l := range i.Layers {
		t.line("layer", l.Digest+" "+size(l.Size)+absent(l))
	}
	told := map[string]bool{}
	for _, at := range i.Attached {
		told[at.Digest] = true
		t.line(cmp.Or(at.Kind, "referrer"), strings.TrimSpace(at.Digest+" "+cmp.Or(at.Tag, at.ArtifactType)))
	}
	for _, d := range i.Referrers {
		if !told[d] {
			t.line("referrer", d)
		}
	}
	if i.More {
		t.line("more", "the first 1000 layers or manifests are shown, and 100 of what is attached")
	}
}

// absent marks content that is not stored.
func absent(c admin.Content) string {
	if c.Stored {
		return ""
	}
	return ", not here"
}

// provenance adds who brought something, and when it was last in use.
func (t *table) provenance(p admin.Provenance) {
	t.line("stored", t.when(p.Stored))
	if e := p.Event; e != nil {
		by := actorOf(*e)
		if e.From != "" {
			by += " from " + e.From
		}
		t.line("by", by+", "+e.Verb)
	} else {
		t.line("by", "unknown")
	}
	t.line("imports", cmp.Or(strings.Join(p.Imports, ", "), "-"))
	if pull := p.LastPull; pull != nil {
		t.line("last pull", t.when(pull.Time)+", node "+pull.Node)
	} else {
		t.line("last pull", "not known")
	}
}
