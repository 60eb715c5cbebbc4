package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// userSource is where users come from that the cluster does not have itself.
type userSource struct {
	Source     string `json:"source"`
	Configured bool   `json:"configured"`
	Server     string `json:"server,omitempty"`
	Secret     bool   `json:"secret"`
	Problem    string `json:"problem,omitempty"`
}

// directoryUser is what the directory knows of a user.
type directoryUser struct {
	Name   string           `json:"name"`
	DN     string           `json:"dn"`
	Local  bool             `json:"local"`
	Groups []directoryGroup `json:"groups"`
	Cut    bool             `json:"cut"`
	Roles  []grant          `json:"roles"`
}

type directoryGroup struct {
	Name   string  `json:"name"`
	DN     string  `json:"dn"`
	Nested bool    `json:"nested"`
	Roles  []grant `json:"roles"`
}

// userSources are the sources of users, with what casemate directory login sets for each.
var userSources = []string{"ldap", "oidc"}

func directoryCommand(o *options) *cobra.Command {
	return group("directory", "users of an LDAP directory and of an OpenID provider", directoryShowCommand(o),
		directoryTestCommand(o), directoryLoginCommand(o), directoryLogoutCommand(o))
}

func directoryShowCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "show whether the directory and the provider answer", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []userSource
			if err := o.client().call(cmd.Context(), "GET", "directory", nil, nil, &list); err != nil {
				return err
			}
			header := []any{"SOURCE", "STATE", "SERVER", "SECRET"}
			return o.printRows(cmd, list, "no sources", header, func(t *table) {
				for _, s := range list {
					state := "answers"
					switch {
					case !s.Configured:
						state = "not configured"
					case s.Problem != "":
						state = s.Problem
					}
					secret := "none"
					if s.Secret {
						secret = "stored"
					}
					t.row(s.Source, state, s.Server, secret)
				}
			})
		},
	}
	o.prints(cmd, []userSource{})
	return cmd
}

func directoryTestCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "test USER", Short: "show what the LDAP directory knows of a user, and which roles follow",
		Args: cobra.ExactArgs(1),
		Long: `Ask the LDAP directory for a user, now: the entry, the groups with those that these
are in, and the roles that follow here. It changes nothing and needs no password of
the user.`,
		Example: "  casemate directory test ada",
		RunE: func(cmd *cobra.Command, args []string) error {
			var u directoryUser
			if err := o.client().call(cmd.Context(), "GET", "directory/users/"+seg(args[0]), nil, nil, &u); err != nil {
				return err
			}
			return o.print(cmd, u, func(t *table) {
				t.line("user", u.Name)
				t.line("entry", u.DN)
				for _, g := range u.Groups {
					text := fmt.Sprintf("%s: %s", g.Name, describeGrants(g.Roles))
					if g.Nested {
						text += ", through another group"
					}
					t.line("group", text)
				}
				if u.Cut {
					t.line("group", "more, nested too deeply or too many to be counted")
				}
				t.line("roles", describeGrants(u.Roles))
				if u.Local {
					t.line("note", "a user of the cluster has this name: logins with it need that user's password")
				}
			})
		},
	}
	o.prints(cmd, directoryUser{})
	return cmd
}

func directoryLoginCommand(o *options) *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{
		Use: "login ldap|oidc", Short: "set what the bastions log in with, for every node",
		Args: cobra.ExactArgs(1), ValidArgs: userSources,
		Long: `Set the password of ldap.bind_dn, or the secret of the client oidc.client at the
OpenID provider. It is stored sealed and never shown.`,
		Example: "  casemate directory login ldap --password-stdin < password",
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := readPassword(cmd, stdin)
			if err != nil {
				return err
			}
			in := map[string]string{"secret": password}
			err = o.client().call(cmd.Context(), "PUT", "directory/"+seg(args[0])+"/secret", nil, in, nil)
			if err != nil {
				return err
			}
			return o.changed(cmd, "secret for", args[0], "set")
		},
	}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read it from the first line of standard input")
	o.prints(cmd, change{})
	return cmd
}

func directoryLogoutCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "logout ldap|oidc", Short: "remove what the bastions log in with", Args: cobra.ExactArgs(1),
		ValidArgs: userSources,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := o.client().call(cmd.Context(), "DELETE", "directory/"+seg(args[0])+"/secret", nil, nil, nil)
			if err != nil {
				return err
			}
			return o.changed(cmd, "secret for", args[0], "removed")
		},
	}
	o.prints(cmd, change{})
	return cmd
}
