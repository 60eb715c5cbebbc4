package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type whoami struct {
	Name    string    `json:"name"`
	How     string    `json:"how"`
	Roles   []grant   `json:"roles"`
	Groups  []string  `json:"groups,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

func whoamiCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "whoami", Short: "print who you are to the daemon, and what you may do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var w whoami
			if err := o.client().call(cmd.Context(), "GET", "whoami", nil, nil, &w); err != nil {
				return err
			}
			return o.print(cmd, w, func(t *table) {
				t.line("name", w.Name)
				t.line("proved by", w.How)
				t.line("roles", describeGrants(w.Roles))
				if len(w.Groups) > 0 {
					t.line("by groups", strings.Join(w.Groups, ", "))
				}
				if !w.Expires.IsZero() {
					t.line("until", t.when(w.Expires))
				}
			})
		},
	}
	o.printsTimes(cmd, whoami{})
	return cmd
}

// login is the result of casemate login.
type login struct {
	Server  string    `json:"server"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires,omitzero"`
}

func loginCommand(o *options) *cobra.Command {
	var user string
	var password, key, openID bool
	var life time.Duration
	cmd := &cobra.Command{
		Use: "login --server URL", Short: "log in to a bastion over https", Args: cobra.NoArgs,
		Long: `Log in to a bastion over https, with a user and the password (also of the LDAP
directory), with an API key, or at the OpenID provider, in a browser on any host.
Commands with the same --server (or CASEMATE_SERVER) then need no password. What is
stored is not the password but a key of its own for this login, which ends after 12
hours, by "casemate logout", and with the user. It is in a file that only you can
read, casemate/servers.json below ~/.config. The server's certificate must be one that
this host trusts, or that --ca vouches for, which is stored, too.`,
		Example: `  casemate login --server https://casemate.internal --user ada
  casemate login --server https://casemate.internal --oidc
  casemate login --server https://n1.casemate.internal --key-stdin --ca root.pem < ci.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.server == "" {
				return usageError{errors.New("casemate login needs --server, like https://casemate.internal; " +
					"on the bastion itself no login is needed")}
			}
			if password && key || openID && (password || key || user != "" || life > 0) {
				return usageError{errors.New("casemate login takes --password-stdin, --key-stdin or --oidc, " +
					"and --user and --ttl only with a password")}
			}
			c := o.client()
			if c.wrong != nil {
				return c.wrong
			}
			e := entry{CA: c.ca}
			var err error
			switch {
			case openID:
				k, err := c.loginOIDC(cmd)
				if err != nil {
					return err
				}
				e.Key, e.Login = k.Key, k.Name
				c.authorize("Bearer " + e.Key)
			case key:
				e.Key, err = secretLine(cmd, "API key: ", true)
				if err != nil {
					return err
				}
				c.authorize("Bearer " + e.Key)
			default:
				if user, err = nameOf(cmd, user); err != nil {
					return err
				}
				secret, err := secretLine(cmd, "Password: ", password)
				if err != nil {
					return err
				}
				c.basic(user, secret)
				in := map[string]string{}
				if life > 0 {
					in["ttl"] = life.String()
				}
				var k newKey
				if err := c.call(cmd.Context(), "POST", "login", nil, in, &k); err != nil {
					return err
				}
				e.Key, e.Login = k.Key, k.Name
				c.authorize("Bearer " + e.Key)
			}
			var w whoami
			if err := c.call(cmd.Context(), "GET", "whoami", nil, nil, &w); err != nil {
				return err
			}
			if err := keep(c.server.String(), &e); err != nil {
				return err
			}
			return o.changedTo(cmd, login{c.server.String(), w.Name, w.Expires},
				fmt.Sprintf("logged in to %s as %s, with the roles %s", c.server, w.Name, describeGrants(w.Roles)))
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "`NAME` of the user")
	cmd.Flags().BoolVar(&password, "password-stdin", false, "read the password from the first line of standard input")
	cmd.Flags().BoolVar(&key, "key-stdin", false, "read an API key from the first line of standard input")
	cmd.Flags().BoolVar(&openID, "oidc", false, "log in at the OpenID provider, in a browser on any host")
	durationVar(cmd.Flags(), &life, "ttl", "the login ends after `DURATION`, at most 12h (default: 12h)")
	o.prints(cmd, login{})
	return cmd
}

func logoutCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "logout --server URL", Short: "end a login", Args: cobra.NoArgs,
		Long: `End a login: its key is revoked on the bastion and removed from this host. An API
key that was given to "casemate login --key-stdin" is only removed from this host.`,
		Example: "  casemate logout --server https://casemate.internal",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.server == "" {
				return usageError{errors.New("casemate logout needs --server, like https://casemate.internal")}
			}
			c := o.client()
			if c.wrong != nil {
				return c.wrong
			}
			e, err := kept(c.server.String())
			if err != nil {
				return err
			}
			if e == nil {
				return fmt.Errorf("there is no login to %s", c.server)
			}
			if e.Login != "" {
				err = c.call(cmd.Context(), "DELETE", "apikeys/"+seg(e.Login), nil, nil, nil)
				var answer *apiError
				if errors.As(err, &answer) && (answer.status == 401 || answer.status == 404) {
					err = nil // it has ended already
				}
			}
			if err := errors.Join(err, keep(c.server.String(), nil)); err != nil {
				return err
			}
			return o.changed(cmd, "login to", c.server.String(), "ended")
		},
	}
	o.prints(cmd, change{})
	return cmd
}

// nameOf asks for a user's name on a terminal if none was given.
func nameOf(cmd *cobra.Command, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	f, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usageError{errors.New("no user: name one with --user, or use --key-stdin")}
	}
	fmt.Fprint(cmd.ErrOrStderr(), "User: ")
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadString('\n')
	if line = strings.TrimSpace(line); err != nil || line == "" {
		return "", usageError{errors.New("no user was given")}
	}
	return line, nil
}

// secretLine reads a secret from the first line of standard input, or asks for it on a terminal.
func secretLine(cmd *cobra.Command, prompt string, stdin bool) (string, error) {
	f, ok := cmd.InOrStdin().(*os.File)
	if stdin || !ok || !term.IsTerminal(int(f.Fd())) {
		if !stdin {
			return "", usageError{errNoPassword}
		}
		return readPassword(cmd, true)
	}
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	text, err := promptPassword(cmd.Context(), int(f.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	return string(text), err
}
