package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/service"
)

// rootInfo is a root certificate.
type rootInfo struct {
	Subject   string    `json:"subject"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"` // of the certificate, hex
	PEM       string    `json:"pem"`
	// What its name constraints permit and exclude: zones and CIDRs.
	Permitted []string `json:"permitted"`
	Excluded  []string `json:"excluded"`
	File      string   `json:"file,omitempty"` // written with --out-dir
}

// constrained are zones and ranges of a certificate as rotate and init take them. Entries that no name and no host can
// have, which some verifiers need, are left out.
func constrained(zones []string, ranges []*net.IPNet) []string {
	list := []string{}
	for _, z := range zones {
		if z != "invalid" && !strings.HasSuffix(z, ".invalid") {
			list = append(list, z)
		}
	}
	for _, r := range ranges {
		if s := r.String(); s != "255.255.255.255/32" && s != "f000::/128" {
			list = append(list, s)
		}
	}
	return list
}

// roots returns the CA's current root certificates, as PEM and parsed.
func (o *options) roots(cmd *cobra.Command) (text []byte, roots []rootInfo, err error) {
	resp, err := o.client().do(cmd.Context(), http.MethodGet, "ca", nil, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20)); err != nil {
		return nil, nil, err
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return text, roots, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("read the daemon's answer: %w", err)
		}
		roots = append(roots, rootInfo{
			c.Subject.String(), c.NotBefore, c.NotAfter,
			fmt.Sprintf("%x", sha256.Sum256(c.Raw)), string(pem.EncodeToMemory(block)),
			constrained(c.PermittedDNSDomains, c.PermittedIPRanges),
			constrained(c.ExcludedDNSDomains, c.ExcludedIPRanges), "",
		})
	}
}

