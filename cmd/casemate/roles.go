package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// grant is a role, everywhere or below prefixes.
type grant struct {
	Role   string   `json:"role"`
	Images []string `json:"images,omitempty"`
	Files  []string `json:"files,omitempty"`
}

func (g grant) String() string {
	var where []string
	if len(g.Images) > 0 {
		where = append(where, "images "+strings.Join(g.Images, ", "))
	}
	if len(g.Files) > 0 {
		where = append(where, "files "+strings.Join(g.Files, ", "))
	}
	if where == nil {
		return g.Role
	}
	return g.Role + " (" + strings.Join(where, "; ") + ")"
}

// describeGrants returns roles as one text.
func describeGrants(list []grant) string {
	if len(list) == 0 {
		return "none"
	}
	var texts []string
	for _, g := range list {
		texts = append(texts, g.String())
	}
	return strings.Join(texts, ", ")
}

// limits adds the flags that limit a role to prefixes.
func (g *grant) limits(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&g.Images, "images-below", nil,
		"limit the role to images below `PREFIX`, like team/app; may be repeated")
	cmd.Flags().StringArrayVar(&g.Files, "files-below", nil,
		"limit the role to files below `PREFIX`, like dl.example.com/tools; may be repeated")
}

// roles returns the roles of the flags --role, --images-below and --files-below: none without --role.
func (g *grant) roles() ([]grant, error) {
	if g.Role == "" && len(g.Images)+len(g.Files) > 0 {
		return nil, usageError{errors.New("--images-below and --files-below limit a role: name it with --role")}
	}
	if g.Role == "" {
		return nil, nil
	}
	return []grant{*g}, nil
}

type account struct {
	Name  string  `json:"name"`
	Roles []grant `json:"roles"`
}

type roleInfo struct {
	Name     string   `json:"name"`
	What     string   `json:"what"`
	Verbs    []string `json:"verbs"`
	Limited  bool     `json:"limited"`
	Accounts []holder `json:"accounts"`
}

// holder is an account that has a role.
type holder struct {
	Name   string   `json:"name"`
	Images []string `json:"images,omitempty"`
	Files  []string `json:"files,omitempty"`
}

func roleCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the roles, what they allow and who has them", Args: cobra.NoArgs,
		Long: `List the roles, what they allow and who has them: users, and groups of a
directory (group:NAME). Roles of API keys are shown by "casemate apikey list".`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := o.roles(cmd.Context())
			if err != nil {
				return err
			}
			return o.printRows(cmd, list, "", []any{"ROLE", "ALLOWS", "HELD BY"}, func(t *table) {
				for _, r := range list {
					var who []string
					for _, h := range r.Accounts {
						name := strings.TrimPrefix(grant{h.Name, h.Images, h.Files}.String(), r.Name)
						who = append(who, name)
					}
					t.row(r.Name, strings.Join(r.Verbs, ", "), strings.Join(who, ", "))
				}
			})
		},
	}
	o.prints(list, []roleInfo{})
	return group("role", "manage what users may do", list, roleGrant(o), roleRevoke(o))
}

// roles returns the roles with the accounts that have them; without the accounts if the caller may not see those.
func (o *options) roles(ctx context.Context) ([]roleInfo, error) {
	var list []roleInfo
	if err := o.client().call(ctx, "GET", "roles", nil, nil, &list); err != nil {
		return nil, err
	}
	var accounts []account
	err := o.client().call(ctx, "GET", "accounts", nil, nil, &accounts)
	var refused *apiError
	if errors.As(err, &refused) && refused.status == 403 {
		err = nil
	}
	for i := range list {
		for _, a := range accounts {
			for _, g := range a.Roles {
				if g.Role == list[i].Name {
					list[i].Accounts = append(list[i].Accounts, holder{a.Name, g.Images, g.Files})
				}
			}
		}
	}
	return list, err
}

func roleGrant(o *options) *cobra.Command {
	var g grant
	cmd := &cobra.Command{
		Use: "grant ACCOUNT ROLE", Short: "give a role to a user or a group", Args: cobra.ExactArgs(2),
		Long: `Give a role to a user, or to a group of a directory (group:NAME). The first role
that a user is given takes the place of the one that users without a role have,
pusher of everything. With --images-below or --files-below a reader or pusher is
limited to what is below these prefixes; prefixes of the same role add up.`,
		Example: `  casemate role grant ada operator
  casemate role grant ci pusher --images-below team/app --files-below dl.example.com/tools
  casemate role grant group:auditors auditor`,
		ValidArgsFunction: o.completeRole,
		RunE: func(cmd *cobra.Command, args []string) error {
			g.Role = args[1]
			var left []grant
			path := "accounts/" + seg(args[0]) + "/roles"
			if err := o.client().call(cmd.Context(), "POST", path, nil, g, &left); err != nil {
				return o.suggest(cmd, err, theUsers, args[0])
			}
			return o.changedTo(cmd, account{args[0], left}, fmt.Sprintf("%s has the roles %s", args[0],
				describeGrants(left)))
		},
	}
	g.limits(cmd)
	o.prints(cmd, account{})
	return cmd
}

