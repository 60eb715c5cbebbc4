package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func decode(r io.Reader, v any) error {
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

func caCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "print the root certificates, PEM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := o.client().do(cmd.Context(), http.MethodGet, "ca", nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
			return err
		},
	}
	var finish bool
	rotate := &cobra.Command{
		Use: "rotate", Short: "make a second root; both are handed out until rotate --finish", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.client().call(cmd.Context(), "POST", "ca/rotate", nil, map[string]bool{"finish": finish}, nil); err != nil {
				return err
			}
			if finish {
				fmt.Fprintln(cmd.ErrOrStderr(), "the old root is dropped: only the new one is handed out and used")
				return nil
			}
			resp, err := o.client().do(cmd.Context(), http.MethodGet, "ca", nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			roots, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if bytes.Count(roots, []byte("BEGIN CERTIFICATE")) == 1 {
				fmt.Fprintln(cmd.ErrOrStderr(), "a constrained root stands below the enterprise's CA certificate now, and that "+
					"one's key is destroyed: clients trust what they trusted, there is nothing to finish")
				return nil
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "\"casemate ca\" now prints two roots: install both on every node, then run "+
				"\"casemate ca rotate --finish\"")
			return nil
		},
	}
	rotate.Flags().BoolVar(&finish, "finish", false, "every node trusts the new root: drop the old one")
	cmd.AddCommand(rotate)
	return cmd
}

func certCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the certificates that were issued by hand", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var certs []struct {
				Serial    string    `json:"serial"`
				Names     []string  `json:"names"`
				NotBefore time.Time `json:"not_before"`
				NotAfter  time.Time `json:"not_after"`
				Revoked   time.Time `json:"revoked"`
			}
			if err := o.client().call(cmd.Context(), "GET", "certs", nil, nil, &certs); err != nil {
				return err
			}
			return o.print(cmd, certs, func(t *table) {
				t.line("SERIAL", "EXPIRES", "REVOKED", "NAMES")
				for _, c := range certs {
					t.line(c.Serial, when(c.NotAfter), when(c.Revoked), strings.Join(c.Names, " "))
				}
			})
		},
	}
	o.printable(list)
	var names []string
	var csr, out string
	issue := &cobra.Command{
		Use: "issue --name NAME…", Short: "issue a certificate for something else inside the gap", Args: cobra.NoArgs,
		Long: `Issue a certificate for something else inside the gap.

Without --csr a key is made and written beside the certificate; with --csr the key stays where it is.
The certificate and its chain are written to NAME.crt and the key to NAME.key (mode 0600) in --out, or printed if --out is -.`,
		Example: "  casemate cert issue --name harbor.bank.internal --out /etc/ssl/harbor",
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := map[string]any{"names": names}
			if csr != "" {
				text, err := os.ReadFile(csr)
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
			var c struct{ Serial, Certificate, Chain, Key string }
			if err := o.client().call(cmd.Context(), "POST", "certs", nil, in, &c); err != nil {
				return err
			}
			if out == "-" {
				_, err := io.WriteString(cmd.OutOrStdout(), c.Certificate+c.Chain+c.Key)
				return err
			}
			base := c.Serial
			if len(names) > 0 {
				base = strings.NewReplacer("*", "_", "/", "_", ":", "_").Replace(names[0])
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			for _, f := range []struct {
				ext, text string
				mode      os.FileMode
			}{{".key", c.Key, 0o600}, {".crt", c.Certificate + c.Chain, 0o644}} {
				if f.text == "" {
					continue
				}
				name := filepath.Join(out, base+f.ext)
				if err := writeFile(name, f.text, f.mode); err != nil {
					return fmt.Errorf("certificate %s is issued but cannot be written: %w", c.Serial, err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return nil
		},
	}
	issue.Flags().StringSliceVar(&names, "name", nil, "DNS name or IP address; may be repeated")
	issue.Flags().StringVar(&csr, "csr", "", "certificate signing request (PKCS#10, PEM)")
	issue.Flags().StringVar(&out, "out", ".", "directory for the files, or - for standard output")
	revoke := &cobra.Command{
		Use: "revoke SERIAL", Short: "revoke a certificate; the CRL says so at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.client().call(cmd.Context(), "POST", "certs/"+seg(args[0])+"/revoke", nil, nil, nil)
		},
	}
	return group("cert", "certificates for other things inside the gap", issue, list, revoke)
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

// writeFile writes a new file and replaces an old one, never leaving half of it.
func writeFile(name, text string, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".casemate-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
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

func userCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the users", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var users []struct {
				Name    string    `json:"name"`
				Changed time.Time `json:"changed"`
			}
			if err := o.client().call(cmd.Context(), "GET", "users", nil, nil, &users); err != nil {
				return err
			}
			return o.print(cmd, users, func(t *table) {
				t.line("USER", "PASSWORD SET")
				for _, u := range users {
					t.line(u.Name, when(u.Changed))
				}
			})
		},
	}
	o.printable(list)
	withPassword := func(use, short string, do func(cmd *cobra.Command, name, password string) error) *cobra.Command {
		var stdin bool
		cmd := &cobra.Command{
			Use: use, Short: short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				password, err := readPassword(cmd, stdin)
				if err != nil {
					return err
				}
				return do(cmd, args[0], password)
			},
		}
		cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from the first line of standard input")
		return cmd
	}
	add := withPassword("add NAME", "add a user who may push", func(cmd *cobra.Command, name, password string) error {
		return o.client().call(cmd.Context(), "POST", "users", nil, map[string]string{"name": name, "password": password}, nil)
	})
	passwd := withPassword("passwd NAME", "change a user's password", func(cmd *cobra.Command, name, password string) error {
		return o.client().call(cmd.Context(), "PUT", "users/"+seg(name), nil, map[string]string{"password": password}, nil)
	})
	remove := &cobra.Command{
		Use: "remove NAME", Short: "remove a user", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.client().call(cmd.Context(), "DELETE", "users/"+seg(args[0]), nil, nil, nil)
		},
	}
	return group("user", "who may push", add, passwd, list, remove)
}

// readPassword reads a password from standard input, or asks for it twice on a terminal.
func readPassword(cmd *cobra.Command, stdin bool) (string, error) {
	if stdin {
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4096)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", err
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", usageError{fmt.Errorf("the password on standard input is empty")}
		}
		return line, nil
	}
	f, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usageError{errNoPassword}
	}
	var twice [2]string
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return "", err
		}
		twice[i] = string(text)
	}
	if twice[0] != twice[1] {
		return "", usageError{fmt.Errorf("the two passwords differ")}
	}
	return twice[0], nil
}
