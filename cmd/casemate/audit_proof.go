package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"casemate/appliance/audit"
	"casemate/appliance/audit/proof"
)

func auditCheckpointCommand(o *options) *cobra.Command {
	var asQR bool
	cmd := &cobra.Command{
		Use: "checkpoint", Short: "print a signed checkpoint of the audit log", Args: cobra.NoArgs,
		Long: `Print a signed checkpoint of the audit log: a few lines that fix all events so far.
Keep them where no administrator of the bastions can change them, on paper or with
an auditor. "casemate audit verify --checkpoint" proves later that nothing before it
was changed, dropped or moved. --qr prints it as a QR code, to be photographed from
a screen with light letters on a dark background.

The lines are a checkpoint in the form of C2SP tlog-checkpoint: the name of the log,
the number of events, a hash, and a signature. Witnesses may add theirs.`,
		Example: `  casemate audit checkpoint > checkpoint-2026-01-31.txt
  casemate audit checkpoint --qr`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var c audit.Checkpoint
			if err := o.client().call(cmd.Context(), "GET", "audit/checkpoint", nil, nil, &c); err != nil {
				return err
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), c)
			}
			if !asQR {
				_, err := io.WriteString(cmd.OutOrStdout(), c.Checkpoint)
				return err
			}
			code, err := qr.Encode(c.Checkpoint, qr.M)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), halfBlocks(code.Size, code.Black))
			return err
		},
	}
	cmd.Flags().BoolVar(&asQR, "qr", false, "print it as a QR code")
	o.printsText(cmd, "text", audit.Checkpoint{})
	return cmd
}

// halfBlocks draws a square of modules with a margin, two rows a line. Light modules are the letters.
func halfBlocks(size int, black func(x, y int) bool) string {
	const margin = 4 // ISO/IEC 18004, 5.3.8
	light := func(x, y int) bool { return x < 0 || y < 0 || x >= size || y >= size || !black(x, y) }
	var b strings.Builder
	for y := -margin; y < size+margin; y += 2 {
		for x := -margin; x < size+margin; x++ {
			switch up, down := light(x, y), light(x, y+1); {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func auditKeyCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "print the public key of the audit log", Args: cobra.NoArgs,
		Long: `Print the public key that verifies the checkpoints of the audit log. Keep it with
them: "casemate audit verify --key" uses it.`,
		Example: "  casemate audit key > audit.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var c audit.Checkpoint
			if err := o.client().call(cmd.Context(), "GET", "audit/checkpoint", nil, nil, &c); err != nil {
				return err
			}
			return o.print(cmd, auditKey{c.Key}, func(t *table) { t.line(c.Key) })
		},
	}
	o.printsText(cmd, "text", auditKey{})
	return cmd
}

type auditKey struct {
	Key string `json:"key"`
}

func auditExportCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "export FILE", Short: "write the whole audit log to a file", Args: cobra.ExactArgs(1),
		Long: `Write the whole audit log to FILE (- is standard output), one event a line in JSON,
with what "casemate audit verify FILE" needs to verify it on any machine. The last
line is the checkpoint.

FILE appears when it is complete.`,
		Example: "  casemate audit export /mnt/audit/2026-01.ndjson",
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := createWhole("the audit log", args[0], cmd.OutOrStdout())
			if err != nil {
				return err
			}
			defer out.giveUp()
			resp, err := o.client().do(cmd.Context(), "GET", "audit/export", nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			n, err := io.Copy(out, resp.Body)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the daemon cut the answer off, its log gives the reason")
			}
			if err == nil {
				err = out.finish()
			}
			if err != nil {
				return err
			}
			if out.file == nil {
				cmd.SetOut(cmd.ErrOrStderr()) // standard output has the log
			}
			return o.print(cmd, auditExport{args[0], n}, func(t *table) { t.line(args[0] + ": " + size(n)) })
		},
	}
	o.prints(cmd, auditExport{})
	return cmd
}

type auditExport struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

