package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"time"

	"casemate/appliance/usage"
	"casemate/appliance/user"
	"casemate/cluster/tree"
)

// Accounts that the cluster does not have itself are named by who vouches for them. Their roles are those of their
// groups.
const (
	ldapPrefix = "ldap/" // a user of the directory
	oidcPrefix = "oidc/" // a user of the OpenID provider
)

// Directory is a directory whose users may log in with their passwords.
type Directory interface {
	// Realm identifies the directory; "": there is none.
	Realm() string
	// Check returns nil if the password is the user's. fs.ErrPermission: it is not. fs.ErrNotExist: there is no such
	// user. Other errors: the directory could not be asked.
	Check(ctx context.Context, name, password string) error
	// Find returns a user's name as the directory writes it, and the groups, as of about a minute ago. fs.ErrNotExist:
	// there is no such user. Other errors: the directory could not be asked.
	Find(ctx context.Context, name string) (canonical string, groups []string, err error)
}

// checked is how long a password that the directory has accepted is not sent to it again. A push sends it with each of
// its requests.
const checked = time.Minute

// byDirectory returns who has a name and a password in the directory.
func (a *Access) byDirectory(ctx context.Context, realm, name, password string) (Subject, error) {
	err := a.cfg.Users.Elsewhere(ctx, name, password, []byte(realm), checked, func() (bool, error) {
		err := a.cfg.Directory.Check(ctx, name, password)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return Subject{}, err
	}
	s, err := a.Find(ctx, ldapPrefix+name)
	if errors.Is(err, ErrCredentials) { // removed at this moment
		err = user.ErrDenied
	}
	return s, err
}

// realm returns the directory's realm, "" if there is none.
func (a *Access) realm() string {
	if a.cfg.Directory == nil {
		return ""
	}
	return a.cfg.Directory.Realm()
}

// inDirectory is Find for a user of the directory.
func (a *Access) inDirectory(ctx context.Context, name string) (Subject, error) {
	realm := a.realm()
	if realm == "" {
		return Subject{}, ErrCredentials
	}
	canonical, groups, err := a.cfg.Directory.Find(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return Subject{}, ErrCredentials
	}
	if err != nil {
		return Subject{}, err
	}
	return a.inGroups(ctx, ldapPrefix+canonical, groups, realm)
}

// inGroups returns the subject of an account that has the roles of its groups.
func (a *Access) inGroups(ctx context.Context, id string, groups []string, version string) (Subject, error) {
	grants, with, err := a.GroupRoles(groups)
	if err != nil {
		return Subject{}, err
	}
	return Subject{Actor: tree.Actor{Name: id, How: "token", From: tree.ActorIn(ctx).From}, ID: id, Groups: with,
		Grants: grants, Version: version}, nil
}

// GroupRoles returns the roles that groups have, and those of the groups that have any.
func (a *Access) GroupRoles(groups []string) (grants []Grant, with []string, err error) {
	if len(groups) == 0 {
		return nil, nil, nil
	}
	entries, err := a.cfg.Tree.ReadDir(groupsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("the roles of groups: %w", err)
	}
	for _, e := range entries {
		name, err := groupName(e.Name())
		if err != nil || !slices.Contains(groups, name) {
			continue
		}
		own, _, err := a.grantsOf(groupsDir, e.Name())
		if err != nil {
			return nil, nil, err
		}
		if len(own) > 0 {
			grants, with = append(grants, own...), append(with, name)
		}
	}
	return grants, with, nil
}

const maxGroup = 128 // bytes

// groupFile returns the name of a group's file: groups of directories have spaces and slashes in their names.
func groupFile(group string) (string, error) {
	file := url.PathEscape(group)
	if group == "" || len(group) > maxGroup || strings.TrimSpace(group) != group || strings.Trim(group, ".") == "" ||
		strings.ContainsFunc(group, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) ||
		len(file) > 255 {
		return "", usage.Errorf("a group's name has 1 to %d bytes, no control characters and no space at its ends, "+
			"got %.140q", maxGroup, group)
	}
	return file, nil
}

// groupName is the inverse of groupFile.
func groupName(file string) (string, error) { return url.PathUnescape(file) }

// Enter is Login for somebody for whom the OpenID provider vouches, with the groups that the provider says. Roles that
// these groups get later are those of the next login, but roles that they lose end at once. *Refusal: none of the
// groups has a role.
func (a *Access) Enter(ctx context.Context, name string, groups []string) (string, Key, error) {
	actor := tree.Actor{Name: oidcPrefix + name, How: "oidc", From: tree.ActorIn(ctx).From}
	grants, with, err := a.GroupRoles(groups)
	if err != nil {
		return "", Key{}, err
	}
	if len(grants) == 0 {
		err := &roleless{actor.Name, groups}
		a.cfg.Event(Event{actor, Login, Object{}, err.Error()})
		return "", Key{}, err
	}
	s := Subject{Actor: actor, ID: oidcPrefix + name, Groups: with}
	text, k, err := a.login(tree.WithActor(ctx, actor), s, a.lifetime())
	if err == nil {
		a.loggedIn(s)
	}
	return text, k, err
}

// roleless is the refusal of a login that could do nothing.
type roleless struct {
	who    string
	groups []string
}

func (e *roleless) Error() string {
	if len(e.groups) == 0 {
		return e.who + " is in no group: roles are given to groups, see casemate role grant and the setting " +
			"oidc.groups_claim"
	}
	list := slices.Sorted(slices.Values(e.groups))
	return fmt.Sprintf("%s has no role: give one to one of its groups with casemate role grant group:NAME ROLE; they "+
		"are %.300q", e.who, cmp.Or(strings.Join(list, ", "), "none"))
}

func (*roleless) Is(target error) bool { return isRefused(target) }
