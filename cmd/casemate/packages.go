package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// ownRepository is a repository of one's own packages.
type ownRepository struct {
	Name   string `json:"name"`
	Format string `json:"format"`
	URL    string `json:"url"`
}

func repoAdd(o *options) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "add a repository for packages of your own", Args: cobra.ExactArgs(1),
		Long: `Add an empty repository for packages of your own, which "casemate package put"
fills. It is served at https://packages.DOMAIN/NAME/, and its metadata is signed
with a key of the cluster, which is made with the first repository. Nodes get the
source and the key with the line of "casemate enroll --repo NAME".`,
		Example: "  casemate repo add tools --format deb",
		RunE: func(cmd *cobra.Command, args []string) error {
			if format == "" {
				return usageError{errors.New("a repository needs a format: --format deb or --format rpm")}
			}
			var r ownRepository
			in := map[string]string{"format": format}
			if err := o.client().call(cmd.Context(), "PUT", "repositories/"+seg(args[0]), nil, in, &r); err != nil {
				return err
			}
			return o.changedTo(cmd, r, fmt.Sprintf("repository %s added: %s/", r.Name, r.URL))
		},
	}
	choice(cmd, &format, "format", "", "`FORMAT` of its packages, required", "", "deb", "rpm")
	o.prints(cmd, ownRepository{})
	return cmd
}

func repoRemove(o *options) *cobra.Command {
	var force bool
	var d *deletion
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"delete"}, Args: cobra.ExactArgs(1),
		Short:             "remove a repository of your own",
		ValidArgsFunction: o.complete(theRepositories),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if force {
				query.Set("force", "true")
			}
			done, err := d.call(cmd, "DELETE", "repositories/"+seg(args[0]), query, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theRepositories, args[0])
			}
			return o.changed(cmd, "repository", args[0], "removed")
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove its packages too")
	d = o.deletes(cmd)
	o.prints(cmd, change{})
	return cmd
}

// repositoryKey is the key that signs the repositories.
type repositoryKey struct {
	Keys []struct {
		Fingerprint string    `json:"fingerprint"`
		Created     time.Time `json:"created"`
		State       string    `json:"state"`
	} `json:"keys"`
	Public string `json:"public"`
}

func repoKey(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key [REPO]", Short: "print the key that signs your repositories", Args: cobra.MaximumNArgs(1),
		Long: `Print the public OpenPGP key that signs the repositories of your own packages, in
ASCII armor. All repositories of the cluster have the same key; while it is being
rotated, both the old and the new one are printed.`,
		Example:           "  casemate repo key > casemate-packages.asc",
		ValidArgsFunction: o.complete(theRepositories),
		RunE: func(cmd *cobra.Command, args []string) error {
			var k repositoryKey
			query := url.Values{}
			if len(args) > 0 {
				query.Set("repository", args[0])
			}
			if err := o.client().call(cmd.Context(), "GET", "repositories/key", query, nil, &k); err != nil {
				return err
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), k)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), k.Public)
			return err
		},
	}
	o.printsText(cmd, "text", repositoryKey{})
	cmd.AddCommand(repoKeyRotate(o))
	return cmd
}

