package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// Bounds of one question.
const (
	maxAnswer = 8 << 20 // bytes that are read from a connection
	maxLevels = 8       // groups in groups
	maxGroups = 1000    // of one user
	atOnce    = 32      // groups whose groups one search asks for
	dialTime  = 2 * time.Second

	inChain = "1.2.840.113556.1.4.1941" // LDAP_MATCHING_RULE_IN_CHAIN of Active Directory
)

// session is a connection that is bound as the bind DN.
type session struct {
	*ldap.Conn
	Settings
	server   string
	password string // of the bind DN
	now      time.Time
}

// circuit remembers that the directory did not answer, so that not every login waits for it.
type circuit struct {
	failures int
	until    time.Time // it is not asked before
	err      error     // the last one
	good     string    // the server that answered last; it is tried first
}

const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// session runs do with a connection. Errors are ErrNone, those of do, and unavailable.
func (d *Directory) session(ctx context.Context, do func(*session) error) error {
	s := d.cfg.Settings()
	if !s.configured() {
		return ErrNone
	}
	d.mu.Lock()
	wait, last, good := d.circuit.until.Sub(d.cfg.Now()), d.circuit.err, d.circuit.good
	d.mu.Unlock()
	if wait > 0 && last != nil {
		return &unavailable{err: fmt.Errorf("it is asked again in %s, the last error was: %w", wait.Round(time.Second),
			last)}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case d.sessions <- struct{}{}:
		defer func() { <-d.sessions }()
	case <-ctx.Done():
		return &unavailable{err: errors.New("too many questions are waiting for it")}
	}
	err := d.connected(ctx, s, good, do)
	var down *unavailable
	if errors.As(err, &down) && (down.one || context.Cause(ctx) == context.Canceled) {
		return err // or the client has gone, which says nothing about the directory
	}
	d.settle(down)
	return err
}

// settle records whether the directory has answered.
func (d *Directory) settle(down *unavailable) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.circuit
	if down == nil {
		if c.failures > 0 {
			d.cfg.Log.Info("the directory answers again")
		}
		c.failures, c.err = 0, nil
		return
	}
	if c.failures == 0 {
		d.cfg.Log.Warn("the directory cannot be asked; local users are not affected", "err", down.err)
	}
	c.failures++
	c.err = down.err
	c.until = d.cfg.Now().Add(min(maxPause, firstPause<<min(c.failures-1, 6)))
}

// State returns why the directory could not be asked the last time, nil if it could, was not asked yet, or is not
// configured.
func (d *Directory) State() error {
	if d.Realm() == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.circuit.err
}

// Retry makes the next question ask the directory, whatever it answered before: an operator has changed something.
func (d *Directory) Retry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.circuit.until = time.Time{}
}

// connected tries the servers in their order, that which answered last first.
func (d *Directory) connected(ctx context.Context, s Settings, good string, do func(*session) error) error {
	var password string
	if s.BindDN != "" {
		var err error
		if password, err = d.cfg.Password(); err != nil {
			return &unavailable{err: fmt.Errorf("the password of the bind DN: %w", err)}
		}
		if password == "" {
			return &unavailable{err: errors.New("the bind DN has no password, see casemate directory login")}
		}
	}
	servers := slices.Clone(s.Servers)
	slices.SortStableFunc(servers, func(a, b *url.URL) int {
		switch {
		case a.String() == b.String():
			return 0
		case a.String() == good:
			return -1
		case b.String() == good:
			return 1
		}
		return 0
	})
	var failures []error
	for _, u := range servers {
		c, hang, err := dial(ctx, u, s.CA)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", u, err))
			continue
		}
		bound, err := (&session{c, s, u.String(), password, d.cfg.Now()}).run(do)
		hang()
		code := codeOf(err)
		switch {
		case err == nil, isAnswer(err):
		case code >= ldap.ErrorNetwork, code == ldap.LDAPResultBusy, code == ldap.LDAPResultUnavailable:
			failures = append(failures, fmt.Errorf("%s: %w", u, err))
			continue
		default:
			err = &unavailable{err: fmt.Errorf("%s: %w", u, err), one: bound}
		}
		d.mu.Lock()
		d.circuit.good = u.String()
		d.mu.Unlock()
		return err
	}
	return &unavailable{err: errors.Join(failures...)}
}