func auditVerifyCommand(o *options) *cobra.Command {
	var checkpoints, keys []string
	cmd := &cobra.Command{
		Use: "verify [FILE]", Short: "prove that the audit log is unchanged", Args: cobra.MaximumNArgs(1),
		Long: `Verify the audit log of FILE, which "casemate audit export" has written, or without
FILE that of the daemon. This needs no daemon with FILE, and works on any machine.

Every event is compared with the log's own checkpoint. With --checkpoint, which may
be repeated, it is also proven that the log continues an older checkpoint: nothing
before it was changed, dropped or moved, not even by who has the key of the log. A
cluster that was restored from a backup, or recovered, has a break in its log: the
events after that copy are missing, and the event at the break has the reason.

Exit code 0: the log is intact. 3: it is not.`,
		Example: `  casemate audit verify --checkpoint checkpoint-2026-01-31.txt
  casemate audit verify 2026-01.ndjson --checkpoint old.txt --key audit.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var opt proof.Options
			for _, name := range checkpoints {
				text, err := readFile(cmd, name)
				if err != nil {
					return err
				}
				opt.Checkpoints = append(opt.Checkpoints, []byte(text))
			}
			if len(keys) > 1 {
				return usageError{errors.New("a log has one key: give --key once")}
			}
			for _, name := range keys {
				text, err := readFile(cmd, name)
				if err != nil {
					return err
				}
				opt.Key = strings.TrimSpace(text)
			}
			in, err := o.auditLog(cmd, args)
			if err != nil {
				return err
			}
			defer in.Close()
			r, err := proof.Verify(in, opt)
			if err != nil {
				return err
			}
			err = o.print(cmd, r, func(t *table) {
				t.line("log", r.Origin)
				t.line("key", r.Key)
				text := count(r.Events, "event")
				if r.Dropped > 0 {
					text += fmt.Sprintf(", of %d only the hashes", r.Dropped)
				}
				if !r.Last.IsZero() {
					text += ", the newest of " + t.when(r.Last)
				}
				t.line("events", text)
				for _, n := range r.Proven {
					t.line("proven", fmt.Sprintf("the log continues the checkpoint of %s", count(n, "event")))
				}
				for _, b := range r.Breaks {
					t.line("break", fmt.Sprintf("event %d, %s: %s, %s", b.N, t.when(b.Time), b.Verb, b.Old))
				}
				for _, f := range r.Faults {
					t.line("wrong", f)
				}
			})
			if err == nil && len(r.Faults) > 0 {
				err = fmt.Errorf("the audit log is not intact: %w", errDiffers)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&checkpoints, "checkpoint", nil, "`FILE` with an older checkpoint that the log must continue")
	f.StringArrayVar(&keys, "key", nil, "`FILE` with the log's public key; without it, the log's own is taken")
	o.printsTimes(cmd, proof.Report{})
	return cmd
}

// auditLog opens an exported log, or the daemon's.
func (o *options) auditLog(cmd *cobra.Command, args []string) (io.ReadCloser, error) {
	if len(args) == 1 {
		return os.Open(args[0])
	}
	resp, err := o.client().do(cmd.Context(), "GET", "audit/export", nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func auditForwardCommand(o *options) *cobra.Command {
	var ca string
	set := &cobra.Command{
		Use: "set URL", Short: "send every event to a syslog receiver", Args: cobra.ExactArgs(1),
		Long: `Send every event of the audit log to a syslog receiver: tls://HOST[:6514] or
tcp://HOST[:514], in the form of RFC 5424 with octet counting (RFC 5425, RFC 6587).
The text of a message is the event in JSON.

Everything that is in the log is sent, and what comes. A receiver that is down blocks
nothing, is an event itself, and gets everything when it is back; it may get some
events twice, and knows them by their number.`,
		Example: "  casemate audit forward set tls://logs.example --ca logs-ca.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			if ca != "" {
				pem, err := readFile(cmd, ca)
				if err != nil {
					return err
				}
				if err := o.set(cmd, "audit.forward_ca", pem); err != nil {
					return err
				}
			}
			if err := o.set(cmd, "audit.forward", args[0]); err != nil {
				return err
			}
			return o.changed(cmd, "audit log", "", "forwarded to "+args[0])
		},
	}
	set.Flags().StringVar(&ca, "ca", "", "`FILE` with the roots that are trusted for the receiver, PEM")
	o.prints(set, change{})
	show := &cobra.Command{
		Use: "show", Short: "show where events are sent, and how far", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s audit.ForwardStatus
			if err := o.client().call(cmd.Context(), "GET", "audit/forward", nil, nil, &s); err != nil {
				return err
			}
			return o.print(cmd, s, func(t *table) {
				if s.Target == "" {
					t.line("events are not forwarded")
					return
				}
				t.line("receiver", s.Target)
				t.line("behind", count(s.Behind, "event"))
				if s.Error != "" {
					t.line("error", fmt.Sprintf("since %s: %s", t.when(s.Since), s.Error))
				}
			})
		},
	}
	o.printsTimes(show, audit.ForwardStatus{})
	off := &cobra.Command{
		Use: "off", Short: "stop sending events", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, key := range []string{"audit.forward", "audit.forward_ca"} {
				if err := o.client().call(cmd.Context(), "DELETE", "settings/"+seg(key), nil, nil, nil); err != nil {
					return err
				}
			}
			return o.changed(cmd, "audit log", "", "not forwarded any more")
		},
	}
	o.prints(off, change{})
	return group("forward", "send the audit log to a syslog receiver", set, show, off)
}

// set changes a setting.
func (o *options) set(cmd *cobra.Command, key, value string) error {
	in := map[string]string{"value": value}
	return o.client().call(cmd.Context(), "PUT", "settings/"+seg(key), nil, in, nil)
}
