package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"casemate/appliance/usage"
	"casemate/appliance/user"
	"casemate/cluster/tree"
)

// record is what a user or a group may do.
type record struct {
	Grants []Grant `json:"roles"`
}

// legacy is what a user may do who has no record: users of earlier versions, and those that are added without a role.
func legacy() []Grant { return []Grant{{Role: "pusher"}} }

// groupPrefix begins the name of a directory's group where an account is named.
const groupPrefix = "group:"

// grantsOf reads an account's grants and their version, 0 if there is no record.
func (a *Access) grantsOf(dir, name string) ([]Grant, uint64, error) {
	file := dir + "/" + name
	info, err := a.cfg.Tree.Stat(file)
	var data []byte
	if err == nil {
		data, err = a.cfg.Tree.ReadFile(file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if dir == usersDir {
			return legacy(), 0, nil
		}
		return nil, 0, nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("the roles of %s: %w", name, err)
	}
	return r.Grants, tree.VersionOf(info), nil
}

// covers refuses what would give, or take from an account, more than by may do itself.
func (a *Access) covers(by Subject, grants []Grant) error {
	if by.Covers(grants) {
		return nil
	}
	var names []string
	for _, g := range grants {
		if !by.Covers([]Grant{g}) {
			names = append(names, g.String())
		}
	}
	err := &beyond{by.Describe(), strings.Join(names, ", ")}
	a.cfg.Event(Event{by.Actor, Manage, Object{"role", strings.Join(names, ", ")}, err.Error()})
	return err
}

// beyond is the refusal to manage an account that may do more than whoever manages it.
type beyond struct{ who, roles string }

func (e *beyond) Error() string {
	return fmt.Sprintf("%s may manage only accounts that may do no more than itself, this is about the role %s", e.who,
		e.roles)
}

func (*beyond) Is(target error) bool { return isRefused(target) }

// mayChange refuses a change of a user who may do what by may not. The change is made with unchanged in its batch, so
// that it is also refused if the user gets another role at the same moment.
func (a *Access) mayChange(by Subject, name string) (unchanged func(tree.Batch), err error) {
	grants, version, err := a.grantsOf(usersDir, name)
	if err != nil {
		return nil, err
	}
	return func(b tree.Batch) { b.Expect(usersDir+"/"+name, version) }, a.covers(by, grants)
}

// endLogins returns the edits that end the logins of a user.
func (a *Access) endLogins(name string) (func(tree.Batch), error) {
	keys, err := a.Keys()
	return func(b tree.Batch) {
		for _, k := range keys {
			if k.Owner == name {
				dropKey(b, k.Name)
			}
		}
	}, err
}

// AddUser creates a user with roles; none means a pusher of everything.
func (a *Access) AddUser(ctx context.Context, by Subject, name, password string, grants []Grant) error {
	if err := checkGrants(grants); err != nil {
		return err
	}
	if len(grants) == 0 {
		grants = nil
	}
	wanted := grants
	if wanted == nil {
		wanted = legacy()
	}
	if err := a.covers(by, wanted); err != nil {
		return err
	}
	if grants != nil && !a.cfg.MayStore() {
		return errMixed
	}
	data, err := encode(record{grants})
	if err != nil {
		return err
	}
	// A login at the moment at which a user of this name was removed could have outlived it.
	logins, err := a.endLogins(name)
	if err != nil {
		return err
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "user.add", Object: name, New: describe(wanted)})
	return a.cfg.Users.Add(ctx, name, password, logins, func(b tree.Batch) {
		b.Remove(usersDir + "/" + name)
		if grants != nil {
			b.Put(usersDir+"/"+name, data)
		}
	})
}

// SetPassword changes a user's password, and ends the user's logins. Users may change their own.
func (a *Access) SetPassword(ctx context.Context, by Subject, name, password string) error {
	if err := user.CheckName(name); err != nil {
		return err
	}
	unchanged := func(b tree.Batch) { b.Expect(user.Dir+"/"+name, by.record) }
	if by.ID != name || by.How != "password" {
		err := a.Allow(by, Manage, Object{"user", name})
		if err == nil {
			unchanged, err = a.mayChange(by, name)
		}
		if err != nil {
			return err
		}
	}
	logins, err := a.endLogins(name)
	if err != nil {
		return err
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "user.password", Object: name})
	return changedNow(name, a.cfg.Users.SetPassword(ctx, name, password, unchanged, logins))
}

// changedNow explains that a user was changed between a decision and its change.
func changedNow(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the user %s was changed at this moment, try again: %w", name, syscall.EAGAIN)
	}
	return err
}

