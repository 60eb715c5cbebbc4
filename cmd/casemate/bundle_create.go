package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"casemate/bundle"
	"casemate/bundle/collect"
	"casemate/bundle/format"
	"casemate/bundle/lists"
	"casemate/bundle/signing"
)

// created is the summary of bundle create.
type created struct {
	Bundle  string   `json:"bundle"` // the digest of the index document
	Files   []string `json:"files"`  // the written files
	Written int64    `json:"written"`
	Images  int      `json:"images"`
	// Untagged are manifests without a tag: platforms of an index, signatures, images requested by digest.
	Untagged int   `json:"untagged"`
	URLs     int   `json:"urls"`
	Blobs    int   `json:"blobs"` // blobs in the bundle
	Bytes    int64 `json:"bytes"` // of the blobs
	// Omitted are blobs that the inventory lists.
	Omitted      int    `json:"omitted"`
	OmittedBytes int64  `json:"omitted_bytes"`
	Fetched      int64  `json:"fetched"` // bytes over the network; with --dry-run an estimate
	Signer       string `json:"signer,omitempty"`
	DryRun       bool   `json:"dry_run"`
	// Sizes are the sizes of the names, with --dry-run; shared content is counted for each name.
	Sizes []nameSize `json:"sizes,omitempty"`
	// Suites are the suites of package repositories.
	Suites []suiteRead `json:"suites,omitempty"`
	Notes  []string    `json:"notes"`
	// Absent are the names that could not be fetched, with --partial.
	Absent []absentName `json:"absent,omitempty"`
}

type absentName struct {
	Name  string `json:"name"`
	Where string `json:"where,omitempty"` // FILE:LINE of the list
	Why   string `json:"why"`
}

type nameSize struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// Why says why a package of an operating system is collected.
	Why string `json:"why,omitempty"`
}

