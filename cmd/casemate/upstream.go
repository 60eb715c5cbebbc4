package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

type upstreamLogin struct {
	Host string `json:"host"`
	User string `json:"user"`
}

func upstreamCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the origins that have credentials", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var logins []upstreamLogin
			if err := o.client().call(cmd.Context(), "GET", "upstream/logins", nil, nil, &logins); err != nil {
				return err
			}
			return o.printRows(cmd, logins, "no logins", []any{"ORIGIN", "USER"}, func(t *table) {
				for _, l := range logins {
					t.row(l.Host, l.User)
				}
			})
		},
	}
	o.prints(list, []upstreamLogin{})
	logout := &cobra.Command{
		Use: "logout HOST", Short: "remove the credentials for an origin", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.complete(theLogins),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "upstream/logins/" + seg(args[0])
			if err := o.client().call(cmd.Context(), "DELETE", path, nil, nil, nil); err != nil {
				return o.suggest(cmd, err, theLogins, args[0])
			}
			return o.changed(cmd, "login", args[0], "removed")
		},
	}
	o.prints(logout, change{})
	return group("upstream", "manage the credentials for fetching from origins", upstreamLoginCommand(o), logout, list)
}

func upstreamLoginCommand(o *options) *cobra.Command {
	var user string
	var stdin bool
	cmd := &cobra.Command{
		Use: "login HOST --user NAME", Short: "set the credentials for an origin, for every node",
		Args: cobra.ExactArgs(1),
		Long: `Set the user and the password that the bastions fetch with from an origin
(setting upstream). They are stored sealed, are sent to that host over TLS only,
and are never shown.`,
		Example: "  casemate upstream login docker.io --user ci --password-stdin < token",
		RunE: func(cmd *cobra.Command, args []string) error {
			if user == "" {
				return usageError{fmt.Errorf("upstream login needs --user NAME")}
			}
			password, err := readPassword(cmd, stdin)
			if err != nil {
				return err
			}
			in := map[string]string{"user": user, "password": password}
			err = o.client().call(cmd.Context(), "PUT", "upstream/logins/"+seg(args[0]), nil, in, nil)
			if err != nil {
				return err
			}
			return o.changed(cmd, "login", args[0], "set")
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "the user's `NAME` at the origin")
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from the first line of standard input")
	o.prints(cmd, change{})
	return cmd
}
