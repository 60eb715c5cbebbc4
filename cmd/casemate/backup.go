package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/admin"
	"casemate/appliance/setup"
	"casemate/cluster"
)

// backupReport is the daemon's report of a backup that it has written.
type backupReport struct {
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"`
	Created time.Time `json:"created"`
	Index   uint64    `json:"index"`
	Names   int       `json:"names"`
	Blobs   int       `json:"blobs"`
	Bytes   int64     `json:"bytes"`
	NoBlobs bool      `json:"no_blobs"`
	Damaged []string  `json:"damaged"`
	Missing []string  `json:"missing"`
	Faults  int       `json:"faults"`
}

func backupCommand(o *options) *cobra.Command {
	var noBlobs bool
	var passphrase, recipients string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "back up the whole cluster online", Args: cobra.ExactArgs(1),
		Long: `Write a backup of the whole cluster to FILE (- is standard output) while Casemate
keeps running: users, settings, names, imports, the CA, images and files.

Any node can write it, also without a majority. FILE appears when it is complete.
The backup contains private keys in sealed form. The key to them is wrapped with a
passphrase or for the recipients in an age recipients file (age1…). Whoever has
the passphrase or a recipient's identity can issue certificates in the CA's name.

Exit code 0: the backup is complete. 3: it is written, but some blobs in it are
damaged or missing.`,
		Example: "  casemate backup /mnt/backup/casemate.tar --recipients /etc/casemate/backup.age",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]any{"no_blobs": noBlobs}
			key, text, err := oneSecret("--passphrase-file", passphrase, "--recipients", recipients)
			if err != nil {
				return err
			}
			if key == "--passphrase-file" {
				in["passphrase"] = text
			} else {
				in["recipients"] = text
			}
			out, err := createWhole("the backup", args[0], cmd.OutOrStdout())
			if err != nil {
				return err
			}
			defer out.giveUp()
			r, err := o.backup(cmd, in, args[0], out)
			if err != nil {
				return err
			}
			if out.file == nil {
				cmd.SetOut(cmd.ErrOrStderr()) // standard output has the backup
			}
			err = o.print(cmd, r, func(t *table) {
				what := count(r.Blobs, "blob") + ", " + size(r.Bytes)
				if r.NoBlobs {
					what = "no blobs"
				}
				t.line(fmt.Sprintf("%s: %s, %s, as of %s", args[0], count(r.Names, "name"), what, t.when(r.Created)))
				for _, d := range r.Damaged {
					t.line("damaged on this node: " + d)
				}
				for _, d := range r.Missing {
					t.line("not on this node: " + d)
				}
			})
			if err == nil && r.Faults > 0 {
				err = fmt.Errorf("%s %s damaged or missing in the backup: %w", count(r.Faults, "blob"), are(r.Faults),
					errDiffers)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noBlobs, "no-blobs", false, "leave out images and files; they have to be imported again after a restore")
	f.StringVar(&passphrase, "passphrase-file", "", "`FILE` whose first line is the passphrase that wraps the "+
		"sealing key")
	f.StringVar(&recipients, "recipients", "",
		"age recipients `FILE` (lines of age1…) for whom the sealing key is wrapped")
	o.printsTimes(cmd, backupReport{})
	return cmd
}

// backup makes the daemon write a backup; name is used in messages.
func (o *options) backup(cmd *cobra.Command, in map[string]any, name string, out *whole) (r backupReport, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return r, err
	}
	resp, err := o.client().do(cmd.Context(), "POST", "backup", nil, bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the daemon cut the answer off, its log gives the reason")
		}
		return r, fmt.Errorf("backup %s is not written: %w", name, err)
	}
	if err := json.Unmarshal([]byte(resp.Trailer.Get(admin.ReportTrailer)), &r); err != nil {
		return r, fmt.Errorf("backup %s is not written: the daemon's answer has no end", name)
	}
	if err := out.finish(); err != nil {
		return r, fmt.Errorf("backup %s is not written: %w", name, err)
	}
	return r, nil
}