func roleRevoke(o *options) *cobra.Command {
	var d *deletion
	cmd := &cobra.Command{
		Use: "revoke ACCOUNT ROLE", Short: "take a role from a user or a group", Args: cobra.ExactArgs(2),
		Long: `Take a role, with all its prefixes, from a user or from a group of a directory.
A user whose last role was taken may do nothing. Tokens that were issued before
end, too.`,
		Example:           `  casemate role revoke ada operator`,
		ValidArgsFunction: o.completeRole,
		RunE: func(cmd *cobra.Command, args []string) error {
			var left []grant
			path := "accounts/" + seg(args[0], "roles", args[1])
			if done, err := d.call(cmd, "DELETE", path, nil, nil, &left); !done || err != nil {
				return err
			}
			return o.changedTo(cmd, account{args[0], left}, fmt.Sprintf("%s has the roles %s", args[0],
				describeGrants(left)))
		},
	}
	d = o.deletes(cmd)
	o.prints(cmd, account{})
	return cmd
}

// completeRole completes ACCOUNT and ROLE.
func (o *options) completeRole(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return o.complete(theUsers)(cmd, args, typed)
	case 1:
		return slices.Collect(o.names(cmd, theRoles)), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

type apiKey struct {
	Name    string    `json:"name"`
	Owner   string    `json:"owner,omitempty"`
	Roles   []grant   `json:"roles,omitempty"`
	Created time.Time `json:"created"`
	By      string    `json:"by,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Used    time.Time `json:"used,omitzero"`
}

// newKey is an API key that was created, with the key itself.
type newKey struct {
	apiKey
	Key string `json:"key"`
}

func apikeyCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the API keys and when they were last used", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var keys []apiKey
			if err := o.client().call(cmd.Context(), "GET", "apikeys", nil, nil, &keys); err != nil {
				return err
			}
			header := []any{"KEY", "ROLES", "CREATED", "BY", "EXPIRES", "LAST USED"}
			return o.printRows(cmd, keys, "no API keys", header, func(t *table) {
				for _, k := range keys {
					roles := describeGrants(k.Roles)
					if k.Owner != "" {
						roles = "those of " + k.Owner
					}
					t.row(k.Name, roles, t.when(k.Created), k.By, t.when(k.Expires), t.when(k.Used))
				}
			})
		},
	}
	o.printsTimes(list, []apiKey{})
	var d *deletion
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "end an API key and its tokens", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.complete(theKeys),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := d.call(cmd, "DELETE", "apikeys/"+seg(args[0]), nil, nil, nil)
			if !done || err != nil {
				return o.suggest(cmd, err, theKeys, args[0])
			}
			return o.changed(cmd, "API key", args[0], "revoked")
		},
	}
	d = o.deletes(revoke)
	o.prints(revoke, change{})
	return group("apikey", "manage API keys of machines", apikeyCreate(o), list, revoke)
}

func apikeyCreate(o *options) *cobra.Command {
	var g grant
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create NAME --role ROLE", Short: "create an API key for a machine", Args: cobra.ExactArgs(1),
		Long: `Create an API key for a machine, and print it alone on standard output. It is
shown this once: only a hash of it is stored. It is used as the password of
"docker login", with any user name, for files and packages like a password, or as
"Authorization: Bearer KEY". It may do what its role allows until it expires or is
revoked.`,
		Example: `  casemate apikey create ci --role pusher --images-below team --ttl 90d > ci.key
  docker login --username ci --password-stdin registry.casemate.internal < ci.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			roles, err := g.roles()
			if err != nil {
				return err
			}
			if roles == nil {
				return usageError{errors.New("an API key needs a role: name it with --role (see casemate role list)")}
			}
			in := map[string]any{"name": args[0], "roles": roles}
			if life > 0 {
				in["ttl"] = life.String()
			}
			var k newKey
			if err := o.client().call(cmd.Context(), "POST", "apikeys", nil, in, &k); err != nil {
				return err
			}
			return o.print(cmd, k, func(t *table) { t.line(k.Key) })
		},
	}
	cmd.Flags().StringVar(&g.Role, "role", "", "`ROLE` of the key: "+roleWords)
	g.limits(cmd)
	durationVar(cmd.Flags(), &life, "ttl", "the key expires after `DURATION`, like 90d (default: never)")
	cmd.RegisterFlagCompletionFunc("role", o.completeRoleFlag)
	o.prints(cmd, newKey{})
	return cmd
}

const roleWords = "reader, pusher, importer, approver, auditor, operator or admin"

func (o *options) completeRoleFlag(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return slices.Collect(o.names(cmd, theRoles)), cobra.ShellCompDirectiveNoFileComp
}