// RemoveUser removes a user, the roles and the logins.
func (a *Access) RemoveUser(ctx context.Context, by Subject, name string) error {
	if err := user.CheckName(name); err != nil {
		return err
	}
	unchanged, err := a.mayChange(by, name)
	if err != nil {
		return err
	}
	logins, err := a.endLogins(name)
	if err != nil {
		return err
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "user.remove", Object: name})
	return changedNow(name, a.cfg.Users.Remove(ctx, name, unchanged, logins, func(b tree.Batch) {
		b.Remove(usersDir + "/" + name)
	}))
}

// An Account is a user or a group of a directory with its roles.
type Account struct {
	Name  string  `json:"name"` // "group:NAME" for a group
	Roles []Grant `json:"roles"`
	// Changed is when a user's password was set.
	Changed time.Time `json:"changed,omitzero"`
}

// Accounts returns the users by name, then the groups.
func (a *Access) Accounts() ([]Account, error) {
	users, err := a.cfg.Users.List()
	if err != nil {
		return nil, err
	}
	list := []Account{}
	for _, u := range users {
		grants, _, err := a.grantsOf(usersDir, u.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, Account{u.Name, append([]Grant{}, grants...), u.Changed})
	}
	groups, err := a.cfg.Tree.ReadDir(groupsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range groups {
		grants, _, err := a.grantsOf(groupsDir, e.Name())
		if err != nil {
			return nil, err
		}
		if name, err := groupName(e.Name()); err == nil && len(grants) > 0 {
			list = append(list, Account{Name: groupPrefix + name, Roles: grants})
		}
	}
	return list, nil
}

// place returns where an account's roles are; a user must exist.
func (a *Access) place(account string) (dir, name string, err error) {
	if group, ok := strings.CutPrefix(account, groupPrefix); ok {
		file, err := groupFile(group)
		return groupsDir, file, err
	}
	if err := user.CheckName(account); err != nil {
		return "", "", err
	}
	if _, err := a.cfg.Tree.Stat(user.Dir + "/" + account); errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("there is no user %s: %w", account, fs.ErrNotExist)
	} else if err != nil {
		return "", "", err
	}
	return usersDir, account, nil
}

// GrantRole gives an account ("NAME" or "group:NAME") a role. One with prefixes is added to those that the account has
// with the same role, and one without takes their place.
func (a *Access) GrantRole(ctx context.Context, by Subject, account string, g Grant) ([]Grant, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	return a.change(ctx, by, account, func(list []Grant, stored bool) ([]Grant, error) {
		if !stored {
			list = nil // the first role that is given takes the place of that of users without roles
		}
		i := slices.IndexFunc(list, func(own Grant) bool { return own.Role == g.Role })
		switch {
		case i < 0:
			list = append(list, g)
		case g.limited() && list[i].limited():
			list[i].Images = append(list[i].Images, g.Images...)
			list[i].Files = append(list[i].Files, g.Files...)
		default:
			list[i] = g
		}
		return list, checkGrants(list)
	})
}

// RevokeRole takes a role from an account, with all its prefixes. An account without roles may do nothing.
// fs.ErrNotExist: it does not have the role.
func (a *Access) RevokeRole(ctx context.Context, by Subject, account, role string) ([]Grant, error) {
	if _, ok := roleOf(role); !ok {
		return nil, usage.Errorf("there is no role %.64q: the roles are %s", role, roleNames())
	}
	return a.change(ctx, by, account, func(list []Grant, _ bool) ([]Grant, error) {
		kept := slices.DeleteFunc(slices.Clone(list), func(g Grant) bool { return g.Role == role })
		if len(kept) == len(list) {
			return nil, fmt.Errorf("%s does not have the role %s: %w", account, role, fs.ErrNotExist)
		}
		return kept, nil
	})
}

// change changes an account's grants; by must cover those before and those after.
func (a *Access) change(ctx context.Context, by Subject, account string,
	edit func(list []Grant, stored bool) ([]Grant, error)) ([]Grant, error) {
	dir, name, err := a.place(account)
	if err != nil {
		return nil, err
	}
	before, version, err := a.grantsOf(dir, name)
	if err != nil {
		return nil, err
	}
	after, err := edit(slices.Clone(before), version != 0)
	if err != nil {
		return nil, err
	}
	if err := a.covers(by, append(slices.Clone(before), after...)); err != nil {
		return nil, err
	}
	if !a.cfg.MayStore() {
		return nil, errMixed
	}
	data, err := encode(record{append([]Grant{}, after...)})
	if err != nil {
		return nil, err
	}
	ctx = tree.WithEvent(ctx, tree.Event{
		Verb: "role.set", Object: account, Old: describe(before), New: describe(after),
	})
	err = a.cfg.Tree.Update(ctx, func(b tree.Batch) error {
		b.Expect(dir+"/"+name, version)
		b.Put(dir+"/"+name, data)
		return nil
	})
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("the roles of %s were changed at this moment, try again: %w", account, syscall.EAGAIN)
	}
	if err != nil {
		return nil, fmt.Errorf("the roles of %s: %w", account, err)
	}
	return after, nil
}