func bundleCreate(o *options) *cobra.Command {
	var (
		lists                 listFlags
		repos                 repositoryFlags
		py                    pythonFlags
		since, sinceKey, sign string
		split                 int64
		opt                   collect.Options
		quiet, force          bool
		stored                storedFlags
	)
	cmd := &cobra.Command{
		Use: "create FILE", Short: "collect listed content into a bundle, on the connected side",
		Args: cobra.ExactArgs(1),
		Long: `Collect listed content into a bundle, on the connected side. Neither a daemon nor
root is needed. Images keep their digests, and files keep the URLs that were asked
for. Everything is fetched from its origin, with the credentials of Docker's config
and the proxies of the environment, and verified.

A list has one name per line, and comments after #; - reads standard input. All
invalid lines are reported before anything is fetched. What was fetched is kept in
a cache, so a second run, or one after an interruption, fetches only the rest.
SOURCE_DATE_EPOCH sets the date that is written into the bundle.

If one name cannot be fetched, the command fails after it has fetched everything
else, and there is no bundle. --exclude takes names out of the lists. With
--partial the bundle is written without the names that could not be fetched; they
are listed in it and on standard error, and the exit code is 3. Signatures and
other referrers that cannot be fetched never fail an image: they are left out with
a note.

With --from-cluster, on a bastion, nothing is fetched: the bundle is made of what is
stored there, for another cluster. It contains imports (--import), lists, or
everything that clients get (--everything), with unchanged digests.

With --rehearsal it is made of what a rehearsal has fetched, running or stopped, and
nothing is fetched again. Several rehearsals, of several distributions or roles, go
into one bundle if no name has different content in two of them.

FILE must not exist, unless --force is given. FILE may be - for standard output;
messages about the bundle go to standard error then.

With --split the bundle is written as FILE.001, FILE.002, …, each of which can be
verified and imported by itself. SIZE is a number of bytes, or has a unit: K, M, G,
T (or KiB, …; powers of 1024) or KB, MB, GB, TB (powers of 1000).`,
		Example: `  casemate bundle create cluster.tar --images images.list --files files.list --sign office.key
  casemate bundle create cluster.tar --kubespray ./kubespray --kubespray-inventory ./inventory/mycluster --split 4GiB
  casemate bundle create next.tar --images missing.list --since inventory.json
  casemate bundle create debian.tar --apt debian.sources --keyring debian-archive-keyring.gpg --packages nodes.list
  casemate bundle create python.tar --python pinned.txt --python-index https://HOST/simple/ --python-version 3.11
  casemate bundle create rocky.tar --dnf rocky.repo --dnf-var releasever=9 --packages nodes.list
  casemate bundle create copy.tar --from-cluster --everything --since inventory.json --sign office.key
  casemate bundle create nodes.tar --rehearsal ./debian12 --rehearsal ./rocky9 --sign office.key
  casemate bundle create base.tar --from-cluster --import base
  casemate bundle create - --images images.list --partial | ssh bastion casemate import - --name images`,
		RunE: func(cmd *cobra.Command, args []string) error {
			w := format.WriteOptions{Split: split}
			var err error
			if args[0] == "-" {
				if err := pipeable(cmd, w.Split, opt.DryRun); err != nil {
					return err
				}
			}
			if w.Key, err = signingKey(sign); err != nil {
				return err
			}
			if err := stored.check(cmd); err != nil {
				return err
			}
			if opt.Now, err = clock(); err != nil {
				return err
			}
			domain, err := leaveOut(&opt, since, sinceKey)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if args[0] == "-" && !opt.DryRun {
				cmd.SetOut(cmd.ErrOrStderr()) // for the summary
			}
			to := target{args[0], out, force}
			if stored.from {
				return o.createStored(cmd, stored, &lists, to, opt, w, quiet)
			}
			lists.domain = func() (string, error) { return domain, nil } // "" if unknown
			lists.document = func(ctx context.Context, url string) ([]byte, string, error) {
				return collect.Document(ctx, url, maxDocument, opt)
			}
			if err := repos.check(&lists); err != nil {
				return err
			}
			lists.repositories = repos.resolver(cmd, &lists, &opt)
			if lists.python, err = py.finder(cmd, &lists, &opt); err != nil {
				return err
			}
			wanted, sums, err := lists.wanted(cmd)
			if err != nil {
				return err
			}
			opt.Platforms = lists.platforms
			if sums != nil {
				opt.Other = sums.Other
			}
			m := newMeter(cmd, quiet)
			res, err := create(cmd.Context(), m, to, wanted, opt, w)
			m.close()
			if err == nil {
				repos.describe(res)
			}
			if err != nil {
				err = howToSkip(err)
				return interrupted(cmd.Context(), err,
					"the fetched content is kept; run the same command again to resume")
			}
			return o.printCreated(cmd, res, "could not be fetched")
		},
	}
	lists.add(cmd)
	stored.add(cmd)
	stored.fetches(cmd, func() {
		repos.add(cmd, &lists)
		py.add(cmd, &lists)
	})
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "leave out the blobs in this inventory `FILE` (casemate inventory)")
	f.StringVar(&sinceKey, "since-key", "", "public `KEY` of the cluster: refuse an inventory that it has not signed")
	f.StringVar(&sign, "sign", "", "sign with the private key in `FILE` (casemate bundle keygen)")
	sizeVar(f, &split, "split", "write parts of at most `SIZE`, like 4GiB or 650MB")
	f.BoolVar(&opt.DryRun, "dry-run", false, "report what would be collected and how large it is; write no bundle")
	stored.fetches(cmd, func() {
		f.StringVar(&opt.Cache, "cache", "",
			"keep what was fetched in this `DIRECTORY` (default: in the user's cache directory)")
		f.IntVar(&opt.Parallel, "parallel", 4, "fetch `N` things at once")
		f.StringArrayVar(&opt.RegistryOverrides, "registry-override", nil,
			"use a mirror instead of a registry, `UPSTREAM=MIRROR`, like docker.io=artifactory.example/docker-remote; "+
				"names stay those of the upstream; may be repeated, the longest UPSTREAM wins")
		f.BoolVar(&opt.NoReferrers, "no-signatures", false, "leave out signatures, attestations and SBOMs")
	})
	f.BoolVar(&opt.KeepGoing, "partial", false, "write the bundle without the names that cannot be fetched; exit "+
		"code 3")
	oldName(f, "keep-going", "partial")
	f.BoolVar(&force, "force", false, "replace a bundle that exists")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	o.prints(cmd, &created{})
	cmd.MarkFlagFilename("since", "json")
	cmd.MarkFlagFilename("since-key", "pub", "pem")
	cmd.MarkFlagFilename("sign", "key", "pem")
	cmd.MarkFlagDirname("cache")
	sizes := []string{"650MB", "4GB", "4GiB", "16GB"}
	cmd.RegisterFlagCompletionFunc("split", cobra.FixedCompletions(sizes, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// printCreated prints the summary. why says what is wrong with the names that are absent.
func (o *options) printCreated(cmd *cobra.Command, res *created, why string) error {
	for _, a := range res.Absent {
		fmt.Fprintln(cmd.ErrOrStderr(), "absent:", strings.TrimPrefix(a.Where+": "+a.Name+": "+a.Why, ": "))
	}
	err := o.print(cmd, res, func(t *table) { showCreated(t, res) })
	if n := len(res.Absent); err == nil && n > 0 {
		err = fmt.Errorf("%d of the listed names %s, the bundle is without them: %w", n, why, errDiffers)
	}
	return err
}

// howToSkip adds to an error about names that cannot be fetched how to create the bundle without them.
func howToSkip(err error) error {
	var failed *collect.Error
	if !errors.As(err, &failed) || len(failed.Failed) == 0 {
		return err
	}
	name, without := failed.Failed[0].Name, ""
	if len(failed.Failed) < failed.Names {
		without = "--partial writes the bundle without them; "
	}
	if strings.HasPrefix(name, "package ") {
		return fmt.Errorf("%w\n%stake its line out of the list of packages, or add the source that has it with --apt",
			err, without)
	}
	if strings.HasPrefix(name, "python package ") {
		return fmt.Errorf("%w\n%stake its line out of the requirements", err, without)
	}
	if strings.ContainsAny(name, " ?&*") { // of a chart, of a URL
		name = "'" + name + "'"
	}
	return fmt.Errorf("%w\n%s--exclude %s leaves that name out; \"casemate missing --forget %s\" on a bastion keeps "+
		"it "+
		"off the next list", err, without, name, name)
}

// maxDocument is the most of a list of a release that is read, in bytes.
const maxDocument = 8 << 20

// pipeable looks whether a bundle can go to standard output.
func pipeable(cmd *cobra.Command, split int64, dry bool) error {
	out, isFile := cmd.OutOrStdout().(*os.File)
	switch {
	case split > 0:
		return usageError{errors.New("--split makes files: name one instead of -")}
	case !dry && isFile && term.IsTerminal(int(out.Fd())):
		return usageError{errors.New("standard output (-) is a terminal: name a file, or send the bundle into a pipe")}
	}
	return nil
}

// target is where a bundle goes: a file, or out if that is called -.
type target struct {
	file  string
	out   io.Writer
	force bool // replace a file that exists
}

// create collects and writes.
func create(ctx context.Context, m *meter, to target, wanted *lists.Wanted, opt collect.Options,
	w format.WriteOptions) (*created, error) {
	if err := to.check(opt.DryRun, w.Split > 0); err != nil {
		return nil, err
	}
	opt.Progress, opt.Log = &collecting{meter: m}, m.log()
	c, err := collect.Collect(ctx, wanted, opt)
	if err != nil {
		return nil, err
	}
	defer c.Close() // of a cache that was only read since
	m.clear()
	res := summarize(c.Index, opt.DryRun, w.Key)
	res.Fetched, res.Notes = c.Fetched, notNil(c.Notes)
	for _, a := range c.Absent {
		res.Absent = append(res.Absent, absentName{a.Name, a.Where, a.Err.Error()})
	}
	if opt.DryRun {
		return res, nil
	}
	return res, to.write(ctx, m, res, c.Index, c.Open, w)
}

// summarize counts what an index has.
func summarize(ix *bundle.Index, dry bool, key ed25519.PrivateKey) *created {
	res := &created{URLs: len(ix.Files), DryRun: dry, Notes: []string{}, Files: []string{}}
	res.Images, res.Untagged = tagged(ix)
	for _, b := range ix.Blobs {
		if b.Omitted {
			res.Omitted++
			res.OmittedBytes += b.Size
		} else {
			res.Blobs++
			res.Bytes += b.Size
		}
	}
	if key != nil {
		res.Signer = signing.KeyName(key.Public().(ed25519.PublicKey))
	}
	if !dry {
		return res
	}
	for _, i := range ix.Images {
		res.Sizes = append(res.Sizes, nameSize{Name: imageName(i), Size: i.Size})
	}
	for _, f := range ix.Files {
		res.Sizes = append(res.Sizes, nameSize{Name: f.URL, Size: f.Size})
		if f.Digest == "" {
			res.Bytes += max(f.Size, 0) // it is among the blobs once somebody knows its digest
		}
	}
	return res
}

// write writes the bundle, and completes its summary.
func (to target) write(ctx context.Context, m *meter, res *created, ix *bundle.Index,
	open func(digest string) (io.ReadCloser, error), w format.WriteOptions) error {
	g := m.start("writing", res.Bytes)
	w.Progress = func(done, total int64) { g.set("writing", done, total) }
	if err := ix.DropCredentials(); err != nil {
		return err
	}
	if to.file == "-" {
		counted := &countingWriter{w: to.out}
		res.Files = []string{"-"}
		if err := format.WriteTo(ctx, counted, ix, open, w); err != nil {
			return fmt.Errorf("the bundle on standard output is cut off: %w", err)
		}
		res.Written = counted.n
	} else {
		files, err := format.Write(ctx, to.file, ix, open, w)
		if err != nil {
			return err
		}
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				res.Written += st.Size()
			}
		}
		res.Files = files
	}
	g.end()
	document, err := ix.Encode()
	res.Bundle = fmt.Sprintf("sha256:%x", sha256.Sum256(document))
	return err
}