// rotateRequest is the body of POST /v1/ca/rotate.
type rotateRequest struct {
	Permit  []string `json:"permit,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	Drop    []string `json:"drop,omitempty"`
	Own     bool     `json:"own,omitempty"`
	Finish  bool     `json:"finish,omitempty"`
	Undo    bool     `json:"undo,omitempty"`
	Yes     bool     `json:"yes,omitempty"`
}

func caRotate(o *options) *cobra.Command {
	var in rotateRequest
	d := &deletion{o: o}
	cmd := &cobra.Command{
		Use: "rotate", Short: "replace the CA's root certificate in two steps", Args: cobra.NoArgs,
		Long: `Replace the CA's root certificate. The first call makes a second root, which
permits what the first does, changed by --permit, --exclude and --drop. "casemate
ca", /ca.crt and the enroll script give nodes both, and nodes that trust only one
of them keep working. With --finish the old root is dropped: not before the
overlap (setting pki.overlap) is over, and not while a client that was here
within 24 hours has not fetched the new root, unless --yes is given. In a script,
--finish --dry-run fails as long as nodes would be cut off; --finish --yes follows.

--undo reverts the last step. For 30 days that can be a --finish: nodes then get
both roots again. Or it is a rotation that was never finished: the old root then
signs again.

Where an enterprise's CA certificate signs (setting pki.issuer), a change leaves
it for a root of our own; --leave-issuer does so without another change.`,
		Example: "  casemate ca rotate --permit bank.example --exclude payments.bank.example\n" +
			"  casemate ca rotate --finish",
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes := len(in.Permit)+len(in.Exclude)+len(in.Drop) > 0 || in.Own
			if in.Finish && in.Undo || changes && (in.Finish || in.Undo) {
				return usageError{fmt.Errorf("ca rotate takes one step at a time: --finish, --undo, or a new root " +
					"with " +
					"--permit, --exclude, --drop and --leave-issuer")}
			}
			if d.yes = in.Yes; in.Finish {
				if err := d.check(cmd); err != nil {
					return err
				}
			} else if d.dryRun {
				return usageError{errors.New("--dry-run is for --finish: the other steps can be undone")}
			}
			before, _, err := o.roots(cmd)
			if err != nil {
				return err
			}
			var done struct{ Undone string }
			if in.Finish {
				if went, err := d.call(cmd, "POST", "ca/rotate", nil, in, &done); !went || err != nil {
					return err
				}
			} else if err := o.client().call(cmd.Context(), "POST", "ca/rotate", nil, in, &done); err != nil {
				return err
			}
			text, roots, err := o.roots(cmd)
			if err != nil {
				return err
			}
			sentence :=
				`"casemate ca" now prints two roots: install both on every node (run the line of casemate enroll ` +
					`there again), then run "casemate ca rotate --finish"; "casemate ca rotate --undo" undoes this step`
			switch {
			case in.Finish:
				sentence = `the old root is dropped: clients must trust the new one; for 30 days ` +
					`"casemate ca rotate --undo" distributes both again`
			case done.Undone == "finish":
				sentence = `both roots are distributed again: nodes that trust only the old one keep working; ` +
					`run "casemate ca rotate --finish" when every node trusts the new one`
			case done.Undone == "rotation":
				sentence = "the old root signs again, the new one is dropped: remove it from nodes where it was " +
					"installed"
			case bytes.Equal(before, text):
				sentence = "a constrained root below the enterprise's CA certificate signs from now on, and the key " +
					"of that " +
					"certificate is destroyed; clients trust the same root as before, and there is nothing to finish"
			}
			return o.changedTo(cmd, roots, sentence)
		},
	}
	f := cmd.Flags()
	zonesVar(f, &in.Permit, "permit", "additional `ZONE` or CIDR that the new root permits; may be repeated")
	zonesVar(f, &in.Exclude, "exclude", "additional `ZONE` or CIDR that the new root excludes; may be repeated")
	zonesVar(f, &in.Drop, "drop", "`ZONE` or CIDR that the new root neither permits nor excludes; may be repeated")
	f.BoolVar(&in.Own, "leave-issuer", false, "leave an enterprise's CA certificate for a root of our own")
	f.BoolVar(&in.Finish, "finish", false, "drop the old root; every node has to trust the new one already")
	f.BoolVar(&in.Undo, "undo", false, "undo the last step, a --finish or a rotation that was not finished")
	f.BoolVar(&in.Yes, "yes", false, "continue without asking, and although nodes may be cut off")
	d.flags(cmd, &in.Yes)
	o.prints(cmd, []rootInfo{})
	return cmd
}

type certInfo struct {
	Serial    string    `json:"serial"`
	Names     []string  `json:"names"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

func certCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the certificates that were issued with cert issue", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var certs []certInfo
			if err := o.client().call(cmd.Context(), "GET", "certs", nil, nil, &certs); err != nil {
				return err
			}
			header := []any{"SERIAL", "EXPIRES", "REVOKED", "NAMES"}
			return o.printRows(cmd, certs, "no certificates were issued", header, func(t *table) {
				for _, c := range certs {
					t.row(c.Serial, t.when(c.NotAfter), t.when(c.Revoked), strings.Join(c.Names, " "))
				}
			})
		},
	}
	o.printsTimes(list, []certInfo{})
	var d *deletion
	revoke := &cobra.Command{
		Use: "revoke SERIAL", Short: "revoke a certificate", Args: cobra.ExactArgs(1),
		Long:              "Revoke a certificate. The certificate revocation list (CRL) contains it at once.",
		ValidArgsFunction: o.complete(theCerts),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := d.call(cmd, "POST", "certs/"+seg(args[0])+"/revoke", nil, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theCerts, args[0])
			}
			return o.changed(cmd, "certificate", args[0], "revoked")
		},
	}
	d = o.deletes(revoke)
	o.prints(revoke, change{})
	return group("cert", "issue and revoke certificates for other services inside the gap", certIssue(o), list, revoke)
}

// issued is a certificate that was issued: the names of its files, or with --dir - the texts.
type issued struct {
	Serial          string   `json:"serial"`
	Names           []string `json:"names"`
	CertificateFile string   `json:"certificate_file,omitempty"`
	KeyFile         string   `json:"key_file,omitempty"`
	Certificate     string   `json:"certificate,omitempty"` // PEM
	Chain           string   `json:"chain,omitempty"`       // PEM
	Key             string   `json:"key,omitempty"`         // PEM
}

