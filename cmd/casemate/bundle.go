package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"casemate/bundle"
	"casemate/bundle/format"
	"casemate/bundle/signing"
)

func bundleCommand(o *options) *cobra.Command {
	return group("bundle", "create and verify bundles, the files that cross the gap; no daemon is needed",
		bundleCreate(o), bundleInspect(o), bundleVerify(o), bundleKeygen(o))
}

func bundleInspect(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect FILE…", Short: "show what a bundle contains", Args: cobra.MinimumNArgs(1),
		Long: `Show what a bundle contains, from its documents alone; any one part of a split
bundle is enough. The signature is verified. The content is not read: "casemate
bundle verify" does that. With -o transcript it prints the transcript of rehearsals,
which "casemate replay" and "casemate check" take.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			inputs, done, err := openBundle(cmd, args)
			if err != nil {
				return err
			}
			defer done()
			c, err := format.Inspect(inputs)
			if err != nil {
				if errors.Is(err, format.ErrDamaged) {
					err = differs{err}
				}
				return err
			}
			if o.output == "transcript" {
				if len(c.Index.Questions) == 0 {
					return errNoTranscript
				}
				return printTranscript(cmd, c.Index.Questions)
			}
			return o.print(cmd, c, func(t *table) { showContents(t, c, true) })
		},
	}
	o.prints(cmd, &bundle.Contents{}, "transcript")
	return cmd
}

// showContents prints what a bundle contains, and with names every name.
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
	t.line("holds", fmt.Sprintf("%s: %s, %s",
		howMany(images, untagged, len(c.Index.Files)), count(blobs, "blob"), size(carried)))
	for _, a := range c.Index.Absent {
		t.line("absent", a.Name, a.Why)
	}
	if c.Index.Since != "" {
		t.line("left out", fmt.Sprintf("%s that are in the inventory %s and left out here", size(omitted),
			c.Index.Since))
	}
	if n := len(c.Index.Questions); n > 0 {
		t.line("transcript", count(n, "question"))
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
	t.line("NAME", "DIGEST", "SIZE", "PLATFORMS", "COLLECTED")
	for _, i := range c.Index.Images {
		platforms := strings.Join(i.Platforms, " ")
		if i.Sparse {
			platforms += " (sparse)"
		}
		t.line(imageName(i), i.Digest, size(i.Size), platforms, taken(i.Provenance))
	}
	for _, f := range c.Index.Files {
		t.line(f.URL, f.Digest, size(f.Size), "", taken(f.Provenance))
	}
	for _, r := range c.Index.Redirects {
		t.line(r.From, "leads to "+r.To)
	}
}

func taken(t bundle.Provenance) string {
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
		Use: "verify FILE…", Short: "verify every byte of a bundle", Args: cobra.MinimumNArgs(1),
		Long: `Read every byte of a bundle, or of some of its parts, and report for each part
whether it is intact.

Exit code 0: all given parts are intact. 3: bytes are damaged; the part and the
place in it are named. 1: it could not be read, or none of the given keys has
signed it.`,
		Example: "  casemate bundle verify /media/usb/cluster.tar.0* --key office.pub",
		RunE: func(cmd *cobra.Command, args []string) error {
			var opt format.VerifyOptions
			var err error
			if opt.Keys, err = publicKeys("--key", keys); err != nil {
				return err
			}
			inputs, done, err := openBundle(cmd, args)
			if err != nil {
				return err
			}
			defer done()
			m := newMeter(cmd, quiet)
			g := m.start("verifying", -1)
			opt.Progress = func(done, total int64) { g.set("verifying", done, total) }
			v, err := format.Verify(cmd.Context(), inputs, opt)
			m.close()
			if cmd.Context().Err() != nil {
				return interrupted(cmd.Context(), err, "nothing was changed")
			}
			bad := 0
			for i := range v.Parts {
				if p := &v.Parts[i]; p.Problem != "" {
					bad++
					// Without the part's name, which is in the row, and without the constant suffix.
					p.Problem = strings.TrimLeft(strings.TrimPrefix(p.Problem, p.Name), ": ")
					p.Problem = strings.TrimSuffix(p.Problem, ": "+syscall.EBADMSG.Error())
				}
			}
			printed := o.print(cmd, v, func(t *table) {
				t.header("FILE", "RESULT")
				for _, p := range v.Parts {
					t.row(p.Name, cmp.Or(p.Problem, "right"))
				}
				if v.Contents != nil {
					showContents(t, v.Contents, false)
				}
				if len(v.Missing) > 0 {
					t.line("not given", "parts "+numbers(v.Missing))
				}
			})
			if errors.Is(err, format.ErrDamaged) {
				err = fmt.Errorf("wrong: %d of %s: %w", bad, count(len(v.Parts), "file"), errDiffers)
			}
			return errors.Join(printed, err)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, trustedKey)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	cmd.MarkFlagFilename("key", "pub", "pem")
	o.prints(cmd, &format.Verified{})
	return cmd
}

// trustedKey is the usage of --key.
const trustedKey = "trusted public `KEY`, a file or base64: bundles that none of these keys has signed are refused; " +
	"may be repeated"

// keyPair is the output of bundle keygen.
type keyPair struct {
	Private string `json:"private"` // a file
	Public  string `json:"public"`  // a file
	Key     string `json:"key"`     // the public key, base64
}

func bundleKeygen(o *options) *cobra.Command {
	var base string
	cmd := &cobra.Command{
		Use: "keygen [BASE]", Short: "create a key pair for signing bundles", Args: cobra.MaximumNArgs(1),
		Long: `Create an ed25519 key pair for signing bundles: BASE.key, which stays on the side
that signs, and BASE.pub, which the bastion gets. BASE is casemate-bundle if none
is given. Existing files are never overwritten.`,
		Example: "  casemate bundle keygen office",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && base != "":
				return usageError{errors.New("bundle keygen takes BASE or --out, not both")}
			case len(args) > 0:
				base = args[0]
			}
			private, public, err := signing.WriteKeyPair(cmp.Or(base, "casemate-bundle"))
			if err != nil {
				return err
			}
			key, err := publicKey("bundle keygen", public)
			if err != nil {
				return err
			}
			out := keyPair{private, public, signing.KeyName(key)}
			return o.print(cmd, out, func(t *table) {
				t.line("private", out.Private, "signs; keep it on the connected side")
				t.line("public", out.Public, "verifies; take it to the bastion")
				t.line("key", out.Key)
			})
		},
	}
	cmd.Flags().StringVar(&base, "out", "", "the older form of BASE")
	cmd.Flags().MarkHidden("out")
	o.prints(cmd, keyPair{})
	return cmd
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

// openBundle opens the files of a bundle, or of its parts.
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
				return nil, nil, errors.New("standard input is not a file")
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

// publicKey reads a key from a file or in its short form, which "bundle keygen" prints.
func publicKey(flag, s string) (ed25519.PublicKey, error) {
	text, notFile := readSmall(s)
	if notFile != nil {
		text = []byte(s)
	}
	key, err := signing.ReadPublicKey(text)
	if err != nil {
		if notFile != nil {
			err = fmt.Errorf("neither a file (%w) nor a public key", notFile)
		}
		return nil, usageError{fmt.Errorf("%s %s: %w", flag, s, err)}
	}
	return key, nil
}

// publicKeys reads the keys of a flag.
func publicKeys(flag string, names []string) (keys []ed25519.PublicKey, err error) {
	for _, name := range names {
		key, err := publicKey(flag, name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// signingKey reads a private key; nil if the bundle is not to be signed.
func signingKey(file string) (ed25519.PrivateKey, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	key, err := signing.ReadPrivateKey(text)
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

// interrupted replaces the error of a command that a signal ended by one sentence.
func interrupted(ctx context.Context, err error, what string) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errors.New("interrupted: " + what)
	}
	return err
}