// check looks whether a bundle can be written there, unless nothing will be.
func (to target) check(dry, split bool) error {
	if dry || to.file == "-" {
		return nil
	}
	return writable(to, split)
}

// writable looks whether a bundle can be written there, before hours are spent on fetching what goes into it.
func writable(to target, split bool) error {
	file := to.file
	if info, err := os.Stat(file); err == nil && !split && !info.Mode().IsRegular() {
		return usageError{fmt.Errorf("%s is there and no regular file: name another one", file)}
	}
	if name, err := format.ExistingFile(file, split); err != nil {
		return fmt.Errorf("the bundle cannot be written to %s: %w", file, err)
	} else if name != "" && !to.force {
		return fmt.Errorf("%s exists: name another file, or give --force to replace it: %w", name, fs.ErrExist)
	}
	// By trying: permissions do not tell of a medium that is read-only.
	f, err := os.CreateTemp(filepath.Dir(file), ".casemate-*.partial")
	if err != nil {
		return noFile("the bundle", file, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// noFile says why a file cannot be made, where err is that of the temporary file beside it.
func noFile(what, file string, err error) error {
	why := err.Error()
	switch e := (*fs.PathError)(nil); {
	case errors.Is(err, fs.ErrNotExist):
		why = fmt.Sprintf("there is no directory %s", filepath.Dir(file))
	case errors.As(err, &e):
		why = e.Err.Error()
	}
	return fmt.Errorf("%s cannot be written to %s: %s", what, file, why)
}

// countingWriter counts what is written.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func showCreated(t *table, r *created) {
	if r.DryRun {
		showSizes(t, r.Sizes)
		t.line(fmt.Sprintf("%s: %s; %s would be fetched",
			howMany(r.Images, r.Untagged, r.URLs), size(r.Bytes), size(r.Fetched)))
	} else {
		for _, f := range r.Files {
			t.line("wrote", f)
		}
		t.line("bundle", r.Bundle)
		t.line("holds", fmt.Sprintf("%s: %s, %s; %s written, %s fetched", howMany(r.Images, r.Untagged, r.URLs),
			count(r.Blobs, "blob"), size(r.Bytes), size(r.Written), size(r.Fetched)))
		if r.Signer == "" {
			t.line("signed by", "nobody")
		} else {
			t.line("signed by", r.Signer)
		}
	}
	if r.Omitted > 0 {
		t.line("left out", fmt.Sprintf("%s of %s that the far side holds",
			count(r.Omitted, "blob"), size(r.OmittedBytes)))
	}
	for _, s := range r.Suites {
		t.line("suite", s.sentence())
	}
	for _, a := range r.Absent {
		t.line("absent", a.Name)
	}
	for _, n := range r.Notes {
		t.line("note", n)
	}
}

// clock is the clock, or what SOURCE_DATE_EPOCH says (reproducible-builds.org/specs/source-date-epoch: seconds since
// 1970).
func clock() (func() time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return nil, usageError{fmt.Errorf("SOURCE_DATE_EPOCH must be seconds since 1970, got %q", text)}
	}
	return func() time.Time { return time.Unix(n, 0) }, nil
}

// leaveOut makes a collection leave out what an inventory says is held. domain is that of the cluster that wrote it.
func leaveOut(opt *collect.Options, file, key string) (domain string, err error) {
	if file == "" {
		if key != "" {
			return "", usageError{errors.New("--since-key says whose inventory --since is: give both")}
		}
		return "", nil
	}
	var keys []ed25519.PublicKey
	if key != "" {
		k, err := publicKey("--since-key", key)
		if err != nil {
			return "", err
		}
		keys = append(keys, k)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if !bytes.HasPrefix(text, []byte("{")) {
		return "", fmt.Errorf("--since %s is no inventory: casemate inventory on a bastion prints one", file)
	}
	inv, digest, err := bundle.ReadInventory(text, keys)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	held := make(map[string]bool, len(inv.Blobs))
	for _, b := range inv.Blobs {
		held[b.Digest] = true
	}
	opt.Have, opt.Since = func(digest string) bool { return held[digest] }, digest
	return inv.Domain, nil
}
