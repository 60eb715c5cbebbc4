package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance"
	"casemate/cluster"
)

func backupCommand(o *options) *cobra.Command {
	var noBlobs bool
	var passphrase, recipients string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "write a backup of the whole cluster, while everything goes on; exit 3 if a blob in it is damaged (FILE - is standard output)", Args: cobra.ExactArgs(1),
		Long: `Write a backup of the whole cluster, while everything goes on: users, settings, names, imports, the CA, images and files.

Any node writes it, also without a majority. FILE gets its name when it is whole. Private keys are in it sealed; the key to them is wrapped
with a passphrase or for the recipients of an age recipients file (age1…), and whoever has the other half can issue certificates in the CA's name.`,
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
			body, err := json.Marshal(in)
			if err != nil {
				return err
			}
			out, err := createWhole(args[0], cmd.OutOrStdout())
			if err != nil {
				return err
			}
			defer out.giveUp()
			resp, err := o.client().do(cmd.Context(), "POST", "backup", nil, strings.NewReader(string(body)))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if _, err := io.Copy(out, resp.Body); err != nil {
				if errors.Is(err, io.ErrUnexpectedEOF) {
					err = errors.New("the daemon has cut it off, its log says why")
				}
				return fmt.Errorf("backup %s is not written: %w", args[0], err)
			}
			var r struct {
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
			if err := json.Unmarshal([]byte(resp.Trailer.Get(appliance.ReportTrailer)), &r); err != nil {
				return fmt.Errorf("backup %s is not written: the daemon's answer has no end", args[0])
			}
			if err := out.finish(); err != nil {
				return fmt.Errorf("backup %s is not written: %w", args[0], err)
			}
			if out.file == nil {
				cmd.SetOut(cmd.ErrOrStderr()) // standard output has the backup
			}
			err = o.print(cmd, r, func(t *table) {
				what := fmt.Sprintf("%d blobs, %s", r.Blobs, size(r.Bytes))
				if r.NoBlobs {
					what = "no blobs"
				}
				t.line(fmt.Sprintf("%s: %d names, %s, as of %s", args[0], r.Names, what, when(r.Created)))
				for _, d := range r.Damaged {
					t.line("damaged on this node: " + d)
				}
				for _, d := range r.Missing {
					t.line("not on this node: " + d)
				}
			})
			if err == nil && r.Faults > 0 {
				err = fmt.Errorf("%d blobs are not whole in the backup: %w", r.Faults, errDiffers)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noBlobs, "no-blobs", false, "leave images and files out; after a restore they have to be imported again")
	f.StringVar(&passphrase, "passphrase-file", "", "file whose first line is the passphrase that wraps the sealing key")
	f.StringVar(&recipients, "recipients", "", "recipients file of age (lines of age1…) for whom the sealing key is wrapped")
	o.printable(cmd)
	return cmd
}

func restoreCommand(o *options) *cobra.Command {
	var (
		config, name, data   string
		passphrase, identity string
		advertise            []string
	)
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "make the first node of a cluster from a backup (FILE - is standard input)", Args: cobra.ExactArgs(1),
		Long: `Make the first node of a cluster from a backup, in a data directory that is new or empty, and exit.

The node may have another name and other addresses than those of the old cluster; its config is written if there is none. Every byte is checked before the node
counts as restored. The cluster is a new one to the nodes of the old one: wipe and join them.`,
		Example: "  casemate restore /mnt/backup/casemate.tar --advertise 10.0.0.11 --identity key.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := initConfig(config, name, data, advertise)
			if err != nil {
				return err
			}
			key, text, err := oneSecret("--passphrase-file", passphrase, "--identity", identity)
			if err != nil {
				return err
			}
			opt := appliance.RestoreOptions{ConfigFile: config}
			if key == "--passphrase-file" {
				opt.Passphrase = text
			} else {
				opt.Identities = text
			}
			opt.Log, _ = appliance.NewLogger(appliance.Log{Level: 4}, cmd.ErrOrStderr()) // only what is wrong
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			r, p, err := appliance.Restore(cmd.Context(), cfg, in, opt)
			if err != nil {
				return err
			}
			err = o.print(cmd, r, func(t *table) {
				t.line(fmt.Sprintf("restored %d names and %d blobs, %s, of node %s as of %s", r.Names, r.Blobs, size(r.Bytes), r.From.Node, r.From.Created))
				if r.Lacking > 0 {
					t.line(fmt.Sprintf("%d blobs are not here: casemate scrub lists them, importing or pushing them again repairs them", r.Lacking))
				}
			})
			sayNext(cmd, p, fmt.Sprintf("%s is the first node of a new cluster, its data is in %s", cfg.Node, cfg.Data))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", appliance.DefaultConfigFile, "the node's config, written if it is not there")
	f.StringSliceVar(&advertise, "advertise", nil, "addresses at which clients reach this node (default: those of the default routes)")
	f.StringVar(&name, "name", "", "the node's name (default: the host's short name)")
	f.StringVar(&data, "data", "", "the data directory (default: /var/lib/casemate)")
	f.StringVar(&passphrase, "passphrase-file", "", "file whose first line is the passphrase of the backup")
	f.StringVar(&identity, "identity", "", "identity file of age (AGE-SECRET-KEY-1…) of one of the backup's recipients")
	o.printable(cmd)
	return cmd
}

func clusterCommand(o *options) *cobra.Command {
	var config string
	var yes bool
	cmd := &cobra.Command{
		Use: "recover", Short: "make this stopped node a cluster of one, when the majority is lost for good; says what it costs, and does it with --yes", Args: cobra.NoArgs,
		Long: `Make this stopped node a cluster of one, when the majority is lost for good.

Without --yes it only says what that costs. The other nodes can never come back as members: wipe their data directories and join them under other names.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(config)
			if err != nil {
				return err
			}
			log, _ := appliance.NewLogger(appliance.Log{Level: 4}, cmd.ErrOrStderr()) // only what is wrong
			r, err := appliance.RecoverCluster(cfg, config, !yes, log)
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
			case err != nil || one:
				return err
			case !yes:
				return usageError{errors.New("nothing is changed: say --yes to make this node a cluster of one")}
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s is a cluster of one, start it as before\n", r.Node)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", appliance.DefaultConfigFile, "the node's config")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it, and do not only say what it costs")
	o.printable(cmd)
	return group("cluster", "what concerns all nodes at once", cmd, formatCommand(o))
}

// recoveryCosts says what a recovery costs, in sentences.
func recoveryCosts(r cluster.RecoverReport) []string {
	if len(r.Lost) == 0 && r.Voter {
		return []string{r.Node + " is a cluster of one already: there is nothing to recover"}
	}
	list := []string{
		"members that are given up: " + strings.Join(r.Lost, ", ") + "; they are never let in again: wipe their data directories and join them under other names",
		fmt.Sprintf("the log of %s ends at entry %d of term %d; writes that only the others had are lost, and nobody can count them", r.Node, r.Last, r.Term),
	}
	if !r.Voter {
		list = append(list, r.Node+" was no voter: it had not caught up, and lacks whatever it did not get yet")
	}
	if n := r.Last - r.Committed; n > 0 {
		list = append(list, fmt.Sprintf("%d log entries, %d to %d, are not known here to be committed and become true: among them may be writes that were answered with an error", n, r.Committed+1, r.Last))
	}
	if r.Lacking == 0 {
		return append(list, "every named blob is on this disk")
	}
	return append(list, fmt.Sprintf("%d named blobs are not on this disk: casemate scrub lists them, importing or pushing them again repairs them", r.Lacking))
}

// oneSecret reads the one of two files that is given: of a passphrase its first line, of anything else all.
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

// whole is a file that gets its name when it is whole, or standard output.
type whole struct {
	io.Writer
	file *os.File // nil for standard output
	name string
	done bool
}

func createWhole(name string, stdout io.Writer) (*whole, error) {
	if name == "-" {
		return &whole{Writer: stdout}, nil
	}
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		return nil, usageError{fmt.Errorf("%s is not a file", name)}
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part") // mode 0600
	if err != nil {
		return nil, err
	}
	return &whole{Writer: f, file: f, name: name}, nil
}

// finish makes the bytes durable, and then the name.
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

// giveUp takes away what finish has not finished.
func (w *whole) giveUp() {
	if w.file != nil && !w.done {
		w.file.Close()
		os.Remove(w.file.Name())
	}
}