// isAnswer reports errors that say something about a user, not about the directory.
func isAnswer(err error) bool { return errors.Is(err, ErrUnknown) || errors.Is(err, ErrDenied) }

// run binds and runs do. The library panics on some answers that are not LDAP.
func (s *session) run(do func(*session) error) (bound bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the answer is not LDAP: %v", p)
		}
	}()
	if err := s.bind(); err != nil {
		return false, err
	}
	return true, do(s)
}

// dial connects to a server over TLS; hang ends the connection.
func dial(ctx context.Context, u *url.URL, roots string) (c *ldap.Conn, hang func(), err error) {
	config := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	if strings.TrimSpace(roots) != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(roots))
	}
	dialer := net.Dialer{Timeout: dialTime}
	raw, err := dialer.DialContext(ctx, "tcp", address(u))
	if err != nil {
		return nil, nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		raw.SetDeadline(deadline)
	}
	conn := net.Conn(&bounded{Conn: raw, left: maxAnswer})
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	if u.Scheme == "ldaps" {
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			stop()
			raw.Close()
			return nil, nil, err
		}
		conn = secure
	}
	c = ldap.NewConn(conn, u.Scheme == "ldaps")
	c.Start()
	hang = func() {
		stop()
		c.Close()
		raw.Close() // after a refused StartTLS the library may not have closed it
	}
	if u.Scheme == "ldap" {
		if err := c.StartTLS(config); err != nil {
			hang()
			return nil, nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	return c, hang, nil
}

// bounded ends a connection from which too much is read.
type bounded struct {
	net.Conn
	left int // owned by the reader of the connection
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the directory's answer is longer than %d bytes: %w", maxAnswer, io.ErrUnexpectedEOF)
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// bind makes the connection that of the bind DN.
func (s *session) bind() error {
	var err error
	if s.BindDN == "" {
		err = s.UnauthenticatedBind("") // anonymous, RFC 4513 section 5.1.1
	} else {
		err = s.Bind(s.BindDN, s.password)
	}
	if codeOf(err) == ldap.LDAPResultInvalidCredentials {
		return fmt.Errorf("the directory refuses the bind DN or its password, see casemate directory login: %w", err)
	}
	return err
}

// verify makes the connection that of a user. A result that says that the user may not bind is ErrDenied, whatever the
// reason: the password has expired, or the account is locked.
func (s *session) verify(dn, password string) error {
	err := s.Bind(dn, password)
	switch codeOf(err) {
	case ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation, ldap.LDAPResultInsufficientAccessRights:
		return ErrDenied
	}
	return err
}

// search returns at most limit entries, with their names and the attributes called also; more reports that there are
// more.
func (s *session) search(p Place, filter string, limit int, also ...string) (entries []*ldap.Entry, more bool,
	err error) {
	result, err := s.Search(ldap.NewSearchRequest(p.Base, p.Scope, ldap.NeverDerefAliases, limit,
		int(patience.Seconds()), false, "(&"+p.Filter+filter+")", append([]string{p.Attribute}, also...), nil))
	if err != nil {
		switch codeOf(err) {
		case ldap.LDAPResultSizeLimitExceeded:
			more, err = true, nil
		case ldap.LDAPResultReferral:
			return nil, false, fmt.Errorf("%s is on another server (a referral), which is not asked: name that server "+
				"in ldap.url: %w", p.Base, err)
		default:
			return nil, false, fmt.Errorf("search %s: %w", p.Base, err)
		}
	}
	if result != nil { // references to other servers are in result.Referrals, and stay there
		entries = result.Entries
	}
	if len(entries) > limit { // a server may ignore the limit
		entries, more = entries[:limit], true
	}
	return entries, more, err
}

// user finds one user; several entries are none, and neither is one that may not log in.
func (s *session) user(name string) (User, error) {
	entries, more, err := s.search(s.Users, "("+s.Users.Attribute+"="+ldap.EscapeFilter(name)+")", 2, lockAttributes...)
	if err != nil {
		return User{}, err
	}
	if len(entries) > 1 || more {
		return User{}, fmt.Errorf("several entries below %s are called %.128q: %w", s.Users.Base, name, ErrUnknown)
	}
	if len(entries) == 0 || entries[0].DN == "" {
		return User{}, ErrUnknown
	}
	values := entries[0].GetEqualFoldAttributeValues(s.Users.Attribute)
	if len(values) == 0 {
		return User{}, ErrUnknown
	}
	u := User{Name: nameOf(values, entries[0].DN, s.Users.Attribute), DN: entries[0].DN}
	if why := locked(entries[0], s.now); why != "" {
		return User{}, fmt.Errorf("the account %.128q %s: %w", name, why, ErrUnknown)
	}
	if CheckName(u.Name) != nil {
		return User{}, ErrUnknown
	}
	return u, nil
}

// nameOf returns the one name of an entry that has several, whichever of them was typed: with two names somebody could
// approve an import of their own. It is the one in the DN, else the first in the order of the alphabet, because a
// directory returns values in any order.
func nameOf(values []string, dn, attribute string) string {
	first := slices.MinFunc(values, func(a, b string) int {
		return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
	})
	parsed, err := ldap.ParseDN(dn)
	if err != nil || len(parsed.RDNs) == 0 {
		return first
	}
	for _, a := range parsed.RDNs[0].Attributes {
		for _, v := range values {
			if strings.EqualFold(a.Type, attribute) && strings.EqualFold(a.Value, v) {
				return v
			}
		}
	}
	return first
}

// Attributes that say that an account may not log in. A password that the directory refuses ends logins with it, but
// not those that go on with a token or a key.
const (
	userAccountControl = "userAccountControl"   // Active Directory: flags
	accountExpires     = "accountExpires"       // Active Directory: 100 ns since 1601
	nsAccountLock      = "nsAccountLock"        // 389 Directory Server, FreeIPA
	pwdLockedTime      = "pwdAccountLockedTime" // OpenLDAP's password policies

	accountDisable = 2               // of userAccountControl
	lockedForGood  = "000001010000Z" // of pwdAccountLockedTime: by an administrator, not for a while by wrong passwords
	sinceFileTime  = 11644473600     // seconds from 1601 to 1970
)

var lockAttributes = []string{userAccountControl, accountExpires, nsAccountLock, pwdLockedTime}

// locked returns why an account may not log in, "" if it may. Values that cannot be read say nothing.
func locked(e *ldap.Entry, now time.Time) string {
	number := func(attribute string) int64 {
		n, err := strconv.ParseInt(e.GetEqualFoldAttributeValue(attribute), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	ends := number(accountExpires) // 0 and the largest number: never
	switch {
	case number(userAccountControl)&accountDisable != 0,
		strings.EqualFold(e.GetEqualFoldAttributeValue(nsAccountLock), "true"),
		e.GetEqualFoldAttributeValue(pwdLockedTime) == lockedForGood:
		return "is disabled in the directory"
	case ends > 0 && ends < math.MaxInt64 && ends/1e7-sinceFileTime <= now.Unix():
		return "has expired in the directory"
	}
	return ""
}

// groups returns the groups of a user, and those that these are in, each once: groups may contain each other.
func (s *session) groups(u User) (list []Group, cut bool, err error) {
	if s.Groups.Base == "" {
		return nil, false, nil
	}
	byName := strings.EqualFold(s.Member, "memberUid")
	// The directory itself follows groups in groups: one search finds all, and further ones would cost it as much.
	chain := strings.HasSuffix(s.Member, ":"+inChain+":")
	seen := map[string]bool{strings.ToLower(u.DN): true}
	level := []string{u.DN}
	if byName {
		level = []string{u.Name}
	}
	for depth := 0; len(level) > 0; depth++ {
		if depth == maxLevels {
			return list, true, nil
		}
		var next []string
		for of := range slices.Chunk(level, atOnce) {
			var any strings.Builder
			for _, member := range of {
				any.WriteString("(" + s.Member + "=" + ldap.EscapeFilter(member) + ")")
			}
			entries, more, err := s.search(s.Groups, "(|"+any.String()+")", maxGroups)
			if err != nil {
				return nil, false, err
			}
			cut = cut || more
			for _, e := range entries {
				if seen[strings.ToLower(e.DN)] {
					continue
				}
				if len(list) == maxGroups {
					return list, true, nil
				}
				seen[strings.ToLower(e.DN)] = true
				next = append(next, e.DN)
				g := Group{Name: e.GetEqualFoldAttributeValue(s.Groups.Attribute), DN: e.DN, Nested: depth > 0}
				if CheckName(g.Name) == nil {
					list = append(list, g)
				}
			}
		}
		if level = next; byName || chain {
			return list, cut, nil // names of users: groups are in no group
		}
	}
	return list, cut, nil
}