func certIssue(o *options) *cobra.Command {
	var names []string
	var csr, dir string
	var force bool
	cmd := &cobra.Command{
		Use: "issue --name NAME…", Short: "issue a certificate for another service inside the gap", Args: cobra.NoArgs,
		Long: `Issue a certificate for another service inside the gap.

Without --csr a key is made too. The certificate with its chain is written to
NAME.crt in --dir and the key to NAME.key (mode 0600); with --dir - both are
printed. Files that exist are replaced only with --force.`,
		Example: "  casemate cert issue --name harbor.bank.internal --dir /etc/ssl/harbor",
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := map[string]any{"names": names}
			if csr != "" {
				text, err := readRequest(csr)
				if err != nil {
					return err
				}
				in["csr"] = string(text)
				if len(names) == 0 {
					names = csrNames(text)
				}
			} else if len(names) == 0 {
				return usageError{fmt.Errorf("cert issue needs --name or --csr")}
			}
			base := func(name string) string {
				return filepath.Join(dir, strings.NewReplacer("*", "_", "/", "_", ":", "_").Replace(name))
			}
			if len(names) > 0 && dir != "-" && !force {
				list := []string{base(names[0]) + ".crt"}
				if csr == "" {
					list = append(list, base(names[0])+".key")
				}
				if err := refuseExisting(list...); err != nil {
					return err
				}
			}
			var c struct{ Serial, Certificate, Chain, Key string }
			if err := o.client().call(cmd.Context(), "POST", "certs", nil, in, &c); err != nil {
				return err
			}
			out := issued{Serial: c.Serial, Names: notNil(names)}
			if dir == "-" {
				out.Certificate, out.Chain, out.Key = c.Certificate, c.Chain, c.Key
				if o.json() {
					return printJSON(cmd.OutOrStdout(), out)
				}
				_, err := io.WriteString(cmd.OutOrStdout(), c.Certificate+c.Chain+c.Key)
				return err
			}
			file := base(c.Serial)
			if len(names) > 0 {
				file = base(names[0])
			}
			if err := service.MakeParents(dir); err != nil {
				return err
			}
			for _, f := range []struct {
				ext, text string
				mode      os.FileMode
				name      *string
			}{{".key", c.Key, 0o600, &out.KeyFile}, {".crt", c.Certificate + c.Chain, 0o644, &out.CertificateFile}} {
				if f.text == "" {
					continue
				}
				name := file + f.ext
				if err := writeFile(name, f.text, f.mode); err != nil {
					return fmt.Errorf("certificate %s is issued but cannot be written: %w", c.Serial, err)
				}
				*f.name = name
			}
			return o.print(cmd, out, func(t *table) {
				for _, name := range []string{out.KeyFile, out.CertificateFile} {
					if name != "" {
						t.line(name)
					}
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&names, "name", nil, "DNS `NAME` or IP address; may be repeated")
	f.StringVar(&csr, "csr", "", "certificate signing request `FILE` (PKCS#10, PEM or DER): its key is certified")
	f.StringVar(&dir, "dir", ".", "write the files to this `DIRECTORY`, or to standard output with -")
	f.BoolVar(&force, "force", false, "replace files that exist")
	oldName(f, "out", "dir")
	cmd.MarkFlagFilename("csr", "csr", "pem")
	cmd.MarkFlagDirname("dir")
	o.prints(cmd, issued{})
	return cmd
}

// readRequest reads a certificate signing request, and returns it as PEM: what is no PEM must be the same in DER.
func readRequest(name string) ([]byte, error) {
	data, err := readSmall(name)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		return data, nil // what is wrong with it says the CA
	}
	if _, err := x509.ParseCertificateRequest(data); err != nil {
		return nil, usageError{fmt.Errorf("%s is no certificate signing request (PKCS#10), neither PEM nor DER; "+
			"openssl req "+
			"-new -key KEY -subj /CN=NAME -addext subjectAltName=DNS:NAME makes one", name)}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: data}), nil
}

// refuseExisting is an error if a file is there already, or a link with its name.
func refuseExisting(names ...string) error {
	for _, name := range names {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s exists and nothing was issued: name another --dir, or replace it with --force: %w",
				name,
				fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// csrNames returns the names in a PEM request, for the name of the file.
func csrNames(text []byte) []string {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil
	}
	return req.DNSNames
}

// writeFile writes a file, replacing an old one atomically.
func writeFile(name, text string, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".casemate-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // does nothing after the rename
	if err := f.Chmod(mode); err != nil {
		f.Close()
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
