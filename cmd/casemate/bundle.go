package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"casemate/bundle"
	"casemate/bundle/lists"
)

func bundleCommand(o *options) *cobra.Command {
	return group("bundle", "make the file that crosses the gap, and look at it; no daemon is needed", bundleCreate(o), bundleInspect(o), bundleVerify(o), bundleKeygen(o))
}

// created is the summary of bundle create.
type created struct {
	Bundle  string   `json:"bundle"` // the digest of the index document
	Files   []string `json:"files"`  // that were written
	Written int64    `json:"written"`
	Images  int      `json:"images"`
	// Untagged are manifests without a tag: platforms of an index, signatures, what was asked for by digest.
	Untagged int   `json:"untagged"`
	URLs     int   `json:"urls"`
	Blobs    int   `json:"blobs"` // that it carries
	Bytes    int64 `json:"bytes"` // of them
	// Omitted are blobs that the inventory says the far side holds.
	Omitted      int    `json:"omitted"`
	OmittedBytes int64  `json:"omitted_bytes"`
	Fetched      int64  `json:"fetched"` // bytes over the network; with --dry-run those that would be
	Signer       string `json:"signer,omitempty"`
	DryRun       bool   `json:"dry_run"`
	// Sizes are what each name takes, with --dry-run; names that share content count it each.
	Sizes []nameSize `json:"sizes,omitempty"`
	Notes []string   `json:"notes"`
}

type nameSize struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

