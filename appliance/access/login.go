package access

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"casemate/appliance/usage"
	"casemate/appliance/user"
	"casemate/cluster/tree"
)

// owner returns who has logged in with a key, as it is now.
func (a *Access) owner(ctx context.Context, k Key) (Subject, error) {
	if strings.HasPrefix(k.Owner, oidcPrefix) {
		return a.inGroups(ctx, k.Owner, k.Groups, "")
	}
	return a.Find(ctx, k.Owner)
}

// Login creates an API key for a user who has just given the password. It is valid for life, at most Config.Lifetime,
// and may do what the user may.
func (a *Access) Login(ctx context.Context, s Subject, life time.Duration) (string, Key, error) {
	if s.How != "password" {
		return "", Key{}, usage.Errorf("a login needs a user and the password; an API key is used as it is")
	}
	if life <= 0 || life > a.lifetime() {
		life = a.lifetime()
	}
	return a.login(ctx, s, life)
}

// login creates a key for who has logged in, in the place of those that have ended. ErrCredentials: since the password
// was given, the user was removed or has got another one.
func (a *Access) login(ctx context.Context, s Subject, life time.Duration) (string, Key, error) {
	list, err := a.Keys()
	if err != nil {
		return "", Key{}, err
	}
	var own []Key
	var gone []string
	for _, k := range list {
		switch {
		case k.Owner == "":
		case !a.cfg.Now().Before(a.endOf(k)): // also of others: users of a directory may never come again
			if len(gone) < maxEnded {
				gone = append(gone, k.Name)
			}
		case k.Owner == s.ID:
			own = append(own, k)
		}
	}
	for len(own) >= maxLogins {
		oldest := 0
		for i, k := range own {
			if k.Created.Before(own[oldest].Created) {
				oldest = i
			}
		}
		gone = append(gone, own[oldest].Name)
		own = append(own[:oldest], own[oldest+1:]...)
	}
	name := "login-" + strings.ToLower(rand.Text()[:12])
	k := Key{Name: name, Owner: s.ID, By: s.Name}
	if strings.HasPrefix(s.ID, oidcPrefix) {
		k.Groups = s.Groups
	}
	text, k, err := a.storeKey(ctx, k, life, func(b tree.Batch) {
		if s.record != 0 {
			b.Expect(user.Dir+"/"+s.ID, s.record)
		}
		for _, name := range gone {
			dropKey(b, name)
		}
	})
	if errors.Is(err, fs.ErrExist) && s.record != 0 {
		return "", Key{}, ErrCredentials
	}
	return text, k, err
}

// mayEnd refuses to end a key that may do what by may not. Logins of users who are gone, or whom the directory cannot
// be asked about, are ended by whoever manages accounts.
func (a *Access) mayEnd(ctx context.Context, by Subject, k keyRecord) error {
	if err := a.Allow(by, Manage, Object{"apikey", k.Name}); err != nil {
		return err
	}
	if k.Owner == "" {
		return a.covers(by, k.Grants)
	}
	s, err := a.owner(ctx, k.Key)
	if errors.Is(err, ErrCredentials) || errors.Is(err, syscall.EAGAIN) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.covers(by, s.Grants)
}