func restoreCommand(o *options) *cobra.Command {
	var (
		config, name, data   string
		passphrase, identity string
		advertise            []netip.Addr
		vouched              setup.Clock
	)
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "create the first node of a cluster from a backup", Args: cobra.ExactArgs(1),
		Long: `Create the first node of a cluster from the backup FILE (- is standard input), in a
data directory that is new or empty, and exit.

The node may have a new name and new addresses; its config is written if there is
none. Every byte is verified before the node counts as restored. Nodes of the old
cluster are not members of the new one: wipe their data and join them again.`,
		Example: "  casemate restore /mnt/backup/casemate.tar --advertise 10.0.0.11 --identity key.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, given, err := initConfig(config, name, data, advertise)
			if err != nil {
				return err
			}
			key, text, err := oneSecret("--passphrase-file", passphrase, "--identity", identity)
			if err != nil {
				return err
			}
			opt := setup.RestoreOptions{ConfigFile: config, Given: given, Clock: vouched}
			opt.Clock.Read(madeAt())
			if key == "--passphrase-file" {
				opt.Passphrase = text
			} else {
				opt.Identities = text
			}
			opt.Log = warnings(cmd)
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			r, p, err := setup.Restore(cmd.Context(), cfg, in, opt)
			if err != nil {
				return err
			}
			err = o.print(cmd, r, func(t *table) {
				t.line(fmt.Sprintf("restored %s and %s, %s, of node %s as of %s",
					count(r.Names, "name"), count(r.Blobs, "blob"), size(r.Bytes), r.From.Node, r.From.Created))
				if r.Kept != r.Names {
					t.line(fmt.Sprintf("the new cluster begins with %s: the old cluster's records of its nodes are "+
						"left out",
						count(r.Kept, "name")))
				}
				if r.Missing > 0 {
					t.line(blobsNotHere(r.Missing))
				}
			})
			what := fmt.Sprintf("%s is the first node of a new cluster, its data is in %s", cfg.Node, cfg.Data)
			for _, l := range nextSteps(p, what) {
				fmt.Fprintln(cmd.ErrOrStderr(), l)
			}
			return err
		},
	}
	clockFlag(cmd, &vouched)
	f := cmd.Flags()
	nodeFlags(cmd, &config, &name, &data, &advertise)
	f.StringVar(&passphrase, "passphrase-file", "", "`FILE` whose first line is the passphrase of the backup")
	f.StringVar(&identity, "identity", "", "age identity `FILE` (AGE-SECRET-KEY-1…) of one of the backup's recipients")
	o.prints(cmd, cluster.RestoreReport{})
	return cmd
}

func blobsNotHere(n int) string {
	return fmt.Sprintf("%s %s not here: casemate scrub lists them, importing or pushing them again repairs them",
		count(n, "blob"), are(n))
}

func clusterCommand(o *options) *cobra.Command {
	return group("cluster", "recover a cluster, and upgrade its log format", recoverCommand(o), formatCommand(o))
}

