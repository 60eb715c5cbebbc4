package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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

type userInfo struct {
	Name    string    `json:"name"`
	Changed time.Time `json:"changed"`
	Roles   []grant   `json:"roles"`
}

func userCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the users", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var users []userInfo
			if err := o.client().call(cmd.Context(), "GET", "users", nil, nil, &users); err != nil {
				return err
			}
			return o.printRows(cmd, users, "no users", []any{"USER", "PASSWORD SET", "ROLES"}, func(t *table) {
				for _, u := range users {
					t.row(u.Name, t.when(u.Changed), describeGrants(u.Roles))
				}
			})
		},
	}
	o.printsTimes(list, []userInfo{})
	var g grant
	add := o.passwordCommand("add NAME", "add a user", "added",
		func(ctx context.Context, c *client, name, password string) error {
			in := map[string]any{"name": name, "password": password}
			roles, err := g.roles()
			if err != nil {
				return err
			}
			if roles != nil {
				in["roles"] = roles
			}
			return c.call(ctx, "POST", "users", nil, in, nil)
		})
	add.Long = `Add a user. Without --role the user may pull, push and delete all images, files and
packages (pusher), and nothing else.`
	add.Example = `  casemate user add ada --role operator
  casemate user add ci --role pusher --images-below team --password-stdin < password`
	add.Flags().StringVar(&g.Role, "role", "", "`ROLE` of the user: "+roleWords+" (default pusher)")
	g.limits(add)
	add.RegisterFlagCompletionFunc("role", o.completeRoleFlag)
	passwd := o.passwordCommand("passwd NAME", "change a user's password", "has a new password",
		func(ctx context.Context, c *client, name, password string) error {
			return c.call(ctx, "PUT", "users/"+seg(name), nil, map[string]string{"password": password}, nil)
		})
	passwd.ValidArgsFunction = o.complete(theUsers)
	var d *deletion
	remove := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"delete"}, Short: "remove a user", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.complete(theUsers),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := d.call(cmd, "DELETE", "users/"+seg(args[0]), nil, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theUsers, args[0])
			}
			return o.changed(cmd, "user", args[0], "removed")
		},
	}
	d = o.deletes(remove)
	o.prints(remove, change{})
	return group("user", "manage users and their passwords", add, passwd, list, remove)
}

// passwordCommand returns a command that asks for a user's password and sends both to the daemon.
func (o *options) passwordCommand(use, short, done string,
	send func(ctx context.Context, c *client, name, password string) error) *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := readPassword(cmd, stdin)
			if err != nil {
				return err
			}
			if err := send(cmd.Context(), o.client(), args[0], password); err != nil {
				return o.suggest(cmd, err, theUsers, args[0])
			}
			return o.changed(cmd, "user", args[0], done)
		},
	}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from the first line of standard input")
	o.prints(cmd, change{})
	return cmd
}

var errNoPassword = errors.New("no password: give it on standard input with --password-stdin, or use a terminal")

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
		text, err := promptPassword(cmd.Context(), int(f.Fd()))
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

// promptPassword reads a line from a terminal without echo. Ctrl-C ends it and restores the terminal; the read itself
// cannot be interrupted and lasts until the process ends.
func promptPassword(ctx context.Context, fd int) ([]byte, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return nil, errors.Join(errors.New("interrupted: nothing was changed"), term.Restore(fd, before))
	}
}