func repoKeyRotate(o *options) *cobra.Command {
	var finish bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "replace the key that signs your repositories", Args: cobra.NoArgs,
		Long: `Make a new key. From then on repositories of DEB packages are signed with both
keys, those of RPM packages still with the old one, so that nodes that have only
the old one go on. When all nodes have the new one, from the line of "casemate
enroll", --finish removes the old key.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var k repositoryKey
			in := map[string]bool{"finish": finish}
			if err := o.client().call(cmd.Context(), "POST", "repositories/key", nil, in, &k); err != nil {
				return err
			}
			if finish {
				return o.changedTo(cmd, k, "the old key is removed")
			}
			return o.changedTo(cmd, k, "there is a new key, and the old one still signs: run the line of casemate "+
				"enroll on every node, then casemate repo key rotate --finish")
		},
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "end the rotation: remove the old key")
	o.prints(cmd, repositoryKey{})
	return cmd
}

// packageInfo is a package of an own repository.
type packageInfo struct {
	Repository string    `json:"repository"`
	Name       string    `json:"name"`
	Version    string    `json:"version"`
	Arch       string    `json:"arch"`
	URL        string    `json:"url"`
	Digest     string    `json:"digest"`
	Size       int64     `json:"size"`
	Time       time.Time `json:"time"`
}

func packageCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list [REPO]", Short: "list the packages of your repositories", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: o.complete(theRepositories),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) > 0 {
				query.Set("repository", args[0])
			}
			var all []packageInfo
			if err := o.client().call(cmd.Context(), "GET", "packages", query, nil, &all); err != nil {
				return err
			}
			header := []any{"REPOSITORY", "PACKAGE", "VERSION", "ARCH", "SIZE", "STORED"}
			return o.printRows(cmd, all, "no packages of your own are stored", header, func(t *table) {
				for _, p := range all {
					t.row(p.Repository, p.Name, p.Version, p.Arch, size(p.Size), t.when(p.Time))
				}
			})
		},
	}
	o.printsTimes(list, []packageInfo{})
	var d *deletion
	remove := &cobra.Command{
		Use: "remove REPO NAME[=VERSION]", Aliases: []string{"delete"}, Args: cobra.ExactArgs(2),
		Short: "remove a package from a repository",
		Long: `Remove a package of all architectures, in one version or in all of them. "casemate
gc" frees the disk space.`,
		Example:           "  casemate package remove tools hello=1.0-1",
		ValidArgsFunction: o.complete(theRepositories),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"package": args[1:]}
			var removed []packageInfo
			done, err := d.call(cmd, "DELETE", "packages/"+seg(args[0]), query, nil, &removed)
			if !done || err != nil {
				return err
			}
			return o.changedTo(cmd, removed, sentences(removed, "removed")...)
		},
	}
	d = o.deletes(remove)
	o.prints(remove, []packageInfo{})
	return group("package", "manage packages of your own", packagePut(o), list, remove)
}

// sentences say what was done to each package.
func sentences(list []packageInfo, done string) (lines []string) {
	for _, p := range list {
		lines = append(lines, fmt.Sprintf("package %s %s %s %s", p.Name, p.Version, p.Arch, done))
	}
	return lines
}

func packagePut(o *options) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "put REPO FILE…", Short: "put packages into a repository", Args: cobra.MinimumNArgs(2),
		Long: `Put DEB or RPM files into a repository, all in one step: a node that updates its
metadata at the same time sees all of them or none. Name, version and
architecture are those in the package. A package that is there with other content
is refused.`,
		Example: "  casemate package put tools ./hello_1.0-1_amd64.deb",
		RunE: func(cmd *cobra.Command, args []string) error {
			// Opened here: the daemon runs as another user in a sandbox and might be unable to.
			var files []*os.File
			defer func() {
				for _, f := range files {
					f.Close()
				}
			}()
			for _, name := range args[1:] {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				files = append(files, f)
				if st, err := f.Stat(); err != nil {
					return err
				} else if st.IsDir() {
					return usageError{fmt.Errorf("%s is a directory: package put takes files", name)}
				}
			}
			var list []packageInfo
			if err := o.putPackages(cmd.Context(), args[0], force, files, &list); err != nil {
				return err
			}
			return o.changedTo(cmd, list, sentences(list, "is in "+args[0])...)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace packages of the same version that have other content")
	o.prints(cmd, []packageInfo{})
	return cmd
}

// putPackages sends the files in one request.
func (o *options) putPackages(ctx context.Context, repo string, force bool, files []*os.File, out any) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	body, to := io.Pipe()
	form := multipart.NewWriter(to)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		for _, f := range files {
			var part io.Writer
			if part, err = form.CreateFormFile("file", filepath.Base(f.Name())); err == nil {
				_, err = io.Copy(part, f)
			}
			if err != nil {
				break
			}
		}
		to.CloseWithError(errors.Join(err, form.Close()))
	}()
	resp, err := o.client().send(ctx, "POST", "packages/"+seg(repo), query, body, form.FormDataContentType())
	body.Close() // the daemon may have answered before it has read everything
	<-done
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decode(resp.Body, out)
}
