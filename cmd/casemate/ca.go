package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"casemate/appliance/service"
)

func caCommand(o *options) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "ca", Short: "print the CA's root certificates, PEM", Args: cobra.ArbitraryArgs,
		Long: `Print the CA's root certificates, PEM: one, and two during a rotation.

Some trust stores take one certificate a file: update-ca-certificates (Debian,
Ubuntu) skips a file with two. With --out-dir each root is written to a file of its
own, casemate-FINGERPRINT.crt.`,
		Example: "  casemate ca --out-dir /usr/local/share/ca-certificates",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return needsCommand(cmd, args)
			}
			text, roots, err := o.roots(cmd)
			if err != nil {
				return err
			}
			if dir != "" {
				return o.writeRoots(cmd, dir, roots)
			}
			if o.output == "json" {
				return printJSON(cmd.OutOrStdout(), roots)
			}
			if _, err = cmd.OutOrStdout().Write(text); err == nil && len(roots) > 1 {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: these are %d roots; update-ca-certificates skips a file with "+
					"more than one certificate: casemate ca --out-dir DIR writes a file for each\n", len(roots))
			}
			return err
		},
	}
	o.printsText(cmd, "pem", []rootInfo{})
	cmd.Flags().StringVar(&dir, "out-dir", "", "write each root to a file of its own in this `DIRECTORY`")
	cmd.MarkFlagDirname("out-dir")
	cmd.AddCommand(caRotate(o))
	return cmd
}

// rootFiles matches the files that writeRoots writes.
const rootFiles = "casemate-????????????????.crt"

// writeRoots writes each root to a file of its own, and names files of roots that are in use no more.
func (o *options) writeRoots(cmd *cobra.Command, dir string, roots []rootInfo) error {
	if err := service.MakeParents(dir); err != nil {
		return err
	}
	var written []string
	for i := range roots {
		roots[i].File = filepath.Join(dir, fmt.Sprintf("casemate-%.16s.crt", roots[i].SHA256))
		if err := writeFile(roots[i].File, roots[i].PEM, 0o644); err != nil {
			return err
		}
		written = append(written, roots[i].File)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if ours, _ := filepath.Match(rootFiles, e.Name()); ours && !slices.Contains(written, name) {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: %s is not a root of this cluster now: remove it if it is of an "+
				"earlier rotation\n", name)
		}
	}
	if o.json() {
		return printJSON(cmd.OutOrStdout(), roots)
	}
	for _, name := range written {
		fmt.Fprintln(cmd.OutOrStdout(), name)
	}
	return nil
}