func recoverCommand(o *options) *cobra.Command {
	var config string
	var yes, dry bool
	cmd := &cobra.Command{
		Use: "recover", Short: "make this stopped node a cluster of one after the majority is lost", Args: cobra.NoArgs,
		Long: `Make this stopped node a cluster of one, when the majority is lost for good.

With --dry-run the command only reports what that costs; --yes does it. The other
nodes can never come back as members: wipe their data directories and join them
under other names.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if yes && dry {
				return usageError{errors.New("give --yes or --dry-run, not both")}
			}
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			log := warnings(cmd)
			r, err := setup.Recover(cfg, config, !yes, log)
			if err != nil {
				return err
			}
			one := len(r.Lost) == 0 && r.Voter
			err = o.print(cmd, r, func(t *table) {
				for _, l := range recoveryCosts(r) {
					t.line(l)
				}
			})
			switch {
			case err != nil || one || dry:
				return err
			case !yes:
				return usageError{errors.New("nothing is changed: add --yes to make this node a cluster of one")}
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s is a cluster of one, start it as before\n", r.Node)
			return nil
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().BoolVar(&yes, "yes", false, "recover the cluster; without it nothing is changed")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "report what a recovery would cost and change nothing")
	o.prints(cmd, cluster.RecoverReport{})
	return cmd
}

// recoveryCosts describes what a recovery costs, in sentences.
func recoveryCosts(r cluster.RecoverReport) []string {
	if len(r.Lost) == 0 && r.Voter {
		return []string{r.Node + " is a cluster of one already: there is nothing to recover"}
	}
	list := []string{
		"members that are given up: " + strings.Join(r.Lost, ", ") + "; they can never be members again: " +
			"wipe their data directories and join them under other names",
		fmt.Sprintf("the log of %s ends at entry %d of term %d; writes that only the others had are lost, "+
			"and their number is unknown", r.Node, r.Last, r.Term),
	}
	if !r.Voter {
		list = append(list, r.Node+" was not a voter: it had not caught up, and some content may be missing on it")
	}
	switch n := r.Last - r.Committed; n {
	case 0:
	case 1:
		list = append(list, fmt.Sprintf("1 log entry, %d, is not known here to be committed and becomes valid: it may "+
			"be a write that was answered with an error", r.Last))
	default:
		list = append(list, fmt.Sprintf("%d log entries, %d to %d, are not known here to be committed and become "+
			"valid: some may be writes that were answered with an error", n, r.Committed+1, r.Last))
	}
	if r.Missing == 0 {
		return append(list, "every named blob is on this disk")
	}
	return append(list, fmt.Sprintf("%s %s not on this disk: casemate scrub lists what is missing, importing or "+
		"pushing it again repairs it", count(r.Missing, "named blob"), are(r.Missing)))
}

// oneSecret reads the one of two files that is given: the first line of a passphrase, the whole of an age file.
func oneSecret(a, aPath, b, bPath string) (which, text string, err error) {
	if (aPath == "") == (bPath == "") {
		return "", "", usageError{fmt.Errorf("the sealing key needs %s or %s, one of the two", a, b)}
	}
	which, path := a, aPath
	if aPath == "" {
		which, path = b, bPath
	}
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return "", "", err
	}
	text = string(data)
	if which == a {
		text, _, _ = strings.Cut(text, "\n")
		text = strings.TrimSuffix(text, "\r")
	}
	if strings.TrimSpace(text) == "" {
		return "", "", usageError{fmt.Errorf("%s %s is empty", which, path)}
	}
	return which, text, nil
}

// whole is a file that appears under its name when it is complete, or standard output.
type whole struct {
	io.Writer
	file *os.File // nil for standard output
	name string
	done bool
}

func createWhole(what, name string, stdout io.Writer) (*whole, error) {
	if name == "-" {
		return &whole{Writer: stdout}, nil
	}
	switch st, err := os.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case st.Mode().Type() == fs.ModeSymlink:
		// The name appears when the file is complete, by a rename, which would put the file in the link's place.
		to, err := os.Readlink(name)
		if err != nil {
			return nil, err
		}
		return nil,
			usageError{fmt.Errorf("%s is a symbolic link to %s, and would be replaced by the file: name the file "+
				"itself, or remove the link", name, to)}
	case !st.Mode().IsRegular():
		return nil, usageError{fmt.Errorf("%s is not a file", name)}
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part") // mode 0600
	if err != nil {
		return nil, noFile(what, name, err)
	}
	return &whole{Writer: f, file: f, name: name}, nil
}

// finish makes the bytes durable, and then renames the file.
func (w *whole) finish() error {
	if w.file == nil {
		return nil
	}
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(w.file.Name(), w.name); err != nil {
		return err
	}
	w.done = true
	d, err := os.Open(filepath.Dir(w.name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// giveUp removes the temporary file unless finish has renamed it.
func (w *whole) giveUp() {
	if w.file != nil && !w.done {
		w.file.Close()
		os.Remove(w.file.Name())
	}
}