func bundleCreate(o *options) *cobra.Command {
	var (
		lists                        listFlags
		since, sinceKey, sign, split string
		opt                          bundle.CollectOptions
		quiet                        bool
	)
	cmd := &cobra.Command{
		Use: "create FILE", Short: "collect what lists name into a bundle, on the connected side", Args: cobra.ExactArgs(1),
		Long: `Collect what lists name into a bundle, on the connected side. Neither a daemon nor root is needed. Images keep their digests, files the URL that
was asked for; everything is fetched from where it comes from, with the credentials of Docker's config and the proxies of the environment, and checked.

A list is one name a line, with # for comments; - reads standard input. All bad lines are reported before anything is fetched. What was fetched is kept in a
cache, so that a second run, or one after an interruption, fetches only the rest. SOURCE_DATE_EPOCH sets the day that the bundle names.

With --split the bundle is FILE.001, FILE.002, …, each of which can be verified and imported by itself. SIZE is bytes, or with K, M, G, T (or KiB …: powers
of 1024), or KB, MB, GB, TB (powers of 1000).`,
		Example: `  casemate bundle create cluster.tar --images images.list --files files.list --platform linux/amd64 --sign office.key
  casemate bundle create cluster.tar --kubespray ./kubespray --kubespray-inventory ./kubespray/inventory/mycluster --platform linux/amd64 --split 4GiB
  casemate bundle create next.tar --images missing.list --since inventory.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			w := bundle.WriteOptions{}
			var err error
			if w.Split, err = parseSize(split); err != nil {
				return usageError{fmt.Errorf("--split: %w", err)}
			}
			if w.Key, err = signingKey(sign); err != nil {
				return err
			}
			if opt.Now, err = clock(); err != nil {
				return err
			}
			domain, err := leaveOut(&opt, since, sinceKey)
			if err != nil {
				return err
			}
			lists.domain = func() (string, error) { return domain, nil } // "" if it is not known
			wanted, sums, err := lists.wanted(cmd)
			if err != nil {
				return err
			}
			opt.Platforms = lists.platforms
			if sums != nil {
				opt.Other = sums.Other
			}
			m := newMeter(cmd, quiet)
			res, err := create(cmd.Context(), m, args[0], wanted, opt, w)
			m.close()
			if err != nil {
				return interrupted(cmd.Context(), err, "what was fetched is kept; run the same command again to go on")
			}
			return o.print(cmd, res, func(t *table) { showCreated(t, res) })
		},
	}
	lists.add(cmd)
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "leave out what this inventory (casemate inventory) says is held")
	f.StringVar(&sinceKey, "since-key", "", "the cluster's public key: refuse another's inventory")
	f.StringVar(&sign, "sign", "", "sign with this private key (casemate bundle keygen)")
	f.StringVar(&split, "split", "", "write parts of at most this SIZE, like 4GiB or 650MB")
	f.BoolVar(&opt.DryRun, "dry-run", false, "only find out what there is and how large it is")
	f.StringVar(&opt.Cache, "cache", "", "directory that keeps what was fetched (default: below the user's cache directory)")
	f.IntVar(&opt.Parallel, "parallel", 4, "how much is fetched at once")
	f.BoolVar(&opt.NoReferrers, "no-signatures", false, "leave out signatures, attestations and SBOMs")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	o.printable(cmd)
	cmd.MarkFlagFilename("since", "json")
	cmd.MarkFlagFilename("since-key", "pub", "pem")
	cmd.MarkFlagFilename("sign", "key", "pem")
	cmd.MarkFlagDirname("cache")
	cmd.RegisterFlagCompletionFunc("split", cobra.FixedCompletions([]string{"650MB", "4GB", "4GiB", "16GB"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// create collects and writes.
func create(ctx context.Context, m *meter, file string, wanted *lists.Wanted, opt bundle.CollectOptions, w bundle.WriteOptions) (_ *created, err error) {
	if !opt.DryRun {
		if err := writable(file, w.Split > 0); err != nil {
			return nil, err
		}
	}
	opt.Progress, opt.Log = &collecting{meter: m}, m.log()
	c, err := bundle.Collect(ctx, wanted, opt)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m.clear()
	res := &created{URLs: len(c.Index.Files), Fetched: c.Fetched, DryRun: opt.DryRun, Notes: append([]string{}, c.Notes...), Files: []string{}}
	res.Images, res.Untagged = tagged(c.Index)
	for _, b := range c.Index.Blobs {
		if b.Omitted {
			res.Omitted++
			res.OmittedBytes += b.Size
		} else {
			res.Blobs++
			res.Bytes += b.Size
		}
	}
	if w.Key != nil {
		res.Signer = bundle.KeyName(w.Key.Public().(ed25519.PublicKey))
	}
	if opt.DryRun {
		for _, i := range c.Index.Images {
			res.Sizes = append(res.Sizes, nameSize{imageName(i), i.Size})
		}
		for _, f := range c.Index.Files {
			res.Sizes = append(res.Sizes, nameSize{f.URL, f.Size})
			if f.Digest == "" {
				res.Bytes += max(f.Size, 0) // it is among the blobs once somebody knows its digest
			}
		}
		return res, nil
	}
	g := m.start("writing", res.Bytes)
	w.Progress = func(done, total int64) { g.set("writing", done, total) }
	if res.Files, err = bundle.Write(ctx, file, c.Index, c.Open, w); err != nil {
		return nil, err
	}
	g.end()
	for _, f := range res.Files {
		if st, err := os.Stat(f); err == nil {
			res.Written += st.Size()
		}
	}
	document, err := c.Index.Encode()
	res.Bundle = fmt.Sprintf("sha256:%x", sha256.Sum256(document))
	return res, err
}

// writable looks whether a bundle can be written there, before hours are spent on fetching what goes into it.
func writable(file string, split bool) error {
	if info, err := os.Stat(file); err == nil && !split && !info.Mode().IsRegular() {
		return usageError{fmt.Errorf("%s is there and no regular file: name another one", file)}
	}
	// By trying: permissions do not tell of a medium that is read-only.
	f, err := os.CreateTemp(filepath.Dir(file), ".casemate-*.partial")
	if err != nil {
		return fmt.Errorf("the bundle cannot be written to %s: %w", file, errors.Unwrap(err))
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func showCreated(t *table, r *created) {
	if r.DryRun {
		for _, n := range r.Sizes {
			t.line(n.Name, sizeOrUnknown(n.Size))
		}
		t.line(fmt.Sprintf("%s: %s; %s would be fetched", howMany(r.Images, r.Untagged, r.URLs), size(r.Bytes), size(r.Fetched)))
	} else {
		for _, f := range r.Files {
			t.line("wrote", f)
		}
		t.line("bundle", r.Bundle)
		t.line("holds", fmt.Sprintf("%s: %s, %s; %s written, %s fetched", howMany(r.Images, r.Untagged, r.URLs), count(r.Blobs, "blob"), size(r.Bytes), size(r.Written), size(r.Fetched)))
		if r.Signer == "" {
			t.line("signed by", "nobody")
		} else {
			t.line("signed by", r.Signer)
		}
	}
	if r.Omitted > 0 {
		t.line("left out", fmt.Sprintf("%s of %s that the far side holds", count(r.Omitted, "blob"), size(r.OmittedBytes)))
	}
	for _, n := range r.Notes {
		t.line("note", n)
	}
}

// tagged counts an index's tags, and its manifests without one.
func tagged(ix *bundle.Index) (tags, others int) {
	for _, i := range ix.Images {
		if i.Tag != "" {
			tags++
		}
	}
	return tags, len(ix.Images) - tags
}

func howMany(images, untagged, files int) string {
	s := count(images, "image")
	if untagged > 0 {
		s += " and " + count(untagged, "manifest") + " without a tag"
	}
	return s + ", " + count(files, "file")
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func sizeOrUnknown(n int64) string {
	if n < 0 {
		return "size not known"
	}
	return size(n)
}

func imageName(i bundle.Image) string {
	if i.Tag == "" {
		return i.Repository + "@" + i.Digest
	}
	return i.Repository + ":" + i.Tag
}

func bundleInspect(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect FILE…", Short: "say what is in a bundle, from its documents alone", Args: cobra.MinimumNArgs(1),
		Long: `Say what is in a bundle, from its documents alone: any one part knows all of it. The signature is verified, the contents are not read: that is
"casemate bundle verify".`,
		RunE: func(cmd *cobra.Command, args []string) error {
			inputs, done, err := openBundle(cmd, args)
			if err != nil {
				return err
			}
			defer done()
			c, err := bundle.Inspect(inputs)
			if err != nil {
				if errors.Is(err, bundle.ErrDamaged) {
					err = fmt.Errorf("%w: %w", err, errDiffers)
				}
				return err
			}
			return o.print(cmd, c, func(t *table) { showContents(t, c, true) })
		},
	}
	o.printable(cmd)
	return cmd
}

// showContents prints what a bundle is, and with names what it brings.
func showContents(t *table, c *bundle.Contents, names bool) {
	t.line("bundle", c.ID)
	if c.Signer == "" {
		t.line("signed by", "nobody")
	} else {
		t.line("signed by", c.Signer)
	}
	blobs, carried, omitted := 0, int64(0), int64(0)
	for _, b := range c.Index.Blobs {
		if b.Omitted {
			omitted += b.Size
		} else {
			blobs++
			carried += b.Size
		}
	}
	images, untagged := tagged(c.Index)
	t.line("holds", fmt.Sprintf("%s: %s, %s", howMany(images, untagged, len(c.Index.Files)), count(blobs, "blob"), size(carried)))
	if c.Index.Since != "" {
		t.line("left out", fmt.Sprintf("%s that the inventory %s says is held", size(omitted), c.Index.Since))
	}
	if c.Parts > 0 {
		t.line("parts", fmt.Sprintf("%d of %d were given: %s", c.Have, c.Parts, numbers(c.Numbers)))
	}
	for _, n := range c.Notes {
		t.line("note", n)
	}
	if !names {
		return
	}
	t.line()
	t.line("NAME", "DIGEST", "SIZE", "PLATFORMS", "TAKEN")
	for _, i := range c.Index.Images {
		platforms := strings.Join(i.Platforms, " ")
		if i.Sparse {
			platforms += " (sparse)"
		}
		t.line(imageName(i), i.Digest, size(i.Size), platforms, taken(i.Taken))
	}
	for _, f := range c.Index.Files {
		t.line(f.URL, f.Digest, size(f.Size), "", taken(f.Taken))
	}
}

func taken(t bundle.Taken) string {
	if t.From == "" {
		return t.On
	}
	return strings.TrimSpace(t.On + " from " + t.From)
}

func bundleVerify(o *options) *cobra.Command {
	var (
		keys  []string
		quiet bool
	)
	cmd := &cobra.Command{
		Use: "verify FILE…", Short: "read every byte of a bundle and say whether it is right; exit 3 if it is not", Args: cobra.MinimumNArgs(1),
		Long: `Read every byte of a bundle, or of some of its parts, and say of each part whether it is right. Exit code 0: what was given is right. 3: bytes are damaged;
which part, and where in it, is said. 1: it could not be read, or no key that was given has signed it.`,
		Example: "  casemate bundle verify /media/usb/cluster.tar.0* --key office.pub",
		RunE: func(cmd *cobra.Command, args []string) error {
			opt := bundle.VerifyOptions{}
			for _, k := range keys {
				key, err := publicKey("--key", k)
				if err != nil {
					return err
				}
				opt.Keys = append(opt.Keys, key)
			}
			inputs, done, err := openBundle(cmd, args)
			if err != nil {
				return err
			}
			defer done()
			m := newMeter(cmd, quiet)
			g := m.start("verifying", -1)
			opt.Progress = func(done, total int64) { g.set("verifying", done, total) }
			v, err := bundle.Verify(cmd.Context(), inputs, opt)
			m.close()
			if cmd.Context().Err() != nil {
				return interrupted(cmd.Context(), err, "nothing was changed")
			}
			bad := 0
			for i := range v.Parts {
				if p := &v.Parts[i]; p.Problem != "" {
					bad++
					// Without what stands beside it already, and without the constant behind it.
					p.Problem = strings.TrimSuffix(strings.TrimLeft(strings.TrimPrefix(p.Problem, p.Name), ": "), ": "+syscall.EBADMSG.Error())
				}
			}
			printed := o.print(cmd, v, func(t *table) {
				for _, p := range v.Parts {
					t.line(p.Name, cmp.Or(p.Problem, "right"))
				}
				if v.Contents != nil {
					showContents(t, v.Contents, false)
				}
				if len(v.Missing) > 0 {
					t.line("not given", "parts "+numbers(v.Missing))
				}
			})
			if errors.Is(err, bundle.ErrDamaged) {
				err = fmt.Errorf("wrong: %d of %s: %w", bad, count(len(v.Parts), "file"), errDiffers)
			}
			return errors.Join(printed, err)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a trusted public key, as a file or as base64: what none of them has signed is wrong")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	cmd.MarkFlagFilename("key", "pub", "pem")
	o.printable(cmd)
	return cmd
}

func bundleKeygen(o *options) *cobra.Command {
	var base string
	cmd := &cobra.Command{
		Use: "keygen", Short: "make a key pair for signing bundles", Args: cobra.NoArgs,
		Long: `Make an ed25519 key pair for signing bundles: BASE.key, which stays on the side that signs, and BASE.pub, which the bastion gets. Files that
exist are never overwritten.`,
		Example: "  casemate bundle keygen --out office",
		RunE: func(cmd *cobra.Command, _ []string) error {
			private, public, err := bundle.WriteKeyPair(base)
			if err != nil {
				return err
			}
			key, err := publicKey("--out", public)
			if err != nil {
				return err
			}
			out := struct {
				Private string `json:"private"`
				Public  string `json:"public"`
				Key     string `json:"key"`
			}{private, public, bundle.KeyName(key)}
			return o.print(cmd, out, func(t *table) {
				t.line("private", out.Private, "signs; keep it on the connected side")
				t.line("public", out.Public, "verifies; take it to the bastion")
				t.line("key", out.Key)
			})
		},
	}
	cmd.Flags().StringVar(&base, "out", "casemate-bundle", "base of the two files' names")
	o.printable(cmd)
	return cmd
}

// openBundle opens files that hold a bundle, or its parts.
func openBundle(cmd *cobra.Command, names []string) (inputs []bundle.Input, done func(), err error) {
	done = func() {
		for _, i := range inputs {
			i.File.Close()
		}
	}
	for _, name := range names {
		var f *os.File
		if name == "-" {
			stdin, ok := cmd.InOrStdin().(*os.File)
			if !ok {
				return nil, nil, errors.New("standard input is no file")
			}
			f = stdin
		} else if f, err = os.Open(name); err != nil {
			done()
			return nil, nil, err
		}
		inputs = append(inputs, bundle.Input{Name: name, File: f})
		if st, err := f.Stat(); err == nil && st.IsDir() {
			done()
			return nil, nil, usageError{fmt.Errorf("%s is a directory: name a bundle's files", name)}
		}
	}
	return inputs, done, nil
}

// publicKey takes a key as a file or as its short form, which "bundle keygen" prints.
func publicKey(flag, s string) (ed25519.PublicKey, error) {
	text, notFile := readSmall(s)
	if notFile != nil {
		text = []byte(s)
	}
	key, err := bundle.ReadPublicKey(text)
	if err != nil {
		if notFile != nil {
			err = fmt.Errorf("neither a file (%w) nor a public key", notFile)
		}
		return nil, usageError{fmt.Errorf("%s %s: %w", flag, s, err)}
	}
	return key, nil
}

// signingKey reads a private key; nil if there is to be no signature.
func signingKey(file string) (ed25519.PrivateKey, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	key, err := bundle.ReadPrivateKey(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("--sign %s: %w", file, err)}
	}
	return key, nil
}

// readSmall reads a file of at most 1 MiB.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// clock is the clock, or what SOURCE_DATE_EPOCH says (reproducible-builds.org/specs/source-date-epoch: seconds since 1970).
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
func leaveOut(opt *bundle.CollectOptions, file, key string) (domain string, err error) {
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

// parseSize reads a size as the GNU tools do: K, M, G, T and KiB… are powers of 1024, KB… of 1000. "" is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.ToUpper(s[len(digits):])
	base := int64(1024)
	if short, ok := strings.CutSuffix(unit, "IB"); ok && short != "" {
		unit = short
	} else if short, ok := strings.CutSuffix(unit, "B"); ok {
		unit = short
		base = 1000
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	power := strings.Index("KMGT", unit)
	if err != nil || n <= 0 || len(unit) > 1 || power < 0 {
		return 0, fmt.Errorf("a size is a whole number like 4GiB, 4G or 650MB, got %q", s)
	}
	if unit != "" {
		for range power + 1 {
			if n > (1<<62)/base {
				return 0, fmt.Errorf("%s is too much", s)
			}
			n *= base
		}
	}
	return n, nil
}

// interrupted replaces what a signal made of a command's end by one sentence.
func interrupted(ctx context.Context, err error, what string) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errors.New("interrupted: " + what)
	}
	return err
}
